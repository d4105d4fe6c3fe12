"""What envs/nocturne/visibility.py and feature_vector.py compute, computed plainly: every point of the map for every
ego, every ray with every object. It is what benchmarks/features.py and the tests compare them with.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dreamdrive.envs.nocturne.feature_vector import MOST, Features
from dreamdrive.envs.nocturne.scene import LIGHTS, OBJECTS, ROADS
from dreamdrive.envs.nocturne.simulator import Simulator, wrap
from dreamdrive.envs.nocturne.visibility import (
    ASIDE,
    LIGHT_CORNERS,
    RADIUS,
    SIGN_CORNERS,
    VIEW_ANGLE,
    VIEW_DIST,
    Visible,
)


def visible(
    sim: Simulator,
    egos: Sequence[tuple[int, int]] | Tensor,
    view_dist: float = VIEW_DIST,
    view_angle: float = VIEW_ANGLE,
    head_angle: float = 0.0,
) -> Visible:
    """What egos [(copy, object), ...] see now."""
    return _View(sim, egos, view_dist, view_angle, head_angle).visible()


def features(
    sim: Simulator,
    egos: Sequence[tuple[int, int]] | Tensor,
    view_dist: float = VIEW_DIST,
    view_angle: float = VIEW_ANGLE,
    head_angle: float = 0.0,
    most: tuple[int, int, int, int] = MOST,
    road_edge_first: bool = False,
) -> Features:
    """What egos [(copy, object), ...] know now; `most` bounds objects, road points, lights and stop signs;
    `road_edge_first` keeps road edges before other points."""
    view = _View(sim, egos, view_dist, view_angle, head_angle)
    seen = view.visible()
    parts = (
        view.object_features(seen.objects, most[0]),
        view.road_features(seen.road_points, most[1], road_edge_first),
        view.light_features(seen.lights, most[2]),
        view.sign_features(seen.stop_signs, most[3]),
    )
    ego = view.ego(head_angle)
    return Features(torch.cat([ego, *(part.flatten(1) for part in parts)], 1), ego, *parts)


class _View:
    """The surroundings of E egos, relative to them: positions less theirs, along the world's axes, float64."""

    def __init__(
        self,
        sim: Simulator,
        egos: Sequence[tuple[int, int]] | Tensor,
        view_dist: float,
        view_angle: float,
        head_angle: float,
    ) -> None:
        egos = torch.as_tensor(egos, device=sim.device).view(-1, 2)
        self.sim, self.copy, self.who = sim, egos[:, 0], egos[:, 1]
        self.radius, self.angle, self.disc = view_dist, view_angle, view_angle >= 2 * torch.pi - 1e-6
        self.own = sim.local[self.copy, self.who].double()  # (E, 4)
        self.heading = self.own[:, 2]
        self.axis = self.heading + head_angle
        others = sim.local[self.copy].double()
        self.centre = others[..., :2] - self.own[:, None, :2]  # (E, N, 2)
        self.turned = others[..., 2]
        self.speed = others[..., 3]
        self.length, self.width = sim.length[self.copy].double(), sim.width[self.copy].double()
        self.there = sim.there[self.copy].clone()
        self.there[torch.arange(len(egos), device=sim.device), self.who] = False
        self.map = sim.map

    def visible(self) -> Visible:
        objects = self._objects()
        lights, signs = (
            self._polygons(kind, corners) for kind, corners in (("lights", LIGHT_CORNERS), ("stop_signs", SIGN_CORNERS))
        )
        return Visible(objects, self._road_points(objects), lights, signs)

    def _around(self, kind: str) -> Tensor:
        """(E, n, 2): the map's "road_points", "lights" or "stop_signs"; padding is NaN."""
        return self.map[kind][self.copy].double() - self.own[:, None, :2]

    def _inside(self, point: Tensor, axis: Tensor) -> Tensor:
        """(...,) bool whether points (..., 2) are in the sector about `axis` (...)."""
        near = (point * point).sum(-1) <= self.radius**2
        return near if self.disc else near & self._within(point, axis)

    def _within(self, point: Tensor, axis: Tensor) -> Tensor:
        """The same without the radius."""
        along = point[..., 0] * torch.cos(axis) + point[..., 1] * torch.sin(axis)
        return along >= point.norm(dim=-1) * math.cos(self.angle / 2)

    def _crossings(self, a: Tensor, b: Tensor, axis: Tensor) -> tuple[Tensor, Tensor]:
        """Where segments from a to b (..., 2) cross the sector's rim: points (..., 4, 2) and which of them there are
        (..., 4)."""
        step = b - a
        points, found = [], []
        for side in (-1, 1):  # the two straight sides
            edge = axis + side * self.angle / 2
            along = torch.stack([torch.cos(edge), torch.sin(edge)], -1)
            t = -_cross(along, a) / _cross(along, step)
            point = a + t[..., None] * step
            reach = (point * along).sum(-1)
            points.append(point)
            found.append((t >= 0) & (t <= 1) & (reach >= 0) & (reach <= self.radius) & (not self.disc))
        square, half = (step * step).sum(-1), (a * step).sum(-1)
        root = (half * half - square * ((a * a).sum(-1) - self.radius**2)).sqrt()  # NaN where the circle is missed
        for sign in (-1, 1):
            t = (sign * root - half) / square
            point = a + t[..., None] * step
            points.append(point)
            found.append((t >= 0) & (t <= 1) & (self._within(point, axis) | self.disc))
        return torch.stack(points, -2), torch.stack(found, -1)

    def _objects(self) -> Tensor:
        """(E, N) bool: those that are the first on some ray."""
        reach = torch.hypot(self.length, self.width) / 2
        candidate = self.there & (self.centre.norm(dim=-1) - reach <= self.radius)
        ego, other = candidate.nonzero(as_tuple=True)
        axis = self.axis[ego]
        # (P, 4, 2)
        corners = _corners(
            self.centre[ego, other], self.turned[ego, other], self.length[ego, other], self.width[ego, other]
        )
        crossing, crosses = self._crossings(corners, corners.roll(-1, 1), axis[:, None])
        ends = torch.cat([corners, crossing.flatten(1, 2)], 1)
        ends_there = torch.cat([self._inside(corners, axis[:, None]), crosses.flatten(1)], 1)
        pair, _ = ends_there.nonzero(as_tuple=True)
        sides = self.axis[:, None] + torch.tensor([-0.5, 0.5], device=axis.device) * self.angle  # (E, 2)
        angle = torch.cat([torch.atan2(*ends[ends_there].flip(-1).unbind(-1)), sides.flatten()])
        ego = torch.cat([ego[pair], torch.arange(len(sides), device=axis.device).repeat_interleave(2)])
        aside = torch.cat([angle[: len(pair)] - ASIDE, angle[: len(pair)] + ASIDE])
        beside = ego[: len(pair)].repeat(2)
        kept = (wrap(aside - self.axis[beside]).abs() <= self.angle / 2) | self.disc
        angle, ego = torch.cat([angle, aside[kept]]), torch.cat([ego, beside[kept]])
        ray = torch.stack([torch.cos(angle), torch.sin(angle)], -1) * self.radius
        number, object_, enter = self._meetings(ego, ray, candidate)
        first = torch.full((len(ray),), torch.inf, dtype=ray.dtype, device=ray.device).scatter_reduce(
            0, number, enter, "amin"
        )
        nearest = enter == first[number]
        return torch.zeros_like(candidate).index_put(
            (ego[number[nearest]], object_[nearest]), torch.tensor(True, device=ray.device)
        )

    def _meetings(self, ego: Tensor, ray: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which of K ways (K, 2) from egos (K,) meet which objects of `which` (E, N): the ways' numbers, the objects,
        and how much of the way is gone before."""
        most = int(which.sum(1).max()) if len(which) else 0
        place = which.to(torch.int8).topk(most, 1).indices  # (E, V)
        row = torch.arange(len(which), device=which.device)[:, None]
        # Nearly all pairs are far apart, which a circle about the object tells in a few operations.
        reach = torch.hypot(self.length, self.width)[row, place].float() / 2 + 0.01
        x, y = self.centre[row, place].float().unbind(-1)
        x = x.masked_fill(~which[row, place], torch.nan)
        length = ray.norm(dim=-1)
        ux, uy = (ray / length.clamp(min=1e-9)[:, None]).float()[:, None].unbind(-1)
        x, y, reach = x[ego], y[ego], reach[ego]
        along = ux * x + uy * y
        near = ((ux * y - uy * x).abs() <= reach) & (along >= -reach) & (along <= length.float()[:, None] + reach)
        number, column = near.nonzero(as_tuple=True)
        at = ego[number], place[ego[number], column]
        enter, leave = _slab(ray[number], self.centre[at], self.turned[at], self.length[at], self.width[at])
        met = (leave >= enter) & (leave >= 0) & (enter <= 1)
        return number[met], at[1][met], enter[met]

    def _road_points(self, seen: Tensor) -> Tensor:
        """(E, M) bool: those in the sector that no object of `seen` (E, N) hides."""
        points = self._around("road_points")
        inside = self._inside(points, self.axis[:, None])
        ego, which = inside.nonzero(as_tuple=True)
        number, _, _ = self._meetings(ego, points[ego, which], seen)
        return inside.index_put((ego[number], which[number]), torch.tensor(False, device=inside.device))

    def _polygons(self, kind: str, corners: int) -> Tensor:
        """(E, n) bool: whether any part of the regular polygons that stand for "lights" or "stop_signs" is in the
        sector."""
        angle = torch.pi / 2 + torch.arange(corners, device=self.axis.device) * (2 * torch.pi / corners)
        # (E, n, corners, 2)
        outline = self._around(kind)[:, :, None] + RADIUS * torch.stack([torch.cos(angle), torch.sin(angle)], -1)
        axis = self.axis[:, None, None]
        return (self._inside(outline, axis) | self._crossings(outline, outline.roll(-1, 2), axis)[1].any(-1)).any(-1)

    def _nearest(
        self, offset: Tensor, which: Tensor, most: int, first: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Places (E, k) of the nearest of `which` (E, n), k at most `most`, whether they are there, and [1, distance,
        angle] (E, k, 3). Those of `first` come before."""
        distance = offset.norm(dim=-1)
        key = (distance if first is None else distance - first * 1e6).masked_fill(~which, torch.inf)
        place = key.sort(dim=1, stable=True).indices[:, :most]
        there = which.gather(1, place)
        offset = offset.gather(1, place[..., None].expand(-1, -1, 2))
        angle = wrap(torch.atan2(offset[..., 1], offset[..., 0]) - self.heading[:, None])
        return place, there, torch.stack([torch.ones_like(angle), distance.gather(1, place), angle], -1)

    def _padded(self, columns: list[Tensor], there: Tensor, most: int) -> Tensor:
        """(E, most, F) float32 of columns (E, k, f), zero where not `there` (E, k)."""
        table = torch.cat(columns, -1).masked_fill(~there[..., None], 0.0)
        return torch.nn.functional.pad(table, (0, 0, 0, most - table.shape[1])).float()

    def ego(self, head_angle: float) -> Tensor:
        sim, at = self.sim, (self.copy, self.who)
        to_goal = sim.goal[at].double() - self.own
        columns = [
            sim.length[at],
            sim.width[at],
            self.own[:, 3],
            to_goal[:, :2].norm(dim=-1),
            wrap(torch.atan2(to_goal[:, 1], to_goal[:, 0]) - self.heading),
            wrap(to_goal[:, 2]),
            to_goal[:, 3],
            *sim.last_input[at].unbind(-1),
            torch.full_like(self.heading, head_angle),
        ]
        return torch.stack([c.double() for c in columns], -1).float()

    def object_features(self, seen: Tensor, most: int) -> Tensor:
        place, there, where = self._nearest(self.centre, seen, most)
        row = torch.arange(len(place), device=place.device)[:, None]
        velocity = self.speed[..., None] * torch.stack([torch.cos(self.turned), torch.sin(self.turned)], -1)
        relative = velocity[row, place] - velocity[row[:, 0], self.who][:, None]
        heading = self.heading[:, None]
        columns = [
            self.length[row, place],
            self.width[row, place],
            wrap(self.turned[row, place] - heading),
            wrap(torch.atan2(relative[..., 1], relative[..., 0]) - heading),
            relative.norm(dim=-1),
        ]
        return self._padded(
            [where, torch.stack(columns, -1), _one_hot(self.sim.type[self.copy][row, place], len(OBJECTS))], there, most
        )

    def road_features(self, seen: Tensor, most: int, edges_first: bool) -> Tensor:
        kind = self.map["road_type"][self.copy]
        place, there, where = self._nearest(
            self._around("road_points"), seen, most, kind == ROADS.index("road_edge") if edges_first else None
        )
        following = self.map["road_next"][self.copy].double().gather(1, place[..., None].expand(-1, -1, 2))
        columns = [
            following.norm(dim=-1),
            wrap(torch.atan2(following[..., 1], following[..., 0]) - self.heading[:, None]),
        ]
        return self._padded([where, torch.stack(columns, -1), _one_hot(kind.gather(1, place), len(ROADS))], there, most)

    def light_features(self, seen: Tensor, most: int) -> Tensor:
        place, there, where = self._nearest(self._around("lights"), seen, most)
        state = self.map["light_state"][self.copy, :, self.sim.time[self.copy]].gather(1, place)
        return self._padded([where, _one_hot(state, len(LIGHTS))], there, most)

    def sign_features(self, seen: Tensor, most: int) -> Tensor:
        _, there, where = self._nearest(self._around("stop_signs"), seen, most)
        return self._padded([where], there, most)


def _one_hot(kind: Tensor, kinds: int) -> Tensor:
    return torch.nn.functional.one_hot(kind, kinds).double()


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _corners(centre: Tensor, heading: Tensor, length: Tensor, width: Tensor) -> Tensor:
    """(..., 4, 2), counter-clockwise from the front left."""
    cos, sin = torch.cos(heading)[..., None], torch.sin(heading)[..., None]
    x = length[..., None] / 2 * torch.tensor([1, -1, -1, 1], device=centre.device)
    y = width[..., None] / 2 * torch.tensor([1, 1, -1, -1], device=centre.device)
    return centre[..., None, :] + torch.stack([cos * x - sin * y, sin * x + cos * y], -1)


def _slab(end: Tensor, centre: Tensor, heading: Tensor, length: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Where the ray from the origin to `end` (..., 2) enters and leaves rectangles, in units of its length (Kay &
    Kajiya 1986); it misses them unless enter <= leave."""
    cos, sin = torch.cos(heading), torch.sin(heading)
    enter, leave = [], []
    for axis, half in ((torch.stack([cos, sin], -1), length / 2), (torch.stack([-sin, cos], -1), width / 2)):
        way, start = (end * axis).sum(-1), -(centre * axis).sum(-1)
        way = torch.where(way.abs() < 1e-12, 1e-12, way)
        one, two = (-half - start) / way, (half - start) / way
        enter.append(torch.minimum(one, two))
        leave.append(torch.maximum(one, two))
    return torch.maximum(*enter), torch.minimum(*leave)
