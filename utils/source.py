"""A copy of the code that made a run, beside what it made.

exp_dir/source.zip                 the code of the last stage that was run
exp_dir/source-<digest>.zip        of an earlier one, where it was other code; args.json of each stage has its digest
exp_dir/source-unknown.zip         what had the name and was not ours
"""

import hashlib
import io
import zipfile
from functools import lru_cache
from pathlib import Path

from dreamdrive.utils.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
NAME = "source.zip"
ENDS = (".py", ".html", ".css", ".js", ".toml", ".txt")
LEFT = ("tests", "benchmarks")  # not what makes a run
SHORT = 12  # digits of a digest in a name
THEN = (1980, 1, 1, 0, 0, 0)  # the same code gives the same bytes


def keep_source(run: Path, within: Path | None = None) -> str:
    """See that the code of this process is in the folder of a run, and return its sha256. `within`: where it is written
    before it gets its name, a folder of ours alone: stages side by side may do the same."""
    digest, target = source_digest(), run / NAME
    before = kept_digest(target)
    if before == digest:
        return digest
    if target.exists():
        target.replace(run / f"source-{(before or 'unknown')[:SHORT]}.zip")
    write_atomically(target, _packed(digest), within)
    return digest


def kept_digest(path: Path) -> str | None:
    """The sha256 of the code in a zip of ours; None where there is none, or another's."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment.decode("ascii") or None
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError):
        return None


@lru_cache
def source_digest() -> str:
    """The sha256 of the code of this process: of each file's name and content, in order."""
    digest = hashlib.sha256()
    for name, content in _files():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _files() -> list[tuple[str, bytes]]:
    """Names from the package's folder on, and contents."""
    ours = [place for place in ROOT.iterdir() if (place / "__init__.py").exists() and place.name not in LEFT]
    found = [*ROOT.iterdir(), *(path for place in ours for path in place.rglob("*"))]
    kept = [path for path in found if path.suffix in ENDS and path.is_file()]
    return sorted((path.relative_to(ROOT).as_posix(), path.read_bytes()) for path in kept)


def _packed(digest: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = digest.encode()
        for name, text in _files():
            archive.writestr(zipfile.ZipInfo(f"dreamdrive/{name}", THEN), text, zipfile.ZIP_DEFLATED)
    return content.getvalue()


@lru_cache
def modules_digest() -> str:
    """The sha256 of the modules of the package alone, wherever and however it is installed."""
    digest = hashlib.sha256()
    for name, content in _files():
        if name.endswith(".py") and "/" in name:
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
