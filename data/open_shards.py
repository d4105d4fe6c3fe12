"""Reading: a shard that is open, and the shards that a process keeps open.

A shard is opened here only after it has been found sound: see data/trust.py.

Files are limited, so that nobody holds a shard of his own: whoever reads many of them borrows each from an
`OpenShards`, which closes those that were read longest ago.
"""

import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dreamdrive.data import trust
from dreamdrive.data.episode import EPISODE_COLUMNS, STEP_COLUMNS, TAUGHT_COLUMNS, Episode
from dreamdrive.data.manifest import MANIFEST, Manifest, ShardEntry, reason
from dreamdrive.data.mirror import Mirror
from dreamdrive.data.shard_layout import check_members, check_sizes
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import raise_if_unreadable
from dreamdrive.utils.words import quoted

# what h5py raises on damaged files
BAD_FILE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)
ACTIONS = ("action", "expert_action", "clone_action")  # columns
MOST_OPEN, SHARE = 64, 4  # shards kept open: so many, and one part in so many of the files that a process may open


def open_shard(path: Path, manifest: Manifest, mirror: Mirror | None = None) -> "Shard":
    """A shard of a dataset, seen in a mirror if there is one. One that has not been met yet is looked through first, in
    a process of its own; UserError if anything is amiss."""
    path = Path(path)
    entry = next((s for s in manifest.shards if s.file == path.name), None)
    if entry is None:
        raise UserError(f"{path} is not listed in {path.parent / MANIFEST}: {_remedy(path)}")
    with reading(path):
        _require_sound(path, manifest, entry)
        return Shard(path, manifest, entry, mirror)


def _require_sound(path: Path, manifest: Manifest, entry: ShardEntry) -> None:
    """ValueError unless the shard is the one that the manifest lists, and has been looked through."""
    from dreamdrive.data.examination import examine  # which reads shards, too

    if os.path.getsize(path) != entry.bytes:
        raise ValueError(f"it has {os.path.getsize(path)} bytes instead of {entry.bytes}")
    trust.require_sound(path, entry.sha256, lambda: examine(path, manifest, entry))


class Shard:
    """An open shard; close it, or use it as a context manager.

    Attributes:
        length, episode: int64 (E,), steps and index of each episode
        frame_offsets, step_offsets: int64 (E + 1,), where each episode's frames and steps begin, and the end of the
            last
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest | None = None,
        entry: ShardEntry | None = None,
        mirror: Mirror | None = None,
    ) -> None:
        self.path, self._mirror = path, mirror
        self._file = h5py.File(path, "r", locking=False)
        try:
            check_members(self._file)
            check_sizes(self._file, manifest, entry)
            self.length, self.episode = self._file["length"][:], self._file["episode"][:]
            self.step_offsets = np.concatenate([[0], np.cumsum(self.length)])
            self.frame_offsets = self.step_offsets + np.arange(len(self.length) + 1)
            self._check_content(manifest, entry)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Shard":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Frames `start` to `stop` (exclusive), uint8 (stop - start, H, W, C) or float32 (stop - start, S); quickest in
        whole chunks of 16."""
        if not 0 <= start <= stop <= self.frame_offsets[-1]:
            raise IndexError(f"frames {start} to {stop} are outside the shard's {self.frame_offsets[-1]}")
        with reading(self.path):
            frames = self._file["obs"][start:stop]
        return self._mirror.frames(frames) if self._mirror else frames

    def column(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """The values of a member other than obs; all of them, or some rows."""
        assert name in STEP_COLUMNS + TAUGHT_COLUMNS + EPISODE_COLUMNS, name
        with reading(self.path):
            values = self._file[name][rows]
        return self._mirror.actions(values) if self._mirror and name in ACTIONS else values

    def episode_frames(self, row: int, first: int = 0, end: int | None = None) -> np.ndarray:
        """Frames `first` to `end` (exclusive; the episode's end without one) of the shard's episode number `row`."""
        frames = int(self.length[row]) + 1
        end = frames if end is None else end
        if not 0 <= first <= end <= frames:
            raise IndexError(f"frames {first} to {end} are outside the episode's {frames}")
        begin = int(self.frame_offsets[row])
        return self.frames(begin + first, begin + end)

    def episode_steps(self, row: int, names: Sequence[str]) -> dict[str, Any]:
        """The members `names`, which have a row for each step, of the shard's episode number `row`: arrays (T, ...)."""
        own = slice(int(self.step_offsets[row]), int(self.step_offsets[row + 1]))
        return {name: self.column(name, own) for name in names}

    def read(self, row: int) -> Episode:
        """The shard's episode number `row`."""
        here = slice(row, row + 1)
        seed, policy = (int(self.column(name, here)[0]) for name in ("seed", "policy"))
        steps = self.episode_steps(row, self.step_columns)
        return Episode(self.episode_frames(row), **steps, index=int(self.episode[row]), seed=seed, policy=policy)

    @property
    def step_columns(self) -> tuple[str, ...]:
        """Members that have a row for each step; of a shard that was taught, the TAUGHT_COLUMNS, too."""
        return STEP_COLUMNS + TAUGHT_COLUMNS if TAUGHT_COLUMNS[0] in self._file else STEP_COLUMNS

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        """The values of any member, a chunk at a time."""
        dataset = self._file[name]
        for start in range(0, len(dataset), dataset.chunks[0]):
            yield dataset[start : start + dataset.chunks[0]]

    def _check_content(self, manifest: Manifest | None, entry: ShardEntry | None) -> None:
        if (
            (self.length < 1).any()
            or (self.length > len(self._file["action"])).any()
            or self.step_offsets[-1] != len(self._file["action"])
        ):
            raise ValueError("the lengths of its episodes do not add up to its steps")
        if manifest is not None and entry is not None:
            listed = [e for e in manifest.episodes if entry.first <= e.index < entry.last]
            if self.episode.tolist() != [e.index for e in listed] or self.length.tolist() != [e.steps for e in listed]:
                raise ValueError("its episodes are not those the manifest lists")


class OpenShards:
    """Shards kept open, those that were read longest ago closed first; for any number of threads, one of which reads at
    a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[Path, Mirror | None], Shard] = OrderedDict()

    @contextmanager
    def borrow(self, path: Path, manifest: Manifest, mirror: Mirror | None = None) -> Iterator[Shard]:
        """A shard of a dataset, which nobody closes meanwhile."""
        key = path, mirror
        with self._lock:
            if key not in self._open:
                while len(self._open) >= most_open():
                    self._open.popitem(last=False)[1].close()
                self._open[key] = open_shard(path, manifest, mirror)
            self._open.move_to_end(key)
            yield self._open[key]


def most_open() -> int:
    """How many shards may be kept open: a part of the files that this process may have open at all."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, MOST_OPEN if limit == resource.RLIM_INFINITY else min(MOST_OPEN, limit // SHARE))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a missing, damaged, foreign or forbidden file provokes into one sentence."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {_remedy(path)}") from None
    except BAD_FILE as error:
        raise_if_unreadable(path, error)
        raise UserError(f"{path} cannot be used ({reason(error)}): {_remedy(path)}") from None


def _remedy(path: Path) -> str:
    return f"`dreamdrive data verify {quoted(path.parent)}` says what is wrong, and with --repair records it again"
