"""The dataset: HDF5 shards of whole episodes and the manifest that lists them.

    dreamdrive data info datasets/carracing       what the dataset is
    dreamdrive data verify datasets/carracing     read every byte; say what is wrong, file by file; driving/repair.py
                                                  mends it
    dreamdrive data split datasets/carracing --val-fraction 0.2     another share of its episodes for validation
    dreamdrive data page datasets/carracing       a page of it, see pages/dataset.py

    for episode in Dataset.open("datasets/carracing").read("train"): ...

How a shard is stored: data/shard_layout.py; what goes with what in an episode: data/episode.py; how shards are read:
data/open_shards.py. A shard is never changed once it has its name.
"""

import hashlib
import os
import re
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import h5py
import numpy as np

from dreamdrive.data import trust
from dreamdrive.data.episode import EPISODE_COLUMNS, Episode, episode_entry, known_actions
from dreamdrive.data.examination import examine
from dreamdrive.data.manifest import (
    DAMAGED,
    MANIFEST,
    SCHEMA,
    SHARD_NAME,
    EpisodeEntry,
    Manifest,
    ShardEntry,
    read_manifest,
    with_split,
    write_manifest,
)
from dreamdrive.data.mirror import Mirror
from dreamdrive.data.open_shards import BAD_FILE, OpenShards, Shard, open_shard, reading
from dreamdrive.data.shard_layout import CHUNK, chunks_of, column_type
from dreamdrive.utils.argument_types import share
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import fsync_folder, raise_if_unreadable
from dreamdrive.utils.locks import LOCK, being_written, locked, workplace
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser
from dreamdrive.utils.words import counted, mean_and_spread

OURS = {MANIFEST, "args.json", LOCK, DAMAGED}
TEMPORARY_NAME = re.compile(r"\.(shard_\d{5,7}\.h5|manifest\.json|args\.json)\.\d+\.tmp")


@dataclass(frozen=True)
class Dataset:
    """A finished dataset.

    Fields:
        root: its folder
        manifest: what it is
        digest: sha256 of the manifest's content, and so of all its shards
        mirror: what it is seen in, if in any
    """

    root: Path
    manifest: Manifest
    digest: str
    mirror: Mirror | None = None
    _shards: OpenShards = field(default_factory=OpenShards, repr=False, compare=False)

    @staticmethod
    def open(folder: str | Path, shards: OpenShards | None = None) -> "Dataset":
        """UserError if there is no usable, finished dataset in `folder`. Datasets that are read together share
        `shards`."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        if not manifest.complete:
            raise UserError(
                f"{folder} holds {len(manifest.episodes)} of {manifest.rollouts} episodes: "
                "run the command that began it again, which records the rest"
            )
        return Dataset(folder, manifest, manifest.digest, None, shards or OpenShards())

    @property
    def shards(self) -> tuple[ShardEntry, ...]:
        return self.manifest.shards

    @property
    def episodes(self) -> tuple[EpisodeEntry, ...]:
        return self.manifest.episodes

    def open_shard(self, entry: ShardEntry) -> Shard:
        return open_shard(self.root / entry.file, self.manifest, self.mirror)

    def episode(self, i: int) -> Episode:
        """Episode `i` of the dataset; nothing else of its shard is read."""
        with self._shard_of(i) as (shard, row):
            return shard.read(row)

    def read(self, split: str | None = None) -> Iterator[Episode]:
        """All episodes one after another, or those of "train" or "val"."""
        for entry in self.episodes:
            if split in (None, entry.split):
                yield self.episode(entry.index)

    def frames(self, i: int, first: int = 0, end: int | None = None) -> np.ndarray:
        """Frames `first` to `end` (exclusive; None: to its last) of episode `i`: uint8 (n, H, W, C) or float32
        (n, S)."""
        with self._shard_of(i) as (shard, row):
            return shard.episode_frames(row, first, end)

    def steps(self, i: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns of the steps of episode `i` by name (data/episode.py), each (T, ...); no frame is read."""
        with self._shard_of(i) as (shard, row):
            return shard.episode_steps(row, names)

    def expert_action(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The expert's action on each step of episode `i`, (T, A) or (T,), and whether it is known, bool (T,)."""
        action = self.steps(i, ("expert_action",))["expert_action"]
        return action, known_actions(action)

    def rewards(self, i: int) -> tuple[np.ndarray, bool]:
        """The reward of each step of episode `i`, float32 (T,), and whether the world ended it."""
        steps = self.steps(i, ("reward", "terminated"))
        return steps["reward"], bool(steps["terminated"][-1])

    @contextmanager
    def _shard_of(self, i: int) -> Iterator[tuple[Shard, int]]:
        """The shard that holds episode `i`, and the episode's number in it."""
        if not 0 <= i < len(self.episodes):
            raise IndexError(f"episode {i} is outside the {len(self.episodes)} of {self.root}")
        entry = self.shards[bisect_right(self.shards, i, key=lambda shard: shard.first) - 1]
        with self._shards.borrow(self.root / entry.file, self.manifest, self.mirror) as shard:
            yield shard, i - entry.first


# Writing


def pieces(count: int, at_once: int) -> dict[str, range]:
    """Files of the shards of `count` episodes, `at_once` in each, and the numbers of those."""
    firsts = range(0, count, at_once)
    return {f"shard_{k:05d}.h5": range(first, min(first + at_once, count)) for k, first in enumerate(firsts)}


def write_dataset(
    folder: Path, manifest: Manifest, files: dict[str, range], read: Callable[[int], Episode]
) -> Manifest:
    """Write a new dataset of the episodes that `read` gives by number, into shards of these names; returns its whole
    manifest, of which `manifest` says all but shards and episodes. What fails leaves nothing, and what is killed a
    manifest without episodes, after which it can be done again; UserError where `folder` holds a dataset."""
    with workplace(folder, being_written(folder)):
        if (folder / MANIFEST).exists() and read_manifest(folder).shards:
            raise UserError(f"{folder} holds a dataset already: choose another --out")
        if not (folder / MANIFEST).exists() and any(SHARD_NAME.fullmatch(path.name) for path in folder.iterdir()):
            raise UserError(f"{folder} holds shards but no {MANIFEST}: restore it, or choose another --out")
        written = [folder / MANIFEST]
        try:
            write_manifest(folder, manifest)
            remove_leftovers(folder, manifest)
            for name, numbers in Bar(files.items(), desc="importing", unit="shard"):
                episodes = [read(number) for number in numbers]
                written.append(folder / name)
                manifest = replace(
                    manifest,
                    shards=(*manifest.shards, ShardEntry(**write_shard(written[-1], episodes))),
                    episodes=(*manifest.episodes, *(episode_entry(e, manifest) for e in episodes)),
                )
            write_manifest(folder, manifest)
        except BaseException:
            for path in written:
                path.unlink(missing_ok=True)
            raise
    return manifest


def write_shard(path: Path, episodes: Iterable[Episode]) -> dict:
    """Write `episodes`, consecutive ones, to `path` all at once; returns the shard's entry in the manifest."""
    temporary, entry = stage_shard(path, episodes)
    publish_shard(temporary, path, entry["sha256"])
    return entry


def stage_shard(path: Path, episodes: Iterable[Episode]) -> tuple[Path, dict]:
    """Write `episodes` under a temporary name beside `path`, read it back and compare; returns (temporary name, the
    shard's entry)."""
    path = Path(path)
    image, entry, digests = _shard_image(episodes)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(image)
            file.flush()
            os.fsync(file.fileno())
        read_back = {}
        if hashlib.sha256(temporary.read_bytes()).hexdigest() == entry["sha256"]:
            with reading(temporary), Shard(temporary) as shard:
                read_back = {name: _digest(shard.chunks(name)) for name in digests}
        if read_back != digests:
            raise UserError(
                f"{temporary} does not read back as it was written: check the disk, then run the same command again"
            )
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path} could not be written ({error.strerror or error}): "
            "free some space or choose another folder, then run the same command again"
        ) from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary, {"file": path.name, **entry}


def publish_shard(temporary: Path, path: Path, digest: str) -> None:
    """Give a staged shard, of this sha256, its name, durably."""
    try:
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({error.strerror}): mend the folder, then run the same command again"
        ) from None
    fsync_folder(Path(path).parent)
    trust.remember(path, digest)


def remove_leftovers(folder: Path, manifest: Manifest) -> None:
    """Delete what a killed run left: temporary files, and shards that had their name but were not in the manifest
    yet."""
    listed = {s.file for s in manifest.shards}
    for path in folder.iterdir():
        if TEMPORARY_NAME.fullmatch(path.name) or (SHARD_NAME.fullmatch(path.name) and path.name not in listed):
            path.unlink()


def _shard_image(episodes: Iterable[Episode]) -> tuple[bytes, dict, dict]:
    """A shard as bytes, its entry less the file name, and the sha256 of each member's content.

    It is built in memory, compressed, because HDF5 does not survive a disk that fills up while it writes.
    """
    columns: dict[str, list] = {}
    digest = hashlib.sha256()
    with _new_file() as file:
        frames, rest = None, None
        for episode in episodes:
            episode.check()
            columns = columns or {name: [] for name in episode.step_columns + EPISODE_COLUMNS}
            if set(columns) != {*episode.step_columns, *EPISODE_COLUMNS}:
                raise ValueError("of the episodes of a shard either all were taught, or none")
            if columns["episode"] and episode.index != columns["episode"][-1][0] + 1:
                raise ValueError(
                    f"episodes of a shard must be consecutive: {columns['episode'][-1][0]}, then {episode.index}"
                )
            if frames is None or rest is None:
                frames = _create(file, "obs", (0, *episode.obs.shape[1:]), episode.obs.dtype)
                rest = episode.obs[:0]
            rest = _append_whole_chunks(frames, np.concatenate([rest, episode.obs]))
            digest.update(np.ascontiguousarray(episode.obs).data)
            for name in episode.step_columns:
                columns[name].append(getattr(episode, name))
            for name, value in zip(
                EPISODE_COLUMNS, (len(episode.action), episode.index, episode.seed, episode.policy), strict=True
            ):
                columns[name].append(np.array([value], np.int64))
        if frames is None or rest is None:
            raise ValueError("a shard must hold at least one episode")
        _append(frames, rest)
        digests = {"obs": digest.hexdigest()}
        for name, parts in columns.items():
            values = np.concatenate(parts).astype(column_type(name, parts[0]))
            _append(_create(file, name, (0, *values.shape[1:]), values.dtype), values)
            digests[name] = _digest([values])
        shape = {
            "first": int(columns["episode"][0][0]),
            "last": int(columns["episode"][-1][0]) + 1,
            "frames": len(frames),
            "steps": sum(map(len, columns["action"])),
        }
        file.flush()
        image = file.id.get_file_image()
    return image, {"sha256": hashlib.sha256(image).hexdigest(), "bytes": len(image), **shape}, digests


def _new_file() -> h5py.File:
    """An empty shard in memory, without the times HDF5 likes to record."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_LATEST, h5py.h5f.LIBVER_LATEST)
    access.set_fapl_core(1 << 20, False)
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    file = h5py.File(h5py.h5f.create(b"shard", h5py.h5f.ACC_TRUNC, fcpl=creation, fapl=access))
    file.attrs.create("schema", SCHEMA, dtype=np.int64)
    return file


def _create(file: h5py.File, name: str, shape: tuple, dtype: Any) -> h5py.Dataset:
    return file.create_dataset(
        name,
        shape,
        dtype,
        maxshape=(None, *shape[1:]),
        chunks=chunks_of(name, shape[1:]),
        compression="gzip",
        compression_opts=1,
        fletcher32=True,
        track_times=False,
    )


def _append(dataset: h5py.Dataset, rows: np.ndarray) -> None:
    if len(rows):
        dataset.resize(len(dataset) + len(rows), axis=0)
        dataset[-len(rows) :] = rows


def _append_whole_chunks(dataset: h5py.Dataset, rows: np.ndarray) -> np.ndarray:
    """Append as many rows as fill whole chunks, so that each chunk is compressed once; returns the others."""
    whole = len(rows) // CHUNK * CHUNK
    _append(dataset, rows[:whole])
    return rows[whole:]


def _digest(parts: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


# Command line


def verify(folder: Path) -> list[str]:
    """Everything that is wrong with the dataset in `folder`, a line each; reads every byte."""
    manifest = read_manifest(folder)
    wrong = (
        []
        if manifest.complete
        else [f"{MANIFEST}: {len(manifest.episodes)} of {manifest.rollouts} episodes are recorded"]
    )
    for entry in manifest.shards:
        try:
            _verify_shard(folder / entry.file, manifest, entry)
        except UserError as error:
            wrong.append(
                f"{entry.file}: {str(error).removeprefix(f'{folder / entry.file} ').split(': `dreamdrive')[0]}"
            )
    listed = {entry.file for entry in manifest.shards} | OURS
    return wrong + [
        f"{path.name}: not listed in the manifest" for path in sorted(folder.iterdir()) if path.name not in listed
    ]


def damaged_shards(folder: Path, manifest: Manifest) -> list[str]:
    """Files of the shards that are missing or not as the manifest says; reads every byte."""
    found = []
    for entry in manifest.shards:
        path = folder / entry.file
        try:
            trust.look_through(path, entry.sha256, partial(examine, path, manifest, entry))
        except BAD_FILE as error:
            raise_if_unreadable(path, error)  # which says nothing of what is in it
            found.append(entry.file)
    return found


def say_verified(folder: Path) -> int:
    """Print what is wrong with a dataset, or that nothing is; the status to end with."""
    wrong = verify(folder)
    sound = f"{folder}: all {len(read_manifest(folder).shards)} shards are as the manifest says"
    print("\n".join(wrong) if wrong else sound)
    return 1 if wrong else 0


def _verify_shard(path: Path, manifest: Manifest, entry: ShardEntry) -> None:
    """UserError with what is wrong; a shard that is sound is known to be from now on."""
    with reading(path):
        trust.look_through(path, entry.sha256, partial(examine, path, manifest, entry))


def summary(manifest: Manifest, folder: Path) -> str:
    """What a dataset is, in a few lines for people."""
    scores = {name: [e.score for e in manifest.episodes if e.policy == name] for name in manifest.policies}
    steps, frames, size = (sum(getattr(s, name) for s in manifest.shards) for name in ("steps", "frames", "bytes"))
    validation = sum(e.split == "val" for e in manifest.episodes)
    return "\n".join(
        [
            f"{folder}: {len(manifest.episodes)} of {counted(manifest.rollouts, 'episode')} of {manifest.env}, "
            f"{validation or 'none'} of them for validation, in {counted(len(manifest.shards), 'shard')}",
            f"  {frames} frames {tuple(manifest.image_shape)}, {steps} steps of {manifest.dt:.3g} s, {size / 1e6:.1f} "
            "MB "
            f"({size / max(1, frames):.0f} bytes a frame)",
            f"  seed {manifest.seed}, at most {manifest.max_steps} steps an episode, action noise "
            f"{manifest.action_noise}",
            *(
                f"  {name:12} return {mean_and_spread(s, 8)} over {counted(len(s), 'episode')}"
                for name, s in scores.items()
                if s
            ),
        ]
    )


def change_split(folder: Path, val_fraction: float) -> str:
    """Give a dataset another split, in its manifest alone; what was done, and what that means for what was made from
    it, in a few lines for people."""
    before = read_manifest(folder)  # also where there is none to lock
    with locked(folder, f"{folder} is being recorded: wait until that is done"):
        before = read_manifest(folder)
        try:
            after = with_split(before, val_fraction)
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None
        write_manifest(folder, after)
    moved = sum(old.split != new.split for old, new in zip(before.episodes, after.episodes, strict=True))
    validation = sum(e.split == "val" for e in after.episodes)
    done = (
        f"{folder}: {validation} of {counted(len(after.episodes), 'episode')} for validation now; {moved} changed sides"
    )
    if not moved:
        return done
    return done + (
        "\n  cached latents stay as they are: they are of every episode"
        "\n  a run that was trained on it has learnt from some of what is for validation now, so that its losses there "
        "flatter it, and says so when it is resumed: train it afresh, with --noreload"
    )


def main() -> None:
    p = parser(__doc__)
    p.add_argument(
        "command",
        choices=["info", "verify", "split"],
        help="info: what it is; verify: read every byte of it; split: change which episodes are for validation",
    )
    p.add_argument("folder", type=Path, help="folder of a dataset")
    p.add_argument("--val-fraction", type=share, help="of split: the share of the episodes that is for validation")
    args = p.parse_args()
    if (args.command == "split") != (args.val_fraction is not None):
        p.error("split takes --val-fraction F, and nothing else does")
    if args.command == "split":
        print(change_split(args.folder, args.val_fraction))
        return
    if args.command == "info":
        print(summary(read_manifest(args.folder), args.folder))
        return
    sys.exit(say_verified(args.folder))


if __name__ == "__main__":
    run(main)
