"""The dataset: HDF5 shards of whole episodes and the manifest that lists them.

    python -m data.shards info datasets/carracing       what the dataset is
    python -m data.shards verify datasets/carracing     read every byte; say what is wrong, file by file

In an episode of T steps `action[t]` is chosen on seeing `obs[t]` and produces `reward[t]`, `terminated[t]`, `truncated[t]` and `obs[t + 1]`:

    obs         o0  o1  o2  ...  oT      T + 1 frames
    action      a0  a1  ...  a(T-1)      T

A shard of E episodes, S = sum(T) steps and F = S + E frames, one episode after another:

    obs             (F, H, W, C) uint8, or (F, S) float32 of worlds that are observed as S numbers
    action          (S, A) float32, or (S,) int64
    expert_action   like action; NaN or -1 where no expert was asked
    reward          (S,) float32
    terminated      (S,) uint8          truncated   (S,) uint8
    length          (E,) int64, T       episode     (E,) int64, index in the dataset
    seed            (E,) int64, the simulator's         policy  (E,) int64, index into the manifest's `policies`

and, where a teacher taught (teacher/), two more:

    clone_action    like action: what the clone would have done
    demonstration   (S,) uint8: 1 where the teacher acted, 0 where the clone did and the teacher let it

A shard is never changed once it has its name. Flipped bits do not pass: libver="latest" puts checksums on HDF5's own records, fletcher32 on the data.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.manifest import MANIFEST, SCHEMA, EpisodeEntry, Manifest, ShardEntry, frame_type, read_manifest, reason, split
from utils.cli import fsync_folder, parser, run
from utils.errors import UserError

CHUNK = 16  # frames
COLUMN_CHUNK = 4096  # steps, or episodes
FILTERS = [h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32]
STEP_COLUMNS = ("action", "expert_action", "reward", "terminated", "truncated")
TAUGHT_COLUMNS = ("clone_action", "demonstration")  # of steps
EPISODE_COLUMNS = ("length", "episode", "seed", "policy")
FLAGS = ("terminated", "truncated", "demonstration")
OURS = {MANIFEST, "args.json", ".lock"}
TEMPORARY_NAME = re.compile(r"\.(shard_\d{5,7}\.h5|manifest\.json|args\.json)\.\d+\.tmp|\.probe\.\d+")
BAD_FILE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)  # what h5py raises on damaged files


@dataclass
class Episode:
    """One episode of T steps; see the drawing above for what goes with what.

    Fields:
        obs: uint8 (T + 1, H, W, C), or float32 (T + 1, S)
        action: float32 (T, A) or int64 (T,)
        expert_action: like action, NaN or -1 where unknown
        reward: float32 (T,)
        terminated, truncated: bool or uint8 (T,)
        index: number of the episode in the dataset
        seed: the simulator's seed
        policy: index into the manifest's `policies`
        held_out: whether it happened in a place kept for validation; None if the split is by number, or on an episode read from a shard
        clone_action: like action, and demonstration: bool or uint8 (T,), of an episode that was taught; else None
    """

    obs: np.ndarray
    action: np.ndarray
    expert_action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    index: int
    seed: int
    policy: int
    held_out: bool | None = None
    clone_action: np.ndarray | None = None
    demonstration: np.ndarray | None = None

    @property
    def step_columns(self) -> tuple[str, ...]:
        return STEP_COLUMNS if self.clone_action is None else STEP_COLUMNS + TAUGHT_COLUMNS

    def check(self) -> None:
        """Raise ValueError unless every array has the type and the length it must have."""
        steps = len(self.action)
        if steps < 1:
            raise ValueError(f"episode {self.index} has no steps")
        if len(self.obs) != steps + 1:
            raise ValueError(f"obs must have one frame more than action: {len(self.obs)} != {steps} + 1 in episode {self.index}")
        if (self.obs.dtype, self.obs.ndim) not in ((np.uint8, 4), (np.float32, 2)):
            raise ValueError(f"obs must be uint8 (T + 1, H, W, C) or float32 (T + 1, S), got {self.obs.dtype} {self.obs.shape} in episode {self.index}")
        if (self.action.dtype, self.action.ndim) not in ((np.float32, 2), (np.int64, 1)):
            raise ValueError(f"action must be float32 (T, A) or int64 (T,), got {self.action.dtype} {self.action.shape} in episode {self.index}")
        for name in ("expert_action", "clone_action"):
            values = getattr(self, name)
            if values is not None and (values.dtype, values.shape) != (self.action.dtype, self.action.shape):
                raise ValueError(f"{name} must be like action {self.action.shape}, got {values.shape} in episode {self.index}")
        for name in ("reward", "terminated", "truncated", *(["demonstration"] if self.clone_action is not None else [])):
            if getattr(self, name).shape != (steps,):
                raise ValueError(f"{name} must have one value a step: {getattr(self, name).shape} != ({steps},) in episode {self.index}")
        if not all(values.dtype == np.uint8 or np.isfinite(values).all() for values in (self.reward, self.action, self.obs)):
            raise ValueError(f"obs, reward and action must be finite numbers; they are not in episode {self.index}")
        if (self.terminated[:-1] | self.truncated[:-1]).any():
            raise ValueError(f"an episode ends where terminated or truncated is set; episode {self.index} goes on after it")


def episode_entry(episode: Episode, manifest: Manifest) -> EpisodeEntry:
    """How the manifest lists `episode`."""
    part = split(episode.index, manifest.val_fraction) if episode.held_out is None else "val" if episode.held_out else "train"
    return EpisodeEntry(episode.index, episode.seed, manifest.policies[episode.policy], len(episode.action), float(episode.reward.sum(dtype=np.float64)), part)


@dataclass(frozen=True)
class Dataset:
    """A finished dataset.

    Fields:
        root: its folder
        manifest: what it is
        digest: sha256 of the manifest's content, and so of all its shards
    """

    root: Path
    manifest: Manifest
    digest: str

    @staticmethod
    def open(folder: str | Path) -> "Dataset":
        """UserError if there is no usable, finished dataset in `folder`."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        if not manifest.complete:
            raise UserError(f"{folder} holds {len(manifest.episodes)} of {manifest.rollouts} episodes: "
                            "run the data/generation_script.py command that began it again to record the rest")
        content = json.dumps(manifest.to_json(), sort_keys=True, separators=(",", ":")).encode()
        return Dataset(folder, manifest, hashlib.sha256(content).hexdigest())

    @property
    def shards(self) -> tuple[ShardEntry, ...]:
        return self.manifest.shards

    @property
    def episodes(self) -> tuple[EpisodeEntry, ...]:
        return self.manifest.episodes

    def open_shard(self, entry: ShardEntry) -> "Shard":
        return open_shard(self.root / entry.file, self.manifest)


# Writing


def write_shard(path: Path, episodes: Iterable[Episode]) -> dict:
    """Write `episodes`, consecutive ones, to `path` all at once; returns the shard's entry in the manifest."""
    temporary, entry = stage_shard(path, episodes)
    publish_shard(temporary, path)
    return entry


def stage_shard(path: Path, episodes: Iterable[Episode]) -> tuple[Path, dict]:
    """Write `episodes` under a temporary name beside `path`, read it back and compare; returns (temporary name, the shard's entry)."""
    path = Path(path)
    image, entry, digests = _shard_image(episodes)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(image)
            file.flush()
            os.fsync(file.fileno())
        with _reading(temporary), Shard(temporary) as shard:
            read_back = {name: _digest(shard.chunks(name)) for name in digests}
        if read_back != digests or hashlib.sha256(temporary.read_bytes()).hexdigest() != entry["sha256"]:
            raise UserError(f"{temporary} does not read back as it was written: check the disk, then run the same command again")
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path} could not be written ({error.strerror or error}): "
                        "free some space or choose another folder, then run the same command again") from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary, {"file": path.name, **entry}


def publish_shard(temporary: Path, path: Path) -> None:
    """Give a staged shard its name, durably."""
    try:
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} could not be written ({error.strerror}): mend the folder, then run the same command again") from None
    fsync_folder(Path(path).parent)


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
                raise ValueError(f"episodes of a shard must be consecutive: {columns['episode'][-1][0]}, then {episode.index}")
            if frames is None:
                frames = _create(file, "obs", (0, *episode.obs.shape[1:]), episode.obs.dtype)
                rest = episode.obs[:0]
            rest = _append_whole_chunks(frames, np.concatenate([rest, episode.obs]))
            digest.update(np.ascontiguousarray(episode.obs))
            for name in episode.step_columns:
                columns[name].append(getattr(episode, name))
            for name, value in zip(EPISODE_COLUMNS, (len(episode.action), episode.index, episode.seed, episode.policy), strict=True):
                columns[name].append(np.array([value], np.int64))
        if frames is None:
            raise ValueError("a shard must hold at least one episode")
        _append(frames, rest)
        digests = {"obs": digest.hexdigest()}
        for name, parts in columns.items():
            values = np.concatenate(parts).astype(_column_type(name, parts[0]))
            _append(_create(file, name, (0, *values.shape[1:]), values.dtype), values)
            digests[name] = _digest([values])
        shape = {"first": int(columns["episode"][0][0]), "last": int(columns["episode"][-1][0]) + 1,
                 "frames": len(frames), "steps": sum(map(len, columns["action"]))}
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
    return file.create_dataset(name, shape, dtype, maxshape=(None, *shape[1:]), chunks=_chunks(name, shape[1:]),
                               compression="gzip", compression_opts=1, fletcher32=True, track_times=False)


def _chunks(name: str, row: tuple) -> tuple:
    return (CHUNK if name == "obs" else COLUMN_CHUNK, *row)


def _column_type(name: str, values: np.ndarray) -> np.dtype:
    """On disk flags are uint8, rewards float32; actions stay what they are."""
    return np.dtype({**dict.fromkeys(FLAGS, np.uint8), "reward": np.float32}.get(name, values.dtype))


def _append(dataset: h5py.Dataset, rows: np.ndarray) -> None:
    if len(rows):
        dataset.resize(len(dataset) + len(rows), axis=0)
        dataset[-len(rows):] = rows


def _append_whole_chunks(dataset: h5py.Dataset, rows: np.ndarray) -> np.ndarray:
    """Append as many rows as fill whole chunks, so that each chunk is compressed once; returns the others."""
    whole = len(rows) // CHUNK * CHUNK
    _append(dataset, rows[:whole])
    return rows[whole:]


def _digest(parts: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part))
    return digest.hexdigest()


# Reading


def open_shard(path: Path, manifest: Manifest) -> "Shard":
    """A shard of a dataset, checked against its manifest before any data is read; UserError if anything is amiss."""
    path = Path(path)
    entry = next((s for s in manifest.shards if s.file == path.name), None)
    if entry is None:
        raise UserError(f"{path} is not listed in {path.parent / MANIFEST}: {_remedy(path)}")
    with _reading(path):
        return Shard(path, manifest, entry)


class Shard:
    """An open shard; close it, or use it as a context manager.

    Attributes:
        length, episode: int64 (E,), steps and index of each episode
        frame_offsets, step_offsets: int64 (E + 1,), where each episode's frames and steps begin, and the end of the last
    """

    def __init__(self, path: Path, manifest: Manifest | None = None, entry: ShardEntry | None = None):
        self.path = path
        if entry is not None and os.path.getsize(path) != entry.bytes:
            raise ValueError(f"it has {os.path.getsize(path)} bytes instead of {entry.bytes}")
        self._file = h5py.File(path, "r", locking=False)
        try:
            _check_members(self._file)
            _check_sizes(self._file, manifest, entry)
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
        """Frames `start` to `stop` (exclusive), uint8 (stop - start, H, W, C) or float32 (stop - start, S); quickest in whole chunks of 16."""
        if not 0 <= start <= stop <= self.frame_offsets[-1]:
            raise IndexError(f"frames {start} to {stop} are outside the shard's {self.frame_offsets[-1]}")
        with _reading(self.path):
            return self._file["obs"][start:stop]

    def column(self, name: str) -> np.ndarray:
        """All values of a member other than obs."""
        assert name in STEP_COLUMNS + TAUGHT_COLUMNS + EPISODE_COLUMNS, name
        with _reading(self.path):
            return self._file[name][:]

    @property
    def taught(self) -> bool:
        """Whether the TAUGHT_COLUMNS are there."""
        return TAUGHT_COLUMNS[0] in self._file

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        """The values of any member, a chunk at a time."""
        dataset = self._file[name]
        for start in range(0, len(dataset), dataset.chunks[0]):
            yield dataset[start:start + dataset.chunks[0]]

    def _check_content(self, manifest: Manifest | None, entry: ShardEntry | None) -> None:
        if (self.length < 1).any() or (self.length > len(self._file["action"])).any() or self.step_offsets[-1] != len(self._file["action"]):
            raise ValueError("the lengths of its episodes do not add up to its steps")
        if entry is not None:
            listed = [e for e in manifest.episodes if entry.first <= e.index < entry.last]
            if self.episode.tolist() != [e.index for e in listed] or self.length.tolist() != [e.steps for e in listed]:
                raise ValueError("its episodes are not those the manifest lists")


def _check_members(file: h5py.File) -> None:
    """ValueError unless the file has exactly the schema's members, each a plain chunked dataset of a plain type; reads no data."""
    if file.userblock_size or set(file.attrs) != {"schema"}:
        raise ValueError('it must have one attribute, "schema"')
    attribute = file.attrs.get_id("schema")
    if attribute.dtype != np.int64 or attribute.shape != () or file.attrs["schema"] != SCHEMA:
        raise ValueError(f"its schema is not {SCHEMA}, the one this version reads: use the version it was written with, or record it again")
    names = set(file)
    if names - set(TAUGHT_COLUMNS) != {"obs", *STEP_COLUMNS, *EPISODE_COLUMNS} or len(names.intersection(TAUGHT_COLUMNS)) == 1:
        raise ValueError(f"it must have exactly the members obs, {', '.join(STEP_COLUMNS + EPISODE_COLUMNS)}, not {', '.join(sorted(names))[:200]}")
    for name in sorted(names):
        if type(file.get(name, getlink=True)) is not h5py.HardLink:
            raise ValueError(f"{name} is a link to somewhere else, which is not allowed")
        if not isinstance(file[name], h5py.Dataset):
            raise ValueError(f"{name} is not a dataset")
        _check_storage(name, file[name])


def _check_storage(name: str, dataset: h5py.Dataset) -> None:
    """ValueError unless `dataset` is stored as we store it: in chunks of our size, in this file, with our filters, all of them there."""
    creation = dataset.id.get_create_plist()
    if creation.get_layout() != h5py.h5d.CHUNKED or creation.get_external_count():
        raise ValueError(f"{name} is virtual or stored outside the file, which is not allowed")
    if dataset.id.get_type().get_class() not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT) or dataset.ndim < 1:
        raise ValueError(f"{name} has a type that is not allowed")
    if [creation.get_filter(i)[0] for i in range(creation.get_nfilters())] != FILTERS:
        raise ValueError(f"{name} has filters other than gzip and fletcher32, which is not allowed")
    if len(dataset.attrs):
        raise ValueError(f"{name} has attributes, which is not allowed")
    if dataset.chunks != _chunks(name, dataset.shape[1:]) or dataset.maxshape != (None, *dataset.shape[1:]):
        raise ValueError(f"{name} is stored in pieces of another size than {_chunks(name, dataset.shape[1:])}")
    if dataset.size > 1 << 40 or dataset.id.get_num_chunks() != -(-len(dataset) // dataset.chunks[0]):
        raise ValueError(f"{name} has the shape {dataset.shape}, but not as many values")


def _check_sizes(file: h5py.File, manifest: Manifest | None, entry: ShardEntry | None) -> None:
    """ValueError unless shapes and types agree with each other, and with the manifest where one is given."""
    frames, steps, episodes = (len(file[name]) for name in ("obs", "action", "length"))
    row = file["action"].shape[1:]
    image_shape, discrete = file["obs"].shape[1:], row == ()
    if entry is not None:
        frames, steps, episodes, image_shape = entry.frames, entry.steps, entry.last - entry.first, tuple(manifest.image_shape)
        discrete = manifest.action_space["type"] == "discrete"
        row = () if discrete else (len(manifest.action_space["low"]),)
    action = ((steps, *row), np.int64 if discrete else np.float32)
    obs = ((frames, *image_shape), frame_type(image_shape))
    wanted = {"obs": obs, "action": action, "expert_action": action, "reward": ((steps,), np.float32),
              "clone_action": action, **{name: ((steps,), np.uint8) for name in FLAGS}, **{name: ((episodes,), np.int64) for name in EPISODE_COLUMNS}}
    for name in file:
        shape, dtype = wanted[name]
        if file[name].shape != shape or file[name].dtype != dtype:
            raise ValueError(f"{name} is {file[name].dtype} {file[name].shape} instead of {np.dtype(dtype)} {shape}")
    if frames != steps + episodes:
        raise ValueError(f"{frames} frames are not {steps} steps and one more for each of {episodes} episodes")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a missing, damaged or foreign file provokes into one sentence."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {_remedy(path)}") from None
    except BAD_FILE as error:
        raise UserError(f"{path} cannot be used ({reason(error)}): {_remedy(path)}") from None


def _remedy(path: Path) -> str:
    return f"`python -m data.shards verify {path.parent}` says what is wrong; delete what is damaged and run the generation command again"


# Command line


def verify(folder: Path) -> list[str]:
    """Everything that is wrong with the dataset in `folder`, a line each; reads every byte."""
    manifest = read_manifest(folder)
    wrong = [] if manifest.complete else [f"{MANIFEST}: {len(manifest.episodes)} of {manifest.rollouts} episodes are recorded"]
    for entry in manifest.shards:
        try:
            _verify_shard(folder / entry.file, manifest, entry)
        except UserError as error:
            wrong.append(f"{entry.file}: {str(error).removeprefix(f'{folder / entry.file} ').split(': `python -m')[0]}")
    listed = {entry.file for entry in manifest.shards} | OURS
    return wrong + [f"{path.name}: not listed in the manifest" for path in sorted(folder.iterdir()) if path.name not in listed]


def _verify_shard(path: Path, manifest: Manifest, entry: ShardEntry) -> None:
    with open_shard(path, manifest) as shard, _reading(path):
        for chunk in shard.chunks("obs"):
            if chunk.dtype != np.uint8 and not np.isfinite(chunk).all():
                raise ValueError("obs holds numbers that are not finite")
        taught = TAUGHT_COLUMNS if shard.taught else ()
        columns = {name: shard.column(name) for name in STEP_COLUMNS + taught + EPISODE_COLUMNS}
        listed = [e for e in manifest.episodes if entry.first <= e.index < entry.last]
        for b, e in enumerate(listed):
            steps = slice(shard.step_offsets[b], shard.step_offsets[b + 1])
            Episode(np.zeros((e.steps + 1, 1, 1, 1), np.uint8), *(columns[name][steps] for name in STEP_COLUMNS), e.index, e.seed, 0,
                    **{name: columns[name][steps] for name in taught}).check()
            if columns["seed"][b] != e.seed or manifest.policies[columns["policy"][b]] != e.policy:
                raise ValueError(f"seed or policy of episode {e.index} differ from the manifest's")
            if float(columns["reward"][steps].sum(dtype=np.float64)) != e.score:
                raise ValueError(f"the return of episode {e.index} differs from the manifest's")
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                raise ValueError("its sha256 is not the manifest's")


def summary(manifest: Manifest, folder: Path) -> str:
    """What a dataset is, in a few lines for people."""
    scores = {name: [e.score for e in manifest.episodes if e.policy == name] for name in manifest.policies}
    steps, frames, size = (sum(getattr(s, name) for s in manifest.shards) for name in ("steps", "frames", "bytes"))
    validation = sum(e.split == "val" for e in manifest.episodes)
    return "\n".join([
        f"{folder}: {len(manifest.episodes)} of {manifest.rollouts} episodes of {manifest.env}, {validation} of them for validation, "
        f"in {len(manifest.shards)} shards",
        f"  {frames} frames {tuple(manifest.image_shape)}, {steps} steps of {manifest.dt:.3g} s, {size / 1e6:.1f} MB "
        f"({size / max(1, frames):.0f} bytes a frame)",
        f"  seed {manifest.seed}, at most {manifest.max_steps} steps an episode, action noise {manifest.action_noise}",
        *(f"  {name:12} return {np.mean(s):8.1f} +- {np.std(s):.1f} over {len(s)} episodes" for name, s in scores.items() if s)])


def main() -> None:
    p = parser(__doc__)
    p.add_argument("command", choices=["info", "verify"], help="info: what it is; verify: read every byte of it")
    p.add_argument("folder", type=Path, help="folder of a dataset")
    args = p.parse_args()
    if args.command == "info":
        print(summary(read_manifest(args.folder), args.folder))
        return
    wrong = verify(args.folder)
    print("\n".join(wrong) if wrong else f"{args.folder}: all {len(read_manifest(args.folder).shards)} shards are as the manifest says")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    run(main)
