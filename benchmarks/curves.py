"""Learning curves of evolution in the simulator: score against frames and against hours, with the figures of Ha &
Schmidhuber drawn in.

Reads   <logdir>/ctrl and <logdir>/ablations/{z-only,untrained-m,from-clone}/ctrl: metrics.csv and clock.csv,
        whichever are there
Writes  docs/results/images/curves.png

    python -m benchmarks.curves --logdir exp_dir/carracing
"""

import argparse
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.utils.errors import UserError
from dreamdrive.utils.metrics import read_csv
from dreamdrive.utils.plots import figure
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import RunFolder, parser

RUNS = {
    "z and h": ".",
    "z and h, from the clone": "ablations/from-clone",
    "z and h of an untrained M": "ablations/untrained-m",
    "z alone": "ablations/z-only",
}
# Ha & Schmidhuber 2018: their published training logs, recomputed (frames, score)
PAPER = [(2.6e7, 822), (5.1e7, 867), (1.7e9, 900)]


def curve(folder: Path) -> dict[str, list[float]]:
    """Frames driven, hours spent and the score of the search's mean on selection tracks, each time it was scored."""
    rows, clock = read_csv(folder / "metrics.csv"), read_csv(folder / "clock.csv")
    hours, spent = 0.0, {}
    for row in clock:
        hours += float(row["seconds"]) / 3600
        spent[row["generation"]] = hours
    found = [
        (float(row["frames"]), spent[row["generation"]], float(row["simulator"]))
        for row in rows
        if row["simulator"] and row["generation"] in spent
    ]
    return dict(zip(("frames", "hours", "score"), map(list, zip(*found, strict=True)), strict=True)) if found else {}


def draw(curves: dict[str, dict[str, list[float]]], out: Path, paper: bool = True) -> None:
    """The curves as a PNG; with `paper`, PAPER beside them."""
    with figure(out, 13, 4.2) as drawn:
        for i, x in enumerate(("frames", "hours")):
            axes = drawn.add_subplot(1, 2, i + 1)
            for name, values in curves.items():
                axes.plot(values[x], values["score"], marker=".", label=name)
            if paper and x == "frames":
                axes.plot(*zip(*PAPER, strict=True), "k*--", label="Ha & Schmidhuber 2018")
                axes.set_xscale("log")
            axes.set_xlabel("frames of the simulator" if x == "frames" else "hours")
            axes.set_ylabel("mean return, selection tracks of carracing-fast")
            axes.grid(alpha=0.3)
        # the first panel has them all
        drawn.legend(*drawn.axes[0].get_legend_handles_labels(), loc="outside right upper")


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    RunFolder.add_flags(p)
    p.add_argument("--out", type=Path, default=Path("docs/results/images/curves.png"), help="picture to write")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    curves = {name: found for name, folder in RUNS.items() if (found := curve(args.logdir / folder / "ctrl"))}
    if not curves:
        raise UserError(
            f"{args.logdir} holds no evolution in the simulator: run `python traincontroller.py --logdir {args.logdir} "
            "--world simulator` first"
        )
    draw(curves, args.out)
    for name, values in curves.items():
        print(
            f"{name}: {values['score'][-1]:.1f} after {values['frames'][-1]:.3g} frames, {values['hours'][-1]:.2f} h; "
            f"best {max(values['score']):.1f}"
        )
    print(args.out)


if __name__ == "__main__":
    run(main)
