"""A file of HDF5 looked through before it is trusted, in a process of its own: see data/trust.py.

HDF5 believes a chunk's record. One that is too short it gives with what else was in memory behind it, one whose filters
are marked as left out as it lies in the file, one that unpacks to gigabytes as far as memory reaches, and one of a byte
makes it crash. So each chunk is found, bounded and unpacked here without HDF5, and then HDF5 must read the same.
"""

import hashlib
import math
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from dreamdrive.data.episode import FLAGS, Episode
from dreamdrive.data.manifest import Manifest, ShardEntry, frame_bytes
from dreamdrive.data.open_shards import Shard
from dreamdrive.data.shard_layout import CHUNK, check_members, check_sizes
from dreamdrive.utils import sandbox
from dreamdrive.utils.spaces import ActionSpace

MEMORY = 256 << 20  # bytes that an examination may take, beside those of what it looks at
CHUNKS_AT_ONCE, STEP_BYTES = 8, 256  # packed, unpacked, in HDF5's hands, compared; and of a step of an episode
SECONDS, BYTES_A_SECOND = 5.0, 10e6  # of a processor, for a file whatever its size, and for what it unpacks to
DENSEST = 1100  # times its size: more than deflate can unpack to
CHECKSUM = 4  # bytes of fletcher32 behind a chunk


def examine(path: Path, manifest: Manifest, entry: ShardEntry) -> None:
    """ValueError, with what is wrong, unless the shard is to the last byte what the manifest says; OSError where the
    system does not let it be read."""
    frame = frame_bytes(manifest.image_shape)
    unpacked = entry.frames * frame
    if unpacked > DENSEST * entry.bytes:
        raise ValueError(f"{entry.frames} frames of {frame} bytes cannot be in the {entry.bytes} bytes of {entry.file}")
    episodes = tuple(e for e in manifest.episodes if entry.first <= e.index < entry.last)
    part = replace(manifest, shards=(entry,), episodes=episodes)
    memory = MEMORY + CHUNKS_AT_ONCE * CHUNK * frame + STEP_BYTES * max(e.steps for e in episodes)
    sandbox.call(examine_shard, (str(path), part.to_json()), memory, SECONDS + unpacked / BYTES_A_SECOND)


def examine_shard(path: str, part: dict) -> None:
    """What `examine` does, in a process of its own; `part`: the manifest of this shard alone."""
    manifest = Manifest.from_json(part)
    (entry,) = manifest.shards
    file = Path(path)
    if file.stat().st_size != entry.bytes:
        raise ValueError(f"it has {file.stat().st_size} bytes instead of {entry.bytes}")
    with h5py.File(file, "r", locking=False) as shard:
        check_members(shard)
        check_sizes(shard, manifest, entry)
        check_chunks(shard, file)
    with Shard(file, manifest, entry) as shard:
        _check_episodes(shard, manifest)
    with open(file, "rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != entry.sha256:
            raise ValueError("its sha256 is not the manifest's")


def check_chunks(file: h5py.File, path: Path) -> None:
    """ValueError unless the chunks of every member are all there, each in a place of its own in the file, and unpack to
    just what HDF5 reads."""
    taken: list[tuple[int, int]] = []
    with open(path, "rb") as raw:
        for name in file:
            dataset = file[name]
            rows = dataset.chunks[0]
            starts = []
            for info in _chunks(dataset):
                taken.append((info.byte_offset, info.byte_offset + info.size))
                starts.append(info.chunk_offset[0])
                content = _unpacked(name, dataset, info, raw)
                read = np.ascontiguousarray(dataset[starts[-1] : starts[-1] + rows])
                if content[: read.nbytes] != read.tobytes():
                    raise ValueError(f"{name} is not read as it is stored")
            if sorted(starts) != list(range(0, len(dataset), rows)):
                raise ValueError(f"the pieces of {name} are not one after another")
    taken.sort()
    size = path.stat().st_size
    if any(end > begin for (_, end), (begin, _) in zip(taken, [*taken[1:], (size, size)], strict=True)):
        raise ValueError("its pieces are not all in places of their own")


def _chunks(dataset: h5py.Dataset) -> Iterator:
    """The records of a dataset's chunks, of which there are as many as its shape asks for."""
    found: list = []
    wanted = -(-len(dataset) // dataset.chunks[0])
    dataset.id.chunk_iter(lambda info: found.append(info) or (len(found) > wanted or None))
    if len(found) != wanted or any(any(info.chunk_offset[1:]) for info in found):
        raise ValueError(f"{dataset.name} has other pieces than its shape asks for")
    return iter(found)


def _unpacked(name: str, dataset: h5py.Dataset, info, raw: BinaryIO) -> bytes:
    """What a chunk holds, got without HDF5; ValueError unless it is as long as a chunk is."""
    wanted = math.prod(dataset.chunks) * dataset.dtype.itemsize
    packed = dataset.compression == "gzip"
    if info.filter_mask or not CHECKSUM < info.size <= 2 * wanted + 1024:
        raise ValueError(f"a piece of {name} has {info.size} bytes, or has left out its filters")
    raw.seek(info.byte_offset)
    content = raw.read(info.size)
    if len(content) != info.size:
        raise ValueError(f"a piece of {name} is beyond the end of the file")
    content = content[:-CHECKSUM]
    if packed:
        unpacking = zlib.decompressobj()
        try:
            content = unpacking.decompress(content, wanted + 1)
        except zlib.error as error:
            raise ValueError(f"a piece of {name} cannot be unpacked ({error})") from None
        if not unpacking.eof or unpacking.unused_data:
            raise ValueError(f"a piece of {name} unpacks to another length than {wanted}")
    if len(content) != wanted:
        raise ValueError(f"a piece of {name} unpacks to {len(content)} bytes instead of {wanted}")
    return content


def _check_episodes(shard: Shard, manifest: Manifest) -> None:
    """ValueError unless all values are possible, and what the manifest says of the episodes is so."""
    for chunk in shard.chunks("obs"):
        if chunk.dtype != np.uint8 and not np.isfinite(chunk).all():
            raise ValueError("obs holds numbers that are not finite")
    space = ActionSpace.from_dict(manifest.action_space)
    seeds, policies = shard.column("seed"), shard.column("policy")
    for row, e in enumerate(manifest.episodes):
        steps = shard.episode_steps(row, shard.step_columns)
        Episode(np.zeros((e.steps + 1, 1, 1, 1), np.uint8), **steps, index=e.index, seed=e.seed, policy=0).check()
        if not 0 <= policies[row] < len(manifest.policies):
            raise ValueError(f"episode {e.index} has a policy that is none of the manifest's")
        if seeds[row] != e.seed or manifest.policies[policies[row]] != e.policy:
            raise ValueError(f"seed or policy of episode {e.index} differ from the manifest's")
        if any((values > 1).any() for name, values in steps.items() if name in FLAGS):
            raise ValueError(f"episode {e.index} has flags that are neither 0 nor 1")
        if space.discrete:
            for name, least in (("action", 0), ("expert_action", -1), ("clone_action", -1)):
                values = steps.get(name)
                if values is not None and ((values < least) | (values >= space.n)).any():
                    raise ValueError(f"{name} of episode {e.index} is none of the {space.n} choices")
        if float(steps["reward"].sum(dtype=np.float64)) != e.score:
            raise ValueError(f"the return of episode {e.index} differs from the manifest's")
