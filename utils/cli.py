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
    p.add_argument("--noreload", action="store_true", help="start afresh instead of resuming from checkpoint.tar")
    p.add_argument("--seed", type=natural, default=0, help="decides everything random in the run")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one")
    p.add_argument(
        "--track",
        choices=("none", *TRACKERS),
        default="none",
        help="show parameters, metrics and pictures there, too; see docs/tracking.md",
    )


def recorded(args: argparse.Namespace | Settings) -> dict:
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
    """The options named in `usual`: as given; else (None) as in `before`, the settings of the run that is resumed;
    else as usual."""
    given = {name: getattr(args, name) for name in usual if getattr(args, name) is not None}
    return {**usual, **{name: value for name, value in (before or {}).items() if name in usual}, **given}


def write_args(folder: Path, args: argparse.Namespace | Settings) -> None:
    """Record the command and every argument in `folder`/args.json."""
    write_atomically(folder / "args.json", (json.dumps(recorded(args), indent=1) + "\n").encode())
