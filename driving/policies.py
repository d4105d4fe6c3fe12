"""Drivers that need no training: brown and white noise, the world's expert and its simple drivers; and the names of
all that can drive a recording.

    policy = make_policy("brown", world)
    for moment in drive(world, policy, seeds, [np.random.default_rng([seed, 1]) for seed in seeds]):
        ...
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dreamdrive.driving.catalogue import NAMES, REFERENCES
from dreamdrive.driving.driver import Driver
from dreamdrive.envs import World
from dreamdrive.models.actor import Controls
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.spaces import ActionSpace

BROWN_DT = 1 / 50  # seconds; as in ctallec/world-models
HOLD = 0.9  # probability that a random discrete action is kept for another step
# of actions that are held: seconds, the most that an episode's controls are off their middle, and their spreads
HELD, MEAN, SPREADS = (0.16, 0.64), 0.5, (0.15, 0.8)
GOLDEN = (5**0.5 - 1) / 2


def make_policy(name: str, world: World) -> Driver:
    """The untrained driver called `name`, for `world`."""
    space = world.spec.space
    if name == "expert":
        return Expert(world)
    if name in REFERENCES:
        return Reference(world, name)
    if name == "brown":
        return Sticky(space) if space.discrete else Brown(space)
    if name == "held":
        return Sticky(space) if space.discrete else Held(world)
    if name == "white":
        return White(space)
    raise UserError(f'there is no policy "{name}": choose {", ".join(NAMES)}')


class Blind(Driver):
    """A driver that does not look."""

    def see(self, obs: Tensor) -> None:
        pass


class Drawn(Blind):
    """Random actions."""

    def __init__(self, space: ActionSpace) -> None:
        self.space = space

    def reset(self, num: int, rngs: Sequence[np.random.Generator] = (), parameters: Tensor | None = None) -> None:
        super().reset(num)
        self.rngs = list(rngs)
        self.action: np.ndarray | None = None  # (n, A) or (n,), the last one
        if len(self.rngs) != num:
            raise ValueError(f"{num} copies take one generator each, not {len(self.rngs)}")

    def keep(self, which: Tensor) -> None:
        super().keep(which)
        self.rngs = [rng for rng, kept in zip(self.rngs, which.tolist(), strict=True) if kept]
        self.action = None if self.action is None else self.action[which.cpu().numpy()]

    def choose(self) -> Tensor:
        self.action = self.draw(self.action)
        return torch.from_numpy(self.action.copy())

    def draw(self, before: np.ndarray | None) -> np.ndarray:
        """The next actions (n, A) or (n,), given the last ones; each copy's row is drawn from its generator alone."""
        return self.fresh()

    def fresh(self) -> np.ndarray:
        return np.stack([self.space.uniform(rng) for rng in self.rngs])


class White(Drawn):
    """Every action drawn afresh, uniformly."""


class Brown(Drawn):
    """Actions in Brownian motion from a uniform start, clipped to the space: a += sqrt(dt) N(0, 1)
    (ctallec/world-models, utils/misc.py)."""

    def draw(self, before: np.ndarray | None) -> np.ndarray:
        if before is None:
            return self.fresh()
        change = np.sqrt(BROWN_DT) * np.stack([rng.standard_normal(self.space.shape) for rng in self.rngs])
        return self.space.clip(before + change)


class Held(Drawn):
    """Controls (models.actor.Controls) that are held for a while, then drawn afresh around what the episode is about:
    each copy's have a mean and a spread of their own. It gets about, as Brownian motion does not where gas and brake
    are both down most of the time."""

    def __init__(self, world: World) -> None:
        super().__init__(world.spec.space)
        self.controls = Controls(self.space, world.OPPOSED)
        least, most = (max(1, round(seconds / world.spec.dt)) for seconds in HELD)
        self.bounds = least, most + 1

    def reset(self, num: int, rngs: Sequence[np.random.Generator] = (), parameters: Tensor | None = None) -> None:
        super().reset(num, rngs, parameters)
        size = self.controls.size
        self.mean = np.stack([rng.uniform(-MEAN, MEAN, size) for rng in self.rngs])  # (n, C)
        self.spread = np.stack([rng.uniform(*SPREADS, size) for rng in self.rngs])
        self.left = np.zeros(num, np.int64)  # (n,) steps that the action is held for

    def keep(self, which: Tensor) -> None:
        super().keep(which)
        kept = which.cpu().numpy()
        self.mean, self.spread, self.left = self.mean[kept], self.spread[kept], self.left[kept]

    def draw(self, before: np.ndarray | None) -> np.ndarray:
        action = np.zeros((self.num, self.space.size), np.float32) if before is None else before.copy()
        for row in np.flatnonzero(self.left == 0):
            rng = self.rngs[row]
            self.left[row] = rng.integers(*self.bounds)
            drawn = rng.normal(self.mean[row], self.spread[row]).clip(-1, 1).astype(np.float32)
            action[row] = self.space.action(self.controls(torch.from_numpy(drawn))).numpy()
        self.left -= 1
        return action


class Sticky(Drawn):
    """The like of Brownian motion for discrete actions: each is kept for a while, then drawn afresh."""

    def draw(self, before: np.ndarray | None) -> np.ndarray:
        fresh = self.fresh()
        held = np.array([rng.random() < HOLD for rng in self.rngs])
        return fresh if before is None else np.where(held, before, fresh)


class Expert(Blind):
    """The driver that the world brings along."""

    def __init__(self, world: World) -> None:
        self.world = world

    def choose(self) -> Tensor:
        return self.world.expert_action()[self.copies.to(self.world.device)]


class Reference(Blind):
    """A simple driver of the world's, to compare others with."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name

    def choose(self) -> Tensor:
        return self.world.reference_action(self.name)[self.copies.to(self.world.device)]


def draw_policy(mixture: dict[str, float], seed: int, i: int) -> str:
    """Which policy drives episode `i`: from (seed, i) alone, and spread so evenly that any stretch of episodes comes
    close to the shares."""
    position = (np.random.default_rng(seed).random() + i * GOLDEN) % 1  # a golden-ratio sequence
    bounds = np.cumsum(list(mixture.values()))
    return list(mixture)[min(int(np.searchsorted(bounds, position, side="right")), len(mixture) - 1)]
