"""Traffic that answers: vehicles and cyclists that follow their logged paths, keep their distance and give way.

As long as nothing before it is elsewhere than the log has it, an object is where the log has it. Where something is
(the ego, or another that had to answer it), its driver follows by the car-following model of the synthetic scenes
(car_following.py) what is on the strip it will sweep, and stops before a place that another is going to be in, if that
one cannot stop any more, or comes first. It then is behind its log, stops at red lights, lets those pass who are less
behind, and catches up when it can; it is never ahead. Pedestrians, and what does not go anywhere, replay the log.
"""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from dreamdrive.envs.nocturne.car_following import (
    ACROSS,
    GRACE,
    HARDEST,
    Followers,
    bounded,
    free_acceleration,
    interaction,
    leaders,
    on_strip,
    travel_time,
)
from dreamdrive.envs.nocturne.expert import curvature_of
from dreamdrive.envs.nocturne.logged_paths import LoggedPaths, circles, paths_of
from dreamdrive.envs.nocturne.scene import DT, Scene
from dreamdrive.envs.nocturne.simulator import Simulator
from dreamdrive.envs.nocturne.synthetic import geometry as geo

ASTRAY = 0.3, 0.5  # m, m/s: an ego that is so far from its log is elsewhere
CAUGHT_UP = 0.02  # m behind the log that are none
AHEAD = np.arange(0.4, 4.1, 0.4)  # s: when is looked where others will be
STOPS = 2.0  # m/s^2: nobody is expected to brake harder who does not do so already
HURRIES = 1.1  # times the speed that was usual: who is late
BEFORE = 0.8  # m before a place that is another's, to stop at
STANDING = 0.5  # m/s: who is slower will not come
ROOM, ROOM_PACE = 3.0, 1.3  # m and s that there are before who comes onto the map
CATCHES_UP = 2.0  # m/s^2: how hard it brakes when it has caught up with a log that is slower


class Stack:
    """LoggedPaths of B scenes as those of one, `paths`: rows copy * F + f, of which `real` (B * F,) says whether they
    are a path; the others, of scenes with fewer, hold whatever they hold."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self._counts = np.zeros(len(scenes), int)
        self._columns: dict[str, np.ndarray] = {}  # (B, F, ...)
        self.put(range(len(scenes)), scenes)

    def put(self, copies: Sequence[int], scenes: Sequence[Scene]) -> bool:
        """Set those of some copies; whether F has changed."""
        before = self.rows if self._columns else 0
        for copy, scene in zip(copies, scenes, strict=True):
            paths = paths_of(scene)
            self._counts[copy] = len(paths.who)
            for field in fields(paths):
                values = getattr(paths, field.name)
                column = self._columns.get(field.name)
                if column is None:
                    column = np.zeros((len(self._counts), *values.shape), values.dtype)
                most = np.maximum(column.shape[1:], values.shape)
                self._columns[field.name] = column = padded(column, (len(column), *most))
                column[copy] = padded(values, tuple(most))
        flat = {
            name: column.reshape(len(column) * self.rows, *column.shape[2:]) for name, column in self._columns.items()
        }
        self.paths = LoggedPaths(**flat)
        self.real = (np.arange(self.rows) < self._counts[:, None]).ravel()
        return self.rows != before

    @property
    def rows(self) -> int:
        """F."""
        return self._columns["who"].shape[1]


def padded(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`values` in an array of `shape`, their last ones repeated."""
    more = [(0, wanted - have) for wanted, have in zip(shape, values.shape, strict=True)]
    if not any(after for _, after in more):
        return values
    return np.pad(values, more, mode="edge" if values.size else "constant")


class ReactiveTraffic:
    """The others of B copies of scenes; what they do next, from where all are in a Simulator.

    A copy's objects depend on nothing outside of it. State, one a path (B * F,): arc length `s`, speed `v`,
    acceleration `a`, whether it is `late` (behind its log), and whether it is `kept_out`: due, and without room to
    come.
    """

    def __init__(self, sim: Simulator) -> None:
        self.sim, self.stack = sim, Stack(sim.scenes)
        self._make()

    def _make(self) -> None:
        size = len(self.stack.real)
        self.s, self.v, self.a = np.zeros((3, size))
        self.late, self.kept_out = np.zeros((2, size), bool)

    def reset(self, copies: Sequence[int], scenes: Sequence[Scene]) -> None:
        """Some copies, in which these scenes begin now, are where the log has them."""
        old, rows = (self.s, self.v, self.a, self.late, self.kept_out), self.stack.rows
        if self.stack.put(copies, scenes):
            self._make()
            for was, now in zip(old, (self.s, self.v, self.a, self.late, self.kept_out), strict=True):
                now.reshape(-1, self.stack.rows)[:, :rows] = was.reshape(-1, rows)
        for flag in (self.late, self.kept_out):
            flag.reshape(-1, self.stack.rows)[list(copies)] = False

    def next(self, driven: Tensor, going: np.ndarray) -> tuple[Tensor, Tensor]:
        """Where all that are not `driven` (B, N) are a step on, in the copies that are `going` (B,): (B, N, 4) as
        Simulator.local has it, and (B, N) whether they are there. For Simulator.step, which is to be called next."""
        local, there = (value.clone() for value in self.sim.logged(1))
        moment = Moment(self, driven.cpu().numpy(), going)
        rows = moment.rows()
        if len(rows):
            self._advance(moment, rows)
        late = np.flatnonzero(self.late & moment.going)
        copy, who = moment.copy[late], self.stack.paths.who[late]
        pose = self.stack.paths.place(late, self.s[late])
        pose[:, 2] = (pose[:, 2] + np.pi) % (2 * np.pi) - np.pi
        state = np.concatenate([pose, self.v[late, None]], 1).astype(np.float32)
        at = torch.from_numpy(copy).to(local.device), torch.from_numpy(who).to(local.device)
        local[at], there[at] = (
            torch.from_numpy(state).to(local.device),
            torch.from_numpy(~self.kept_out[late]).to(local.device),
        )
        return local, there

    def _advance(self, moment: "Moment", rows: np.ndarray) -> None:
        """Move those `rows` that may not be where the log has them."""
        paths, late = self.stack.paths, self.late[rows]
        now, after = moment.arc[rows], moment.arc_next[rows]
        pace = moment.log_speed_next[rows]
        s, v = np.where(late, self.s[rows], now), np.where(late, self.v[rows], moment.log_speed[rows])
        before = np.where(late, self.a[rows], moment.log_accel[rows])
        wanted = HURRIES * paths.speed[rows, paths.index(rows, s + 0.5 * v)]
        catching = np.sqrt(pace**2 + 2 * CATCHES_UP * np.maximum(after - s, 0))
        driver = (paths.accelerates[rows], paths.brakes[rows])
        free = free_acceleration(v, np.minimum(wanted, catching), *driver)
        free = np.where(late, free, np.maximum(free, moment.log_accel[rows]))
        who = Followers(rows, s, v, paths.length[rows], paths.width[rows])
        moment.look(rows, who)
        near = moment.apart < (who.reach + 8)[:, None]
        gap, leader = leaders(paths, who, moment.bodies, *moment.pairs(rows, near))
        drag = interaction(v, gap, leader, paths.gap[rows], paths.headway[rows], driver)
        drag = np.where(late | (drag > driver[0]), drag, 0.0)  # less, and one is no closer than the log shows it to be
        stop = np.minimum(moment.to_zone(rows, who), moment.to_light(rows, who))
        still, near = np.zeros(len(rows)), np.full(len(rows), 0.5)
        held = interaction(v, np.maximum(stop, 0.1), still, near, near, driver)
        drag = np.maximum(drag, np.where(np.isfinite(stop), held, 0.0))
        a = bounded(np.minimum(free, free.clip(0) - drag), before)
        speed = np.maximum(v + a * DT, 0.0)
        there = s + (v + speed) / 2 * DT
        no_room = moment.comes[rows] & (gap < ROOM + ROOM_PACE * np.minimum(v, leader + 4)) | moment.covered(rows, who)
        caught_up = ~no_room & ((there > after - CAUGHT_UP) | (~late & (drag == 0)))
        self.kept_out[rows] = no_room
        self.late[rows] = ~caught_up
        self.s[rows], self.v[rows] = np.where(no_room, s, there), np.where(no_room, v, speed)
        self.a[rows] = (speed - v) / DT


class Moment:
    """Where everybody is before a step, as arrays, and what that means to who drives.

    Fields, one a path (B * F,):
        copy, going, there: its copy, whether that moves, whether the object is there
        comes: it is not there, but due now or before
        arc, arc_next, log_speed, log_speed_next, log_accel: of the log, now and a step on
    """

    def __init__(self, traffic: ReactiveTraffic, driven: np.ndarray, going: np.ndarray) -> None:
        sim, self.traffic, self.paths = traffic.sim, traffic, traffic.stack.paths
        copies, rows = len(sim.scenes), traffic.stack.rows
        self.objects = sim.present.shape[1]
        self.copy = np.repeat(np.arange(copies), rows)
        self.own = self.copy * self.objects + self.paths.who  # among all objects of all copies
        self.is_there, self.state = sim.there.cpu().numpy().ravel(), flat(sim.local)
        self.driven, self.length, self.width = driven.ravel(), flat(sim.length), flat(sim.width)
        self.bodies = circles(self.state[:, :3], self.state[:, 3], self.length, self.width, flat(sim.type))
        time = sim.time.cpu().numpy()[self.copy]
        every, last = np.arange(len(time)), self.paths.arc.shape[1] - 1
        self.time = time
        self.arc, self.arc_next = (self.paths.arc[every, np.minimum(time + k, last)] for k in (0, 1))
        self.log_speed, self.log_speed_next = (self.paths.log[every, np.minimum(time + k, last), 3] for k in (0, 1))
        self.log_accel = (self.log_speed_next - self.log_speed) / DT
        self.going = going[self.copy] & traffic.stack.real & ~self.driven[self.own]
        self.there = self.is_there[self.own]
        due = sim.logged(1)[1].cpu().numpy().ravel()[self.own]
        self.comes = ~self.there & (traffic.kept_out | (due & ~traffic.late))
        log = flat(sim.logged()[0])
        away = np.hypot(*(self.state[:, :2] - log[:, :2]).T) > ASTRAY[0]
        astray = self.driven & self.is_there & (away | (np.abs(self.state[:, 3] - log[:, 3]) > ASTRAY[1]))
        self.late = np.flatnonzero(traffic.late & traffic.stack.real)
        astray[self.own[self.late]] = True
        self.astray = astray & self.is_there

    def rows(self) -> np.ndarray:
        """Paths (A,) of those that may not be where the log has them a step on."""
        some = self.astray.reshape(-1, self.objects).any(1)[self.copy]
        return np.flatnonzero(self.going & (self.there | self.comes) & (some | self.traffic.late))

    def look(self, rows: np.ndarray, who: Followers) -> None:
        """Note how far (A, N) the objects of the copy are from each of `rows`, and which it has to mind: of those that
        are there, not itself; who is where the log has it minds only those that are not."""
        late = self.traffic.late[rows]
        everybody = self.copy[rows, None] * self.objects + np.arange(self.objects)
        at = self.paths.place(rows, who.s)[:, :2]
        self.apart = np.hypot(*np.moveaxis(self.state[everybody, :2] - at[:, None], -1, 0))
        self.minded = self.is_there[everybody] & (late[:, None] | self.astray[everybody])
        self.minded &= everybody != self.own[rows, None]

    def pairs(self, rows: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Followers (P,), counted in `rows`, and bodies (P,), of those that are `near` (A, N) and minded."""
        i, n = np.nonzero(self.minded & near)
        return i, self.copy[rows[i]] * self.objects + n

    def covered(self, rows: np.ndarray, who: Followers) -> np.ndarray:
        """(A,): who comes, and would come upon somebody."""
        length = self.length.reshape(-1, self.objects)[self.copy[rows]]
        return self.comes[rows] & (self.minded & (self.apart < (length + who.length[:, None]) / 2 + 1)).any(1)

    def to_light(self, rows: np.ndarray, who: Followers) -> np.ndarray:
        """Metres (A,) to the next red light of who is late; infinite without one."""
        red = np.take_along_axis(self.paths.red[rows], self.time[rows, None, None], 2)[..., 0]  # (A, L)
        left = self.paths.light[rows] - (who.s + who.length / 2)[:, None]
        matters = red & self.traffic.late[rows, None] & (left > -0.3) & (left > (who.v**2 / (2 * STOPS))[:, None])
        return np.where(matters, left, np.inf).min(1, initial=np.inf)

    def to_zone(self, rows: np.ndarray, who: Followers) -> np.ndarray:
        """Metres (A,) to where to stop for somebody who will cross the path; infinite without one."""
        found = np.full(len(rows), np.inf)
        speed = self.bodies.speed.reshape(-1, self.objects)[self.copy[rows]]
        i, j = self.pairs(rows, (self.apart < who.reach[:, None] + speed * AHEAD[-1]) & (speed > STANDING))
        places, course = self.coming(j)  # (P, K, 3, 2), (P, K, 3)
        radius, when = self.bodies.radius[j][:, None], np.repeat(AHEAD, places.shape[2])
        strip = on_strip(self.paths, who, i, places.reshape(len(i), len(when), 2), radius[:, 0], ahead_only=False)
        turned = np.abs((course.reshape(len(i), len(when)) - strip.theta + np.pi) % (2 * np.pi) - np.pi)
        inside = strip.inside & (turned > ACROSS)
        kept = np.flatnonzero(inside.any(1))
        i, j, inside, at, radius = i[kept], j[kept], inside[kept], strip.at[kept], radius[kept]
        comes, goes = np.where(inside, when, np.inf).min(1), np.where(inside, when, -np.inf).max(1)
        begins, ends = np.where(inside, at - radius, np.inf).min(1), np.where(inside, at + radius, -np.inf).max(1)
        v, front, back = who.v[i], (who.s + who.length / 2)[i], (who.s - who.length / 2)[i]
        top = self.paths.speed[rows[i], self.paths.index(rows[i], begins)]
        meets = travel_time(begins - front, v, top) < goes + GRACE
        meets &= comes < travel_time(ends - back, v, top) + 0.35 * GRACE
        left = begins - front - BEFORE
        yields = meets & (left > v**2 / (-2 * HARDEST)) & self.comes_first(rows[i], j, comes)
        np.minimum.at(found, i[yields], left[yields])
        return found

    def comes_first(self, rows: np.ndarray, j: np.ndarray, comes: np.ndarray) -> np.ndarray:
        """(P,): objects `j`, that will be on the path of `rows` in so many seconds, are not to be expected to wait for
        it: they cannot stop any more, or are less behind their logs."""
        speed, braking = self.bodies.speed[j], np.zeros(len(self.state))
        braking[self.own[self.late]] = -self.traffic.a[self.late]
        braking = np.where(self.driven, -flat(self.traffic.sim.last_input)[:, 0], braking)[j]
        committed = comes * speed < speed**2 / (2 * np.maximum(STOPS, braking)) + 0.5
        behind, late = np.zeros(len(self.state)), self.late
        behind[self.own[late]] = (self.arc - self.traffic.s)[late]
        mine = behind[self.own[rows]]
        return committed | (~self.driven[j] & ((behind[j] < mine) | ((behind[j] == mine) & (j < self.own[rows]))))

    def coming(self, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(P, K, 3, 2) and (P, K, 3): rear, middle and front of objects `j` (P,) as they will be AHEAD seconds on, and
        their courses. Those where the log has them go on as it has them, those that are late on their paths at the
        speed they have, the driven at their speed and in the curve they are in."""
        traffic, late = self.traffic, self.late
        copy, n = j // self.objects, j % self.objects
        log = traffic.sim.log[torch.from_numpy(copy), torch.from_numpy(n)].double().cpu().numpy()  # (P, T, 4)
        step = traffic.sim.time.cpu().numpy()[copy][:, None] + np.round(AHEAD / DT).astype(int)
        pose = np.take_along_axis(log, np.minimum(step, log.shape[1] - 1)[..., None], 1)[..., :3]  # (P, K, 3)
        row = np.full(len(self.state), -1)
        row[self.own[late]] = late
        behind, free = np.flatnonzero(row[j] >= 0), np.flatnonzero(self.driven[j])
        r = np.repeat(row[j[behind]], len(AHEAD))
        on = traffic.s[r] + np.tile(AHEAD, len(behind)) * traffic.v[r]
        pose[behind] = self.paths.place(r, on).reshape(len(behind), len(AHEAD), 3)
        steer, length = flat(traffic.sim.last_input)[j[free], 1], self.length[j[free]]
        x, y, heading, speed = self.state[j[free]].T[..., None]
        turned = curvature_of(torch.from_numpy(steer), torch.from_numpy(length)).numpy()[:, None] * speed * AHEAD
        chord = np.sinc(turned / (2 * np.pi)) * speed * AHEAD
        course = heading + np.arctan(np.tan(steer) / 2)[:, None] + turned / 2
        pose[free] = np.stack([x + chord * np.cos(course), y + chord * np.sin(course), heading + turned], -1)
        half = np.maximum(self.length[j] - self.width[j], 0)[:, None, None] / 2 * np.array([-1.0, 0.0, 1.0])
        xy = pose[:, :, None, :2] + half[..., None] * geo.unit(pose[..., 2])[:, :, None]
        return xy, np.repeat(pose[..., 2:], 3, 2)


def flat(values: Tensor) -> np.ndarray:
    """(B, N, ...) as (B * N, ...), float64 or whole numbers."""
    array = values.cpu().numpy().reshape(-1, *values.shape[2:])
    return array.astype(np.float64) if values.is_floating_point() else array
