"""Look at scenes, and check them.

    dreamdrive scenes show datasets/scenes/synthetic_000000.json --ego 3 --t 20 --out scene.png
    dreamdrive scenes show datasets/scenes/synthetic_000000.json --video scene.mp4
    dreamdrive scenes check datasets/scenes

show draws a scene from above and what the ego sees of it, as a picture, or with --video the whole log, black where the
ego is not there; check reads every scene of a folder, prints a table and names what cannot be used, which worlds pass
over. It is done in envs/nocturne/inspection.py.
"""

import argparse
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.envs.catalogue import OF_NOCTURNE, READING, SCENE_STEPS
from dreamdrive.utils.argument_types import natural
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.help_text import HelpFormatter
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = parser(__doc__)
    commands = p.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="draw a scene", formatter_class=HelpFormatter)
    show.add_argument("scene", type=Path, help="JSON file")
    show.add_argument(
        "--ego",
        type=natural,
        help="id of the object whose cone is drawn (default: the first vehicle that can be driven)",
    )
    show.add_argument(
        "--t", type=natural, help=f"step of the log, 0 to {SCENE_STEPS - 1} (default: 20, or the nearest that there is)"
    )
    show.add_argument("--piece", type=natural, default=0, help=f"which {SCENE_STEPS} steps of a longer log")
    show.add_argument("--out", type=Path, default=Path("scene.png"), help="picture to write")
    show.add_argument("--video", type=Path, help="write the whole log as a video instead, e.g. scene.mp4")
    show.add_argument(
        "--style",
        choices=("legible", "nocturne"),
        default="legible",
        help="of the cone image: the one learners see, or Nocturne's own",
    )
    check = commands.add_parser("check", help="read every scene of a folder", formatter_class=HelpFormatter)
    check.add_argument("folder", type=Path, help="folder with JSON files")
    for command in (show, check):
        add_reading(command)
    return p.parse_args(argv)


def add_reading(p: argparse.ArgumentParser) -> None:
    """Flags of how files are read, as worlds have them."""
    for option in OF_NOCTURNE:
        if option.name in READING:
            names = ["--" + option.name.replace("_", "-"), *["--kind"] * (option.name == "scene_kind")]
            how = {"type": option.type or str, "choices": option.choices, "default": option.default}
            p.add_argument(*names, help=option.help, **how)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.command == "show" and args.t is not None and args.t >= SCENE_STEPS:
        raise UserError(f"--t {args.t} is not possible: a scene has steps 0 to {SCENE_STEPS - 1}")
    from dreamdrive.envs.nocturne.inspection import act  # brings torch, after what was wrong has been told

    act(args)


if __name__ == "__main__":
    run(main)
