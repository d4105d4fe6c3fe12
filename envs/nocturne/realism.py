"""How like its log a drive is, by the measures of Waymo's Sim Agents challenge (Montali et al. 2023), as far as one
rollout a scene defines them.

The challenge asks for 32 rollouts of all objects; here one ego is driven, once. Of each measure its steps make a
histogram (independent_timesteps), or a Bernoulli distribution of the whole rollout, and the score is the likelihood of
the log under it: exp of the mean logarithm over the log's steps. Bins, smoothing and weights are those of the challenge
of 2025. Left out, and the other weights made larger for it: the distance to the road's edge, which is signed there
(scene files do not say on which side of an edge the road is), and passing red lights.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamdrive.envs.nocturne.scene import DT
from dreamdrive.envs.nocturne.simulator import Boxes, Simulator, touches_edge, wrap

SMOOTHING, RARE = 0.1, 0.001  # added to the counts of a histogram, and of a Bernoulli distribution
FARTHEST, LONGEST = 1e10, 5.0  # m, where nobody else is; s, a longer time to a collision counts as this
ALIKE, SLIGHT, NEARLY = np.radians(75.0), 0.5, np.radians(10.0)  # who is followed: see `time_to_collision`


@dataclass(frozen=True)
class Measure:
    """Bins of a histogram, from `low` to `high`, and the weight; without bins, of something that happens or not."""

    weight: float
    low: float = 0.0
    high: float = 0.0
    bins: int = 0


MEASURES = {
    "speed": Measure(0.05, 0.0, 25.0, 10),
    "acceleration": Measure(0.05, -12.0, 12.0, 11),
    "angular_speed": Measure(0.05, -0.628, 0.628, 11),
    "angular_acceleration": Measure(0.05, -3.14, 3.14, 11),
    "nearest_object": Measure(0.1, -5.0, 40.0, 10),
    "time_to_collision": Measure(0.1, 0.0, LONGEST, 10),
    "collision": Measure(0.25),
    "off_road": Measure(0.25),
}
NAMES = tuple(f"likelihood_{name}" for name in MEASURES)


class Realism:
    """What egos did so far, and their logs, step by step."""

    def __init__(self) -> None:
        self._noted: list[np.ndarray] = []

    def note(self, sim: Simulator, copy: Tensor, who: Tensor, going: np.ndarray) -> None:
        """Note where egos `who` (B,) of copies (B,) are now, those that are `going` (B,)."""
        log, valid = sim.logged()
        rows = [
            *situation(sim, copy, who, sim.local, sim.there),
            *situation(sim, copy, who, log, valid),
            torch.from_numpy(going).to(copy.device),
            valid[copy, who],
        ]
        self._noted.append(torch.stack([row.double() for row in rows]).cpu().numpy())

    def likelihoods(self) -> dict[str, np.ndarray]:
        """(B,) each, between 0 and 1, by NAMES; and "realism", their weighted mean."""
        noted = np.stack(self._noted, -1)  # (14, B, T)
        going, valid = noted[-2:] > 0
        driven, logged = (series(noted[first : first + 6]) for first in (0, 6))
        found = {
            f"likelihood_{name}": likelihood(measure, driven[name], logged[name], going, valid & going)
            for name, measure in MEASURES.items()
        }
        weights = np.array([measure.weight for measure in MEASURES.values()])
        return found | {"realism": np.average(list(found.values()), axis=0, weights=weights)}


def situation(sim: Simulator, copy: Tensor, who: Tensor, state: Tensor, there: Tensor) -> list[Tensor]:
    """x, y, heading, metres to the nearest object, seconds to a collision, and whether a road edge is touched, (B,)
    each, of egos `who` (B,) of copies (B,) among objects in `state` (B, N, 4) of which some are `there` (B, N)."""
    sizes = sim.length, sim.width
    own, everybody = state[copy, who], state[copy]
    others = there[copy].clone()
    others[torch.arange(len(who), device=others.device), who] = False
    mine = Boxes.of(own, *(size[copy, who] for size in sizes))
    theirs = Boxes.of(everybody, *(size[copy] for size in sizes))
    apart = torch.where(others, distance(mine.unsqueeze(), theirs), FARTHEST).amin(1)
    soon = time_to_collision(mine.unsqueeze(), theirs, own[:, None, 2:], everybody[..., 2:], others)
    return [*own[:, :3].unbind(-1), apart, soon, touches_edge(sim.edges, copy, mine)]


def distance(a: Boxes, b: Boxes) -> Tensor:
    """Metres between rectangles (broadcast); where they overlap, less than 0, by how far one would have to move."""
    dx, dy = b.x - a.x, b.y - a.y
    cos, sin = a.cos * b.cos + a.sin * b.sin, a.cos * b.sin - a.sin * b.cos  # b's direction as a sees it
    in_a = dx * a.cos + dy * a.sin, dy * a.cos - dx * a.sin
    in_b = dx * b.cos + dy * b.sin, dy * b.cos - dx * b.sin
    gaps = [
        in_a[0].abs() - a.half_length - b.half_length * cos.abs() - b.half_width * sin.abs(),
        in_a[1].abs() - a.half_width - b.half_length * sin.abs() - b.half_width * cos.abs(),
        in_b[0].abs() - b.half_length - a.half_length * cos.abs() - a.half_width * sin.abs(),
        in_b[1].abs() - b.half_width - a.half_length * sin.abs() - a.half_width * cos.abs(),
    ]
    gap = torch.stack(gaps).amax(0)
    corners = [
        torch.hypot(
            ((x + s * other.half_length * c - t * other.half_width * d).abs() - box.half_length).clamp(min=0),
            ((y + s * other.half_length * d + t * other.half_width * c).abs() - box.half_width).clamp(min=0),
        )
        for box, other, (x, y), c, d in ((a, b, in_a, cos, sin), (b, a, (-in_b[0], -in_b[1]), cos, -sin))
        for s in (-1, 1)
        for t in (-1, 1)
    ]
    return torch.where(gap > 0, torch.stack(corners).amin(0), gap)


def time_to_collision(mine: Boxes, theirs: Boxes, own: Tensor, others: Tensor, there: Tensor) -> Tensor:
    """(B,) seconds until each ego meets the object that it follows, both at their speeds; at most LONGEST. `own`
    (B, 1, 2) and `others` (B, N, 2): heading and speed. It follows the nearest that is before it, on the strip that it
    is wide, and turned by no more than ALIKE, or NEARLY where they overlap by less than SLIGHT metres."""
    dx, dy = theirs.x - mine.x, theirs.y - mine.y
    turned = wrap(others[..., 0] - own[..., 0]).abs()
    cos, sin = torch.cos(turned).abs(), torch.sin(turned).abs()
    ahead = dx * mine.cos + dy * mine.sin - mine.half_length - theirs.half_length * cos - theirs.half_width * sin
    beside = (dy * mine.cos - dx * mine.sin).abs() - mine.half_width
    beside = beside - theirs.half_length * sin - theirs.half_width * cos
    follows = there & (ahead > 0) & (beside < 0) & (turned <= ALIKE) & ((beside < -SLIGHT) | (turned <= NEARLY))
    gap, which = torch.where(follows, ahead, FARTHEST).min(1)
    closing = own[:, 0, 1] - others[torch.arange(len(which), device=which.device), which, 1]
    return torch.where(closing > 0, gap / closing.clamp(min=1e-9), LONGEST).clamp(max=LONGEST)


def series(rows: np.ndarray) -> dict[str, np.ndarray]:
    """(B, T) of every measure, from what `situation` tells (6, B, T); NaN where it is not defined."""
    x, y, heading, nearest, soon, edge = rows
    speed = np.hypot(central(x), central(y))
    turning = central(heading, whole=2 * np.pi)
    return {
        "speed": speed,
        "acceleration": central(speed),
        "angular_speed": turning,
        "angular_acceleration": central(turning),
        "nearest_object": nearest,
        "time_to_collision": soon,
        "collision": nearest < 0,
        "off_road": edge > 0,
    }


def central(values: np.ndarray, whole: float | None = None) -> np.ndarray:
    """Central differences (B, T) a second, NaN at both ends; of angles, the smaller way round."""
    way = values[:, 2:] - values[:, :-2]
    if whole is not None:
        way = (way + whole / 2) % whole - whole / 2
    return np.pad(way / (2 * DT), ((0, 0), (1, 1)), constant_values=np.nan)


def likelihood(
    measure: Measure, driven: np.ndarray, logged: np.ndarray, going: np.ndarray, valid: np.ndarray
) -> np.ndarray:
    """(B,): of the log, given the rollout; both (B, T), which count where `going` and where `valid` (B, T)."""
    if not measure.bins:
        happened = (driven & going).any(1) == (logged & valid).any(1)
        return (happened + RARE) / (1 + 2 * RARE)
    edges = np.linspace(measure.low, measure.high, measure.bins + 1)
    bins = [np.searchsorted(edges[1:-1], values, side="right") for values in (driven, logged)]
    going, valid = going & np.isfinite(driven), valid & np.isfinite(logged)
    counts = ((bins[0][..., None] == np.arange(measure.bins)) & going[..., None]).sum(1) + SMOOTHING  # (B, bins)
    shares = counts / counts.sum(1, keepdims=True)
    logs = np.log(np.take_along_axis(shares, bins[1], 1))
    return np.exp(np.where(valid, logs, 0.0).sum(1) / np.maximum(valid.sum(1), 1))
