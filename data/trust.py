"""Which HDF5 files are read here as they are: those that were written on this installation, and those that have been
looked through once, in a process of their own (utils/sandbox.py).

HDF5 trusts what a file says of itself. One whose checksums were made to fit can make it crash, take all memory, or hand
out what else is in memory as data. So a file is known by the sha256 of its content, and what was found sound is written
down in the user's cache, never beside the file: who sends a file cannot send trust with it. A file that has not been
touched since is not even hashed again: its device, number, size and times are written down, too.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from dreamdrive.utils.files import cache_folder, require_file

FOLDER = "examined-1"  # another number where examinations come to look at more

_digests: dict[str, str] = {}  # of files as they are, by `_identity`; what this process knows itself
_sound: set[str] = set()  # digests of contents


def require_sound(path: Path, wanted: str | None, examine: Callable[[], None]) -> str:
    """The sha256 of the content of `path`, which may be read here from now on; `examine` looks through it where nobody
    has, and raises what is wrong. ValueError where the content's sha256 is not the one that is `wanted`, if one is."""
    identity = _identity(path)
    digest = _known(identity) or digest_of(path)
    if wanted is not None and digest != wanted:
        raise ValueError("its sha256 is not the manifest's: it is not the file that was recorded")
    if digest not in _sound:
        if not _there(digest):
            examine()
        _sound.add(digest)
    if identity not in _digests:
        _remember_if(path, identity, digest)
    return digest


def look_through(path: Path, digest: str, examine: Callable[[], None]) -> None:
    """Examine a file, also one that is known; `examine` sees that its content has this sha256."""
    identity = _identity(path)
    examine()
    _remember_if(path, identity, digest)


def _remember_if(path: Path, identity: str, digest: str) -> None:
    """What was found of a file as it was, unless it has been changed meanwhile."""
    if _identity(path) == identity:
        remember(path, digest)


def remember(path: Path, digest: str) -> None:
    """Write down that the file, with content of this sha256, is sound: it was examined, or written here."""
    identity = _identity(path)
    _digests[identity] = digest
    _sound.add(digest)
    folder = _folder()
    if folder is None:
        return
    with contextlib.suppress(OSError):  # then each process looks for itself
        folder.mkdir(parents=True, exist_ok=True)
        (folder / digest).touch()
        temporary = folder / f".{identity}.{os.getpid()}"
        temporary.write_text(digest)
        os.replace(temporary, folder / identity)


def _identity(path: Path) -> str:
    """Of a file as it is: any writing to it, and any other file in its place, has another one."""
    at = os.stat(path)
    what = f"{at.st_dev} {at.st_ino} {at.st_size} {at.st_mtime_ns} {at.st_ctime_ns}"
    return hashlib.sha256(what.encode()).hexdigest()[:40]


def _known(identity: str) -> str | None:
    """The sha256 of the content of a file, where it is written down."""
    folder = _folder()
    if identity not in _digests and folder is not None:
        with contextlib.suppress(OSError, ValueError):
            _digests[identity] = (folder / identity).read_text()
    return _digests.get(identity)


def _there(digest: str) -> bool:
    """Whether content of this sha256 is written down as sound."""
    folder = _folder()
    return folder is not None and (folder / digest).exists()


def digest_of(path: Path) -> str:
    """The sha256 of the content of a file."""
    require_file(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folder() -> Path | None:
    cache = cache_folder()
    return cache / FOLDER if cache else None
