"""gymnasium's CartPole-v1 and MountainCar-v0 with experts: worlds on which the whole pipeline is learnt in minutes.

`cartpole` and `mountaincar` are `gym:CartPole-v1` and `gym:MountainCar-v0` to the last bit, pictures of 64x64 or
(`--observation state`) the numbers behind them, and have somebody to learn from besides.
"""

from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import ClassVar

import numpy as np
import torch

from dreamdrive.envs.gym_adapter import GymWorld

# CartPole: pushed to the right when this is positive of position, speed, angle and angular speed (m, m/s, rad, rad/s).
# The pole is brought upright first, and leans against a cart off the middle: the gains are small for the cart and large
# for the pole.
BALANCE = np.array([0.1, 0.3, 3.0, 1.0])

# MountainCar-v0, as gymnasium's source has it
POSITIONS, SPEEDS, GOAL = (-1.2, 0.6), (-0.07, 0.07), 0.5
FORCE, GRAVITY = 0.001, 0.0025
GRID = (361, 281)  # points of position and speed: 0.005 and 0.0005 apart
PATIENCE = 1e-3  # steps: value iteration has settled when nothing changes by more
AHEAD = 4  # steps that are looked ahead exactly


class Classic(GymWorld):
    """One of gymnasium's own environments, under a name of ours.

    NAME, ID: ours and gymnasium's
    """

    NAME: ClassVar[str]
    ID: ClassVar[str]

    def __init__(
        self,
        num: int = 1,
        device: str | torch.device = "cpu",
        max_steps: int | None = None,
        restart: bool = True,
        observation: str = "picture",
    ) -> None:
        super().__init__(self.ID, num, device, max_steps, restart, observation=observation)
        self.spec = replace(self.spec, name=self.NAME)


class CartPole(Classic):
    """`num` CartPole-v1; action (B,): 0 pushes to the left, 1 to the right; a reward of 1 a step, for at most 500."""

    NAME, ID = "cartpole", "CartPole-v1"
    MIRROR = (1, 0)

    def action_names(self) -> list[str]:
        return ["push left", "push right"]

    def expert_action(self) -> torch.Tensor:
        """(B,) int64: a linear law."""
        return self._tensor((np.stack(self._states) @ BALANCE > 0).astype(np.int64))


class MountainCar(Classic):
    """`num` MountainCar-v0; action (B,): 0 to the left, 1 nothing, 2 to the right; a reward of -1 a step, for at most
    200."""

    NAME, ID = "mountaincar", "MountainCar-v0"

    def action_names(self) -> list[str]:
        return ["accelerate left", "do not accelerate", "accelerate right"]

    def expert_action(self) -> torch.Tensor:
        """(B,) int64: the way that takes the fewest steps."""
        return self._tensor(quickest_action(np.stack(self._states)))


def drive(position: np.ndarray, speed: np.ndarray, action: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    """Position and speed a step later."""
    speed = np.clip(speed + (action - 1) * FORCE - GRAVITY * np.cos(3 * position), *SPEEDS)
    position = np.clip(position + speed, *POSITIONS)
    return position, np.where((position == POSITIONS[0]) & (speed < 0), 0.0, speed)


def corners(position: np.ndarray, speed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(index (4, ...) of the four grid points around each state, flat, and their weights (4, ...))."""
    i = (position - POSITIONS[0]) / (POSITIONS[1] - POSITIONS[0]) * (GRID[0] - 1)
    j = (speed - SPEEDS[0]) / (SPEEDS[1] - SPEEDS[0]) * (GRID[1] - 1)
    low_i, low_j = np.minimum(i.astype(int), GRID[0] - 2), np.minimum(j.astype(int), GRID[1] - 2)
    share_i, share_j = i - low_i, j - low_j
    index = np.stack([(low_i + a) * GRID[1] + low_j + b for a, b in product((0, 1), repeat=2)])
    weight = np.stack(
        [(share_i if a else 1 - share_i) * (share_j if b else 1 - share_j) for a, b in product((0, 1), repeat=2)]
    )
    return index, weight


@lru_cache(maxsize=1)
def steps_to_go() -> np.ndarray:
    """Steps the quickest driver takes to the goal from each grid point, flat: value iteration, multilinear between the
    points."""
    position, speed = (
        grid.ravel()
        for grid in np.meshgrid(np.linspace(*POSITIONS, GRID[0]), np.linspace(*SPEEDS, GRID[1]), indexing="ij")
    )
    ways = []
    for action in range(3):
        there = drive(position, speed, action)
        ways.append((*corners(*there), there[0] >= GOAL))
    steps = np.zeros(len(position))
    while True:
        better = np.min(
            [np.where(done, 1.0, 1 + (weight * steps[index]).sum(0)) for index, weight, done in ways], axis=0
        )
        if np.abs(better - steps).max() < PATIENCE:
            return better
        steps = better


def quickest_action(state: np.ndarray) -> np.ndarray:
    """(B,) int64 for states (B, 2): the first of the next few actions that lead, looked ahead exactly, to where the
    fewest steps are left."""
    plans = np.array(list(product(range(3), repeat=AHEAD)))  # (N, AHEAD)
    position, speed = (np.repeat(state[:, k : k + 1].astype(float), len(plans), 1) for k in (0, 1))  # (B, N)
    taken, arrived = np.zeros(position.shape), position >= GOAL
    for k in range(AHEAD):
        there = drive(position, speed, plans[:, k])
        taken += ~arrived
        position, speed = np.where(arrived, position, there[0]), np.where(arrived, speed, there[1])
        arrived |= position >= GOAL
    index, weight = corners(position, speed)
    left = np.where(arrived, 0.0, (weight * steps_to_go()[index]).sum(0))
    return plans[(taken + left).argmin(1), 0]
