"""What learning in the dream in rounds comes to (train.py): scores of the best and of the last round's driver on the
official CarRacing-v3, and the learning curve beside what others need.

Reads   runs of train.py, one a training seed; scores, which are measured where they are not there yet
Writes  docs/results/images/dream-curve.png, and in docs/results/dream.md the section "rounds"

    python -m benchmarks.rounds exp_dir/dream-0 exp_dir/dream-1 exp_dir/dream-2 --episodes 100

Frames are steps of the simulator, all that were driven, those for choosing between rounds told apart.
"""

import argparse
import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np

from dreamdrive.benchmarks.report import circumstances, interval, scored, table, write_section
from dreamdrive.learning.rounds import called
from dreamdrive.scripts.demo import call
from dreamdrive.utils import checkpoint, runs
from dreamdrive.utils.argument_types import positive
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.plots import figure
from dreamdrive.utils.scores import score_file
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

ROOT = Path(__file__).resolve().parent.parent
ENV = "carracing"
SMOOTHED = 3  # rounds that a point of the curve is a mean over
# (frames, score): Ha & Schmidhuber 2018, their published training logs, recomputed; evolution of ours
# (docs/results/carracing.md); Olesen et al. 2020 (arXiv 2011.11293): 10,000 random rollouts of some 500 steps, then
# five times 500; NaturalDreamer, a DreamerV3 in PyTorch (a training average)
OTHERS = {
    "Ha & Schmidhuber 2018": [(2.6e7, 822), (5.1e7, 867), (1.7e9, 906)],
    "evolution in the simulator, ours": [(1.4e6, 852), (4.1e6, 879), (1.1e7, 890)],
    "EPLS (Olesen et al. 2020)": [(5e6, 356), (6.2e6, 708)],
    "NaturalDreamer (a training average)": [(6e5, 895)],
}


@dataclass(frozen=True)
class Learnt:
    """A run of train.py.

    Fields:
        folder: its logdir        seed: that it was trained with
        rounds: what rounds/<NN>.json says of each        chosen: what rounds/chosen.json says
        best, last: scores of the chosen round's driver and of the last one's
    """

    folder: Path
    seed: int
    rounds: list[dict]
    chosen: dict
    best: dict
    last: dict

    @property
    def frames(self) -> int:
        """All that were driven to train the chosen driver, the choice included."""
        return self.rounds[-1]["frames"] + self.chosen["frames"]

    def curve(self) -> tuple[list[int], list[float]]:
        """Frames recorded, and the mean return of the undisturbed episodes of SMOOTHED rounds."""
        clean = [float(np.mean(said["recorded"]["clean"])) for said in self.rounds[1:]]
        means = [float(np.mean(clean[max(0, i + 1 - SMOOTHED) : i + 1])) for i in range(len(clean))]
        return [said["frames"] for said in self.rounds[:-1]], means


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("runs", type=Path, nargs="+", help="folders of runs of train.py")
    p.add_argument("--episodes", type=positive, default=100, help="tracks of a score")
    p.add_argument("--max-workers", type=positive, default=2, help="processes that drive")
    p.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "dream.md", help="the document")
    return p.parse_args()


def score(folder: Path, args: argparse.Namespace) -> dict:
    """The score of a round's driver, measured if it is not there, or is another driver's: more rounds choose anew."""
    path = score_file(runs.results(folder), "ctrl", ENV, "simulator")
    where = shlex.quote(str(folder))
    command = f"test_controller.py --logdir {where} --episodes {args.episodes} --max-workers {args.max_workers}"
    driver = checkpoint.load_parent(folder, "ctrl")["digest"]
    return scored(lambda: path, args.episodes, lambda: call(command), driver)


def learnt(folder: Path, args: argparse.Namespace) -> Learnt:
    chosen = folder / "rounds" / "chosen.json"
    if not chosen.exists():
        raise UserError(f"{chosen} is not there: give the --logdir of a `python train.py` that has ended")
    choice = json.loads(chosen.read_text())
    number = max(int(name) for name in choice["rounds"] if name.isdecimal())
    rounds = [json.loads((folder / "rounds" / f"{k:02d}.json").read_text()) for k in range(number + 1)]
    best, last = (score(folder / "rounds" / name, args) for name in ("best", choice["rounds"][-1]))
    return Learnt(folder, rounds[0]["settings"]["seed"], rounds, choice, best, last)


def draw(found: list[Learnt], out: Path) -> None:
    """The learning curves, others' points beside them."""
    with figure(out, 9, 4.6) as drawn:
        axes = drawn.add_subplot()
        for i, one in enumerate(found):
            (line,) = axes.plot(*one.curve(), label=f"in the dream, seed {one.seed}")
            axes.plot([one.frames], [one.best["mean"]], "o", color=line.get_color(), markersize=8)
            if not i:
                axes.plot([], [], "o", color="grey", label="the same: 100 official tracks")
        for marker, (name, points) in zip("*s^D", OTHERS.items(), strict=True):
            axes.plot(*zip(*points, strict=True), f"k{marker}--", alpha=0.7, label=name)
        axes.set_xscale("log")
        axes.set_xlabel("frames of the simulator")
        axes.set_ylabel("mean return")
        axes.grid(alpha=0.3)
        drawn.legend(loc="outside right upper")


def main() -> None:
    args = parse_args()
    found = [learnt(folder, args) for folder in args.runs]
    image = args.out.parent / "images" / "dream-curve.png"
    draw(found, image)
    rows = [
        [
            f"seed {one.seed}, {name}",
            f"{s['mean']:.1f} +- {s['std']:.1f}",
            interval(s["mean"], s["std"], s["episodes"]),
            *(f"{s[key]:.0f}" for key in ("min", "median")),
            f"{one.rounds[-1]['frames']:,}",
            f"{one.chosen['frames']:,}" if "last" not in name else "",
        ]
        for one in found
        for name, s in (
            (f"{called(one.chosen['best'])}, chosen", one.best),
            (f"{called(one.chosen['rounds'][-1])}, the last", one.last),
        )
    ]
    head = ["driver", "mean +- std", "95 % interval", "min", "median", "frames recorded", "for choosing"]
    text = (
        f"{table(head, rows)}\n\n{args.episodes} official tracks each.\n\n"
        f"![scores against frames of the simulator]({image.relative_to(args.out.parent)})\n\n"
        f"Lines: undisturbed episodes that each round recorded, mean of {SMOOTHED} rounds. Frames of EPLS "
        f"are estimated from the rollouts it says. {circumstances()}"
    )
    write_section(args.out, "rounds", text)
    print(f"{args.out}: {len(found)} runs")


if __name__ == "__main__":
    run(main)
