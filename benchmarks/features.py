"""Nocturne's feature vectors: environment steps a second, as they are computed and as they would be plainly.

Reads   scenes (--scenes)
Writes  docs/benchmarks.md, its section "features"

    python -m benchmarks.features

Both are measured in turn, in processes at the same time, one a core, so that whatever else the machine does falls on
both; the ratio counts.
"""

import argparse
import statistics
import time
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import torch

from dreamdrive.benchmarks import plain_visibility
from dreamdrive.benchmarks.report import circumstances, table, write_section
from dreamdrive.envs import make
from dreamdrive.envs.nocturne import feature_vector, world
from dreamdrive.utils.argument_types import positive, positive_float
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

WANTED = 6000  # environment steps a second on two cores
KINDS = {"plainly": plain_visibility.features, "as they are": feature_vector.features, "nobody looks": None}


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--scenes", type=Path, default=Path("../shared/nocturne/scenes"), help="folder of scenes")
    p.add_argument("--copies", type=positive, default=16, help="of the environment in a process")
    p.add_argument("--workers", type=positive, default=2, help="processes at a time")
    p.add_argument("--seconds", type=positive_float, default=2.0, help="of a turn")
    p.add_argument("--repetitions", type=positive, default=5, help="turns of each; medians count")
    p.add_argument("--out", type=Path, default=Path("docs/benchmarks.md"), help="document to write the section into")
    return p.parse_args()


def measured(job: tuple[str, int, float, int]) -> list[dict[str, tuple[float, float]]]:
    """Environment steps a second, and a second of one processor, by KINDS, for each turn; restarts and all."""
    scenes, copies, seconds, repetitions = job
    torch.set_num_threads(1)
    turns = []
    env = make("nocturne", num=copies, scenes=scenes, observation="features")
    blind = make("nocturne", num=copies, scenes=scenes, observation="features")
    blind.look_away()
    for turn in range(repetitions + 1):
        rates = {}
        for kind, computed in KINDS.items():
            driven = blind if computed is None else env
            with patch.object(world, "features", computed or feature_vector.features):
                driven.reset(0)
                start, start_cpu, made = time.perf_counter(), time.process_time(), 0
                while time.perf_counter() - start < seconds:
                    driven.step(driven.reference_action("constant"))
                    made += copies
                rates[kind] = made / (time.perf_counter() - start), made / (time.process_time() - start_cpu)
        turns += [rates] if turn else []  # the first one warms up
    return turns


def report(found: list[list[dict[str, tuple[float, float]]]]) -> str:
    """A table of what the workers measured."""
    turns = list(zip(*found, strict=True))  # by turn, of all workers

    def rate(kind: str, which: int) -> float:
        return statistics.median(sum(worker[kind][which] for worker in turn) for turn in turns)

    rows = []
    for kind in KINDS:
        ratios = [sum(w[kind][1] for w in turn) / sum(w["plainly"][1] for w in turn) for turn in turns]
        rows.append(
            [
                kind,
                f"{rate(kind, 0):,.0f}",
                f"{rate(kind, 1) / len(found):,.0f}",
                f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})",
            ]
        )
    return table(["feature vectors", "steps/s, all processes", "steps per CPU-second", "ratio to plainly"], rows)


def main() -> None:
    args = parse_args()
    job = (str(args.scenes), args.copies, args.seconds, args.repetitions)
    with get_context("spawn").Pool(args.workers) as workers:
        found = workers.map(measured, [job] * args.workers, chunksize=1)
    text = (
        f"## Feature vectors\n\nEnvironment steps a second at constant velocity, restarts and all, "
        f"{args.workers} processes of {args.copies} copies, on the scenes of {args.scenes.name}/; median of "
        f"{args.repetitions} turns of {args.seconds:g} s, ratios of CPU time (range). Where other work shares the "
        f"cores, only ratios tell anything. Wanted of two free cores: "
        f"{WANTED:,}. The numbers are the same to the last bit either way (tests/test_nocturne_visibility.py).\n\n"
        f"{report(found)}\n\nMeasured by `python -m benchmarks.features --seconds {args.seconds:g}` on: "
        f"{circumstances()}"
    )
    write_section(args.out, "features", text)
    print(text)


if __name__ == "__main__":
    run(main)
