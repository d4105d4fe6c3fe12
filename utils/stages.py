"""The stages of a run, by the names of their folders. There is one V and one M, and of controllers as many as have been
given names:

    exp_dir/vae, exp_dir/mdrnn
    exp_dir/ctrl, exp_dir/ctrl-NAME    evolved or learnt (stage 4a)
    exp_dir/bc, exp_dir/bc-NAME        cloned or taught (stage 4b)

A checkpoint stores what kind of stage it is of, "bc"; a controller is called as its folder is, "bc-dagger".
"""

import re
from pathlib import Path

from dreamdrive.utils import runs
from dreamdrive.utils.errors import UserError

CONTROLLERS = ("ctrl", "bc")  # kinds: evolved or learnt, and cloned
KINDS = ("vae", "mdrnn", *CONTROLLERS)  # parents first
BEST = "best.tar"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
LONGEST = 60  # letters of a name


def wrong_name(name: str) -> str | None:
    """What is wrong with the name of a controller, in words; None if nothing is."""
    if NAME.fullmatch(name) and ".." not in name and len(name) <= LONGEST:
        return None
    return (
        f'{name[:LONGEST]!r} is no name for a controller: give letters, digits, "_", "-" and single dots, {LONGEST} at '
        'most, the first none of "-" and "."'
    )


def stage_named(kind: str, name: str | None) -> str:
    """The folder of the controller of a kind that is called `name`; UserError for a name that cannot be one."""
    wrong = None if name is None else wrong_name(name)
    if wrong:
        raise UserError(wrong)
    return kind if name is None else f"{kind}-{name}"


def kind_of(stage: str) -> str:
    """The kind of stage that a folder of this name holds; "" for none."""
    kind, named, name = stage.partition("-")
    if named:
        return kind if kind in CONTROLLERS and not wrong_name(name) else ""
    return kind if kind in KINDS else ""


def name_of(stage: str) -> str | None:
    """The --name of a controller; None for one without."""
    return stage.partition("-")[2] or None


def is_controller(stage: str) -> bool:
    """Whether a controller can be called so."""
    return kind_of(stage) in CONTROLLERS


def folders(run: Path) -> list[str]:
    """The stages that have a folder in a run's, parents first, and controllers without a name before the others."""
    try:
        there = [path.name for path in run.iterdir() if kind_of(path.name) and path.is_dir()]
    except OSError:  # it is not there; or who reads what is in it says what is wrong
        return []
    return sorted(there, key=lambda stage: (name_of(stage) is not None, KINDS.index(kind_of(stage)), stage))


def controllers(logdir: str | Path) -> list[str]:
    """The controllers of a run that have been trained: ctrl and bc first, then the others."""
    run = runs.find(logdir)
    return [stage for stage in folders(run) if is_controller(stage) and (run / stage / BEST).exists()]
