"""Workers that are actors of a Ray cluster (utils/ray_actor.py), for the WorkerPool of utils/workers.py.

                    pipe                                 Ray
    WorkerPool  <----------->  broker, a process here  <----->  an actor a worker, on any node

Ray is in a process of its own, the broker: what it does to whoever uses it, as to take SIGTERM, to write to the
terminal, or to abort when its head is gone, is not done to a training. The broker hands on what the pool says and what
actors say, whose values it does not look into; files on their way to actors and back do not pass through the pool.
Whatever comes to an actor, Ray does nothing about it: the pool does its task again.
"""

import contextlib
import hashlib
import logging
import os
import pickle
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing import connection
from pathlib import Path
from typing import Any

import cloudpickle  # gymnasium's

from dreamdrive.utils import modules
from dreamdrive.utils.cluster import Carried, Cluster, require_ray
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.ray_actor import Hand, installed
from dreamdrive.utils.settings import QUIET
from dreamdrive.utils.travelling import Listing, listing_of, pieces
from dreamdrive.utils.workers import GRACE, SPAWN, THREAD_VARIABLES, Crew, Worker, end_with, say, spawned

GLANCE = 0.2  # seconds after which the broker looks for new workers
PULSE = 1.0  # seconds between two looks whether the head is there
COUNTED = 2.0  # seconds between two looks how many cores there are
MISSED = 3  # of them in a row after which it is not
PATIENCE = 15.0  # seconds that workers may wait for a core before that is said
METHODS_AT_ONCE = 4  # of an actor
CONNECTED = 30.0  # seconds that it may take to be connected
START = "`ray start --head --port 6379 --include-dashboard=false` on its head, and `ray start --address HOST:6379` here"
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_DEDUP_LOGS": "0"}


class Lost(UserError):
    """The cluster, or the broker, is gone."""


def lost(address: str) -> Lost:
    return Lost(
        f"the Ray cluster {address} is gone, its head, or what Ray runs on this machine: start it again and run the "
        "same command again to resume, or resume on this machine alone, without --ray"
    )


# In the process of the pool


class Actors(Crew):
    """Workers of a cluster."""

    def __init__(self, most: int, cluster: Cluster, carried: Carried) -> None:
        require_ray()
        self._most, self._cluster, self._carried = most, cluster, carried
        self._pipe: connection.Connection | None = None
        self._process: Any = None
        self._cores = self._hired = 0
        self._actors: dict[int, Actor] = {}
        self._kind: tuple[str, str] | None = None  # of processor, and who has it
        self._given: bytes | None = None  # the set-up, as the broker has it
        self._waited = 0.0

    @property
    def size(self) -> int:  # type: ignore[override]
        self._connect()
        return min(self._most, self._cores)

    def _connect(self) -> None:
        if self._pipe is not None:
            return
        ours, theirs = SPAWN.Pipe()
        self._process = self._started(theirs)
        self._pipe = ours
        try:
            _, kind, value = self._received()
            if kind == "failure":
                raise RuntimeError(value)
            if kind != "connected":
                raise UserError(value)
        except BaseException:
            self.close([])
            raise
        self._cores = value

    def _started(self, theirs: connection.Connection) -> Any:
        """The broker's process, which has the other end of the pipe."""
        process = spawned(broker, theirs, os.getpid(), self._cluster, self._carried)
        theirs.close()
        return process

    def hire(self, beat: float) -> "Actor":
        self._connect()
        self._hired += 1
        actor = self._actors[self._hired] = Actor(self, self._hired, beat)
        self.tell("hire", actor.number, beat)
        return actor

    def speaking(self, workers: Sequence["Actor"], seconds: float) -> list["Actor"]:
        assert self._pipe is not None, "somebody was hired"
        if not any(worker.inbox for worker in workers) and self._pipe.poll(seconds):
            while self._pipe.poll():
                number, kind, value = self._received()
                if number in self._actors:
                    self._actors[number].inbox.append((kind, value))
                elif kind == "cores":
                    self._cores = value
                elif number is None:
                    raise Lost(value) if kind == "lost" else RuntimeError(value)
        self._say_waiting(workers)
        return [worker for worker in workers if worker.inbox]

    def close(self, workers: Sequence["Actor"]) -> None:
        if self._pipe is not None:
            self._pipe.close()  # the broker lets actors close what they have opened
            self._process.join(3 * GRACE)
            self._process.kill()
            self._process.join()
        self._pipe, self._given, self._actors = None, None, {}

    def tell(self, what: str, number: int, value: Any = None) -> None:
        """Say something to the broker about a worker."""
        assert self._pipe is not None, "somebody was hired"
        try:
            self._pipe.send((what, number, value))
        except ConnectionError:
            raise lost(self._cluster.address) from None

    def _received(self) -> tuple[int | None, str, Any]:
        assert self._pipe is not None, "somebody was hired"
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionError):
            raise lost(self._cluster.address) from None

    def give(self, number: int, setup: Callable, setup_args: tuple) -> None:
        """Have a worker set up by what all are."""
        if self._given is None:
            self._given = cloudpickle.dumps((setup, setup_args))  # also what a user's own script has defined
            self.tell("keep", number, self._given)
        self.tell("begin", number)

    def forget(self, number: int) -> None:
        """A worker is to end."""
        self._actors.pop(number, None)
        self.tell("end", number)

    def meet(self, name: str, about: dict[str, Any]) -> None:
        """Look at what a new worker says of its machine; UserError where that has other code or packages than this
        one, or another kind of processor than others have."""
        for package, own in installed().items():
            there = about.get(package)
            if there != own:
                what = "other code of dreamdrive" if package == "dreamdrive" else f"{package} {there or 'not at all'}"
                than = "" if package == "dreamdrive" else f", {own}"
                raise UserError(f"{name} has {what}, and not what is here{than}: install the same on every node")
        kind, whose = self._kind = self._kind or (about["product"], name)
        if kind == about["product"] or self.mixed:
            return
        if not self._cluster.mixed:
            raise UserError(
                f"{name} computes otherwise in the last bit than {whose}, so results depend on who has done what: take "
                "nodes of one kind, or allow it with --mixed-nodes"
            )
        self.mixed = True
        say(f"{name} computes otherwise in the last bit than {whose}, which --mixed-nodes allows")

    def _say_waiting(self, workers: Sequence["Actor"]) -> None:
        """Say once that there are too few free cores."""
        late = [worker for worker in workers if not worker.placed]
        since = min((worker.hired for worker in late), default=time.monotonic())
        if self._waited == 0.0 and time.monotonic() - since > PATIENCE:
            self._waited = PATIENCE
            say(f"{len(late)} of {len(workers)} workers wait for the Ray cluster {self._cluster.address} to start them")


class Actor(Worker):
    """A worker as the pool sees it.

    Attributes:
        number: what the broker knows it by        inbox: what it has said        hired: when
    """

    placed = False
    pid = None

    def __init__(self, crew: Actors, number: int, beat: float) -> None:
        super().__init__(beat)
        self._crew, self.number, self.hired = crew, number, time.monotonic()
        self.inbox: deque[tuple[str, Any]] = deque()
        self.name = "a worker of the cluster"

    def set_up(self, setup: Callable, setup_args: tuple) -> None:
        self._crew.give(self.number, setup, setup_args)

    def do(self, task: Any) -> None:
        self._crew.tell("do", self.number, pickle.dumps(task))

    def said(self) -> Iterator[tuple[str, Any]]:
        while self.inbox:
            kind, value = self.inbox.popleft()
            if kind == "listening":
                self.placed, self.pid = True, value["pid"]
                self.name = f"worker {self.pid} on {value['host']} (node {value['node']})"
                self._crew.meet(self.name, value)
            elif kind in ("progress", "result"):
                value = pickle.loads(value)
            elif kind == "died":
                kind, value = "failure", f"{self.name} {value}"
            yield kind, value

    def wait(self, seconds: float, silence: float, unheard: float) -> str:
        """Without a machine it may wait as long as it takes."""
        return super().wait(seconds, silence, unheard) if self.placed else ""

    def why_unheard(self) -> str:
        return "it has been stopped, or it hangs, or the network does"

    def end(self) -> None:
        with contextlib.suppress(Lost):
            self._crew.forget(self.number)


# In the broker


class Tell:
    """The way to the pool of several threads: (number of a worker or None, kind, value)."""

    def __init__(self, pipe: connection.Connection) -> None:
        self._pipe, self._lock = pipe, threading.Lock()

    def __call__(self, number: int | None, kind: str, value: Any) -> None:
        with self._lock:
            self._pipe.send((number, kind, value))


def broker(pipe: connection.Connection, parent: int, cluster: Cluster, carried: Carried) -> None:
    """Life of the broker."""
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # what Ray has to say is in its own logs
        os.dup2(nowhere, descriptor)
    tell = Tell(pipe)
    try:
        late = threading.Timer(CONNECTED, _too_late, (tell, cluster.address))
        late.start()
        ray, cores, head = connected(cluster)
        late.cancel()
        own = Broker(ray, tell, cluster, carried, partial(answers, head))
        tell(None, "connected", cores)
        parts = (partial(watch, cluster.address, head), partial(count, ray, tell, cores), partial(own.obey, pipe))
        for part in parts:
            threading.Thread(target=_told, args=(tell, part, cluster.address, head), daemon=True).start()
        _told(tell, own.attend, cluster.address, head)
    except UserError as error:
        tell(None, "user error", str(error))
    except BaseException:
        tell(None, "failure", traceback.format_exc())
    finally:
        os._exit(0)  # Ray's own end waits for a head that may be gone


def _told(tell: Tell, part: Callable[[], None], address: str, head: tuple[str, int]) -> None:
    """Do a part of the broker's work, for ever; what is wrong with it is told, and ends the broker."""
    try:
        part()
    except BaseException as error:
        gone = isinstance(error, Lost) or not answers(head)
        with contextlib.suppress(OSError):
            tell(None, *(("lost", str(lost(address))) if gone else ("failure", traceback.format_exc())))
    os._exit(0)


def _too_late(tell: Tell, address: str) -> None:
    tell(None, "user error", f"the Ray cluster {address} does not answer: {START}")
    os._exit(0)


def connected(cluster: Cluster) -> tuple[Any, int, tuple[str, int]]:
    """The module ray, of which this process is a driver now, the cores of the cluster, and where its head is."""
    os.environ.update(SETTINGS)
    if cluster.address != "auto" and not answers(place_of(cluster.address)):
        raise UserError(f"nobody answers at --ray {cluster.address}: {START}")
    import ray

    try:
        ray.init(cluster.address, log_to_driver=False, logging_level=logging.CRITICAL)
    except ConnectionError:
        raise UserError(f"there is no Ray cluster {cluster.address} that this machine is a node of: {START}") from None
    except Exception as error:  # as of another version of Python on its head
        said = " ".join(str(error).split())[:300]
        raise UserError(f"the Ray cluster {cluster.address} cannot be used ({said}): {START}") from None
    cores = cores_of(ray)
    if not cores:
        raise UserError(f"the Ray cluster {cluster.address} has no cores: start its nodes with --num-cpus")
    return ray, cores, place_of(ray.get_runtime_context().gcs_address)


def cores_of(ray: Any) -> int:
    return int(ray.cluster_resources().get("CPU", 0))


def count(ray: Any, tell: Tell, cores: int) -> None:
    """Say how many cores there are when that has changed: nodes come, and go."""
    while True:
        time.sleep(COUNTED)
        before = cores
        with contextlib.suppress(Exception):  # who watches the head knows more
            cores = cores_of(ray)
        if cores != before:
            tell(None, "cores", cores)


def place_of(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--ray {address} is not possible: give HOST:PORT of the cluster's head, or auto")
    return host, int(port)


def answers(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, timeout=PULSE + 1).close()
        return True
    except OSError:
        return False


def watch(address: str, head: tuple[str, int]) -> None:
    """Look whether the head is there; Lost when it is not: Ray itself waits for a minute, and aborts."""
    missed = 0
    while missed < MISSED:
        time.sleep(PULSE)
        missed = 0 if answers(head) else missed + 1
    raise lost(address)


class Broker:
    """Hands on what the pool and its workers say to each other.

    Attributes:
        HAND: what they are
        hands: actors by their numbers        hearing: what each of them is to answer
    """

    HAND: type[Hand] = Hand

    def __init__(
        self, ray: Any, tell: Tell, cluster: Cluster, carried: Carried, there: Callable[[], bool] = lambda: True
    ) -> None:
        """`there`: whether the head is."""
        self._ray, self._tell, self._writes = ray, tell, carried.writes
        self._address, self._there = cluster.address, there
        self._reads: list[tuple[str | Path, Listing]] = [(read.name, listing_of(read)) for read in carried.reads]
        self._files = {
            digest: read.folder / name
            for read, (_, listing) in zip(carried.reads, self._reads, strict=True)
            for name, digest in listing.items()
        }
        how = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": METHODS_AT_ONCE}
        self._actor = ray.remote(num_cpus=1, num_gpus=cluster.gpu, **how)(self.HAND)
        self.hands: dict[int, Any] = {}
        self.hearing: dict[Any, int] = {}
        self._lacks: dict[int, tuple[str, ...]] = {}
        self._sent: dict[tuple[str, ...], list] = {}  # pieces of files, by which they are
        self._setup: Any = None
        self._coming: dict[int, tuple[Path, Any]] = {}  # files, half of which are here

    def obey(self, pipe: connection.Connection) -> None:
        """Do what the pool says, until it says no more."""
        try:
            while True:
                what, number, value = pipe.recv()
                self.order(what, number, value)
        except (EOFError, ConnectionError):
            self._ray.wait(
                [hand.stop.remote() for hand in self.hands.values()] or [self._ray.put(0)],
                num_returns=max(1, len(self.hands)),
                timeout=GRACE,
            )

    def order(self, what: str, number: int, value: Any) -> None:
        """Do one thing that the pool has said."""
        hand = self.hands.get(number)
        if what == "hire":
            self.hands[number] = self._actor.remote(value, self._reads, self._writes, environment(), sys.path)
            self._listen(number)
        elif what == "keep":
            self._setup = self._ray.put(value)
        elif hand is None:
            pass  # it has just died
        elif what == "begin":
            hand.begin.remote(self._setup, self._pieces(self._lacks.pop(number)))
        elif what == "do":
            hand.do.remote(value)
        else:
            del self.hands[number]
            hand.stop.remote()
            kill = threading.Timer(GRACE, self._ray.kill, (hand,))
            kill.daemon = True
            kill.start()

    def _pieces(self, lacks: tuple[str, ...]) -> list:
        """What refers to the content of files, which is put where actors find it once."""
        if lacks not in self._sent:
            files = {digest: self._files[digest] for digest in lacks}
            self._sent[lacks] = [self._ray.put(piece) for piece in pieces(files)]
        return self._sent[lacks]

    def _listen(self, number: int) -> None:
        self.hearing[self.hands[number].hear.remote()] = number

    def attend(self) -> None:
        """Hand on what actors say, for ever."""
        while True:
            asked = list(self.hearing)
            if not asked:
                time.sleep(GLANCE / 10)
                continue
            answered, _ = self._ray.wait(asked, timeout=GLANCE)
            if answered:
                answered, _ = self._ray.wait(asked, num_returns=len(asked), timeout=0)
            for answer in answered:
                self.heard(self.hearing.pop(answer), answer)

    def heard(self, number: int, answer: Any) -> None:
        """Hand on an answer of an actor, or that it died."""
        try:
            said = self._ray.get(answer)
        except Exception as error:
            if not self._there():
                raise lost(self._address) from None
            if (hand := self.hands.pop(number, None)) is not None:
                self._tell(number, "died", cause_of(error))
                self._ray.kill(hand)  # it may only be out of reach
            return
        if number not in self.hands:
            return
        self._listen(number)
        for kind, value in said:
            if kind == "listening":
                self._lacks[number] = tuple(value.pop("lacks"))
            if kind in ("part", "file"):
                if complaint := (self._part if kind == "part" else self._whole)(number, *value):
                    self._tell(number, *complaint)
            else:
                self._tell(number, kind, value)

    def _part(self, number: int, name: str, content: bytes) -> tuple[str, str] | None:
        """A part of a file has come; what is wrong, if something is."""
        assert self._writes is not None, "actors write where they are told to"
        path = self._writes / Path(name).name
        mode = "ab" if number in self._coming else "wb"
        digest = self._coming[number][1] if number in self._coming else hashlib.sha256()
        digest.update(content)
        self._coming[number] = path, digest
        try:
            with open(path, mode) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            return "user error", (
                f"{path} could not be written ({error.strerror}): free some space or choose another folder, then run "
                "the same command again"
            )
        return None

    def _whole(self, number: int, name: str, digest: str) -> tuple[str, str] | None:
        """All of a file has come; what is wrong, if something is."""
        path, ours = self._coming.pop(number)
        if ours.hexdigest() == digest:
            return None
        path.unlink(missing_ok=True)
        return "failure", f"{name} is not here as it was written there"


def cause_of(error: Exception) -> str:
    """Why an actor died, in a few words that follow its name."""
    text = str(error)
    if type(error).__name__ == "ActorUnavailableError" or "node has died" in text or "owner has died" in text:
        return "is gone, with its node or the network to it"
    if "worker process has died" in text:
        return "was killed, or crashed (out of memory?)"
    lines = [line for line in text.splitlines() if line.strip()]
    return f"died: {lines[-1].strip() if lines else type(error).__name__}"


def environment() -> dict[str, str]:
    """Variables that an actor has as workers of this machine do."""
    found = {**dict.fromkeys(THREAD_VARIABLES, "1"), QUIET: "1"}
    if modules.NAMED in os.environ:
        named = {*filter(None, os.environ[modules.NAMED].split(",")), *modules.remembered()}
        found[modules.NAMED] = ",".join(sorted(named))
    return found
