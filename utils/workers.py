"""Worker processes: tasks done side by side; a worker that raises or dies is reported at once and its task done again.

    def setup(name):                                   # called once in each worker
        world = make(name)
        return lambda task, report: score(world, task)  # called for each task; report(n) sends progress, or just a sign
        of life, while it works

    with WorkerPool(setup, ("carracing",), workers=8) as pool:
        pool.run(tasks, on_result=lambda i, score: ...)

Workers are spawned, never forked (a child forked after OpenGL was used hangs), use one thread each (eight workers with
eight threads each are slower than one), leave signals to the parent but for SIGTERM, close what they have opened
(utils/closing.py) however they end, and end within a second when the parent dies, however it dies.

A worker says every BEAT seconds that it is there and how much it has computed, whatever it does. One that is not heard
of for UNHEARD seconds has been stopped (SIGSTOP, a debugger), or its machine has; one that is heard of, and neither
reports progress nor computes for `silence` seconds, hangs. So a long task is not taken for a hung one.

With a `cluster` workers are actors of Ray instead, on whatever machines are in it: utils/ray_workers.py.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import Any

from dreamdrive.utils import closing, interrupts
from dreamdrive.utils.cluster import Carried, Cluster
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.progress import Bar

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
SPAWN = multiprocessing.get_context("spawn")
SILENCE = 900.0  # seconds a worker with a task may neither say anything nor compute before it counts as hung
UNHEARD = 60.0  # seconds a worker may not be heard of at all
BEAT = 5.0  # seconds between two signs of life
BUSY = 0.01  # of the time that has passed, spent computing: less is idling
GRACE = 1.0  # seconds that a worker has to close what it has opened
GLANCE = 5.0  # seconds between two looks at who is silent


class WorkerPool:
    """Workers that keep what `setup(*setup_args)` built, for one `run` after another.

    A worker that raises, dies, is not heard of for `unheard` seconds, or neither says anything nor computes for
    `silence` seconds is replaced and its task done again, up to `retries` times; then UserError. A UserError that a
    worker raises is raised here at once, since doing the task again would not help. After any exception out of `run` no
    worker is left.

    On a `cluster` there are at most `workers`, and no more than it has cores; `carried` says which files go there and
    come back.
    """

    def __init__(
        self,
        setup: Callable,
        setup_args: tuple = (),
        workers: int = 1,
        retries: int = 2,
        silence: float = SILENCE,
        unheard: float = UNHEARD,
        cluster: Cluster | None = None,
        carried: Carried = Carried(),  # noqa: B008  it is frozen
    ):
        self.setup, self.setup_args, self.retries = setup, setup_args, retries
        self.silence, self.unheard = silence, unheard
        self._last_cause = ""  # of a failure
        self.crew = _crew(workers, cluster, carried)
        self.workers: list[Worker | None] = []

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def run(
        self,
        tasks: Sequence,
        on_result: Callable[[int, Any], None],
        on_progress: Callable[[int, Any], None] | None = None,
    ) -> None:
        """Do every task; calls on_result(index of the task, its result) as results come.

        on_progress(index, n) is called for each report(n) of a worker, and on_progress(index, None) when a task is to
        be done again from its start.
        """
        with interrupts.at_once():
            try:
                self._run(tasks, on_result, on_progress)
            except BaseException:
                self.close()
                raise

    def _run(
        self, tasks: Sequence, on_result: Callable[[int, Any], None], on_progress: Callable[[int, Any], None] | None
    ) -> None:
        waiting = deque(range(len(tasks)))
        failures = [0] * len(tasks)
        done = 0
        while done < len(tasks):
            self._hand_out(tasks, waiting)
            for worker, kind, value in self._messages():
                index = worker.task
                if kind == "user error":
                    raise UserError(value)
                if kind == "failure":
                    self._failed(worker, value, failures)
                elif kind == "listening":
                    worker.set_up(self.setup, self.setup_args)
                elif kind == "ready":
                    worker.ready = True
                if index is None:
                    continue  # it died idle, or its task was given to another
                if kind == "failure":
                    waiting.appendleft(index)
                    if on_progress is not None:
                        on_progress(index, None)
                elif kind == "ready":
                    worker.do(tasks[index])
                elif kind == "progress":
                    if on_progress is not None:
                        on_progress(index, value)
                elif kind == "result":
                    worker.task = None
                    done += 1
                    on_result(index, value)

    def close(self) -> None:
        """End every worker, also one in the middle of a task."""
        self.crew.close([worker for worker in self.workers if worker is not None])
        self.workers = []

    def _hand_out(self, tasks: Sequence, waiting: deque) -> None:
        """A task for every worker without one; one that is not ready is sent it when it says that it is."""
        if waiting:
            self.workers += [None] * (self.crew.size - len(self.workers))  # a cluster may have grown
        for slot, worker in enumerate(self.workers):
            if not waiting and worker is not None and worker.ready and worker.task is None:
                self._take_over(waiting)
            if not waiting:
                continue
            if worker is None:
                worker = self.workers[slot] = self.crew.hire(min(BEAT, self.unheard / 4))
            if worker.task is None:
                worker.task, worker.silent, worker.unheard = waiting.popleft(), 0.0, 0.0
                if worker.ready:
                    worker.do(tasks[worker.task])

    def _take_over(self, waiting: deque) -> None:
        """What a worker was to do that has no machine yet waits for another."""
        for worker in self.workers:
            if worker is not None and worker.task is not None and not worker.placed:
                waiting.append(worker.task)
                worker.task = None
                return

    def _messages(self) -> "Iterator[tuple[Worker, str, Any]]":
        """Wait, then yield (worker, kind, value); kind is "listening", "ready", "progress", "result", "user error" or
        "failure"."""
        glance = min(GLANCE, self.silence / 2, self.unheard / 2)
        since = time.monotonic()
        hired = [worker for worker in self.workers if worker is not None]
        speaking = self.crew.speaking(hired, glance)
        waited = min(time.monotonic() - since, glance)  # no more, however long the whole program was suspended
        for worker in [w for w in hired if w.task is not None]:
            complaint = worker.wait(waited, self.silence, self.unheard)
            if complaint and worker not in speaking:
                yield worker, "failure", complaint
        for worker in speaking:
            for kind, value in worker.messages():
                yield worker, kind, value

    def _failed(self, worker: "Worker", cause: str, failures: list[int]) -> None:
        """Clear the slot of `worker`, so that the next task starts another, and report it if it had a task; UserError
        if that has failed too often to be done again."""
        worker.end()
        self.workers[self.workers.index(worker)] = None
        if worker.task is None:
            return
        count = failures[worker.task] = failures[worker.task] + 1
        verdict = f"doing it again ({count} of {self.retries})" if count <= self.retries else "giving up"
        say(f"{told_once(cause, self._last_cause)}\n{worker.name} failed on task {worker.task}; {verdict}")
        self._last_cause = cause
        if count > self.retries:
            raise given_up(worker.task, count, cause)


class Worker(ABC):
    """What does tasks, one after another.

    Attributes:
        task: index of what it is doing, or is to do when it is ready
        ready: its set-up is done
        placed: there is a machine that it is on
        silent: for how many seconds it neither said anything nor computed
        unheard: for how many seconds nothing was heard of it, not even that it is there
        pid, name: its process, and what it is called in messages
    """

    placed = True
    pid: int | None
    name: str

    def __init__(self, beat: float) -> None:
        self.task: int | None = None
        self.ready = False
        self.silent = self.unheard = 0.0
        self._beat, self._computed = beat, 0.0

    @abstractmethod
    def set_up(self, setup: Callable, setup_args: tuple) -> None:
        """Have it call `setup(*setup_args)`; it said that it is "listening"."""

    @abstractmethod
    def do(self, task: Any) -> None:
        """Have it do a task; it said that it is "ready", or has done another."""

    @abstractmethod
    def said(self) -> Iterator[tuple[str, Any]]:
        """All that it has said, one after another: (kind, value)."""

    def messages(self) -> Iterator[tuple[str, Any]]:
        """What it has said, up to what is to be answered."""
        for kind, value in self.said():
            self.heard(kind, value)
            if kind == "alive":
                continue
            yield kind, value
            if kind != "progress":
                break

    @abstractmethod
    def end(self) -> None:
        """Let it close what it has opened, for GRACE seconds at most."""

    def heard(self, kind: str, value: Any) -> None:
        """It has said something; "alive" comes with the seconds that it has computed so far."""
        self.unheard = 0.0
        if kind != "alive":
            self.silent = 0.0
        elif value - self._computed > BUSY * self._beat:
            self.silent, self._computed = 0.0, value

    def wait(self, seconds: float, silence: float, unheard: float) -> str:
        """So much time has gone; what is wrong with a worker that was not heard of, or only that it is there, for too
        long, "" for nothing."""
        self.silent, self.unheard = self.silent + seconds, self.unheard + seconds
        if self.unheard > unheard:
            return f"{self.name} was not heard of for {unheard:g} seconds: {self.why_unheard()}"
        return f"{self.name} said nothing for {silence:g} seconds: it hangs" if self.silent > silence else ""

    def why_unheard(self) -> str:
        return "it hangs"


class _Process(Worker):
    """One process and the pipe to it.

    It is sent something only when it waits for that: a pipe holds 64 kB, and whoever sends more waits with it for the
    end of an import or a set-up.
    """

    def __init__(self, beat: float) -> None:
        super().__init__(beat)
        self.pipe, theirs = SPAWN.Pipe()
        self.process = spawned(_work, theirs, beat)
        self.pid = self.process.pid
        self.name = f"worker {self.pid}"
        theirs.close()

    def set_up(self, setup: Callable, setup_args: tuple) -> None:
        self._send((setup, setup_args))

    def do(self, task: Any) -> None:
        self._send(task)

    def _send(self, content: Any) -> None:
        try:
            self.pipe.send(content)
        except ConnectionError:
            pass  # it just died: its sentinel says so in `messages`

    def said(self) -> Iterator[tuple[str, Any]]:
        try:
            while self.pipe.poll():  # what it said before it died counts
                yield self.pipe.recv()
            if not self.process.is_alive() and not self.pipe.poll():
                yield "failure", self._cause_of_death()
        except (EOFError, ConnectionError):
            self.process.join(5)
            yield "failure", self._cause_of_death()

    def why_unheard(self) -> str:
        return "it has been stopped, by SIGSTOP or a debugger" if is_stopped(self.pid) else "it hangs"

    def _cause_of_death(self) -> str:
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"{self.name} was killed by {signal.Signals(-code).name}" + (
                " (out of memory?)" if code == -signal.SIGKILL else ""
            )
        return f"{self.name} ended by itself with status {code}"

    def end(self, grace: float = GRACE) -> None:
        if grace:
            self.process.terminate()
            self.process.join(grace)
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Crew(ABC):
    """Where workers come from.

    Attributes:
        size: how many there may be; a cluster is asked
        mixed: whether some have been found to compute differently in the last bit
    """

    size: int
    mixed = False

    @abstractmethod
    def hire(self, beat: float) -> Any:
        """Another Worker, which says every `beat` seconds that it is there."""

    @abstractmethod
    def speaking(self, workers: Sequence[Any], seconds: float) -> list[Any]:
        """Those of `workers` that have said something, as soon as there is one, or after so many seconds."""

    @abstractmethod
    def close(self, workers: Sequence[Any]) -> None:
        """End them all."""


class _Processes(Crew):
    """Workers that are processes of this machine."""

    def __init__(self, size: int) -> None:
        self.size = size

    def hire(self, beat: float) -> _Process:
        return _Process(beat)

    def speaking(self, workers: Sequence[_Process], seconds: float) -> list[_Process]:
        sources = {source: worker for worker in workers for source in (worker.pipe, worker.process.sentinel)}
        found = {id(sources[source]): sources[source] for source in connection.wait(list(sources), seconds)}  # type: ignore[index]
        return list(found.values())

    def close(self, workers: Sequence[_Process]) -> None:
        for worker in workers:
            worker.process.terminate()
        deadline = time.monotonic() + GRACE
        for worker in workers:
            worker.process.join(max(0, deadline - time.monotonic()))
            worker.end(grace=0.0)


def _crew(workers: int, cluster: Cluster | None, carried: Carried) -> Crew:
    if cluster is None:
        return _Processes(workers)
    from dreamdrive.utils.ray_workers import Actors  # when asked for

    return Actors(workers, cluster, carried)


def spawned(target: Callable, *arguments: Any) -> multiprocessing.process.BaseProcess:
    """A process that has been started, with one thread for its arithmetic, deaf to what a terminal sends."""
    process = SPAWN.Process(target=target, args=arguments, daemon=True)
    with _one_thread(), _no_interrupt():
        process.start()
    return process


def told_once(cause: str, last: str) -> str:
    """What is said of a failure, after the `last` one: a traceback is worth reading once."""
    return f"the same again: {cause.splitlines()[-1]}" if cause == last else cause


def given_up(task: int, count: int, cause: str) -> UserError:
    """What is said of a task that has failed so often."""
    return UserError(
        f"task {task} failed {count} times, the last time so: {cause.splitlines()[-1]}; "
        "mend the cause shown above, then run the same command again"
    )


def is_stopped(pid: int | None) -> bool:
    """Whether a process is, as by Ctrl-Z."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except OSError:  # it is gone, or there is no /proc
        return False


@contextmanager
def _one_thread() -> Iterator[None]:
    """What is started inside has one thread for its arithmetic."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """What is started inside never sees Ctrl-C and the like, not even while it is still importing; ours waits until the
    end of the block."""
    with interrupts.shielded():
        resource_tracker.ensure_running()  # starting it unblocks Ctrl-C
    with interrupts.shielded():
        yield


def _work(pipe: connection.Connection, beat: float) -> None:
    """Life of a worker."""
    # of one whose parent is gone already nobody holds the other end of the pipe
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    # a world may have processes of its own, which close with it; without this flag multiprocessing refuses them
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(interrupts.status(signal.SIGTERM)))  # before SDL takes it
    say = Mouth(pipe)
    threading.Thread(target=_live, args=(say, beat), daemon=True).start()
    try:
        say("listening", None)
        setup, setup_args = pipe.recv()
        do = setup(*setup_args)
        say("ready", None)
        while True:
            task = pipe.recv()
            say("result", do(task, lambda n: say("progress", n)))
    except (EOFError, ConnectionError):  # the parent is gone
        pass
    except UserError as error:
        say("user error", str(error))
    except Exception:
        say("failure", traceback.format_exc().rstrip())
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is on its way
        closing.close_all()


class Mouth:
    """The way to the parent of two threads that do not speak at once."""

    def __init__(self, pipe: connection.Connection) -> None:
        self._pipe, self._lock = pipe, threading.Lock()

    def __call__(self, kind: str, value: Any) -> None:
        with self._lock:
            self._pipe.send((kind, value))


def _live(say: Mouth, beat: float) -> None:
    """Say again and again that this process is there, and how many seconds it has computed."""
    while True:
        time.sleep(beat)
        try:
            say("alive", time.process_time())
        except OSError:  # the parent is gone, or has heard enough
            return


def end_with(parent: int) -> None:
    """End this process when it is no longer `parent`'s child."""
    while os.getppid() == parent:
        time.sleep(0.3)
    os._exit(1)


def say(text: str) -> None:
    """Print to stderr without tearing a progress bar."""
    Bar.write(text, file=sys.stderr)
    sys.stderr.flush()
