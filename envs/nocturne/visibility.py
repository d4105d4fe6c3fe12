"""What an object sees.

A sector (apex at the object's centre, `view_dist` metres, `view_angle` radians about its heading turned by
`head_angle`) holds what may be seen; objects hide each other and road points, lights and stop signs are never hidden.
The rules are Nocturne's (Vinitsky et al. 2022), a sampled test of sight: rays go to the sector's two corners, to every
corner of a rectangle in it, and to where its sides cross the sector's rim, each with one ray on either side, and the
first rectangle on a ray is seen.

Work is done for what is near alone: road points are looked up by place, and objects, lights and signs that are wholly
outside a sector are put aside first. None of that changes a result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from dreamdrive.envs.nocturne.arrays import (
    Array,
    array,
    atan2,
    cos,
    count_up,
    double,
    grouped,
    least,
    like,
    names,
    quiet,
    repeated,
    rows,
    runs,
    sin,
    tensor,
    true,
    whole,
    wrap,
    zeros,
)
from dreamdrive.envs.nocturne.point_index import points_within
from dreamdrive.envs.nocturne.sector import Sector, Slabs
from dreamdrive.envs.nocturne.simulator import Simulator

VIEW_DIST, VIEW_ANGLE = 80.0, 2 * torch.pi / 3  # m, rad
ASIDE = 1e-4  # rad between a ray and those beside it

TURN = 8.0  # rad, more than a whole one
DIRECTIONS = 1 << 16  # that are told apart, of all egos together
ROUNDS = (-2 * np.pi, 0.0, 2 * np.pi)  # the same direction, a turn apart
FOLLOWING = [1, 2, 3, 4, 5, 0]  # corner of an outline
LIGHT_CORNERS, SIGN_CORNERS, RADIUS = 5, 6, 2.0  # of the polygons that stand for lights and stop signs


@dataclass
class Visible:
    """What E egos see; padding is never seen.

    Fields:
        objects (E, N), road_points (E, M), lights (E, L), stop_signs (E, S) bool: M points in the order of
        Scene.road_points
    """

    objects: Tensor
    road_points: Tensor
    lights: Tensor
    stop_signs: Tensor


@dataclass
class Sighted:
    """Things of one kind that E egos see, P in all.

    Fields:
        ego (P,), which (P,) int64: who sees what, by ego
        offset (P, 2) float64: from the ego, along the world's axes
    """

    ego: Array
    which: Array
    offset: Array

    def __getitem__(self, index: Array) -> "Sighted":
        return Sighted(rows(self.ego, index), rows(self.which, index), rows(self.offset, index))

    def where(self, told: Array) -> "Sighted":
        """Those of which it is told, (P,) bool."""
        return self[true(told)[0]]

    def mask(self, egos: int, things: int) -> Tensor:
        """(egos, things) bool."""
        found = zeros((egos, things), self.ego)
        found[self.ego, self.which] = True
        return tensor(found)


def visible(
    sim: Simulator,
    egos: Sequence[tuple[int, int]] | Tensor,
    view_dist: float = VIEW_DIST,
    view_angle: float = VIEW_ANGLE,
    head_angle: float = 0.0,
) -> Visible:
    """What egos [(copy, object), ...] see now."""
    with quiet():
        view = View(sim, egos, view_dist, view_angle, head_angle)
        objects, lights, signs = view.standing()
        kinds = objects, view.road_points(objects), lights, signs
    numbers = [sim.present.shape[1], *(sim.map[name].shape[1] for name in ("road_points", "lights", "stop_signs"))]
    return Visible(*(kind.mask(len(view.who), number) for kind, number in zip(kinds, numbers, strict=True)))


class View:
    """The surroundings of E egos, relative to them: positions less theirs, along the world's axes, float64."""

    def __init__(
        self,
        sim: Simulator,
        egos: Sequence[tuple[int, int]] | Tensor,
        view_dist: float,
        view_angle: float,
        head_angle: float,
    ) -> None:
        pairs = array(torch.as_tensor(egos, device=sim.device).view(-1, 2))
        self.sim, self.copy, self.who = sim, pairs[:, 0], pairs[:, 1]
        self.sector = Sector(view_dist, view_angle)
        local = array(sim.local)
        self.own = double(local[self.copy, self.who])  # (E, 4)
        self.heading = self.own[:, 2]
        self.axis = self.heading + head_angle
        self.ahead = names(self.own).stack([cos(self.axis), sin(self.axis)], -1)
        others = double(local[self.copy])
        self.centre = others[..., :2] - self.own[:, None, :2]  # (E, N, 2)
        self.turned, self.speed = others[..., 2], others[..., 3]
        self.length, self.width = (double(array(side)[self.copy]) for side in (sim.length, sim.width))
        self.there = array(sim.there)[self.copy]
        self.there[count_up(len(pairs), pairs), self.who] = False
        self.map = sim.map

    def standing(self) -> tuple[Sighted, Sighted, Sighted]:
        """The objects that are the first on some ray; the lights and the stop signs of which any part of the regular
        polygons that stand for them is in the sector."""
        xp, objects = names(self.own), self.centre.shape[1]
        kinds = [double(array(self.map[name])[self.copy]) - self.own[:, None, :2] for name in ("lights", "stop_signs")]
        signs = objects + kinds[0].shape[1]  # the number of the first sign
        centre = xp.concatenate([self.centre, *kinds], 1)  # padding is NaN, and never near
        half = xp.hypot(self.length, self.width) / 2
        reach = xp.concatenate([half, xp.full_like(centre[:, objects:, 0], RADIUS)], 1)
        near = self.sector.near(centre, reach, self.axis[:, None])
        near[:, :objects] &= self.there
        ego, which = true(near)
        offset, standing = centre[ego, which], which < objects
        outline = offset[:, None] + polygons(self.own)[1 * (which >= signs)]  # (P, 6, 2)
        boxes = Sighted(ego, which, offset).where(standing)
        slabs = self._slabs(boxes)
        outline[standing, :4] = slabs.corners
        outline[standing, 4:] = slabs.corners[:, 3:]
        axis, ahead = self.axis[ego][:, None], self.ahead[ego][:, None]
        crossing, crosses = self.sector.crossings(outline, outline[:, FOLLOWING], axis, ahead)
        inside = self.sector.inside(outline, ahead)
        ways = xp.concatenate([outline[:, :4], crossing.reshape(len(ego), 4 * SIGN_CORNERS, 2)], 1)[standing]
        inside_ways = xp.concatenate([inside[:, :4], crosses.reshape(len(ego), 4 * SIGN_CORNERS)], 1)[standing]
        seen = xp.any(inside, -1) | xp.any(xp.any(crosses, -1), -1)
        seen[standing] = self._first_on_rays(boxes, slabs, ways, inside_ways)
        found = Sighted(ego, which, offset).where(seen)
        parts = (
            found.where(found.which < objects),
            found.where((found.which >= objects) & (found.which < signs)),
            found.where(found.which >= signs),
        )
        parts[1].which -= objects
        parts[2].which -= signs
        return parts

    def _first_on_rays(self, objects: Sighted, slabs: Slabs, ends: Array, there: Array) -> Array:
        """(Q,) bool: which of `objects` (Q,) are the first on some ray, of those to the sector's corners and to `there`
        (Q, n) of `ends` (Q, n, 2), and beside the latter."""
        xp = names(ends)
        pair, end = true(there)
        ends, ego, half = ends[pair, end], objects.ego[pair], self.sector.angle / 2
        angle = atan2(ends[:, 1], ends[:, 0])
        aside, beside = xp.concatenate([angle - ASIDE, angle + ASIDE]), xp.concatenate([ego, ego])
        if not self.sector.disc:
            kept = abs(wrap(aside - self.axis[beside])) <= half
            aside, beside = aside[kept], beside[kept]
        sides = self.axis[:, None] + like([-half, half], ends)
        number = count_up(len(self.who), ends)
        angle = xp.concatenate([angle, sides.reshape(-1), aside])
        ego = xp.concatenate([ego, xp.stack([number, number], 1).reshape(-1), beside])
        rays = xp.stack([cos(angle), sin(angle)], -1) * self.sector.radius
        ray, object_, enter = self._meetings(ego, rays, objects, slabs)
        first = least(ray, enter, len(rays))
        found = zeros(objects.ego.shape, ends)
        found[object_[enter == first[ray]]] = True
        return found

    def _slabs(self, objects: Sighted) -> Slabs:
        at = objects.ego, objects.which
        return Slabs(objects.offset, self.turned[at], self.length[at], self.width[at])

    def _meetings(self, ego: Array, way: Array, objects: Sighted, slabs: Slabs) -> tuple[Array, Array, Array]:
        """Which of K ways (K, 2) from egos (K,) meet which of `objects` (Q,), which are `slabs`: the ways' numbers, the
        objects', and how much of the way is gone before. One meeting may be told twice."""
        # Nearly all pairs are far apart: only ways that go about where the object is are looked at, which are
        # neighbours when sorted by ego and direction; to one of some thousands of directions takes one pass.
        scale = DIRECTIONS / (TURN * max(len(self.who), 1))

        def direction(ego: Array, angle: Array) -> Array:
            return whole((TURN * (double(ego) + 0.5) + angle) * scale)

        xp = names(way)
        turned = direction(ego, xp.arctan2(way[:, 1], way[:, 0]))
        order = grouped(turned, DIRECTIONS)
        turned = rows(turned, order)
        middle, reach = slabs.directions()
        sides = (middle[:, None] + like(ROUNDS, way))[:, :, None] + reach[:, None]  # (Q, 3, 2)
        sides = direction(objects.ego[:, None, None], sides.clip(-TURN / 2, TURN / 2))
        first = xp.searchsorted(turned, sides[..., 0])
        count = xp.searchsorted(turned, sides[..., 1] + 1) - first
        number = rows(order, runs(first.reshape(-1), count.reshape(-1)))
        pair = repeated(count.sum(1))
        enter, leave = slabs.meet(pair, rows(way, number))
        met = true((leave >= enter) & (leave >= 0) & (enter <= 1))[0]
        return rows(number, met), rows(pair, met), rows(enter, met)

    def road_points(self, seen: Sighted) -> Sighted:
        """Those in the sector that no object of `seen` hides."""
        low, high = self.sector.box(self.axis)
        own = self.own[:, :2]
        ego, place = points_within(self.map, self.copy, own + low, own + high)
        offset = double(rows(array(self.map["point_place"]).reshape(-1, 2), place)) - rows(own, ego)
        points = Sighted(ego, place, offset).where(self.sector.inside(offset, rows(self.ahead, ego)))
        shown = ~zeros(points.ego.shape, ego)
        shown[self._meetings(points.ego, points.offset, seen, self._slabs(seen))[0]] = False
        points = points.where(shown)
        points.which = rows(array(self.map["point_order"]).reshape(-1), points.which)
        return points


@cache
def _polygons(device: torch.device) -> Tensor:
    rows = []
    for count in (LIGHT_CORNERS, SIGN_CORNERS):
        number = torch.arange(SIGN_CORNERS, device=device).clamp(max=count - 1)
        angle = torch.pi / 2 + number * (2 * torch.pi / count)
        rows.append(RADIUS * torch.stack([torch.cos(angle), torch.sin(angle)], -1))
    return torch.stack(rows).double()


def polygons(where: Array) -> Array:
    """(2, 6, 2) float64: the corners of what stands for a light and for a stop sign, about its place; the light's last
    one is there twice."""
    return array(_polygons(tensor(where).device))
