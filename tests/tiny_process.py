"""Scripts, and workers, in processes of their own that start at once: forked from one that has imported what they need
and does nothing else. Scripts may be struck by a signal at a moment that can be told in advance, and so again."""

import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamdrive.tests.tiny_run import Done

READY = (
    "trainvae",
    "trainmdrnn",
    "data.generation_script",
    "driving.recording",
    "driving.evaluation",
    "driving.repair",
    "data.exchange",
)
MATTER = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link")  # what files become is decided there
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [*(f"dreamdrive.{module}" for module in READY), __name__, "torch._dynamo", "matplotlib.backends.backend_agg"]
)

SPAWN = multiprocessing.get_context("spawn")
OF_TESTS = {"PYTEST_CURRENT_TEST"}  # what is in the environment and nothing depends on


class WorkerContext:
    """In the place of utils.workers.SPAWN, for scripts that tests run within their own process: workers come from
    SERVER, but where a test has changed the environment, of which a server's children know nothing. Scripts that are
    processes of their own spawn theirs."""

    Pipe = staticmethod(SPAWN.Pipe)

    def __init__(self) -> None:
        self._environment = self._now()

    def _now(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name not in OF_TESTS}

    def Process(self, **how: Any) -> Any:  # noqa: N802  as multiprocessing has it
        return (SERVER if self._now() == self._environment else SPAWN).Process(**how)


@dataclass(frozen=True)
class Strike:
    """A signal to a script, just before the n-th time that it writes, renames or removes a file, or counts a batch."""

    moment: int
    number: signal.Signals = signal.SIGKILL


def go(folder: Path, module: str, *options, strike: Strike | None = None) -> Done:
    """Run a script in `folder`; its workers' tasks are done in its own process."""
    with tempfile.TemporaryDirectory(prefix="said-") as said:
        process = SERVER.Process(target=_live, args=(folder, said, module, tuple(map(str, options)), strike))
        process.start()
        process.join()
        out, err = ((Path(said) / name).read_text(errors="replace") for name in ("out", "err"))
    return Done(process.exitcode, out, err)


def _live(folder: Path, said: str, module: str, options: tuple[str, ...], strike: Strike | None) -> None:
    import torch

    from dreamdrive.utils.script import run
    from dreamdrive.utils.workers import WorkerPool

    os.chdir(folder)
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(said) / name, os.O_WRONLY | os.O_CREAT), descriptor)
    torch.set_num_threads(1)
    WorkerPool.run = run_here
    main = importlib.import_module(f"dreamdrive.{module}").main
    sys.argv = [f"{module}.py", *options]
    if strike:
        _await(strike)
    run(main)


def _await(strike: Strike) -> None:
    from dreamdrive.utils.metrics import Mean

    left = strike.moment

    def moment() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), strike.number)

    def hook(event: str, args: tuple) -> None:
        if event in MATTER or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)):
            moment()

    add = Mean.add

    def adding(mean: Mean, *values: Any) -> None:
        add(mean, *values)
        moment()

    Mean.add = adding
    sys.addaudithook(hook)


def run_here(pool: Any, tasks: list, on_result: Callable, on_progress: Callable | None = None) -> None:
    """In the place of `WorkerPool.run`: the tasks are done in this process, which saves the start of others."""
    import torch

    from dreamdrive.utils import interrupts

    with interrupts.at_once(), torch.random.fork_rng():  # a worker has random numbers of its own
        pool.here = do = getattr(pool, "here", None) or pool.setup(*pool.setup_args)
        for index, task in enumerate(tasks):
            on_result(index, do(task, lambda n: None))
