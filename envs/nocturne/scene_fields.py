"""Fields of a scene's JSON file, each with a complaint that names the file, the field, and what was wanted."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import raise_if_unreadable, require_file

MOST = 1e9  # of any number, whatever its unit
LARGEST = 256 << 20  # bytes of a file: Waymo's scenes have one to five million


class Fields:
    """Reads one file; every complaint names it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def refuse(self, field: str, what: str) -> UserError:
        where = f"{self.path}: {field} " if field else f"{self.path} "
        return UserError(
            f"{where}{what}; give a scene in Nocturne's or GPUDrive's JSON (`dreamdrive scenes check FOLDER` looks "
            "through a folder)"
        )

    def require_file(self) -> None:
        try:
            require_file(self.path)
        except ValueError as error:
            raise self.refuse("", f"cannot be read ({error})") from None

    def parse(self) -> dict:
        try:
            self.require_file()
            size = self.path.stat().st_size
            if size > LARGEST:
                raise self.refuse("", f"has {size:,} bytes, and no scene has more than {LARGEST:,}")
            content = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            raise UserError(
                f"{self.path} is missing: give the JSON file of a scene (`dreamdrive scenes synthetic` writes some)"
            ) from None
        except OSError as error:
            raise_if_unreadable(self.path, error)
            raise self.refuse("", f"cannot be read ({error.strerror or error})") from None
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError, too
            raise self.refuse("", f"is not JSON ({str(error)[:200]})") from None
        if not isinstance(content, dict):
            raise self.refuse(
                "", f"holds a {type(content).__name__} where an object with name, objects and roads was wanted"
            )
        return content

    def field(self, of: Any, key: str, field: str, wanted: type | tuple[type, ...]) -> Any:
        if not isinstance(of, dict):
            raise self.refuse(field, f"is a {type(of).__name__} where an object with {key} was wanted")
        if key not in of:
            raise self.refuse(field, f"has no {key}" if field else f"has no {key}, which a scene has")
        if not isinstance(of[key], wanted):
            names = " or ".join(t.__name__ for t in (wanted if isinstance(wanted, tuple) else (wanted,)))
            raise self.refuse(f"{field}.{key}".lstrip("."), f"is a {type(of[key]).__name__} where a {names} was wanted")
        return of[key]

    def numbers(self, values: Any, field: str, needed: np.ndarray | None = None) -> np.ndarray:
        """Finite numbers, float64; with `needed` (bool, as many), what is not one is 0 where it is not needed."""
        try:
            if not set(map(type, values)) <= {float, int}:
                values = [v if type(v) in (float, int) else _unneeded(needed, i) for i, v in enumerate(values)]
            array = np.asarray(values, np.float64)
        except (TypeError, ValueError, OverflowError):
            raise self.refuse(field, "holds something that is not a number") from None
        finite = np.abs(array) <= MOST  # and not NaN
        if not finite.all():
            if needed is None or not finite[needed].all():
                raise self.refuse(field, f"holds a number that is not finite, or beyond {MOST:g}")
            array[~finite] = 0.0
        return array

    def bounded(self, array: np.ndarray, field: str, most: float) -> np.ndarray:
        """The same numbers; refused where one is beyond `most` or its negative: what is drives to numbers that are not
        finite."""
        if (abs(array) > most).any():
            raise self.refuse(field, f"holds {array[abs(array) > most][0]:g}, and none is beyond {most:g}")
        return array

    def points(self, values: Sequence, field: str, needed: np.ndarray | None = None) -> np.ndarray:
        """(n, 2) of [{x, y}, ...] or [[x, y], ...]."""
        try:
            if values and isinstance(values[0], list):
                values = [{"x": x, "y": y} for x, y, *_ in values]
            if needed is not None and not needed.all():
                values = [p if isinstance(p, dict) or needed[i] else _NOWHERE for i, p in enumerate(values)]
            columns = [[p[axis] for p in values] for axis in "xy"]
        except (TypeError, KeyError, ValueError):
            raise self.refuse(field, "holds something that is not a point with x and y") from None
        return np.stack([self.numbers(column, field, needed) for column in columns], -1)

    def flags(self, values: list, field: str) -> np.ndarray:
        """Bools; also of a list that has 0 and 1 for them."""
        kinds = set(map(type, values))
        if kinds != {bool} and not (bool not in kinds and kinds <= {int, float} and set(values) <= {0, 1}):
            raise self.refuse(field, "holds something that is neither true nor false")
        return np.asarray(values, bool)


_NOWHERE = {"x": 0.0, "y": 0.0}


def _unneeded(needed: np.ndarray | None, i: int) -> float:
    """0 for number i where it is not needed; TypeError where it is."""
    if needed is None or needed[i]:
        raise TypeError
    return 0.0
