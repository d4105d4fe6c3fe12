"""Files of JSON, which has no NaN and no infinity: whoever reads one elsewhere could not."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import write_atomically


def write_json(path: Path, content: Any) -> None:
    """Write `content`; UserError, and nothing written, where a number in it is NaN or infinite."""
    for place, value in _odd(content, ""):
        raise UserError(f"{path} was not written: {place} is {value}, which is no number that can be compared")
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def _odd(value: Any, place: str) -> Iterator[tuple[str, float]]:
    """The numbers that are not finite, and where they are."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place.strip("."), value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _odd(part, f"{place}.{name}")
    elif isinstance(value, (list, tuple)):
        for k, part in enumerate(value):
            yield from _odd(part, f"{place}[{k}]")
