"""95 % intervals of a mean, by Student's t distribution."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

METHOD = "95 % intervals of means by Student's t distribution"
POINTS = 100_001  # of the integral below: t to six digits


@dataclass(frozen=True)
class Interval:
    """The mean of `count` numbers and the bounds of its 95 % interval, which are the mean itself where there is but one
    number."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def known(self) -> bool:
        """Whether there are numbers enough to have an interval."""
        return self.count > 1

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]" if self.known else f"{self.mean:.1f} (of one)"


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Of one number or more."""
    x = np.asarray(values, np.float64)
    mean, count = float(x.mean()), len(x)
    half = t_quantile(count - 1) * float(x.std(ddof=1)) / count**0.5 if count > 1 else 0.0
    return Interval(mean, mean - half, mean + half, count)


@lru_cache
def t_quantile(freedom: int, share: float = 0.975) -> float:
    """Where Student's t with so many degrees of freedom has `share` of its mass below. With t = sqrt(freedom) tan(a),
    the density of the angle a is cos(a)^(freedom - 1)."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, POINTS)
    density = np.clip(np.cos(angle), 0, 1) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(freedom**0.5 * np.tan(np.interp(share, below / below[-1], angle)))
