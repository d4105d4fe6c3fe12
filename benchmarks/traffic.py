"""The score table of Nocturne's world: every kind of driver in scenes that nothing was trained on.

Reads   a run with a clone (--logdir), folders of scenes (--scenes); of a second run, that clones Nocturne's feature
        vector (--features), and a third with an evolved controller (--evolved), if they are given
Writes  <logdir>/scores/<driver>-<folder>.json, its section of docs/results/nocturne.md

    python -m benchmarks.traffic --logdir exp_dir/nocturne --scenes datasets/scenes-unseen --episodes 200

What was scored already is not scored again. Intervals are 95 %, by bootstrap over episodes.
"""

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np

from dreamdrive.benchmarks.models import bootstrap
from dreamdrive.benchmarks.report import circumstances, scored, table, write_section
from dreamdrive.scripts.demo import call
from dreamdrive.utils.argument_types import positive
from dreamdrive.utils.cores import usable
from dreamdrive.utils.scores import score_file
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import RunFolder, parser

RATES = {
    "goals, %": "goal_rate",
    "within 1 m, %": "goal_rate_position",
    "collisions, %": "collision_rate",
    "with objects, %": "vehicle_collision_rate",
    "with edges, %": "road_edge_rate",
}
DISTANCES = {"ADE, m": "ade", "FDE, m": "fde"}


@dataclass(frozen=True)
class Row:
    """A driver: its name in the table, the run, and how test_controller.py is told."""

    name: str
    logdir: Path
    options: str


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    RunFolder.add_flags(p)
    p.add_argument("--scenes", type=Path, nargs="+", required=True, help="folders of scenes")
    p.add_argument("--episodes", type=positive, nargs="+", default=[200], help="episodes in each of them")
    p.add_argument("--features", type=Path, help="run that clones feature vectors")
    p.add_argument("--evolved", type=Path, help="run with an evolved controller")
    p.add_argument("--max-workers", type=positive, default=usable(), help="processes that drive")
    p.add_argument(
        "--out", type=Path, default=Path("docs/results/nocturne.md"), help="document to write the section into"
    )
    return p.parse_args()


def rows(args: argparse.Namespace) -> list[Row]:
    """The drivers, in the table's order."""
    plain, grid = args.logdir / "others", args.logdir / "others-273"  # runs of their own, that hold scores alone
    found = [
        Row("random", plain, "--env nocturne --controller random"),
        Row("constant velocity", plain, "--env nocturne --controller constant"),
        Row("cloned from cone images", args.logdir, "--controller bc"),
        *([Row("cloned from feature vectors", args.features, "--controller bc")] if args.features else []),
        *([Row("evolved", args.evolved, "--controller ctrl")] if args.evolved else []),
        Row(
            "the log's actions, each the nearest of 273, open loop",
            grid,
            "--env nocturne --actions discrete --controller log",
        ),
        Row("expert, each action the nearest of 273", grid, "--env nocturne --actions discrete --controller expert"),
        Row("expert", plain, "--env nocturne --controller expert"),
    ]
    return found


def score(row: Row, scenes: Path, episodes: int, workers: int) -> dict:
    """The score of a driver in a folder of scenes, measured unless it has been."""
    command = (
        f"test_controller.py --logdir {row.logdir} {row.options} --scenes {scenes} --episodes {episodes} "
        f"--max-workers {workers}"
    )
    fresh = score_file(row.logdir, row.options.split()[-1], "nocturne", "simulator")
    kept = fresh.with_name(f"{row.options.split()[-1]}-{scenes.name}.json")

    def measure() -> None:
        call(command)
        shutil.copyfile(fresh, kept)

    return {**scored(lambda: kept, episodes, measure), "command": f"python {command}"}


def measured(score: dict, what: str, factor: float) -> str:
    """Mean and interval of an outcome over the episodes."""
    values = factor * np.array([outcome[what] for outcome in score["outcomes"].values()])
    return bootstrap(lambda e: float(values[e].mean()), len(values)).text(1)


def main() -> None:
    args = parse_args()
    episodes = args.episodes * len(args.scenes) if len(args.episodes) == 1 else args.episodes
    parts, commands = [], []
    for scenes, count in zip(args.scenes, episodes, strict=True):
        lines = []
        for row in rows(args):
            told = score(row, scenes, count, args.max_workers)
            commands.append(told["command"])
            lines.append(
                [
                    row.name,
                    *(measured(told, what, 100.0) for what in RATES.values()),
                    *(measured(told, what, 1.0) for what in DISTANCES.values()),
                ]
            )
            places = len(told["by_scene"])
        parts.append(
            f"{count} episodes in {places} scenes of `{scenes.name}`:\n\n{table(['driver', *RATES, *DISTANCES], lines)}"
        )
    listing = "\n".join(dict.fromkeys(commands))
    text = "\n\n".join(parts)
    write_section(args.out, "traffic", f"{text}\n\n{circumstances()}\n\n```\n{listing}\n```\n")
    print(text)


if __name__ == "__main__":
    run(main)
