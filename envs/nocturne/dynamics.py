"""How a driven object follows its actions: Nocturne's bicycle, or GPUDrive's "delta-local" and "state" (Kazemkhani et
al. 2025, after Gulino et al. 2023), which move it as they are told.

Each has its expert actions: what leads back to the log, and what the log itself does. Q objects `who` of copies `copy`,
(Q,) int64 each, are driven; actions are (Q, A) float32.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from dreamdrive.envs.catalogue import NOCTURNE_DYNAMICS
from dreamdrive.envs.nocturne.actions import ActionGrid
from dreamdrive.envs.nocturne.expert import corrective_action
from dreamdrive.envs.nocturne.scene import DT
from dreamdrive.envs.nocturne.simulator import Simulator, wrap

FURTHEST, FASTEST = 10_000.0, 100.0  # m from the scene's origin, m/s: of the states that can be asked for


class Dynamics(ABC):
    """One way to drive.

    Fields:
        bounds: of each number of an action, to either side of 0; scale: typical sizes
    """

    bounds: tuple[float, ...]
    scale: tuple[float, ...]

    @abstractmethod
    def command(self, sim: Simulator, copy: Tensor, who: Tensor, action: Tensor) -> dict[str, Any]:
        """What `Simulator.step` is to be given for actions."""

    @abstractmethod
    def expert(self, sim: Simulator, copy: Tensor, who: Tensor) -> Tensor:
        """Actions that lead objects, wherever they are, back to their logs; on the log, its own."""

    @abstractmethod
    def log(self, sim: Simulator, copy: Tensor, who: Tensor) -> Tensor:
        """What the log does now, wherever the objects are."""

    @abstractmethod
    def constant(self, sim: Simulator, copy: Tensor, who: Tensor) -> Tensor:
        """What keeps speed and heading."""


class Bicycle(Dynamics):
    """Acceleration and steering, (Q, 2): simulator.bicycle."""

    scale = (2.0, 0.1)  # m/s^2, rad

    def __init__(self, grid: ActionGrid) -> None:
        self.bounds = (grid.accel, grid.steer)

    def command(self, sim: Simulator, copy: Tensor, who: Tensor, action: Tensor) -> dict[str, Any]:
        accel, steer = _spread(sim, copy, who, action, 0.0).unbind(-1)
        return {"accel": accel, "steer": steer}

    def expert(self, sim: Simulator, copy: Tensor, who: Tensor) -> Tensor:
        return corrective_action(sim, copy, who)

    def log(self, sim: Simulator, copy: Tensor, who: Tensor) -> Tensor:
        return sim.expert_action()[copy, who].nan_to_num(0.0)

    def constant(self, sim: Simulator, copy: Tensor, who: Tensor) -> Tensor:
        return torch.zeros(len(who), 2, device=sim.device)


class Placed(Dynamics):
    """What puts an object where its action says; acceleration and steering, which the feature vector has, stay 0."""

    def command(self, sim: Simulator, copy: Tensor, who: Tensor, action: Tensor) -> dict[str, Any]:
        zero = torch.zeros_like(sim.length)
        state = self.moved(sim.local[copy, who], action)
        return {"accel": zero, "steer": zero, "placed": _spread(sim, copy, who, state, torch.nan)}

    def expert(self, sim: Simulator, copy: Tensor, who: Tensor) -> Tensor:
        now = sim.local[copy, who]
        return self.action(now, _next(sim, copy, who, now))

    def log(self, sim: Simulator, copy: Tensor, who: Tensor) -> Tensor:
        now = sim.logged()[0][copy, who]
        return self.action(now, _next(sim, copy, who, now))

    def constant(self, sim: Simulator, copy: Tensor, who: Tensor) -> Tensor:
        now = sim.local[copy, who]
        return self.action(now, _rolled(now))

    @abstractmethod
    def moved(self, state: Tensor, action: Tensor) -> Tensor:
        """States (Q, 4) a step after states (Q, 4)."""

    @abstractmethod
    def action(self, state: Tensor, wanted: Tensor) -> Tensor:
        """What leads from states to states (Q, 4), as far as there is such an action."""


class DeltaLocal(Placed):
    """How far an object moves forward and to the left, m, and turns, rad, in a step, (Q, 3). Its speed is what the way
    takes, negative where it goes backwards."""

    bounds: tuple[float, ...] = (6.0, 6.0, torch.pi)  # Waymax's, as GPUDrive's own grid has them
    scale = (1.0, 0.1, 0.05)

    def moved(self, state: Tensor, action: Tensor) -> Tensor:
        x, y, heading, _ = state.unbind(-1)
        ahead, aside, turn = action.unbind(-1)
        cos, sin = torch.cos(heading), torch.sin(heading)
        speed = torch.copysign(torch.hypot(ahead, aside) / DT, ahead)
        return torch.stack(
            [x + ahead * cos - aside * sin, y + ahead * sin + aside * cos, wrap(heading + turn), speed], -1
        )

    def action(self, state: Tensor, wanted: Tensor) -> Tensor:
        dx, dy = (wanted - state)[..., :2].unbind(-1)
        cos, sin = torch.cos(state[..., 2]), torch.sin(state[..., 2])
        return torch.stack([dx * cos + dy * sin, dy * cos - dx * sin, wrap(wanted[..., 2] - state[..., 2])], -1)


class State(Placed):
    """The state itself that an object is put into, (Q, 4): x, y in m from the scene's origin, heading in rad, speed in
    m/s along it."""

    bounds: tuple[float, ...] = (FURTHEST, FURTHEST, torch.pi, FASTEST)
    scale = (50.0, 50.0, 1.5, 10.0)

    def moved(self, state: Tensor, action: Tensor) -> Tensor:
        return action

    def action(self, state: Tensor, wanted: Tensor) -> Tensor:
        return wanted


def make_dynamics(name: str, grid: ActionGrid) -> Dynamics:
    """One of NOCTURNE_DYNAMICS."""
    kinds = (lambda: Bicycle(grid), DeltaLocal, State)
    return dict(zip(NOCTURNE_DYNAMICS, kinds, strict=True))[name]()


def _spread(sim: Simulator, copy: Tensor, who: Tensor, values: Tensor, fill: float) -> Tensor:
    """(B, N, n) with values (Q, n) at the objects that are driven, and `fill` elsewhere."""
    found = torch.full((*sim.present.shape, values.shape[-1]), fill, dtype=torch.float32, device=sim.device)
    found[copy, who] = values.float()
    return found


def _next(sim: Simulator, copy: Tensor, who: Tensor, now: Tensor) -> Tensor:
    """(Q, 4): where the log has objects in a step; where it does not have them, as far as they roll from `now`."""
    log, there = sim.logged(1)
    return torch.where(there[copy, who][:, None], log[copy, who], _rolled(now))


def _rolled(state: Tensor) -> Tensor:
    """(Q, 4): a step later with the same heading and speed."""
    x, y, heading, speed = state.unbind(-1)
    return torch.stack([x + DT * speed * torch.cos(heading), y + DT * speed * torch.sin(heading), heading, speed], -1)
