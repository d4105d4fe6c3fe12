"""One writer a folder."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from dreamdrive.utils.errors import UserError


@contextlib.contextmanager
def locked(folder: Path, sentence: str | None) -> Iterator[None]:
    """Keep other processes out of `folder`. If one is in it, raise UserError(sentence), or without a sentence wait
    until it is done.

    The lock goes when the process does, however it ends.
    """
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if sentence else 0))
        except BlockingIOError:
            raise UserError(sentence) from None
        except OSError as error:  # some network filesystems have no locks
            raise UserError(
                f"{folder} is on a filesystem without file locks ({error.strerror}): choose a folder on a local disk"
            ) from None
        yield
