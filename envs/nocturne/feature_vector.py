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
    tensor,
    true,
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
            nearest(known.stop_signs, view, signs).write(known.stop_signs)
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
    """Rows of things that egos see, before they are put into their features.

    Fields:
        ego, which (P,) int64: the egos and the things
        rank (P,) int64: which of the ego's rows it is
        heading (P,) float64: the ego's
        numbers (P, F) float32: what is in the rows
    """

    ego: Array
    which: Array
    rank: Array
    heading: Array
    numbers: Array

    def mark(self, column: Array) -> None:
        """Set the number in one column of each row, (P,), to 1."""
        self.numbers[count_up(len(column), column), column] = 1.0

    def write(self, part: Tensor) -> None:
        """Put them into features (E, most, F)."""
        array(part)[self.ego, self.rank] = self.numbers


def fill_objects(known: Features, view: View, objects: Sighted) -> None:
    rows, xp = nearest(known.objects, view, objects), names(view.own)
    ego, pairs = rows.ego, (rows.ego, rows.which)
    turned = view.turned[pairs]
    velocity, own = (
        speed[:, None] * xp.stack([cos(angle), sin(angle)], -1)
        for speed, angle in ((view.speed[pairs], turned), (view.own[ego, 3], rows.heading))
    )
    relative = velocity - own
    rows.numbers[:, 3] = view.length[pairs]
    rows.numbers[:, 4] = view.width[pairs]
    rows.numbers[:, 5] = wrap(turned - rows.heading)
    rows.numbers[:, 6] = wrap(atan2(relative[:, 1], relative[:, 0]) - rows.heading)
    rows.numbers[:, 7] = length_of(relative)
    rows.mark(8 + array(view.sim.type)[view.copy[ego], rows.which])
    rows.write(known.objects)


def fill_road_points(known: Features, view: View, points: Sighted, edges_first: bool) -> None:
    kind, ways = (array(view.map[name]) for name in ("road_type", "road_way"))
    first = kind[view.copy[points.ego], points.which] == ROADS.index("road_edge") if edges_first else None
    rows = nearest(known.road_points, view, points, first)
    place = at(view.copy, rows.ego) * kind.shape[1] + rows.which
    way = at(ways.reshape(-1, 2), place)
    rows.numbers[:, 3] = way[:, 0]
    rows.numbers[:, 4] = wrap(way[:, 1] - rows.heading)
    rows.mark(5 + at(kind.reshape(-1), place))
    rows.write(known.road_points)


def fill_lights(known: Features, view: View, lights: Sighted) -> None:
    rows = nearest(known.lights, view, lights)
    copy = view.copy[rows.ego]
    rows.mark(3 + array(view.map["light_state"])[copy, rows.which, array(view.sim.time)[copy]])
    rows.write(known.lights)


def nearest(part: Tensor, view: View, seen: Sighted, first: Array | None = None) -> Rows:
    """The nearest of `seen` as rows of the features `part` (E, most, F), as many as have a place, with 1, distance and
    angle in them; those of `first` (P,) bool come before the others, and of equally near ones those with the smaller
    number."""
    xp, distance = names(seen.offset), length_of(seen.offset)
    key = distance if first is None else distance - double(first) * 1e6
    order = xp.argsort(key, stable=True)
    order = at(order, grouped(at(seen.ego, order), len(part)))
    order = by_number(order, at(seen.ego, order), at(key, order), at(seen.which, order))
    ego = at(seen.ego, order)
    count = xp.bincount(ego, minlength=len(part))
    rank = runs(count * 0, count)
    if len(ego) and int(count.max()) > part.shape[1]:
        kept = rank < part.shape[1]
        order, ego, rank = order[kept], ego[kept], rank[kept]
    numbers = array(torch.zeros(len(ego), part.shape[2], device=part.device))
    rows = Rows(ego, at(seen.which, order), rank, at(view.heading, ego), numbers)
    offset = at(seen.offset, order)
    numbers[:, 0] = 1.0
    numbers[:, 1] = at(distance, order)
    numbers[:, 2] = wrap(atan2(offset[:, 1], offset[:, 0]) - rows.heading)
    return rows


def by_number(order: Array, ego: Array, key: Array, which: Array) -> Array:
    """order (P,), in which rows are by ego and key, with those of one ego and key by their number `which`: neighbours
    change places until they are. Few are equally near, as ends of road elements are that meet."""
    tied = (key[1:] == key[:-1]) & (ego[1:] == ego[:-1])
    while True:
        (wrong,) = true(tied & (which[1:] < which[:-1]))
        if not len(wrong):
            return order
        wrong = wrong[wrong % 2 == wrong[0] % 2]  # of three in a row two at a time
        pair, swapped = names(order).stack([wrong, wrong + 1]), names(order).stack([wrong + 1, wrong])
        order[pair], which[pair] = order[swapped], which[swapped]
