"""A script's whole life: errors to the user as one sentence, signals, and the status it ends with."""

import atexit
import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from dreamdrive.utils import interrupts, modules, ranks
from dreamdrive.utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


def leave_script_folder() -> None:
    """Take the folder of our script, which Python has put first on its path, away again: a user's own `utils` or `envs`
    must not be hidden by ours."""
    if sys.path and Path(sys.path[0]).resolve() in (ROOT, ROOT / "data"):
        del sys.path[0]
        main = sys.modules["__main__"]
        if main.__spec__ and not main.__spec__.name.endswith("__main__"):
            main.__spec__ = None  # after `python -m data.shards`, a spawned worker looks for the file, not for the name


def run(main: Callable[[], object], in_ranks: bool = False) -> None:
    """Call `main()` as a script's whole life: a UserError becomes one sentence and status 1, a signal that asks it to
    end (utils/interrupts.py) one sentence and 128 and its number: Ctrl-C 130, SIGTERM 143.

    What ends `main` after such a signal counts as its end, whatever that is. `in_ranks`: it may be started by torchrun
    (utils/ranks.py).
    """
    leave_script_folder()
    show_anything()
    # a script's own process may be ended at once; that of a test, or of whoever else calls, may not
    own = sys._getframe(1).f_globals.get("__name__", "").endswith("__main__")
    ended: BaseException | None = None
    with interrupts.listening(own) as listener:
        try:
            try:
                with modules.only_named(), ranks.joined(in_ranks):
                    main()
            except BaseException as error:
                listener.deaf, ended = True, error
        except KeyboardInterrupt as again:  # it came between two lines above
            listener.deaf, ended = True, again
        asked = listener.asked
        if ended is None and asked in (None, signal.SIGINT):  # a lesson, which Ctrl-C ends like its button
            return
        listener.deaf = True
        if (asked or isinstance(ended, KeyboardInterrupt)) and not isinstance(ended, ranks.Lost):
            listener.end_soon()
            stopped(asked or signal.SIGINT, own)
    if isinstance(ended, BrokenPipeError):
        sys.exit(1)
    if isinstance(ended, UserError):
        print(f"error: {ended}", file=sys.stderr)
        sys.exit(1)
    assert ended is not None, "or it has returned"
    raise ended


def show_anything() -> None:
    """Have what a terminal or a log cannot show, and names of files that are no text, written with replacements."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def stopped(asked: signal.Signals, own: bool) -> NoReturn:
    """Say so, and end; a process of its `own` without taking the interpreter apart, which takes a second or two where
    torch is in it."""
    by = "" if asked == signal.SIGINT else f" by {asked.name}"
    with contextlib.suppress(OSError):  # a terminal that is gone
        print(f"\nstopped{by}; run the same command again to resume", file=sys.stderr, flush=True)
    if own:
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(interrupts.status(asked))
    sys.exit(interrupts.status(asked))
