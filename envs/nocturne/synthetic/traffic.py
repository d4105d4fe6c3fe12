"""Traffic: vehicles and cyclists that follow routes, keep their distance, and let others go first.

Along a route a driver accelerates by the Intelligent Driver Model (car_following.py) behind whatever comes first: a
body within the strip the vehicle will sweep, the line where it has to wait, a crosswalk with somebody on it. v0 is
the speed limit, lowered to what curves allow. Who may pass a line is decided by predicted times: a vehicle goes if it
would be in no zone that its route shares with another at a time when that other, already let in or of higher rank, is
in it.

The centre of the box moves along the route, and the heading follows as a bicycle's does whose box has its centre midway
between the axles: the course is heading + beta, and over a step of length c the heading turns by 2 c sin(beta) / L.
That is Nocturne's own step, so its dynamics, driven by the actions read off the motion, reproduce it. Nobody comes to a
complete standstill: who waits creeps at a centimetre or two a second, or the actions of a step without motion would be
undefined.
"""

from dataclasses import dataclass

import numpy as np

from dreamdrive.envs.nocturne.car_following import (
    BODY_POINTS,
    GRACE,
    Circles,
    Followers,
    bounded,
    free_acceleration,
    interaction,
    leaders,
    travel_time,
)
from dreamdrive.envs.nocturne.scene import DT
from dreamdrive.envs.nocturne.synthetic import geometry as geo
from dreamdrive.envs.nocturne.synthetic.fleet import Fleet
from dreamdrive.envs.nocturne.synthetic.maps import RoadMap
from dreamdrive.envs.nocturne.synthetic.routes import Routes
from dreamdrive.envs.nocturne.synthetic.walkers import Walker

WARM_UP = 120  # steps before time 0
HIGHEST = 9  # rank of who never waits
SLOW_JUNCTION = 9.0  # m/s within


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


def crossings(m: RoadMap, routes: Routes, walkers: list[Walker], times: np.ndarray) -> np.ndarray:
    """(R, E, 4): for every route the visits of pedestrians to its lane, as (arc length where the crosswalk begins,
    where it ends, from, to) in m and s."""
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
        # one looks when one is there, and takes nobody's turn from afar
        slow = (routes.control[r] == "yield") & (routes.within[r] < SLOW_JUNCTION)
        asks = waits & may & ~f.granted[now] & (left < np.where(slow, 8 + 1.5 * f.v[now], self._attention(now)))
        if not asks.any():
            self._keep_lane(now, left, waits)
            return
        patience = np.where(had | (time - f.arrived[now] > 5), 0.5, 1.0) * np.where(routes.fallback[r] >= 0, 1.6, 1.0)
        clash = self._clash(now, front, back, patience)
        rank, claim = routes.rank[r], self._claim(now)
        entry = routes.entry[r]
        queued = waits & ~f.granted[now]
        behind = ((entry[:, None] == entry) & (left < left[:, None]) & queued).any(1) & queued
        comes = ((may | ~waits) & ~f.stopped[now] & ~behind) | f.done[now]
        for i in sorted(np.flatnonzero(asks), key=lambda i: (-rank[i], f.arrived[now[i]], left[i])):
            first = not np.any(asks & ~f.granted[now] & (entry == entry[i]) & (left < left[i]))
            inside = f.granted[now] & ~f.done[now]
            if first and not np.any(clash[i] & (inside | (comes & (claim > rank[i])))):
                f.granted[now[i]] = True
        hopeless = waits & ~f.granted[now] & (left < f.v[now] ** 2 / (2 * 5.5)) & (f.v[now] > 1)
        f.granted[now] |= hopeless
        self._keep_lane(now, left, waits)

    def _claim(self, now: np.ndarray) -> np.ndarray:
        """The rank (A,) others have to respect: who has not begun to change lanes, or is done with it, has the right of
        way in its lane."""
        f, route = self.fleet, self.fleet.route[now]
        return np.where(
            (self.routes.fallback[route] >= 0) & ~f.granted[now] | f.done[now], HIGHEST, self.routes.rank[route]
        )

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
        # where the other may follow, the rear need only be in
        leaves = travel_time(np.where(follows, begins, ends) - back[:, None], v, top)
        grace = GRACE * patience[:, None] + np.where(
            follows, np.maximum(np.maximum(v, top * 0.9).T - np.maximum(v, top * 0.6), 0) / 3, 0
        )
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
        f, routes, d = self.fleet, self.routes, {name: value[now] for name, value in self.fleet.driver.items()}
        r, s, v = f.route[now], f.s[now], f.v[now]
        wanted = wanted_speed(routes, r, s, v, d, time)
        driver = (d["accelerates"], d["brakes"])
        free = free_acceleration(v, wanted, *driver)
        gap, leader = self._leaders(now, k)
        to_zone = self._to_zone(now)
        drag = interaction(v, gap, leader, d["gap"], d["headway"], driver)
        left = routes.line[r] - s - f.length[now] / 2
        held = (
            ~np.isnan(left)
            & ~f.granted[now]
            & ~f.done[now]
            & (routes.control[r] != "none")
            & (routes.fallback[r] < 0)
            & (left < self._attention(now))
        )
        still, near = np.zeros(len(now)), np.full(len(now), 0.5)
        drag = np.where(held, np.maximum(drag, interaction(v, np.maximum(left, 0.1), still, near, near, driver)), drag)
        before = np.minimum(self._to_crosswalk(now, time, np.where(leader < 2.5, gap, np.inf)), to_zone)
        drag = np.maximum(drag, np.where(np.isfinite(before), interaction(v, before, still, near, near, driver), 0))
        return np.minimum(free, free.clip(0) - drag)

    def _to_zone(self, now: np.ndarray) -> np.ndarray:
        """Metres (A,) to where to stop for another vehicle that was let in too and turns out to come first; infinite
        without one."""
        f, routes = self.fleet, self.routes
        r, front, back, v = f.route[now], f.s[now] + f.length[now] / 2, f.s[now] - f.length[now] / 2, f.v[now]
        takes_part = (
            f.done[now]
            | f.granted[now]
            | np.isnan(routes.line[r])
            | (routes.control[r] == "none")
            | (routes.fallback[r] >= 0)
        )
        begins = routes.zone_in[r[:, None], r[None]]
        left = begins - front[:, None] - 0.8
        inside = left < -0.8  # [i, j]: i is in the zone it shares with j
        rank, since, follows = self._claim(now), f.let_in[now], routes.follows[r[:, None], r[None]]
        above = (rank > rank[:, None]) | ((rank == rank[:, None]) & (since < since[:, None]))
        yields = (
            self._clash(now, front, back, np.full(len(now), 0.35))
            & takes_part
            & takes_part[:, None]
            & ~inside
            & (above | inside.T)
            & ~(inside.T & follows)
        )
        can_stop = left > (v**2 / (2 * np.where(f.bike[now], 3.0, 4.5)))[:, None]
        return np.where(yields & can_stop, left, np.inf).min(1)

    def _to_crosswalk(self, now: np.ndarray, time: float, jam: np.ndarray) -> np.ndarray:
        """Metres (A,) to where to stop for a pedestrian; infinite without one. `jam` (A,) is the gap to a leader that
        hardly moves."""
        f, routes = self.fleet, self.routes
        visits = self.visits[f.route[now]]  # (A, E, 4)
        v, front, back = (
            f.v[now][:, None],
            (f.s[now] + f.length[now] / 2)[:, None],
            (f.s[now] - f.length[now] / 2)[:, None],
        )
        top = np.minimum(routes.speed[f.route[now], routes.index(f.route[now], f.s[now])], f.driver["top"][now])[
            :, None
        ]
        left = visits[..., 0] - 1.0 - front
        reaches = time + travel_time(visits[..., 0] - front, v, top)
        leaves = time + travel_time(visits[..., 1] - back, v, top)
        meets = (reaches < visits[..., 3] + 0.3) & (visits[..., 2] - 0.8 < leaves)
        # beyond the crosswalk, behind the queue
        room = (front + jam[:, None]) - visits[..., 1] - f.length[now][:, None] - 1.5
        # nobody waits on a crosswalk
        meets |= (room < 0) & (front + jam[:, None] > visits[..., 0]) & (visits[..., 3] > time)
        can_stop = left > v**2 / (2 * 5.0)
        matters = meets & can_stop & (left < 12 + 3 * v + v**2 / 4)
        return np.where(matters, left, np.inf).min(1)

    def _leaders(self, now: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Gap (A,) to the first body on the strip each vehicle will sweep, infinite without one, and that body's speed
        along the strip."""
        f = self.fleet
        who = Followers(f.route[now], f.s[now], f.v[now], f.length[now], f.width[now])
        bodies = self._bodies(now, k)
        away = bodies.xy[None, :, BODY_POINTS // 2] - f.xy[now][:, None]
        ahead = away[..., 0] * np.cos(f.heading[now])[:, None] + away[..., 1] * np.sin(f.heading[now])[:, None]
        candidate = (away[..., 0] ** 2 + away[..., 1] ** 2 < (who.reach + 8)[:, None] ** 2) & (ahead > -7)
        candidate[np.arange(len(now)), np.arange(len(now))] = False
        return leaders(self.routes, who, bodies, *np.nonzero(candidate))

    def _bodies(self, now: np.ndarray, k: int) -> Circles:
        """Of the active vehicles (first, in order) and the pedestrians."""
        f = self.fleet
        half = (f.length[now] - f.width[now])[:, None] / 2 * np.linspace(-1, 1, BODY_POINTS)
        vehicles = f.xy[now][:, None] + half[..., None] * geo.unit(f.heading[now])[:, None]
        people = np.repeat(self.walker_xy[:, k][:, None], BODY_POINTS, axis=1)
        count = len(people)
        return Circles(
            np.concatenate([vehicles, people]),
            np.concatenate([f.width[now] / 2, np.full(count, 0.4)]),
            np.concatenate([f.v[now], np.zeros(count)]),
            np.concatenate([f.course[now], np.zeros(count)]),
        )

    def _move(self, now: np.ndarray, wanted: np.ndarray) -> None:
        """One step of DT: bounded change of acceleration, trapezoidal motion along the route, the heading drawn
        along."""
        f, routes = self.fleet, self.routes
        a = bounded(wanted, f.a[now])
        before = f.v[now]
        after = np.maximum(before + a * DT, f.driver["creep"][now])
        f.a[now], f.v[now] = (after - before) / DT, after
        advance(routes, f, now, (before + after) / 2 * DT)
        gone = f.s[now] + f.length[now] / 2 > routes.length[f.route[now]]
        f.active[now[gone]] = False
        f.done[now[gone]] = True


def wanted_speed(
    routes: Routes, route: np.ndarray, s: np.ndarray, v: np.ndarray, driver: dict[str, np.ndarray], time: float
) -> np.ndarray:
    """The speed (A,) a driver would like to have: the road's, times its own factor, less in a spell of slowness."""
    slow = np.where((time > driver["slow_from"]) & (time < driver["slow_to"]), driver["slow_factor"], 1.0)
    return np.minimum(routes.speed[route, routes.index(route, s + 0.5 * v)] * driver["factor"], driver["top"]) * slow


def advance(routes: Routes, fleet: Fleet, now: np.ndarray, distance: np.ndarray) -> None:
    """Move the centres `distance` (A,) metres along their routes, `course` becoming that of this step, and turn the
    headings."""
    f = fleet
    f.s[now] += distance
    xy = routes.place(f.route[now], f.s[now])
    chord = xy - f.xy[now]
    length = np.hypot(chord[:, 0], chord[:, 1])
    f.course[now] = np.arctan2(chord[:, 1], chord[:, 0])
    f.heading[now] += 2 * length * np.sin(f.course[now] - f.heading[now]) / f.length[now]  # course - heading is beta
    f.xy[now] = xy
