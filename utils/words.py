"""Numbers in sentences for people."""

import difflib
import math
import shlex
from collections.abc import Iterable, Sequence


def counted(number: int, noun: str) -> str:
    """ "1 episode", "12 episodes"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def mean_and_spread(values: Sequence[float], width: int = 0) -> str:
    """ "12.3 +- 4.5" of several values; a single one has no spread. `width`: characters of the mean."""
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
    return f"{mean:{width}.1f}" + (f" +- {spread:.1f}" if len(values) > 1 else "")


def duration(seconds: float) -> str:
    """ "40 s", "12 min", "3.5 h"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


def listed(words: Iterable[str], last: str = "and") -> str:
    """ "a", "a and b", "a, b and c"; `last`: the word before the last of them."""
    *before, end = words
    return f"{', '.join(before)} {last} {end}" if before else end


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " (did you mean ctrl?)" after what is not known; "" where nothing is much like it."""
    alike = difflib.get_close_matches(word, list(known), 1)
    return f" (did you mean {alike[0]}?)" if alike else ""


def quoted(path: object) -> str:
    """A path as it is to be typed in a shell."""
    return shlex.quote(str(path))
