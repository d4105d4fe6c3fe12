"""What does not end with the process by itself, as a program that a world has started: it is closed however the process
ends, but by SIGKILL."""

import contextlib
import weakref
from collections.abc import Callable

_open: list[weakref.finalize] = []


def close_at_end(owner: object, close: Callable[..., object], *arguments: object) -> Callable[[], object]:
    """Have `close(*arguments)` called once: when what this returns is called, when `owner` is gone, or when the process
    ends, whichever comes first."""
    finalizer = weakref.finalize(owner, close, *arguments)
    _open[:] = [other for other in _open if other.alive] + [finalizer]
    return finalizer


def close_all() -> None:
    """Close what is open, the latest first; what cannot be closed does not keep others from it. For processes that
    Python does not do it in: workers."""
    while _open:
        with contextlib.suppress(Exception):
            _open.pop()()
