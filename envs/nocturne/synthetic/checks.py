"""What must never happen in a scene: bodies that overlap, bodies on a road edge. The tests are Nocturne's, with a
margin for its single precision."""

from dataclasses import dataclass

import numpy as np

from dreamdrive.envs.nocturne.synthetic import geometry as geo

MARGIN = 0.02  # m by which bodies are made longer and wider before they are tested


@dataclass(frozen=True)
class Bodies:
    """Rectangles over time.

    Fields:
        xy: (O, T, 2) m, heading: (O, T) radians, size: (O, 2) m length and width, valid: (O, T)
    """

    xy: np.ndarray
    heading: np.ndarray
    size: np.ndarray
    valid: np.ndarray


def corners(xy: np.ndarray, heading: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(..., 4, 2) corners of rectangles with centre `xy` (..., 2), `heading` (...), `size` (..., 2)."""
    front = geo.unit(heading)[..., None, :] * size[..., None, :1] / 2
    side = geo.left_of(geo.unit(heading))[..., None, :] * size[..., None, 1:] / 2
    signs = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]])
    return xy[..., None, :] + signs[:, :1] * front + signs[:, 1:] * side


def rectangles_touch(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """(P,) whether rectangles with corners `one` and `two`, both (P, 4, 2), touch: bounding boxes first, then the
    separating axes."""
    touch = ((one.min(1) < two.max(1)) & (two.min(1) < one.max(1))).all(-1)
    for rectangle in (one, two):
        for axis in (rectangle[:, 1] - rectangle[:, 0], rectangle[:, 2] - rectangle[:, 1]):
            a, b = ((r * axis[:, None]).sum(-1) for r in (one, two))
            touch &= (a.min(1) <= b.max(1)) & (b.min(1) <= a.max(1))
    return touch


def first_overlap(bodies: Bodies) -> tuple[int, int, int] | None:
    """(object, object, step) of two valid bodies that touch, or None."""
    reach = np.hypot(*bodies.size.T) / 2 + MARGIN
    xy = np.where(bodies.valid[..., None], bodies.xy, np.nan)
    for i in range(len(xy) - 1):
        apart = np.hypot(*np.moveaxis(xy[i + 1 :] - xy[i], -1, 0))
        j, t = np.nonzero(apart < (reach[i + 1 :] + reach[i])[:, None])
        if not len(j):
            continue
        j += i + 1
        one = corners(bodies.xy[i, t], bodies.heading[i, t], np.broadcast_to(bodies.size[i] + 2 * MARGIN, (len(t), 2)))
        hit = rectangles_touch(one, corners(bodies.xy[j, t], bodies.heading[j, t], bodies.size[j] + 2 * MARGIN))
        if hit.any():
            first = int(hit.argmax())
            return i, int(j[first]), int(t[first])
    return None


def segments_of(polylines: list[np.ndarray]) -> np.ndarray:
    """(S, 2, 2) segments of the polylines."""
    pairs = [np.stack([xy[:-1], xy[1:]], axis=1) for xy in polylines if len(xy) > 1]
    return np.concatenate(pairs) if pairs else np.zeros((0, 2, 2))


def segments_meet(xy: np.ndarray, heading: np.ndarray, size: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """(P,) whether rectangles (P,) meet segments (P, 2, 2): the segment is clipped to the rectangle, in the rectangle's
    own axes."""
    ahead, left = geo.unit(heading)[:, None], geo.left_of(geo.unit(heading))[:, None]
    away = segments - xy[:, None]
    ends = np.stack([(away * ahead).sum(-1), (away * left).sum(-1)], axis=-1)  # (P, end, axis)
    step = ends[:, 1] - ends[:, 0]
    step = np.where(np.abs(step) < 1e-12, 1e-12, step)
    one, two = (-size / 2 - ends[:, 0]) / step, (size / 2 - ends[:, 0]) / step
    return np.maximum(np.minimum(one, two).max(-1), 0) <= np.minimum(np.maximum(one, two).min(-1), 1)


def first_on_edge(bodies: Bodies, edges: list[np.ndarray]) -> tuple[int, int] | None:
    """(object, step) of a valid body that touches a road edge, or None."""
    segments = segments_of(edges)
    middle, half = segments.mean(1), np.hypot(*(segments[:, 1] - segments[:, 0]).T) / 2
    for i in range(len(bodies.xy)):
        steps = np.flatnonzero(bodies.valid[i])
        if np.ptp(bodies.xy[i, steps], axis=0).max() == 0 and np.ptp(bodies.heading[i, steps]) == 0:
            steps = steps[:1]  # parked
        xy, reach = bodies.xy[i, steps], np.hypot(*bodies.size[i]) / 2 + MARGIN
        low, high = xy.min(0) - reach - 1, xy.max(0) + reach + 1
        near = np.flatnonzero(((middle > low) & (middle < high)).all(1))
        square = ((xy[:, None] - middle[near]) ** 2).sum(-1)
        t, k = np.nonzero(square < (reach + half[near]) ** 2)
        if not len(t):
            continue
        size = np.broadcast_to(bodies.size[i] + 2 * MARGIN, (len(t), 2))
        hit = segments_meet(xy[t], bodies.heading[i, steps[t]], size, segments[near[k]])
        if hit.any():
            return i, int(steps[t[hit.argmax()]])
    return None
