"""What workers do in tests: a process that is spawned must find it by its name, so it is in a module of its own."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

from dreamdrive.utils.closing import close_at_end
from dreamdrive.utils.errors import UserError


class Opened:
    """What is closed at the end, and leaves a file then."""

    def __init__(self, path: Path) -> None:
        close_at_end(self, path.touch)


def set_up(folder=None):
    """What a task asks for: a number is squared; ("kill" | "raise", n) fails the first n times; "threads" and "pid"
    tell."""

    held: list[Opened] = []

    def do(task, report):
        if isinstance(task, (int, float)):
            report(1)
            return task * task
        what, times = task
        if what == "threads":
            import torch

            return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"], os.getpid()
        if what == "sleep":
            (Path(folder) / f"{os.getpid()}.pid").touch()
            time.sleep(times)
        if what == "compute":
            began = time.monotonic()
            while time.monotonic() - began < times:
                sum(range(10_000))
            return "computed"
        if what == "child":
            child = multiprocessing.get_context("spawn").Process(target=os.getpid)
            child.start()
            child.join()
            return "a child"
        if what == "open":
            held.append(Opened(Path(folder) / "closed"))
        if what == "user error":
            raise UserError("the disk is full: free some space")
        count = Path(folder) / f"{what}.count"
        failed = len(count.read_text()) if count.exists() else 0
        if failed < times:
            count.write_text("x" * (failed + 1))
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("the simulator broke down")
        return "done at last"

    return do


def broken_set_up():
    raise ValueError("no simulator here")


def wait_for_each_other(folder, workers=3):
    """Return when so many processes are here, and complain if they do not come."""
    (Path(folder) / str(os.getpid())).touch()
    wait_until(lambda: len(list(Path(folder).iterdir())) >= workers, seconds=20)


class Slow:
    """What takes until all workers are there to be unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return wait_for_each_other, (self.folder,)


def set_up_together(folder, *_):
    if folder is not None:
        wait_for_each_other(folder)
    return lambda task, report: len(task)


def endless_set_up():
    time.sleep(600)


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
