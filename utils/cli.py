"""Flags as functions on a parser, of the scripts that do not have a utils.settings.Settings yet."""

import argparse
import json
from pathlib import Path

from dreamdrive.utils.argument_types import learning_rate, natural, natural_float, port, positive, positive_float, share  # noqa: F401  for the scripts that have them from here
from dreamdrive.utils.files import write_atomically
from dreamdrive.utils.script import run  # noqa: F401
from dreamdrive.utils.settings import HelpFormatter, Settings, command_line, parser  # noqa: F401
from dreamdrive.utils.trackers import TRACKERS


def add_logdir(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--logdir", type=Path, default=Path("exp_dir"), help="folder of the run; each stage has a folder in it"
    )


def add_training(p: argparse.ArgumentParser) -> None:
    """Flags of the stages that train: --logdir, --noreload, --seed, --device, --track."""
    add_logdir(p)
    p.add_argument("--noreload", action="store_true", help="start afresh instead of going on from checkpoint.tar")
    p.add_argument("--seed", type=natural, default=0, help="decides everything random in the run")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one")
    p.add_argument(
        "--track",
        choices=("none", *TRACKERS),
        default="none",
        help="show parameters, metrics and pictures there, too; see docs/tracking.md",
    )


def add_world_options(p: argparse.ArgumentParser) -> None:
    """Flags that say more about a world than its name does: see `world_options`."""
    p.add_argument(
        "--scenes",
        type=Path,
        help="nocturne: folder of scenes in Nocturne's or GPUDrive's JSON (default: scenes of ours, made as they are "
        "needed)",
    )
    p.add_argument(
        "--image-size", type=int, choices=(64, 128), help="nocturne: side of a cone image, pixels (default: 64)"
    )
    p.add_argument("--view-dist", type=positive_float, help="nocturne: metres that a cone image reaches (default: 40)")
    p.add_argument(
        "--observation",
        choices=("cone", "features", "stack", "picture", "state"),
        help="nocturne: cone images, or Nocturne's feature vector, which needs no V and M (default: cone); atari: the "
        "last 4 frames of 84x84 in grey, or a "
        "picture of 64x64 in colour, as V takes it (default: stack); cartpole, mountaincar, gym: a picture, or the "
        "numbers behind it (default: picture)",
    )
    p.add_argument(
        "--goal", action=argparse.BooleanOptionalAction, help="nocturne: show the goal in cone images (default: yes)"
    )
    p.add_argument(
        "--speed",
        action=argparse.BooleanOptionalAction,
        help="nocturne: show the driver's own speed in cone images (default: yes)",
    )
    p.add_argument(
        "--sticky",
        type=float,
        help="atari: probability that a frame repeats the key of the frame before, whatever is pressed (default: 0)",
    )
    p.add_argument("--noops", type=natural, help="atari: a game begins after 1 to so many idle frames (default: 30)")
    p.add_argument(
        "--fire",
        action=argparse.BooleanOptionalAction,
        help="atari: the world presses FIRE itself when a life begins (default: yes)",
    )
    p.add_argument(
        "--one-life",
        action=argparse.BooleanOptionalAction,
        help="atari: an episode ends with the first life lost (default: no)",
    )
    p.add_argument(
        "--actions",
        choices=("continuous", "discrete"),
        help="nocturne: acceleration and steering as numbers, or as one of 273 pairs (default: continuous)",
    )


def world_options(args: argparse.Namespace) -> dict:
    """The options of `envs.make` that were given on the command line, as plain values."""
    names = (
        "scenes",
        "image_size",
        "view_dist",
        "observation",
        "goal",
        "speed",
        "actions",
        "sticky",
        "noops",
        "fire",
        "one_life",
    )
    given = {name: getattr(args, name) for name in names}
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in given.items() if value is not None
    }


def recorded(args: argparse.Namespace) -> dict:
    """The command and every argument, as plain values."""
    if isinstance(args, Settings):
        return args.recorded()
    values = {
        k: [str(x) for x in v]
        if isinstance(v, list)
        else v
        if isinstance(v, (int, float, bool, str, type(None)))
        else str(v)
        for k, v in vars(args).items()
    }
    return {"command": command_line(), **values}


def settled(args: argparse.Namespace, usual: dict, before: dict | None) -> dict:
    """The options named in `usual`: as given; else (None) as in `before`, the settings of the run that is gone on with;
    else as usual."""
    given = {name: getattr(args, name) for name in usual if getattr(args, name) is not None}
    return {**usual, **{name: value for name, value in (before or {}).items() if name in usual}, **given}


def write_args(folder: Path, args: argparse.Namespace) -> None:
    """Record the command and every argument in `folder`/args.json."""
    write_atomically(folder / "args.json", (json.dumps(recorded(args), indent=1) + "\n").encode())
