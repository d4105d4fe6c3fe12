"""Where a run is read from, and where what comes of it is written.

    --logdir exp_dir/mine           a folder
    --logdir carracing              the folder ./carracing if there is one, else the run that came with dreamdrive
    --logdir pretrained/carracing   the same, with ./pretrained/carracing

The runs that came with dreamdrive, in the folder pretrained of the package or of a git clone, are only read: their
scores go to exp_dir/<name>/ of the current folder.
"""

import shlex
from pathlib import Path

from dreamdrive.utils.errors import UserError

SHIPPED = Path(__file__).resolve().parent.parent / "pretrained"
OUTPUTS = Path("exp_dir")


def shipped() -> list[str]:
    """Names of the runs that came with dreamdrive."""
    return sorted(path.name for path in SHIPPED.iterdir() if path.is_dir()) if SHIPPED.is_dir() else []


def find(logdir: str | Path) -> Path:
    """The folder of the run called `logdir`: itself if there is one, or else the shipped run of that name, or else
    itself, for what is missing there to be told."""
    logdir = Path(logdir)
    named = logdir in (Path(logdir.name), Path(SHIPPED.name, logdir.name)) and logdir.name in shipped()
    return SHIPPED / logdir.name if named and not logdir.is_dir() else logdir


def unknown(folder: Path) -> str:
    """What to add to a complaint about the run in `folder`, where that may have been meant as a name."""
    if folder.is_dir() or folder in (OUTPUTS, Path()) or len(folder.parts) > 1:
        return ""
    return f"; there is no folder {folder}, and the runs that came with dreamdrive are {', '.join(shipped())}"


def read_only(logdir: str | Path) -> bool:
    """Whether the run called `logdir` came with dreamdrive."""
    return find(logdir).resolve().is_relative_to(SHIPPED)


def require_own(logdir: str | Path) -> None:
    """UserError if the run called `logdir` came with dreamdrive."""
    if read_only(logdir):
        source = find(logdir)
        command = f"mkdir -p {OUTPUTS} && cp -r {shlex.quote(str(source))} {OUTPUTS / 'mine'}"
        copy = f", e.g. a copy of it: {command}" if source.is_dir() else ""
        raise UserError(
            f"{logdir} is among the runs that came with dreamdrive, which are only read: use another folder{copy}"
        )


def results(logdir: str | Path) -> Path:
    """The folder for what comes of driving with the run called `logdir`. For a shipped run where exp_dir/<name> is a
    run of the user's own, whose scores are not to be replaced, it is exp_dir/pretrained-<name>."""
    if not read_only(logdir):
        return Path(logdir)
    name = find(logdir).resolve().name
    taken = any((OUTPUTS / name).glob("*/best.tar"))
    return OUTPUTS / (f"{SHIPPED.name}-{name}" if taken else name)
