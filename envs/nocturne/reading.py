"""How files of scenes are read, as options and flags say it."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from dreamdrive.envs.catalogue import LATE_OBJECTS, LONG_LOGS, SCENE_FORMATS, SCENE_RATES, SCENE_SPEEDS
from dreamdrive.envs.nocturne.scene import Scene, load_scene
from dreamdrive.envs.nocturne.scene_fields import Fields
from dreamdrive.utils.errors import UserError


@dataclass(frozen=True)
class Reading:
    """The world's options of these names (envs/catalogue.py); see `load_scene`. UserError for values that are none."""

    scene_kind: str = "auto"
    scene_speeds: str = "checked"
    scene_rate: int | None = None
    late_objects: str = "replay"
    long_logs: str = "cut"

    def __post_init__(self) -> None:
        for name, wanted in (
            ("scene_kind", ("auto", *SCENE_FORMATS)),
            ("scene_speeds", SCENE_SPEEDS),
            ("scene_rate", (None, *SCENE_RATES)),
            ("late_objects", LATE_OBJECTS),
            ("long_logs", LONG_LOGS),
        ):
            if getattr(self, name) not in wanted:
                choices = ", ".join(str(value) for value in wanted if value is not None)
                raise UserError(f'there is no {name.replace("_", " ")} "{getattr(self, name)}": choose {choices}')

    def load(self, path: Path, piece: int = 0, content: dict | None = None) -> Scene:
        """The scene of a file, or of a piece of its log."""
        return load_scene(
            path,
            self.scene_kind,
            spawn_invalid=self.late_objects == "replay",
            content=content,
            piece=piece,
            speeds=self.scene_speeds,
            rate=self.scene_rate,
        )

    def pieces(self, path: Path) -> Iterator[Scene | None]:
        """The scene of a file; with long_logs "pieces" one for each piece of its log, None where nobody is in it."""
        content = Fields(path).parse()
        first = self.load(path, 0, content)
        yield first
        for piece in range(1, first.pieces if self.long_logs == "pieces" else 1):
            try:
                yield self.load(path, piece, content)
            except UserError:
                yield None

    def digest(self, *more: int) -> str:
        return hashlib.sha256(json.dumps([asdict(self), *more]).encode()).hexdigest()[:12]
