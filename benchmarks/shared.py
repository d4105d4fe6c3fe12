"""Whether every stage gets its share of a machine that others use.

Writes  docs/benchmarks.md, its section "shared"

    python -m benchmarks.shared

The work of each stage is done by itself, and beside processes that compute all the time, in turns. A share is fair
where all threads that want to compute get the same: of C cores, T threads beside B others get T C / (T + B). What
spins, or waits for the one of its threads that waits for a core, gets less done in it. Leave the machine alone
meanwhile.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.benchmarks.gpu import RECORDED, WARM, add_flags, racers
from dreamdrive.benchmarks.racing import Racer, spread
from dreamdrive.benchmarks.report import circumstances, table, write_section
from dreamdrive.benchmarks.waiting import company
from dreamdrive.data.shards import Dataset
from dreamdrive.driving.recording import generate
from dreamdrive.utils.argument_types import natural
from dreamdrive.utils.cores import usable
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

WANTED = 0.8  # of the fair share


@dataclass
class Turn:
    """Work by itself, and then in company.

    Fields:
        alone, beside: units a second
        cores: that it computed on by itself, on average
        fair: of what it does by itself, what is its share in company
    """

    alone: float
    beside: float
    cores: float
    fair: float

    @property
    def share(self) -> float:
        """What it got of its fair share."""
        return self.beside / (self.alone * self.fair)


def fair_share(used: float, cores: int, others: int) -> float:
    """Of what is done on so many cores (`used`, on average), the part that is left beside `others` threads, where all
    get the same and nobody more than a core."""
    threads = max(1, round(used))
    return min(1.0, threads * min(1.0, cores / (threads + others)) / max(used, 1e-9))


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--busy", type=natural, default=2, help="processes beside")
    add_flags(p, seconds=4.0)
    return p.parse_args()


def turn(racer: Racer, args: argparse.Namespace) -> Turn:
    began, computed = time.perf_counter(), time.process_time()
    alone = racer(args.seconds)
    cores = (time.process_time() - computed) / (time.perf_counter() - began)
    with company(args.busy):
        beside = racer(args.seconds)
    return Turn(alone, beside, cores, fair_share(cores, usable(), args.busy))


def row(name: str, turns: list[Turn]) -> list[str]:
    """Of the table."""
    shares = [one.share for one in turns]
    return [
        name,
        f"{statistics.median(one.alone for one in turns):,.0f}",
        f"{statistics.median(one.cores for one in turns):.1f}",
        f"{statistics.median(one.beside for one in turns):,.0f}",
        f"{statistics.median(one.fair for one in turns):.2f}",
        spread(shares, ".2f"),
        "yes" if statistics.median(shares) >= WANTED else "NO",
    ]


def told_by(args: argparse.Namespace) -> str:
    """The command."""
    return f"python -m benchmarks.shared --busy {args.busy} --seconds {args.seconds:g} --repetitions {args.repetitions}"


def main() -> None:
    args = parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(replace(RECORDED, rootdir=folder / "data", rollouts=args.rollouts, threads=usable()))
        told = argparse.Namespace(**vars(args), device="cpu")
        for what, work in racers(told, Dataset.open(folder / "data"), folder).items():
            (racer,) = work.values()
            racer(min(WARM, args.seconds))
            rows.append(row(what, [turn(racer, args) for _ in range(args.repetitions)]))
            print(" ".join(rows[-1]), flush=True)
    head = ["", "alone, a second", "cores", "in company", "fair", "got of it", f"{WANTED} reached"]
    text = (
        f"Beside {args.busy} processes that compute all the time; median (lowest to highest) of {args.repetitions} "
        f"turns of {args.seconds:g} s each, alone and in company. Cores: that are computed on alone. Fair: of what is "
        "done alone, what is left where every thread gets the same."
    )
    write_section(
        args.out, "shared", f"{text}\n\n{table(head, rows)}\n\nMeasured by `{told_by(args)}` on: {circumstances()}"
    )
    print(f"{args.out}: shared")


if __name__ == "__main__":
    run(main)
