"""Write synthetic driving scenes in Nocturne's format.

Writes  datasets/scenes/synthetic_000000.json ...   one scene a file
        datasets/scenes/command/args.json           the command (apart, so that every *.json beside the scenes is a
        scene)

    dreamdrive scenes synthetic --scenes 500 --out datasets/scenes --seed 0

Scene i depends on --seed and i alone: killed and run again, the command resumes where it was; with more --scenes, it
adds to those that are there.
"""

import argparse
import json
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from tqdm import tqdm

from dreamdrive.envs.nocturne.synthetic import write_scenes
from dreamdrive.utils import cli
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.locks import locked

COMMAND = "command"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = cli.parser(__doc__)
    p.prog = p.prog.replace("__main__.py", "python -m envs.nocturne.synthetic")
    p.add_argument("--scenes", type=cli.positive, default=500, help="scenes the folder shall hold")
    p.add_argument("--out", type=Path, default=Path("datasets/scenes"), help="folder of the scenes")
    p.add_argument("--seed", type=cli.natural, default=0, help="decides every scene")
    return p.parse_args(argv)


def check_seed(folder: Path, seed: int) -> None:
    """UserError if `folder` holds scenes of another seed."""
    try:
        before = json.loads((folder / COMMAND / "args.json").read_text()).get("seed")
    except (OSError, ValueError, AttributeError):
        return
    if before != seed:
        raise UserError(
            f"{folder} holds scenes of --seed {before}, and --seed {seed} was asked for: choose another --out"
        )


def main() -> None:
    args = parse_args()
    make_folder(args.out)
    with locked(args.out, f"{args.out} is being written by another process: wait for it, or choose another --out"):
        check_seed(args.out, args.seed)
        cli.write_args(make_folder(args.out / COMMAND), args)
        made = sum(
            path is not None
            for path in tqdm(
                write_scenes(args.out, args.scenes, args.seed), total=args.scenes, unit="scene", desc=str(args.out)
            )
        )
    print(f"{args.out} holds {args.scenes} scenes: {made} are new, {args.scenes - made} were there already")


if __name__ == "__main__":
    cli.run(main)
