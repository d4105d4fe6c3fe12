"""A Ray cluster on this computer: a head and other nodes, each with a core, for tests and measurements.

    python -m benchmarks.ray_nodes --port 6379 --nodes 2

It is there until Ctrl-C, and nothing of it afterwards.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.utils.argument_types import positive
from dreamdrive.utils.ray_actor import Hand, installed
from dreamdrive.utils.ray_workers import Actors, Broker, broker
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser
from dreamdrive.utils.workers import spawned

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Nodes:
    """Nodes, the first of which is the head; a context manager, after which nothing of them is left."""

    def __init__(self, nodes: int = 2, port: int = 0, cores: int = 1) -> None:
        self._leads = os.getsid(0) == os.getpid()  # a session, which then is theirs, too
        self.port = port or free_port()
        self.address, self.cores = f"127.0.0.1:{self.port}", cores
        self.folder = tempfile.TemporaryDirectory(
            prefix="ray", dir="/tmp", ignore_cleanup_errors=True
        )  # short: sockets
        self.nodes: list[subprocess.Popen] = []
        try:
            self.add("--head", f"--port={self.port}", f"--temp-dir={self.folder.name}", "--include-dashboard=false")
            for _ in range(nodes - 1):
                self.add(f"--address={self.address}")
        except BaseException:
            self.close()
            raise

    def add(self, *flags: str, env: dict[str, str] | None = None) -> None:
        """Another node."""
        words = [
            *flags,
            f"--num-cpus={self.cores}",
            "--object-store-memory=200000000",
            "--disable-usage-stats",
            "--block",
        ]
        node = subprocess.Popen(
            [str(Path(sys.executable).with_name("ray")), "start", *words],
            env={**os.environ, **SETTINGS, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=not self._leads,
        )
        self.nodes.append(node)
        assert node.stdout is not None
        said = ""
        while "runtime started" not in said:
            line = node.stdout.readline()
            said += line
            if not line:
                raise RuntimeError(f"a Ray node did not start: {said}")
        threading.Thread(target=node.stdout.read, daemon=True).start()

    def processes(self, *words: str) -> list[int]:
        """Processes of these nodes with all of the words in their command lines, oldest first."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().decode(errors="replace")
            except OSError:
                continue
            if all(word in line for word in words):
                found.append(int(path.parent.name))
        return sorted(found)

    def raylets(self) -> list[int]:
        """One a node, in the order of the nodes."""
        return self.processes("--raylet_socket_name=", self.folder.name)

    def kill(self, node: int) -> None:
        """kill -9 a node's raylet."""
        os.kill(self.raylets()[node], signal.SIGKILL)

    def kill_head(self) -> None:
        """kill -9 all that the head runs."""
        for pid in [*self.processes("gcs_server", self.folder.name), self.raylets()[0]]:
            os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> "Nodes":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        for node in reversed(self.nodes):
            node.terminate()
        for node in self.nodes:
            try:
                node.wait(10)
            except subprocess.TimeoutExpired:
                node.kill()
        for session in [os.getpid()] if self._leads else [node.pid for node in self.nodes]:
            for pid in sessions_of(session) - {os.getpid()}:  # what they started
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.folder.cleanup()


def sleeper():
    """The set-up of a worker that sleeps for as many seconds as a task says, and answers with so many bytes."""

    def do(task: tuple[float, int], report: Any) -> bytes:
        seconds, answer = task
        time.sleep(seconds)
        return bytes(answer)

    return do


class Sleeper(Hand):
    """An actor that does not look at what it computes, for which it would import torch: so many fit into memory."""

    def about(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "host": socket.gethostname(), "node": "", **installed(), "product": ""}


def sleeping_broker(*arguments: Any) -> None:
    """The broker's process, of sleeping actors."""
    Broker.HAND = Sleeper
    broker(*arguments)


class Sleepers(Actors):
    """Workers of a cluster that sleep."""

    def _started(self, theirs: connection.Connection) -> Any:
        process = spawned(sleeping_broker, theirs, os.getpid(), self._cluster, self._carried)
        theirs.close()
        return process

    @property
    def broker(self) -> int:
        """Its process."""
        return self._process.pid


@contextlib.contextmanager
def nodes_beside(nodes: int = 2) -> Iterator[str]:
    """The address of nodes that are one session, and not this process's: on a busy machine each session gets its share
    of the cores."""
    words = ["-m", "dreamdrive.benchmarks.ray_nodes", "--nodes", str(nodes), "--port", str(free_port())]
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[1].rstrip(",")
    finally:
        process.terminate()
        process.wait(30)


def computed(pid: int | None) -> float:
    """Seconds that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sessions_of(session: int) -> set[int]:
    """Processes of a session."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[3]) == session:
                found.add(int(path.parent.name))
        except OSError:
            continue
    return found


def main(argv: Sequence[str] | None = None) -> None:
    p = parser(__doc__)
    p.add_argument("--port", type=positive, default=6379, help="of the head")
    p.add_argument("--nodes", type=positive, default=2, help="how many there are, the head included")
    p.add_argument("--cores", type=positive, default=1, help="that each of them says it has")
    args = p.parse_args(argv)
    with Nodes(args.nodes, args.port, args.cores) as cluster:
        print(f"--ray {cluster.address}, raylets {' '.join(map(str, cluster.raylets()))}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    run(main)
