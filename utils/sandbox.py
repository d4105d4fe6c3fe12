"""A process of its own that looks at files of others: what a damaged or hostile file does to a library written in C (a
crash, memory without end, time without end) happens there, and is one sentence here.

    call(examine, (str(path),), memory=512 << 20, seconds=60)

The process is told by name which function of ours to call, and both ways carry JSON alone, so that whatever has come
over it can say nothing but text. It may take so much memory and processor time, writes no file, and ends when it has
nothing to do for a while, or with its parent.
"""

import atexit
import contextlib
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from dreamdrive.utils.errors import UserError

IDLE = 10.0  # seconds after which a process without work ends
PATIENCE = 10.0  # times the processor time that a call may take, until it counts as hung: its disk may be slow
START = 60.0  # seconds that a process may take to start on top of that
BEGIN = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from dreamdrive.utils.sandbox import serve; serve()"
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Died(ValueError):
    """The process ended in the middle of a call, and how; the file is to blame."""


def call(function: Callable, args: tuple, memory: int, seconds: float) -> Any:
    """What `function(*args)` of a module of ours gives, in a process of its own; arguments and result are plain values.

    `memory`, bytes, and `seconds`, of a processor, are what the call may take on top of what the process has: Died
    where it takes more, or crashes. UserError and OSError come through as they are, whatever else is raised as a
    ValueError.
    """
    request = {"function": [function.__module__, function.__name__], "args": args, "memory": memory, "seconds": seconds}
    answer = _process().ask(json.dumps(request).encode() + b"\n", memory, seconds)
    if "result" in answer:
        return answer["result"]
    said = str(answer.get("said"))
    if answer.get("kind") == "user":
        raise UserError(said)
    if answer.get("kind") == "system":
        raise OSError(answer.get("number"), said)
    if answer.get("kind") == "memory":
        raise Died(_too_much(memory))
    raise ValueError(said)


def _too_much(memory: int) -> str:
    return f"it takes more than {memory / 1e6:.0f} MB to read"


# Here


class _Process:
    """A process that serves calls, one after another, for any number of threads; started when it is asked."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None

    def ask(self, request: bytes, memory: int, seconds: float) -> dict[str, Any]:
        with self._lock:
            for attempt in (1, 2):
                try:
                    answer = self._exchange(request, PATIENCE * seconds + START)
                except BaseException:  # Ctrl-C among them: nobody would hear the answer
                    self._end(0.0)
                    raise
                if answer:
                    return self._plain(answer)
                status = self._end()
                if status != 0 or attempt == 2:  # 0: it had just ended, with nothing to do
                    break
        raise Died(_how(status, memory, seconds))

    def _exchange(self, request: bytes, patience: float) -> bytes:
        """The answer to a request; empty if the process ends."""
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(request)
            process.stdin.flush()
        parts: list[bytes] = []
        until = time.monotonic() + patience
        while not (parts and parts[-1].endswith(b"\n")):
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                process.send_signal(signal.SIGPROF)  # as the system does when its processor time is over
                return b""
            part = os.read(process.stdout.fileno(), 1 << 20)
            if not part:
                return b""
            parts.append(part)
        return b"".join(parts)

    def _started(self) -> subprocess.Popen:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", BEGIN, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **dict.fromkeys(ONE_THREAD, "1")},
                start_new_session=True,  # Ctrl-C is not for it
            )
        return self._process

    def _end(self, patience: float = 1.0) -> int | None:
        """End the process, and say with which status it did: by itself, if that is within `patience` seconds."""
        process, self._process = self._process, None
        if process is None:
            return None
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            return process.wait(patience)  # it is ending, and its status is the reason
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _plain(self, answer: bytes) -> dict[str, Any]:
        try:
            found = json.loads(answer)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            self._end()
            raise Died("the process that read it said something that is none of its answers")
        return found

    def close(self) -> None:
        if os.getpid() == self.owner:
            self._end()


_ours: _Process | None = None


def _process() -> _Process:
    """This process's own one: one that was forked has none of its parent's."""
    global _ours
    if _ours is None or _ours.owner != os.getpid():
        _ours = _Process()
        atexit.register(_ours.close)
    return _ours


def close() -> None:
    """End this process's own one; the next call starts another."""
    if _ours is not None:
        _ours.close()


def _how(status: int | None, memory: int, seconds: float) -> str:
    if status == -signal.SIGPROF:
        return f"it takes more than {seconds:.3g} s of a processor to read"
    if status is not None and status < 0:
        with contextlib.suppress(ValueError):
            return f"it makes what reads it crash, by {signal.Signals(-status).name}"
    return f"what reads it ends, with status {status}"


# There


def serve(idle: float = IDLE) -> None:
    """Answer requests, a line each, until there are none for so many seconds."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))
    while select.select([requests], [], [], idle)[0]:
        line = requests.readline()
        if not line:
            return
        answers.write(json.dumps(_answer(json.loads(line))).encode() + b"\n")
        answers.flush()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))  # what is imported is ours
    module, name = request["function"]
    try:
        function = getattr(importlib.import_module(module), name)
        _limit(request["memory"], request["seconds"])
        return {"result": function(*request["args"])}
    except UserError as error:
        return {"kind": "user", "said": str(error)}
    except MemoryError:
        return {"kind": "memory"}
    except OSError as error:
        return {"kind": "system", "number": error.errno, "said": error.strerror or str(error)}
    except Exception as error:  # a damaged file can fail anywhere in a library
        return {"kind": "other", "said": str(error) or type(error).__name__}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _limit(memory: int, seconds: float) -> None:
    """What the process may take from now on."""
    has = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (has + memory if most < 0 else min(has + memory, most), most))
    signal.setitimer(signal.ITIMER_PROF, seconds)  # of a processor; its signal ends a process that has no handler
