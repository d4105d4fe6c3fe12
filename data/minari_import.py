"""A dataset of Minari's (data/minari_file.py) as one of ours: the same, to the byte, where data/minari_export.py has
made it; any other as well as it can be.

Of others the observations must be pictures of a size that V takes, or that they are to be brought to, or numbers;
actions choices, or numbers with bounds. Numbers become float32. Who drove is not known, so that the policy is
"imported"; where no seed is known the episode's number takes its place.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dreamdrive.data.episode import TAUGHT_COLUMNS, Episode, unknown_action
from dreamdrive.data.manifest import LARGEST_SEED, EpisodeEntry, Manifest, least_share, reason
from dreamdrive.data.minari_export import OURS
from dreamdrive.data.minari_file import MinariFile, Recorded, made_jpeg
from dreamdrive.data.shards import pieces, write_dataset
from dreamdrive.envs.catalogue import listed, options_of
from dreamdrive.envs.gym_adapter import DEFAULT_FPS, area_resize
from dreamdrive.models.catalogue import SIZES
from dreamdrive.utils import spaces
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.spaces import ActionSpace
from dreamdrive.utils.words import counted

SHARD_EPISODES = 10
VAL_FRACTION = 0.1
ID = re.compile(r"[\w./-]+")  # of an environment, without a module in it

V_TAKES = f"squares of {' or '.join(map(str, SIZES))}"


@dataclass(frozen=True)
class Wanted:
    """What is to become of a dataset that others have made.

    Fields:
        env: the world, as --env names it; "" for the environment that the dataset names
        observation: of a Dict what is to be seen, e.g. "image" or "camera/front"
        resize: the side that pictures are brought to; 0 to leave them as they are
        expert: whether the actions are an expert's
        val_fraction: the share of episodes that is for validation; None for a tenth, of fewer than ten for one of them
    """

    env: str = ""
    observation: str = ""
    resize: int = 0
    expert: bool = False
    val_fraction: float | None = None


def import_minari(source: Path, out: Path, wanted: Wanted) -> tuple[Manifest, str]:
    """Make a dataset in `out` of the one in `source`; returns its manifest, and what there is to say of it."""
    with MinariFile(source) as file:
        if OURS in file.metadata:
            if wanted != Wanted():
                raise UserError(
                    f"{source} was exported by dreamdrive, and becomes the dataset that it was: leave all flags but "
                    "--out away"
                )
            return import_ours(file, source, out)
        return Foreign(file, source, wanted).write(out)


# What dreamdrive has exported


def import_ours(file: MinariFile, source: Path, out: Path) -> tuple[Manifest, str]:
    """The dataset that was exported."""
    try:
        before = Manifest.from_json(file.metadata[OURS])
        files = {shard.file: range(shard.first, shard.last) for shard in before.shards}
        if len(files) < len(before.shards):
            raise ValueError("two of its shards have one name")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{source} does not say what dataset it was made of ({reason(error)}): export it again"
        ) from None
    if len(before.episodes) != file.episodes or not before.complete:
        raise UserError(
            f"{source} was made of {counted(len(before.episodes), 'episode')}, and holds {file.episodes}: export it "
            "again"
        )
    empty = replace(before, shards=(), episodes=())
    space = ActionSpace.from_dict(before.action_space)
    after = write_dataset(out, empty, files, lambda i: own_episode(file, source, before, before.episodes[i], space))
    others = [a.file for a, b in zip(after.shards, before.shards, strict=True) if a.sha256 != b.sha256]
    said = (
        f"{', '.join(others[:3])} of it not the same to the byte: changed since, or packed by another version of HDF5"
        if others
        else "the dataset that was exported, to the byte"
    )
    return after, said


def own_episode(file: MinariFile, source: Path, manifest: Manifest, entry: EpisodeEntry, space: ActionSpace) -> Episode:
    """An episode as it was; UserError where it is not the one that the manifest lists."""
    said, steps = file.episode(entry.index, infos=("expert_action", *TAUGHT_COLUMNS)), entry.steps
    nobody = np.broadcast_to(unknown_action(space), (steps, *space.shape))
    known = {name: values[:steps] for name, values in said.infos.items()}
    episode = Episode(
        said.observations,
        said.actions,
        known.get("expert_action", np.ascontiguousarray(nobody)),
        said.rewards.astype(np.float32),
        said.terminations,
        said.truncations,
        entry.index,
        entry.seed,
        manifest.policies.index(entry.policy),
        held_out=entry.split == "val" if manifest.by_place else None,
        **{name: known.get(name) for name in TAUGHT_COLUMNS},
    )
    checked(episode, source)
    score = float(episode.reward.sum(dtype=np.float64))
    there = (len(episode.action), score, said.about.get("seed"), said.about.get("policy"))
    shapes = (episode.obs.shape[1:], episode.action.shape[1:])
    if shapes != (manifest.image_shape, space.shape) or there != (steps, entry.score, entry.seed, entry.policy):
        raise UserError(
            f"{source}: episode {entry.index} is not the one that was exported (it has {len(episode.action)} steps, a "
            f"return of {score:g}, seed {said.about.get('seed')}): export it again"
        )
    return episode


def checked(episode: Episode, source: Path) -> Episode:
    """The same; UserError unless it is one that can be stored."""
    try:
        episode.check()
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{source} cannot be imported: {reason(error)}") from None
    return episode


# What others have made


class Foreign:
    """A dataset that others have made.

    Attributes:
        part: the keys that lead to what is seen, through Dicts
        space: of actions        first: the number that the first choice has
        pictures: whether pictures are seen, not numbers
    """

    def __init__(self, file: MinariFile, source: Path, wanted: Wanted) -> None:
        self.file, self.source, self.wanted = file, source, wanted
        self.part = part_of(source, file.observation_space, wanted.observation)
        seen = file.observation_space
        for key in self.part:
            seen = seen["subspaces"][key]
        self.seen = seen
        self.pictures = seen["dtype"] == "uint8" and len(seen["shape"]) in (2, 3)
        self.shape = self._shape(tuple(seen["shape"]))
        self.first, self.space = actions_of(source, file.action_space)
        self.env = world_of(file, source, wanted.env)

    def write(self, out: Path) -> tuple[Manifest, str]:
        """The dataset."""
        manifest = Manifest(
            self.env,
            self.shape,
            self.space.to_dict(),
            1 / DEFAULT_FPS,
            self._longest(),
            0,
            "imported",
            0.0,
            val_share(self.wanted, self.file.episodes),
            self.file.episodes,
            ("imported",),
            options=self._options(),
        )
        try:
            manifest.check()
        except ValueError as error:
            raise UserError(f"{self.source} cannot be imported: {reason(error)}") from None
        manifest = write_dataset(out, manifest, pieces(self.file.episodes, SHARD_EPISODES), self.episode)
        return manifest, self._said()

    def episode(self, number: int) -> Episode:
        """Episode `number` as ours."""
        said = self.file.episode(number, self.part)
        obs = said.observations
        if obs.shape[1:] != tuple(self.seen["shape"]):
            raise UserError(
                f"{self.source}: episode {number} has observations {obs.shape[1:]}, and its metadata says "
                f"{tuple(self.seen['shape'])}"
            )
        if len(obs) != len(said.rewards) + 1:
            raise UserError(
                f"{self.source}: episode {number} has {len(obs)} observations and {len(said.rewards)} rewards: one "
                "observation more is wanted"
            )
        action = self._action(said, number)
        nobody = np.ascontiguousarray(np.broadcast_to(unknown_action(self.space), action.shape))
        truncated = said.truncations.copy()
        truncated[-1:] |= not said.terminations[-1:].any()  # where it ends without a word it was cut
        seed = said.about.get("seed", number)
        known = isinstance(seed, (int, np.integer)) and 0 <= seed <= LARGEST_SEED
        episode = Episode(
            self._frames(obs) if self.pictures else as_float32(obs.reshape(len(obs), -1)),
            action,
            action.copy() if self.wanted.expert else nobody,
            as_float32(said.rewards),
            said.terminations,
            truncated,
            number,
            int(seed) if known else number,
            0,
        )
        return checked(episode, self.source)

    def _frames(self, obs: np.ndarray) -> np.ndarray:
        """Pictures (T + 1, H, W) or (T + 1, H, W, C) as V takes them."""
        if obs.ndim == 3:
            obs = obs[..., None]
        return obs if obs.shape[1:] == self.shape else np.stack([area_resize(o, *self.shape[:2]) for o in obs])

    def _action(self, said: Recorded, number: int) -> np.ndarray:
        actions = said.actions
        if actions.shape[1:] != self.space.shape or (self.space.discrete and actions.dtype.kind not in "iu"):
            raise UserError(
                f"{self.source}: episode {number} has actions {actions.dtype} {actions.shape}, and its metadata says "
                f"{self.file.action_space['type']}"
            )
        if not self.space.discrete:
            return as_float32(actions)
        actions = actions.astype(np.int64) - self.first
        if len(actions) and not 0 <= actions.min() <= actions.max() < self.space.n:
            raise UserError(
                f"{self.source}: episode {number} has actions from {actions.min()} to {actions.max()}, and there are "
                f"{self.space.n}"
            )
        return actions

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of a frame of ours."""
        side = self.wanted.resize
        if not self.pictures:
            if side:
                raise UserError(f"{self.source} has no pictures but {words_of(self.seen)}: leave --resize away")
            return (math.prod(shape),)
        height, width, channels = (*shape, 1)[:3]
        if channels > 4:
            raise UserError(f"{self.source} has pictures of {shape}: (height, width, channels) is wanted")
        if not side and (height != width or height not in SIZES):
            raise UserError(
                f"{self.source} has pictures of {height}x{width}, and V takes {V_TAKES}: bring them to that with "
                f"--resize {SIZES[0]}"
            )
        return (side or height, side or width, channels)

    def _options(self) -> dict[str, Any]:
        """What the world must be told to show the same."""
        numbers = any(o.name == "observation" and "state" in (o.choices or ()) for o in options_of(self.env))
        return {"observation": "state"} if numbers and not self.pictures else {}

    def _longest(self) -> int:
        limit = self.file.env_spec.get("max_episode_steps")
        if isinstance(limit, int) and limit > 0:
            return limit
        return max(self.file.steps(number) for number in range(self.file.episodes))

    def _said(self) -> str:
        """What is not as it was."""
        notes = []
        if self.pictures and self.file.jpeg and made_jpeg(self.seen):
            notes.append("its pictures had been made JPEG's, which lose something")
        if self.shape[:2] != tuple(self.seen["shape"][:2]) and self.pictures:
            notes.append(f"they are {self.shape[0]}x{self.shape[1]} now")
        if not self.pictures and self.seen["dtype"] != "float32":
            notes.append(f"numbers are float32 now, no longer {self.seen['dtype']}")
        if not self.wanted.expert:
            notes.append("nobody is taken for an expert (--expert)")
        return "; ".join(notes)


def world_of(file: MinariFile, source: Path, asked: str) -> str:
    """The world, as --env names it. A file is not believed where it names a module, which would be imported."""
    there = str(file.env_spec.get("id", ""))
    if not asked and not ID.fullmatch(there):
        what = f"names {there[:80]!r}, no plain id" if there else "does not say what it was recorded in"
        raise UserError(f"{source} {what}: name the world with --env, e.g. gym:CartPole-v1")
    env = asked or f"gym:{there}"
    listed(env)
    return env


def val_share(wanted: Wanted, episodes: int) -> float:
    """The share for validation: of a few episodes so much that it is one."""
    if wanted.val_fraction is not None:
        return wanted.val_fraction
    return max(VAL_FRACTION, least_share(episodes)) if episodes > 1 else VAL_FRACTION


def as_float32(values: np.ndarray) -> np.ndarray:
    """What is too large becomes infinity, which `Episode.check` refuses."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def actions_of(source: Path, said: dict[str, Any]) -> tuple[int, ActionSpace]:
    """The number that the first choice has, and the space of actions; UserError where it is of another kind."""
    try:
        if said["type"] == "Discrete":
            return int(said.get("start", 0)), ActionSpace(int(said["n"]))
        if said["type"] != "Box" or len(said["shape"]) != 1:
            raise ValueError(f"{words_of(said)}, and Discrete or a Box of one dimension is wanted")
        low, high = (np.asarray(said[name], np.float64) for name in ("low", "high"))
        if not (abs(np.concatenate([low, high])) < spaces.LARGEST).all():
            raise ValueError(f"{words_of(said)} without bounds, by which actions are measured")
        return 0, ActionSpace(0, tuple(low.tolist()), tuple(high.tolist())).in_half_ranges()
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{source} has actions that cannot be used: {reason(error)}") from None


def part_of(source: Path, seen: dict[str, Any], name: str) -> tuple[str, ...]:
    """The keys that lead to the part of observations called `name`; UserError where it is not to be seen."""
    leaves = dict(leaves_of(seen))
    asked = tuple(filter(None, name.split("/")))
    if leaves.get(asked, {}).get("type") == "Box":
        return asked
    if [*leaves] == [()]:
        raise UserError(
            f"{source} has observations that are {words_of(seen)}"
            + (": leave --observation away" if asked and seen["type"] == "Box" else ": a Box is wanted")
        )
    parts = "; ".join(f"{'/'.join(path)}: {words_of(leaf)}" for path, leaf in leaves.items())
    raise UserError(
        f"{source} has observations of several parts ({parts[:300]}): name one that is a Box with --observation"
    )


def leaves_of(space: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """What a space is made of that is no Dict, with the keys that lead there."""
    if space["type"] != "Dict":
        yield path, space
        return
    for key, part in space["subspaces"].items():
        yield from leaves_of(part, (*path, key))


def words_of(space: dict[str, Any]) -> str:
    """ "Box uint8 (210, 160, 3)", "Discrete(4)"."""
    if space["type"] == "Box":
        return f"Box {space['dtype']} {tuple(space['shape'])}"
    return f"Discrete({space['n']})" if space["type"] == "Discrete" else str(space["type"])
