"""Pedestrians: where each is at every step, decided before traffic is, which yields to them."""

from dataclasses import dataclass

import numpy as np

from dreamdrive.envs.nocturne.synthetic import geometry as geo
from dreamdrive.envs.nocturne.synthetic.maps import Crosswalk, RoadMap

GETTING_GOING = 0.4  # s, time constant of a pedestrian's start
ELBOW_ROOM = 1.1  # m between the centres of two pedestrians
MOST_TRIES = 4


@dataclass(frozen=True)
class Walker:
    """A pedestrian.

    Fields:
        xy: (T, 2) m at every step
        heading: (T,) radians
        length, width: m
        crossing: number of the crosswalk it crosses, -1 without
    """

    xy: np.ndarray
    heading: np.ndarray
    length: float
    width: float
    crossing: int = -1


def along(path: np.ndarray, speed: float, start: float, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position (T, 2) and heading (T,) of who stands at the beginning of `path` until `start` and then walks it at
    `speed`."""
    s = geo.lengths(path)
    walked = np.maximum(times - start, 0)
    walked = speed * (walked - GETTING_GOING * (1 - np.exp(-walked / GETTING_GOING)))
    walked = s[-1] - np.maximum(s[-1] - walked, 0)
    tangent = geo.tangents(path)
    xy = np.stack([np.interp(walked, s, path[:, k]) for k in (0, 1)], axis=1)
    ahead = np.stack([np.interp(walked, s, tangent[:, k]) for k in (0, 1)], axis=1)
    return xy, np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0]))


def crossing_start(
    rng: np.random.Generator, m: RoadMap, walk: Crosswalk, takes: float, times: np.ndarray
) -> float | None:
    """When to set off; with signals in the other group's green, and early enough to be across before this group's; None
    if there is no such time."""
    if m.signals is None or walk.group < 0:
        return float(rng.uniform(-6, 7))
    signals, other = m.signals, 1 - walk.group
    greens = signals.begins(other) - signals.phase + signals.cycle * np.arange(-3, 4)
    spare = signals.green[other] + signals.yellow + 2 * signals.all_red - takes - 1.0
    starts = [first + rng.uniform(0.3, min(spare, 4.0)) for first in greens if spare > 0.5]
    starts = [start for start in starts if times[0] < start + takes and start < times[-1]]
    return float(rng.choice(starts)) if starts else None


def draw_walker(rng: np.random.Generator, m: RoadMap, times: np.ndarray, crosses: float) -> Walker | None:
    """One pedestrian, on a crosswalk with probability `crosses`; None where the map has no place for it."""
    speed, length = float(np.clip(rng.normal(1.35, 0.2), 0.8, 2.0)), float(rng.uniform(0.45, 0.9))
    width = float(np.clip(length * rng.uniform(0.85, 1.2), 0.45, 0.95))
    if m.crosswalks and rng.random() < crosses:
        number = int(rng.integers(len(m.crosswalks)))
        walk = m.crosswalks[number]
        beyond, side = walk.reach + rng.uniform(1.2, 2.0, 2), rng.choice([-1.0, 1.0])
        lane = walk.centre + walk.along * rng.uniform(-0.6, 0.6) * walk.half
        across = geo.left_of(walk.along) * side
        path = geo.straight(lane - across * beyond[0], lane + across * beyond[1])
        start = crossing_start(rng, m, walk, beyond.sum() / speed, times)
        if start is None:
            return None
        xy, heading = along(path, speed, start, times)
        return Walker(xy, heading, length, width, number)
    if not m.pavements:
        return None
    path = m.pavements[int(rng.integers(len(m.pavements)))]
    path = geo.shifted(path[::-1] if rng.random() < 0.5 else path, float(rng.uniform(-0.7, 0.7)))
    room = len(path) - int(speed * (times[-1] - times[0] + 1) / geo.FINE)
    if room < 2:
        return None
    first = int(rng.integers(room))
    if rng.random() < 0.1:
        speed = 0.0  # waits, or talks
    xy, heading = along(path[first:], speed, times[0] - 5, times)
    return Walker(xy, heading, length, width)


def draw_walkers(rng: np.random.Generator, m: RoadMap, times: np.ndarray) -> list[Walker]:
    """The pedestrians of a scene, no two of whom ever meet."""
    wanted, crosses = int(rng.poisson(rng.choice([1.0, 4.0, 8.0]))), float(rng.uniform(0.3, 0.7))
    found: list[Walker] = []
    for _ in range(wanted * MOST_TRIES):
        if len(found) == wanted:
            break
        walker = draw_walker(rng, m, times, crosses)
        if walker is not None and all(np.hypot(*(walker.xy - other.xy).T).min() > ELBOW_ROOM for other in found):
            found.append(walker)
    return found
