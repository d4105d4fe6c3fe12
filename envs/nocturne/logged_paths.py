"""The ways of a scene's vehicles and cyclists, as paths that can be driven along at another pace than the log's."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from weakref import WeakKeyDictionary

import numpy as np

from dreamdrive.envs.nocturne.car_following import BODY_POINTS, Circles, Followers, Paths, leaders
from dreamdrive.envs.nocturne.scene import LIGHTS, OBJECTS, Scene
from dreamdrive.envs.nocturne.synthetic import geometry as geo
from dreamdrive.envs.nocturne.synthetic.fleet import typical_drivers

SPACING = 1.0  # m between the points of a path
SHORTEST = 2.0  # m: who goes no further replays its log
STANDS = 0.02  # m a step: below that an object does not move along its path
LATERAL, BRAKING = 2.3, 1.65  # m/s^2: in curves and before them; the middle of what synthetic drivers take
NEAR_LIGHT = 1.5  # m between a path and a light that is its own
CLOSEST, LEAST_HEADWAY = 0.5, 0.3  # m, s: nobody is taken to follow closer, whatever the log shows
EVERY = 10  # steps between those at which is looked how closely it follows
RED = np.array([name in ("stop", "arrow_stop") for name in LIGHTS])

_made: WeakKeyDictionary[Scene, "LoggedPaths"] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class LoggedPaths(Paths):
    """F paths, of the vehicles and cyclists that go somewhere; metres relative to the scene's origin.

    Fields:
        xy (F, S, 2), theta, kappa, speed (F, S), step, points (F,): see Paths; `speed` is the fastest that the object
            has been anywhere, less in curves, and at least what it was there
        who (F,): places in the scene's arrays
        log (F, T, 4): x, y, heading, speed; where the log has a gap, from side to side of it
        arc (F, T): arc length, that never falls
        length, width, headway, gap, accelerates, brakes (F,): of the box and the driver, who follows as closely as the
            log shows it to
        light (F, L): arc lengths of the lights on the path, NaN for none; red (F, L, T)
    """

    xy: np.ndarray
    theta: np.ndarray
    kappa: np.ndarray
    speed: np.ndarray
    step: np.ndarray
    points: np.ndarray
    who: np.ndarray
    log: np.ndarray
    arc: np.ndarray
    length: np.ndarray
    width: np.ndarray
    headway: np.ndarray
    gap: np.ndarray
    accelerates: np.ndarray
    brakes: np.ndarray
    light: np.ndarray
    red: np.ndarray

    def place(self, row: np.ndarray, s: np.ndarray) -> np.ndarray:
        """(A, 3): x, y and heading at arc length s (A,), between those of the log's steps on both sides of it."""
        after = (self.arc[row] <= s[:, None]).sum(1).clip(1, self.arc.shape[1] - 1)
        before = after - 1
        way = self.arc[row, after] - self.arc[row, before]
        share = np.where(way > 0, (s - self.arc[row, before]) / np.where(way > 0, way, 1), 1.0).clip(0, 1)[:, None]
        here, there = self.log[row, before, :3], self.log[row, after, :3]
        return here + share * (there - here)


def paths_of(scene: Scene) -> LoggedPaths:
    """Those of a scene, made once."""
    if scene not in _made:
        _made[scene] = _paths(scene)
    return _made[scene]


def _paths(scene: Scene) -> LoggedPaths:
    drives = np.isin(scene.type, [OBJECTS.index("vehicle"), OBJECTS.index("cyclist")]) & (scene.valid.sum(1) > 1)
    logs = {n: _filled(scene, n) for n in np.flatnonzero(drives).tolist()}
    arcs = {n: _arc(log) for n, log in logs.items()}
    who = np.array([n for n in logs if arcs[n][-1] > SHORTEST], int)
    log = np.stack([logs[n] for n in who]) if len(who) else np.zeros((0, scene.valid.shape[1], 4))
    arc = np.stack([arcs[n] for n in who]) if len(who) else np.zeros((0, scene.valid.shape[1]))
    bike, length = scene.type[who] == OBJECTS.index("cyclist"), scene.length[who].astype(float)
    drivers = typical_drivers(bike, length)
    light, red = _lights(scene, log, arc)
    tables = _tables(log, arc)
    mild = LoggedPaths(
        **tables,
        who=who,
        log=log,
        arc=arc,
        length=length,
        width=scene.width[who].astype(float),
        **{name: drivers[name] for name in ("headway", "gap", "accelerates", "brakes")},
        light=light,
        red=red,
    )
    headway, gap = _closeness(scene, mild)
    return LoggedPaths(**{f.name: getattr(mild, f.name) for f in fields(mild)} | {"headway": headway, "gap": gap})


def _filled(scene: Scene, n: int) -> np.ndarray:
    """(T, 4) x, y, heading (unwrapped), speed; between valid steps on the straight way, before and after them
    standing."""
    steps = np.flatnonzero(scene.valid[n])
    columns = [
        *(scene.position[n, steps] - scene.origin).T,
        np.unwrap(scene.heading[n, steps].astype(float)),
        scene.speed[n, steps].astype(float),
    ]
    return np.stack([np.interp(np.arange(scene.valid.shape[1]), steps, column) for column in columns], 1)


def _arc(log: np.ndarray) -> np.ndarray:
    """(T,) metres on the way: a tremor of who stands is none."""
    moved = np.hypot(*np.diff(log[:, :2], axis=0).T)
    return np.concatenate([[0.0], np.cumsum(np.where(moved > STANDS, moved, 0.0))])


def _tables(log: np.ndarray, arc: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of Paths."""
    points = np.ceil(arc[:, -1] / SPACING).astype(int) + 1
    step = arc[:, -1] / np.maximum(points - 1, 1)
    size = int(points.max(initial=1))
    xy, theta, kappa, speed = np.zeros((len(log), size, 2)), *np.zeros((3, len(log), size))
    for r, (states, s, n) in enumerate(zip(log, arc, points, strict=True)):
        at, grid = np.unique(s, return_index=True), np.arange(n) * step[r]
        way = np.stack([np.interp(grid, at[0], states[at[1], axis]) for axis in (0, 1)], 1)
        direction = np.unwrap(np.arctan2(*geo.tangents(way)[:, ::-1].T))
        bent = np.convolve(np.pad(np.gradient(direction, step[r]), 1, mode="edge"), np.ones(3) / 3, mode="valid")
        fastest = possible(bent, step[r], states[:, 3].max())
        fastest = np.maximum(fastest, np.interp(grid, at[0], np.maximum.reduceat(states[:, 3], at[1])))
        for table, row in ((xy, way), (theta, direction), (kappa, bent), (speed, fastest)):
            table[r, :n], table[r, n:] = row, row[-1]
    return {"xy": xy, "theta": theta, "kappa": kappa, "speed": speed, "step": step, "points": points}


def possible(kappa: np.ndarray, step: float, top: float) -> np.ndarray:
    """(S,) m/s that a driver takes along a path of that curvature, `top` where it is straight."""
    speed = np.minimum(top, np.sqrt(LATERAL / np.maximum(np.abs(kappa), 1e-4)))
    for k in range(len(speed) - 2, -1, -1):  # brake before a curve, not in it
        speed[k] = min(speed[k], np.sqrt(speed[k + 1] ** 2 + 2 * BRAKING * step))
    return speed


def _lights(scene: Scene, log: np.ndarray, arc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`light` (F, L) and `red` (F, L, T) of LoggedPaths."""
    at = scene.light_position - scene.origin  # (L, 2)
    apart = np.linalg.norm(log[:, :, None, :2] - at[None, None], axis=-1)  # (F, T, L)
    if not apart.size:
        return np.full((len(log), 0), np.nan), np.zeros((len(log), 0, log.shape[1]), bool)
    nearest = apart.argmin(1)  # (F, L)
    own = apart.min(1) < NEAR_LIGHT
    light = np.where(own, np.take_along_axis(arc, nearest, 1), np.nan)
    kept = np.argsort(~own, axis=1, kind="stable")[:, : int(own.sum(1).max(initial=0))]
    red = RED[scene.light_state][kept]
    return np.take_along_axis(light, kept, 1), red & np.take_along_axis(own, kept, 1)[..., None]


def _closeness(scene: Scene, paths: LoggedPaths) -> tuple[np.ndarray, np.ndarray]:
    """headway and gap (F,): those of typical drivers, or less where the log shows it."""
    headway, least = paths.headway.copy(), paths.gap.copy()
    count = len(paths.who)
    for t in range(0, scene.valid.shape[1], EVERY):
        there = scene.valid[:, t]
        state = np.concatenate([scene.position[:, t] - scene.origin, scene.heading[:, t, None]], 1)
        bodies = circles(state, scene.speed[:, t].astype(float), scene.length, scene.width, scene.type)
        who = Followers(np.arange(count), paths.arc[:, t], paths.log[:, t, 3], paths.length, paths.width)
        near = np.hypot(*(paths.log[:, t, None, :2] - state[None, :, :2]).transpose(2, 0, 1)) < who.reach[:, None] + 8
        near &= there & there[paths.who][:, None]
        near[np.arange(count), paths.who] = False
        distance, _ = leaders(paths, who, bodies, *np.nonzero(near))
        slow = who.v < 1
        least = np.where(slow, np.minimum(least, distance), least)
        headway = np.where(slow, headway, np.minimum(headway, (distance - least) / np.maximum(who.v, 1)))
    return headway.clip(LEAST_HEADWAY), least.clip(CLOSEST)


def circles(
    state: np.ndarray, speed: np.ndarray, length: np.ndarray, width: np.ndarray, kind: Sequence[int] | np.ndarray
) -> Circles:
    """Bodies (N,) at `state` (N, 3): x, y, heading. Somebody on foot is taken to stand, as synthetic drivers do."""
    half = np.maximum(length - width, 0)[:, None] / 2 * np.linspace(-1, 1, BODY_POINTS)
    xy = state[:, None, :2] + half[..., None] * geo.unit(state[:, 2])[:, None]
    walks = np.asarray(kind) == OBJECTS.index("pedestrian")
    return Circles(xy, width / 2, np.where(walks, 0.0, np.abs(speed)), state[:, 2] + np.pi * (speed < 0))
