"""The manifest of a dataset: what decides its episodes, which shards hold them, and the split into training and
validation.

Its "checksum" is the sha256 of all else that is in it, so that no flipped bit passes for another seed or another world.
Manifests of versions before 0.3.0 have none.
"""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import raise_if_unreadable, require_file, write_atomically
from dreamdrive.utils.words import counted, quoted

if TYPE_CHECKING:
    import numpy as np

SCHEMA = 1  # of manifest and shards
MANIFEST = "manifest.json"
DAMAGED = "damaged"  # folder of shards that driving/repair.py has set aside
LATER = {"give_up": 0, "skip": 0, "mixed_nodes": False}  # fields that are in the file where they are not that
SHARD_NAME = re.compile(r"shard_\d{5,7}\.h5")
CHECKSUM = "checksum"  # field of the file
SHA256 = re.compile(r"[0-9a-f]{64}")
LARGEST_FILE = 1 << 31  # bytes of a manifest
MOST_EPISODES = 10_000_000
MOST = 1 << 50  # of bytes, frames, steps: what any disk holds
LARGEST_SEED = (1 << 63) - 1


@dataclass(frozen=True)
class ShardEntry:
    """A shard in the manifest: episodes `first` to `last` (exclusive), of `bytes` bytes with digest `sha256`."""

    file: str
    sha256: str
    bytes: int
    first: int
    last: int
    frames: int
    steps: int


@dataclass(frozen=True)
class EpisodeEntry:
    """An episode in the manifest; `score` is its undiscounted return ("return" in the file), `split` "train" or
    "val"."""

    index: int
    seed: int
    policy: str
    steps: int
    score: float
    split: str


@dataclass(frozen=True)
class Manifest:
    """All that decides what the episodes are, and what has been recorded so far.

    Fields:
        env, image_shape (H, W, C) or (S,), action_space (see utils.spaces), dt: what the world is
        max_steps, seed, policy, action_noise, val_fraction: as given on the command line
        rollouts: episodes wanted; grown_from: the smaller numbers that were wanted before
        policies: names that `policy` of an episode can have
        controller: digests of the trained run that drove "controller" episodes, or empty
        options: what else `envs.make` needs to build the world, as plain values
        give_up: steps without a reward above 0 after which an episode was ended; 0 for never
        skip: episodes of the seed that were left out
        mixed_nodes: whether machines recorded it that differ in the last bit of what they compute: none of them alone
            would have made the same bytes
        by_place: whether validation has places of its own (`World.held_out`), instead of every n-th episode
        shards, episodes: what is there, sorted
    """

    env: str
    image_shape: tuple[int, ...]
    action_space: dict
    dt: float
    max_steps: int
    seed: int
    policy: str
    action_noise: float
    val_fraction: float
    rollouts: int
    policies: tuple[str, ...]
    grown_from: tuple[int, ...] = ()
    controller: dict | None = None
    options: dict = field(default_factory=dict)
    by_place: bool = False
    give_up: int = 0
    skip: int = 0
    mixed_nodes: bool = False
    shards: tuple[ShardEntry, ...] = ()
    episodes: tuple[EpisodeEntry, ...] = ()

    def to_json(self) -> dict:
        value = {"schema": SCHEMA, **asdict(self)}
        for name in LATER:
            if not value[name]:
                del value[name]  # a manifest without it is the one that older versions write and read
        value["episodes"] = [{"return" if k == "score" else k: v for k, v in e.items()} for e in value["episodes"]]
        return value

    @staticmethod
    def from_json(value: dict) -> "Manifest":
        """The inverse of `to_json`; KeyError, TypeError or ValueError where `value` is not what `to_json` gives."""
        value = dict(value)
        if value.pop("schema") != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}, the one this version reads")
        for name, before in {"options": {}, "by_place": False, **LATER}.items():
            value.setdefault(name, before)  # in older manifests
        if set(value) != {f.name for f in fields(Manifest)}:
            raise ValueError(f"it must have exactly the fields {', '.join(f.name for f in fields(Manifest))}")
        value["shards"] = tuple(ShardEntry(**s) for s in value["shards"])
        value["episodes"] = tuple(
            EpisodeEntry(**{"score" if k == "return" else k: v for k, v in e.items()}) for e in value["episodes"]
        )
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        manifest = Manifest(**known)
        manifest.check()
        return manifest

    @property
    def digest(self) -> str:
        """sha256 of its content, and so of all shards."""
        return digest_of(self.to_json())

    def check(self) -> None:
        """Raise ValueError (or TypeError) unless the parts are possible and agree with each other."""
        self._check_values()
        recorded = iter(self.episodes)
        end = 0
        for shard in self.shards:
            if not SHARD_NAME.fullmatch(shard.file) or not 0 <= end <= shard.first < shard.last <= self.rollouts:
                raise ValueError(f"shard {shard.file} with episodes {shard.first} to {shard.last} is not possible")
            episodes = list(islice(recorded, shard.last - shard.first))
            wanted = range(shard.first, shard.last)
            if len(episodes) != len(wanted) or any(e.index != i for e, i in zip(episodes, wanted, strict=True)):
                raise ValueError(f"the episodes of shard {shard.file} are not listed")
            if shard.steps != sum(e.steps for e in episodes) or shard.frames != shard.steps + len(episodes):
                raise ValueError(
                    f"the episodes of shard {shard.file} do not add up to its {shard.steps} steps and {shard.frames} "
                    "frames"
                )
            end = shard.last
        if next(recorded, None) is not None:
            raise ValueError("it lists episodes that are in no shard")
        for e in self.episodes:
            splits = ("train", "val") if self.by_place else (split(e.index, self.val_fraction),)
            if e.split not in splits or e.policy not in self.policies or e.steps < 1 or not math.isfinite(e.score):
                raise ValueError(f"episode {e.index} is not possible: {e}")

    def _check_values(self) -> None:
        """Raise ValueError (or TypeError) unless each value by itself is possible: before anything is counted by it."""
        most = {3: 4096, 1: 1 << 20}.get(len(self.image_shape), 0)  # pixels of a side, or numbers
        if not most or not all(isinstance(n, int) and 1 <= n <= most for n in self.image_shape):
            raise ValueError(f"image_shape {self.image_shape} is not possible")
        from dreamdrive.utils.spaces import ActionSpace

        ActionSpace.from_dict(self.action_space)
        for name in ("env", "policy"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} {getattr(self, name)!r} is no text")
        if not all(isinstance(name, str) for name in self.policies) or len(set(self.policies)) != len(self.policies):
            raise ValueError(f"policies {self.policies!r} are no names")
        if not isinstance(self.options, dict) or not isinstance(self.controller, dict | None):
            raise ValueError("options and controller must be objects")
        for name in ("by_place", "mixed_nodes"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} {getattr(self, name)!r} is neither true nor false")
        for name in ("dt", "action_noise", "val_fraction"):
            _require_number(name, getattr(self, name), 1.0 if name == "val_fraction" else math.inf)
        if not self.dt:
            raise ValueError("dt 0 is not possible: a step takes time")
        for name, least, largest in (
            ("max_steps", 1, MOST),
            ("seed", 0, LARGEST_SEED),
            ("rollouts", 0, MOST_EPISODES),
            ("give_up", 0, MOST),
            ("skip", 0, LARGEST_SEED),
        ):
            _require_whole(name, getattr(self, name), least, largest)
        for before, after in pairwise((0, *self.grown_from, self.rollouts)):
            _require_whole("grown_from", after, before, MOST_EPISODES)
        for shard in self.shards:
            if not isinstance(shard.file, str) or not (
                isinstance(shard.sha256, str) and SHA256.fullmatch(shard.sha256)
            ):
                raise ValueError(f"shard {shard.file!r} with sha256 {shard.sha256!r} is not possible")
            for name in ("bytes", "first", "last", "frames", "steps"):
                _require_whole(f"{name} of {shard.file}", getattr(shard, name), 0, MOST)
        for e in self.episodes:
            for name, largest in (("index", MOST_EPISODES), ("seed", LARGEST_SEED), ("steps", MOST)):
                _require_whole(f"{name} of an episode", getattr(e, name), 0, largest)
            _require_number(f"return of episode {e.index}", abs(e.score), math.inf)

    @property
    def complete(self) -> bool:
        return len(self.episodes) == self.rollouts


def _require_whole(name: str, value: Any, least: int, most: int) -> None:
    """ValueError unless `value` is a whole number in these bounds."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} {value!r:.80} is not possible: it must be a whole number from {least} to {most}")


def _require_number(name: str, value: Any, most: float) -> None:
    """ValueError unless `value` is a finite number from 0 to `most`."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not (0 <= value <= most and value < math.inf):
        raise ValueError(f"{name} {value!r:.80} is not possible")


def digest_of(content: dict) -> str:
    """sha256 of what is in a manifest, however it is laid out."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def frame_type(shape: Sequence[int]) -> "np.dtype":
    """Of observations with this shape: uint8 of pictures (H, W, C), float32 of numbers (S,)."""
    import numpy as np

    return np.dtype(np.uint8 if len(shape) == 3 else np.float32)


def frame_bytes(shape: Sequence[int]) -> int:
    """Of one observation with this shape."""
    return math.prod(shape) * frame_type(shape).itemsize


def split(index: int, val_fraction: float) -> str:
    """ "val" for an exact share of the episodes, spread evenly; what an episode is does not change when the dataset
    grows."""
    return "val" if int((index + 1) * val_fraction + 1e-9) > int(index * val_fraction + 1e-9) else "train"


def least_share(episodes: int) -> float:
    """The smallest share, in thousandths, by which one of so many episodes is for validation."""
    return math.ceil(1000 / episodes) / 1000


def with_split(manifest: Manifest, val_fraction: float) -> Manifest:
    """`manifest` with another share of its episodes for validation; UserError where its split is by places, or where
    none of its episodes would be for validation."""
    if manifest.by_place:
        raise UserError(
            "its split into training and validation is by places (scenes), or came with it, and not by a share: it "
            "stays as it is"
        )
    episodes = tuple(replace(e, split=split(e.index, val_fraction)) for e in manifest.episodes)
    if not any(e.split == "val" for e in episodes):
        remedy = f"give {least_share(len(episodes)):g} or more" if len(episodes) > 1 else "record 2 or more"
        raise UserError(
            f"none of its {counted(len(episodes), 'episode')} would be for validation by a share of {val_fraction:g}: "
            f"{remedy}"
        )
    return replace(manifest, val_fraction=val_fraction, episodes=episodes)


def require_datasets(folders: Sequence[Path]) -> None:
    """UserError where there is no dataset in one of the folders, finished or not."""
    for folder in folders:
        read_manifest(folder)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    manifest.check()
    content = manifest.to_json()
    whole = {"schema": content["schema"], CHECKSUM: manifest.digest, **content}
    write_atomically(Path(folder) / MANIFEST, (json.dumps(whole, indent=1, allow_nan=False) + "\n").encode())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a dataset, finished or not; UserError if there is none or it is not one."""
    path = Path(folder) / MANIFEST
    try:
        require_file(path)
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"it has {path.stat().st_size} bytes, and none has more than {LARGEST_FILE}")
        return _checked(json.loads(path.read_bytes(), parse_constant=_no_number), path)
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: record a dataset first with `python data/generation_script.py --rootdir "
            f"{quoted(folder)}`"
        ) from None
    except OSError as error:
        raise_if_unreadable(path, error)
        raise UserError(f"{path} cannot be read ({error.strerror}): mend its permissions or the disk") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(
            f"{path} is not a manifest that can be used ({reason(error)}): restore it, or delete {folder} and record "
            "it again"
        ) from None


def _checked(value: Any, path: Path) -> Manifest:
    """The manifest that a file holds; ValueError or the like where it was changed after it had been written."""
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__} where an object was wanted")
    schema = value["schema"]
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(
            f"{path} is not a manifest that can be used (its schema is {schema}, and this version of dreamdrive reads "
            f"{SCHEMA}): use the version that wrote it, or a later one"
        )
    checksum = value.pop(CHECKSUM, None)
    manifest = Manifest.from_json(value)  # first, since it names what is wrong
    if checksum is not None and checksum != digest_of(value):
        raise ValueError(
            f"it was changed after it had been written, for its {CHECKSUM} is of other content; who did so on purpose "
            f'takes the line "{CHECKSUM}" away'
        )
    return manifest


def _no_number(text: str) -> None:
    raise ValueError(f"it holds {text}, which is no finite number")


def reason(error: Exception) -> str:
    """What an exception says, on one line of bearable length."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error) or type(error).__name__
    return " ".join(text.split())[:300]
