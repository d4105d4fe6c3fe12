"""Traffic: vehicles and cyclists that follow routes, keep their distance, and let others go first.

Along a route a driver accelerates by the Intelligent Driver Model (Treiber, Hennecke and Helbing 2000, Physical Review E 62, 1805, equations 3 and 4)

    dv/dt = a (1 - (v / v0)^4 - (s* / s)^2),    s* = s0 + max(0, v T + v dv / (2 sqrt(a b)))

behind whatever comes first: a body within the strip the vehicle will sweep, the line where it has to wait, a crosswalk with somebody on it. v0 is the
speed limit, lowered to what curves allow. Who may pass a line is decided by predicted times: a vehicle goes if it would be in no zone that its route
shares with another at a time when that other, already let in or of higher rank, is in it.

The centre of the box moves along the route, and the heading follows as a bicycle's does whose box has its centre midway between the axles: the course
is heading + beta, and over a step of length c the heading turns by 2 c sin(beta) / L. That is Nocturne's own step, so its dynamics, driven by
the actions read off the motion, reproduce it. Nobody comes to a complete standstill: who waits creeps at a centimetre or two a second, or the
actions of a step without motion would be undefined.
"""

from dataclasses import dataclass, field

import numpy as np

from envs.nocturne.synthetic import geometry as geo
from envs.nocturne.synthetic.maps import BIKE_ZONE, CAR_ZONE, MIXED_ZONE, RoadMap
from envs.nocturne.synthetic.walkers import Walker

DT = 0.1  # s
STEPS = 91
WARM_UP = 120  # steps before time 0
HARDEST = -6.0  # m/s^2, the limit of braking
JERK_DOWN, JERK_UP, JERK_EMERGENCY = 10.0, 5.0, 60.0  # m/s^3
LOOK_AHEAD = 36  # places along its route at which a driver looks for bodies
BODY_POINTS = 4  # circles that stand for a body there
CLEARANCE = 0.25  # m to either side of the swept strip
ACROSS = np.pi / 4  # radians between two courses that cross
GRACE = 0.9  # s between leaving a shared zone and another's entering it
SLOPE = 1.2  # m/s^2, acceleration assumed in predictions
TURNS_IN = 1.45  # smallest radius of a route, in vehicle lengths


@dataclass
class Fleet:
    """All vehicles and cyclists of a scene, one entry (N,) each; see `draw` for units.

    State: s, v, a (arc length of the box centre, speed, acceleration), heading, beta (radians), active; `granted` to pass its line, `done` with it,
    `stopped` at it, `arrived` (s) there.
    Driver: factor (of the speed limit), headway T, gap s0, accelerates a, brakes b, creep (m/s); a spell of slowness from slow_from to slow_to (s).
    """

    route: np.ndarray
    length: np.ndarray
    width: np.ndarray
    bike: np.ndarray
    appears: np.ndarray
    driver: dict[str, np.ndarray]
    s: np.ndarray
    v: np.ndarray
    a: np.ndarray = field(init=False)
    heading: np.ndarray = field(init=False)
    beta: np.ndarray = field(init=False)
    xy: np.ndarray = field(init=False)
    course: np.ndarray = field(init=False)

    def __post_init__(self):
        n = len(self.route)
        self.a, self.heading, self.beta, self.course = (np.zeros(n) for _ in range(4))
        self.xy = np.zeros((n, 2))
        self.active, self.granted, self.done, self.stopped = (np.zeros(n, bool) for _ in range(4))
        self.arrived, self.let_in = np.full(n, np.inf), np.full(n, np.inf)


@dataclass(frozen=True)
class Log:
    """What traffic did: every field (STEPS, N) or (STEPS, N, 2), for the steps that are kept.

    `course` is the direction of motion over the step that follows.
    """

    xy: np.ndarray
    heading: np.ndarray
    course: np.ndarray
    speed: np.ndarray
    s: np.ndarray
    active: np.ndarray


class Routes:
    """The routes of a map as tables: row r, column k is route r at arc length k STEP.

    Fields:
        xy: (R, S, 2), theta, kappa, speed: (R, S) direction, curvature and the speed a free vehicle has; rows are padded with their last value
        length, line, clear, rank, group, entry, fallback: (R,); control: list
        zone_in, zone_out: (R, R) arc length on route r of the zone it shares with route q, nan without
        follows: (R, R) the two leave their zone in the same direction
    """

    def __init__(self, m: RoadMap, lateral_acceleration: float, braking: float):
        routes = m.routes
        count, size = len(routes), max(len(r.xy) for r in routes)
        self.xy = np.zeros((count, size, 2))
        self.theta, self.kappa, self.speed = (np.zeros((count, size)) for _ in range(3))
        self.step = np.array([geo.lengths(r.xy)[-1] / (len(r.xy) - 1) for r in routes])  # STEP, but for the division of a length into whole steps
        self.points = np.array([len(r.xy) for r in routes])
        for i, r in enumerate(routes):
            n = len(r.xy)
            theta = np.unwrap(np.arctan2(*geo.tangents(r.xy)[:, ::-1].T))
            kappa = np.diff(theta, append=theta[-1]) / self.step[i]
            smooth = np.convolve(np.pad(kappa, 2, mode="edge"), np.ones(5) / 5, mode="valid")
            limit = np.minimum(r.limit, np.sqrt(lateral_acceleration / np.maximum(np.abs(smooth), 1e-4)))
            for table, row in ((self.xy, r.xy), (self.theta, theta), (self.kappa, smooth), (self.speed, limit)):
                table[i, :n], table[i, n:] = row, row[-1]
        for k in range(size - 2, -1, -1):  # brake before a curve, not in it
            self.speed[:, k] = np.minimum(self.speed[:, k], np.sqrt(self.speed[:, k + 1] ** 2 + 2 * braking * self.step))
        self.length = self.step * (self.points - 1)
        self.sharpest = np.array([np.abs(self.kappa[i, : self.points[i]]).max() for i in range(count)])
        self.line, self.clear = np.array([r.line for r in routes]), np.array([r.clear for r in routes])
        self.rank, self.group, self.fallback = (np.array([getattr(r, name) for r in routes]) for name in ("rank", "group", "fallback"))
        self.bike = np.array([r.bike for r in routes])
        self.control = np.array([r.control for r in routes])
        names = sorted({r.entry for r in routes})
        self.entry = np.array([names.index(r.entry) for r in routes])
        self.within = np.array([self._slowest_within(i) for i in range(count)])
        self._find_zones()

    def index(self, route: np.ndarray, s: np.ndarray) -> np.ndarray:
        """The table column at or just before arc length `s`."""
        step, points = self.step[route], self.points[route]
        if s.ndim > route.ndim:
            step, points = step[:, None], points[:, None]
        return np.clip((s / step).astype(int), 0, points - 1)

    def place(self, route: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Position (N, 2) at arc length `s` (N,), on arcs between the table's points, and straight on beyond the end."""
        k = self.index(route, s)
        over = s - k * self.step[route]
        return self.xy[route, k] + over[:, None] * geo.unit(self.theta[route, k] + self.kappa[route, k] * over / 2)

    def _slowest_within(self, i: int) -> float:
        if np.isnan(self.line[i]):
            return float(self.speed[i].mean())
        first, last = int(self.line[i] / self.step[i]), int(self.clear[i] / self.step[i]) + 1
        return float(np.median(self.speed[i, first:last]))

    def _stretch(self, i: int) -> np.ndarray:
        """Columns to look for shared zones at: past the line, or everywhere without one."""
        if np.isnan(self.line[i]):
            return np.arange(0, self.points[i], 4)
        return np.arange(int(self.line[i] / self.step[i]), min(int((self.clear[i] + 8) / self.step[i]), self.points[i] - 1), 3)

    def _find_zones(self) -> None:
        count = len(self.rank)
        self.zone_in, self.zone_out = np.full((count, count), np.nan), np.full((count, count), np.nan)
        self.follows = np.zeros((count, count), bool)
        for i in range(count):
            for j in range(i + 1, count):
                if self.entry[i] == self.entry[j] or (np.isnan(self.line[i]) and np.isnan(self.line[j])):
                    continue
                near = BIKE_ZONE if self.bike[i] and self.bike[j] else MIXED_ZONE if self.bike[i] or self.bike[j] else CAR_ZONE
                here, there = self._stretch(i), self._stretch(j)
                a, b = self.xy[i, here], self.xy[j, there]
                low, high = np.maximum(a.min(0), b.min(0)) - near, np.minimum(a.max(0), b.max(0)) + near
                here, there = here[((a > low) & (a < high)).all(1)], there[((b > low) & (b < high)).all(1)]
                if not len(here) or not len(there):
                    continue
                a, b = self.xy[i, here], self.xy[j, there]
                touch = (a[:, None, 0] - b[None, :, 0]) ** 2 + (a[:, None, 1] - b[None, :, 1]) ** 2 < near**2
                if not touch.any():
                    continue
                one, two = here[touch.any(1)], there[touch.any(0)]
                self.zone_in[i, j], self.zone_out[i, j] = one[0] * self.step[i], one[-1] * self.step[i]
                self.zone_in[j, i], self.zone_out[j, i] = two[0] * self.step[j], two[-1] * self.step[j]
                self.follows[i, j] = self.follows[j, i] = np.cos(self.theta[i, one[-1]] - self.theta[j, two[-1]]) > 0.85


# Who is there


def draw_size(rng: np.random.Generator) -> tuple[float, float]:
    """Length and width of a motor vehicle: cars, vans and pick-ups, lorries and buses."""
    kind = rng.choice(3, p=[0.70, 0.20, 0.10])
    if kind == 0:
        return float(np.clip(rng.normal(4.7, 0.25), 3.8, 5.2)), float(np.clip(rng.normal(1.98, 0.08), 1.75, 2.15))
    if kind == 1:
        return float(rng.uniform(5.1, 6.2)), float(rng.uniform(2.0, 2.25))
    return float(rng.uniform(7.0, 12.0)), float(rng.uniform(2.35, 2.55))


def draw_drivers(rng: np.random.Generator, bike: np.ndarray, length: np.ndarray) -> dict[str, np.ndarray]:
    """Parameters of the drivers of a fleet; slower for cyclists and lorries."""
    n, heavy = len(bike), length > 6.9
    spell = np.where(rng.random(n) < 0.3, rng.uniform(-3, 7, n), np.inf)
    return {
        "factor": np.where(heavy, rng.uniform(0.6, 0.95, n), rng.uniform(0.8, 1.12, n)),
        "top": np.where(bike, rng.uniform(3.5, 6.5, n), np.inf),
        "headway": rng.uniform(0.9, 1.8, n), "gap": np.where(bike, rng.uniform(0.8, 1.5, n), rng.uniform(1.4, 2.8, n)),
        "accelerates": np.where(bike, rng.uniform(0.7, 1.1, n), np.where(heavy, rng.uniform(0.7, 1.2, n), rng.uniform(1.2, 2.3, n))),
        "brakes": rng.uniform(1.5, 2.6, n), "creep": rng.uniform(0.010, 0.018, n),
        "slow_from": spell, "slow_to": spell + rng.uniform(2, 5, n), "slow_factor": rng.uniform(0.15, 0.65, n),
    }


def draw_fleet(rng: np.random.Generator, routes: Routes) -> Fleet:
    """Vehicles spread over the routes at the beginning of the warm-up, and those that appear later where routes begin."""
    bikes_too = rng.random() < 0.5
    start = -WARM_UP * DT
    motor, cycle = np.flatnonzero(~routes.bike), np.flatnonzero(routes.bike)
    lanes = len(set(routes.entry[motor]))
    wanted = int(np.clip(rng.uniform(2.0, 6.0) * lanes, 8, 36))
    rows: list[tuple] = []
    places = np.zeros((0, 5))  # x, y, direction, half length, speed
    for _ in range(wanted * 6):
        if len(rows) >= wanted:
            break
        bike = bool(bikes_too and len(cycle) and rng.random() < 0.12)
        r = int(rng.choice(cycle if bike else motor))
        size = (1.8, 0.7) if bike else draw_size(rng)
        s = rng.uniform(8, routes.length[r] - 30)
        k = int(s / routes.step[r])
        in_conflict = routes.line[r] - 4 - size[0] / 2 < s < routes.clear[r] + 4
        if in_conflict or routes.sharpest[r] * size[0] * TURNS_IN > 1:
            continue
        x, y, direction = *routes.xy[r, k], routes.theta[r, k]
        away = places[:, :2] - (x, y)
        ahead, beside = away @ geo.unit(direction), away @ geo.left_of(geo.unit(direction))
        needed = places[:, 3] + size[0] / 2 + 5 + 0.9 * routes.speed[r, k]
        if np.any((np.abs(ahead) < needed) & (np.abs(beside) < (1.6 if bike else 2.4))):
            continue
        places = np.vstack([places, (x, y, direction, size[0] / 2, 0)])
        rows.append((r, *size, bike, start, s))
    for entry in np.unique(routes.entry[motor if not (bikes_too and len(cycle)) else np.arange(len(routes.entry))]):
        choices = np.flatnonzero(routes.entry == entry)
        bike = bool(routes.bike[choices[0]])
        time = start + rng.exponential(5.0)
        pause = rng.uniform(3, 11) if not bike else rng.uniform(20, 60)
        while time < STEPS * DT - 1:
            size = (1.8, 0.7) if bike else draw_size(rng)
            r = int(rng.choice(choices))
            if routes.sharpest[r] * size[0] * TURNS_IN <= 1:
                rows.append((r, *size, bike, time, size[0] / 2 + 0.5))
            time += 1.5 + rng.exponential(pause)
    route, length, width, bike, appears, s = (np.array(column) for column in zip(*rows, strict=True))
    drivers = draw_drivers(rng, bike, length)
    v = 0.75 * np.minimum(routes.speed[route, routes.index(route, s)] * drivers["factor"], drivers["top"])
    return Fleet(route, length, width, bike, appears, drivers, s, v)


def crossings(m: RoadMap, routes: Routes, walkers: list[Walker], times: np.ndarray) -> np.ndarray:
    """(R, E, 4): for every route the visits of pedestrians to its lane, as (arc length where the crosswalk begins, where it ends, from, to) in m and s."""
    visits: list[list[tuple]] = [[] for _ in m.routes]
    for r in range(len(m.routes)):
        xy = routes.xy[r, : routes.points[r]]
        for number, walk in enumerate(m.crosswalks):
            on = np.flatnonzero(walk.covers(xy))
            if not len(on):
                continue
            lane = walk.local(xy[on])[1].mean()
            for walker in walkers:
                if walker.crossing != number:
                    continue
                near = np.abs(walk.local(walker.xy)[1] - lane) < 2.4
                if near.any():
                    visits[r].append((on[0] * routes.step[r], on[-1] * routes.step[r], times[near][0], times[near][-1]))
    table = np.full((len(visits), max(max(map(len, visits)), 1), 4), np.nan)
    for r, rows in enumerate(visits):
        table[r, : len(rows)] = np.array(rows).reshape(-1, 4)
    return table


# The laws of motion


def travel_time(distance: np.ndarray, v: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Seconds to cover `distance` from speed v, accelerating by SLOPE up to `top`; 0 where nothing is left."""
    d, top = np.maximum(distance, 0), np.maximum(top, v)
    speeding_up = (top**2 - v**2) / (2 * SLOPE)
    early = (np.sqrt(v**2 + 2 * SLOPE * d) - v) / SLOPE
    late = (top - v) / SLOPE + (d - speeding_up) / np.maximum(top, 0.1)
    return np.where(d < speeding_up, early, late)


def free_acceleration(v: np.ndarray, wanted: np.ndarray, accelerates: np.ndarray, brakes: np.ndarray) -> np.ndarray:
    """The IDM's first two terms; above the wanted speed a braking no harder than comfortable."""
    return np.where(v <= wanted, accelerates * (1 - (v / np.maximum(wanted, 0.1)) ** 4), -np.minimum(brakes, (v - wanted) / 0.8))


def interaction(v: np.ndarray, gap: np.ndarray, leader: np.ndarray, least: np.ndarray, headway: np.ndarray, driver: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The IDM's third term, a deceleration in m/s^2, behind something `gap` metres ahead at speed `leader`."""
    accelerates, brakes = driver
    wanted = least + np.maximum(0, v * headway + v * (v - leader) / (2 * np.sqrt(accelerates * brakes)))
    return accelerates * (wanted / np.maximum(gap, 0.1)) ** 2


class Traffic:
    """The fleet on its routes, among pedestrians; `run` gives the log."""

    def __init__(self, m: RoadMap, routes: Routes, fleet: Fleet, walkers: list[Walker], times: np.ndarray):
        self.map, self.routes, self.fleet, self.times = m, routes, fleet, times
        self.walker_xy = np.stack([w.xy for w in walkers]) if walkers else np.zeros((0, len(times), 2))  # (W, T, 2)
        self.visits = crossings(m, routes, walkers, times)

    def run(self) -> Log:
        fleet, rows = self.fleet, []
        for k, time in enumerate(self.times):
            self._appear(time)
            now = np.flatnonzero(fleet.active)
            before = [fleet.xy.copy(), fleet.heading.copy(), None, fleet.v.copy(), fleet.s.copy(), fleet.active.copy()]
            if len(now):
                self._decide(now, time)
                self._move(now, self._accelerations(now, k, time))
            before[2] = fleet.course.copy()
            if k >= WARM_UP:
                rows.append(before)
        return Log(*(np.stack(column) for column in zip(*rows, strict=True)))

    def _appear(self, time: float) -> None:
        """Let in who is due and has room."""
        f, routes = self.fleet, self.routes
        for i in np.flatnonzero(~f.active & ~f.done & (f.appears <= time + 1e-9)):
            r = f.route[i : i + 1]
            xy, k = routes.place(r, f.s[i : i + 1])[0], routes.index(r, f.s[i : i + 1])
            theta = routes.theta[r, k][0]
            if time > self.times[0]:
                others = np.flatnonzero(f.active)
                offset = f.xy[others] - xy
                same = others[np.abs(offset @ geo.left_of(geo.unit(theta))) < (f.width[i] + f.width[others]) / 2 + 0.4]
                room = np.hypot(*(f.xy[same] - xy).T) - (f.length[same] + f.length[i]) / 2
                if np.any(room < 3 + 1.3 * np.minimum(f.v[i], f.v[same] + 4)):
                    continue
                f.v[i] = min([f.v[i], *(f.v[same[room < 40]] + 2)])
            kappa = routes.kappa[r, k][0]
            f.xy[i], f.course[i] = xy, theta
            f.heading[i] = theta - np.arcsin(np.clip(kappa * f.length[i] / 2, -0.9, 0.9))
            f.active[i] = True

    # Right of way

    def _decide(self, now: np.ndarray, time: float) -> None:
        """Update who may pass its line, and since when."""
        self._let_in(now, time)
        f = self.fleet
        f.let_in[now] = np.where(f.granted[now], np.minimum(f.let_in[now], time), np.inf)

    def _let_in(self, now: np.ndarray, time: float) -> None:
        f, routes = self.fleet, self.routes
        r, front, back = f.route[now], f.s[now] + f.length[now] / 2, f.s[now] - f.length[now] / 2
        left = routes.line[r] - front  # m to the line
        f.done[now] |= back > routes.clear[r]
        waits = ~np.isnan(left) & ~f.done[now] & (left > -0.3) & (routes.control[r] != "none")
        f.granted[now] |= ~np.isnan(left) & ~f.done[now] & (left <= -0.3)
        at_line = waits & (left < 2.5) & (f.v[now] < 0.4)
        f.arrived[now] = np.where(at_line & ~f.stopped[now], time, f.arrived[now])
        f.stopped[now] |= at_line
        can_stop = left > f.v[now] ** 2 / (2 * 3.0) + 0.3
        may = self._signal_allows(now, can_stop, time) & ((routes.control[r] != "stop") | f.stopped[now])
        had = f.granted[now].copy()
        f.granted[now] &= ~(waits & can_stop)
        asks = waits & may & ~f.granted[now] & (left < self._attention(now))
        if not asks.any():
            self._keep_lane(now, left, waits)
            return
        patience = np.where(had | (time - f.arrived[now] > 5), 0.5, 1.0) * np.where(routes.fallback[r] >= 0, 1.6, 1.0)
        clash = self._clash(now, front, back, patience)
        rank = routes.rank[r]
        entry = routes.entry[r]
        queued = waits & ~f.granted[now]
        behind = ((entry[:, None] == entry) & (left < left[:, None]) & queued).any(1) & queued
        comes = (may | ~waits) & ~f.done[now] & ~f.stopped[now] & ~behind
        for i in sorted(np.flatnonzero(asks), key=lambda i: (-rank[i], f.arrived[now[i]], left[i])):
            first = not np.any(asks & ~f.granted[now] & (entry == entry[i]) & (left < left[i]))
            inside = f.granted[now] & ~f.done[now]
            if first and not np.any(clash[i] & (inside | (comes & (rank > rank[i])))):
                f.granted[now[i]] = True
        hopeless = waits & ~f.granted[now] & (left < f.v[now] ** 2 / (2 * 5.5)) & (f.v[now] > 1)
        f.granted[now] |= hopeless
        self._keep_lane(now, left, waits)

    def _attention(self, now: np.ndarray) -> np.ndarray:
        """Metres before its line from where a driver cares about it."""
        v = self.fleet.v[now]
        return 10 + 3 * v + v**2 / 5

    def _signal_allows(self, now: np.ndarray, can_stop: np.ndarray, time: float) -> np.ndarray:
        signals = self.map.signals
        if signals is None:
            return np.ones(len(now), bool)
        states = np.array([signals.state(g, time) for g in (0, 1)])[self.routes.group[self.fleet.route[now]]]
        return (states == "go") | ((states == "caution") & ~can_stop)

    def _clash(self, now: np.ndarray, front: np.ndarray, back: np.ndarray, patience: np.ndarray) -> np.ndarray:
        """(A, A): would i be where its route meets j's at the time j is?"""
        f, routes = self.fleet, self.routes
        r, v = f.route[now], f.v[now][:, None]
        top = np.minimum(routes.within[r] * f.driver["factor"][now], f.driver["top"][now])[:, None]
        begins, ends = routes.zone_in[r[:, None], r[None]], routes.zone_out[r[:, None], r[None]]
        enters = travel_time(begins - front[:, None], v, top)
        follows = routes.follows[r[:, None], r[None]]
        leaves = travel_time(np.where(follows, begins, ends) - back[:, None], v, top)  # where the other may follow, the rear need only be in
        grace = GRACE * patience[:, None] + np.where(follows, np.maximum(np.maximum(v, top * 0.9).T - np.maximum(v, top * 0.6), 0) / 3, 0)
        shared = ~np.isnan(begins) & (ends > back[:, None]) & (ends > back[:, None]).T
        return shared & (enters < leaves.T + GRACE * patience[:, None]) & (enters.T < leaves + grace)

    def _keep_lane(self, now: np.ndarray, left: np.ndarray, waits: np.ndarray) -> None:
        """Who finds no gap to change lanes into stays in its own."""
        f, routes = self.fleet, self.routes
        stays = waits & (routes.fallback[f.route[now]] >= 0) & ~f.granted[now] & (left < 2 + 0.3 * f.v[now])
        f.route[now[stays]] = routes.fallback[f.route[now[stays]]]

    # Motion

    def _accelerations(self, now: np.ndarray, k: int, time: float) -> np.ndarray:
        """The acceleration (A,) every driver wants."""
        f, routes, d = self.fleet, self.routes, {name: value[self._subset(now)] for name, value in self.fleet.driver.items()}
        r, s, v = f.route[now], f.s[now], f.v[now]
        wanted = wanted_speed(routes, r, s, v, d, time)
        driver = (d["accelerates"], d["brakes"])
        free = free_acceleration(v, wanted, *driver)
        gap, leader = self._leaders(now, k)
        to_zone = self._to_zone(now)
        drag = interaction(v, gap, leader, d["gap"], d["headway"], driver)
        left = routes.line[r] - s - f.length[now] / 2
        held = ~np.isnan(left) & ~f.granted[now] & ~f.done[now] & (routes.control[r] != "none") & (routes.fallback[r] < 0) & (left < self._attention(now))
        still, near = np.zeros(len(now)), np.full(len(now), 0.5)
        drag = np.where(held, np.maximum(drag, interaction(v, np.maximum(left, 0.1), still, near, near, driver)), drag)
        before = np.minimum(self._to_crosswalk(now, time, np.where(leader < 2.5, gap, np.inf)), to_zone)
        drag = np.maximum(drag, np.where(np.isfinite(before), interaction(v, before, still, near, near, driver), 0))
        return np.minimum(free, free.clip(0) - drag)

    @staticmethod
    def _subset(now: np.ndarray) -> np.ndarray:
        return now

    def _to_zone(self, now: np.ndarray) -> np.ndarray:
        """Metres (A,) to where to stop for another vehicle that was let in too and turns out to come first; infinite without one."""
        f, routes = self.fleet, self.routes
        r, front, back, v = f.route[now], f.s[now] + f.length[now] / 2, f.s[now] - f.length[now] / 2, f.v[now]
        takes_part = ~f.done[now] & (f.granted[now] | np.isnan(routes.line[r]) | (routes.control[r] == "none"))
        begins = routes.zone_in[r[:, None], r[None]]
        left = begins - front[:, None] - 0.8
        inside = left < -0.8  # [i, j]: i is in the zone it shares with j
        rank, since, follows = routes.rank[r], f.let_in[now], routes.follows[r[:, None], r[None]]
        above = (rank > rank[:, None]) | ((rank == rank[:, None]) & (since < since[:, None]))
        yields = self._clash(now, front, back, np.full(len(now), 0.35)) & takes_part & takes_part[:, None] & ~inside & (above | inside.T) & ~(inside.T & follows)
        can_stop = left > (v**2 / (2 * np.where(f.bike[now], 3.0, 4.5)))[:, None]
        return np.where(yields & can_stop, left, np.inf).min(1)

    def _to_crosswalk(self, now: np.ndarray, time: float, jam: np.ndarray) -> np.ndarray:
        """Metres (A,) to where to stop for a pedestrian; infinite without one. `jam` (A,) is the gap to a leader that hardly moves."""
        f, routes = self.fleet, self.routes
        visits = self.visits[f.route[now]]  # (A, E, 4)
        v, front, back = f.v[now][:, None], (f.s[now] + f.length[now] / 2)[:, None], (f.s[now] - f.length[now] / 2)[:, None]
        top = np.minimum(routes.speed[f.route[now], routes.index(f.route[now], f.s[now])], f.driver["top"][now])[:, None]
        left = visits[..., 0] - 1.0 - front
        reaches = time + travel_time(visits[..., 0] - front, v, top)
        leaves = time + travel_time(visits[..., 1] - back, v, top)
        meets = (reaches < visits[..., 3] + 0.3) & (visits[..., 2] - 0.8 < leaves)
        room = (front + jam[:, None]) - visits[..., 1] - f.length[now][:, None] - 1.5  # beyond the crosswalk, behind the queue
        meets |= (room < 0) & (front + jam[:, None] > visits[..., 0]) & (visits[..., 3] > time)  # nobody waits on a crosswalk
        can_stop = left > v**2 / (2 * 5.0)
        matters = meets & can_stop & (left < 12 + 3 * v + v**2 / 4)
        return np.where(matters, left, np.inf).min(1)

    def _leaders(self, now: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Gap (A,) to the first body on the strip each vehicle will sweep, infinite without one, and that body's speed along the strip."""
        f, routes = self.fleet, self.routes
        r, s, v = f.route[now], f.s[now], f.v[now]
        reach = 14 + 4 * v
        column = routes.index(r, s[:, None] + np.linspace(0, 1, LOOK_AHEAD) * reach[:, None])  # (A, K)
        strip = routes.xy[r[:, None], column]
        bodies, radius, speed, course = self._bodies(now, k)
        away = bodies[None, :, BODY_POINTS // 2] - f.xy[now][:, None]
        ahead = (away * geo.unit(f.heading[now])[:, None]).sum(-1)
        candidate = ((away**2).sum(-1) < (reach + 8)[:, None] ** 2) & (ahead > -7)
        candidate[np.arange(len(now)), np.arange(len(now))] = False
        i, j = np.nonzero(candidate)
        gaps, leaders = np.full(len(now), np.inf), np.zeros(len(now))
        if not len(i):
            return gaps, leaders
        apart = ((strip[i][:, None] - bodies[j][:, :, None]) ** 2).sum(-1)  # (pairs, BODY_POINTS, K)
        nearest = column[i[:, None], apart.argmin(-1)]  # (pairs, BODY_POINTS)
        row = r[i][:, None]
        theta, offset = routes.theta[row, nearest], bodies[j] - routes.xy[row, nearest]
        along = offset[..., 0] * np.cos(theta) + offset[..., 1] * np.sin(theta)
        beside = offset[..., 1] * np.cos(theta) - offset[..., 0] * np.sin(theta)
        at = nearest * routes.step[row] + along
        sweep = 0.25 * f.length[now][i][:, None] ** 2 * np.abs(routes.kappa[row, nearest])
        inside = np.abs(beside) < f.width[now][i][:, None] / 2 + radius[j][:, None] + CLEARANCE + np.minimum(sweep, 0.9)
        inside &= (at > s[i][:, None]) & (at.mean(1) > s[i])[:, None] & (along < 2 * reach[i][:, None] / LOOK_AHEAD)
        gap = np.where(inside, at - s[i][:, None] - f.length[now][i][:, None] / 2 - radius[j][:, None], np.inf)
        which = gap.argmin(1)
        pair = np.arange(len(i))
        gap, theta = gap[pair, which], theta[pair, which]
        turned = np.abs((course[j] - theta + np.pi) % (2 * np.pi) - np.pi)
        passing = (turned > ACROSS) & (speed[j] > 1.5) & (gap > 3 * v[i] + 2)  # gone by the time one is there
        gap = np.where(passing, np.inf, gap)
        forward = speed[j] * np.cos(turned)
        # The body that asks for the hardest braking counts; behind equal drivers that is the one with the least (gap, speed).
        urgency = np.where(np.isfinite(gap), (2 + 1.2 * v[i] + v[i] * np.maximum(v[i] - forward, 0) / 3.5) / np.maximum(gap, 0.1), -1)
        order = np.argsort(urgency, kind="stable")
        gaps[i[order]], leaders[i[order]] = gap[order], forward[order]
        return gaps, leaders

    def _bodies(self, now: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Circles (B, BODY_POINTS, 2), their radius, speed and course, of the active vehicles (first, in order) and the pedestrians."""
        f = self.fleet
        half = (f.length[now] - f.width[now])[:, None] / 2 * np.linspace(-1, 1, BODY_POINTS)
        vehicles = f.xy[now][:, None] + half[..., None] * geo.unit(f.heading[now])[:, None]
        people = np.repeat(self.walker_xy[:, k][:, None], BODY_POINTS, axis=1)
        count = len(people)
        return (np.concatenate([vehicles, people]), np.concatenate([f.width[now] / 2, np.full(count, 0.4)]),
                np.concatenate([f.v[now], np.zeros(count)]), np.concatenate([f.course[now], np.zeros(count)]))

    def _move(self, now: np.ndarray, wanted: np.ndarray) -> None:
        """One step of DT: bounded change of acceleration, trapezoidal motion along the route, the heading drawn along."""
        f, routes = self.fleet, self.routes
        down = np.where(wanted < -3.5, JERK_EMERGENCY, JERK_DOWN) * DT
        a = np.clip(wanted, f.a[now] - down, f.a[now] + JERK_UP * DT).clip(HARDEST, 3.0)
        before = f.v[now]
        after = np.maximum(before + a * DT, f.driver["creep"][now])
        f.a[now], f.v[now] = (after - before) / DT, after
        advance(routes, f, now, (before + after) / 2 * DT)
        gone = f.s[now] + f.length[now] / 2 > routes.length[f.route[now]]
        f.active[now[gone]] = False
        f.done[now[gone]] = True


def wanted_speed(routes: Routes, route: np.ndarray, s: np.ndarray, v: np.ndarray, driver: dict[str, np.ndarray], time: float) -> np.ndarray:
    """The speed (A,) a driver would like to have: the road's, times its own factor, less in a spell of slowness."""
    slow = np.where((time > driver["slow_from"]) & (time < driver["slow_to"]), driver["slow_factor"], 1.0)
    return np.minimum(routes.speed[route, routes.index(route, s + 0.5 * v)] * driver["factor"], driver["top"]) * slow


def advance(routes: Routes, fleet: Fleet, now: np.ndarray, distance: np.ndarray) -> None:
    """Move the centres `distance` (A,) metres along their routes; `course` and `beta` become those of this step."""
    f = fleet
    f.s[now] += distance
    xy = routes.place(f.route[now], f.s[now])
    chord = xy - f.xy[now]
    length = np.hypot(chord[:, 0], chord[:, 1])
    f.course[now] = np.arctan2(chord[:, 1], chord[:, 0])
    f.beta[now] = (f.course[now] - f.heading[now] + np.pi) % (2 * np.pi) - np.pi
    f.heading[now] += 2 * length * np.sin(f.beta[now]) / f.length[now]
    f.xy[now] = xy
