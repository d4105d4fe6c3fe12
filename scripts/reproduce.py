"""`make reproduce`: from nothing to the score table of docs/results/carracing.md. Run again, it resumes.

Reads   nothing
Writes  datasets/carracing, datasets/wild, exp_dir/carracing, and sections of docs/results/carracing.md

    python -m scripts.reproduce

Recording and training take carracing-fast, scores the official CarRacing-v3. With --gpu the budgets are those of a GPU
server.
"""

import argparse
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.scripts.demo import call
from dreamdrive.utils.argument_types import positive
from dreamdrive.utils.cores import usable
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

DATA, WILD, LOGDIR = Path("datasets/carracing"), Path("datasets/wild"), Path("exp_dir/carracing")
EPISODES = 100


def stages(workers: int, gpu: bool) -> list[str]:
    """The commands, in order."""
    record = f"data/generation_script.py --env carracing-fast --policy expert=0.85,brown=0.15 --threads {workers}"
    rollouts, epochs, generations = (560, 10, 400) if gpu else (140, 4, 200)
    return [
        f"{record} --rollouts {rollouts} --action-noise 0.6 --rootdir {DATA}",
        f"{record} --rollouts {rollouts // 2} --max-steps 600 --action-noise 1.5 --seed 1 --rootdir {WILD}",
        f"trainvae.py --dataset {DATA} {WILD} --logdir {LOGDIR} --epochs {epochs}",
        f"trainmdrnn.py --logdir {LOGDIR} --epochs 30",
        f"-m benchmarks.results --logdir {LOGDIR} --episodes {EPISODES} --simulator-generations {generations} "
        f"--max-workers {workers} "
        f"--dataset {DATA} {WILD} --second-rollouts {rollouts} --vae-epochs {epochs}",
        f"-m benchmarks.models --logdir {LOGDIR}",
        f"-m benchmarks.curves --logdir {LOGDIR}",
    ]


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--gpu", action="store_true", help="more data and generations")
    p.add_argument("--max-workers", type=positive, default=usable(), help="processes that drive the simulator")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    costs = [call(command) for command in stages(args.max_workers, args.gpu)]
    print("\ntime and peak memory of a process:", *costs, sep="\n")


if __name__ == "__main__":
    run(main)
