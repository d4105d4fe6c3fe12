"""Write synthetic driving scenes in Nocturne's format.

Writes  datasets/scenes/synthetic_000000.json ...   one scene a file
        datasets/scenes/command/args.json           the command (apart, so that every *.json beside the scenes is a
        scene)

    dreamdrive scenes synthetic --scenes 500 --out datasets/scenes --seed 0

Scene i depends on --seed, --jams and i alone: killed and run again, the command resumes where it was; with more
--scenes, it adds to those that are there.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.utils.argument_types import fraction, natural, positive
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.locks import being_written, locked
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import Settings, flag

COMMAND = "command"


@dataclass(frozen=True, kw_only=True)
class SyntheticSettings(Settings):
    """What the command can be told."""

    GROUPS: ClassVar[dict[str, str]] = {"scenes": "scenes out seed jams"}

    scenes: int = flag(500, positive, "scenes the folder shall hold")
    out: Path = flag(Path("datasets/scenes"), Path, "folder of the scenes")
    seed: int = flag(0, natural, "decides every scene")
    jams: float = flag(
        0.0,
        fraction,
        "share of the scenes in which traffic is bumper to bumper, stops and goes, and turns at junctions more often",
    )

    @classmethod
    def add_flags(cls, p: argparse.ArgumentParser) -> None:
        p.prog = p.prog.replace("__main__.py", "python -m envs.nocturne.synthetic")
        super().add_flags(p)


def check_same(folder: Path, args: SyntheticSettings) -> None:
    """UserError if `folder` holds scenes of another seed, or of another share of jams."""
    try:
        before = json.loads((folder / COMMAND / "args.json").read_text())
        found = {"seed": before.get("seed"), "jams": before.get("jams", 0.0)}  # files from before there were jams
    except (OSError, ValueError, AttributeError):
        return
    for name, value in found.items():
        if value != getattr(args, name):
            raise UserError(
                f"{folder} holds scenes of --{name} {value}, and --{name} {getattr(args, name)} was asked for: choose "
                "another --out"
            )


def main() -> None:
    args = SyntheticSettings.parse(None, __doc__)
    from dreamdrive.envs.nocturne.synthetic import write_scenes  # brings torch, after what was wrong has been told
    from dreamdrive.utils.progress import Bar

    make_folder(args.out)
    with locked(args.out, being_written(args.out)):
        check_same(args.out, args)
        args.write(make_folder(args.out / COMMAND))
        made = sum(
            path is not None
            for path in Bar(
                write_scenes(args.out, args.scenes, args.seed, args.jams),
                total=args.scenes,
                unit="scene",
                desc=str(args.out),
            )
        )
    print(f"{args.out} holds {args.scenes} scenes: {made} are new, {args.scenes - made} were there already")


if __name__ == "__main__":
    run(main)
