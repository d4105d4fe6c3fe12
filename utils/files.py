"""Files that are written whole or not at all, and folders that can be written to."""

import errno
import os
import resource
import stat
import tempfile
from pathlib import Path

from dreamdrive.utils.errors import UserError

# errors that a file may have caused that is missing, of another kind, or damaged
THE_FILES_OWN = (None, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EINVAL, errno.EFBIG, errno.EOVERFLOW)


def write_atomically(path: Path, content: bytes, within: Path | None = None) -> None:
    """Write `content` so that `path` holds either all of it or what it held before, also after a kill or a power
    cut. What a kill leaves has a temporary name beside `path`, or `within` another folder of its disk, for whoever
    works there next to remove."""
    temporary = (within or path.parent) / f".{path.name}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path} could not be written ({error.strerror}): free some space or choose another folder, then run the "
            "same command again"
        ) from None
    fsync_folder(path.parent)


def require_file(path: Path) -> None:
    """ValueError where there is something else than a file, as a pipe that nobody will ever write to; OSError where
    there is nothing."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no file")


def raise_if_unreadable(path: Path, error: Exception) -> None:
    """UserError if the system would not let us read a file, which says nothing of what is in it; nothing where the file
    may be what is wrong."""
    if not isinstance(error, OSError) or error.errno in THE_FILES_OWN:
        return
    if error.errno in (errno.EMFILE, errno.ENFILE):
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        remedy = f"a process may have {limit} files open here; allow more with `ulimit -n {max(1024, 4 * limit)}`"
    elif error.errno in (errno.EACCES, errno.EPERM):
        remedy = "mend its permissions, or run as a user who may read it"
    else:
        remedy = "see that its disk, or the network it is on, is there and sound, then run the same command again"
    raise UserError(f"{path} cannot be read ({os.strerror(error.errno)}): {remedy}") from None


class Unnamed:
    """A file that another program writes, and that has no name in its folder until it is whole: of a killed process
    nothing is left. Where the filesystem knows no such files it has a temporary name instead.

    Attributes:
        place: what the other program is to write to        passed: descriptors that it must be given for that
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            descriptor = os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o666)
        except OSError:
            descriptor = os.open(self._temporary, os.O_CREAT | os.O_RDWR, 0o666)
            self.place, self.passed = self._temporary, tuple[int, ...]()
        else:
            self.place, self.passed = Path(f"/proc/self/fd/{descriptor}"), (descriptor,)
        self._file = os.fdopen(descriptor, "rb")

    def name(self) -> None:
        """It is whole: give it its name, in the place of what was there."""
        os.fsync(self._file.fileno())
        if self.passed:
            try:
                self._link(self.path.name)
            except FileExistsError:  # which cannot be replaced by a link
                self._temporary.unlink(missing_ok=True)  # of another process, long ago, with our number
                self._link(self._temporary.name)
                os.replace(self._temporary, self.path)
        else:
            os.replace(self._temporary, self.path)
        self._file.close()
        fsync_folder(self.path.parent)

    def _link(self, name: str) -> None:
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:  # a folder's descriptor has Python take linkat, which alone follows that link
            os.link(self.place, name, dst_dir_fd=folder, follow_symlinks=True)
        finally:
            os.close(folder)

    def discard(self) -> None:
        """It is not to be."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> Path:
    """Create `folder`; UserError if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # of which a killed process leaves nothing
            pass
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to ({error.strerror}): choose another folder, or mend its permissions"
        ) from None
    return folder


def cache_folder() -> Path | None:
    """The user's own folder for what can be made again, which may not be there yet; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dreamdrive"
    except RuntimeError:
        return None
