"""Sequences of recorded frames with the expert's actions, streamed, for a clone that remembers.

An episode is cut into stretches, and a batch is the next few frames of some stretches side by side: what the clone
remembers is carried from one batch to the next until the stretches are over, as it will be in use, where an episode is
longer than what can be looked back through at once.

    episode      |----------------------------------------------|
    stretches    |--------|================|================|---|        cut elsewhere in each epoch
    batches               |====|====|====|====|
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamdrive.data.shards import Dataset
from dreamdrive.models.policy import Policy
from dreamdrive.utils.spaces import ActionSpace

STRETCH = 8  # batches


@dataclass
class Glimpse:
    """A batch.

    Fields:
        frames: uint8 (B, T, H, W, C)
        action: (B, T, A) the expert's, as `ActionSpace.vector` has it; known: (B, T) whether there is one
        begins: whether these are the first frames of their stretches
    """

    frames: Tensor
    action: Tensor
    known: Tensor
    begins: bool


class FrameSequences:
    """The episodes of a split in which the expert's action is known."""

    def __init__(self, datasets: Sequence[Dataset], split: str, length: int, lanes: int, shift: int = 0) -> None:
        """Batches of `lanes` stretches, `length` frames of each at a time, which in random order are shifted by up to
        `shift` pixels each way, by as much in all of them: where a thing is in the picture's raster is then learnt of
        fewer frames (Kostrikov et al. 2021, arXiv 2004.13649, for reinforcement learning)."""
        self.datasets, self.length, self.lanes, self.shift = datasets, length, lanes, shift
        self.space = ActionSpace.from_dict(datasets[0].manifest.action_space)
        self._labels: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}  # by (dataset, episode)
        for d, dataset in enumerate(datasets):
            for e in dataset.episodes:
                if e.split == split:
                    label, known = dataset.expert_action(e.index)
                    if known.any():
                        self._labels[d, e.index] = label, known

    def __len__(self) -> int:
        """Steps with a known action."""
        return sum(int(known.sum()) for _, known in self._labels.values())

    def batches(self, epoch: int, rng: np.random.Generator | None) -> Iterator[Glimpse]:
        """All steps once, stretches in random order and cut at random; or in order, without `rng`."""
        stretches = self._cut(rng)
        turns = [
            (group, k)
            for i in range(0, len(stretches), self.lanes)
            for group in [stretches[i : i + self.lanes]]
            for k in range(-(-max(steps for *_, steps in group) // self.length))
        ]
        shifts = (
            rng.integers(-self.shift, self.shift + 1, (len(turns), self.lanes, 2))
            if rng is not None and self.shift
            else None
        )
        if not turns:
            return
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self._read, *turns[0])
            for turn, following in enumerate([*turns[1:], None]):
                glimpse = ahead.result()
                if shifts is not None:
                    glimpse.frames = shifted(glimpse.frames, shifts[turn - turns[turn][1]])
                if following is not None:
                    ahead = reader.submit(self._read, *following)
                yield glimpse

    def deployed(self, model: Policy) -> Policy:
        """The policy that acts on what a driver sees."""
        return model

    def scale(self) -> dict[str, Tensor]:
        """What a resumed run must have the same."""
        return {}

    def _cut(self, rng: np.random.Generator | None) -> list[tuple[int, int, int, int]]:
        """(dataset, episode, first step, steps) of every stretch."""
        size, stretches = STRETCH * self.length, []
        for (d, e), (_, known) in self._labels.items():
            offset = int(rng.integers(size)) if rng is not None else 0
            for start in range(-offset, len(known), size):
                low, high = max(start, 0), min(start + size, len(known))
                if low < high:
                    stretches.append((d, e, low, high - low))
        return stretches if rng is None else [stretches[i] for i in rng.permutation(len(stretches))]

    def _read(self, group: list[tuple[int, int, int, int]], k: int) -> Glimpse:
        """The `k`-th batch of a group of stretches; those that are over are black, without an action."""
        manifest = self.datasets[0].manifest
        label, _ = self._labels[group[0][:2]]
        frames = np.zeros((len(group), self.length, *manifest.image_shape), np.uint8)
        action = np.zeros((len(group), self.length, *label.shape[1:]), label.dtype)
        known = np.zeros((len(group), self.length), bool)
        for b, (d, e, first, steps) in enumerate(group):
            low, high = first + min(k * self.length, steps), first + min((k + 1) * self.length, steps)
            if low < high:
                frames[b, : high - low] = self.datasets[d].frames(e, low, high)
                label, is_known = (values[low:high] for values in self._labels[d, e])
                known[b, : high - low] = is_known
                action[b, : high - low][is_known] = label[is_known]
        return Glimpse(
            torch.from_numpy(frames), self.space.vector(torch.from_numpy(action)), torch.from_numpy(known), k == 0
        )


def shifted(frames: Tensor, by: np.ndarray) -> Tensor:
    """Frames (B, T, H, W, C), those of row b moved down and right by `by[b]` (B, 2) pixels; what comes in at an edge
    repeats the edge."""
    height, width = frames.shape[2:4]
    rows, columns = (
        torch.from_numpy((np.arange(size) - by[: len(frames), axis, None]).clip(0, size - 1))
        for axis, size in ((0, height), (1, width))
    )
    return frames[
        torch.arange(len(frames))[:, None, None, None],
        torch.arange(frames.shape[1])[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
