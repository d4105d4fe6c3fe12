"""A file of HDF5 looked through before it is trusted, in a process of its own: see data/trust.py.

HDF5 believes a chunk's record. One that is too short it gives with what else was in memory behind it, one whose filters
are marked as left out as it lies in the file, one that unpacks to gigabytes as far as memory reaches, and one of a byte
makes it crash. So each chunk is found, bounded and unpacked here without HDF5, and then HDF5 must read the same.
"""

import hashlib
import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

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
SECONDS, BYTES_A_SECOND = 1.0, 10e6  # of a processor, for a file whatever its size, and for what it unpacks to
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
            for info in chunks_of(dataset):
                if info.filter_mask or any(info.chunk_offset[1:]):
                    raise ValueError(f"a piece of {name} is in no place of ours, or has left out its filters")
                taken.append((info.byte_offset, info.byte_offset + info.size))
                starts.append(info.chunk_offset[0])
                content = unpacked(dataset, info, raw)
                read = np.ascontiguousarray(dataset[starts[-1] : starts[-1] + rows])
                if content[: read.nbytes] != read.tobytes():
                    raise ValueError(f"{name} is not read as it is stored")
            if sorted(starts) != list(range(0, len(dataset), rows)):
                raise ValueError(f"the pieces of {name} are not one after another")
    taken.sort()
    size = path.stat().st_size
    if any(end > begin for (_, end), (begin, _) in pairwise([*taken, (size, size)])):
        raise ValueError("its pieces are not all in places of their own")


def chunks_of(dataset: h5py.Dataset) -> list:
    """The records of a dataset's chunks; ValueError unless they are as many as its shape asks for."""
    found: list = []
    wanted = math.prod(-(-n // m) for n, m in zip(dataset.shape, dataset.chunks, strict=True))

    def note(info: Any) -> bool | None:
        found.append(info)
        return len(found) > wanted or None  # anything but None ends it

    dataset.id.chunk_iter(note)
    if len(found) != wanted:
        raise ValueError(f"{dataset.name} has other pieces than its shape asks for")
    return found


def unpacked(dataset: h5py.Dataset, info: Any, raw: BinaryIO) -> bytes:
    """What a chunk holds, less what shuffling is undone by, got without HDF5; ValueError unless it is as long as a
    chunk is."""
    wanted = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if not 0 < info.size <= 2 * wanted + 1024:
        raise ValueError(f"a piece of {dataset.name} has {info.size} bytes, and unpacked it must have {wanted}")
    raw.seek(info.byte_offset)
    content = raw.read(info.size)
    if len(content) != info.size:
        raise ValueError(f"a piece of {dataset.name} is beyond the end of the file")
    creation = dataset.id.get_create_plist()
    filters = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
    for number, kind in reversed(list(enumerate(filters))):
        if not info.filter_mask & (1 << number):
            content = UNPACK[kind](content, wanted)
    if len(content) != wanted:
        raise ValueError(f"a piece of {dataset.name} unpacks to {len(content)} bytes instead of {wanted}")
    return content


def _without_checksum(content: bytes, wanted: int) -> bytes:
    if len(content) <= CHECKSUM:
        raise ValueError(f"a piece has {len(content)} bytes, its checksum among them")
    return content[:-CHECKSUM]


def _inflated(content: bytes, wanted: int) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        found = unpacking.decompress(content, wanted + CHECKSUM + 1)
    except zlib.error as error:
        raise ValueError(f"a piece cannot be unpacked ({error})") from None
    if not unpacking.eof or unpacking.unused_data:
        raise ValueError("a piece unpacks to more than it should, or is not whole")
    return found


def _lzf(content: bytes, wanted: int) -> bytes:
    """As many zeros as bytes come of a piece by LZF."""
    at = length = 0
    while at < len(content) - 1:
        control = content[at]
        if control < 32:  # so many bytes and one follow
            at, length = at + control + 2, length + control + 1
        else:  # so many and two are repeated
            longer = control >> 5 == 7
            length += (control >> 5) + 2 + (content[at + 1] if longer else 0)
            at += 3 if longer else 2
    if at != len(content) or length > 2 * wanted:
        raise ValueError("a piece is not whole")
    return bytes(length)


UNPACK: dict[int, Callable[[bytes, int], bytes]] = {
    h5py.h5z.FILTER_FLETCHER32: _without_checksum,
    h5py.h5z.FILTER_DEFLATE: _inflated,
    h5py.h5z.FILTER_SHUFFLE: lambda content, wanted: content,
    h5py.h5z.FILTER_LZF: _lzf,
}


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
