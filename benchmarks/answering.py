"""The score table of traffic that answers: drivers among others that replay the log, and among others that follow their
logged ways and give way (--traffic idm), over all egos and over those that must react.

Reads   a run (--logdir), a folder of scenes (--scenes)
Writes  <logdir>/scores/<driver>-<traffic>-<folder>.json, a section of docs/results/nocturne.md

    python -m benchmarks.answering --logdir exp_dir/nocturne --scenes datasets/unseen

What was scored already is not scored again. Intervals are 95 %, by bootstrap over episodes.
"""

import argparse
import shutil
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np

from dreamdrive.benchmarks.models import bootstrap
from dreamdrive.benchmarks.report import circumstances, scored, table, write_section
from dreamdrive.envs.catalogue import TRAFFIC
from dreamdrive.scripts.demo import call
from dreamdrive.utils.argument_types import positive
from dreamdrive.utils.cores import usable
from dreamdrive.utils.scores import score_file
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import RunFolder, parser

DRIVERS = {"constant velocity": "constant", "cloned": "bc", "evolved": "ctrl", "expert": "expert"}
COLUMNS = {"goals, %": "goal_rate", "collisions, %": "collision_rate", "with objects, %": "vehicle_collision_rate"}
OTHERS = {"log": "replay the log", "idm": "answer"}


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    RunFolder.add_flags(p)
    p.add_argument("--scenes", type=Path, required=True, help="folder of scenes")
    p.add_argument("--episodes", type=positive, default=200, help="episodes in it")
    p.add_argument("--max-workers", type=positive, default=usable(), help="processes that drive")
    p.add_argument("--out", type=Path, default=Path("docs/results/nocturne.md"), help="document to write into")
    return p.parse_args()


def score(args: argparse.Namespace, driver: str, traffic: str) -> dict:
    """The score of a driver among such traffic, measured unless it has been."""
    trained = driver in ("bc", "ctrl")
    logdir = args.logdir if trained else args.logdir / "others"
    told = "" if trained else "--env nocturne "
    how = "" if traffic == TRAFFIC[0] else f"--traffic {traffic} "
    command = (
        f"test_controller.py --logdir {logdir} {told}--controller {driver} --scenes {args.scenes} {how}"
        f"--episodes {args.episodes} --max-workers {args.max_workers}"
    )
    fresh = score_file(logdir, driver, "nocturne", "simulator", traffic if how else "")
    kept = fresh.with_name(f"{driver}-{traffic}-{args.scenes.name}.json")

    def measure() -> None:
        call(command)
        shutil.copyfile(fresh, kept)

    return {**scored(lambda: kept, args.episodes, measure), "command": f"python {command}"}


def rate(values: np.ndarray) -> str:
    """Mean and interval, in per cent."""
    return bootstrap(lambda k: 100.0 * float(values[k].mean()), len(values)).text(1)


def cells(episodes: list[dict]) -> list[str]:
    """How many they are, and every column."""
    return [str(len(episodes)), *(rate(np.array([e[what] for e in episodes])) for what in COLUMNS.values())]


def main() -> None:
    args = parse_args()
    lines: dict[bool, list[list[str]]] = {False: [], True: []}
    commands = []
    for name, driver in DRIVERS.items():
        for traffic in TRAFFIC:
            told = score(args, driver, traffic)
            commands.append(told["command"])
            episodes = list(told["outcomes"].values())
            for subset in lines:
                lines[subset].append(
                    [name, OTHERS[traffic], *cells([e for e in episodes if e["must_react"] or not subset])]
                )
    head = ["driver", "the others", "egos", *COLUMNS]
    text = f"{table(head, lines[False])}\n\nOnly egos that must react:\n\n{table(head, lines[True])}"
    listing = "\n".join(commands)
    write_section(args.out, "answering", f"{text}\n\n{circumstances()}\n\n```\n{listing}\n```\n")
    print(text)


if __name__ == "__main__":
    run(main)
