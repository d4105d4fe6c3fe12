"""Nocturne's feature vector (Vinitsky et al. 2022): what an object knows of itself and of what it sees."""

from collections.abc import Sequence
from dataclasses import dataclass

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
    length_of,
    names,
    quiet,
    runs,
    sin,
    single,
    tensor,
    wrap,
)
from dreamdrive.envs.nocturne.arrays import rows as at
from dreamdrive.envs.nocturne.scene import LIGHTS, OBJECTS, ROADS
from dreamdrive.envs.nocturne.simulator import Simulator
from dreamdrive.envs.nocturne.visibility import VIEW_ANGLE, VIEW_DIST, Sighted, View

MOST = (16, 1000, 20, 4)  # nearest objects, road points, lights, stop signs that are kept: Nocturne's config.yaml
EGO_WIDTH = 10  # numbers of the ego, and of one object, road point, light, stop sign
WIDTHS = (8 + len(OBJECTS), 5 + len(ROADS), 3 + len(LIGHTS), 3)
# 13,470: the whole vector
WIDTH = EGO_WIDTH + sum(most * width for most, width in zip(MOST, WIDTHS, strict=True))


@dataclass
class Features:
    """What E egos know, nearest first, padded with zeros; angles are relative to the ego's heading, in [-pi, pi].

    Fields:
        flat (E, 10 + 13 No + 13 Nr + 12 Nt + 3 Ns): all there is, in the order of the others, which are parts of it
        ego (E, 10): length, width, speed, goal's distance and angle, goal's heading and speed less the ego's,
            acceleration, steering, head angle
        objects (E, No, 13): 1, distance, angle, length, width, heading, angle and size of the velocity relative to the
            ego's, one-hot of OBJECTS
        road_points (E, Nr, 13): 1, distance, angle, distance and angle to the element's next point, one-hot of ROADS
        lights (E, Nt, 12): 1, distance, angle, one-hot of LIGHTS; stop_signs (E, Ns, 3): 1, distance, angle
    """

    flat: Tensor
    ego: Tensor
    objects: Tensor
    road_points: Tensor
    lights: Tensor
    stop_signs: Tensor

    @classmethod
    def zeros(cls, egos: int, most: tuple[int, int, int, int], device: torch.device) -> "Features":
        """Those of egos that know nothing, to be filled in."""
        sizes = [EGO_WIDTH, *(count * width for count, width in zip(most, WIDTHS, strict=True))]
        flat = torch.zeros(egos, sum(sizes), device=device)
        ego, *parts = flat.split(sizes, 1)
        return cls(flat, ego, *(p.unflatten(1, (n, w)) for p, n, w in zip(parts, most, WIDTHS, strict=True)))


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
    known = Features.zeros(len(egos), most, sim.device)
    with quiet():
        view = View(sim, egos, view_dist, view_angle, head_angle)
        known.ego.copy_(tensor(of_egos(view, head_angle)))
        objects, lights, signs = view.standing()
        points = view.road_points(objects)
        fill_objects(known, view, objects)
        fill_road_points(known, view, points, road_edge_first)
        if len(lights.ego):
            fill_lights(known, view, lights)
        if len(signs.ego):
            nearest(known, "stop_signs", view, signs)
    return known


def of_egos(view: View, head_angle: float) -> Array:
    """Features.ego as float64."""
    sim, who = view.sim, (view.copy, view.who)
    xp = names(view.own)
    to_goal = double(array(sim.goal)[who]) - view.own
    own = count_up(len(view.who), view.who), view.who
    last = double(array(sim.last_input)[who])
    columns = [
        view.length[own],
        view.width[own],
        view.own[:, 3],
        length_of(to_goal[:, :2]),
        wrap(atan2(to_goal[:, 1], to_goal[:, 0]) - view.heading),
        wrap(to_goal[:, 2]),
        to_goal[:, 3],
        last[:, 0],
        last[:, 1],
        xp.full_like(view.heading, head_angle),
    ]
    return xp.stack(columns, -1)


@dataclass
class Rows:
    """Where things that egos see have a row in their features.

    Fields:
        ego, which (P,) int64: the egos and the things
        flat: all numbers of all egos, one after the other; first (P,) int64: where the things' rows begin in it
    """

    ego: Array
    which: Array
    flat: Array
    first: Array

    def put(self, column: int | Array, values: Array | float) -> None:
        """Set one number of each row, always the same or which one (P,)."""
        self.flat[self.first + column] = values if isinstance(values, float) else single(values)


def fill_objects(known: Features, view: View, objects: Sighted) -> None:
    rows, xp = nearest(known, "objects", view, objects), names(view.own)
    ego, pairs = rows.ego, (rows.ego, rows.which)
    turned, heading = view.turned[pairs], view.heading[ego]
    velocity, own = (
        speed[:, None] * xp.stack([cos(angle), sin(angle)], -1)
        for speed, angle in ((view.speed[pairs], turned), (view.own[ego, 3], heading))
    )
    relative = velocity - own
    rows.put(3, view.length[pairs])
    rows.put(4, view.width[pairs])
    rows.put(5, wrap(turned - heading))
    rows.put(6, wrap(atan2(relative[:, 1], relative[:, 0]) - heading))
    rows.put(7, length_of(relative))
    rows.put(8 + array(view.sim.type)[view.copy[ego], rows.which], 1.0)


def fill_road_points(known: Features, view: View, points: Sighted, edges_first: bool) -> None:
    kind, following = (array(view.map[name]) for name in ("road_type", "road_next"))
    first = kind[view.copy[points.ego], points.which] == ROADS.index("road_edge") if edges_first else None
    rows = nearest(known, "road_points", view, points, first)
    place = at(view.copy, rows.ego) * kind.shape[1] + rows.which
    way = double(at(following.reshape(-1, 2), place))
    rows.put(3, length_of(way))
    rows.put(4, wrap(atan2(way[:, 1], way[:, 0]) - at(view.heading, rows.ego)))
    rows.put(5 + at(kind.reshape(-1), place), 1.0)


def fill_lights(known: Features, view: View, lights: Sighted) -> None:
    rows = nearest(known, "lights", view, lights)
    copy = view.copy[rows.ego]
    rows.put(3 + array(view.map["light_state"])[copy, rows.which, array(view.sim.time)[copy]], 1.0)


def nearest(known: Features, kind: str, view: View, seen: Sighted, first: Array | None = None) -> Rows:
    """Give the nearest of `seen` rows in the part `kind` of `known`, as many as have a place, with 1, distance and
    angle in them; those of `first` (P,) bool come before the others, and of equally near ones those with the smaller
    number."""
    part: Tensor = getattr(known, kind)  # (E, most, F)
    xp, distance = names(seen.offset), length_of(seen.offset)
    key = distance if first is None else distance - double(first) * 1e6
    order = xp.argsort(key, stable=True)
    order = at(order, grouped(at(seen.ego, order), len(part)))
    ego, which, key = at(seen.ego, order), at(seen.which, order), at(key, order)
    if bool(((key[1:] == key[:-1]) & (which[1:] < which[:-1]) & (ego[1:] == ego[:-1])).any()):
        by_number = xp.argsort(seen.which, stable=True)
        return nearest(known, kind, view, seen[by_number], None if first is None else first[by_number])
    count = xp.bincount(ego, minlength=len(part))
    rank = runs(count * 0, count)
    if len(ego) and int(count.max()) > part.shape[1]:
        kept = rank < part.shape[1]
        order, ego, which, rank = order[kept], ego[kept], which[kept], rank[kept]
    begin = part.storage_offset() + ego * part.stride(0) + rank * part.stride(1)
    rows = Rows(ego, which, array(known.flat.view(-1)), begin)
    offset = at(seen.offset, order)
    rows.put(0, 1.0)
    rows.put(1, at(distance, order))
    rows.put(2, wrap(atan2(offset[:, 1], offset[:, 0]) - at(view.heading, ego)))
    return rows
