"""The routes of a map as tables that a whole fleet is looked up in at once."""

import numpy as np

from dreamdrive.envs.nocturne.car_following import Paths
from dreamdrive.envs.nocturne.synthetic import geometry as geo
from dreamdrive.envs.nocturne.synthetic.maps import BIKE_ZONE, CAR_ZONE, MIXED_ZONE, RoadMap


class Routes(Paths):
    """The routes of a map as tables: row r, column k is route r at arc length k STEP.

    Fields:
        xy, theta, kappa, speed, step, points: see Paths
        length, line, clear, rank, group, entry, fallback: (R,); control: list
        zone_in, zone_out: (R, R) arc length on route r of the zone it shares with route q, nan without
        follows: (R, R) the two leave their zone in the same direction
    """

    def __init__(self, m: RoadMap, lateral_acceleration: float, braking: float):
        routes = m.routes
        count, size = len(routes), max(len(r.xy) for r in routes)
        self.xy = np.zeros((count, size, 2))
        self.theta, self.kappa, self.speed = (np.zeros((count, size)) for _ in range(3))
        # STEP, but for the division of a length into whole steps
        self.step = np.array([geo.lengths(r.xy)[-1] / (len(r.xy) - 1) for r in routes])
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
            self.speed[:, k] = np.minimum(
                self.speed[:, k], np.sqrt(self.speed[:, k + 1] ** 2 + 2 * braking * self.step)
            )
        self.length = self.step * (self.points - 1)
        self.sharpest = np.array([np.abs(self.kappa[i, : self.points[i]]).max() for i in range(count)])
        self.line, self.clear = np.array([r.line for r in routes]), np.array([r.clear for r in routes])
        self.rank, self.group, self.fallback = (
            np.array([getattr(r, name) for r in routes]) for name in ("rank", "group", "fallback")
        )
        self.bike = np.array([r.bike for r in routes])
        self.control = np.array([r.control for r in routes])
        names = sorted({r.entry for r in routes})
        self.entry = np.array([names.index(r.entry) for r in routes])
        self.within = np.array([self._slowest_within(i) for i in range(count)])
        self._find_zones()

    def place(self, route: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Position (N, 2) at arc length `s` (N,): cubic Hermite curves between the table's points, and straight on
        beyond the end.

        Position and direction are continuous, which matters to who creeps: a jump of a tenth of a millimetre would be a
        turn of the wheel.
        """
        step = self.step[route]
        k = np.clip((s / step).astype(int), 0, self.points[route] - 2)
        t = (s / step - k)[:, None]
        here, there = self.xy[route, k], self.xy[route, k + 1]
        leaves, arrives = (step[:, None] * geo.unit(self.theta[route, column]) for column in (k, k + 1))
        within = (
            here
            + t * leaves
            + t**2 * (3 * (there - here) - 2 * leaves - arrives)
            + t**3 * (2 * (here - there) + leaves + arrives)
        )
        return np.where(t > 1, there + (t - 1) * arrives, within)

    def _slowest_within(self, i: int) -> float:
        if np.isnan(self.line[i]):
            return float(self.speed[i].mean())
        first, last = int(self.line[i] / self.step[i]), int(self.clear[i] / self.step[i]) + 1
        return float(np.median(self.speed[i, first:last]))

    def _stretch(self, i: int) -> np.ndarray:
        """Columns to look for shared zones at: past the line, or everywhere without one and for a change of lane, which
        begins amid traffic."""
        if np.isnan(self.line[i]) or self.fallback[i] >= 0:
            return np.arange(0, self.points[i], 4)
        return np.arange(
            int(self.line[i] / self.step[i]), min(int((self.clear[i] + 8) / self.step[i]), self.points[i] - 1), 3
        )

    def _find_zones(self) -> None:
        count = len(self.rank)
        self.zone_in, self.zone_out = np.full((count, count), np.nan), np.full((count, count), np.nan)
        self.follows = np.zeros((count, count), bool)
        for i in range(count):
            for j in range(i + 1, count):
                if self.entry[i] == self.entry[j] or (np.isnan(self.line[i]) and np.isnan(self.line[j])):
                    continue
                near = (
                    BIKE_ZONE
                    if self.bike[i] and self.bike[j]
                    else MIXED_ZONE
                    if self.bike[i] or self.bike[j]
                    else CAR_ZONE
                )
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
