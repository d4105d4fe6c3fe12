"""What `dreamdrive export web` can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dreamdrive.utils.argument_types import positive
from dreamdrive.utils.settings import RunFolder, flag

NOBODY = "none"  # the controller of a page without an agent


@dataclass(frozen=True, kw_only=True)
class WebSettings(RunFolder):
    """What the export can be told."""

    GROUPS: ClassVar[dict[str, str]] = {"page": "out controller starts"}

    out: Path = flag(Path("dream.html"), Path, "page to write; an older one of ours is replaced")
    controller: str | None = flag(
        None,
        help=f"the agent that can be let drive: ctrl, the evolved controller, bc, the cloned one, one with a name "
        f"(bc-NAME), or {NOBODY} (default: ctrl, or bc where there is none)",
    )
    starts: int = flag(16, positive, "recorded moments that dreams begin from, evenly among those M keeps")
