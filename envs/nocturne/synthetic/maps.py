"""Maps: what is drawn on the ground, and the routes that vehicles take over it.

Every map is drawn around (0, 0); `placed` in scenes.py turns and moves it to its place in the world. Traffic keeps to the right. Lengths are metres,
angles radians, speeds m/s. A road is drawn along an Axis: laterals are metres to the left of it, and a lane, a line or an edge is a lateral along a
stretch of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from envs.nocturne.synthetic import geometry as geo

STEP = 0.25  # m between the points of a route
KERB = 0.35  # m from the outermost lane or bay to the road edge
CAR_ZONE, MIXED_ZONE, BIKE_ZONE = 2.6, 1.9, 1.2  # m between two routes at which car and car, car and cyclist, two cyclists would touch
KINDS = {"straight": 0.15, "curve": 0.15, "merge": 0.15, "signals": 0.22, "stop signs": 0.18, "roundabout": 0.15}


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
    """A rectangle across a road: `along` is the road's direction, `half` half its width in that direction, `reach` half the road's width.

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
        return np.array([self.centre + a * self.half * self.along + b * self.reach * side for a, b in ((-1, -1), (-1, 1), (1, 1), (1, -1))])

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
    slow: list[tuple[Crosswalk, float]] = field(default_factory=list)  # speed bumps: where, and how fast one crosses them

    def draw(self, kind: str, xy: np.ndarray) -> None:
        self.roads.append((kind, xy))

    def edge(self, xy: np.ndarray) -> None:
        """A road edge, with a dropped kerb at every crosswalk."""
        kept = ~np.any([walk.covers(xy, 0.6) for walk in self.crosswalks], axis=0) if self.crosswalks else np.ones(len(xy), bool)
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

    def route(self, before: np.ndarray, within: np.ndarray | None = None, after: np.ndarray | None = None, **what) -> int:
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

    def curve(self, first: float, last: float, lateral: float | Callable[[np.ndarray], np.ndarray], spacing: float = geo.FINE) -> np.ndarray:
        """The points `lateral` metres left of the axis (a number or a function of s), from s = `first` to s = `last`; backwards if `last` is smaller."""
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


def lay_bays(m: RoadMap, rng: np.random.Generator, axis: Axis, section: Section, first: float, last: float, side: int) -> None:
    """Parking places along one side of the axis, clear of crosswalks."""
    if not section.bay:
        return
    for s in np.arange(first + 4, last - 4, 6.6):
        x, y = axis.at(s, side * section.parking)
        if any(walk.covers(np.array([[x, y]]), 7.0)[0] for walk in m.crosswalks):
            continue
        m.bays.append((float(x), float(y), axis.heading(s) + (np.pi if side > 0 else 0.0)))


# Roads without junctions


def winding(rng: np.random.Generator, length: float, radius: float) -> np.ndarray:
    """A smooth line through (0, 0) at half its length, with bends of about `radius` metres; straight where radius is infinite."""
    s = np.arange(int(length / geo.FINE)) * geo.FINE
    if np.isinf(radius):
        curvature = np.zeros(len(s))
    else:
        sign, middle = rng.choice([-1, 1]), length / 2 + rng.uniform(-20, 20)
        turn = rng.uniform(0.9, 1.9) * radius  # length of a bend of up to 110 degrees
        turn = min(turn, 0.55 * length)
        ease = min(30.0, 0.3 * turn)
        curvature = sign / radius * (geo.smooth_step(s, middle - turn / 2 - ease, middle - turn / 2) - geo.smooth_step(s, middle + turn / 2, middle + turn / 2 + ease))
        if rng.random() < 0.5:  # the far ends bend the other way
            back = sign / radius * 0.6
            curvature -= back * geo.smooth_step(s, middle + turn / 2 + ease, middle + turn / 2 + 2 * ease)
    xy = geo.from_curvature(np.zeros(2), 0.0, curvature)
    return xy - xy[len(xy) // 2]


def lane_changes(m: RoadMap, rng: np.random.Generator, axis: Axis, laterals: list[float], numbers: list[int], length: float, tries: int) -> None:
    """Add routes that leave the lanes `laterals` (left positive, in the direction of the axis; numbers: their routes) for a neighbour."""
    forwards = laterals[0] <= 0
    for _ in range(tries):
        if len(laterals) < 2:
            return
        i = int(rng.integers(len(laterals)))
        j = int(rng.choice([k for k in (i - 1, i + 1) if 0 <= k < len(laterals)]))
        at, taken = rng.uniform(0.25, 0.65) * length, max(4.0 * m.speed, 35.0) * rng.uniform(0.9, 1.2)

        def lateral(s, here=laterals[i], there=laterals[j], at=at, taken=taken):
            return here + (there - here) * (geo.smooth_step(s, at, at + taken) if forwards else 1 - geo.smooth_step(s, length - at - taken, length - at))

        marks = (0.0, at, at + taken + 10, length) if forwards else (length, length - at, length - at - taken - 10, 0.0)
        pieces = [axis.curve(a, b, lateral) for a, b in zip(marks, marks[1:], strict=False)]
        m.route(*pieces, entry=m.routes[numbers[i]].entry, control="yield", rank=0, fallback=numbers[i])


def road(rng: np.random.Generator, kind: str) -> RoadMap:
    """A road without junctions, straight or curved."""
    curved = kind == "curve"
    speed = float(rng.choice([8.5, 11.0, 13.5, 16.0, 20.0]))
    m = RoadMap(kind, speed)
    length = max(250.0, 140 + 11 * speed)
    radius = max(float(rng.uniform(35, 90)), (speed / 1.25) ** 2 / 2.2) if curved else np.inf
    axis = Axis(winding(rng, length, radius))
    length = float(axis.s[-1])
    section = draw_section(rng, int(rng.choice([1, 2, 3], p=[0.35, 0.45, 0.2])), speed)
    divided = section.lanes > 1 and rng.random() < 0.3
    if divided:
        section = Section(section.lanes, section.width, float(rng.uniform(4, 7)), section.strip, section.bay)
    if speed < 14 and not divided and rng.random() < 0.5:
        m.crosswalk(axis.across(length / 2 + rng.uniform(-15, 15), rng.uniform(1.4, 2.2), section.half))
    if speed < 12 and rng.random() < 0.45:
        for s in length / 2 + np.array([-38, 42]) + rng.uniform(-8, 8, 2):
            m.bump(axis.across(float(s), 0.6, section.paved), float(rng.uniform(3.5, 6)))
    lay_lines(m, axis, section, 0, length)
    for side in (1, -1):
        m.edge(axis.curve(0, length, side * section.half))
        lay_bays(m, rng, axis, section, 0, length, side)
        if speed < 17:
            m.pavements.append(axis.curve(20, length - 20, side * (section.half + 1.9)))
    if divided:
        for side in (1, -1):
            m.edge(axis.curve(0, length, side * (section.median / 2 - 0.9)))
    for side, name in ((-1, "onward"), (1, "oncoming")):
        ends = (0, length) if side < 0 else (length, 0)
        laterals = [side * section.lane(i) for i in range(section.lanes)]
        numbers = [m.route(axis.curve(*ends, lateral), entry=f"{name} {i}") for i, lateral in enumerate(laterals)]
        lane_changes(m, rng, axis, laterals, numbers, length, 3)
        if speed < 16:
            m.route(axis.curve(*ends, side * section.bicycle), entry=f"{name} bike", bike=True)
    return m


def merge(rng: np.random.Generator) -> RoadMap:
    """A carriageway whose rightmost lane ends, or that a ramp joins; perhaps with the opposite carriageway beside it."""
    speed = float(rng.choice([14.0, 17.0, 20.0, 24.0]))
    m = RoadMap("merge", speed)
    length = 150 + 12 * speed
    axis = Axis(winding(rng, length, np.inf if rng.random() < 0.5 else rng.uniform(1.0, 2.0) * speed**2))
    length = float(axis.s[-1])
    lanes, width, ramp = int(rng.choice([1, 2, 3], p=[0.3, 0.5, 0.2])), float(rng.uniform(3.4, 3.75)), rng.random() < 0.65
    ends_at = length / 2 + rng.uniform(0, 40)
    taper, beside = max(3.2 * speed, 40.0), rng.uniform(3.0, 5.0) * speed
    bows_at, slope, ease = ends_at - beside, rng.uniform(0.15, 0.22), 45.0
    outer = -(lanes + 0.5) * width

    def away(s):
        """How far the ramp still is from the lane it becomes."""
        x = np.maximum(bows_at - s, 0)
        return np.where(x < ease, slope * x**2 / (2 * ease), slope * (x - ease / 2)) if ramp else 0 * x

    def joining(s):
        return outer - away(s) + width * geo.smooth_step(s, ends_at, ends_at + taper)

    first = max(bows_at - 130, 0) if ramp else 0.0
    m.draw("road_line", axis.curve(0, length, 0.0))
    for i in range(lanes):
        m.draw("lane", axis.curve(0, length, -(i + 0.5) * width))
        if i:
            m.draw("road_line", axis.curve(0, length, -i * width))
    m.draw("lane", axis.curve(first, ends_at + taper, joining))
    m.draw("road_line", axis.curve(bows_at if ramp else 0, ends_at, -lanes * width))
    m.edge(axis.curve(0, length, 0.8))
    shoulder = 1.0
    outside = axis.curve(first, length, lambda s: joining(s - 8) - width / 2 - shoulder - (away(s) - away(s - 8)))
    m.edge(outside)
    if ramp:  # the edges of carriageway and ramp meet in a nose
        s = np.arange(first, bows_at, 0.5)
        nose = float(s[away(s) >= 2 * shoulder + 0.8][-1])
        upper, lower = axis.curve(0, nose, -lanes * width - shoulder), axis.curve(nose, first, lambda s: joining(s) + width / 2 + shoulder)
        tip = axis.at(nose + 0.4, -lanes * width - away(np.array([nose]))[0] / 2)
        m.edge(geo.joined(upper, tip[None], lower))
    laterals = [-(i + 0.5) * width for i in range(lanes)]
    numbers = [m.route(axis.curve(0, length, lateral), entry=f"main {i}") for i, lateral in enumerate(laterals)]
    lane_changes(m, rng, axis, laterals, numbers, length, 2)
    pieces = [axis.curve(a, b, joining) for a, b in zip((first, ends_at - 3, ends_at + taper + 12, length), (ends_at - 3, ends_at + taper + 12, length), strict=False)]
    for _ in range(2):  # as often taken as two lanes
        m.route(*pieces, entry="ramp", control="yield", rank=1)
    if rng.random() < 0.6:  # the opposite carriageway
        gap = rng.uniform(2.5, 6)
        m.edge(axis.curve(0, length, 0.8 + gap))
        m.edge(axis.curve(0, length, 2.6 + gap + lanes * width))
        for i in range(lanes):
            lateral = 1.6 + gap + (i + 0.5) * width
            m.draw("lane", axis.curve(length, 0, lateral))
            if i:
                m.draw("road_line", axis.curve(length, 0, 1.6 + gap + i * width))
            m.route(axis.curve(length, 0, lateral), entry=f"oncoming {i}")
    return m


# Junctions


@dataclass
class Arm:
    """One road of a junction: its axis runs outwards from the centre.

    Fields:
        mouth: distance from the centre at which the junction begins
        line: distance of the waiting line
        onward: distance at which one has left the junction, crosswalk included
    """

    axis: Axis
    angle: float
    section: Section
    mouth: float = 0.0
    line: float = 0.0
    onward: float = 0.0
    minor: bool = False
    group: int = -1

    @property
    def length(self) -> float:
        return float(self.axis.s[-1])

    @property
    def outward(self) -> np.ndarray:
        return geo.unit(self.angle)


def arm_axis(rng: np.random.Generator, angle: float, length: float) -> Axis:
    """Straight for 60 m from the centre, then perhaps gently bent."""
    s = np.arange(int(length / geo.FINE)) * geo.FINE
    bent = rng.uniform(-1, 1) / 130 if rng.random() < 0.6 else 0.0
    return Axis(geo.from_curvature(np.zeros(2), angle, bent * geo.smooth_step(s, 60, 85)))


def crossing_arms(rng: np.random.Generator, signals: bool, three: bool, speed: float) -> list[Arm]:
    """Arms in counter-clockwise order; opposite ones have the same section."""
    main, side = (int(rng.choice([1, 2, 3], p=[0.2, 0.5, 0.3])), int(rng.choice([1, 2]))) if signals else (int(rng.choice([1, 2], p=[0.6, 0.4])), 1)
    sections = [draw_section(rng, lanes, speed) for lanes in (main, side)]
    arms = []
    for k in range(3 if three else 4):
        angle = k * np.pi / 2 + np.radians(rng.uniform(-7, 7))
        arms.append(Arm(arm_axis(rng, angle, 118.0), angle, sections[k % 2], minor=k % 2 == 1, group=k % 2 if signals else -1))
    return arms


def corner(one: Arm, two: Arm, radius: float) -> tuple[float, float, np.ndarray]:
    """The kerb from arm `one` to `two`, the next counter-clockwise: the distances along both where it ends, and its points between."""
    a, b = one.outward, two.outward
    turn = (two.angle - one.angle) % (2 * np.pi)
    start, end = geo.left_of(a) * one.section.half, -geo.left_of(b) * two.section.half
    if turn > np.radians(150):  # nothing between them: a T's long side
        reach = 12.0
        return reach, reach, geo.bend(start + a * reach, one.angle + np.pi, end + b * reach, two.angle)
    s, t = np.linalg.solve(np.stack([a, -b], axis=1), end - start)
    reach, arc = geo.fillet(start + s * a, a, b, radius)
    return s + reach, t + reach, arc


def lay_kerbs(m: RoadMap, arms: list[Arm], corners: list[tuple[float, float, np.ndarray]]) -> None:
    """Edges and pavements round every corner; crosswalks must be there already, since edges leave them free."""
    for k, (first, last, points) in enumerate(corners):
        one, two = arms[k], arms[(k + 1) % len(arms)]
        kerb = geo.joined(one.axis.curve(one.length, first, one.section.half), points, two.axis.curve(last, two.length, -two.section.half))
        m.edge(kerb)
        m.pavements.append(geo.shifted(kerb, -1.9)[100:-100])


def lay_arm(m: RoadMap, rng: np.random.Generator, arm: Arm, stops: bool) -> None:
    """Lines, bays, waiting line and stop sign of one arm."""
    section = arm.section
    lay_lines(m, arm.axis, section, arm.line, arm.length)
    for side in (1, -1):
        lay_bays(m, rng, arm.axis, section, max(arm.line + 9, 22), arm.length - 3, side)
    m.draw("road_line", geo.straight(arm.axis.at(arm.line, section.median / 2), arm.axis.at(arm.line, section.paved)))
    if stops:
        m.draw("stop_sign", arm.axis.at(arm.line, section.half + 0.8)[None])
    if arm.group >= 0:
        m.lights += [(arm.axis.at(arm.line, section.lane(i)), arm.group) for i in range(section.lanes)]


def movements(arms: list[Arm]) -> list[tuple[int, int, str, int, int]]:
    """(from arm, to arm, "left" "through" or "right", from lane, to lane) of everything traffic may do."""
    found = []
    for i, one in enumerate(arms):
        for j, two in enumerate(arms):
            if i == j:
                continue
            turn = np.degrees((two.angle - one.angle) % (2 * np.pi)) - 180  # 0 straight on, positive to the left
            way = "through" if abs(turn) < 40 else "left" if turn > 0 else "right"
            lanes, wanted = one.section.lanes, two.section.lanes
            if way == "through":
                found += [(i, j, way, lane, lane) for lane in range(min(lanes, wanted))]
            else:
                found.append((i, j, way, 0, 0) if way == "left" else (i, j, way, lanes - 1, wanted - 1))
    return found


def crossing(rng: np.random.Generator, kind: str) -> RoadMap:
    """A junction of three or four arms with signals or with stop signs, on all arms or on the minor ones."""
    signals = kind == "signals"
    speed = float(rng.choice([11.0, 13.5, 16.0] if signals else [8.5, 11.0, 13.5]))
    m = RoadMap(kind, speed)
    three, all_way = rng.random() < (0.15 if signals else 0.4), not signals and rng.random() < 0.5
    arms = crossing_arms(rng, signals, three, speed)
    corners = [corner(one, arms[(k + 1) % len(arms)], float(rng.uniform(7.5, 11.5))) for k, one in enumerate(arms)]
    walks = signals or rng.random() < 0.7
    for k, arm in enumerate(arms):
        arm.mouth = max(corners[k][0], corners[k - 1][1])
        half = rng.uniform(1.3, 1.9)
        arm.line = arm.mouth + (2 * half + 2.2 if walks else 0.8)
        arm.onward = arm.line + 1.0
        if walks:
            m.crosswalk(arm.axis.across(arm.mouth + 0.7 + half, half, arm.section.half, arm.group))
    if signals:
        green = rng.uniform(9, 20, 2)
        m.signals = Signals((float(green[0]), float(green[1])), float(rng.uniform(3, 4)), float(rng.uniform(1, 2)), float(rng.uniform(0, 60)))
    if not signals and speed < 12 and rng.random() < 0.3:
        for arm in arms:
            m.bump(arm.axis.across(arm.line + rng.uniform(22, 30), 0.6, arm.section.paved), float(rng.uniform(3.5, 6)))
    lay_kerbs(m, arms, corners)
    for arm in arms:
        lay_arm(m, rng, arm, stops=not signals and (all_way or arm.minor))
    for i, j, way, lane, to in movements(arms):
        one, two = arms[i], arms[j]
        control = "signal" if signals else "stop" if all_way or one.minor else "none" if way == "through" else "yield"
        rank = {"through": 2, "right": 2, "left": 1} if signals else dict.fromkeys(("through", "right", "left"), 1) if all_way else (
            {"through": 1, "right": 1, "left": 0} if one.minor else {"through": 9, "right": 8, "left": 3})
        ends = corners[i][:2] if way == "right" else (one.mouth, two.mouth)  # a right turn keeps to its own corner
        pieces = through_junction(one, two, one.section.lane(lane), two.section.lane(to), ends, m)
        m.route(*pieces, entry=f"arm {i} lane {lane}", control=control, rank=rank[way], group=one.group)
        if way != "left" and lane == one.section.lanes - 1 and to == two.section.lanes - 1:
            pieces = through_junction(one, two, one.section.bicycle, two.section.bicycle, ends)
            m.route(*pieces, entry=f"arm {i} bike", control=control, rank=rank[way] + 1, group=one.group, bike=True)
    return m


def through_junction(one: Arm, two: Arm, leaves: float, arrives: float, ends: tuple[float, float], m: RoadMap | None = None) -> tuple[np.ndarray, ...]:
    """The three pieces of a route from arm to arm, at distances `leaves` and `arrives` from their axes; drawn as a lane where a map is given.

    `ends`: distances from the centre at which the bend begins and ends.
    """
    start, end = one.axis.at(ends[0], leaves), two.axis.at(ends[1], -arrives)
    turn = geo.bend(start, one.angle + np.pi, end, two.angle)
    within = geo.joined(one.axis.curve(one.line, ends[0], leaves), turn, two.axis.curve(ends[1], two.onward, -arrives))
    if m is not None:
        m.draw("lane", within)
    return one.axis.curve(one.length, one.line, leaves), within, two.axis.curve(two.onward, two.length, -arrives)


def roundabout(rng: np.random.Generator) -> RoadMap:
    """A roundabout of three or four arms with one lane each; whoever is on the ring goes first."""
    speed = float(rng.choice([8.5, 11.0, 13.5]))
    m = RoadMap("roundabout", speed)
    section = draw_section(rng, 1, speed, busy=0.0)
    section = Section(1, section.width, float(rng.uniform(0.4, 2.0)))
    outer, lane, flare = float(rng.uniform(16, 23)), float(rng.uniform(5.0, 6.2)), float(rng.uniform(9, 14))
    ring = outer - lane / 2
    count = int(rng.choice([3, 4], p=[0.3, 0.7]))
    spread = np.arange(count) * 2 * np.pi / count + np.radians(rng.uniform(-5, 5, count))
    arms = [Arm(arm_axis(rng, angle, 125.0), angle, section) for angle in spread]
    opening = float(np.arcsin((section.half + flare) / (outer + flare)))  # of the flare's centre, seen from the ring's, from the arm
    mouth = float(np.sqrt((outer + flare) ** 2 - (section.half + flare) ** 2))
    walks, half = rng.random() < 0.6, 1.5
    for arm in arms:
        arm.mouth, arm.line = mouth, mouth + (2 * half + 11 if walks else 0.5)
        if walks:
            m.crosswalk(arm.axis.across(mouth + 8.5, half, section.half))
    corners = []
    for k, arm in enumerate(arms):
        last = arms[(k + 1) % count].angle + (2 * np.pi if k + 1 == count else 0)
        sides = []
        for angle, side in ((arm.angle, 1), (last, -1)):
            centre = geo.unit(angle) * mouth + side * geo.left_of(geo.unit(angle)) * (section.half + flare)
            to_arm, to_ring = angle - side * np.pi / 2, angle + side * opening + np.pi
            turn = (to_ring - to_arm + np.pi) % (2 * np.pi) - np.pi
            sides.append(geo.circle_arc(centre, flare, to_arm, to_arm + turn))
        between = geo.circle_arc(np.zeros(2), outer, arm.angle + opening, last - opening)
        corners.append((mouth, mouth, geo.joined(sides[0], between, sides[1][::-1])))
    lay_kerbs(m, arms, corners)
    m.edge(geo.circle_arc(np.zeros(2), outer - lane - KERB, 0, 2 * np.pi))
    m.draw("lane", geo.circle_arc(np.zeros(2), ring, 0, 2 * np.pi))
    for arm in arms:
        lay_lines(m, arm.axis, section, mouth, arm.length)
    joins = opening + 0.06
    ways = {}
    for i, arm in enumerate(arms):
        entry = geo.bend(arm.axis.at(mouth, section.lane(0)), arm.angle + np.pi, ring * geo.unit(arm.angle + joins), arm.angle + joins + np.pi / 2, (0, 1 / ring))
        leave = geo.bend(ring * geo.unit(arm.angle - joins), arm.angle - joins + np.pi / 2, arm.axis.at(mouth, -section.lane(0)), arm.angle, (1 / ring, 0))
        ways[i] = entry, leave
        m.draw("lane", entry)
        m.draw("lane", leave)
        waits = entry[np.hypot(*entry.T) > outer + 0.8]
        m.draw("road_line", geo.straight(*(waits[-1] + side * section.width / 2 * geo.left_of(geo.unit(arm.angle)) for side in (-1, 1))))
    for i, one in enumerate(arms):
        for j, two in enumerate(arms):
            if i == j:
                continue
            around = (two.angle - joins - one.angle - joins) % (2 * np.pi)
            arc = geo.circle_arc(np.zeros(2), ring, one.angle + joins, one.angle + joins + around)
            entry, leave = ways[i][0], ways[j][1]
            outside = np.hypot(*entry.T) > outer + 0.8
            pieces = (geo.joined(one.axis.curve(one.length, mouth, section.lane(0)), entry[outside]), geo.joined(entry[outside][-1:], entry[~outside], arc, leave),
                      two.axis.curve(mouth, two.length, -section.lane(0)))
            m.route(*pieces, entry=f"arm {i} lane 0", control="yield", rank=1)
    return m


def draw_map(rng: np.random.Generator, kind: str) -> RoadMap:
    """A map of one of KINDS."""
    if kind in ("straight", "curve"):
        return road(rng, kind)
    if kind == "merge":
        return merge(rng)
    return roundabout(rng) if kind == "roundabout" else crossing(rng, kind)
