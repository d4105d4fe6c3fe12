"""Maps without junctions: straight and curved roads, on-ramps and lanes that end."""

from itertools import pairwise

import numpy as np

from dreamdrive.envs.nocturne.synthetic import geometry as geo
from dreamdrive.envs.nocturne.synthetic.maps import Axis, RoadMap, Section, draw_section, lay_bays, lay_lines


def winding(rng: np.random.Generator, length: float, radius: float) -> np.ndarray:
    """A smooth line through (0, 0) at half its length, with bends of about `radius` metres; straight where radius is
    infinite."""
    s = np.arange(int(length / geo.FINE)) * geo.FINE
    if np.isinf(radius):
        curvature = np.zeros(len(s))
    else:
        sign, middle = rng.choice([-1, 1]), length / 2 + rng.uniform(-20, 20)
        turn = rng.uniform(0.9, 1.9) * radius  # length of a bend of up to 110 degrees
        turn = min(turn, 0.55 * length)
        ease = min(30.0, 0.3 * turn)
        curvature = (
            sign
            / radius
            * (
                geo.smooth_step(s, middle - turn / 2 - ease, middle - turn / 2)
                - geo.smooth_step(s, middle + turn / 2, middle + turn / 2 + ease)
            )
        )
        if rng.random() < 0.5:  # the far ends bend the other way
            back = sign / radius * 0.6
            curvature -= back * geo.smooth_step(s, middle + turn / 2 + ease, middle + turn / 2 + 2 * ease)
    xy = geo.from_curvature(np.zeros(2), 0.0, curvature)
    return xy - xy[len(xy) // 2]


def lane_changes(
    m: RoadMap,
    rng: np.random.Generator,
    axis: Axis,
    laterals: list[float],
    numbers: list[int],
    length: float,
    tries: int,
) -> None:
    """Add routes that leave the lanes `laterals` (left positive, in the direction of the axis; numbers: their routes)
    for a neighbour."""
    forwards = laterals[0] <= 0
    for _ in range(tries):
        if len(laterals) < 2:
            return
        i = int(rng.integers(len(laterals)))
        j = int(rng.choice([k for k in (i - 1, i + 1) if 0 <= k < len(laterals)]))
        at, taken = rng.uniform(0.25, 0.65) * length, max(4.0 * m.speed, 35.0) * rng.uniform(0.9, 1.2)

        def lateral(s, here=laterals[i], there=laterals[j], at=at, taken=taken):
            return here + (there - here) * (
                geo.smooth_step(s, at, at + taken)
                if forwards
                else 1 - geo.smooth_step(s, length - at - taken, length - at)
            )

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
    if speed < 12 and rng.random() < 0.6:
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
        first, last = (0.0, length) if side < 0 else (length, 0.0)
        laterals = [side * section.lane(i) for i in range(section.lanes)]
        numbers = [m.route(axis.curve(first, last, lateral), entry=f"{name} {i}") for i, lateral in enumerate(laterals)]
        lane_changes(m, rng, axis, laterals, numbers, length, 3)
        if speed < 16:
            m.route(axis.curve(first, last, side * section.bicycle), entry=f"{name} bike", bike=True)
    return m


def merge(rng: np.random.Generator) -> RoadMap:
    """A carriageway whose rightmost lane ends, or that a ramp joins; perhaps with the opposite carriageway beside
    it."""
    speed = float(rng.choice([14.0, 17.0, 20.0, 24.0]))
    m = RoadMap("merge", speed)
    length = 150 + 12 * speed
    axis = Axis(winding(rng, length, np.inf if rng.random() < 0.5 else rng.uniform(1.0, 2.0) * speed**2))
    length = float(axis.s[-1])
    lanes, width = int(rng.choice([1, 2, 3], p=[0.3, 0.5, 0.2])), float(rng.uniform(3.4, 3.75))
    ramp = rng.random() < 0.65
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
        upper = axis.curve(0, nose, -lanes * width - shoulder)
        lower = axis.curve(nose, first, lambda s: joining(s) + width / 2 + shoulder)
        tip = axis.at(nose + 0.4, -lanes * width - away(np.array([nose]))[0] / 2)
        m.edge(geo.joined(upper, tip[None], lower))
    laterals = [-(i + 0.5) * width for i in range(lanes)]
    numbers = [m.route(axis.curve(0, length, lateral), entry=f"main {i}") for i, lateral in enumerate(laterals)]
    lane_changes(m, rng, axis, laterals, numbers, length, 2)
    cuts = (first, ends_at - 3, ends_at + taper + 12, length)
    pieces = [axis.curve(a, b, joining) for a, b in pairwise(cuts)]
    for _ in range(2):  # as often taken as two lanes
        m.route(*pieces, entry="ramp", control="yield", rank=1)
    if rng.random() < 0.6:
        lay_opposite(m, axis, lanes, width, length, rng.uniform(2.5, 6))
    return m


def lay_opposite(m: RoadMap, axis: Axis, lanes: int, width: float, length: float, gap: float) -> None:
    """The carriageway of the other direction, beyond a `gap` of so many metres."""
    m.edge(axis.curve(0, length, 0.8 + gap))
    m.edge(axis.curve(0, length, 2.6 + gap + lanes * width))
    for i in range(lanes):
        lateral = 1.6 + gap + (i + 0.5) * width
        m.draw("lane", axis.curve(length, 0, lateral))
        if i:
            m.draw("road_line", axis.curve(length, 0, 1.6 + gap + i * width))
        m.route(axis.curve(length, 0, lateral), entry=f"oncoming {i}")
