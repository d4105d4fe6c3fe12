"""metrics.csv: one row an epoch or a generation, the same dict on screen and in the file."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from dreamdrive.utils.files import write_atomically


def write_csv(path: Path, rows: Sequence[dict]) -> None:
    """All rows so far, rewritten whole, so that a resumed run never leaves a row twice."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a file of `write_csv`; none if it is missing."""
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def line(row: dict) -> str:
    """A row as one line for the screen."""
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
        if value is not None
    )


class Mean:
    """Running means of the numbers in dicts, weighted."""

    def __init__(self) -> None:
        self.total: dict[str, float] = {}
        self.weight = 0.0

    def add(self, values: dict, weight: float = 1.0) -> None:
        for key, value in values.items():
            self.total[key] = (
                self.total.get(key, 0.0) + float(value.detach() if hasattr(value, "detach") else value) * weight
            )
        self.weight += weight

    def result(self) -> dict[str, float]:
        return {key: value / self.weight for key, value in self.total.items()}


# of columns whose names do not say it; those of validation are the same
UNITS = {
    "reconstruction": "squared error per frame",
    "kl": "nats per frame",
    "returns": "variances of the returns",
    "kept": "share",
    "live": "dimensions of z",
    "codes": "codes",
    "bits": "bits per frame",
    "nll": "nats per step",
    "terminal_bce": "nats per step",
    "reward_mse": "variances of the reward",
    "best": "return of an episode",
    "mean": "return of an episode",
    "rescored": "return of an episode",
    "simulator": "return of an episode",
    "return": "return of an episode",
    "return_mean": "return of an episode",
    "return_std": "return of an episode",
    "clean": "return of an episode",
    "disturbed": "return of an episode",
    "reward": "reward of a step",
    "dream_reward": "reward of a step",
    "accuracy": "share",
    "overridden": "share",
    "demonstrated": "share",
    "likeness": "at most 1",
}


def unit(column: str) -> str:
    """What a column of metrics.csv is measured in; "" for a plain number."""
    return UNITS.get(column.removeprefix("val_"), "")
