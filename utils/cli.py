"""What every script's command line shares: the flags, the error sentence, the seed, the record of the command."""

import argparse
import json
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

from dreamdrive import __version__
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import write_atomically
from dreamdrive.utils.precision import CHOICES
from dreamdrive.utils.trackers import TRACKERS

ASK_AGAIN = 5.0  # seconds
ROOT = Path(__file__).resolve().parent.parent


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the docstring's layout and prints every default that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, instead of after a screenful of usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help lists what is possible\n")


def parser(doc: str) -> argparse.ArgumentParser:
    """An argument parser whose description is the script's docstring."""
    p = Parser(description=doc, formatter_class=HelpFormatter, allow_abbrev=False)
    p.add_argument("--version", action="version", version=f"dreamdrive {__version__}", help="print it and end")
    return p


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


def add_fitting(p: argparse.ArgumentParser, batch_size: int, unit: str, halved_after: int, patience: int) -> None:
    """Flags of the stages that fit a model of the world by Adam: --batch-size, --learning-rate, --patience,
    --precision."""
    p.add_argument("--batch-size", type=positive, default=batch_size, help=unit)
    p.add_argument(
        "--learning-rate",
        type=learning_rate,
        default=1e-3,
        help=f"Adam's; halved after {halved_after} epochs without progress",
    )
    p.add_argument("--patience", type=positive, default=patience, help="stop after so many epochs without progress")
    p.add_argument(
        "--precision", choices=CHOICES, default="auto", help="auto: bf16 where the machine multiplies it in hardware"
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


def positive(text: str) -> int:
    """argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not possible: it must be 1 or more")
    return value


def port(text: str) -> int:
    """argparse type: a TCP port."""
    value = int(text)
    if not 1 <= value < 1 << 16:
        raise argparse.ArgumentTypeError(f"{value} is not possible: a port is 1 to {(1 << 16) - 1}")
    return value


def natural(text: str) -> int:
    """argparse type: an integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is not possible: it must be 0 or more")
    return value


def positive_float(text: str) -> float:
    """argparse type: a finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{value} is not possible: it must be a finite number above 0")
    return value


def natural_float(text: str) -> float:
    """argparse type: a finite number of at least 0."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{value} is not possible: it must be a finite number of 0 or more")
    return value


def share(text: str) -> float:
    """argparse type: 0 up to 1, which is excluded."""
    value = natural_float(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"must be 0 or more and less than 1, not {text}")
    return value


def learning_rate(text: str) -> float:
    """argparse type: above 0, and at most 1, where Adam's steps are as large as weights are."""
    value = positive_float(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{value} is not possible: it must be at most 1")
    return value


def command_line() -> str:
    """The command as the user typed it, as far as Python can tell."""
    name, *words = sys.argv
    called = name.split() if name.split()[0] == "dreamdrive" else ["python", name]  # see __main__.py
    return shlex.join([*called, *words])


def recorded(args: argparse.Namespace) -> dict:
    """The command and every argument, as plain values."""
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


def leave_script_folder() -> None:
    """Take the folder of our script, which Python has put first on its path, away again: a user's own `utils` or `envs`
    must not be hidden by ours."""
    if sys.path and Path(sys.path[0]).resolve() in (ROOT, ROOT / "data"):
        del sys.path[0]


def run(main) -> None:
    """Call `main()` as a script's whole life: a UserError becomes one sentence and status 1, Ctrl-C status 130.

    A KeyboardInterrupt may come where Python drops exceptions (a callback, a destructor) or makes others of them (the
    import of a library): what ends `main` after Ctrl-C counts as Ctrl-C, and it is raised again until something does.
    """
    leave_script_folder()
    asked = False

    def interrupt(*_) -> NoReturn:
        nonlocal asked
        asked = True
        signal.setitimer(signal.ITIMER_REAL, ASK_AGAIN)
        raise KeyboardInterrupt

    heard = (signal.SIGINT, signal.SIGALRM)
    here = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    before = [signal.signal(number, interrupt) for number in heard] if here else []
    try:
        main()
    except (Exception, KeyboardInterrupt) as error:
        if here:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if asked or isinstance(error, KeyboardInterrupt):
            print("\nstopped; run the same command again to go on", file=sys.stderr)
            sys.exit(130)
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        raise
    finally:
        if here:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip(heard, before, strict=False):
            signal.signal(number, handler)
