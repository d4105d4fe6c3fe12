"""What a clone learns from: steps with the expert's action, as latents in memory, or as a world's own numbers,
streamed."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from dreamdrive.data.loaders import LabelledStream
from dreamdrive.data.shards import Dataset
from dreamdrive.models.controller import Controller
from dreamdrive.models.world_model import Latents, Vision, joined_latents, latents_at

SCALE_STEPS = 16_384  # that the spread of observed numbers is measured on


class Labelled(Protocol):
    """Steps with the expert's action, for heads of one kind: Steps and NumberSteps for controllers,
    data.sequences.FrameSequences for policies."""

    def __len__(self) -> int:
        """How many."""

    def batches(self, epoch: int, rng: np.random.Generator | None) -> Iterator[Any]:
        """All of them once, shuffled with `rng`, or in order."""

    def deployed(self, model: Any) -> Any:
        """The head that acts on what a driver sees."""

    def scale(self) -> dict[str, Tensor]:
        """What a resumed run must have the same."""


@dataclass
class Steps:
    """Recorded steps with the expert's action, in memory.

    Fields:
        vision, latents: V, and what it stores of frames, each (F, n)
        h: (F, R) M's output before them
        action: (F, A) the expert's, one-hot for a discrete space
        rows: (N,) those that are steps to learn from
        size: B, of a batch
    """

    vision: Vision
    latents: Latents
    h: Tensor
    action: Tensor
    rows: Tensor
    size: int

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, epoch: int, rng: np.random.Generator | None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """z (B, Z), h (B, R) and action (B, A) of all steps, shuffled and z drawn anew with `rng`; or in order and the
        likeliest z."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**31))) if rng else None
        order = torch.from_numpy(rng.permutation(len(self))) if rng else torch.arange(len(self))
        for rows in self.rows[order].split(self.size):
            yield self.vision.drawn(latents_at(self.latents, rows), generator), self.h[rows], self.action[rows]

    def joined(self, latents: Latents, h: Tensor, action: Tensor) -> "Steps":
        """These steps and others: latents each (N, n), h (N, R), action (N, A)."""
        return Steps(
            self.vision,
            joined_latents([latents_at(self.latents, self.rows), latents]),
            torch.cat([self.h[self.rows], h]),
            torch.cat([self.action[self.rows], action]),
            torch.arange(len(self) + len(h)),
            self.size,
        )

    def deployed(self, model: Controller) -> Controller:
        """The head that acts on what a driver sees."""
        return model

    def scale(self) -> dict[str, Tensor]:
        """What a resumed run must have the same."""
        return {}


class NumberSteps:
    """Recorded steps of a world that is observed as S numbers, streamed from the dataset. The head is trained on them
    in units of their spread, less their mean; numbers that never change are left out."""

    def __init__(
        self, datasets: Sequence[Dataset], split: str, size: int, seed: int, scale: dict[str, Tensor] | None = None
    ) -> None:
        """`scale`: "mean" and "factor" (S,), or None to measure them here."""
        self._stream = LabelledStream(datasets, split, size, seed)
        self._scale = scale or self._measured()

    def __len__(self) -> int:
        return self._stream.steps

    def batches(self, epoch: int, rng: np.random.Generator | None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Observations (B, S), nothing, and action (B, A) of all steps, shuffled as (seed, epoch) say."""
        for obs, action in self._stream.epoch(epoch if rng else 0):
            yield self._scaled(obs), obs[:, :0], action

    def deployed(self, model: Controller) -> Controller:
        """The head that acts on the numbers as they are: the scale has gone into its first layer."""
        plain = deepcopy(model)
        layer = plain.layers[0]
        assert isinstance(layer, nn.Linear)
        mean, factor = (self._scale[name].to(layer.weight.device) for name in ("mean", "factor"))
        layer.weight.data = layer.weight.data * factor
        layer.bias.data = layer.bias.data - layer.weight.data @ mean
        return plain

    def scale(self) -> dict[str, Tensor]:
        """What a resumed run must have the same."""
        return self._scale

    def _scaled(self, obs: Tensor) -> Tensor:
        return (obs - self._scale["mean"]) * self._scale["factor"]

    def _measured(self) -> dict[str, Tensor]:
        count, total, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for obs, _ in self._stream.epoch(0):
            obs = obs.double()
            count, total, squares = count + len(obs), total + obs.sum(0), squares + obs.square().sum(0)
            if count >= SCALE_STEPS:
                break
        if not count:
            return {}
        mean = total / count
        spread = (squares / count - mean.square()).clamp(min=0).sqrt()
        return {"mean": mean.float(), "factor": torch.where(spread > 1e-6, 1 / spread, 0.0).float()}
