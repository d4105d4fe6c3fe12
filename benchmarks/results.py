"""The score table: every kind of driver on the official CarRacing-v3, with the ablations that say what M contributes.

Reads   a run with V and M (--logdir)
Writes  <logdir>/{ctrl,bc,scores}/, <logdir>/ablations/*/, and its section of docs/results.md

    python -m benchmarks.results --logdir exp_dir --episodes 100

z alone and an untrained M are cloned just like the full clone, so that the three differ in nothing else. What is there already is not made again.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

from benchmarks.demo import call
from benchmarks.report import circumstances, table, write_section
from utils.cli import parser, positive, run

DRIVERS = ("random", "z-only", "untrained-m", "clone", "dream", "simulator", "expert")
EVOLVE = "--pop-size 32 --n-samples 16 --horizon 300"


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--logdir", type=Path, default=Path("exp_dir"), help="run with V and M")
    p.add_argument("--episodes", type=positive, default=100, help="official tracks a driver is scored on")
    p.add_argument("--generations", type=positive, default=100, help="of evolution in the dream")
    p.add_argument("--simulator-generations", type=positive, default=10, help="of evolution in the simulator")
    p.add_argument("--drivers", nargs="+", choices=DRIVERS, default=list(DRIVERS), help="rows of the table")
    p.add_argument("--epochs", type=positive, default=30, help="of cloning")
    p.add_argument("--out", type=Path, default=Path("docs/results.md"), help="document to write the section into")
    p.add_argument("--max-workers", type=positive, default=os.cpu_count(), help="processes that drive the simulator")
    return p.parse_args()


def ablation(logdir: Path, name: str, stages: tuple[str, ...]) -> Path:
    """A run of its own that shares the named stages of `logdir`."""
    folder = logdir / "ablations" / name
    for stage in stages:
        if not (folder / stage).exists():
            shutil.copytree(logdir / stage, folder / stage)
    return folder


def drivers(args: argparse.Namespace) -> list[tuple[str, Path, str, list[str]]]:
    """(name in the table, run, controller, commands that train it) of each of `args.drivers`."""
    logdir, workers = args.logdir, f"--max-workers {args.max_workers}"
    clone = f"--hidden 256 --epochs {args.epochs} --evaluate-every 10 {workers}"
    z_only = ablation(logdir, "z-only", ("vae", "latents", "mdrnn"))
    untrained = ablation(logdir, "untrained-m", ("vae", "latents"))
    simulator = ablation(logdir, "simulator", ("vae", "latents", "mdrnn"))
    known = {
        "random": ("random", logdir, "random", []),
        "z-only": ("cloned, z alone", z_only, "bc", [f"trainbc.py --logdir {z_only} --features z {clone}"]),
        "untrained-m": ("cloned, z and h of an untrained M", untrained, "bc", [
            f"trainmdrnn.py --logdir {untrained} --epochs 0", f"trainbc.py --logdir {untrained} {clone}"]),
        "clone": ("cloned, z and h", logdir, "bc", [f"trainbc.py --logdir {logdir} {clone}"]),
        "dream": ("evolved in the dream", logdir, "ctrl", [
            f"traincontroller.py --logdir {logdir} --world dream {EVOLVE} --generations {args.generations} {workers}"]),
        "simulator": ("evolved in the simulator", simulator, "ctrl", [
            f"traincontroller.py --logdir {simulator} --world simulator --pop-size 16 --n-samples 2 --generations {args.simulator_generations} {workers}"]),
        "expert": ("expert", logdir, "expert", []),
    }
    return [known[name] for name in args.drivers]


def main() -> None:
    args = parse_args()
    rows, commands = [], []
    for name, logdir, controller, training in drivers(args):
        score = logdir / "scores" / f"{controller}-simulator.json"
        commands += [*training, f"test_controller.py --logdir {logdir} --controller {controller} --episodes {args.episodes} --max-workers {args.max_workers}"]
        if not score.exists() or json.loads(score.read_text())["episodes"] != args.episodes:
            for command in [*training, commands[-1]]:
                call(command)
        s = json.loads(score.read_text())
        half = 1.96 * s["std"] / s["episodes"] ** 0.5
        rows.append([name, f"{s['mean']:.1f} +- {s['std']:.1f}", f"{s['mean'] - half:.1f} to {s['mean'] + half:.1f}",
                     *(f"{s[key]:.1f}" for key in ("min", "median", "max")), str(s["episodes"])])
    listing = "\n".join(f"python {command}" for command in commands)
    scores = table(["driver", "mean +- std", "95 % interval of the mean", "min", "median", "max", "episodes"], rows)
    write_section(args.out, "scores", f"{scores}\n\n{circumstances()}\n\nOfficial CarRacing-v3, seeds 2,000,000 onwards, by\n\n```\n{listing}\n```\n")
    print(scores)


if __name__ == "__main__":
    run(main)
