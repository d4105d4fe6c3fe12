"""What is random in dreams, each with a generator of its own: a dream follows from its seed, whatever is dreamed beside
it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamdrive.models.lanes import filled
from dreamdrive.models.world_model import Memory, Vision

BLOCK = 64  # steps for which a dream draws at once, since a call of a generator costs more than the numbers


class DreamNoise:
    """The generators of B dreams, and what they have drawn for the steps to come.

    Drawn on the CPU, so that a seed's dream has the same noise on every device.
    """

    def __init__(self, vision: Vision, memory: Memory, num: int, device: torch.device) -> None:
        self._vision, self._memory, self._device = vision, memory, device
        self._generators: list[np.random.Generator | None] = [None] * num
        self._rows = filled(torch.arange(num)).numpy()
        self._next = np.full(num, BLOCK)  # (B,) the next step's place in what was drawn; BLOCK: nothing is left
        uniforms, normals = memory.draws
        self._uniform = np.empty((num, BLOCK, uniforms), np.float32)
        self._normal = np.empty((num, BLOCK, normals), np.float32)

    def begin(self, copies: Sequence[int], seeds: Sequence[int], starts: int) -> tuple[Tensor, Tensor]:
        """Begin the dreams of `seeds` (n,) in `copies` (n,): the number of each one's start, (n,) int64 below `starts`,
        and the normal numbers of its first latent, (n, vision.draws)."""
        index, normal = np.empty(len(copies), np.int64), np.empty((len(copies), self._vision.draws), np.float32)
        for i, (copy, seed) in enumerate(zip(copies, seeds, strict=True)):
            # [seed, 1] is the driver's (driving/evaluation.py)
            generator = self._generators[copy] = np.random.default_rng([seed, 2])
            index[i] = generator.integers(starts)
            generator.standard_normal(out=normal[i], dtype=np.float32)
            self._next[copy] = BLOCK
        return torch.from_numpy(index).to(self._device), torch.from_numpy(normal).to(self._device)

    def step(self) -> Any:
        """What is random in the next step, the last dream's repeated up to a multiple of LANES."""
        for copy in (self._next == BLOCK).nonzero()[0]:
            self._draw(copy)
        rows, place = self._rows, self._next[self._rows]
        self._next += 1
        uniform, normal = (torch.from_numpy(drawn[rows, place]) for drawn in (self._uniform, self._normal))
        return self._memory.noise(uniform.to(self._device), normal.to(self._device))

    def _draw(self, copy: int) -> None:
        """Draw the next BLOCK steps of a dream."""
        generator = self._generators[copy]
        assert generator is not None, "only a dream that has begun continues"
        generator.standard_normal(out=self._normal[copy], dtype=np.float32)
        generator.random(out=self._uniform[copy], dtype=np.float32)
        self._next[copy] = 0
