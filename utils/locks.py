"""One writer a folder, which does not stay where nothing was written to it."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder

LOCK = ".lock"
OF_NO_USE = {LOCK, "args.json"}  # what is left by a stage that failed at once


@contextlib.contextmanager
def locked(folder: Path, sentence: str | None) -> Iterator[None]:
    """Keep other processes out of `folder`. If one is in it, raise UserError(sentence), or without a sentence wait
    until it is done.

    The lock goes when the process does, however it ends.
    """
    with open(folder / LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if sentence else 0))
        except BlockingIOError:
            raise UserError(sentence) from None
        except OSError as error:  # some network filesystems have no locks
            raise UserError(
                f"{folder} is on a filesystem without file locks ({error.strerror}): choose a folder on a local disk"
            ) from None
        yield


@contextlib.contextmanager
def workplace(folder: Path, sentence: str) -> Iterator[Path]:
    """`folder`, made if need be and locked; UserError(sentence) if another process is in it. One that was made for what
    then fails before it has written anything goes again, with the folders that were made above it."""
    above = next(parent for parent in (folder, *folder.parents) if parent.exists())
    with locked(make_folder(folder), sentence):
        try:
            yield folder
        except BaseException:
            if above != folder and {path.name for path in folder.iterdir()} <= OF_NO_USE:
                _remove(folder, above)
            raise


def _remove(folder: Path, above: Path) -> None:
    """Remove a folder of no use, and those between it and `above` that hold nothing else."""
    for path in folder.iterdir():
        path.unlink()
    with contextlib.suppress(OSError):  # which says that somebody else has put something there
        for empty in (folder, *folder.parents):
            if empty == above:
                return
            empty.rmdir()
