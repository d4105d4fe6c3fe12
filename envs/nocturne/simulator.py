"""Traffic in motion: B copies of scenes, every object driven by a bicycle model or replaying its log, all copies and objects as one batch.

The rules are Nocturne's (Vinitsky et al. 2022), as measured on Nocturne itself.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from envs.nocturne.scene import DT, ROADS, STEPS, Scene

VEHICLE, ROAD_EDGE = 1, 2  # values of Simulator.collision besides 0
GOAL_DISTANCE, GOAL_SPEED, GOAL_HEADING = 1.0, 1.0, 0.3  # m, m/s, rad: Nocturne's reinforcement-learning rule
CELL = 8.0  # metres of the grid that road edges are looked up in
LOG_END = STEPS - 1


class Simulator:
    """B copies of scenes, padded to N objects.

    sim = Simulator([load_scene(path)] * 256)
    sim.reset()
    sim.step(accel, steer, expert)         # (B, N) each

    Fields:
        scenes: B Scenes; the same one may be there many times, and is stored once
        local (B, N, 4) float32: x, y relative to the scene's origin, heading in [-pi, pi], speed (negative: backwards)
        collision (B, N) int8: 0 none, 1 with another object, 2 with a road edge (which outweighs 1), in the state the last step led to
        time (B,) int64: step of the log, 0 to 90
        present (B, N) bool: False for padding; there (B, N) bool: present, and not replaying a step at which the log does not have it
        length, width (B, N) float32; type (B, N) int64 into scene.OBJECTS; goal (B, N, 4) float32: x, y (local), heading, speed
        last_input (B, N, 2) float32: acceleration and steering that driven objects have had last
    """

    def __init__(self, scenes: Sequence[Scene], device: str | torch.device = "cpu", collisions: str = "controlled") -> None:
        """`collisions`: "controlled" leaves `collision` at 0 for objects that replay the log, "all" computes it for them, too."""
        if not scenes:
            raise ValueError("a simulator needs at least one scene")
        if collisions not in ("controlled", "all"):
            raise ValueError(f'collisions are computed for "controlled" or "all" objects, not "{collisions}"')
        self.scenes, self.device, self.all_collide = list(scenes), torch.device(device), collisions == "all"
        self._distinct = distinct = list(dict.fromkeys(self.scenes))
        place = {scene: i for i, scene in enumerate(distinct)}
        self._scene = torch.tensor([place[scene] for scene in self.scenes], device=self.device)  # (B,) row of the tables
        objects = max(len(scene.ids) for scene in distinct)

        def padded(columns: list[np.ndarray], fill: float = 0.0) -> Tensor:
            return _padded(columns, objects, fill).to(self.device)

        self._log = padded([_log(scene) for scene in distinct])
        self._valid = padded([scene.valid for scene in distinct])
        self._expert = padded([scene.expert_action for scene in distinct], np.nan)
        self._edges = EdgeGrid(distinct, self.device)
        self.origin = torch.from_numpy(np.stack([scene.origin for scene in self.scenes])).to(self.device)  # (B, 2) float64
        pick = {name: padded([getattr(scene, name) for scene in distinct])[self._scene] for name in ("length", "width", "type")}
        self.length, self.width, self.type = pick["length"], pick["width"], pick["type"]
        self.goal = padded([_goal(scene) for scene in distinct])[self._scene]
        self.present = padded([np.ones(len(scene.ids), bool) for scene in distinct])[self._scene]
        shape = (len(self.scenes), objects)
        self.local = torch.empty(*shape, 4, device=self.device)
        self.there = torch.empty(shape, dtype=torch.bool, device=self.device)
        self.collision = torch.zeros(shape, dtype=torch.int8, device=self.device)
        self.time = torch.zeros(shape[0], dtype=torch.int64, device=self.device)
        self.last_input = torch.zeros(*shape, 2, device=self.device)
        self._latest = np.zeros(shape[0], np.int64)  # `time`, where looking at it costs nothing
        self.reset()

    @cached_property
    def map(self) -> "Map":
        """What does not move, for those who look at it."""
        return Map(self._distinct, self._scene, self.device)

    @property
    def state(self) -> Tensor:
        """(B, N, 4) float64: world x, y, heading, speed."""
        state = self.local.double()
        state[..., :2] += self.origin[:, None]
        return state

    def reset(self, copies: Sequence[int] | None = None) -> None:
        """Put copies, by default all, back to the log's first step."""
        which = torch.arange(len(self.scenes), device=self.device) if copies is None else torch.as_tensor(list(copies), device=self.device)
        self._latest[which.cpu().numpy()] = 0
        self.time[which] = 0
        self.last_input[which] = 0.0
        scene = self._scene[which]
        self.local[which] = self._log[scene, :, 0]
        self.there[which] = self._valid[scene, :, 0] & self.present[which]
        self.collision[which] = 0
        if self.all_collide:
            self.collision[which] = self._collisions(self.there)[which]

    def step(self, accel: Tensor, steer: Tensor, expert: Tensor, dt: float = DT) -> None:
        """Advance every copy.

        accel, steer (B, N): m/s^2 and rad of the objects that are driven, unbounded; NaN (Nocturne's None) leaves an object's last input, 0 after `reset`.
        expert (B, N) bool: those that are set to the log's next step instead, whether the log has them there or not.
        dt: seconds; the log's clock goes on by whole steps only, so with less than 0.1 s it stands. ValueError past the log's end.
        """
        self._latest += int(np.float32(dt) / np.float32(DT))
        if self._latest.max() > LOG_END:
            raise ValueError(f"the log ends at step {LOG_END}, and step {self._latest.max()} was asked for: reset first")
        self.time += int(np.float32(dt) / np.float32(DT))
        asked = torch.stack([accel, steer], -1).to(self.last_input)
        self.last_input = torch.where(asked.isnan(), self.last_input, asked)
        driven = bicycle(self.local, self.last_input[..., 0], self.last_input[..., 1], self.length, dt)
        copy = (self._scene, slice(None), self.time)
        replay = expert & self.present
        self.local = torch.where(replay[..., None], self._log[copy], driven)
        self.there = torch.where(replay, self._valid[copy], self.there)
        self.collision = self._collisions(self.there if self.all_collide else self.there & ~replay)

    def expert_action(self) -> Tensor:
        """(B, N, 2): what the log does now, acceleration and steering; NaN where that is not defined (see Scene.expert_action) and at the log's end."""
        action = self._expert[self._scene, :, self.time.clamp(max=LOG_END - 1)]
        return torch.where((self.time < LOG_END)[:, None, None], action, torch.nan)

    def logged(self, ahead: int = 0) -> tuple[Tensor, Tensor]:
        """The log `ahead` steps from now, (B, N, 4) like `local`, and (B, N) whether it has the object then; past the end its last step."""
        time = (self.time + ahead).clamp(max=LOG_END)
        return self._log[self._scene, :, time], self._valid[self._scene, :, time] & self.present

    def goal_distance(self) -> Tensor:
        """(B, N) metres between the centre and the goal."""
        return torch.linalg.vector_norm(self.local[..., :2] - self.goal[..., :2], dim=-1)

    def at_goal(self) -> Tensor:
        """(B, N) bool: within 1 m, 1 m/s and 0.3 rad of the goal (Nocturne's reinforcement-learning rule)."""
        turn = wrap(self.local[..., 2] - self.goal[..., 2]).abs()
        return (self.goal_distance() < GOAL_DISTANCE) & ((self.local[..., 3] - self.goal[..., 3]).abs() < GOAL_SPEED) & (turn < GOAL_HEADING)

    def _collisions(self, asked: Tensor) -> Tensor:
        """(B, N) int8 for the objects of `asked` (B, N); 0 for the others."""
        copy, who = asked.nonzero(as_tuple=True)
        box = Boxes.of(self.local[copy, who], self.length[copy, who], self.width[copy, who])
        others = Boxes.of(self.local, self.length, self.width)
        near = self.there[copy]
        near[torch.arange(len(who), device=self.device), who] = False
        hit = (near & overlap(box.unsqueeze(), others[copy])).any(1)
        kind = torch.where(self._edges.touch(self._scene[copy], box), ROAD_EDGE, hit.to(torch.int8) * VEHICLE).to(torch.int8)
        return torch.zeros_like(self.collision).index_put((copy, who), kind)


def wrap(angle: Tensor) -> Tensor:
    """An angle's equal in [-pi, pi]."""
    return torch.remainder(angle + torch.pi, 2 * torch.pi) - torch.pi


def bicycle(state: Tensor, accel: Tensor, steer: Tensor, length: Tensor, dt: float) -> Tensor:
    """One step (..., 4) of the kinematic bicycle with its centre of mass in the middle (Rajamani 2011, section 2.2): constant acceleration, and yaw rate and
    course of the step's beginning. No limits; a negative speed is backwards."""
    x, y, heading, speed = state.unbind(-1)
    mean = speed + accel * (dt / 2)
    half_slope = torch.tan(steer) / 2
    slip = torch.atan(half_slope)
    turn = dt * mean * torch.cos(slip) * 2 * half_slope / length.clamp(min=1e-6)  # padding has no length
    return torch.stack([x + dt * mean * torch.cos(heading + slip), y + dt * mean * torch.sin(heading + slip), wrap(heading + turn), speed + accel * dt], -1)


class Boxes:
    """Rectangles: centre x, y, heading's cosine and sine, half the length, half the width, each of one shape (...)."""

    def __init__(self, x: Tensor, y: Tensor, cos: Tensor, sin: Tensor, half_length: Tensor, half_width: Tensor) -> None:
        self.x, self.y, self.cos, self.sin, self.half_length, self.half_width = x, y, cos, sin, half_length, half_width

    @classmethod
    def of(cls, state: Tensor, length: Tensor, width: Tensor) -> "Boxes":
        return cls(state[..., 0], state[..., 1], torch.cos(state[..., 2]), torch.sin(state[..., 2]), length / 2, width / 2)

    def _fields(self) -> tuple[Tensor, ...]:
        return self.x, self.y, self.cos, self.sin, self.half_length, self.half_width

    def __getitem__(self, index) -> "Boxes":
        return Boxes(*(field[index] for field in self._fields()))

    def unsqueeze(self) -> "Boxes":
        return Boxes(*(field.unsqueeze(-1) for field in self._fields()))


def overlap(a: Boxes, b: Boxes) -> Tensor:
    """Whether rectangles of `a` and `b` (broadcast) meet: their bounding boxes overlap, and no side of either separates them (Gottschalk et al. 1996)."""
    dx, dy = b.x - a.x, b.y - a.y
    upright = ((dx.abs() < a.half_length * a.cos.abs() + a.half_width * a.sin.abs() + b.half_length * b.cos.abs() + b.half_width * b.sin.abs())
               & (dy.abs() < a.half_length * a.sin.abs() + a.half_width * a.cos.abs() + b.half_length * b.sin.abs() + b.half_width * b.cos.abs()))
    along, across = (a.cos * b.cos + a.sin * b.sin).abs(), (a.cos * b.sin - a.sin * b.cos).abs()
    apart = ((dx * a.cos + dy * a.sin).abs() > a.half_length + b.half_length * along + b.half_width * across)
    apart |= (dy * a.cos - dx * a.sin).abs() > a.half_width + b.half_length * across + b.half_width * along
    apart |= (dx * b.cos + dy * b.sin).abs() > b.half_length + a.half_length * along + a.half_width * across
    apart |= (dy * b.cos - dx * b.sin).abs() > b.half_width + a.half_length * across + a.half_width * along
    return upright & ~apart


class EdgeGrid:
    """The road edges of scenes, by place: every cell of a grid lists the segments that an object whose centre is in it could touch."""

    def __init__(self, scenes: Sequence[Scene], device: torch.device) -> None:
        segments, lists, starts, corners, shapes, offsets = [], [], [], [], [], []
        listed, cells = 0, 0
        for scene in scenes:
            ends = road_edges(scene)
            middle, half = (ends[:, 2:] + ends[:, :2]) / 2, (ends[:, 2:] - ends[:, :2]) / 2
            reach = np.hypot(scene.length, scene.width).max() / 2 + 0.01
            low, high = middle - np.abs(half) - reach, middle + np.abs(half) + reach
            corner = low.min(0, initial=np.inf) if len(ends) else np.zeros(2)
            first, last = ((edge - corner) // CELL for edge in (low, high))
            first, last = first.astype(np.int64), last.astype(np.int64)
            shape = last.max(0, initial=0) + 1
            spans = last - first + 1  # cells a segment is listed in, (S, 2)
            which = np.repeat(np.arange(len(ends)), spans.prod(1))
            within = np.arange(len(which)) - np.repeat(np.cumsum(spans.prod(1)) - spans.prod(1), spans.prod(1))
            cell = (first[which, 1] + within // spans[which, 0]) * shape[0] + first[which, 0] + within % spans[which, 0]
            order = np.argsort(cell, kind="stable")
            lists.append(which[order] + sum(map(len, segments)))
            starts.append(np.searchsorted(cell[order], np.arange(shape.prod())) + listed)
            segments.append(np.concatenate([middle, half], 1).astype(np.float32))
            corners.append(corner)
            shapes.append(shape)
            offsets.append(cells)
            listed, cells = listed + len(which), cells + int(shape.prod())
        self._segments = torch.from_numpy(np.concatenate(segments)).to(device)  # (S, 4): middle, half of the way from end to end
        self._lists = torch.from_numpy(np.concatenate(lists)).to(device)
        self._starts = torch.from_numpy(np.concatenate([*starts, [listed]])).to(device)
        self._corner = torch.from_numpy(np.stack(corners).astype(np.float32)).to(device)
        self._shape = torch.from_numpy(np.stack(shapes)).to(device)
        self._offset = torch.tensor(offsets, device=device)

    def touch(self, scene: Tensor, box: Boxes) -> Tensor:
        """(Q,) bool: whether boxes (Q,) in scenes (Q,) meet a road edge; being around a whole segment counts."""
        cell = torch.floor((torch.stack([box.x, box.y], -1) - self._corner[scene]) / CELL)
        inside = ((cell >= 0) & (cell < self._shape[scene])).all(-1)
        cell = torch.where(inside[:, None], cell, 0.0).long()
        number = torch.where(inside, self._offset[scene] + cell[:, 1] * self._shape[scene, 0] + cell[:, 0], 0)
        first = self._starts[number]
        count = torch.where(inside, self._starts[number + 1] - first, 0)
        most = int(count.max()) if len(count) else 0
        if not most:
            return torch.zeros(len(scene), dtype=torch.bool, device=scene.device)
        column = torch.arange(most, device=scene.device)
        listed = column < count[:, None]
        mx, my, hx, hy = self._segments[self._lists[torch.where(listed, first[:, None] + column, 0)]].unbind(-1)
        box = box.unsqueeze()
        mx, my = mx - box.x, my - box.y
        mx, my = mx * box.cos + my * box.sin, my * box.cos - mx * box.sin
        hx, hy = hx * box.cos + hy * box.sin, hy * box.cos - hx * box.sin
        meets = ((mx.abs() <= box.half_length + hx.abs()) & (my.abs() <= box.half_width + hy.abs())
                 & ((mx * hy - my * hx).abs() <= box.half_length * hy.abs() + box.half_width * hx.abs()))
        return (meets & listed).any(1)


class Map:
    """Roads, lights and stop signs of U scenes, positions relative to the scenes' origins, padded with NaN.

    Fields:
        scene (B,): row of each copy of a simulator
        road_points, road_next (U, M, 2) float32: points, and the way from each to the next one of its element (0 from the last); road_type (U, M) int64 into ROADS
        lights (U, L, 2), stop_signs (U, S, 2) float32; light_state (U, L, 91) int64 into LIGHTS
    """

    def __init__(self, scenes: Sequence[Scene], scene: Tensor, device: torch.device) -> None:
        def table(columns: list[np.ndarray], fill: float = np.nan) -> Tensor:
            return _padded(columns, max(map(len, columns)), fill).to(device)

        self.scene = scene
        self.road_points, self.lights, self.stop_signs = (
            table([(getattr(s, name) - s.origin).astype(np.float32) for s in scenes]) for name in ("road_points", "light_position", "stop_signs"))
        self.road_next = table([_next_points(s) for s in scenes])
        self.road_type = table([np.repeat(s.road_type, np.diff(s.road_first)) for s in scenes], 0)
        self.light_state = table([s.light_state for s in scenes], 0)


def road_edges(scene: Scene) -> np.ndarray:
    """(S, 4) float64: x, y of both ends of every segment of the road edges, relative to the scene's origin."""
    points = scene.road_points - scene.origin
    joined = np.ones(max(len(points) - 1, 0), bool)
    joined[scene.road_first[1:-1] - 1] = False  # from one element's last point to the next one's first there is nothing
    joined &= np.repeat(scene.road_type, np.diff(scene.road_first))[:-1] == ROADS.index("road_edge")
    return np.concatenate([points[:-1][joined], points[1:][joined]], 1)


def _padded(columns: list[np.ndarray], rows: int, fill: float) -> Tensor:
    """(U, rows, ...) of U arrays with up to so many rows."""
    table = np.full((len(columns), rows, *columns[0].shape[1:]), fill, columns[0].dtype)
    for row, column in zip(table, columns, strict=True):
        row[: len(column)] = column
    return torch.from_numpy(table)


def _next_points(scene: Scene) -> np.ndarray:
    """(M, 2) float32: the way from each road point to the next one of its element; from the last one there is none, 0."""
    points = scene.road_points.astype(np.float32)  # as Nocturne has them: far from the origin, that turns the half metre between two by up to 0.002 rad
    way = np.zeros_like(points)
    way[:-1] = np.diff(points, axis=0)
    way[scene.road_first[1:] - 1] = 0.0
    return way


def _log(scene: Scene) -> np.ndarray:
    """(N, 91, 4) float32: what replaying objects are set to, relative to the origin."""
    return np.concatenate([scene.position - scene.origin, scene.heading[..., None], scene.speed[..., None]], -1).astype(np.float32)


def _goal(scene: Scene) -> np.ndarray:
    """(N, 4) float32, relative to the origin."""
    return np.concatenate([scene.goal - scene.origin, scene.goal_heading[:, None], scene.goal_speed[:, None]], -1).astype(np.float32)
