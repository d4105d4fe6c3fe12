"""Acceleration and steering as one of 13 x 21 pairs."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ActionGrid:
    """Pairs of acceleration (m/s^2) and steering (rad), evenly spread over [-accel, accel] and [-steer, steer]; index =
    row of acceleration * steers + column."""

    accel: float = 6.0
    steer: float = 1.0
    accels: int = 13
    steers: int = 21

    def __len__(self) -> int:
        return self.accels * self.steers

    def pair(self, index: Tensor) -> Tensor:
        """(..., 2) acceleration and steering of indices (...) int64."""
        row, column = index // self.steers, index % self.steers
        return torch.stack(
            [self.accel * (2 * row / (self.accels - 1) - 1), self.steer * (2 * column / (self.steers - 1) - 1)], -1
        ).float()

    def index(self, pair: Tensor) -> Tensor:
        """(...) int64: the nearest of the pairs to (..., 2)."""
        row = ((pair[..., 0] / self.accel + 1) * (self.accels - 1) / 2).round().clamp(0, self.accels - 1)
        column = ((pair[..., 1] / self.steer + 1) * (self.steers - 1) / 2).round().clamp(0, self.steers - 1)
        return row.long() * self.steers + column.long()
