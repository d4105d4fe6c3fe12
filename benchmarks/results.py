"""The score table: every kind of driver on the official CarRacing-v3, with the ablations that say what M contributes.

Reads   a run with V and M (--logdir)
Writes  <logdir>/{ctrl,bc,scores}/, <logdir>/ablations/*/, its section of docs/results/carracing.md, and the score of
        every seed beside it, docs/results/carracing.json

    python -m benchmarks.results --logdir exp_dir --episodes 100

z alone and an untrained M are cloned, and evolved for a shorter while, just like z and h, so that the three differ in
nothing else. What is there already is not made again.
"""

import argparse
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.benchmarks.report import circumstances, scored, table, write_section
from dreamdrive.scripts.demo import call
from dreamdrive.utils.argument_types import positive
from dreamdrive.utils.cores import usable
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import write_atomically
from dreamdrive.utils.metrics import read_csv
from dreamdrive.utils.scores import find_score
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

DREAM = "--pop-size 32 --n-samples 16 --horizon 300"
SIMULATOR = "--pop-size 16 --n-samples 2 --most-samples 16"
CLONE_SIGMA = 0.003  # at 0.01 candidates lose a quarter of the clone's score
MODELS = ("vae", "latents", "mdrnn")
TEMPERATURES = (0.5, 1.0, 1.15, 1.3)
DRIVERS = (
    "random",
    "clone",
    "clone-z",
    "clone-untrained-m",
    "evolved",
    "evolved-short",
    "evolved-z",
    "evolved-untrained-m",
    "from-clone",
    "second",
    "dreams",
    "expert",
)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Fields:
        name: as in the table
        logdir: the run
        controller: as test_controller.py calls it
        training: commands that train it
        shares: stages it has in common with the run that --logdir names, if it is a run of its own
        temperature: of the dream it was evolved in, where its dreams are scored too
    """

    name: str
    logdir: Path
    controller: str
    training: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()
    temperature: float | None = None


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--logdir", type=Path, default=Path("exp_dir"), help="run with V and M")
    p.add_argument("--episodes", type=positive, default=100, help="official tracks a driver is scored on")
    p.add_argument("--generations", type=positive, default=100, help="of evolution in the dream")
    p.add_argument("--simulator-generations", type=positive, default=200, help="of evolution in the simulator")
    p.add_argument(
        "--ablation-generations",
        type=positive,
        default=40,
        help="of evolution in the simulator for ablations, for second, and for z and h beside them",
    )
    p.add_argument("--clone-generations", type=positive, default=60, help="of evolution of the clone's last layer")
    p.add_argument("--drivers", nargs="+", choices=DRIVERS, default=list(DRIVERS), help="rows of the table")
    p.add_argument("--epochs", type=positive, default=30, help="of cloning")
    p.add_argument("--dataset", nargs="+", default=[], help="datasets V was trained on, for the row second")
    p.add_argument(
        "--second-rollouts",
        type=positive,
        default=140,
        help="episodes the evolved controller records, for the row second",
    )
    p.add_argument("--vae-epochs", type=positive, default=4, help="of V, for the row second")
    p.add_argument(
        "--out", type=Path, default=Path("docs/results/carracing.md"), help="document to write the section into"
    )
    p.add_argument("--max-workers", type=positive, default=usable(), help="processes that drive the simulator")
    return p.parse_args()


def drivers(args: argparse.Namespace) -> list[Row]:
    """The rows of `args.drivers`."""
    rows = {
        "random": [Row("random", args.logdir, "random")],
        **cloned(args),
        **evolved(args),
        "second": [seen_again(args)],
        "dreams": [dreamt(args, temperature) for temperature in TEMPERATURES],
        "expert": [Row("expert", args.logdir, "expert")],
    }
    return [row for name in args.drivers for row in rows[name]]


def untrain(logdir: Path) -> str:
    """The command that makes an M that has learnt nothing."""
    return f"trainmdrnn.py --logdir {logdir} --epochs 0"


def cloned(args: argparse.Namespace) -> dict[str, list[Row]]:
    """The clones: of z and h, of z alone, and beside an untrained M."""
    logdir, z, untrained = args.logdir, args.logdir / "ablations/z-only", args.logdir / "ablations/untrained-m"
    how = f"--hidden 256 --epochs {args.epochs} --evaluate-every 10 --max-workers {args.max_workers}"
    commands = (untrain(untrained), f"trainbc.py --logdir {untrained} {how}")
    return {
        "clone": [Row("cloned, z and h", logdir, "bc", (f"trainbc.py --logdir {logdir} {how}",))],
        "clone-z": [Row("cloned, z alone", z, "bc", (f"trainbc.py --logdir {z} --features z {how}",), MODELS)],
        "clone-untrained-m": [Row("cloned, z and h of an untrained M", untrained, "bc", commands, MODELS[:2])],
    }


def in_simulator(args: argparse.Namespace, logdir: Path, generations: int, more: str = "") -> str:
    """The command that evolves a controller in the simulator."""
    return (
        f"traincontroller.py --logdir {logdir} {more}--world simulator {SIMULATOR} --generations {generations} "
        f"--max-workers {args.max_workers}"
    )


def evolved(args: argparse.Namespace) -> dict[str, list[Row]]:
    """The controllers that are evolved in the simulator, the ablations all for the same number of generations."""
    logdir, folder, few = args.logdir, args.logdir / "ablations", args.ablation_generations
    alike = f"evolved in the simulator, {few} generations"
    short, z, untrained, from_clone = (folder / name for name in ("z-and-h", "z-only", "untrained-m", "from-clone"))
    long = in_simulator(args, logdir, args.simulator_generations)
    of_z = in_simulator(args, z, few, "--features z ")
    beside = (untrain(untrained), in_simulator(args, untrained, few))
    last = f"--init {from_clone / 'bc' / 'best.tar'} --evolve last --sigma {CLONE_SIGMA} "
    polish = in_simulator(args, from_clone, args.clone_generations, last)
    return {
        "evolved": [Row("evolved in the simulator, z and h", logdir, "ctrl", (long,))],
        "evolved-short": [Row(f"{alike}, z and h", short, "ctrl", (in_simulator(args, short, few),), MODELS)],
        "evolved-z": [Row(f"{alike}, z alone", z, "ctrl", (of_z,), MODELS)],
        "evolved-untrained-m": [Row(f"{alike}, z and h of an untrained M", untrained, "ctrl", beside, MODELS[:2])],
        "from-clone": [
            Row("cloned, then its last layer evolved in the simulator", from_clone, "ctrl", (polish,), (*MODELS, "bc"))
        ],
    }


def seen_again(args: argparse.Namespace) -> Row:
    """V and M trained again, on what the evolved controller sees as well."""
    logdir, second = args.logdir / "second", f"{args.dataset[0]}-second" if args.dataset else ""
    return Row(
        f"evolved in the simulator, {args.ablation_generations} generations, with V and M that were also shown what "
        "the evolved controller sees",
        logdir,
        "ctrl",
        (
            "data/generation_script.py --env carracing-fast --policy controller=0.7,expert=0.2,brown=0.1 "
            f"--logdir {args.logdir} --action-noise 0.6 --seed 2 "
            f"--rollouts {args.second_rollouts} --rootdir {second} --threads {args.max_workers}",
            f"trainvae.py --dataset {' '.join(args.dataset)} {second} --logdir {logdir} --epochs {args.vae_epochs}",
            f"trainmdrnn.py --logdir {logdir} --epochs 30",
            in_simulator(args, logdir, args.ablation_generations),
        ),
    )


def dreamt(args: argparse.Namespace, temperature: float) -> Row:
    """A controller that is evolved in the dream."""
    logdir = args.logdir / "ablations" / f"dream-{temperature}"
    command = (
        f"traincontroller.py --logdir {logdir} --world dream --temperature {temperature} {DREAM} "
        f"--generations {args.generations} --max-workers {args.max_workers}"
    )
    return Row(f"evolved in the dream, temperature {temperature}", logdir, "ctrl", (command,), MODELS, temperature)


def effort(row: Row) -> dict[str, float]:
    """Frames of the simulator that were driven to evolve a row's controller, those that chose best.tar included, and
    the hours it took; nothing for the others."""
    if row.controller != "ctrl":
        return {}
    folder = row.logdir / row.controller
    return {
        "frames": int(read_csv(folder / "metrics.csv")[-1]["frames"]),
        "hours": sum(float(line["seconds"]) for line in read_csv(folder / "clock.csv")) / 3600,
    }


def score(row: Row, world: str, args: argparse.Namespace, commands: list[str]) -> dict:
    """The score of a row in "simulator" or "dream", measured (after training, if need be) unless it has been; the
    commands are added to `commands`."""
    dream = f" --world dream --temperature {row.temperature}" if world == "dream" else ""
    needed = [
        *(row.training if world == "simulator" else ()),
        f"test_controller.py --logdir {row.logdir} --controller {row.controller} --episodes {args.episodes} "
        f"--max-workers {args.max_workers}{dream}",
    ]

    def measure() -> None:
        for stage in row.shares:
            if not (row.logdir / stage).exists():  # links, since files are only ever replaced
                shutil.copytree(args.logdir / stage, row.logdir / stage, copy_function=os.link)
        for command in needed:
            call(command)

    commands += needed
    return scored(lambda: find_score(row.logdir, row.controller, "carracing", world), args.episodes, measure)


def main() -> None:
    args = parse_args()
    if "second" in args.drivers and not args.dataset:
        raise UserError(
            "the row second trains V again and needs the datasets of the first time: give --dataset, or leave the row "
            "out with --drivers"
        )
    rows, scores = [], {}
    commands: list[str] = []
    for row in drivers(args):
        s = score(row, "simulator", args, commands)
        half = 1.96 * s["std"] / s["episodes"] ** 0.5
        dreamt = score(row, "dream", args, commands) if row.temperature is not None else None
        spent = effort(row)
        scores[row.name] = {
            **{key: s[key] for key in ("mean", "std", "episodes", "checkpoints", "command", "returns")},
            **spent,
            **({"dream": {key: dreamt[key] for key in ("mean", "std", "episodes", "returns")}} if dreamt else {}),
        }
        rows.append(
            [
                row.name,
                f"{s['mean']:.1f} +- {s['std']:.1f}",
                f"{s['mean'] - half:.1f} to {s['mean'] + half:.1f}",
                *(f"{s[key]:.1f}" for key in ("min", "median", "max")),
                str(s["episodes"]),
                f"{spent['frames']:,}" if spent else "",
                f"{spent['hours']:.1f}" if spent else "",
                f"{dreamt['mean']:.1f} +- {dreamt['std']:.1f}" if dreamt else "",
            ]
        )
    listing = "\n".join(f"python {command}" for command in dict.fromkeys(commands))
    head = [
        "driver",
        "mean +- std",
        "95 % interval of the mean",
        "min",
        "median",
        "max",
        "episodes",
        "frames to evolve it",
        "hours",
        "in its dream",
    ]
    listed, each = table(head, rows), args.out.with_suffix(".json")
    write_section(
        args.out,
        "scores",
        f"{listed}\n\n{circumstances()}\n\nOfficial CarRacing-v3, seeds 2,000,000 onwards ([score of every "
        f"seed]({each.name})), by\n\n"
        f"```\n{listing}\n```\n",
    )
    write_atomically(each, (json.dumps(scores, indent=1) + "\n").encode())
    print(listed)


if __name__ == "__main__":
    run(main)
