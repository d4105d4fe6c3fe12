"""A script's whole life: errors to the user as one sentence, Ctrl-C, and the status it ends with."""

import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

from dreamdrive.utils import modules
from dreamdrive.utils.errors import UserError

ASK_AGAIN = 5.0  # seconds
ROOT = Path(__file__).resolve().parent.parent


def leave_script_folder() -> None:
    """Take the folder of our script, which Python has put first on its path, away again: a user's own `utils` or `envs`
    must not be hidden by ours."""
    if sys.path and Path(sys.path[0]).resolve() in (ROOT, ROOT / "data"):
        del sys.path[0]
        main = sys.modules["__main__"]
        if main.__spec__ and not main.__spec__.name.endswith("__main__"):
            main.__spec__ = None  # after `python -m data.shards`, a spawned worker looks for the file, not for the name


def run(main) -> None:
    """Call `main()` as a script's whole life: a UserError becomes one sentence and status 1, Ctrl-C status 130.

    A KeyboardInterrupt may come where Python drops exceptions (a callback, a destructor) or makes others of them (the
    import of a library): what ends `main` after Ctrl-C counts as Ctrl-C, and it is raised again until something does.
    """
    leave_script_folder()
    asked = False

    def interrupt(*_) -> NoReturn:
        nonlocal asked
        asked = True
        signal.setitimer(signal.ITIMER_REAL, ASK_AGAIN)
        raise KeyboardInterrupt

    heard = (signal.SIGINT, signal.SIGALRM)
    here = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    before = [signal.signal(number, interrupt) for number in heard] if here else []
    try:
        with modules.only_named():
            main()
    except (Exception, KeyboardInterrupt) as error:
        if here:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if asked or isinstance(error, KeyboardInterrupt):
            print("\nstopped; run the same command again to resume", file=sys.stderr)
            sys.exit(130)
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        raise
    finally:
        if here:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip(heard, before, strict=False):
            signal.signal(number, handler)
