"""The format of Minari's datasets (https://minari.farama.org), of HDF5, which is read and written here without the
package:

    <name>-v<version>/data/metadata.json       the spaces, as text; whether pictures are JPEG's; what else is known
    <name>-v<version>/data/main_data.hdf5      groups episode_0, episode_1, ...

An episode of T steps is stored as ours is: T + 1 observations, and T actions, of which action t was chosen on seeing
observation t:

    observations (T + 1, ...)    actions (T, ...)    rewards (T,)    terminations (T,)    truncations (T,)
    infos/* (T + 1, ...)         what was known beside observation t
    attributes                   id, seed, total_steps

Observations that are a Dict are a group of such members. Minari makes a JPEG of every picture of 32 pixels a side or
more, unless its metadata says jpeg_encoding false. Nothing of a file is read before it has been seen to be plain.
"""

import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from dreamdrive.data import trust
from dreamdrive.data.examination import BYTES_A_SECOND, MEMORY, chunks_of, unpacked
from dreamdrive.data.manifest import reason
from dreamdrive.data.open_shards import BAD_FILE
from dreamdrive.utils import sandbox
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import raise_if_unreadable

FOLDER, METADATA, MAIN = "data", "metadata.json", "main_data.hdf5"
VERSION = "0.5.4"  # of Minari, the first that can leave pictures as they are
NAME = re.compile(r"[-\w]+-v\d+")
STEPS = ("rewards", "terminations", "truncations")  # members with a number for each step
JPEG_SIDE = 32  # pixels from which on Minari takes something for a picture
LARGEST_METADATA, LARGEST = 1 << 26, 1 << 32  # bytes; the latter of a member of an episode, unpacked
MOST_EPISODES, DEEPEST = 10_000_000, 20
EXAMINATION = 60.0  # seconds of a processor that a file may take, and more by its size
FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a missing, damaged, foreign or hostile file provokes into one sentence."""
    try:
        yield
    except (*BAD_FILE, RecursionError) as error:
        raise_if_unreadable(path, error)
        said = "it is missing" if isinstance(error, FileNotFoundError) else reason(error)
        raise UserError(
            f"{path} cannot be imported ({said}): give the folder of a whole dataset of Minari's, which holds "
            f"{FOLDER}/{METADATA} and {FOLDER}/{MAIN}"
        ) from None


@dataclass(frozen=True)
class Recorded:
    """An episode as Minari has it; T steps.

    Fields:
        observations (T + 1, ...), actions (T, ...), rewards (T,) float64, terminations and truncations (T,) bool
        infos: (T + 1, ...) each, by name
        about: its attributes
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    infos: dict[str, np.ndarray]
    about: dict[str, Any]


class MinariFile:
    """A dataset of Minari's that is read; use it as a context manager.

    Attributes:
        metadata: what metadata.json says
        observation_space, action_space: as plain values: type, dtype, shape, low, high, n, subspaces, ...
        episodes: how many
    """

    def __init__(self, folder: Path) -> None:
        """UserError where there is none in `folder`, or in its folder "data"."""
        folder = folder if (folder / METADATA).exists() else folder / FOLDER
        self._about, self._main = folder / METADATA, folder / MAIN
        with reading(self._about):
            if self._about.stat().st_size > LARGEST_METADATA:
                raise ValueError(f"it has {self._about.stat().st_size} bytes")
            self.metadata: dict[str, Any] = json.loads(self._about.read_bytes())
            said = self.metadata.get("data_format", "hdf5")
            if said != "hdf5":
                raise ValueError(f"its data_format is {said!r}, and hdf5 is what can be read: convert it with Minari")
            self.observation_space, self.action_space = map(self._space, ("observation_space", "action_space"))
            self.episodes = int(self.metadata["total_episodes"])
            if not 1 <= self.episodes <= MOST_EPISODES:
                raise ValueError(f"it says that it holds {self.episodes} episodes")
        with reading(self._main):
            _require_sound(self._main)
            self._file = h5py.File(self._main, "r", locking=False)

    def __enter__(self) -> "MinariFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    @property
    def jpeg(self) -> bool:
        """Whether pictures are JPEG's."""
        return bool(self.metadata.get("jpeg_encoding", True))

    @cached_property
    def env_spec(self) -> dict[str, Any]:
        """Of the environment that was recorded, as gymnasium's registry has it; empty where it is not known."""
        with reading(self._about):
            said = self.metadata.get("env_spec")
            found = json.loads(said) if said else {}
            if not isinstance(found, dict):
                raise ValueError("its env_spec is not a dict")
            return found

    def episode(self, number: int, part: Sequence[str] = (), infos: Sequence[str] = ()) -> Recorded:
        """Episode `number`, of whose observations `part` is wanted, the keys that lead there through Dicts, and those
        of some `infos` that there are."""
        with reading(self._main):
            try:
                return self._episode(_member(self._file, f"episode_{number}", h5py.Group), part, infos)
            except BAD_FILE as error:
                raise ValueError(f"episode {number}: {reason(error)}") from None

    def steps(self, number: int) -> int:
        """T of episode `number`."""
        with reading(self._main):
            return len(_member(_member(self._file, f"episode_{number}", h5py.Group), "rewards", h5py.Dataset))

    def _episode(self, group: h5py.Group, part: Sequence[str], names: Sequence[str]) -> Recorded:
        place, space, name = group, self.observation_space, "observations"
        for key in part:
            place, space, name = _member(place, name, h5py.Group), space["subspaces"][key], key
        pictures = self.jpeg and made_jpeg(space)
        rewards, terminations, truncations = (_array(group, column) for column in STEPS)
        infos = _member(group, "infos", h5py.Group) if "infos" in group else {}
        return Recorded(
            _pictures(place, name, space) if pictures else _array(place, name),
            _array(group, "actions"),
            rewards.astype(np.float64),
            terminations.astype(bool),
            truncations.astype(bool),
            {name: _array(infos, name) for name in names if name in infos},
            dict(group.attrs),
        )

    def _space(self, name: str) -> dict[str, Any]:
        """A space of the metadata, which holds it as text."""
        if name not in self.metadata:
            raise ValueError(f"it has no {name}: load it with Minari and write it anew")
        space = json.loads(self.metadata[name])
        _check_space(space)
        return space


def _require_sound(path: Path) -> None:
    """ValueError unless all that could be read of the file has been, in a process of its own."""
    seconds = EXAMINATION + path.stat().st_size / BYTES_A_SECOND
    trust.require_sound(path, None, lambda: sandbox.call(examine_minari, (str(path),), MEMORY + LARGEST, seconds))


def examine_minari(path: str) -> None:
    """ValueError unless whatever is numbers or pictures in a file can be read, and is as long as it says."""
    with h5py.File(path, "r", locking=False) as file, open(path, "rb") as raw:
        for name in file:
            _examine(file, name, raw)


def _examine(group: h5py.Group, name: str, raw: BinaryIO, depth: int = 0) -> None:
    if depth > DEEPEST or type(group.get(name, getlink=True)) is not h5py.HardLink:
        return  # nobody goes there
    found = group[name]
    dict(found.attrs)
    if isinstance(found, h5py.Group):
        for below in found:
            _examine(found, below, raw, depth + 1)
    elif isinstance(found, h5py.Dataset) and found.dtype.kind in "biuf":
        _check_storage(found, name, found.dtype.itemsize)
        if found.id.get_create_plist().get_layout() == h5py.h5d.CHUNKED:
            for info in chunks_of(found):
                unpacked(found, info, raw)
        found[()]
    elif isinstance(found, h5py.Dataset) and h5py.check_vlen_dtype(found.dtype) == np.uint8:
        _check_storage(found, name, 1)
        for _ in found:
            pass


def _check_space(space: Any, depth: int = 0) -> None:
    """ValueError, TypeError or KeyError unless a space is as Minari writes one."""
    if depth > DEEPEST:
        raise ValueError(f"a space has more than {DEEPEST} others around it")
    if space["type"] == "Dict":
        for part in space["subspaces"].values():
            _check_space(part, depth + 1)
    if space["type"] == "Box":
        shape = tuple(space["shape"])
        if not all(isinstance(n, int) and n > 0 for n in shape):
            raise ValueError(f"a Box of shape {shape} is not possible")
        np.dtype(space["dtype"])


def made_jpeg(space: dict[str, Any]) -> bool:
    """Whether Minari takes a space for one of pictures, which become JPEG's."""
    if space["type"] != "Box" or space["dtype"] != "uint8" or len(space["shape"]) not in (2, 3):
        return False
    low, high = (np.asarray(space[name]) for name in ("low", "high"))
    return min(space["shape"][:2]) >= JPEG_SIDE and bool((low == 0).all() and (high == 255).all())


def _member(group: h5py.Group, name: str, kind: type) -> Any:
    """A member that is in this file; ValueError where it is not there, or something else."""
    if name not in group:
        raise ValueError(f"{name} is missing")
    if type(group.get(name, getlink=True)) is not h5py.HardLink:
        raise ValueError(f"{name} is a link to somewhere else, which is not allowed")
    found = group[name]
    if not isinstance(found, kind):
        raise ValueError(f"{name} is no {kind.__name__.lower()}")
    return found


def _array(group: h5py.Group, name: str) -> np.ndarray:
    """The numbers of a member, which is plain, not stored outside of the file, and not too large."""
    found = _member(group, name, h5py.Dataset)
    if found.dtype.kind not in "biuf":
        raise ValueError(f"{name} holds no plain numbers but {found.dtype}")
    _check_storage(found, name, found.dtype.itemsize)
    return np.asarray(found[()])


def _check_storage(found: h5py.Dataset, name: str, item: int) -> None:
    """ValueError unless a member is stored in this file, with filters that are known, and has values of `item` bytes
    that are not too large together."""
    creation = found.id.get_create_plist()
    if creation.get_layout() not in (h5py.h5d.CHUNKED, h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT):
        raise ValueError(f"{name} is virtual, which is not allowed")
    if creation.get_external_count():
        raise ValueError(f"{name} is stored outside the file, which is not allowed")
    if not {creation.get_filter(i)[0] for i in range(creation.get_nfilters())} <= FILTERS:
        raise ValueError(f"{name} has filters that are not known here")
    if found.size * item > LARGEST:
        raise ValueError(f"{name} has the shape {found.shape}, more than an episode can be")


def _pictures(group: h5py.Group, name: str, space: dict[str, Any]) -> np.ndarray:
    """Pictures that Minari has made JPEG's, (T + 1, H, W, C) or (T + 1, H, W)."""
    from PIL import Image

    found, shape = _member(group, name, h5py.Dataset), tuple(space["shape"])
    plain, pieces = found.dtype == np.uint8 and found.ndim == 2, h5py.check_vlen_dtype(found.dtype) == np.uint8
    if not (plain or (pieces and found.ndim == 1)):
        raise ValueError(f"{name} holds {found.dtype} {found.shape}, and JPEG's are wanted")
    _check_storage(found, name, 1)
    if len(found) * int(np.prod(shape)) > LARGEST:
        raise ValueError(f"{name} has {len(found)} pictures of {shape}, more than an episode can have")
    pictures = np.empty((len(found), *shape), np.uint8)
    for k, content in enumerate(found):
        try:
            with Image.open(io.BytesIO(content.tobytes()), formats=("JPEG",)) as picture:
                if picture.size != (shape[1], shape[0]):
                    raise ValueError(
                        f"it has {picture.size[0]}x{picture.size[1]} pixels instead of {shape[1]}x{shape[0]}"
                    )
                pictures[k] = np.asarray(picture).reshape(shape)
        except Exception as error:  # a damaged picture can fail in any part of Pillow
            raise ValueError(f"picture {k} of {name} is not to be read: {reason(error)}") from None
    return pictures
