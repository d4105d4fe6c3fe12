"""Two ways to do one thing, taking turns, because a machine's speed drifts: rates, ratios, and rows of a table."""

import statistics
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass

import torch

THREADS = torch.get_num_threads()
HEAD = ["ours against the reference", "unit", "ours a second", "reference a second", "ratio", "goal", "reached"]

Racer = Callable[[float], float]  # seconds it may take -> units a second


@dataclass
class Result:
    """Rates of two racers, one of each per turn.

    Fields:
        stage, unit: what was raced (may be empty), and in what per second
        ours, plain: what the two are
        ours_rates, plain_rates: units a second
        ratio_goal, rate_goal: what the median ratio, and our median rate, must reach; 0 for no goal
    """

    stage: str
    unit: str
    ours: str
    plain: str
    ours_rates: list[float]
    plain_rates: list[float]
    ratio_goal: float
    rate_goal: float = 0.0

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.ours_rates, self.plain_rates, strict=True)]

    @property
    def reached(self) -> bool:
        return (
            statistics.median(self.ratios) >= self.ratio_goal and statistics.median(self.ours_rates) >= self.rate_goal
        )

    def row(self) -> list[str]:
        goals = [f"{self.ratio_goal:g} x"] * bool(self.ratio_goal) + [f"{self.rate_goal:,.0f} a second"] * bool(
            self.rate_goal
        )
        return [
            f"{self.stage}: " * bool(self.stage) + f"{self.ours} against {self.plain}",
            self.unit,
            spread(self.ours_rates, ",.0f"),
            spread(self.plain_rates, ",.0f"),
            spread(self.ratios, ".2f"),
            " and ".join(goals) or "none",
            ("yes" if self.reached else "NO") if goals else "",
        ]


def spread(values: list[float], form: str) -> str:
    """Median, lowest and highest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def race(racers: dict[str, Racer], args: Namespace) -> dict[str, list[float]]:
    """Units a second of each racer in each turn."""
    rates: dict[str, list[float]] = {name: [] for name in racers}
    for turn in range(args.repetitions):
        for name, racer in racers.items():
            rates[name].append(racer(args.seconds))
            print(f"  turn {turn + 1}: {rates[name][-1]:10.1f} a second  {name}", flush=True)
    return rates


def fastest(racers: dict[str, Racer], seconds: float) -> tuple[str, Racer]:
    """The one of several settings of a reference that is fastest here."""
    for racer in racers.values():
        racer(0.2)  # the first call of anything is slow
    rates = {name: racer(seconds) for name, racer in racers.items()}
    for name, rate in rates.items():
        print(f"  tried out: {rate:10.1f} a second  {name}", flush=True)
    return max(racers.items(), key=lambda item: rates[item[0]])


def setting_name(threads: int, workers: int | None = None) -> str:
    text = f"{threads} thread{'s' * (threads > 1)}"
    return text if workers is None else f"{text} + {workers} loader{'s' * (workers != 1)}"


def with_threads(threads: int, racer: Racer) -> Racer:
    def run_with(seconds: float) -> float:
        torch.set_num_threads(threads)
        try:
            return racer(seconds)
        finally:
            torch.set_num_threads(THREADS)

    return run_with
