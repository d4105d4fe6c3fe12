"""Modules of the user's own that may be imported: those that the user has named, and never one that a file names.

A world gym:<module>:<id> is registered by importing its module. Its name stands in datasets and checkpoints, which may
come from a stranger; so a command imports a module only where one of these says so:

    --env gym:<module>:<id>         of this command, and so of the processes that it starts
    ~/.config/dreamdrive/modules    what stage 1 has noted of the --env that it was given; never a dataset or a run

A program that calls `make("gym:ball:Ball-v0")` itself has named the module, too.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import write_atomically

# Variable that is set in a command and in what it starts: the modules that were named, with commas between them
NAMED = "DREAMDRIVE_MODULES"


@contextlib.contextmanager
def only_named() -> Iterator[None]:
    """In here a module must have been named, by a command line or on this installation."""
    before = os.environ.get(NAMED)
    os.environ.setdefault(NAMED, "")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(NAMED, None)
        else:
            os.environ[NAMED] = before


def name(module: str) -> None:
    """The command line names a module."""
    os.environ[NAMED] = ",".join(sorted({module, *filter(None, os.environ.get(NAMED, "").split(","))}))


def require(module: str, world: str) -> None:
    """UserError where a module, which world `world` is registered by, may not be imported here."""
    if NAMED not in os.environ or module in os.environ[NAMED].split(",") or module in remembered():
        return
    raise UserError(
        f"{world} would import the module {module}, which a file names and nobody has allowed here: if you trust it, "
        f"give --env {world}"
    )


def remember(module: str) -> bool:
    """Allow a module on this installation; whether it was not before, and could be noted."""
    target, known = _noted(), remembered()
    if target is None or module in known:
        return False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, "".join(f"{one}\n" for one in sorted({module, *known})).encode())
    except (OSError, UserError):  # a home that is not there, or only read: later stages take --env
        return False
    return True


def remembered() -> set[str]:
    """The modules that have been allowed on this installation."""
    target = _noted()
    try:
        return set(target.read_text().split()) if target else set()
    except (OSError, UnicodeDecodeError):
        return set()


def _noted() -> Path | None:
    """The file that has them; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "dreamdrive" / "modules"
    except RuntimeError:
        return None
