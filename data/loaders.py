"""From shards to batches: frames for V and numbers for a clone, streamed, and windows of latents for M, cut within
episodes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamdrive.data.manifest import MANIFEST, frame_bytes
from dreamdrive.data.mirror import Mirror
from dreamdrive.data.open_shards import OpenShards
from dreamdrive.data.shard_layout import CHUNK
from dreamdrive.data.shards import Dataset
from dreamdrive.envs import official, without_places, world_class
from dreamdrive.models.catalogue import RETURN_DISCOUNT, RETURN_STEPS
from dreamdrive.models.world_model import Latents, Vision, latents_at
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.spaces import ActionSpace
from dreamdrive.utils.words import quoted

GROUP_BYTES = 96 << 20  # of blocks read ahead and shuffled together: 8,192 frames of 64x64x3
LEAST_SPREAD = 1e-6  # of rewards, below which it is taken for rounding
# What the world of a dataset is; every dataset and checkpoint of one run agrees on it.
WORLD_KEYS = ("env", "image_shape", "action_space", "dt", "max_steps", "options")


def open_datasets(folders: Sequence[str | Path], world: dict | None = None, owner: str = "") -> list[Dataset]:
    """The datasets of a run, which must be of one environment, that of `owner` where a `world` is given; UserError
    otherwise, or where a dataset is empty."""
    shards = OpenShards()
    for folder in folders if owner else ():
        if not (Path(folder) / MANIFEST).exists():
            raise UserError(
                f"{Path(folder) / MANIFEST} is missing, as seen from {Path.cwd()}: give --dataset the folder of what "
                f"{owner} was trained on, wherever that is now, or of another dataset of its world"
            )
    datasets = [Dataset.open(folder, shards) for folder in folders]
    for dataset in datasets:
        if not dataset.episodes:
            raise UserError(
                f"{dataset.root} holds no episodes yet: record some with `python data/generation_script.py --rootdir "
                f"{quoted(dataset.root)}`"
            )
    world, owner = (world, owner) if world else (world_of(datasets[0]), str(datasets[0].root))
    return [check_world(dataset, world, owner) for dataset in datasets]


def world_of(dataset: Dataset) -> dict:
    """Environment, image shape, action space, dt, max_steps and options of a dataset, as plain values; recordings of a
    fast world count as the simulator's own."""
    values = {key: getattr(dataset.manifest, key) for key in WORLD_KEYS}
    return {**values, "env": official(values["env"]), "image_shape": list(values["image_shape"])}


def check_world(dataset: Dataset, world: dict, owner: str) -> Dataset:
    """`dataset`, with actions in the units of `world`, which is that of `owner`; UserError unless it is of the same
    environment. max_steps may differ: it is only where recording stopped; so may the place of its scenes, and the units
    of actions, which an earlier version recorded without."""
    mine, theirs = (
        {
            **w,
            "options": without_places(w["env"], w.get("options", {})),
            "action_space": replace(ActionSpace.from_dict(w["action_space"]), scale=None, center=None).to_dict(),
        }
        for w in (world_of(dataset), world)
    )
    for key in ("env", "image_shape", "action_space", "options"):
        if mine[key] != theirs[key]:
            raise UserError(
                f"{dataset.root} has {key} {mine[key]}, but {owner} has {theirs[key]}: "
                "give --dataset one of that environment, or use another --logdir"
            )
    return replace(dataset, manifest=replace(dataset.manifest, action_space=world["action_space"]))


def with_mirrored(datasets: Sequence[Dataset]) -> list[Dataset]:
    """Those of one world, and then all of them in a mirror: twice the data, and as much of what is rare on one side as
    on the other. UserError where the world is another one there."""
    manifest = datasets[0].manifest
    turns = world_class(manifest.env).MIRROR
    if turns is None:
        raise UserError(
            f"{datasets[0].root} is of {manifest.env}, which is another world in a mirror: leave --mirror away"
        )
    return [*datasets, *(replace(dataset, mirror=Mirror(turns)) for dataset in datasets)]


def folders_of(datasets: Sequence[Dataset]) -> list[str]:
    """Of datasets, as checkpoints name them; those in a mirror are not told apart from what they show."""
    return [str(dataset.root) for dataset in datasets if dataset.mirror is None]


def origin_of(datasets: Sequence[Dataset]) -> dict[str, list[str]]:
    """What checkpoints say of the datasets that they learnt from: where they were, and what was in them."""
    digests = [dataset.digest for dataset in datasets if dataset.mirror is None]
    return {"datasets": folders_of(datasets), "dataset_digests": digests}


def splits_of(datasets: Sequence[Dataset]) -> list[float]:
    """The share of each that is for validation, as checkpoints hold it; `dreamdrive data split` changes it."""
    return [dataset.manifest.val_fraction for dataset in datasets if dataset.mirror is None]


def require_validation(datasets: Sequence[Dataset]) -> None:
    """UserError unless both splits have an episode."""
    for split in ("train", "val"):
        if not any(e.split == split for d in datasets for e in d.episodes):
            names = ", ".join(str(d.root) for d in datasets)
            raise UserError(
                f'{names} has no episode in its "{split}" split: record more --rollouts, or change the split with '
                f"`dreamdrive data split {quoted(datasets[0].root)} --val-fraction F`, F between 0 and 1"
            )


class BlockStream(ABC):
    """Shuffled batches, read a few blocks of 16 frames at a time: memory does not depend on the size of the datasets.

    The blocks of a split are visited in an endless sequence of random orders; epoch e takes the e-th stretch of it, so
    it depends on (seed, e) alone. Blocks are read some 100 MB at a time, in a thread of their own, and what is in these
    is shuffled together.
    """

    def __init__(self, datasets: Sequence[Dataset], split: str, batch_size: int, seed: int) -> None:
        self.datasets, self.batch_size, self.seed = datasets, batch_size, seed
        self.blocks = _blocks(datasets, split)  # (N, 4): dataset, episode, first frame in it, end
        self.frames = int((self.blocks[:, 3] - self.blocks[:, 2]).sum())
        self._group = max(1, GROUP_BYTES // (CHUNK * frame_bytes(datasets[0].manifest.image_shape)))  # blocks

    @abstractmethod
    def rows(self, dataset: int, episode: int, first: int, end: int) -> np.ndarray:
        """What a block of an episode's frames gives, one row for each of them or fewer."""

    def batches(self, epoch: int, frames: int) -> Iterator[np.ndarray]:
        """The rows of about `frames` frames (all of them once, if that is more), shuffled; the last batch may be
        smaller."""
        blocks = self.blocks[self._order(epoch, frames)]
        rng = np.random.default_rng([self.seed, epoch, 1])
        groups = [blocks[i : i + self._group] for i in range(0, len(blocks), self._group)]
        rest = None
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self._read, groups[0])
            for following in [*groups[1:], None]:
                group = ahead.result()
                if following is not None:
                    ahead = reader.submit(self._read, following)
                group = group[rng.permutation(len(group))]
                group = group if rest is None else np.concatenate([rest, group])
                whole = len(group) - (len(group) % self.batch_size if following is not None else 0)
                for i in range(0, whole, self.batch_size):
                    yield group[i : min(i + self.batch_size, whole)]
                rest = group[whole:]

    def _order(self, epoch: int, frames: int) -> np.ndarray:
        """Indices of the blocks of an epoch."""
        total = len(self.blocks)
        count = min(total, -(-frames * total // self.frames))
        position = np.arange(epoch * count, (epoch + 1) * count)
        orders = {
            p: np.random.default_rng([self.seed, int(p)]).permutation(total) for p in np.unique(position // total)
        }
        return np.array([orders[p][i] for p, i in zip(position // total, position % total, strict=True)])

    def _read(self, blocks: np.ndarray) -> np.ndarray:
        """The rows of some blocks, in the order in which shards hold them."""
        return np.concatenate([self.rows(*map(int, block)) for block in blocks[np.lexsort(blocks.T[::-1])]])


class FrameStream(BlockStream):
    """Shuffled batches of frames."""

    def rows(self, dataset: int, episode: int, first: int, end: int) -> np.ndarray:
        return self.datasets[dataset].frames(episode, first, end)

    def epoch(self, epoch: int, frames: int) -> Iterator[Tensor]:
        """About `frames` frames (all of them once, if that is more) as uint8 batches (B, H, W, C); the last may be
        smaller."""
        yield from map(torch.from_numpy, self.batches(epoch, frames))


class ReturnStream(BlockStream):
    """Shuffled batches of frames with what came of each.

    Attributes:
        mean, spread: of the returns, in which they count
    """

    def __init__(self, datasets: Sequence[Dataset], split: str, batch_size: int, seed: int) -> None:
        super().__init__(datasets, split, batch_size, seed)
        self._row = np.dtype([("frame", np.uint8, datasets[0].manifest.image_shape), ("value", np.float32)])
        episodes = np.unique(self.blocks[:, :2], axis=0).tolist()
        self._returns = {(d, e): future_returns(*datasets[d].rewards(e)) for d, e in episodes}
        every = np.concatenate(list(self._returns.values()))
        known = every[~np.isnan(every)]
        self.mean, spread = (float(known.mean()), float(known.std())) if len(known) else (0.0, 0.0)
        self.spread = spread if spread > LEAST_SPREAD else 1.0

    def rows(self, dataset: int, episode: int, first: int, end: int) -> np.ndarray:
        found = np.empty(end - first, self._row)
        found["frame"] = self.datasets[dataset].frames(episode, first, end)
        found["value"] = self._returns[dataset, episode][first:end]
        return found

    def epoch(self, epoch: int, frames: int) -> Iterator[tuple[Tensor, Tensor]]:
        """About `frames` frames (all of them once, if that is more), uint8 (B, H, W, C), with their returns (B,), less
        `mean` and in units of `spread`, NaN where nobody knows; the last batch may be smaller."""
        for batch in self.batches(epoch, frames):
            value = (batch["value"] - self.mean) / self.spread
            yield torch.from_numpy(np.ascontiguousarray(batch["frame"])), torch.from_numpy(value)


def future_returns(reward: np.ndarray, ended: bool) -> np.ndarray:
    """What came of each frame of an episode, (T + 1,) float32: the rewards (T,) of the RETURN_STEPS steps after it,
    discounted. NaN where the recording stops before that, unless the world `ended` there and no more was to come."""
    weights = RETURN_DISCOUNT ** np.arange(RETURN_STEPS)
    padded = np.concatenate([reward.astype(np.float64), np.zeros(RETURN_STEPS)])
    found = np.convolve(padded, weights[::-1], "valid").astype(np.float32)  # (T + 1,)
    if not ended:
        found[max(len(reward) - RETURN_STEPS + 1, 0) :] = np.nan
    return found


class LabelledStream(BlockStream):
    """Shuffled batches of observations that are numbers, with what the expert did there."""

    def __init__(self, datasets: Sequence[Dataset], split: str, batch_size: int, seed: int) -> None:
        super().__init__(datasets, split, batch_size, seed)
        self._space = ActionSpace.from_dict(datasets[0].manifest.action_space)
        self._labels: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def rows(self, dataset: int, episode: int, first: int, end: int) -> np.ndarray:
        """(n, S + A or 1): an episode's last frame, on which nobody acts, and steps whose expert is unknown are left
        out."""
        label, known = (values[first:end] for values in self._labelled(dataset, episode))
        obs = self.datasets[dataset].frames(episode, first, end)[: len(label)]
        return np.concatenate([obs, label], 1)[known]

    @cached_property
    def steps(self) -> int:
        """How many there are."""
        return sum(int(self._labelled(d, e)[1].sum()) for d, e in np.unique(self.blocks[:, :2], axis=0).tolist())

    def _labelled(self, dataset: int, episode: int) -> tuple[np.ndarray, np.ndarray]:
        """The expert's action on each step of an episode, float32 (T, A or 1), and whether it is known (T,)."""
        if (dataset, episode) not in self._labels:
            label, known = self.datasets[dataset].expert_action(episode)
            self._labels[dataset, episode] = label.astype(np.float32).reshape(len(label), -1), known
        return self._labels[dataset, episode]

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All steps once: observations (B, S) and the expert's actions as `ActionSpace.vector` has them (B, A)."""
        size = self.datasets[0].manifest.image_shape[0]
        for batch in map(torch.from_numpy, self.batches(epoch, self.frames)):
            label = batch[:, size].long() if self._space.discrete else batch[:, size:]
            yield batch[:, :size], self._space.vector(label)


def _blocks(datasets: Sequence[Dataset], split: str) -> np.ndarray:
    """(dataset, episode, first frame in it, end) of every block, cut at the file's chunks and at the ends of
    episodes."""
    rows = []
    for d, dataset in enumerate(datasets):
        for shard in dataset.shards:
            begin = 0  # of the episode in the shard, frames
            for index in range(shard.first, shard.last):
                frames = dataset.episodes[index].steps + 1
                if dataset.episodes[index].split == split:
                    cuts = [0, *range(CHUNK - begin % CHUNK, frames, CHUNK), frames]
                    rows += [(d, index, a, b) for a, b in zip(cuts, cuts[1:], strict=False)]
                begin += frames
    return np.array(rows, np.int64).reshape(-1, 4)


@dataclass
class Windows:
    """Windows of T steps within episodes, as M is trained on them. A window that reaches past the episode's end is
    filled up with its last frame, mask 0.

    Fields:
        z: (B, T, Z), drawn anew           z_next: (B, T, Z), the latents one step later
        action: (B, T, A)                  reward, terminal: (B, T) of that step
        mask: (B, T) 1 where the step is the episode's own
    """

    z: Tensor
    z_next: Tensor
    action: Tensor
    reward: Tensor
    terminal: Tensor
    mask: Tensor


@dataclass
class Sequences:
    """All episodes of a run as latents, in memory (about 0.3 kB a frame), one after another.

    Fields:
        vision: the V whose latents they are
        latents: what it stores of every frame, each (F, n)
        action, expert_action: (S, A) as M sees actions (one-hot for a discrete space)
        known: (S,) whether the expert's action is known; where it is not, expert_action is 0
        reward, terminal: (S,)
        steps: (E,) T of each episode
        frame_offset, step_offset: (E,) where its frames and steps begin
        seed: (E,) int64 of the world, of each episode
        train: (E,) True in the train split, False in the validation split
        source: (E,) "folder, episode i", for messages
    """

    vision: Vision
    latents: Latents
    action: Tensor
    expert_action: Tensor
    known: Tensor
    reward: Tensor
    terminal: Tensor
    steps: np.ndarray
    frame_offset: np.ndarray
    step_offset: np.ndarray
    seed: np.ndarray
    train: np.ndarray
    source: list[str]

    def episodes(self, split: str) -> np.ndarray:
        """Numbers of the episodes of "train" or "val"."""
        return np.flatnonzero(self.train if split == "train" else ~self.train)

    def cut(self, split: str, length: int, rng: np.random.Generator | None) -> np.ndarray:
        """(N, 2) episode and first step of windows of `length` steps that cover every step of the split once.

        Each episode's first window ends after a random number of steps (or `length`, without rng), so that the cuts
        move from epoch to epoch.
        """
        rows = []
        for e in self.episodes(split):
            offset = int(rng.integers(length)) if rng is not None else 0
            rows += [(e, start) for start in range(-offset, self.steps[e], length) if start + length > 0]
        windows = np.array(rows, np.int64).reshape(-1, 2)
        return windows if rng is None else windows[rng.permutation(len(windows))]

    def windows(self, cuts: np.ndarray, length: int, generator: torch.Generator | None = None) -> Windows:
        """The windows at `cuts` (B, 2); z is drawn with `generator`, or is the likeliest without one."""
        episode, start = cuts[:, 0], cuts[:, 1]
        # a first window that begins early begins at the first step instead
        shift = start + np.where(start < 0, -start, 0)
        end = np.minimum(start + length, self.steps[episode])
        step = shift[:, None] + np.arange(length + 1)  # (B, T + 1)
        inside = step[:, :-1] < end[:, None]
        last = self.steps[episode][:, None]  # the episode's last frame; its last step is one earlier
        frame_index = torch.from_numpy(self.frame_offset[episode][:, None] + np.minimum(step, last))
        z = self.vision.drawn(latents_at(self.latents, frame_index), generator)
        step_index = torch.from_numpy(self.step_offset[episode][:, None] + np.minimum(step[:, :-1], last - 1))
        return Windows(
            z[:, :-1],
            z[:, 1:],
            self.action[step_index],
            self.reward[step_index],
            self.terminal[step_index],
            torch.from_numpy(inside).float(),
        )

    def episode(self, e: int) -> tuple[Tensor, Tensor, Tensor]:
        """The likeliest z (T + 1, Z), action (T, A) and expert_action (T, A) of one episode."""
        frames = slice(self.frame_offset[e], self.frame_offset[e] + self.steps[e] + 1)
        steps = slice(self.step_offset[e], self.step_offset[e] + self.steps[e])
        return self.vision.z(latents_at(self.latents, frames)), self.action[steps], self.expert_action[steps]

    def reward_spread(self) -> float:
        """Standard deviation of the rewards of the train split; 1 where all are alike. M learns rewards in units of
        it."""
        spread = float(self._rewards().std(unbiased=False))
        return spread if spread > LEAST_SPREAD else 1.0

    def reward_size(self) -> float:
        """Root mean square of the rewards of the train split; 1 where there are none. Critics learn returns in units of
        it: where every step costs the same and hardly anything else happens, in units of their spread they would be
        hundreds."""
        size = float(self._rewards().square().mean().sqrt())
        return size if size > LEAST_SPREAD else 1.0

    def _rewards(self) -> Tensor:
        """Of the train split."""
        return self.reward[torch.from_numpy(np.repeat(self.train, self.steps))].double()

    def known_in(self, e: int) -> Tensor:
        """(T,) bool: where the expert's action is known in one episode."""
        return self.known[self.step_offset[e] : self.step_offset[e] + self.steps[e]]
