"""Files that workers on other machines read. They travel by their digests, once to each machine, which keeps them in
the user's cache and looks at every byte of them before they are used.

~/.cache/dreamdrive/nodes/<sha256>        a file
~/.cache/dreamdrive/nodes/<digest>.d/     a folder, of links to files; what nobody has used for MONTH goes
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from dreamdrive.utils.cluster import Read
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import cache_folder

PIECE = 64 << 20  # bytes that are sent at once, at most
MONTH = 30 * 24 * 3600.0  # seconds
Listing = dict[str, str]  # of a folder: the digest of each file, by its name from there on
Piece = list[tuple[str, bytes]]  # digests, and parts of the files that have them, in order


def listing_of(read: Read) -> Listing:
    """What a folder's files are; UserError for one that cannot be read."""
    return {file.as_posix(): file_digest(read.folder / file) for file in read.files}


def file_digest(path: Path) -> str:
    """sha256 of a file's content."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): mend that, then run the same command again"
        ) from None


def pieces(files: dict[str, Path]) -> Iterator[Piece]:
    """The content of files, which have these digests, in pieces of PIECE bytes."""
    piece: Piece = []
    room = PIECE
    for digest, path in files.items():
        with open(path, "rb") as file:
            while True:
                part = file.read(room)
                piece.append((digest, part))
                room -= len(part)
                if room:
                    break  # the end of this file
                yield piece
                piece, room = [], PIECE
    if piece:
        yield piece


class Cache:
    """The files of a node."""

    def __init__(self, folder: Path | None = None) -> None:
        home = cache_folder()
        self.folder = folder or (home or Path(tempfile.gettempdir(), f"dreamdrive-{os.getuid()}")) / "nodes"
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def lacks(self, digests: Iterable[str]) -> list[str]:
        """Of which files there is no copy here that is as it should be."""
        return sorted(digest for digest in set(digests) if not self._sound(digest))

    def _sound(self, digest: str) -> bool:
        path = self.folder / digest
        try:
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == digest:
                    return True
            path.unlink(missing_ok=True)
        except OSError:
            pass
        return False

    def take(self, found: Iterable[Piece]) -> None:
        """Keep files that come in pieces; UserError for one that is not what it was said to be."""
        of, temporary = "", self.folder / f".{secrets.token_hex(8)}.tmp"  # machines may share a home
        for piece in found:
            for digest, part in piece:
                if digest != of:
                    self._name(temporary, of)
                of = digest
                with open(temporary, "ab") as file:
                    file.write(part)
        self._name(temporary, of)

    def _name(self, temporary: Path, digest: str) -> None:
        if not digest:
            temporary.unlink(missing_ok=True)
        elif file_digest(temporary) != digest:
            temporary.unlink()
            raise UserError(
                "a file that workers on other machines need was changed while it was sent: let nobody write to the run "
                "and the scenes meanwhile, then run the same command again"
            )
        else:
            os.replace(temporary, self.folder / digest)

    def place(self, listing: Listing) -> Path:
        """The folder of this listing, all of whose files are here."""
        digest = hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()
        folder = self.folder / f"{digest}.d"
        for name, of in listing.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or not path.samefile(self.folder / of):
                temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
                try:
                    os.link(self.folder / of, temporary)
                except OSError:  # a disk without links
                    shutil.copyfile(self.folder / of, temporary)
                os.replace(temporary, path)
                temporary.unlink(missing_ok=True)  # of another worker, which was sooner: both names were of one file
        os.utime(folder)
        return folder

    def clear(self) -> None:
        """Delete what has not been used for long."""
        for path in sorted(self.folder.iterdir(), key=lambda path: path.suffix, reverse=True):  # folders first
            with contextlib.suppress(OSError):
                status = path.stat()
                if time.time() - status.st_mtime < MONTH or (path.is_file() and status.st_nlink > 1):
                    continue
                shutil.rmtree(path) if path.is_dir() else path.unlink()
