"""Who drives while recording: brown, white, expert, a trained controller or a clone, mixtures of them, and a
disturbance that shows how to recover.

A policy drives the B copies of a world:

    policy = make_policy("brown", world.spec)
    policy.reset([np.random.default_rng(b) for b in range(world.num)], world)
    action = policy.act(obs)                       # (B, A) float32, or (B,) int64 for a discrete space
    policy.follow(action)                          # or what was done instead
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dreamdrive.envs import World, WorldSpec
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.spaces import ActionSpace

BROWN_DT = 1 / 50  # seconds; as in ctallec/world-models
HOLD = 0.9  # probability that a random discrete action is kept for another step
CALM = (0.6, 1.8)  # seconds between disturbances: time to recover, and to drive well
BURST = (0.2, 0.6)  # seconds a disturbance lasts: enough to leave the road's middle, seldom the road
CORRELATION = 0.2  # seconds after which 1/e of a disturbance is left
GOLDEN = (5**0.5 - 1) / 2
REFERENCES = ("log", "constant")  # nocturne's: the log's own actions, and constant velocity
TRAINED = {"controller": "ctrl", "clone": "bc"}  # in a run: evolved, or cloned
NAMES = ("brown", "white", "expert", *REFERENCES, *TRAINED)


def make_policy(name: str, spec: WorldSpec, logdir: Path | None = None, checkpoint: str = "best.tar") -> "Policy":
    """The policy called `name` for worlds like `spec`; those of TRAINED come from `checkpoint` in `logdir`."""
    if name in TRAINED:
        if logdir is None:
            raise UserError(f"the policy {name} needs the folder of a trained run: give --logdir")
        return Controller(logdir, TRAINED[name], checkpoint)
    if name == "expert":
        return Expert()
    if name in REFERENCES:
        return Reference(name)
    if name == "brown":
        return Sticky(spec.space) if spec.space.discrete else Brown(spec.space)
    if name == "white":
        return White(spec.space)
    raise UserError(f'there is no policy "{name}": choose {", ".join(NAMES)}')


class Policy:
    """Maps what the copies of a world show to what they do."""

    def reset(self, rngs: Sequence[np.random.Generator], world: World) -> None:
        """Begin an episode in every copy; copy b draws from rngs[b] alone."""
        self.rngs, self.world = list(rngs), world

    def act(self, obs: torch.Tensor) -> torch.Tensor:
        """Actions (B, A) float32 or (B,) int64 for obs (B, H, W, C) uint8."""
        raise NotImplementedError

    def follow(self, action: torch.Tensor) -> None:
        """`action` was taken, shaped like what `act` answered, which a disturbance may have changed. Most policies
        remember nothing."""


class White(Policy):
    """Every action drawn afresh, uniformly."""

    def __init__(self, space: ActionSpace):
        self.space = space

    def act(self, obs: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.stack([self.space.uniform(rng) for rng in self.rngs]))


class Brown(Policy):
    """Actions in Brownian motion from a uniform start, clipped to the space: a += sqrt(dt) N(0, 1)
    (ctallec/world-models, utils/misc.py)."""

    def __init__(self, space: ActionSpace):
        self.space = space

    def reset(self, rngs: Sequence[np.random.Generator], world: World) -> None:
        super().reset(rngs, world)
        self.action = None

    def act(self, obs: torch.Tensor) -> torch.Tensor:
        if self.action is None:
            self.action = np.stack([self.space.uniform(rng) for rng in self.rngs])
        else:
            change = np.sqrt(BROWN_DT) * np.stack([rng.standard_normal(self.space.shape) for rng in self.rngs])
            self.action = self.space.clip(self.action + change)
        return torch.from_numpy(self.action.copy())


class Sticky(Policy):
    """The like of Brownian motion for discrete actions: each is kept for a while, then drawn afresh."""

    def __init__(self, space: ActionSpace):
        self.space = space

    def reset(self, rngs: Sequence[np.random.Generator], world: World) -> None:
        super().reset(rngs, world)
        self.action = None

    def act(self, obs: torch.Tensor) -> torch.Tensor:
        fresh = np.stack([self.space.uniform(rng) for rng in self.rngs])
        keep = np.array([rng.random() < HOLD for rng in self.rngs])
        self.action = fresh if self.action is None else np.where(keep, self.action, fresh)
        return torch.from_numpy(self.action.copy())


class Expert(Policy):
    """The driver the world brings along."""

    def act(self, obs: torch.Tensor) -> torch.Tensor:
        return self.world.expert_action()


class Reference(Policy):
    """A simple driver of the world's, to compare others with."""

    def __init__(self, name: str):
        self.name = name

    def act(self, obs: torch.Tensor) -> torch.Tensor:
        return self.world.reference_action(self.name)


class Controller(Policy):
    """The trained run in `logdir`, with its evolved ("ctrl") or cloned ("bc") controller."""

    def __init__(self, logdir: Path, controller: str, checkpoint: str):
        from dreamdrive.models.agent import load_agent

        self.agent = load_agent(logdir, controller, name=checkpoint)

    def reset(self, rngs: Sequence[np.random.Generator], world: World) -> None:
        super().reset(rngs, world)
        self.agent.reset(world.num)

    def act(self, obs: torch.Tensor) -> torch.Tensor:
        self.agent.see(obs)
        return self.agent.choose()

    def follow(self, action: torch.Tensor) -> None:
        self.agent.follow(action)


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
            tuple(max(1, round(seconds / spec.dt)) for seconds in span) for span in (CALM, BURST)
        )
        typical = self.space.half_range if self.space.scale is None else np.array(self.space.scale, np.float32)
        self.spread = scale * typical
        self.calm = True
        self.left = int(rng.integers(*self._calm_steps, endpoint=self._calm_steps[0] == self._calm_steps[1]))

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """The action to execute, (A,) or (), instead of the driver's."""
        if self.scale == 0:
            return action
        if self.left == 0:
            self.calm = not self.calm
            self.left = int(self.rng.integers(*(self._calm_steps if self.calm else self._burst_steps), endpoint=True))
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


def parse_mixture(text: str) -> dict[str, float]:
    """ "brown" as {"brown": 1}, "brown=0.5,expert=0.5" as {"brown": 0.5, "expert": 0.5}; UserError unless the shares
    add up to 1."""
    parts = [part.strip().partition("=") for part in text.split(",")]
    try:
        mixture = {name: float(share) if sign else 1.0 for name, sign, share in parts}
    except ValueError:
        mixture = {}
    shares = list(mixture.values())
    if (
        len(mixture) != len(parts)
        or not set(mixture) <= set(NAMES)
        or not all(0 < s <= 1 for s in shares)
        or abs(sum(shares) - 1) > 1e-6
    ):
        raise UserError(
            f'--policy "{text}" is not possible: give one of {", ".join(NAMES)}, or shares adding up to 1, as '
            "brown=0.5,expert=0.5 do"
        )
    return mixture


def draw_policy(mixture: dict[str, float], seed: int, i: int) -> str:
    """Which policy drives episode `i`: from (seed, i) alone, and spread so evenly that any stretch of episodes comes
    close to the shares."""
    position = (np.random.default_rng(seed).random() + i * GOLDEN) % 1  # a golden-ratio sequence
    bounds = np.cumsum(list(mixture.values()))
    return list(mixture)[min(int(np.searchsorted(bounds, position, side="right")), len(mixture) - 1)]
