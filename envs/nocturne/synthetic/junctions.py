"""Maps with a junction: crossings with signals or stop signs, and roundabouts."""

from dataclasses import dataclass

import numpy as np

from dreamdrive.envs.nocturne.synthetic import geometry as geo
from dreamdrive.envs.nocturne.synthetic.maps import (
    KERB,
    Axis,
    RoadMap,
    Section,
    Signals,
    draw_section,
    lay_bays,
    lay_lines,
)


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
    main, side = (
        (int(rng.choice([1, 2, 3], p=[0.2, 0.5, 0.3])), int(rng.choice([1, 2])))
        if signals
        else (int(rng.choice([1, 2], p=[0.6, 0.4])), 1)
    )
    sections = [draw_section(rng, lanes, speed) for lanes in (main, side)]
    arms = []
    for k in range(3 if three else 4):
        angle = k * np.pi / 2 + np.radians(rng.uniform(-7, 7))
        arms.append(
            Arm(arm_axis(rng, angle, 118.0), angle, sections[k % 2], minor=k % 2 == 1, group=k % 2 if signals else -1)
        )
    return arms


def corner(one: Arm, two: Arm, radius: float) -> tuple[float, float, np.ndarray]:
    """The kerb from arm `one` to `two`, the next counter-clockwise: the distances along both where it ends, and its
    points between."""
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
        kerb = geo.joined(
            one.axis.curve(one.length, first, one.section.half),
            points,
            two.axis.curve(last, two.length, -two.section.half),
        )
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
        m.signals = Signals(
            (float(green[0]), float(green[1])),
            float(rng.uniform(3, 4)),
            float(rng.uniform(1, 2)),
            float(rng.uniform(0, 60)),
        )
    if not signals and speed < 12 and rng.random() < 0.5:
        for arm in arms:
            m.bump(arm.axis.across(arm.line + rng.uniform(22, 30), 0.6, arm.section.paved), float(rng.uniform(3.5, 6)))
    lay_kerbs(m, arms, corners)
    for arm in arms:
        lay_arm(m, rng, arm, stops=not signals and (all_way or arm.minor))
    for i, j, way, lane, to in movements(arms):
        one, two = arms[i], arms[j]
        control = "signal" if signals else "stop" if all_way or one.minor else "none" if way == "through" else "yield"
        rank = (
            {"through": 2, "right": 2, "left": 1}
            if signals
            else dict.fromkeys(("through", "right", "left"), 1)
            if all_way
            else ({"through": 1, "right": 1, "left": 0} if one.minor else {"through": 9, "right": 8, "left": 3})
        )
        ends = corners[i][:2] if way == "right" else (one.mouth, two.mouth)  # a right turn keeps to its own corner
        pieces = through_junction(one, two, one.section.lane(lane), two.section.lane(to), ends, m)
        m.route(*pieces, entry=f"arm {i} lane {lane}", control=control, rank=rank[way], group=one.group)
        if way != "left" and lane == one.section.lanes - 1 and to == two.section.lanes - 1:
            pieces = through_junction(one, two, one.section.bicycle, two.section.bicycle, ends)
            m.route(*pieces, entry=f"arm {i} bike", control=control, rank=rank[way] + 1, group=one.group, bike=True)
    return m


def through_junction(
    one: Arm, two: Arm, leaves: float, arrives: float, ends: tuple[float, float], m: RoadMap | None = None
) -> tuple[np.ndarray, ...]:
    """The three pieces of a route from arm to arm, at distances `leaves` and `arrives` from their axes; drawn as a lane
    where a map is given.

    `ends`: distances from the centre at which the bend begins and ends.
    """
    start, end = one.axis.at(ends[0], leaves), two.axis.at(ends[1], -arrives)
    turn = geo.bend(start, one.angle + np.pi, end, two.angle)
    within = geo.joined(one.axis.curve(one.line, ends[0], leaves), turn, two.axis.curve(ends[1], two.onward, -arrives))
    if m is not None:
        m.draw("lane", within)
    return one.axis.curve(one.length, one.line, leaves), within, two.axis.curve(two.onward, two.length, -arrives)


def ring_corners(arms: list[Arm], mouth: float, opening: float, outer: float, flare: float) -> list[tuple]:
    """The kerbs of a roundabout from each arm to the next, as `lay_kerbs` takes them."""
    corners = []
    for k, arm in enumerate(arms):
        last = arms[(k + 1) % len(arms)].angle + (2 * np.pi if k + 1 == len(arms) else 0)
        sides = []
        for angle, side in ((arm.angle, 1), (last, -1)):
            centre = geo.unit(angle) * mouth + side * geo.left_of(geo.unit(angle)) * (arm.section.half + flare)
            to_arm, to_ring = angle - side * np.pi / 2, angle + side * opening + np.pi
            turn = (to_ring - to_arm + np.pi) % (2 * np.pi) - np.pi
            sides.append(geo.circle_arc(centre, flare, to_arm, to_arm + turn))
        between = geo.circle_arc(np.zeros(2), outer, arm.angle + opening, last - opening)
        corners.append((mouth, mouth, geo.joined(sides[0], between, sides[1][::-1])))
    return corners


def ring_way(arm: Arm, mouth: float, ring: float, joins: float) -> tuple[np.ndarray, np.ndarray]:
    """The ways from an arm into the ring and out again, `joins` radians beside it."""
    entry = geo.bend(
        arm.axis.at(mouth, arm.section.lane(0)),
        arm.angle + np.pi,
        ring * geo.unit(arm.angle + joins),
        arm.angle + joins + np.pi / 2,
        (0, 1 / ring),
    )
    leave = geo.bend(
        ring * geo.unit(arm.angle - joins),
        arm.angle - joins + np.pi / 2,
        arm.axis.at(mouth, -arm.section.lane(0)),
        arm.angle,
        (1 / ring, 0),
    )
    return entry, leave


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
    # of the flare's centre, seen from the ring's, from the arm
    opening = float(np.arcsin((section.half + flare) / (outer + flare)))
    mouth = float(np.sqrt((outer + flare) ** 2 - (section.half + flare) ** 2))
    walks, half = rng.random() < 0.6, 1.5
    for arm in arms:
        arm.mouth, arm.line = mouth, mouth + (2 * half + 11 if walks else 0.5)
        if walks:
            m.crosswalk(arm.axis.across(mouth + 8.5, half, section.half))
    lay_kerbs(m, arms, ring_corners(arms, mouth, opening, outer, flare))
    m.edge(geo.circle_arc(np.zeros(2), outer - lane - KERB, 0, 2 * np.pi))
    m.draw("lane", geo.circle_arc(np.zeros(2), ring, 0, 2 * np.pi))
    for arm in arms:
        lay_lines(m, arm.axis, section, mouth, arm.length)
    closest = min((arms[(k + 1) % count].angle - arm.angle) % (2 * np.pi) for k, arm in enumerate(arms))
    joins = min(opening + 0.1, closest / 2 - 0.02)  # or the way out would come before the way in
    ways = [ring_way(arm, mouth, ring, joins) for arm in arms]
    for arm, (entry, leave) in zip(arms, ways, strict=True):
        m.draw("lane", entry)
        m.draw("lane", leave)
        waits = entry[np.hypot(*entry.T) > outer + 0.8]
        across = section.width / 2 * geo.left_of(geo.unit(arm.angle))
        m.draw("road_line", geo.straight(waits[-1] - across, waits[-1] + across))
    for i, one in enumerate(arms):
        for j, two in enumerate(arms):
            if i == j:
                continue
            around = (two.angle - joins - one.angle - joins) % (2 * np.pi)
            arc = geo.circle_arc(np.zeros(2), ring, one.angle + joins, one.angle + joins + around)
            entry, leave = ways[i][0], ways[j][1]
            outside = np.hypot(*entry.T) > outer + 0.8
            pieces = (
                geo.joined(one.axis.curve(one.length, mouth, section.lane(0)), entry[outside]),
                geo.joined(entry[outside][-1:], entry[~outside], arc, leave),
                two.axis.curve(mouth, two.length, -section.lane(0)),
            )
            m.route(*pieces, entry=f"arm {i} lane 0", control="yield", rank=1)
    return m
