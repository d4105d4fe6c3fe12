"""Plane curves as arrays of points: integrated from curvature, bent between two directions, shifted sideways,
resampled."""

import numpy as np

FINE = 0.2  # m between the points of a curve while a map is drawn
HANDLES = np.linspace(0.6, 2.2, 9)  # tried lengths of a bend's end tangents, in chords


def unit(angle: np.ndarray | float) -> np.ndarray:
    """(..., 2) unit vectors of `angle` (...), radians from +x."""
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def left_of(vector: np.ndarray) -> np.ndarray:
    """`vector` (..., 2) turned by +90 degrees."""
    return np.stack([-vector[..., 1], vector[..., 0]], axis=-1)


def lengths(xy: np.ndarray) -> np.ndarray:
    """Arc length (P,) in metres from the first point of `xy` (P, 2) to each."""
    return np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(xy, axis=0).T))])


def tangents(xy: np.ndarray) -> np.ndarray:
    """Unit tangents (P, 2) of `xy` (P, 2)."""
    steps = np.gradient(xy, axis=0)
    return steps / np.maximum(np.hypot(steps[:, 0], steps[:, 1]), 1e-12)[:, None]


def shifted(xy: np.ndarray, left: np.ndarray | float) -> np.ndarray:
    """`xy` (P, 2) moved to its left by `left` metres (a number, or one a point)."""
    return xy + left_of(tangents(xy)) * np.broadcast_to(left, len(xy))[:, None]


def resampled(xy: np.ndarray, spacing: float) -> np.ndarray:
    """`xy` with equally spaced points, at most `spacing` metres apart along it, both ends kept."""
    s = lengths(xy)
    at = np.linspace(0, s[-1], max(int(np.ceil(s[-1] / spacing - 1e-6)), 1) + 1)
    return np.stack([np.interp(at, s, xy[:, 0]), np.interp(at, s, xy[:, 1])], axis=1)


def joined(*pieces: np.ndarray) -> np.ndarray:
    """The pieces as one polyline; points closer than a millimetre to the one before are left out."""
    xy = np.concatenate(pieces)
    apart = np.hypot(*np.diff(xy, axis=0).T) > 1e-3
    return xy[np.concatenate([[True], apart])]


def straight(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The segment from `start` to `end`, finely sampled."""
    return resampled(np.array([start, end], dtype=float), FINE)


def circle_arc(centre: np.ndarray, radius: float, first: float, last: float) -> np.ndarray:
    """Points of a circle from angle `first` to angle `last` (radians; counter-clockwise where last > first)."""
    points = max(int(abs(last - first) * radius / FINE), 2) + 1
    return np.asarray(centre) + radius * unit(np.linspace(first, last, points))


def from_curvature(start: np.ndarray, heading: float, curvature: np.ndarray) -> np.ndarray:
    """The curve (P + 1, 2) from `start` that has `curvature` (P,) 1/m, one value every FINE metres."""
    turned = heading + np.concatenate([[0.0], np.cumsum(curvature * FINE)])
    middle = (turned[1:] + turned[:-1]) / 2
    return np.asarray(start) + np.concatenate([np.zeros((1, 2)), np.cumsum(FINE * unit(middle), axis=0)])


def curvatures(xy: np.ndarray) -> np.ndarray:
    """Signed curvature (P,) in 1/m of `xy`, left positive, whatever the spacing."""
    first = np.gradient(xy, axis=0)
    second = np.gradient(first, axis=0)
    cross = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    return cross / np.maximum((first**2).sum(1), 1e-12) ** 1.5


def bend(
    start: np.ndarray,
    heading: float,
    end: np.ndarray,
    end_heading: float,
    end_curvatures: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """A curve with given position, heading and curvature at both ends: the quintic Hermite curve whose sharpest point
    is the least sharp.

    The length of its end tangents is free, and chosen from HANDLES.
    """
    start, end = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    chord = np.hypot(*(end - start))
    t = np.linspace(0, 1, max(int(chord * 1.3 / FINE), 8) + 1)[:, None]
    basis = (
        1 - 10 * t**3 + 15 * t**4 - 6 * t**5,
        t - 6 * t**3 + 8 * t**4 - 3 * t**5,
        (t**2 - 3 * t**3 + 3 * t**4 - t**5) / 2,
        (t**3 - 2 * t**4 + t**5) / 2,
        -4 * t**3 + 7 * t**4 - 3 * t**5,
        10 * t**3 - 15 * t**4 + 6 * t**5,
    )
    from_tangent, to_tangent = unit(heading), unit(end_heading)
    candidates = []
    for speed in HANDLES * chord:
        second = [
            curvature * speed**2 * left_of(tangent)
            for curvature, tangent in zip(end_curvatures, (from_tangent, to_tangent), strict=True)
        ]
        xy = sum(
            weight * value
            for weight, value in zip(
                basis, (start, speed * from_tangent, second[0], second[1], speed * to_tangent, end), strict=True
            )
        )
        candidates.append((np.abs(curvatures(xy)[2:-2]).max() + 0.02 * lengths(xy)[-1] / chord, xy))
    return min(candidates, key=lambda candidate: candidate[0])[1]


def smooth_step(x: np.ndarray, first: float, last: float) -> np.ndarray:
    """0 before `first`, 1 after `last`, and between them the fifth-order polynomial without jerks at its ends."""
    t = np.clip((x - first) / (last - first), 0, 1)
    return t**3 * (10 - 15 * t + 6 * t**2)


def fillet(corner: np.ndarray, inward: np.ndarray, outward: np.ndarray, radius: float) -> tuple[float, np.ndarray]:
    """The arc that rounds a corner between two rays: the distance from `corner` to its ends, and its points.

    `inward` and `outward` are unit vectors from the corner along the two rays; the arc runs from the first ray to the
    second.
    """
    angle = np.arccos(np.clip(inward @ outward, -1, 1))
    reach = radius / np.tan(angle / 2)
    middle = inward + outward
    centre = corner + middle / np.hypot(*middle) * radius / np.sin(angle / 2)
    first, last = (np.arctan2(*(corner + ray * reach - centre)[::-1]) for ray in (inward, outward))
    return reach, circle_arc(centre, radius, first, first + (last - first + np.pi) % (2 * np.pi) - np.pi)
