"""Ways of cloning compared at equal data: plain cloning, also of an expert that is disturbed while it is recorded,
dagger in the dream and in the simulator, ditto; 10, 50 and 200 episodes of the expert; several training seeds.

Reads   a run with V and M (--logdir), which all clones share
Writes  datasets/experts-<world>-<n>/, and -disturbed/, <logdir>/imitation/<n>-<method>-<seed>/
        docs/results/images/imitation-<world>.png, and the section of docs/results/<world>.md

    python -m benchmarks.imitation --logdir exp_dir/carracing --episodes 100

Every clone is the best of the epochs that are scored, by as many episodes of the selection seeds. Run again, it
resumes.
"""

import argparse
import json
import os
import shlex
import shutil
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np

from dreamdrive.benchmarks.report import circumstances, table, write_section
from dreamdrive.data.manifest import split
from dreamdrive.driving.recording_settings import RecordingSettings
from dreamdrive.envs import fast, make
from dreamdrive.scripts.demo import call
from dreamdrive.utils import checkpoint
from dreamdrive.utils.argument_types import positive
from dreamdrive.utils.cores import usable
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.plots import figure
from dreamdrive.utils.scores import find_score
from dreamdrive.utils.script import run
from dreamdrive.utils.seeds import recording_seed
from dreamdrive.utils.settings import RunFolder, parser

VAL_FRACTION = 0.1
RECORDING_SEED = 50  # episodes that no other dataset of ours has
BC_DISTURBED = "bc, disturbed expert"
METHODS = {  # flags of trainbc.py
    "bc": "--epochs 30",
    BC_DISTURBED: "--epochs 30",
    "dagger": "--epochs 5 --method dagger --dream-epochs 15",
    "ditto": "--epochs 5 --method ditto --temperature 1 {ditto}",
    "dagger in the simulator": "--epochs 5 --method dagger --dream-epochs 15 --world simulator",
}
# an episode has 1000 steps, or 80
DITTO = {"carracing": "--dream-epochs 25", "nocturne": "--dream-epochs 10 --horizon 24 --anchor 20"}
# flags of stage 1, as in README.md and docs/nocturne.md
DISTURBANCE = {"carracing": "--action-noise 0.6", "nocturne": "--action-noise 1"}
STAGES = ("vae", "latents", "mdrnn")
MEASURES = {  # by world: column -> (outcome of an episode, factor)
    "carracing": {"return": ("return", 1.0)},
    "nocturne": {"goals, %": ("goal_rate", 100.0), "collisions, %": ("collision_rate", 100.0)},
}
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # quantiles for 95 % intervals of a mean over so many seeds


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    RunFolder.add_flags(p)
    p.add_argument(
        "--experts",
        type=positive,
        nargs="+",
        default=[10, 50, 200],
        help="episodes of the expert to learn from; a ninth more is for validation",
    )
    p.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="rows")
    p.add_argument(
        "--seeds",
        type=positive,
        nargs="+",
        default=[3],
        help="training seeds, 0 upwards: so many for all, or for each of --experts",
    )
    p.add_argument(
        "--leave-out",
        nargs="+",
        default=[],
        metavar="ROW",
        help="rows not to have, each as the table names it, e.g. '200, ditto'",
    )
    p.add_argument("--episodes", type=positive, default=100, help="that every clone is scored on")
    p.add_argument("--n-samples", type=positive, default=16, help="episodes that choose between its epochs")
    p.add_argument("--record", default="", help="more flags of stage 1, e.g. '--scenes datasets/scenes'")
    p.add_argument("--score", default="", help="more flags of test_controller.py")
    p.add_argument("--max-workers", type=positive, default=usable(), help="processes that drive the simulator")
    p.add_argument("--out", type=Path, help="document to write the section into (docs/results/<world>.md)")
    args = p.parse_args()
    args.options = RecordingSettings.parse(shlex.split(args.record), None).options
    args.seeds *= len(args.experts) if len(args.seeds) == 1 else 1
    if len(args.seeds) != len(args.experts):
        p.error(
            f"--seeds has {len(args.seeds)} numbers for {len(args.experts)} of --experts: give one for all, or one for "
            "each"
        )
    unknown = set(args.leave_out) - {row(experts, method) for experts in args.experts for method in args.methods}
    if unknown:
        p.error(
            f"--leave-out {sorted(unknown)[0]!r} is no row of the table: they are N, METHOD of --experts and --methods"
        )
    if max(args.seeds) > max(STUDENT):
        p.error(
            f"--seeds {max(args.seeds)} is too many: the quantiles of intervals are known here for up to {max(STUDENT)}"
        )
    return args


def row(experts: int, method: str) -> str:
    """Name of a row of the table."""
    return f"{experts}, {method}"


def rollouts(experts: int, validates: Callable[[int], bool]) -> int:
    """Episodes to record, so that `experts` of them (at least 9) are to train on and one at least to validate;
    `validates` says what the i-th is for."""
    total = train = 0
    while train < experts or train == total:
        train += not validates(total)
        total += 1
    return total


def recording(args: argparse.Namespace, world: str, experts: int) -> str:
    """Flags of stage 1 that record `experts` episodes to train on."""
    simulator = make(fast(world), **args.options)
    by_place = simulator.held_out(recording_seed(RECORDING_SEED, 0)) is not None
    total = rollouts(
        experts,
        lambda i: (
            bool(simulator.held_out(recording_seed(RECORDING_SEED, i))) if by_place else split(i, VAL_FRACTION) == "val"
        ),
    )
    simulator.close()
    kept = "" if by_place else f" --val-fraction {VAL_FRACTION}"
    recorded = f"--env {fast(world)} --policy expert {args.record}".rstrip()
    return f"{recorded} --rollouts {total}{kept} --seed {RECORDING_SEED}"


def cell(
    args: argparse.Namespace, world: str, experts: int, record: str, method: str, seed: int, commands: list[str]
) -> dict:
    """The score of one clone, trained on what stage 1 records with the flags `record` and measured, unless it has been;
    the commands are added to `commands`."""
    data = Path("datasets") / f"experts-{world}-{experts}"
    if method == BC_DISTURBED:
        data, record = Path(f"{data}-disturbed"), f"{record} {DISTURBANCE[world]}"
    folder = args.logdir / "imitation" / f"{experts}-{method.replace(',', '').replace(' ', '-')}-{seed}"
    needed = [
        f"data/generation_script.py {record} --rootdir {data} --threads {args.max_workers}",
        f"trainbc.py --logdir {folder} --dataset {data} --hidden 256 {METHODS[method].format(ditto=DITTO[world])} "
        "--evaluate-every 5 "
        f"--n-samples {args.n_samples} --seed {seed} --max-workers {args.max_workers}",
        (
            f"test_controller.py --logdir {folder} --controller bc --episodes {args.episodes} --max-workers "
            f"{args.max_workers} {args.score}"
        ).strip(),
    ]
    score = find_score(folder, "bc", world, "simulator")
    if not score.exists():
        for stage in STAGES:
            if (args.logdir / stage).exists() and not (folder / stage).exists():
                half = folder / f".{stage}.tmp"  # a stop within the copy leaves nothing that looks whole
                shutil.rmtree(half, ignore_errors=True)
                shutil.copytree(args.logdir / stage, half, copy_function=os.link)  # files are only ever replaced
                half.rename(folder / stage)
        for command in needed:
            call(command)
    for command, source, made in zip(needed[1:], (folder / "bc" / "args.json", score), (folder, score), strict=True):
        require_same(command, json.loads(source.read_text())["command"], made)
    commands += needed
    return json.loads(score.read_text())


def require_same(wanted: str, there: str, made: Path) -> None:
    """UserError if `made`, a cell's folder or its score, was made by a command with other flags than `wanted`; the
    number of processes changes nothing."""

    def flags(command: str) -> list[str]:
        words = shlex.join(shlex.split(command)).split(" --")[1:]
        return sorted(word for word in words if not word.startswith("max-workers "))

    if flags(wanted) != flags(there):
        raise UserError(
            f"{made} was made by `{there}`, and now it would be by `python {wanted}`: give the flags it was made with, "
            "or delete it"
        )


def measure(score: dict, what: str, factor: float) -> float:
    """The mean of an outcome over a clone's episodes."""
    return (
        score["mean"]
        if what == "return"
        else factor * statistics.fmean(outcome[what] for outcome in score["outcomes"].values())
    )


def interval(values: list[float]) -> float:
    """Half of the 95 % interval of the mean over training seeds (Student's t); 0, for pictures, of a single one, which
    has none."""
    return STUDENT[len(values)] * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def cells(values: list[float]) -> tuple[str, str]:
    """Mean and interval, and the values themselves."""
    known = f" +- {interval(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{known}", ", ".join(f"{value:.1f}" for value in values)


def draw(
    path: Path, found: dict[tuple[str, int], dict[str, list[float]]], experts: list[int], columns: list[str]
) -> None:
    """Mean, interval and every seed against the number of episodes, a line for each method, a panel for each column."""
    methods = list(dict.fromkeys(method for method, _ in found))
    with figure(path, 6 * len(columns), 4) as drawn:
        for i, column in enumerate(columns):
            axes = drawn.add_subplot(1, len(columns), i + 1)
            for k, method in enumerate(methods):
                there = [n for n in experts if (method, n) in found]
                values = [found[method, n][column] for n in there]
                beside = [n * 1.08 ** (k - (len(methods) - 1) / 2) for n in there]  # else one would hide another
                line = axes.errorbar(
                    beside,
                    [statistics.fmean(v) for v in values],
                    [interval(v) for v in values],
                    marker="o",
                    capsize=4,
                    label=method,
                )
                axes.plot(np.repeat(beside, [len(v) for v in values]), sum(values, []), "x", color=line[0].get_color())
            axes.set(xscale="log", xlabel="episodes of the expert", ylabel=column, xticks=experts, xticklabels=experts)
            axes.minorticks_off()
            axes.grid(alpha=0.3)
            axes.legend()


def main() -> None:
    args = parse_args()
    world = checkpoint.load_parent(args.logdir, "vae")["world"]["env"]
    out = args.out or Path("docs/results") / f"{world}.md"
    columns = MEASURES[world]
    commands: list[str] = []
    found: dict[tuple[str, int], dict[str, list[float]]] = {}
    for experts, seeds in zip(args.experts, args.seeds, strict=True):
        record = recording(args, world, experts)
        for seed in range(seeds):
            for method in args.methods:
                if row(experts, method) in args.leave_out:
                    continue
                score = cell(args, world, experts, record, method, seed, commands if not seed else [])
                values = found.setdefault((method, experts), {column: [] for column in columns})
                for column, (what, factor) in columns.items():
                    values[column].append(measure(score, what, factor))
    rows = [
        [row(experts, method), *(text for column in columns for text in cells(values[column]))]
        for (method, experts), values in found.items()
    ]
    text = table(["episodes, method", *(name for column in columns for name in (column, "each seed"))], rows)
    picture = out.parent / "images" / f"imitation-{world}.png"
    draw(picture, found, args.experts, list(columns))
    listing = "\n".join(
        [
            f"python -m benchmarks.imitation {shlex.join(sys.argv[1:])}",
            "",
            "# which, for the first seed, is",
            *(f"python {command}" for command in dict.fromkeys(commands)),
        ]
    )
    print(text)
    about = f"Means over training seeds, of {args.episodes} episodes each, +- half of the 95 % interval (Student's t)."
    shown = f"![against the number of episodes](images/{picture.name})"
    write_section(
        out, f"imitation-{world}", f"{about}\n\n{text}\n\n{shown}\n\n{circumstances()}\n\n```\n{listing}\n```\n"
    )


if __name__ == "__main__":
    run(main)
