"""A worker that is an actor of Ray, on whatever machine that has put it: what it says of its machine, the set-up it
holds, the tasks it does. Who tells it so: utils/ray_workers.py.

A thread of it works. What it says meanwhile waits for `hear`, which answers after BEAT seconds in any case, so that it
is known to be there.
"""

import contextlib
import hashlib
import os
import pickle
import platform
import queue
import shutil
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.utils import closing
from dreamdrive.utils.cluster import mapped
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.source import modules_digest
from dreamdrive.utils.travelling import PIECE, Cache, Listing

PACKAGES = ("torch", "numpy", "h5py", "gymnasium", "box2d", "ale-py", "cma", "ncps")  # that results depend on
GATHER = 1.0  # seconds in which reports of progress are gathered into one answer: whoever hears it hears many


class Hand:
    """The actor.

    Args:
        beat: seconds after which `hear` answers in any case
        reads: (what arguments of the set-up call it, what is in it) of each folder that is read
        writes: the folder, an argument of the set-up, that files are written to
        environment: variables; path: where modules are found
    """

    def __init__(
        self,
        beat: float,
        reads: Sequence[tuple[str | Path, Listing]],
        writes: Path | None,
        environment: dict[str, str],
        path: Sequence[str],
    ) -> None:
        os.environ.update(environment)
        sys.path[:] = [*path, *(place for place in sys.path if place not in path)]
        self._beat, self._reads, self._writes = beat, reads, writes
        self._said: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._room = threading.Semaphore(1)  # of pieces of files that wait to be heard
        threading.Thread(target=self._work, daemon=True).start()

    # What it is told

    def hear(self) -> list[tuple[str, Any]]:
        """What it has said since it was last heard, in order, and at the end how long it has computed."""
        said: list[tuple[str, Any]] = []
        with contextlib.suppress(queue.Empty):
            said.append(self._said.get(timeout=self._beat))
            since = time.monotonic()
            while said[-1][0] == "progress":
                said.append(self._said.get(timeout=max(0.0, since + GATHER - time.monotonic())))
        if said and said[-1][0] == "part":
            name, offset = said[-1][1]
            said[-1] = "part", (name, self._part(name, offset))
            self._room.release()
        return [*said, ("alive", time.process_time())]

    def begin(self, setup: bytes, sent: list) -> None:
        """Set up; `sent` refers to pieces of the files that it lacks."""
        self._told.put((setup, sent))

    def do(self, task: bytes) -> None:
        self._told.put(task)

    def stop(self) -> None:
        """Close what is open."""
        closing.close_all()

    # What it does

    def _say(self, kind: str, value: Any) -> None:
        self._said.put((kind, value))

    def _work(self) -> None:
        try:
            cache = Cache()
            lacks = cache.lacks(digest for _, listing in self._reads for digest in listing.values())
            self._say("listening", {**self.about(), "lacks": lacks})
            setup, sent = self._told.get()
            cache.take(map(_fetched, sent))
            do, arguments = pickle.loads(setup)
            do = do(*mapped(arguments, self._there(cache)))
            self._say("ready", None)
            while True:
                self._deliver(do(pickle.loads(self._told.get()), self._report))
        except UserError as error:
            self._say("user error", str(error))
        except BaseException:
            self._say("failure", traceback.format_exc().rstrip())

    def about(self) -> dict[str, Any]:
        """What this process and its machine are: pid, host, node, code and packages, and what it computes."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        return {"pid": os.getpid(), "host": socket.gethostname(), "node": node[:6], **installed(), "product": product()}

    def _report(self, value: Any) -> None:
        self._say("progress", pickle.dumps(value))

    def _there(self, cache: Cache) -> Any:
        """What arguments of the set-up are here."""
        names: dict[Any, Any] = {name: type(name)(cache.place(listing)) for name, listing in self._reads}
        if self._writes is not None:
            names[self._writes] = self._scratch = _scratch()
            closing.close_at_end(self, shutil.rmtree, self._scratch, True)
        cache.clear()
        return lambda value: names.get(value, value) if isinstance(value, (str, Path)) else value

    def _deliver(self, result: Any) -> None:
        """Say what has come of a task, after the files that are named in it."""
        written: list[Path] = []

        def home(value: Any) -> Any:
            if self._writes is None or not isinstance(value, Path) or value.parent != self._scratch:
                return value
            written.append(value)
            return self._writes / value.name

        said = pickle.dumps(mapped(result, home))
        for path in written:
            size = path.stat().st_size
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            for offset in range(0, max(size, 1), PIECE):
                self._room.acquire()  # no more than one of them is in memory
                self._say("part", (path.name, offset))
            self._room.acquire()  # the last one has been heard
            self._room.release()
            path.unlink()
            self._say("file", (path.name, digest))
        self._say("result", said)

    def _part(self, name: str, offset: int) -> bytes:
        with open(self._scratch / name, "rb") as file:
            file.seek(offset)
            return file.read(PIECE)


def _fetched(reference: Any) -> Any:
    import ray

    return ray.get(reference)


def _scratch() -> Path:
    """A folder for files on their way; those that were killed have left theirs."""
    own = f"dreamdrive-ray-{os.getuid()}-"
    for other in Path(tempfile.gettempdir()).glob(f"{own}*"):
        pid = other.name.removeprefix(own).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(other, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{own}{os.getpid()}-"))


def installed() -> dict[str, str]:
    """The versions that results depend on, and the digest of our own code."""
    found = {"python": platform.python_version(), "dreamdrive": modules_digest()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name).split("+")[0]
    return found


def product() -> str:
    """sha256 of what this machine makes of some numbers, which tells instruction sets apart whose results differ in the
    last bit."""
    import numpy as np
    import torch

    line = torch.arange(19200, dtype=torch.float64).mul(0.37).sin()
    a, b = line.float().reshape(64, 300), line.flip(0).float().reshape(300, 64)
    pictures, kernels = line[:12288].float().reshape(4, 3, 32, 32), line[:384].float().reshape(8, 3, 4, 4)
    functions = torch.nn.functional
    with torch.inference_mode():
        found = [
            a @ b,
            (a[:4] @ b).tanh(),
            functions.conv2d(pictures, kernels, stride=2),
            functions.layer_norm(a, (300,)),
            functions.grid_sample(pictures, line[:8192].float().reshape(4, 32, 32, 2), align_corners=False),
            (3 * a).sigmoid(),
            a.softmax(1),
            a.exp().sum(1),
            (line * 1e3).sin(),
        ]
    numbers = line.numpy()
    found += [torch.from_numpy(f(numbers)) for f in (np.exp, np.tanh, np.cos)]
    return hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in found)).hexdigest()
