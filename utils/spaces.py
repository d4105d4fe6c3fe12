"""Action spaces: what an action is in the environment, in networks, in files and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from dreamdrive.utils.errors import UserError

if TYPE_CHECKING:  # a manifest's space is known without either
    import gymnasium as gym
    import torch
    from torch import Tensor

LARGEST = 1e15  # a bound beyond it only says that there is none


@dataclass(frozen=True)
class ActionSpace:
    """What the actions of a world are: one of `n` choices, or A numbers between bounds (a box).

        space = world.spec.space
        space = ActionSpace.from_dict(manifest.action_space)     # the plain dict that manifests and checkpoints hold
        space = ActionSpace.from_gym(environment.action_space)

        space.vector(action)     # action (..., A) float32 or (...) int64 -> as networks see it, (..., size) float32
        space.action(outputs)    # and back: a head's raw outputs, or a vector, (..., size) -> action
        space.uniform(rng), space.clip(action), space.zeros(B), space.words(action)

    Networks see a choice one-hot, and the numbers of a box in units of `scale` from `center`. Only they and what is
    learnt or explored in their terms use these units: worlds, drivers, shards and people have the environment's own.

    Fields:
        n: how many choices there are; 0 for a box
        low, high: (A,) bounds of a box, finite
        scale, center: (A,) of a box, or None for 1 and 0, as in files written before there were these fields
        names: of the choices, or of the numbers of a box; empty where nobody knows. Neither stored nor compared
    """

    n: int = 0
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    scale: tuple[float, ...] | None = None
    center: tuple[float, ...] | None = None
    names: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if self.n < 0 or (self.n > 0) == (len(self.low) > 0):
            raise ValueError(f"an action space has either choices or numbers, not {self.n} and {len(self.low)}")
        for name, values in (("high", self.high), ("scale", self.scale), ("center", self.center)):
            if values is not None and len(values) != len(self.low):
                raise ValueError(f"{name} must have one value for each of {len(self.low)} numbers, not {len(values)}")
        bounds = np.array([self.low, self.high])
        if not np.isfinite(bounds).all() or (bounds[0] > bounds[1]).any():
            raise ValueError(f"the bounds of actions must be finite and in order, not {self.low} and {self.high}")
        if not all(0 < x < np.inf for x in self.scale or ()) or not np.isfinite(self.center or 0).all():
            raise ValueError(f"scale {self.scale} and center {self.center} must be finite, and the scale above 0")

    @staticmethod
    def from_dict(value: dict) -> ActionSpace:
        """The inverse of `to_dict`; KeyError, TypeError or ValueError where `value` is not what that gives."""
        if value["type"] == "discrete":
            return ActionSpace(int(value["n"]))
        if value["type"] != "box":
            raise ValueError(f'there is no action space of type "{value["type"]}"')
        low, high, scale, center = (
            tuple(map(float, value[name])) if name in value else None for name in ("low", "high", "scale", "center")
        )
        return ActionSpace(0, low or (), high or (), scale, center)

    def to_dict(self) -> dict:
        """Plain values: {"type": "discrete", "n"} or {"type": "box", "low", "high"}, with "scale" and "center" where
        there are any."""
        if self.discrete:
            return {"type": "discrete", "n": self.n}
        numbers = {"low": self.low, "high": self.high, "scale": self.scale, "center": self.center}
        return {"type": "box", **{name: list(values) for name, values in numbers.items() if values is not None}}

    @staticmethod
    def from_gym(
        space: gym.Space, scale: Sequence[float] | None = None, center: Sequence[float] | None = None
    ) -> ActionSpace:
        """Of gymnasium's Discrete(n) or one-dimensional Box with bounds; UserError for any other space."""
        import gymnasium as gym

        if isinstance(space, gym.spaces.Discrete) and space.start == 0:
            return ActionSpace(int(space.n))
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise UserError(f"action space {space} is not supported: it must be Discrete(n) or a one-dimensional Box")
        if not all((abs(bound.astype(np.float64)) < LARGEST).all() for bound in (space.low, space.high)):
            raise UserError(
                f"action space {space} has no bounds, and actions are measured by them: give it a low and a high that "
                "good actions lie between"
            )
        low, high = (tuple(map(float, bound)) for bound in (space.low, space.high))
        units = [None if values is None else tuple(map(float, values)) for values in (scale, center)]
        return ActionSpace(0, low, high, units[0], units[1])

    def to_gym(self) -> gym.Space:
        """Discrete(n), or a float32 Box."""
        import gymnasium as gym

        return gym.spaces.Discrete(self.n) if self.discrete else gym.spaces.Box(*self.bounds, dtype=np.float32)

    @property
    def discrete(self) -> bool:
        """Whether actions are choices."""
        return self.n > 0

    @property
    def size(self) -> int:
        """A: length of the vector that networks see, and of a head's outputs."""
        return self.n or len(self.low)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one action: () for a choice, (A,) for numbers."""
        return () if self.discrete else (self.size,)

    @property
    def dtype(self) -> np.dtype:
        """Of actions: int64 for choices, float32 for numbers."""
        return np.dtype(np.int64 if self.discrete else np.float32)

    @cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Low and high of a box, each (A,) float32."""
        return np.array(self.low, np.float32), np.array(self.high, np.float32)

    @cached_property
    def half_range(self) -> np.ndarray:
        """Half of what lies between the bounds of a box, (A,) float32."""
        low, high = self.bounds
        return (high - low) / 2

    def in_half_ranges(self) -> ActionSpace:
        """The same actions, seen by networks in units of half their range from its middle: -1 to 1. A number without a
        range, which always is the same, is 0 there."""
        if self.discrete:
            return self
        scale = tuple(float(x) or 1.0 for x in self.half_range)
        center = tuple((low + high) / 2 for low, high in zip(self.low, self.high, strict=True))
        return ActionSpace(0, self.low, self.high, scale, center, self.names)

    def same_actions(self, other: ActionSpace) -> bool:
        """Whether both spaces have the same actions, in whatever units networks see them."""
        return (self.n, self.low, self.high) == (other.n, other.low, other.high)

    def zeros(self, *batch: int, device: str | torch.device = "cpu") -> Tensor:
        """A batch of actions, all 0, to be filled: (*batch, A) float32 or (*batch) int64."""
        import torch

        kind = torch.int64 if self.discrete else torch.float32
        return torch.zeros(*batch, *self.shape, dtype=kind, device=device)

    def vector(self, action: Tensor) -> Tensor:
        """An action (..., A) or (...) as networks see it, (..., size) float32: a choice one-hot, the numbers of a box
        in units of its scale from its center."""
        if self.discrete:
            from torch.nn.functional import one_hot

            return one_hot(action.long(), self.n).float()
        action = action.float()
        if self.center is not None:
            action = action - constant(self.center, action.device)
        return action if self.scale is None else action / constant(self.scale, action.device)

    def action(self, outputs: Tensor) -> Tensor:
        """What a head's raw outputs (..., size) ask for: (...) int64, the choice whose output is largest; or (..., A),
        the outputs as a vector, clipped to the box."""
        if self.discrete:
            return outputs.argmax(-1)
        if self.scale is not None:
            outputs = outputs * constant(self.scale, outputs.device)
        if self.center is not None:
            outputs = outputs + constant(self.center, outputs.device)
        return outputs.maximum(constant(self.low, outputs.device)).minimum(constant(self.high, outputs.device))

    def checked(self, action: Tensor, num: int) -> np.ndarray:
        """Actions that a world of `num` copies is given, (B, A) clipped to the box, or (B,); UserError for NaN,
        infinity or a choice there is not."""
        import torch

        actions = torch.as_tensor(action).detach().cpu().numpy()
        if actions.shape != (num, *self.shape):
            raise ValueError(f"action has shape {actions.shape}, wanted {(num, *self.shape)}")
        if not self.discrete:
            if not np.isfinite(actions).all():
                raise UserError(
                    f"action {actions.tolist()} is not finite: look for NaN or infinity in the policy that chose it"
                )
            return self.clip(actions)
        if not np.issubdtype(actions.dtype, np.integer) or ((actions < 0) | (actions >= self.n)).any():
            raise UserError(
                f"action {actions.tolist()} is not possible: this world takes whole numbers from 0 to {self.n - 1}"
            )
        return actions

    def clip(self, action: np.ndarray) -> np.ndarray:
        """Actions (..., A) or (...) as `dtype` has them, numbers clipped to the box."""
        if self.discrete:
            return action.astype(np.int64)
        return np.clip(action, *self.bounds).astype(np.float32)

    def uniform(self, rng: np.random.Generator) -> np.ndarray:
        """One action drawn uniformly, (A,) float32 or () int64."""
        if self.discrete:
            return np.asarray(rng.integers(self.n))
        drawn = rng.uniform(*self.bounds)
        rng.standard_normal(self.shape)  # not used: older versions drew it, and datasets follow from what is drawn
        return self.clip(drawn)

    def words(self, action: np.ndarray | int) -> str:
        """One action, as a person would say it."""
        if self.discrete:
            return self.names[int(action)].lower() if self.names else f"action {int(action)}"
        numbers = [f"{value:+.2f}" for value in np.asarray(action).tolist()]
        if not self.names:
            return f"action {' '.join(numbers)}"
        return ", ".join(f"{name} {number}" for name, number in zip(self.names, numbers, strict=True))


@lru_cache(maxsize=256)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(A,) float32, made once for each device: a step then costs no copy to a GPU."""
    import torch

    with torch.inference_mode(False):  # or it could not be used in training later
        return torch.tensor(values, dtype=torch.float32, device=device)
