"""A disturbance that shows how to recover: bursts that push a driver off its line, and what it does to get back."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dreamdrive.driving.driver import Around, Driver
from dreamdrive.envs import WorldSpec

CALM = (0.6, 1.8)  # seconds between disturbances: time to recover, and to drive well
BURST = (0.2, 0.6)  # seconds a disturbance lasts: enough to leave the road's middle, seldom the road
CORRELATION = 0.2  # seconds after which 1/e of a disturbance is left


class Disturbed(Around):
    """A driver whose actions are disturbed, copy by copy, and that is told what was done instead."""

    def __init__(self, driver: Driver, disturbances: Sequence["Disturbance"]) -> None:
        super().__init__(driver)
        self._all = list(disturbances)

    def choose(self) -> Tensor:
        choice, copies = self.driver.choose().numpy(), self.copies.tolist()
        return torch.from_numpy(np.stack([self._all[b](action) for b, action in zip(copies, choice, strict=True)]))


class Disturbance:
    """What --action-noise adds to one driver's actions: calm stretches, and bursts that push it off its line, from
    which it then recovers.

    In a burst the push on each component is an Ornstein-Uhlenbeck process, so that it pulls one way for long enough to
    matter, with a spread of `scale` times the component's typical size (WorldSpec.action_scale; half its range where a
    world does not say). A discrete action is replaced, with probability `scale` a step, by one that is held for the
    burst.
    """

    def __init__(self, scale: float, spec: WorldSpec, rng: np.random.Generator):
        self.scale, self.space, self.rng = scale, spec.space, rng
        self.kept = np.exp(-spec.dt / CORRELATION)  # of a push, from a step to the next
        self._calm_steps, self._burst_steps = (
            (max(1, round(least / spec.dt)), max(1, round(most / spec.dt))) for least, most in (CALM, BURST)
        )
        typical = self.space.half_range if self.space.scale is None else np.array(self.space.scale, np.float32)
        self.spread = scale * typical
        self.calm = True
        least, most = self._calm_steps
        self.left = int(rng.integers(least, most, endpoint=least == most))

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """The action to execute, (A,) or (), instead of the driver's."""
        if self.scale == 0:
            return action
        if self.left == 0:
            self.calm = not self.calm
            least, most = self._calm_steps if self.calm else self._burst_steps
            self.left = int(self.rng.integers(least, most, endpoint=True))
            self.push = self._first_push()
        self.left -= 1
        return action if self.calm else self._push(action)

    def _first_push(self) -> np.ndarray:
        if self.space.discrete:
            return self.space.uniform(self.rng)
        return self.rng.standard_normal(self.space.shape)

    def _push(self, action: np.ndarray) -> np.ndarray:
        if self.space.discrete:
            return self.push if self.rng.random() < self.scale else action
        self.push = self.kept * self.push + np.sqrt(1 - self.kept**2) * self.rng.standard_normal(self.space.shape)
        return self.space.clip(action + self.spread * self.push)
