"""The geometry of sight: sectors about the origin, rectangles, and rays. Arrays are NumPy's or torch's (arrays.py),
float64."""

import math

import numpy as np

from dreamdrive.envs.nocturne.arrays import Array, cos, ends, length_of, like, names, rows, sin, wrap

MARGIN = 0.01  # metres by which a quick test lets pass more than the exact one


class Sector:
    """What is at most `radius` metres from the origin and `angle` / 2 radians from an axis, an angle or a unit vector
    (..., 2) that each test is given; of 2 pi a whole disc."""

    def __init__(self, radius: float, angle: float) -> None:
        self.radius, self.angle, self.disc = radius, angle, angle >= 2 * math.pi - 1e-6

    def inside(self, point: Array, ahead: Array) -> Array:
        """(...,) bool whether points (..., 2) are in the sector about `ahead`."""
        near = dot(point, point) <= self.radius**2
        return near if self.disc else near & self.within(point, ahead)

    def within(self, point: Array, ahead: Array) -> Array:
        """The same without the radius."""
        return dot(point, ahead) >= length_of(point) * math.cos(self.angle / 2)

    def box(self, axis: Array) -> tuple[Array, Array]:
        """Corners low and high (E, 2) of upright boxes that hold sectors about `axis` (E,)."""
        turned = abs(wrap(like([0.0, 0.5 * np.pi, np.pi, 1.5 * np.pi], axis) - axis[:, None])) - self.angle / 2
        reach = self.radius * cos(turned.clip(0.0)).clip(0.0) + MARGIN  # to the right, up, left, down
        return -reach[:, 2:], reach[:, :2]

    def near(self, centre: Array, reach: Array | float, axis: Array) -> Array:
        """(...,) bool: False only where circles of radius `reach` (...) about `centre` (..., 2) are certainly outside
        the sector about `axis` (...)."""
        near = dot(centre, centre) <= (self.radius + reach + MARGIN) ** 2
        if self.disc:
            return near
        middle, half = seen_from_origin(centre, reach)
        return near & (abs(wrap(middle - axis)) - half <= self.angle / 2 + 1e-3)

    def crossings(self, a: Array, b: Array, axis: Array, ahead: Array) -> tuple[Array, Array]:
        """Where segments from a to b (..., 2) cross the rim of the sector about `axis`, which is `ahead`: points
        (..., 4, 2) and which of them there are (..., 4)."""
        xp, sign = names(a), like([-1.0, 1.0], a)
        a, step = a[..., None, :], (b - a)[..., None, :]
        # the two straight sides
        edge = axis[..., None] + sign * self.angle / 2
        along = xp.stack([cos(edge), sin(edge)], -1)  # (..., 2, 2)
        straight = -cross(along, a) / cross(along, step)
        point = a + straight[..., None] * step
        reach = dot(point, along)
        there = (straight >= 0) & (straight <= 1) & (reach >= 0) & (reach <= self.radius) & (not self.disc)
        # the arc
        square, half = dot(step, step), dot(a, step)
        root = xp.sqrt(half * half - square * (dot(a, a) - self.radius**2))  # NaN where the circle is missed
        bent = (sign * root - half) / square
        bend = a + bent[..., None] * step
        on_arc = (bent >= 0) & (bent <= 1)
        if not self.disc:
            on_arc &= self.within(bend, ahead[..., None, :])
        return xp.concatenate([point, bend], -2), xp.concatenate([there, on_arc], -1)


class Slabs:
    """Rectangles (Q,), as rays from the origin meet them (Kay & Kajiya 1986).

    Fields:
        corners (Q, 4, 2): counter-clockwise from the front left
    """

    def __init__(self, centre: Array, heading: Array, length: Array, width: Array) -> None:
        c, s, (x, y) = cos(heading), sin(heading), (centre[:, 0], centre[:, 1])
        self._centre, self._reach = centre, names(c).hypot(length, width) / 2
        self._cos, self._sin, self._halves = c, s, (length / 2, width / 2)
        self._along, self._across = -(x * c + y * s), -(y * c - x * s)
        ahead = self._halves[0][:, None] * like([1.0, -1.0, -1.0, 1.0], c)
        aside = self._halves[1][:, None] * like([1.0, 1.0, -1.0, -1.0], c)
        c, s = c[:, None], s[:, None]
        self.corners = centre[:, None] + names(c).stack([c * ahead - s * aside, s * ahead + c * aside], -1)

    def meet(self, which: Array, end: Array) -> tuple[Array, Array]:
        """Where rays to `end` (R, 2) enter and leave rectangles `which` (R,), in units of their length; they miss them
        unless enter <= leave."""
        xp, x, y = names(end), end[:, 0], end[:, 1]
        c, s = rows(self._cos, which), rows(self._sin, which)
        enter, leave = [], []
        for way, start, half in (
            (x * c + y * s, self._along, self._halves[0]),
            (y * c - x * s, self._across, self._halves[1]),
        ):
            way = xp.where(abs(way) < 1e-12, 1e-12, way)
            one, two = rows(-half - start, which) / way, rows(half - start, which) / way
            enter.append(xp.minimum(one, two))
            leave.append(xp.maximum(one, two))
        return xp.maximum(*enter), xp.minimum(*leave)

    def directions(self) -> tuple[Array, Array]:
        """Directions (Q,) from the origin to the rectangles' centres, and (Q, 2) from where to where they reach, as
        differences from that: all around where the origin may be within."""
        middle, half = seen_from_origin(self._centre, self._reach)
        turned = wrap(names(middle).arctan2(self.corners[..., 1], self.corners[..., 0]) - middle[:, None])
        reach = names(turned).stack(ends(turned), -1) + like([-1e-6, 1e-6], half)
        return middle, names(turned).where(half[:, None] < 2.0, reach, like([-4.0, 4.0], half))


def seen_from_origin(centre: Array, reach: Array | float) -> tuple[Array, Array]:
    """The direction of circles of radius `reach` + MARGIN about `centre` (..., 2), and to how many radians to either
    side of it they are: more than pi where they are around the origin."""
    xp = names(centre)
    share = (reach + MARGIN) / xp.sqrt(dot(centre, centre))
    half = xp.where(share < 1.0, xp.arcsin(share), 4.0)
    return xp.arctan2(centre[..., 1], centre[..., 0]), half


def cross(a: Array, b: Array) -> Array:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def dot(a: Array, b: Array) -> Array:
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1]
