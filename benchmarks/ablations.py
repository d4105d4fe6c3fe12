"""What each part of learning in rounds brings (train.py): the same run with one thing changed, several training seeds.

Reads   nothing; runs that are there already are resumed, and scores that are there are taken
Writes  --folder/<change>-<seed>/, and in docs/results/dream.md the section "ablations"

    python -m benchmarks.ablations --folder exp_dir/ablations --rounds 10 --seeds 0 1 2 --episodes 32

Each run takes one core; --jobs of them run at once. Three seeds of all changes with 10 rounds are some 12 hours on two
cores: --only takes some of them, and stopping and going on loses nothing.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np

from dreamdrive.benchmarks.report import circumstances, interval, table, write_section
from dreamdrive.benchmarks.rounds import ROOT, score
from dreamdrive.learning.rounds_settings import RoundsSettings
from dreamdrive.utils.argument_types import natural, positive
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

GLANCE = 2.0  # seconds between two looks at who has ended


@dataclass(frozen=True)
class Change:
    """A run of train.py that differs from the others in one thing.

    Fields:
        name: of its folders        what: in words
        flags: that make it        alone: whether there is the first round only
    """

    name: str
    what: str
    flags: tuple[str, ...] = ()
    alone: bool = False


def changes(rounds: int) -> list[Change]:
    """All of them, for runs of so many rounds."""
    usual = RoundsSettings()
    memory, actor = (sum(updates) for updates in zip(*map(usual.updates, range(rounds + 1)), strict=True))
    as_much = ("--memory-updates", str(memory), "--actor-updates", str(actor))
    return [
        Change("whole", "nothing changed"),
        Change("random-data", "no episodes of its own: as many updates, on random ones", as_much, alone=True),
        Change("repeat-1", "an action held for 1 step", ("--repeat", "1")),
        Change("repeat-2", "an action held for 2 steps", ("--repeat", "2")),
        Change("untrained-m", "M untrained", ("--memory-updates", "1", "--memory-more", "1")),
        Change("v-of-random", "V of random episodes alone", ("--vision-every", "0")),
        Change("no-returns", "V not asked for returns", ("--returns", "0")),
        Change("no-shades", "V's encoder without fine shades", ("--no-fine-shades",)),
        Change("no-mirror", "no episodes in a mirror", ("--no-mirror",)),
        Change("temperature-0", "dreams at temperature 0", ("--temperature", "0")),
        Change("horizon-6", "dreams of 6 steps", ("--horizon", "6")),
        Change("horizon-24", "dreams of 24 steps", ("--horizon", "24")),
        Change("ensemble", "an ensemble of 3 as M", ("--members", "3")),
    ]


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--folder", type=Path, default=Path("exp_dir/ablations"), help="folder of the runs")
    p.add_argument("--rounds", type=positive, default=10, help="of every run")
    p.add_argument("--seeds", type=natural, nargs="+", default=[0, 1, 2], help="training seeds")
    p.add_argument("--episodes", type=positive, default=32, help="official tracks of a score")
    p.add_argument("--only", nargs="+", metavar="CHANGE", help="these changes alone, by their folders' names")
    p.add_argument("--jobs", type=positive, default=2, help="runs at once")
    p.add_argument("--max-workers", type=positive, default=2, help="processes that drive for a score")
    p.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "dream.md", help="the document")
    return p.parse_args()


def chosen_changes(args: argparse.Namespace) -> list[Change]:
    found = changes(args.rounds)
    unknown = set(args.only or ()) - {change.name for change in found}
    if unknown:
        raise UserError(
            f"there is no change {', '.join(sorted(unknown))}: --only takes {', '.join(c.name for c in found)}"
        )
    return [change for change in found if not args.only or change.name in args.only]


def command(change: Change, seed: int, args: argparse.Namespace) -> list[str]:
    """train.py as it makes or resumes a run."""
    flags = ["--env", "carracing", "--max-workers", "1", "--seed", str(seed)]
    flags += ["--rounds", "0" if change.alone else str(args.rounds)]
    flags += ["--logdir", str(args.folder / f"{change.name}-{seed}")]
    repeat = () if "--repeat" in change.flags else ("--repeat", "4")
    return [sys.executable, str(ROOT / "train.py"), *flags, *repeat, *change.flags]


def train(commands: Sequence[list[str]], jobs: int, folder: Path) -> None:
    """Run all of them, so many at once, each with a log beside its folder; UserError where one fails."""
    waiting = list(commands)
    running: dict[Path, subprocess.Popen] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                words = waiting.pop(0)
                log = folder / f"{Path(words[words.index('--logdir') + 1]).name}.log"
                with open(log, "ab") as output:
                    running[log] = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT)
                print(" ".join(words), flush=True)
            time.sleep(GLANCE)
            for log, process in list(running.items()):
                if process.poll() is not None:
                    del running[log]
                    if process.returncode:
                        raise UserError(f"a run ended with status {process.returncode}: see {log}, and run this again")
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def row(change: Change, args: argparse.Namespace) -> list[str]:
    """What the runs of a change came to: one score a training seed, of the chosen round's driver."""
    names = ["00" if change.alone else "best"] * len(args.seeds)
    folders = [args.folder / f"{change.name}-{seed}" / "rounds" for seed in args.seeds]
    scores = [score(folder / name, args) for folder, name in zip(folders, names, strict=True)]
    means = [said["mean"] for said in scores]
    frames = [json.loads(sorted(folder.glob("[0-9]*.json"))[-1].read_text())["frames"] for folder in folders]
    returns = np.concatenate([said["returns"] for said in scores])
    return [
        change.what,
        ", ".join(f"{mean:.0f}" for mean in means),
        f"{returns.mean():.0f} +- {returns.std():.0f}",
        interval(float(np.mean(means)), float(np.std(means, ddof=1)) if len(means) > 1 else 0.0, len(means)),
        f"{np.mean(frames):,.0f}",
    ]


def main() -> None:
    args = parse_args()
    wanted = chosen_changes(args)
    make_folder(args.folder)
    train([command(change, seed, args) for change in wanted for seed in args.seeds], args.jobs, args.folder)
    rows = [row(change, args) for change in wanted]
    head = [
        "changed",
        f"mean of seeds {', '.join(map(str, args.seeds))}",
        "all tracks",
        "95 % over seeds",
        "frames recorded",
    ]
    text = (
        f"{args.rounds} rounds, {args.episodes} official tracks a run, the chosen round's driver; frames for choosing "
        f"are not counted.\n\n{table(head, rows)}\n\n{circumstances()}"
    )
    write_section(args.out, "ablations", text)
    print(f"{args.out}: {len(wanted)} changes")


if __name__ == "__main__":
    run(main)
