"""What maps are made of: what is drawn on the ground, the routes that vehicles take over it, and the cross-section of a
road.

The maps themselves are in open_roads.py and junctions.py.

Every map is drawn around (0, 0); scenes.py turns it and moves it to its place in the world. Traffic keeps to the right.
Lengths are metres, angles radians, speeds m/s. A road is drawn along an Axis: laterals are metres to the left of it,
and a lane, a line or an edge is a lateral along a stretch of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from dreamdrive.envs.nocturne.synthetic import geometry as geo

STEP = 0.25  # m between the points of a route
KERB = 0.35  # m from the outermost lane or bay to the road edge
# m between two routes at which car and car, car and cyclist, two cyclists would touch
CAR_ZONE, MIXED_ZONE, BIKE_ZONE = 2.6, 1.9, 1.2


@dataclass(frozen=True)
class Route:
    """A smooth way through the map, from where vehicles appear to where they leave.

    Fields:
        xy: (S, 2) points every STEP metres
        limit: (S,) m/s, speed limit (curves not yet considered)
        entry: lane it begins on; routes with the same entry are one behind another until they part
        line: arc length at which a vehicle waits until it may go; nan if it never has to
        clear: arc length at which it has left the conflict behind
        control: "none", "yield", "stop" or "signal"
        rank: who has the right of way: a vehicle waits for the approaching ones of higher rank
        group: signal group, -1 without
        fallback: number of the route to keep to if there is no gap for this one's change of lane, -1 if there is none
        bike: for cyclists
    """

    xy: np.ndarray
    limit: np.ndarray
    entry: str
    line: float = np.nan
    clear: float = np.nan
    control: str = "none"
    rank: int = 9
    group: int = -1
    fallback: int = -1
    bike: bool = False


@dataclass(frozen=True)
class Crosswalk:
    """A rectangle across a road: `along` is the road's direction, `half` half its width in that direction, `reach` half
    the road's width.

    `group` is the signal group of the traffic that crosses it, -1 without signals.
    """

    centre: np.ndarray
    along: np.ndarray
    half: float
    reach: float
    group: int = -1

    def local(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(along the road, across it) of points (..., 2), from the centre."""
        away = xy - self.centre
        return away @ self.along, away @ geo.left_of(self.along)

    def corners(self) -> np.ndarray:
        side = geo.left_of(self.along)
        return np.array(
            [
                self.centre + a * self.half * self.along + b * self.reach * side
                for a, b in ((-1, -1), (-1, 1), (1, 1), (1, -1))
            ]
        )

    def covers(self, xy: np.ndarray, margin: float = 0.0) -> np.ndarray:
        along, across = self.local(xy)
        return (np.abs(along) < self.half + margin) & (np.abs(across) < self.reach + 1)


@dataclass(frozen=True)
class Signals:
    """Traffic lights of two groups in turn: green, yellow, all red.

    Fields:
        green: (2,) s, yellow, all_red: s
        phase: s into the cycle at time 0
    """

    green: tuple[float, float]
    yellow: float
    all_red: float
    phase: float

    @property
    def cycle(self) -> float:
        return sum(self.green) + 2 * (self.yellow + self.all_red)

    def begins(self, group: int) -> float:
        """Seconds into the cycle at which `group` turns green."""
        return 0.0 if group == 0 else self.green[0] + self.yellow + self.all_red

    def state(self, group: int, time: float) -> str:
        into = (time + self.phase - self.begins(group)) % self.cycle
        return "go" if into < self.green[group] else "caution" if into < self.green[group] + self.yellow else "stop"


@dataclass
class RoadMap:
    """A map and its routes.

    Fields:
        roads: (type, points (P, 2)) of everything drawn, the edges included; in Nocturne's types
        bays: (x, y, heading) of parking places
        pavements: polylines that pedestrians walk along
        lights: (position, signal group) of one light a lane
        speed: m/s, the speed limit
    """

    kind: str
    speed: float
    roads: list[tuple[str, np.ndarray]] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    crosswalks: list[Crosswalk] = field(default_factory=list)
    pavements: list[np.ndarray] = field(default_factory=list)
    bays: list[tuple[float, float, float]] = field(default_factory=list)
    lights: list[tuple[np.ndarray, int]] = field(default_factory=list)
    signals: Signals | None = None
    # speed bumps: where, and how fast one crosses them
    slow: list[tuple[Crosswalk, float]] = field(default_factory=list)

    def draw(self, kind: str, xy: np.ndarray) -> None:
        self.roads.append((kind, xy))

    def edge(self, xy: np.ndarray) -> None:
        """A road edge, with a dropped kerb at every crosswalk."""
        kept = (
            ~np.any([walk.covers(xy, 0.6) for walk in self.crosswalks], axis=0)
            if self.crosswalks
            else np.ones(len(xy), bool)
        )
        changes = np.flatnonzero(np.diff(np.concatenate([[False], kept, [False]])))
        for first, last in changes.reshape(-1, 2):
            if last - first >= 3:
                self.draw("road_edge", xy[first:last])

    def crosswalk(self, walk: Crosswalk) -> None:
        self.crosswalks.append(walk)
        self.draw("crosswalk", walk.corners())

    def bump(self, where: Crosswalk, speed: float) -> None:
        self.slow.append((where, speed))
        self.draw("speed_bump", where.corners())

    def route(
        self, before: np.ndarray, within: np.ndarray | None = None, after: np.ndarray | None = None, **what
    ) -> int:
        """Add a route of up to three pieces: to the line, through the conflict, and on; gives its number."""
        pieces = [piece for piece in (before, within, after) if piece is not None]
        xy = geo.resampled(geo.joined(*pieces), STEP)
        limit = np.full(len(xy), self.speed)
        for where, speed in self.slow:
            limit[where.covers(xy)] = speed
        marks = {}
        if within is not None:
            line = geo.lengths(before)[-1]
            marks = {"line": line, "clear": line + geo.lengths(within)[-1]}
        self.routes.append(Route(xy, limit, **{**marks, **what}))
        return len(self.routes) - 1


class Axis:
    """The line a road is laid out along: `xy` (P, 2), `s` (P,) metres."""

    def __init__(self, xy: np.ndarray):
        self.xy, self.s = xy, geo.lengths(xy)
        self._left = geo.left_of(geo.tangents(xy))

    def curve(
        self, first: float, last: float, lateral: float | Callable[[np.ndarray], np.ndarray], spacing: float = geo.FINE
    ) -> np.ndarray:
        """The points `lateral` metres left of the axis (a number or a function of s), from s = `first` to s = `last`;
        backwards if `last` is smaller."""
        s = np.linspace(first, last, max(int(np.ceil(abs(last - first) / spacing)), 1) + 1)
        across = lateral(s) if callable(lateral) else np.full(len(s), lateral)
        on = np.stack([np.interp(s, self.s, self.xy[:, k]) for k in (0, 1)], axis=1)
        left = np.stack([np.interp(s, self.s, self._left[:, k]) for k in (0, 1)], axis=1)
        return on + left * across[:, None]

    def at(self, s: float, lateral: float = 0.0) -> np.ndarray:
        return self.curve(s, s, lateral)[0]

    def heading(self, s: float) -> float:
        """Radians of the axis' direction at `s`."""
        left = [np.interp(s, self.s, self._left[:, k]) for k in (0, 1)]
        return float(np.arctan2(-left[0], left[1]))

    def across(self, s: float, half: float, reach: float, group: int = -1, shift: float = 0.0) -> Crosswalk:
        """A rectangle across the axis at `s`."""
        return Crosswalk(self.at(s, shift), geo.unit(self.heading(s)), half, reach, group)


@dataclass(frozen=True)
class Section:
    """What lies beside a road's axis, the same on both sides.

    Fields:
        lanes: per direction
        width: of a lane
        median: distance between the two directions
        strip: width of the bicycle lane, 0 without
        bay: width of the parking bays, 0 without
    """

    lanes: int
    width: float
    median: float = 0.3
    strip: float = 0.0
    bay: float = 0.0

    def lane(self, i: int) -> float:
        """Distance of the middle of lane `i` (0 is the innermost) from the axis."""
        return self.median / 2 + self.width * (i + 0.5)

    @property
    def paved(self) -> float:
        """Half the width of the lanes alone."""
        return self.median / 2 + self.width * self.lanes

    @property
    def half(self) -> float:
        """From the axis to the road edge."""
        return self.paved + self.strip + self.bay + KERB

    @property
    def bicycle(self) -> float:
        """Distance of the cyclists from the axis: on their strip, or at the right of the outermost lane."""
        return self.paved + self.strip / 2 if self.strip else self.paved - 0.75

    @property
    def parking(self) -> float:
        """Distance of the middle of the bays from the axis."""
        return self.paved + self.strip + self.bay / 2


def draw_section(rng: np.random.Generator, lanes: int, speed: float, busy: float = 1.0) -> Section:
    """A cross-section with `lanes` a direction; bays and bicycle lanes where traffic is slow."""
    strip = float(rng.uniform(1.5, 1.9)) if speed < 16 and rng.random() < 0.35 * busy else 0.0
    bay = float(rng.uniform(2.3, 2.6)) if speed < 14.5 and rng.random() < 0.5 * busy else 0.0
    return Section(lanes, float(rng.uniform(3.2, 3.75)), float(rng.choice([0.3, 0.3, 1.5])), strip, bay)


def lay_lines(m: RoadMap, axis: Axis, section: Section, first: float, last: float) -> None:
    """Lanes and the lines between and beside them, both directions."""
    for side in (1, -1):
        ends = (last, first) if side > 0 else (first, last)  # traffic on the left of an axis runs against it
        for i in range(section.lanes):
            m.draw("lane", axis.curve(*ends, side * section.lane(i)))
            if i:
                m.draw("road_line", axis.curve(*ends, side * (section.median / 2 + section.width * i)))
        if section.strip or section.bay:
            m.draw("road_line", axis.curve(*ends, side * section.paved))
        if section.strip:
            m.draw("lane", axis.curve(*ends, side * section.bicycle))
            if section.bay:
                m.draw("road_line", axis.curve(*ends, side * (section.paved + section.strip)))
        m.draw("road_line", axis.curve(*ends, side * section.median / 2))


def lay_bays(
    m: RoadMap, rng: np.random.Generator, axis: Axis, section: Section, first: float, last: float, side: int
) -> None:
    """Parking places along one side of the axis, clear of crosswalks."""
    if not section.bay:
        return
    for s in np.arange(first + 4, last - 4, 6.6):
        x, y = axis.at(s, side * section.parking)
        if any(walk.covers(np.array([[x, y]]), 7.0)[0] for walk in m.crosswalks):
            continue
        m.bays.append((float(x), float(y), axis.heading(s) + (np.pi if side > 0 else 0.0)))
