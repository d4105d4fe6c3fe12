"""A file of latents: what V stored of each frame of a shard.

one member a name, (F, n), in pieces of 1,024 frames with fletcher32
attributes: schema, vae and shard, the digests of the V and of the shard it was made from
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dreamdrive.data import trust
from dreamdrive.data.examination import BYTES_A_SECOND, MEMORY, SECONDS, check_chunks
from dreamdrive.utils import sandbox
from dreamdrive.utils.files import raise_if_unreadable, write_atomically

SCHEMA = 1
CHUNK = 1024  # frames
MOST_MEMBERS, LONGEST_DIGEST = 8, 128
# what a file that is none of ours provokes
BAD_FILE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)


def write_latents(path: Path, latents: Mapping[str, np.ndarray], vae_digest: str, shard_digest: str) -> None:
    """Write what V stored of each frame, (F, n) each, by name."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver="latest") as file:
        file.attrs.update({"schema": SCHEMA, "vae": vae_digest, "shard": shard_digest})
        for name, values in latents.items():
            file.create_dataset(name, data=values, chunks=_chunks(values.shape), fletcher32=True)
    write_atomically(path, buffer.getvalue())
    trust.remember(path, trust.digest_of(path))


def read_latents(path: Path, vae_digest: str, shard_digest: str) -> dict[str, np.ndarray] | None:
    """All that is in a file, by name; None where it is not of this V and this shard, or not sound."""
    try:
        _require_sound(path)
        with h5py.File(path, "r", locking=False) as file:
            if (file.attrs["schema"], file.attrs["vae"], file.attrs["shard"]) != (SCHEMA, vae_digest, shard_digest):
                return None
            return {name: file[name][:] for name in file}
    except BAD_FILE as error:
        raise_if_unreadable(path, error)
        return None


def is_of(path: Path, vae_digest: str) -> bool:
    """Whether a file holds latents of this V."""
    try:
        _require_sound(path)
        with h5py.File(path, "r", locking=False) as file:
            return bool(file.attrs["vae"] == vae_digest)
    except BAD_FILE as error:
        raise_if_unreadable(path, error)
        return False


def _require_sound(path: Path) -> None:
    """ValueError unless the file was written here, or has been looked through in a process of its own."""
    seconds = SECONDS + path.stat().st_size / BYTES_A_SECOND
    trust.require_sound(path, None, lambda: sandbox.call(examine_latents, (str(path),), MEMORY, seconds))


def examine_latents(path: str) -> None:
    """ValueError unless a file has the members and attributes that ours have, and all that is in it can be read."""
    with h5py.File(path, "r", locking=False) as file:
        if file.userblock_size or set(file.attrs) != {"schema", "vae", "shard"}:
            raise ValueError("it must have the attributes schema, vae and shard")
        for name in ("vae", "shard"):
            if not isinstance(file.attrs[name], str) or len(file.attrs[name]) > LONGEST_DIGEST:
                raise ValueError(f"{name} is no digest")
        if not 1 <= len(file) <= MOST_MEMBERS:
            raise ValueError(f"it has {len(file)} members")
        for name in file:
            if type(file.get(name, getlink=True)) is not h5py.HardLink or not isinstance(file[name], h5py.Dataset):
                raise ValueError(f"{name} is no plain dataset of this file")
            _check_storage(name, file[name])
        check_chunks(file, Path(path))


def _check_storage(name: str, dataset: h5py.Dataset) -> None:
    creation = dataset.id.get_create_plist()
    if creation.get_layout() != h5py.h5d.CHUNKED or creation.get_external_count() or len(dataset.attrs):
        raise ValueError(f"{name} is not stored as latents are")
    if dataset.dtype not in (np.dtype(np.float32), np.dtype(np.int16)) or dataset.ndim != 2 or not dataset.size:
        raise ValueError(f"{name} is {dataset.dtype} {dataset.shape}, which no latents are")
    if [creation.get_filter(i)[0] for i in range(creation.get_nfilters())] != [h5py.h5z.FILTER_FLETCHER32]:
        raise ValueError(f"{name} has filters other than fletcher32")
    if dataset.maxshape != dataset.shape or dataset.chunks != _chunks(dataset.shape):
        raise ValueError(f"{name} is stored in pieces of another size")


def _chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    return min(CHUNK, shape[0]), *shape[1:]


def sound(latents: Mapping[str, np.ndarray], like: Mapping[str, Any], frames: int, codes: int | None) -> bool:
    """Whether these are latents of so many frames: types and widths as in `like`, arrays (1, n), tokens below `codes`,
    all numbers finite."""
    return latents.keys() == like.keys() and all(
        values.shape == (frames, like[name].shape[1])
        and values.dtype == like[name].dtype
        and np.isfinite(values).all()
        and (codes is None or bool(((values >= 0) & (values < codes)).all()))
        for name, values in latents.items()
    )
