"""What was taught, on disk: a journal of the trial that is on, step by step, and a dataset of those that are over.

A step is in the journal before anybody learns from it, so that a process killed at any moment loses none. The journal
is a file that is only ever appended to: a first record with the trial's number, seed and first observation, then one
for each step; each is compressed and has its length and checksum in front, so that a last one that was cut off is told
from the others. At the end of the trial it becomes an ordinary shard; what a killed process left becomes one at the
next start.
"""

import contextlib
import os
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dreamdrive.data.episode import Episode
from dreamdrive.data.growing import Growing, manifest_of
from dreamdrive.data.manifest import MANIFEST, Manifest, frame_bytes, frame_type, read_manifest
from dreamdrive.envs import World
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.seeds import recording_seed

FOLDER, JOURNAL = "taught", "trial.journal"
# seconds after which the journal is on the disk itself, so that a power cut loses no more; a kill loses nothing
SYNC = 1.0
HEADER = struct.Struct("<II")  # length of a record and its checksum
FIRST = struct.Struct("<qq")  # number of the trial and its seed


class Book:
    """The trials of one run.

    Attributes:
        manifest: of those that are over
    """

    def __init__(self, folder: Path, world: World, seed: int, fresh: bool) -> None:
        """`folder`: the run's exp_dir/bc. What is there is resumed; UserError if it is of another world or another
        --seed. `fresh`: it must be empty of trials."""
        self.folder, self.seed, self._world = folder / FOLDER, seed, world
        self._journal = folder / JOURNAL
        self._file: int | None = None  # descriptor of the journal while a trial lasts
        there = (self.folder / MANIFEST).exists()
        if fresh and (there or self._journal.exists()):
            raise UserError(
                f"{self.folder} holds {len(read_manifest(self.folder).episodes) if there else 'the beginning of'} "
                "trials, which are never deleted: "
                "leave --noreload away to resume from them, move that folder away, or use another --logdir"
            )
        self._kept, spec = Growing(self.folder, manifest_of(world, seed, ("teacher",))), world.spec
        row = (spec.space.dtype, spec.space.shape)
        self._step = np.dtype(
            [
                ("action", *row),
                ("clone_action", *row),
                ("demonstration", np.uint8),
                ("reward", np.float32),
                ("terminated", np.uint8),
                ("truncated", np.uint8),
            ]
        )
        self._columns = self._step.names or ()
        self._disk, self._synced = ThreadPoolExecutor(1), time.monotonic()
        self._recover()

    @property
    def manifest(self) -> Manifest:
        return self._kept.manifest

    @property
    def trial(self) -> int:
        """Number of the next trial, which follows from those that were."""
        return len(self._kept)

    def begin(self, obs: np.ndarray) -> None:
        """A trial begins with this observation."""
        self._file = os.open(self._journal, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        self._write(FIRST.pack(self.trial, recording_seed(self.seed, self.trial)) + obs.tobytes())

    def add(self, obs: np.ndarray, **step) -> None:
        """A step and the observation after it; `step` has the columns of a shard."""
        self._write(np.array([tuple(step[name] for name in self._columns)], self._step).tobytes() + obs.tobytes())
        if time.monotonic() - self._synced > SYNC:
            self._synced = time.monotonic()
            self._disk.submit(sync, os.dup(self._open()))

    def finish(self) -> Episode | None:
        """The trial is over: its journal becomes a shard. None if it had no step."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        episode = self._read()
        if episode is not None and episode.index == self.trial:
            self._kept.add(episode)
        self._journal.unlink(missing_ok=True)
        return episode

    def episodes(self) -> Iterator[Episode]:
        """All trials that are over."""
        yield from self._kept.episodes()

    def _recover(self) -> None:
        """Make a shard of what a process that was killed had in its journal."""
        if self._journal.exists():
            self.finish()

    def _open(self) -> int:
        assert self._file is not None, "a trial has begun"
        return self._file

    def _write(self, content: bytes) -> None:
        packed = zlib.compress(content, 1)
        record = HEADER.pack(len(packed), zlib.crc32(packed)) + packed
        try:
            written = os.write(self._open(), record)
        except OSError as error:
            raise UserError(
                f"{self._journal} could not be written ({error.strerror}): free some space and start again; what was "
                "taught so far is kept"
            ) from None
        if written != len(record):
            raise UserError(
                f"{self._journal} could not be written whole: free some space and start again; what was taught so far "
                "is kept"
            )

    def _read(self) -> Episode | None:
        """The trial in the journal, as far as its records are whole; None if there is not one step."""
        shape = self.manifest.image_shape
        size, records = frame_bytes(shape), list(whole_records(self._journal))
        if (
            len(records) < 2
            or len(records[0]) != FIRST.size + size
            or any(len(record) != self._step.itemsize + size for record in records[1:])
        ):
            return None
        index, seed = FIRST.unpack(records[0][: FIRST.size])
        obs = np.stack([np.frombuffer(record[-size:], frame_type(shape)).reshape(shape) for record in records])
        steps = np.concatenate([np.frombuffer(record[:-size], self._step) for record in records[1:]])
        columns = {name: np.ascontiguousarray(steps[name]) for name in self._columns}
        if not (columns["terminated"][-1] or columns["truncated"][-1]):
            columns["truncated"][-1] = 1  # the teacher, or a kill, ended it before its time
        held_out = self._world.held_out(seed) if self.manifest.by_place else None
        return Episode(
            obs, expert_action=columns["action"].copy(), index=index, seed=seed, policy=0, held_out=held_out, **columns
        )


def sync(file: int) -> None:
    """Have a file reach the disk, and close it."""
    with contextlib.suppress(OSError):
        os.fsync(file)
    os.close(file)


def whole_records(path: Path) -> Iterator[bytes]:
    """The records of a journal up to the first that is damaged or cut off."""
    content = path.read_bytes()
    start = 0
    while start + HEADER.size <= len(content):
        length, checksum = HEADER.unpack_from(content, start)
        packed = content[start + HEADER.size : start + HEADER.size + length]
        if len(packed) != length or zlib.crc32(packed) != checksum:
            return
        yield zlib.decompress(packed)
        start += HEADER.size + length
