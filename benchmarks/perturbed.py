"""CarRacing as no driver of it was trained (envs/carracing_perturbed.py): what it looks like, what a driver scores
there, and how far V's latents move.

Reads   a run with V, M and a driver (--logdir), its scores, which are measured where they are not there yet, and
        further runs of which V is enough (--visions)
Writes  docs/results/images/perturbed.png, and in docs/results/carracing.md the section "perturbed"

    python -m benchmarks.perturbed --picture                                       the picture alone
    python -m benchmarks.perturbed --logdir carracing --visions exp_dir/plain exp_dir/augmented

Latents are compared in the same states of the same tracks, driven by the expert: the root of the mean squared distance
between the likeliest z of a frame and of the changed one, over the spread of z over frames (the root of its summed
variances). 0: V sees no difference; 1.41: the two are as far apart as any two frames.
"""

import argparse
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import torch
from torch import Tensor

from dreamdrive.benchmarks.report import circumstances, interval, scored, table, write_section
from dreamdrive.envs import make
from dreamdrive.models.world_model import Vision, load_vision
from dreamdrive.scripts.demo import call
from dreamdrive.utils import runs
from dreamdrive.utils.argument_types import controller, positive
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.scores import score_file, trial_name
from dreamdrive.utils.script import run
from dreamdrive.utils.seeds import evaluation_seeds
from dreamdrive.utils.settings import RunFolder, parser
from dreamdrive.utils.video import save_png, strip

ROOT = Path(__file__).resolve().parent.parent
FAST = "carracing-fast"
CHANGES: dict[str, dict] = {
    "none": {},
    **{kind: {"perturb": kind} for kind in ("colour", "bars", "blob", "physics")},
    **{f"noise of {spread} grey levels": {"obs_noise": spread / 255} for spread in (10, 20, 40)},
}
# Tang, Nguyen & Ha 2020, 100 episodes each: World Models and AttentionAgent
PAPER = {
    "none": ("901 +- 37", "914 +- 15"),
    "colour": ("655 +- 353", "866 +- 112"),
    "bars": ("166 +- 137", "900 +- 35"),
    "blob": ("446 +- 299", "898 +- 53"),
}
TRACKS, STEPS, EVERY = 10, 300, 10  # frames that latents are compared of: every 10th
SHOWN = (20, 60, 150, 290)  # steps that the picture shows, of two tracks ...
LEFT_OUT = ("noise of 10 grey levels", "noise of 40 grey levels")  # ... but not of these, which make it large


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    RunFolder.add_flags(p)
    p.set_defaults(logdir=Path("carracing"))
    p.add_argument("--controller", type=controller, default="ctrl", help="the driver: ctrl, bc or one with a name")
    p.add_argument("--episodes", type=positive, default=20, help=f"tracks of {FAST}")
    p.add_argument("--max-workers", type=positive, default=1, help="processes that drive")
    p.add_argument("--visions", type=Path, nargs="*", default=[], help="runs whose V's latents are compared, too")
    p.add_argument("--picture", action="store_true", help="the picture alone")
    p.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "carracing.md", help="the document")
    return p.parse_args()


def frames(changes: list[dict], tracks: int, steps: list[int]) -> list[Tensor]:
    """Frames (N, 64, 64, 3) at some steps of the first evaluation tracks, track by track, for each of the changes: the
    same actions, our driver's on the track as it is, are taken in all."""
    seeds = evaluation_seeds(0, tracks)
    worlds = [make(FAST, num=tracks, restart=False, **options) for options in ({}, *changes)]
    seen = [[world.reset(seeds) for world in worlds]]
    for _ in range(max(steps)):
        action = worlds[0].expert_action()
        seen.append([world.step(action).obs for world in worlds])
    return [torch.stack([seen[step][i + 1] for step in steps], 1).flatten(0, 1) for i in range(len(changes))]


def picture(path: Path) -> None:
    shown = {name: options for name, options in CHANGES.items() if name not in LEFT_OUT}
    found = frames(list(shown.values()), 2, list(SHOWN))
    make_folder(path.parent)
    save_png(path, strip([(name, list(f.numpy())) for name, f in zip(shown, found, strict=True)], height=64))


def score(args: argparse.Namespace, options: dict) -> tuple[dict, str]:
    """The driver's score in such a world, and the command that measures it."""
    said = {name: str(value) for name, value in options.items()}
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in said.items())
    command = (
        f"test_controller.py --logdir {args.logdir} --controller {args.controller} --env {FAST} {flags} "
        f"--episodes {args.episodes} --max-workers {args.max_workers}"
    ).replace("  ", " ")
    path = score_file(runs.results(args.logdir), args.controller, FAST, "simulator", trial_name(options))
    return scored(lambda: path, args.episodes, lambda: call(command)), command


@torch.inference_mode()
def moved(vision: Vision, clean: Tensor, changed: Tensor) -> float:
    """How far latents move, in units of their spread over frames."""
    z, other = (torch.cat([vision.z(vision.latents(part)) for part in x.split(200)]) for x in (clean, changed))
    return float(((other - z).square().sum(1).mean() / z.var(0).sum()).sqrt())


def scores(args: argparse.Namespace) -> tuple[str, list[str]]:
    """The table of scores, and the commands."""
    rows, commands = [], []
    for name, options in CHANGES.items():
        s, command = score(args, options)
        commands.append(command)
        around = interval(s["mean"], s["std"], s["episodes"])
        figures = [f"{s['mean']:.1f} +- {s['std']:.1f}", around, *(f"{s[key]:.0f}" for key in ("min", "median"))]
        rows.append([name, *figures, str(s["episodes"]), *PAPER.get(name, ("", ""))])
    head = ["changed", "mean +- std", "95 % interval of the mean", "min", "median", "episodes"]
    return table([*head, "World Models, theirs", "AttentionAgent, theirs"], rows), commands


def distances(args: argparse.Namespace) -> str:
    """The table of how far latents move."""
    visions = {path.name: load_vision(path, torch.device("cpu"))[0] for path in (args.logdir, *args.visions)}
    names = [name for name in CHANGES if name != "physics"]  # which changes no frame
    clean, *others = frames([CHANGES[name] for name in names], TRACKS, list(range(EVERY, STEPS, EVERY)))
    rows = [
        [name, *(f"{moved(vision, clean, changed):.2f}" for vision in visions.values())]
        for name, changed in zip(names[1:], others, strict=True)
    ]
    return table(["changed", *visions], rows)


def main() -> None:
    args = parse_args()
    image = args.out.parent / "images" / "perturbed.png"
    picture(image)
    print(image)
    if args.picture:
        return
    driven, commands = scores(args)
    listing = "\n".join(f"python {command}" for command in commands)
    text = (
        f"{driven}\n\nHow far V's latents move, in units of their spread over frames:\n\n{distances(args)}\n\n"
        f"{circumstances()}\n\n```\n{listing}\n```"
    )
    write_section(args.out, "perturbed", text)
    print(text)


if __name__ == "__main__":
    run(main)
