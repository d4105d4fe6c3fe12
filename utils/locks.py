"""One writer a folder, which does not stay where nothing was written to it."""

import contextlib
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder, raise_if_unreadable

LOCK = ".lock"
OF_NO_USE = {LOCK, "args.json"}  # what is left by a stage that failed at once
OURS = ("pid", "host", "since")  # what the holder says of itself in the file
LONGEST = 1 << 10  # bytes of that
PATIENCE = 0.3  # seconds: whoever looks whether a folder is free keeps others out for a moment


@contextlib.contextmanager
def locked(folder: Path, sentence: str | None) -> Iterator[None]:
    """Keep other processes out of `folder`. If one is in it, raise UserError(sentence), with who that is before its
    last ": ", or without a sentence wait until it is done.

    The lock goes when the process does, however it ends. The file says who holds it; nothing else is ever changed by
    that: a link is not followed, and what is in a file of somebody else stays.
    """
    path = folder / LOCK
    until = time.monotonic() + PATIENCE
    while True:
        try:
            descriptor = _open(path, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:  # who was in it has removed it
            make_folder(folder)
            continue
        try:
            if not _taken(descriptor, folder, fcntl.LOCK_EX | (fcntl.LOCK_NB if sentence else 0)):
                if time.monotonic() > until:
                    raise UserError(_told(sentence or "", _holder(descriptor)))
                time.sleep(PATIENCE / 10)
            elif _is_that(descriptor, path):
                signed = _sign(descriptor)
                try:
                    yield
                finally:
                    if signed:
                        with contextlib.suppress(OSError):
                            os.ftruncate(descriptor, 0)
                return
        finally:
            os.close(descriptor)


def being_written(folder: Path) -> str:
    """What is said of a folder that something is being made in."""
    return f"{folder} is being written by another process: wait for it, or choose another --out"


def require_free(folder: Path, sentence: str) -> None:
    """UserError, as `locked` raises it, where another process is in `folder` now; before anything that takes long."""
    try:
        descriptor = _open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        if not _taken(descriptor, folder, fcntl.LOCK_SH | fcntl.LOCK_NB):
            raise UserError(_told(sentence, _holder(descriptor)))
    finally:
        os.close(descriptor)


def _open(path: Path, flags: int) -> int:
    """A descriptor of the lock; UserError where it is something else, FileNotFoundError where it is not there."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        if path.is_symlink():
            raise UserError(f"{path} is a link, which a lock never is: remove it") from None
        if isinstance(error, NotADirectoryError):
            raise UserError(
                f"{path.parent} cannot be written to ({error.strerror}): choose a folder that can be"
            ) from None
        raise_if_unreadable(path, error)
        raise UserError(f"{path} cannot be used as a lock ({error.strerror}): remove it") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path} is no file, which a lock always is: remove it")
    return descriptor


def _taken(descriptor: int, folder: Path, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    except OSError as error:  # some network filesystems have no locks
        raise UserError(
            f"{folder} is on a filesystem without file locks ({error.strerror}): choose a folder on a local disk"
        ) from None
    return True


def _is_that(descriptor: int, path: Path) -> bool:
    """Whether the lock that was taken is still the one of the folder, and of no other: it may have been removed by who
    had it, with the folder; and a copy of a folder by hard links has the lock of the other."""
    at = os.fstat(descriptor)
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    if (at.st_dev, at.st_ino) != (there.st_dev, there.st_ino):
        return False
    if at.st_nlink > 1:
        path.unlink()
        return False
    return True


def _sign(descriptor: int) -> bool:
    """Say in the lock who has it, unless there is something else in it; whether that was done."""
    if os.fstat(descriptor).st_size and not _said(descriptor):
        return False
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    content = json.dumps(dict(zip(OURS, (os.getpid(), socket.gethostname(), since), strict=True)))
    with contextlib.suppress(OSError):  # a disk that is full; the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content.encode() + b"\n", 0)
    return True


def _said(descriptor: int) -> dict:
    """What a lock says of its holder; empty where that is nothing of ours."""
    try:
        found = json.loads(os.pread(descriptor, LONGEST, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and set(found) == set(OURS) else {}


def _holder(descriptor: int) -> str:
    said = _said(descriptor)
    if not said:
        return "a process that does not say which it is"
    pid, host, since = (str(said[name])[:80] for name in OURS)
    return f"process {pid} on {host}, since {since}"


def _told(sentence: str, holder: str) -> str:
    what, _, remedy = sentence.rpartition(": ")
    return f"{what} ({holder}): {remedy}"


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
