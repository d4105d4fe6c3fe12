"""Noise on what is seen: frame + N(0, 1) x 255 x std, clipped, as the world shows it, in recordings, training and
scores alike. It follows from an episode's seed, whoever drives and whatever is driven beside it."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class ObservationNoise:
    """Of `num` copies; `std` in shares of 255 grey levels."""

    def __init__(self, std: float, num: int) -> None:
        self.std = std
        self._generators = [np.random.default_rng(0)] * num

    def begin(self, copy: int, seed: int, agent: int = 0) -> None:
        """Before the episode of `seed` begins in one copy; of several that see it each has a number."""
        # [seed, 1] is the driver's, 2 a dream's
        self._generators[copy] = np.random.default_rng([seed, 4, agent] if agent else [seed, 4])

    def seen(self, copies: Sequence[int], frames: Tensor) -> Tensor:
        """What becomes of the frames uint8 (n, H, W, C) of some copies."""
        drawn = [self._generators[copy].standard_normal(frames.shape[1:], np.float32) for copy in copies]
        noise = torch.from_numpy(np.stack(drawn)).to(frames.device)
        return (frames + 255 * self.std * noise).round().clamp(0, 255).to(torch.uint8)
