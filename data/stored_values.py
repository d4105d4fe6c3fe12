"""What single values of a checkpoint may be: each test is given a name and a value, and says what is wrong by a Wrong,
in words that follow the file's name."""

from collections.abc import Callable, Collection
from typing import Any

from dreamdrive.utils.archive import Stored, values
from dreamdrive.utils.spaces import ActionSpace

LARGEST = 1 << 53  # of whole numbers that are counts, seeds or steps
LONGEST = 4096  # letters of a name or a path
FLOATS = ("float32", "float16", "bfloat16")  # of weights: halves, of runs that were exported
# columns of a history that are compared or gone on with: numbers, or nothing where nothing was measured
COMPARED = ("loss", "val_loss", "return_mean", "best", "mean", "rescored", "simulator", "sigma", "reward", "frames")

Test = Callable[[str, Any], None]


class Wrong(ValueError):
    """A checkpoint is not what it should be."""


def require(holds: bool, words: str) -> None:
    if not holds:
        raise Wrong(words)


def is_plain(name: str, value: Any) -> None:
    """Of values of which nothing else is known: no tensors."""
    require(not any(isinstance(part, Stored) for part in values(value)), f"has tensors in {name}")


def is_mapping(name: str, value: Any) -> None:
    require(isinstance(value, dict), f"has {brief(value)} as {name}, not a dict")


def is_settings(name: str, value: Any) -> None:
    is_mapping(name, value)
    require(all(type(key) is str for key in value), f"has names in {name} that are no words")
    is_plain(name, value)


def is_whole(name: str, value: Any, least: int = 0, most: int = LARGEST) -> None:
    require(type(value) is int and least <= value <= most, f"has {brief(value)} as {name}, not {least} to {most}")


def is_number(name: str, value: Any) -> None:
    require(type(value) in (int, float), f"has {brief(value)} as {name}, not a number")


def is_text(name: str, value: Any) -> None:
    require(type(value) is str and len(value) <= LONGEST, f"has {brief(value)} as {name}, not a text")


def is_flag(name: str, value: Any) -> None:
    require(type(value) is bool, f"has {brief(value)} as {name}, not yes or no")


def or_none(test: Test) -> Test:
    return lambda name, value: None if value is None else test(name, value)


def each_is(test: Test) -> Test:
    def test_all(name: str, value: Any) -> None:
        require(isinstance(value, (list, tuple)), f"has {brief(value)} as {name}, not a list")
        for k, part in enumerate(value):
            test(f"{name}[{k}]", part)

    return test_all


def is_parents(name: str, value: Any) -> None:
    is_mapping(name, value)
    for stage, digest in value.items():
        require(
            stage in ("vae", "mdrnn") and type(digest) is str and len(digest) == 64,
            f"has {brief(digest)} as the digest of {brief(stage)}",
        )


def is_row(name: str, value: Any) -> None:
    """Of a history."""
    is_mapping(name, value)
    for column, cell in value.items():
        require(
            type(column) is str and (cell is None or type(cell) in (bool, int, float, str)),
            f"has {brief(cell)} as {name}.{column}",
        )
        if column in COMPARED:
            or_none(is_number)(f"{name}.{column}", cell)


def is_tensor(*shape: int | None, dtypes: Collection[str] = FLOATS) -> Test:
    """A tensor of this shape, None for any size."""

    def test(name: str, value: Any) -> None:
        require(isinstance(value, Stored), f"has {brief(value)} as {name}, not a tensor")
        fits = len(value.shape) == len(shape) and all(b in (None, a) for a, b in zip(value.shape, shape, strict=True))
        wanted = tuple("any" if n is None else n for n in shape)
        require(fits, f"has {name} of shape {value.shape}, wanted {wanted}")
        require(value.dtype in dtypes, f"has {name} in {value.dtype}, wanted {' or '.join(dtypes)}")

    return test


def brief(value: Any) -> str:
    if isinstance(value, (str, int, float, bool, type(None))):
        return f"{value!r:.60}"
    return "a tensor" if isinstance(value, Stored) else type(value).__name__


def is_space(name: str, value: Any) -> ActionSpace:
    is_settings(name, value)
    try:
        space = ActionSpace.from_dict(value)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Wrong(f"has an action space that is none ({error!s:.200})") from None
    require(space.size <= 1 << 20, f"has {space.size} actions")
    return space
