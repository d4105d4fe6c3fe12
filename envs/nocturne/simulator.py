"""Traffic in motion: B copies of scenes, every object driven by a bicycle model or replaying its log, all copies and
objects as one batch.

The rules are Nocturne's (Vinitsky et al. 2022), as measured on Nocturne itself.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dreamdrive.envs.nocturne.scene import DT, GRID, STEPS, Scene
from dreamdrive.envs.nocturne.tables import Table, tables

VEHICLE, ROAD_EDGE = 1, 2  # values of Simulator.collision besides 0
GOAL_DISTANCE, GOAL_SPEED, GOAL_HEADING = 1.0, 1.0, 0.3  # m, m/s, rad: Nocturne's reinforcement-learning rule
LOG_END = STEPS - 1


class Simulator:
    """B copies of scenes, padded to N objects.

    sim = Simulator([load_scene(path)] * 256)
    sim.reset()
    sim.step(accel, steer, expert)         # (B, N) each

    Fields:
        scenes: B Scenes; the same one may be there many times, and is stored once
        origin (B, 2) float64: of each copy's scene, world metres
        local (B, N, 4) float32: x, y relative to the scene's origin, heading in [-pi, pi], speed (negative: backwards)
        collision (B, N) int8: 0 none, 1 with another object, 2 with a road edge (which outweighs 1), in the state the
        last step led to time (B,) int64: step of the log, 0 to 90
        present (B, N) bool: False for padding; there (B, N) bool: present, and not replaying a step at which the log
        does not have it
        length, width (B, N) float32; type (B, N) int64 into scene.OBJECTS; goal (B, N, 4) float32: x, y (local),
        heading, speed; log (B, N, 91, 4) likewise
        last_input (B, N, 2) float32: acceleration and steering that driven objects have had last
    """

    def __init__(
        self, scenes: Sequence[Scene], device: str | torch.device = "cpu", collisions: str = "controlled"
    ) -> None:
        """`collisions`: "controlled" leaves `collision` at 0 for objects that replay the log, "all" computes it for
        them, too."""
        if not scenes:
            raise ValueError("a simulator needs at least one scene")
        if collisions not in ("controlled", "all"):
            raise ValueError(f'collisions are computed for "controlled" or "all" objects, not "{collisions}"')
        self.scenes, self.device, self.all_collide = list(scenes), torch.device(device), collisions == "all"
        self._objects, self._edges = Table(len(scenes), self.device), Table(len(scenes), self.device)
        self._map: Table | None = None  # made when somebody looks
        self._latest = np.zeros(len(scenes), np.int64)  # `time`, where looking at it costs nothing
        self.time = torch.zeros(len(scenes), dtype=torch.int64, device=self.device)
        self.origin = torch.zeros(len(scenes), 2, dtype=torch.float64, device=self.device)
        self._copies = torch.arange(len(scenes), device=self.device)
        self.reset(range(len(scenes)), scenes)

    def reset(self, copies: Sequence[int] | None = None, scenes: Sequence[Scene] | None = None, time: int = 0) -> None:
        """Put copies, by default all, back to step `time` of their logs; with `scenes`, one a copy, of another
        scene's."""
        copies = range(len(self.scenes)) if copies is None else list(copies)
        for copy, scene in zip(copies, scenes, strict=True) if scenes is not None else ():
            self.scenes[copy] = scene
            self.origin[copy] = torch.from_numpy(scene.origin)
            self._objects.put(copy, tables(scene)["objects"])
            self._edges.put(copy, tables(scene)["edges"])
            if self._map is not None:
                self._map.put(copy, tables(scene)["map"])
        if scenes is not None:
            self._grow()
        which = torch.as_tensor(copies, device=self.device)
        self._latest[list(copies)] = time
        self.time[which] = time
        self.last_input[which] = 0.0
        self.local[which] = self._objects["log"][which, :, time]
        self.there[which] = self._objects["valid"][which, :, time]
        self.collision[which] = 0
        if self.all_collide:
            self.collision[which] = self._collisions(self.there)[which]

    def _grow(self) -> None:
        """Give what changes from step to step as many objects as the scenes have now."""

        def grown(name: str, trailing: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            old = getattr(self, name, torch.empty(len(self.scenes), 0, *trailing, dtype=dtype, device=self.device))
            new = torch.zeros(*self.present.shape, *trailing, dtype=dtype, device=self.device)
            new[:, : old.shape[1]] = old[:, : new.shape[1]]
            return new

        self.local, self.last_input = grown("local", (4,), torch.float32), grown("last_input", (2,), torch.float32)
        self.there, self.collision = grown("there", (), torch.bool), grown("collision", (), torch.int8)

    present = property(lambda self: self._objects["present"])
    length = property(lambda self: self._objects["length"])
    width = property(lambda self: self._objects["width"])
    type = property(lambda self: self._objects["type"])
    goal = property(lambda self: self._objects["goal"])
    log = property(lambda self: self._objects["log"])
    edges = property(lambda self: self._edges)

    @property
    def map(self) -> Table:
        """What does not move, for those who look at it: see tables.map_table."""
        if self._map is None:
            self._map = Table(len(self.scenes), self.device)
            for copy, scene in enumerate(self.scenes):
                self._map.put(copy, tables(scene)["map"])
        return self._map

    @property
    def state(self) -> Tensor:
        """(B, N, 4) float64: world x, y, heading, speed."""
        state = self.local.double()
        state[..., :2] += self.origin[:, None]
        return state

    def step(
        self,
        accel: Tensor,
        steer: Tensor,
        expert: Tensor,
        dt: float = DT,
        going: np.ndarray | None = None,
        others: tuple[Tensor, Tensor] | None = None,
        placed: Tensor | None = None,
    ) -> None:
        """Advance every copy.

        accel, steer (B, N): m/s^2 and rad of the objects that are driven, unbounded; NaN (Nocturne's None) leaves an
            object's last input, 0 after `reset`.
        expert (B, N) bool: those that are set to the log's next step instead, whether the log has them there or not.
        dt: seconds; the log's clock advances by whole steps only, so with less than 0.1 s it stands. ValueError past
            the log's end.
        going (B,) bool: copies that move; the others stay as they are.
        others: (B, N, 4) and (B, N), where those of `expert` are put instead, and whether they are there.
        placed (B, N, 4): states, like `local`, that driven objects are put into whatever their inputs; NaN for none.
        """
        steps = int(np.float32(dt) / np.float32(DT)) * (
            np.ones(len(self.scenes), np.int64) if going is None else going.astype(np.int64)
        )
        if (self._latest + steps).max() > LOG_END:
            raise ValueError(
                f"the log ends at step {LOG_END}, and step {(self._latest + steps).max()} was asked for: reset first"
            )
        before = None if going is None else (self.local, self.there, self.collision, self.last_input)
        self._latest += steps
        self.time += torch.from_numpy(steps).to(self.device)
        asked = torch.stack([accel, steer], -1).to(self.last_input)
        self.last_input = torch.where(asked.isnan(), self.last_input, asked)
        driven = bicycle(self.local, self.last_input[..., 0], self.last_input[..., 1], self.length, dt)
        if placed is not None:
            driven = torch.where(placed.isnan(), driven, placed)
        replay = expert & self.present
        now = (self._copies, slice(None), self.time)
        local, there = (self._objects["log"][now], self._objects["valid"][now]) if others is None else others
        self.local = torch.where(replay[..., None], local, driven)
        self.there = torch.where(replay, there, self.there)
        self.collision = self._collisions(self.there if self.all_collide else self.there & ~replay)
        if going is not None and before is not None:
            move = torch.from_numpy(going).to(self.device)[:, None]
            after = (self.local, self.there, self.collision, self.last_input)
            self.local, self.there, self.collision, self.last_input = (
                torch.where(move[..., None] if new.dim() == 3 else move, new, old)
                for new, old in zip(after, before, strict=True)
            )

    def expert_action(self) -> Tensor:
        """(B, N, 2): what the log does now, acceleration and steering; NaN where that is not defined (see
        Scene.expert_action) and at the log's end."""
        action = self._objects["expert"][self._copies, :, self.time.clamp(max=LOG_END - 1)]
        return torch.where((self.time < LOG_END)[:, None, None], action, torch.nan)

    def logged(self, ahead: int = 0) -> tuple[Tensor, Tensor]:
        """The log `ahead` steps from now, (B, N, 4) like `local`, its gaps bridged, and (B, N) whether it has the
        object then; past the end its last step."""
        at = (self._copies, slice(None), (self.time + ahead).clamp(max=LOG_END))
        return self._objects["track"][at], self._objects["valid"][at]

    def goal_distance(self) -> Tensor:
        """(B, N) metres between the centre and the goal."""
        return torch.linalg.vector_norm(self.local[..., :2] - self.goal[..., :2], dim=-1)

    def at_goal(self) -> Tensor:
        """(B, N) bool: within 1 m, 1 m/s and 0.3 rad of the goal (Nocturne's reinforcement-learning rule)."""
        turn = wrap(self.local[..., 2] - self.goal[..., 2]).abs()
        return (
            (self.goal_distance() < GOAL_DISTANCE)
            & ((self.local[..., 3] - self.goal[..., 3]).abs() < GOAL_SPEED)
            & (turn < GOAL_HEADING)
        )

    def _collisions(self, asked: Tensor) -> Tensor:
        """(B, N) int8 for the objects of `asked` (B, N); 0 for the others."""
        copy, who = asked.nonzero(as_tuple=True)
        box = Boxes.of(self.local[copy, who], self.length[copy, who], self.width[copy, who])
        others = Boxes.of(self.local, self.length, self.width)
        near = self.there[copy]
        near[torch.arange(len(who), device=self.device), who] = False
        hit = (near & overlap(box.unsqueeze(), others[copy])).any(1)
        kind = torch.where(touches_edge(self._edges, copy, box), ROAD_EDGE, hit.to(torch.int8) * VEHICLE).to(torch.int8)
        return torch.zeros_like(self.collision).index_put((copy, who), kind)


def wrap(angle: Tensor) -> Tensor:
    """An angle's equal in [-pi, pi]."""
    return torch.remainder(angle + torch.pi, 2 * torch.pi) - torch.pi


def bicycle(state: Tensor, accel: Tensor, steer: Tensor, length: Tensor, dt: float) -> Tensor:
    """One step (..., 4) of the kinematic bicycle with its centre of mass in the middle (Rajamani 2011, section 2.2):
    constant acceleration, and yaw rate and course of the step's beginning. No limits; a negative speed is backwards."""
    x, y, heading, speed = state.unbind(-1)
    mean = speed + accel * (dt / 2)
    half_slope = torch.tan(steer) / 2
    slip = torch.atan(half_slope)
    turn = dt * mean * torch.cos(slip) * 2 * half_slope / length.clamp(min=1e-6)  # padding has no length
    return torch.stack(
        [
            x + dt * mean * torch.cos(heading + slip),
            y + dt * mean * torch.sin(heading + slip),
            wrap(heading + turn),
            speed + accel * dt,
        ],
        -1,
    )


class Boxes:
    """Rectangles: centre x, y, heading's cosine and sine, half the length, half the width, each of one shape (...)."""

    def __init__(self, x: Tensor, y: Tensor, cos: Tensor, sin: Tensor, half_length: Tensor, half_width: Tensor) -> None:
        self.x, self.y, self.cos, self.sin, self.half_length, self.half_width = x, y, cos, sin, half_length, half_width

    @classmethod
    def of(cls, state: Tensor, length: Tensor, width: Tensor) -> "Boxes":
        return cls(
            state[..., 0], state[..., 1], torch.cos(state[..., 2]), torch.sin(state[..., 2]), length / 2, width / 2
        )

    def _fields(self) -> tuple[Tensor, ...]:
        return self.x, self.y, self.cos, self.sin, self.half_length, self.half_width

    def __getitem__(self, index) -> "Boxes":
        return Boxes(*(field[index] for field in self._fields()))

    def unsqueeze(self) -> "Boxes":
        return Boxes(*(field.unsqueeze(-1) for field in self._fields()))


def overlap(a: Boxes, b: Boxes) -> Tensor:
    """Whether rectangles of `a` and `b` (broadcast) meet: their bounding boxes overlap, and no side of either separates
    them (Gottschalk et al. 1996)."""
    dx, dy = b.x - a.x, b.y - a.y
    upright = (
        dx.abs()
        < a.half_length * a.cos.abs()
        + a.half_width * a.sin.abs()
        + b.half_length * b.cos.abs()
        + b.half_width * b.sin.abs()
    ) & (
        dy.abs()
        < a.half_length * a.sin.abs()
        + a.half_width * a.cos.abs()
        + b.half_length * b.sin.abs()
        + b.half_width * b.cos.abs()
    )
    along, across = (a.cos * b.cos + a.sin * b.sin).abs(), (a.cos * b.sin - a.sin * b.cos).abs()
    apart = (dx * a.cos + dy * a.sin).abs() > a.half_length + b.half_length * along + b.half_width * across
    apart |= (dy * a.cos - dx * a.sin).abs() > a.half_width + b.half_length * across + b.half_width * along
    apart |= (dx * b.cos + dy * b.sin).abs() > b.half_length + a.half_length * along + a.half_width * across
    apart |= (dy * b.cos - dx * b.sin).abs() > b.half_width + a.half_length * across + a.half_width * along
    return upright & ~apart


def touches_edge(edges: Table, copy: Tensor, box: Boxes) -> Tensor:
    """(Q,) bool: whether boxes (Q,) in copies (Q,) meet a road edge (tables.edge_table); being around a whole segment
    counts."""
    cell = torch.floor((torch.stack([box.x, box.y], -1) - edges["corner"][copy, 0]) / GRID)
    inside = ((cell >= 0) & (cell < edges["shape"][copy, 0])).all(-1)
    cell = torch.where(inside[:, None], cell, 0.0).long()
    number = cell[:, 1] * edges["shape"][copy, 0, 0] + cell[:, 0]
    first = edges["starts"][copy, number]
    count = torch.where(inside, edges["starts"][copy, number + 1] - first, 0)
    most = int(count.max()) if len(count) else 0
    if not most:
        return torch.zeros(len(copy), dtype=torch.bool, device=copy.device)
    column = torch.arange(most, device=copy.device)
    listed = column < count[:, None]
    mx, my, hx, hy = edges["segments"][
        copy[:, None], edges["lists"][copy[:, None], torch.where(listed, first[:, None] + column, 0)].long()
    ].unbind(-1)
    box = box.unsqueeze()
    mx, my = mx - box.x, my - box.y
    mx, my = mx * box.cos + my * box.sin, my * box.cos - mx * box.sin
    hx, hy = hx * box.cos + hy * box.sin, hy * box.cos - hx * box.sin
    meets = (
        (mx.abs() <= box.half_length + hx.abs())
        & (my.abs() <= box.half_width + hy.abs())
        & ((mx * hy - my * hx).abs() <= box.half_length * hy.abs() + box.half_width * hx.abs())
    )
    return (meets & listed).any(1)
