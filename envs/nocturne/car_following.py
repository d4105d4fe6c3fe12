"""How a driver on a path accelerates: by the Intelligent Driver Model, behind whatever is on the strip it will sweep.

The IDM is Treiber, Hennecke and Helbing 2000, Physical Review E 62, 1805; s1 = 0, delta = 4:

    dv/dt = a (1 - (v / v0)^4 - (s* / s)^2),    s* = s0 + max(0, v T + v dv / (2 sqrt(a b)))

Synthetic scenes are made by it (synthetic/traffic.py), and so do others answer an ego (reactive.py).
"""

from dataclasses import dataclass

import numpy as np

from dreamdrive.envs.nocturne.scene import DT

HARDEST = -6.0  # m/s^2, the limit of braking
JERK_DOWN, JERK_UP, JERK_EMERGENCY = 10.0, 5.0, 60.0  # m/s^3
LOOK_AHEAD = 36  # places along its route at which a driver looks for bodies
BODY_POINTS = 4  # circles that stand for a body there
CLEARANCE = 0.25  # m to either side of the swept strip
ACROSS = np.pi / 4  # radians between two courses that cross
GRACE = 0.9  # s between leaving a shared zone and another's entering it
SLOPE = 1.2  # m/s^2, acceleration assumed in predictions


def travel_time(distance: np.ndarray, v: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Seconds to cover `distance` from speed v, accelerating by SLOPE up to `top`; 0 where nothing is left."""
    d, top = np.maximum(distance, 0), np.maximum(top, v)
    speeding_up = (top**2 - v**2) / (2 * SLOPE)
    early = (np.sqrt(v**2 + 2 * SLOPE * d) - v) / SLOPE
    late = (top - v) / SLOPE + (d - speeding_up) / np.maximum(top, 0.1)
    return np.where(d < speeding_up, early, late)


def free_acceleration(v: np.ndarray, wanted: np.ndarray, accelerates: np.ndarray, brakes: np.ndarray) -> np.ndarray:
    """The IDM's first two terms; above the wanted speed a braking no harder than comfortable."""
    return np.where(
        v <= wanted, accelerates * (1 - (v / np.maximum(wanted, 0.1)) ** 4), -np.minimum(brakes, (v - wanted) / 0.8)
    )


def interaction(
    v: np.ndarray,
    gap: np.ndarray,
    leader: np.ndarray,
    least: np.ndarray,
    headway: np.ndarray,
    driver: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """The IDM's third term, a deceleration in m/s^2, behind something `gap` metres ahead at speed `leader`."""
    accelerates, brakes = driver
    wanted = least + np.maximum(0, v * headway + v * (v - leader) / (2 * np.sqrt(accelerates * brakes)))
    return accelerates * (wanted / np.maximum(gap, 0.1)) ** 2


def bounded(wanted: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The acceleration that is possible now, nearest to the one that is wanted, after the one before: how fast it
    changes is bounded, and so is braking."""
    down = np.where(wanted < -3.5, JERK_EMERGENCY, JERK_DOWN) * DT
    return np.clip(wanted, before - down, before + JERK_UP * DT).clip(HARDEST, 3.0)


class Paths:
    """Paths as tables: row r, column k is path r at arc length k step[r].

    Fields:
        xy: (R, S, 2), theta, kappa, speed: (R, S) direction, curvature and the speed a free vehicle has; rows are
            padded with their last value
        step, points: (R,) m between columns, and how many of them are the path's
    """

    xy: np.ndarray
    theta: np.ndarray
    kappa: np.ndarray
    speed: np.ndarray
    step: np.ndarray
    points: np.ndarray

    def index(self, route: np.ndarray, s: np.ndarray) -> np.ndarray:
        """The table column at or just before arc length `s`."""
        step, points = self.step[route], self.points[route]
        if s.ndim > route.ndim:
            step, points = step[:, None], points[:, None]
        return np.clip((s / step).astype(int), 0, points - 1)


@dataclass(frozen=True)
class Followers:
    """A vehicles on paths, every field (A,): the path's row, arc length of the box centre, speed, and size."""

    route: np.ndarray
    s: np.ndarray
    v: np.ndarray
    length: np.ndarray
    width: np.ndarray

    @property
    def reach(self) -> np.ndarray:
        """(A,) metres of its path that a driver looks ahead."""
        return 14 + 4 * self.v


@dataclass(frozen=True)
class Circles:
    """J bodies as circles: places (J, BODY_POINTS, 2), and (J,) radius, speed and course."""

    xy: np.ndarray
    radius: np.ndarray
    speed: np.ndarray
    course: np.ndarray


@dataclass(frozen=True)
class OnStrip:
    """Where circles (P, C) of bodies are on the strip of a follower: arc length, whether they are within it and before
    the follower, their arc's direction, and how far they are past the place of the strip that is nearest."""

    at: np.ndarray
    inside: np.ndarray
    theta: np.ndarray


def on_strip(
    paths: Paths, who: Followers, i: np.ndarray, places: np.ndarray, radius: np.ndarray, ahead_only: bool = True
) -> OnStrip:
    """Circles `places` (P, C, 2) of `radius` (P,) and followers `i` (P,), a pair each. `ahead_only`: those of which a
    body is ahead of the follower's middle as a whole."""
    reach = who.reach
    column = paths.index(who.route, who.s[:, None] + np.linspace(0, 1, LOOK_AHEAD) * reach[:, None])  # (A, K)
    strip = paths.xy[who.route[:, None], column]
    x, y = (strip[i, None, :, axis] - places[:, :, axis, None] for axis in (0, 1))  # (P, C, K)
    apart = x * x + y * y
    nearest = column[i[:, None], apart.argmin(-1)]  # (P, C)
    row = who.route[i][:, None]
    theta, offset = paths.theta[row, nearest], places - paths.xy[row, nearest]
    along = offset[..., 0] * np.cos(theta) + offset[..., 1] * np.sin(theta)
    beside = offset[..., 1] * np.cos(theta) - offset[..., 0] * np.sin(theta)
    at = nearest * paths.step[row] + along
    sweep = 0.25 * who.length[i][:, None] ** 2 * np.abs(paths.kappa[row, nearest])
    inside = np.abs(beside) < who.width[i][:, None] / 2 + radius[:, None] + CLEARANCE + np.minimum(sweep, 0.9)
    inside &= at > who.s[i][:, None]
    if ahead_only:
        inside &= (at.mean(1) > who.s[i])[:, None]
    return OnStrip(at, inside & (along < 2 * reach[i][:, None] / LOOK_AHEAD), theta)


def leaders(
    paths: Paths, who: Followers, bodies: Circles, i: np.ndarray, j: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gap (A,) to the first body on the strip each vehicle will sweep, infinite without one, and that body's speed
    along the strip. Followers `i` (P,) look for bodies `j` (P,), pair by pair."""
    gaps, speeds = np.full(len(who.s), np.inf), np.zeros(len(who.s))
    if not len(i):
        return gaps, speeds
    v, speed, course = who.v, bodies.speed, bodies.course
    found = on_strip(paths, who, i, bodies.xy[j], bodies.radius[j])
    gap = np.where(
        found.inside, found.at - who.s[i][:, None] - who.length[i][:, None] / 2 - bodies.radius[j][:, None], np.inf
    )
    which = gap.argmin(1)
    pair = np.arange(len(i))
    gap, theta = gap[pair, which], found.theta[pair, which]
    turned = np.abs((course[j] - theta + np.pi) % (2 * np.pi) - np.pi)
    passing = (turned > ACROSS) & (speed[j] > 1.5) & (gap > 3 * v[i] + 2)  # gone by the time one is there
    gap = np.where(passing, np.inf, gap)
    forward = speed[j] * np.cos(turned)
    # The body that asks for the hardest braking counts; behind equal drivers that is the one with the least (gap,
    # speed).
    urgency = np.where(
        np.isfinite(gap), (2 + 1.2 * v[i] + v[i] * np.maximum(v[i] - forward, 0) / 3.5) / np.maximum(gap, 0.1), -1
    )
    order = np.argsort(urgency, kind="stable")
    gaps[i[order]], speeds[i[order]] = gap[order], forward[order]
    return gaps, speeds
