"""CarRacing changed in ways that a driver has not been trained for: how well does it hold?

The first three are those of Tang, Nguyen & Ha 2020 ("Neuroevolution of Self-Interpretable Agents", arXiv 2003.08165),
drawn by us; sizes and places are those of the simulators that they published (CarRacingExtension).

    colour    a number for the road and one for the field, each uniform within +-51 of 255 grey levels, is added to its
              red, green and blue; the lighter squares of grass, the kerbs and the car keep their colours
    bars      black bars at the left and right of the picture, each 75 of the window's 1,000 pixels wide
    blob      a square in the car's red, 8 units of length wide (a road is 13.3), ahead of the car and to its right
    physics   the road's grip, and what steering, gas and brake do, each times a number uniform in 0.7 to 1.3 (ours)

All that is random follows from an episode's seed, whoever drives and whatever is driven beside it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.envs.box2d.car_racing import WINDOW_H
from torch import Tensor

from dreamdrive.envs.carracing import FRAME
from dreamdrive.envs.carracing_picture import CAR_X, CAR_Y, PIXEL_H, PIXEL_W, zoom

ROAD, FIELD = (102, 102, 102), (102, 204, 102)  # colours in the official simulator
SHIFT = 51  # grey levels that they are moved by, at most
BAR = 75 / PIXEL_W  # width of a bar, pixels of a frame
BLOB_X, BLOB_Y, BLOB_SIDE = 21.0, 7.6, 8.0  # of its lower left corner, seen from the car, and its side; units of length
RED = (204, 0, 0)  # the car's
WEAKEST, STRONGEST = 0.7, 1.3  # what physics is multiplied with


def covered(low: Tensor, high: Tensor) -> Tensor:
    """(B, FRAME): the share of each pixel of a row or column that lies between `low` and `high` (B,), in pixels."""
    edge = torch.arange(FRAME + 1.0)
    inside = edge.clamp(low[:, None], high[:, None])
    return inside[:, 1:] - inside[:, :-1]


def bars(frames: Tensor) -> Tensor:
    """Frames uint8 (B, 64, 64, 3) with both bars."""
    side = covered(torch.tensor([BAR]), torch.tensor([FRAME - BAR]))[0]
    return over(frames, (1 - side).expand(1, FRAME, FRAME), (0, 0, 0))


def blob(frames: Tensor, t: Tensor) -> Tensor:
    """Frames uint8 (B, 64, 64, 3) with the blob, `t` (B,) seconds after the reset: the camera comes down meanwhile."""
    scale = zoom(t)  # window pixels a unit of length
    left, bottom = CAR_X + BLOB_X * scale, CAR_Y + BLOB_Y * scale
    column = covered(left / PIXEL_W, (left + BLOB_SIDE * scale) / PIXEL_W)
    row = covered((WINDOW_H - bottom - BLOB_SIDE * scale) / PIXEL_H, (WINDOW_H - bottom) / PIXEL_H)
    return over(frames, row[:, :, None] * column[:, None, :], RED)


def over(frames: Tensor, share: Tensor, colour: Sequence[int]) -> Tensor:
    """Frames uint8 (B, H, W, 3) of whose pixels a `share` (B, H, W), or (1, H, W) of all, is covered with `colour`."""
    share = share.to(frames.device)
    rows, columns = (share.amax(other).nonzero()[:, 0] for other in ((0, 2), (0, 1)))  # the others stay as they are
    share = share[:, rows[:, None], columns, None]
    under = frames[:, rows[:, None], columns]
    frames = frames.clone()
    covering = torch.tensor(colour, device=frames.device)
    frames[:, rows[:, None], columns] = (under * (1 - share) + covering * share).round().to(torch.uint8)
    return frames


class Perturbation:
    """What is changed in the episodes of `num` copies.

    Attributes:
        kind: "colour", "bars", "blob" or "physics"
    """

    def __init__(self, kind: str, num: int) -> None:
        self.kind = kind
        self._response = np.ones((num, 3))  # what steering, gas and brake are multiplied with

    def prepare(self, copy: int, seed: int, simulator: Any) -> None:
        """Before the episode of `seed` begins in one copy's simulator."""
        if self.kind == "colour":
            road, field = np.random.default_rng([seed, 3]).uniform(-SHIFT, SHIFT, 2).round().astype(int)
            simulator.road_color, simulator.bg_color = np.add(ROAD, road), np.add(FIELD, field)

    def begin(self, copy: int, seed: int, simulator: Any) -> None:
        """When the episode of `seed` has begun in one copy's simulator."""
        if self.kind == "physics":
            grip, *self._response[copy] = np.random.default_rng([seed, 3]).uniform(WEAKEST, STRONGEST, 4)
            for tile in simulator.road:
                tile.road_friction = grip

    def action(self, copy: int, action: np.ndarray) -> np.ndarray:
        """What an action (3,) becomes."""
        return action * self._response[copy] if self.kind == "physics" else action

    def seen(self, frames: Tensor, t: Sequence[float]) -> Tensor:
        """What becomes of the frames uint8 (n, 64, 64, 3) of copies, t (n,) seconds after their resets."""
        if self.kind == "bars":
            return bars(frames)
        if self.kind == "blob":
            return blob(frames, torch.tensor(t))
        return frames
