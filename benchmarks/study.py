"""Which way to evolve in the simulator: variants of the search on one budget of frames each, ranked by what they reach.

Reads   a run with V and M (--logdir)
Writes  <logdir>/study/<variant>/, docs/results/images/study.png, and its section of docs/results/carracing.md

    python -m benchmarks.study --logdir exp_dir/carracing --frames 1000000

Every variant starts from zeros with the same V and M and is scored on the same 32 selection tracks. Run again, it
resumes.
"""

import argparse
import os
import shutil
import statistics
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.benchmarks.curves import curve, draw
from dreamdrive.benchmarks.report import circumstances, table, write_section
from dreamdrive.benchmarks.results import MODELS
from dreamdrive.scripts.demo import call
from dreamdrive.utils.argument_types import positive
from dreamdrive.utils.cores import usable
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import RunFolder, parser

EPISODE = 1000  # frames
SCORINGS = 10  # of the mean, spread over a run
VARIANTS = {  # population, episodes a candidate, more flags
    "16 x 1": (16, 1, ""),
    "16 x 2": (16, 2, ""),
    "16 x 4": (16, 4, ""),
    "32 x 1": (32, 1, ""),
    "64 x 2": (64, 2, ""),
    "16 x 2, separable": (16, 2, "--diagonal"),
    "16 x 2, given up after 100": (16, 2, "--give-up 100"),
    "16 x 2, given up after 50": (16, 2, "--give-up 50"),
    "16 x 2, sigma 0.05": (16, 2, "--sigma 0.05"),
    "16 x 2, sigma 0.2": (16, 2, "--sigma 0.2"),
}


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    RunFolder.add_flags(p)
    p.add_argument(
        "--frames", type=positive, default=1_000_000, help="that candidates of a variant may drive, in whole episodes"
    )
    p.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="rows of the table")
    p.add_argument("--max-workers", type=positive, default=usable(), help="processes that drive the simulator")
    p.add_argument(
        "--out", type=Path, default=Path("docs/results/carracing.md"), help="document to write the section into"
    )
    return p.parse_args()


def main() -> None:
    args = parse_args()
    rows, curves = [], {}
    for name in args.variants:
        population, samples, flags = VARIANTS[name]
        folder = args.logdir / "study" / name.replace(",", "").replace(" ", "-")
        for stage in MODELS:
            if not (folder / stage).exists():
                shutil.copytree(args.logdir / stage, folder / stage, copy_function=os.link)
        generations = max(1, round(args.frames / (population * samples * EPISODE)))
        call(
            f"traincontroller.py --logdir {folder} --world simulator --pop-size {population} --n-samples {samples} "
            f"--most-samples {samples} {flags} "
            f"--generations {generations} --evaluate-every {max(1, generations // SCORINGS)} --max-workers "
            f"{args.max_workers}"
        )
        curves[name] = found = curve(folder / "ctrl")
        late = found["score"][len(found["score"]) // 2 :]
        rows.append(
            [
                name,
                str(generations),
                f"{max(found['score']):.1f}",
                f"{statistics.fmean(late):.1f}",
                f"{found['score'][-1]:.1f}",
                f"{found['frames'][-1]:,.0f}",
                f"{found['hours'][-1]:.2f}",
            ]
        )
    rows.sort(key=lambda row: -float(row[3]))
    picture = args.out.parent / "images" / "study.png"
    draw(curves, picture, paper=False)
    head = ["candidates x episodes", "generations", "best mean", "second half", "last mean", "frames", "hours"]
    text = table(head, rows)
    print(text)
    about = (
        "Score of the search's mean on 32 selection tracks of carracing-fast, candidates driving "
        f"{args.frames // EPISODE:,} episodes a variant, one seed: "
        f"the best of {SCORINGS} scorings, the mean of the later half of them, by which the rows are sorted, and the "
        "last."
    )
    write_section(
        args.out,
        "study",
        f"{about}\n\n{text}\n\n![score against frames and hours](images/{picture.name})\n\n{circumstances()}",
    )


if __name__ == "__main__":
    run(main)
