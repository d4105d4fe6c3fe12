"""Worlds: anything that steps a batch. `make` builds one by name; simulators, fast simulators and the dream are all
used the same way.

    world = make("carracing", num=4)
    obs = world.reset(seed=7)                  # (B, H, W, C) uint8; copy b gets seed 7 + b
    step = world.step(action)                  # action (B, A) float32, or (B,) int64 for a discrete space
    step.obs, step.reward, step.terminated, step.truncated, step.info

Restart rule. With `restart=True` (the default) a copy that ends is restarted within the same step: `step.obs` already
shows the first frame of its next episode, `step.info["final_obs"]` (B, H, W, C) the last frame of the one that ended
(for the other copies it equals `step.obs`), and copy b's n-th restart uses seed `seed_b + n * num` when seeds followed
from one int, and `seed_b + n` when they were given one by one. With `restart=False` a copy that ends is frozen until
`reset`: it keeps its last frame, gets reward 0 and stays terminated or truncated.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

from dreamdrive.envs.catalogue import (
    HOLD,
    NOISE,
    OBSERVATION_NOISE,
    REPEAT,
    Listed,
    Option,
    all_options,
    defaults,
    fast,
    known,
    listed,
    official,
    require_options,
    trials,
    without_places,
)
from dreamdrive.utils.errors import UserError

if TYPE_CHECKING:  # none of them is needed to know of a world
    import gymnasium as gym
    import numpy as np
    import torch

    from dreamdrive.utils.keys import Keys
    from dreamdrive.utils.spaces import ActionSpace

__all__ = [
    "HOLD",
    "NOISE",
    "OBSERVATION_NOISE",
    "REPEAT",
    "Listed",
    "Option",
    "Step",
    "World",
    "WorldSpec",
    "all_options",
    "defaults",
    "fast",
    "keys",
    "make",
    "named_actions",
    "official",
    "require_options",
    "trials",
    "without_places",
    "world_class",
]

NAMED = ("atari", "cartpole", "mountaincar")  # worlds of choices that have names


@dataclass(frozen=True)
class WorldSpec:
    """What a world is: all that later stages need to know of it.

    Fields:
        name: as in `--env`, e.g. "carracing", "atari:Breakout" or "gym:CartPole-v1"
        image_shape: (H, W, C) of `obs`, uint8; or (S,) of a world that is observed as S numbers, float32
        action_space: gymnasium Box of shape (A,), or Discrete
        dt: seconds a step lasts
        max_steps: steps after which an episode is truncated
        action_scale: typical size of each component of a Box, which networks see actions in units of; None for 1
        options: what else `make` needs to build the same world again, as plain values
        action_center: where these units begin; None for 0

    A step is what an action leads to: where one is held for several steps of the simulator (--repeat), these are one
    step here.
    """

    name: str
    image_shape: tuple[int, ...]
    action_space: gym.Space
    dt: float
    max_steps: int
    action_scale: tuple[float, ...] | None = None
    options: dict = field(default_factory=dict)
    action_center: tuple[float, ...] | None = None

    @property
    def pictures(self) -> bool:
        """Whether observations are pictures, not numbers."""
        return len(self.image_shape) == 3

    @cached_property
    def space(self) -> ActionSpace:
        """The action space, with all that networks, drivers and files need of it."""
        from dreamdrive.utils.spaces import ActionSpace

        return ActionSpace.from_gym(self.action_space, self.action_scale, self.action_center)

    @property
    def repeat(self) -> int:
        """How many steps of the simulator an action is held for; the last step of an episode may have fewer."""
        return self.options.get(REPEAT, 1)

    @property
    def plain_action_space(self) -> dict:
        """The action space as manifests and checkpoints hold it."""
        return self.space.to_dict()


@dataclass
class Step:
    """What one step of a world gives; B copies.

    Fields:
        obs: uint8 (B, H, W, C), or float32 (B, S): see WorldSpec
        reward: float32 (B,)
        terminated, truncated: bool (B,)
        info: dict; "final_obs" is always there (see the restart rule)
    """

    obs: torch.Tensor
    reward: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    info: dict = field(default_factory=dict)


class World(ABC):
    """B copies of a simulator, or of a dream, stepped together.

    What is known of a world without making one, beside what envs/catalogue.py lists:
        NUMBERS: the value of its option `observation` that shows numbers; None where it is seen as pictures only
        SCORED_WITH: options that it is scored with
        DETAILS: outcomes that are printed over all episodes only, not place by place
        SUBSETS: outcomes (see `outcome`) that are 1 or 0 and say which episodes scores are told of apart, too
        keys: what keys do for a person who drives it
        OPPOSED: pairs of numbers of an action that nobody wants at once, as gas and brake
        MIRROR: of a world that is the same with left and right swapped, what each number of an action is multiplied by
            there, or what each choice becomes; None for any other
    """

    NUMBERS: ClassVar[str | None] = None
    SCORED_WITH: ClassVar[dict[str, Any]] = {}
    SUBSETS: ClassVar[tuple[str, ...]] = ()
    DETAILS: ClassVar[tuple[str, ...]] = ()
    OPPOSED: ClassVar[tuple[tuple[int, int], ...]] = ()
    MIRROR: ClassVar[tuple[float, ...] | None] = None

    spec: WorldSpec
    num: int
    device: torch.device
    seen_apart: bool = False  # whether `render` shows something else than a frame does, larger
    episodes: int | None = None  # different ones that recording seeds lead to, where their number is limited

    @abstractmethod
    def reset(self, seed: int | Sequence[int]) -> torch.Tensor:
        """Start every copy afresh and return obs (B, H, W, C). An int seeds copy b with seed + b; a sequence gives one
        seed a copy."""

    @abstractmethod
    def step(self, action: torch.Tensor) -> Step:
        """Advance every copy by one step; action (B, A) float32 within the action space, or (B,) int64."""

    def truncate(self, copies: Sequence[int]) -> None:
        """End the episodes of some copies now; for worlds with restart=False."""
        raise UserError(f"{self.spec.name} cannot end an episode before its time: use --give-up 0")

    def expert_action(self) -> torch.Tensor:
        """What the world's own expert would do now, shaped like `action`; UserError where a world has none."""
        raise UserError(f"{self.spec.name} has no expert of its own: choose another --policy or --controller")

    def reference_action(self, name: str) -> torch.Tensor:
        """What one of the world's simple drivers, to compare others with, would do now, shaped like `action`; UserError
        where a world has none of that name."""
        raise UserError(f'{self.spec.name} has no driver "{name}": choose another --policy or --controller')

    @classmethod
    def prepare(cls, **options: Any) -> Callable[[int], Any]:
        """Do once what several processes that make such worlds would each do at first. Gives what says which episode a
        seed leads to, for worlds in which several lead to the same."""
        return lambda seed: seed

    def action_names(self) -> list[str]:
        """What each choice of a Discrete action space means; empty where nobody knows."""
        return []

    @classmethod
    def keys(cls, space: ActionSpace) -> Keys:
        """What keys do for a person who drives such a world, whose action space that is, with names where it has any:
        by default what the space suggests."""
        from dreamdrive.utils.keys import usual_keys

        return usual_keys(space)

    def keyboard(self) -> Keys:
        """The keys of this one."""
        return self.keys(replace(self.spec.space, names=tuple(self.action_names())))

    def outcome(self) -> dict[str, torch.Tensor]:
        """What became of each copy's episode so far besides its return, by name: numbers (B,). A mean over episodes
        goes by the same name."""
        return {}

    def places(self) -> list[str]:
        """Where each copy's episode happens, for worlds with places that have names."""
        return [""] * self.num

    def held_out(self, seed: int) -> bool | None:
        """Whether a recording seed leads to a place that is kept for validation and model selection; None if the world
        keeps none apart."""
        return None

    def render(self, copy: int = 0) -> np.ndarray:
        """A picture for people of one copy, uint8 (h, w, 3), at whatever size the simulator draws; by default the frame
        itself."""
        raise UserError(f"{self.spec.name} has no picture of its own")

    def hold(self, steps: int) -> None:
        """Every action is held for so many steps of the simulator from now on, which are one step of the world: its
        reward is theirs together, and nothing is seen between them. For worlds that have the option HOLD."""
        raise UserError(f"{self.spec.name} cannot hold an action: leave --{REPEAT} away")

    def blur(self, std: float) -> None:
        """What is seen is noisy from the next reset on (envs/noise.py). For worlds that have the option
        OBSERVATION_NOISE, and are seen as pictures."""
        raise UserError(f"{self.spec.name} cannot be seen with noise: leave --{NOISE.replace('_', '-')} away")

    def look_away(self) -> None:  # noqa: B027  most worlds draw for nothing, then
        """Nobody looks at obs from now on, so a world may save itself the drawing; all else stays as it is."""

    def close(self) -> None:  # noqa: B027  most worlds hold nothing
        """Release what the world holds."""

    def seeds(self, seed: int | Sequence[int]) -> tuple[list[int], int]:
        """(seed of each copy, what a restart adds to it)."""
        if isinstance(seed, (int, Integral)):  # Integral: also one of NumPy
            return [int(seed) + b for b in range(self.num)], self.num
        if len(seed) != self.num:
            raise ValueError(f"one seed a copy is wanted: {len(seed)} seeds for {self.num} copies")
        return [int(s) for s in seed], 1


@lru_cache(maxsize=1024)
def world_class(name: str) -> type[World]:
    """The class of the world of that `--env` name; UserError where there is none."""
    return _load(listed(name))


def _load(world: Listed) -> type[World]:
    module, name = world.place.split(":")
    return getattr(importlib.import_module(module), name)


def keys(name: str, space: ActionSpace) -> Keys:
    """The keys of a person who drives the world of that name, or dreams of it, in its action space."""
    found = known(name)
    return (_load(found) if found else World).keys(space)


def named_actions(name: str, space: ActionSpace) -> ActionSpace:
    """An action space of the world of that name, with names of its choices or numbers where there are any. The name may
    come from a file: nothing is imported that is not ours."""
    if not space.discrete:
        return keys(name, space).space
    if name.partition(":")[0] not in NAMED:
        return space
    try:
        world = make(name)
    except UserError:  # of a name that there is not, or without what the world needs
        return space
    names = tuple(world.action_names())
    world.close()
    return replace(space, names=names) if len(names) == space.n else space


def make(name: str, num: int = 1, device: str | torch.device = "cpu", **options) -> World:
    """Build a world of `num` copies by its `--env` name: one of WORLDS, those with a variant with that after a colon.

    Options common to all: `max_steps` (truncate earlier than the world itself would), `restart` (see the restart rule);
    those of single worlds are listed in envs/catalogue.py, among them `repeat` (see World.hold)
    and `obs_noise` (see World.blur). UserError for one that it does not have.
    """
    require_options(name, options)
    variant, found = name.partition(":")[2], world_class(name)
    repeat, noise = options.pop(REPEAT, 1), options.pop(NOISE, 0.0)
    if repeat > 1 and options.get("max_steps"):
        options["max_steps"] *= repeat  # of the simulator
    build: Callable[..., World] = found
    world = build(variant, num, device, **options) if listed(name).variant else build(num, device, **options)
    if repeat > 1:
        world.hold(repeat)
    if noise:
        world.blur(noise)
    return world
