"""One writer a folder."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from utils.errors import UserError


@contextlib.contextmanager
def locked(folder: Path, sentence: str) -> Iterator[None]:
    """Keep other processes out of `folder`, or raise UserError(sentence) if one is in it; the lock goes when the process does, however it ends."""
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(sentence) from None
        except OSError as error:  # some network filesystems have no locks
            raise UserError(f"{folder} is on a filesystem without file locks ({error.strerror}): choose a folder on a local disk") from None
        yield
