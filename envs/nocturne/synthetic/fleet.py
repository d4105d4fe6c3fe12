"""The traffic: sizes, drivers, and where and when each vehicle of a scene appears."""

from dataclasses import dataclass

import numpy as np

from dreamdrive.envs.nocturne.synthetic import geometry as geo
from dreamdrive.envs.nocturne.synthetic.routes import Routes

TURNS_IN = 1.45  # smallest radius of a route, in vehicle lengths
SHARP = 1 / 30  # 1/m, curvature of a route that turns at a junction
TURN_WEIGHT = 3.0  # how much more often such routes are driven in a jam


@dataclass(frozen=True)
class Density:
    """How much traffic there is.

    Fields:
        lane: (fewest, most) vehicles a lane; fewest, most: vehicles of a scene
        apart: m, and s at the speed limit, from one to the next at the beginning
        pause: (shortest, longest) mean of the seconds from one that comes in to the next
        pace: share of its speed that each begins with
        spell: share of drivers with a spell of slowness; from, length (s) and factor of it, each (least, most)
    """

    lane: tuple[float, float]
    fewest: int
    most: int
    apart: tuple[float, float]
    pause: tuple[float, float]
    pace: float
    spell: float
    slow_from: tuple[float, float]
    slow_for: tuple[float, float]
    slow_factor: tuple[float, float]


USUAL = Density((2.0, 6.0), 8, 36, (5.0, 0.9), (3.0, 11.0), 0.75, 0.3, (-3.0, 7.0), (2.0, 5.0), (0.15, 0.65))
# bumper to bumper: those in front stop and go, and who is behind them has to
JAM = Density((6.0, 11.0), 16, 64, (2.5, 0.3), (1.5, 4.0), 0.4, 0.5, (-8.0, 7.0), (3.0, 9.0), (0.0, 0.25))


@dataclass
class Fleet:
    """All vehicles and cyclists of a scene; every field is (N,), and (N, 2) where it says so.

    Fields:
        route, length, width: number of the route; m
        bike: a cyclist
        appears: s, when it comes in where its route begins
        driver: parameters by name, see `draw_drivers`
        s, v, a: arc length of the box centre in m, m/s, m/s^2
        xy, heading, course: position (N, 2), direction of the box, direction of motion over the latest step
        active: on the map
        granted, let_in: may pass its line, and since when (s, or inf)
        stopped, arrived: has stopped at its line, and when (s, or inf)
        done: has left the conflict behind its line, or the map
    """

    route: np.ndarray
    length: np.ndarray
    width: np.ndarray
    bike: np.ndarray
    appears: np.ndarray
    driver: dict[str, np.ndarray]
    s: np.ndarray
    v: np.ndarray

    def __post_init__(self):
        n = len(self.route)
        self.a, self.heading, self.course = (np.zeros(n) for _ in range(3))
        self.xy = np.zeros((n, 2))
        self.active, self.granted, self.done, self.stopped = (np.zeros(n, bool) for _ in range(4))
        self.arrived, self.let_in = np.full(n, np.inf), np.full(n, np.inf)


def draw_size(rng: np.random.Generator) -> tuple[float, float]:
    """Length and width of a motor vehicle: cars, vans and pick-ups, lorries and buses."""
    kind = rng.choice(3, p=[0.70, 0.20, 0.10])
    if kind == 0:
        return float(np.clip(rng.normal(4.7, 0.25), 3.8, 5.2)), float(np.clip(rng.normal(1.98, 0.08), 1.75, 2.15))
    if kind == 1:
        return float(rng.uniform(5.1, 6.2)), float(rng.uniform(2.0, 2.25))
    return float(rng.uniform(7.0, 12.0)), float(rng.uniform(2.35, 2.55))


def draw_drivers(
    rng: "np.random.Generator | Middle", bike: np.ndarray, length: np.ndarray, density: Density = USUAL
) -> dict[str, np.ndarray]:
    """Parameters (N,) of the drivers of a fleet; slower for cyclists and lorries.

    `factor` of the speed limit a driver keeps to, `top` speed; the IDM's T `headway`, s0 `gap`, a `accelerates` and b
    `brakes`; `creep`, the speed of who waits; `slow_factor` of its speed in a spell of slowness, as of one who looks
    for an address, from `slow_from` to `slow_to` seconds.
    """
    n, heavy = len(bike), length > 6.9
    spell = np.where(rng.random(n) < density.spell, rng.uniform(*density.slow_from, n), np.inf)
    return {
        "factor": np.where(heavy, rng.uniform(0.6, 0.95, n), rng.uniform(0.8, 1.12, n)),
        "top": np.where(bike, rng.uniform(3.5, 6.5, n), np.inf),
        "headway": rng.uniform(0.9, 1.8, n),
        "gap": np.where(bike, rng.uniform(0.8, 1.5, n), rng.uniform(1.4, 2.8, n)),
        "accelerates": np.where(
            bike, rng.uniform(0.7, 1.1, n), np.where(heavy, rng.uniform(0.7, 1.2, n), rng.uniform(1.2, 2.3, n))
        ),
        "brakes": rng.uniform(1.5, 2.6, n),
        "creep": rng.uniform(0.010, 0.018, n),
        "slow_from": spell,
        "slow_to": spell + rng.uniform(*density.slow_for, n),
        "slow_factor": rng.uniform(*density.slow_factor, n),
    }


class Middle:
    """Draws the middle of every range, and no event that is less likely than certain."""

    def uniform(self, low: float, high: float, n: int) -> np.ndarray:
        return np.full(n, (low + high) / 2)

    def random(self, n: int) -> np.ndarray:
        return np.ones(n)


def typical_drivers(bike: np.ndarray, length: np.ndarray) -> dict[str, np.ndarray]:
    """Parameters (N,) as of `draw_drivers`, each the middle of its range."""
    return draw_drivers(Middle(), bike, length)


def draw_fleet(rng: np.random.Generator, routes: Routes, start: float, end: float, density: Density = USUAL) -> Fleet:
    """Vehicles spread over the routes at the beginning of the warm-up, and those that appear later where routes
    begin."""
    bikes_too = rng.random() < 0.5
    rows = _begin_with(rng, routes, start, density, bikes_too) + _add_later(rng, routes, start, end, density, bikes_too)
    route, length, width, is_bike, appears, place = (np.array(column) for column in zip(*rows, strict=True))
    drivers = draw_drivers(rng, is_bike, length, density)
    v = density.pace * np.minimum(routes.speed[route, routes.index(route, place)] * drivers["factor"], drivers["top"])
    return Fleet(route, length, width, is_bike, appears, drivers, place, v)


def _one_of(rng: np.random.Generator, routes: Routes, choices: np.ndarray, density: Density) -> int:
    """A route of `choices`."""
    if density is USUAL:
        return int(rng.choice(choices))
    weight = np.where(routes.sharpest[choices] > SHARP, TURN_WEIGHT, 1.0)
    return int(rng.choice(choices, p=weight / weight.sum()))


def _begin_with(
    rng: np.random.Generator, routes: Routes, start: float, density: Density, bikes_too: bool
) -> list[tuple]:
    """(route, length, width, cyclist, when it appears, arc length) of those that are there at the beginning."""
    motor, cycle = np.flatnonzero(~routes.bike), np.flatnonzero(routes.bike)
    lanes = len(set(routes.entry[motor]))
    wanted = int(np.clip(rng.uniform(*density.lane) * lanes, density.fewest, density.most))
    rows: list[tuple] = []
    places = np.zeros((0, 5))  # x, y, direction, half length, speed
    for _ in range(wanted * 6):
        if len(rows) >= wanted:
            break
        bike = bool(bikes_too and len(cycle) and rng.random() < 0.12)
        r = _one_of(rng, routes, cycle if bike else motor, density)
        size = (1.8, 0.7) if bike else draw_size(rng)
        s = rng.uniform(8, routes.length[r] - 30)
        k = int(s / routes.step[r])
        in_conflict = routes.line[r] - 4 - size[0] / 2 < s < routes.clear[r] + 4
        if in_conflict or routes.sharpest[r] * size[0] * TURNS_IN > 1:
            continue
        (x, y), direction = routes.xy[r, k], routes.theta[r, k]
        away = places[:, :2] - (x, y)
        ahead, beside = away @ geo.unit(direction), away @ geo.left_of(geo.unit(direction))
        needed = places[:, 3] + size[0] / 2 + density.apart[0] + density.apart[1] * routes.speed[r, k]
        if np.any((np.abs(ahead) < needed) & (np.abs(beside) < (1.6 if bike else 2.4))):
            continue
        places = np.vstack([places, (x, y, direction, size[0] / 2, 0)])
        rows.append((r, *size, bike, start, s))
    return rows


def _add_later(
    rng: np.random.Generator, routes: Routes, start: float, end: float, density: Density, bikes_too: bool
) -> list[tuple]:
    """The same of those that come in later, where routes begin."""
    motor, cycle = np.flatnonzero(~routes.bike), np.flatnonzero(routes.bike)
    rows: list[tuple] = []
    for entry in np.unique(routes.entry[motor if not (bikes_too and len(cycle)) else np.arange(len(routes.entry))]):
        choices = np.flatnonzero(routes.entry == entry)
        bike = bool(routes.bike[choices[0]])
        time = start + rng.exponential(5.0)
        pause = rng.uniform(*density.pause) if not bike else rng.uniform(20, 60)
        while time < end - 1:
            size = (1.8, 0.7) if bike else draw_size(rng)
            r = _one_of(rng, routes, choices, density)
            if routes.sharpest[r] * size[0] * TURNS_IN <= 1:
                rows.append((r, *size, bike, time, size[0] / 2 + 0.5))
            time += 1.5 + rng.exponential(pause)
    return rows
