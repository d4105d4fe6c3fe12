"""Look at scenes, and check them.

    dreamdrive scenes show datasets/scenes/synthetic_000000.json --ego 3 --t 20 --out scene.png
    dreamdrive scenes show datasets/scenes/synthetic_000000.json --video scene.mp4
    dreamdrive scenes check datasets/scenes

show draws a scene from above and what the ego sees of it, as a picture, or with --video the whole log; check reads
every scene of a folder and prints a table. It is done in envs/nocturne/inspection.py.
"""

import argparse
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.envs.catalogue import SCENE_FORMATS, SCENE_STEPS
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
        help="id of the object whose cone is drawn (default: the first vehicle that moves and is there all the time)",
    )
    show.add_argument("--t", type=natural, default=20, help=f"step of the log, 0 to {SCENE_STEPS - 1}")
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
        command.add_argument(
            "--kind",
            choices=("auto", *SCENE_FORMATS),
            default="auto",
            help="of the files: nocturne's headings are in degrees, gpudrive's in radians",
        )
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.command == "show" and args.t >= SCENE_STEPS:
        raise UserError(f"--t {args.t} is not possible: a scene has steps 0 to {SCENE_STEPS - 1}")
    from dreamdrive.envs.nocturne.inspection import act  # brings torch, after what was wrong has been told

    act(args)


if __name__ == "__main__":
    run(main)
