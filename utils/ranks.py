"""Ranks: the processes that torchrun starts to train one V or one M together, on the cores or GPUs of one machine or of
several. Without torchrun there is one, which is the first, and nothing here costs anything.

    torchrun --nproc-per-node 4 trainvae.py --dataset datasets/carracing

All ranks do the same, each with its part of every batch (utils/split_batch.py). The first one alone writes, logs,
tracks and holds locks. Where it works alone the others wait for it by way of torchrun's store, however long that takes;
each rank shows there every second that it lives. What else they say to each other goes by gloo, and what is on GPUs by
nccl.

    with joined(True):
        state = of_first(lambda: resume())      # what the first one found, for all
        together()                              # nobody goes on before all are here
"""

import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn, TypeVar

from dreamdrive.utils import interrupts
from dreamdrive.utils.errors import UserError

if TYPE_CHECKING:
    from torch.distributed import Store

LONGEST = timedelta(seconds=45)  # that one rank waits for another in the middle of a batch
BEAT = 1.0  # seconds between two signs of life
DEAF = 4.0  # seconds without one, after which a rank is the one that was lost, if one was
SILENT = 15.0  # seconds without one, after which a rank is lost
GRACE = 5.0  # seconds to end in by itself when another rank is lost
FIRST_SAYS = 3.0  # seconds that others leave the first rank to say what is wrong
POLL = 0.02  # seconds

T = TypeVar("T")


class Lost(UserError):
    """Another rank is there no more."""


class Group:
    """The ranks that this process is one of.

    Attributes:
        count: of ranks        number: of this one        local: its number on its machine
    """

    def __init__(self, count: int, number: int, local: int, store: "Store") -> None:
        self.count, self.number, self.local, self._store = count, number, local, store
        self._meetings, self._over = 0, threading.Event()
        self._beats: dict[int, tuple[bytes, float]] = {}  # of each rank: the last sign of life, and when it came
        # a wait in one thread would keep the other one waiting, too; torch's stubs lack it
        self._own = store.clone()  # type: ignore[attr-defined]
        self._beat(0)
        self.together(watched=False)
        threading.Thread(target=self._live, name="beats", daemon=True).start()

    def together(self, watched: bool = True) -> None:
        """Wait until all ranks are here; Lost if one never will be."""
        self._meetings += 1
        key = f"meeting {self._meetings}"
        self._store.add(key, 1)
        while self._store.add(key, 0) < self.count:
            if watched and self._silent(SILENT):
                raise self.lost()
            time.sleep(POLL)

    def lost(self) -> Lost:
        """What is said of it, when it is known or nearly so which one it was."""
        latest = time.monotonic() + DEAF + 2 * BEAT
        while not self._silent(DEAF) and time.monotonic() < latest:
            time.sleep(POLL)
        gone = ", ".join(map(str, self._silent(DEAF)))
        return Lost(
            f"rank {gone or '?'} of {self.count} was lost: what is above and torchrun's report below say more; run the "
            "same command again to resume, with as many ranks as there are"
        )

    def may_speak(self) -> bool:
        """Whether this rank is the one that says why all end."""
        with contextlib.suppress(RuntimeError):  # the store is gone
            if self.number:
                with contextlib.suppress(RuntimeError):  # nobody has said it yet
                    self._store.wait(["said"], timedelta(seconds=FIRST_SAYS))
            return self._store.add("said", 1) == 1
        return True

    def leave(self) -> None:
        self._over.set()

    def _silent(self, seconds: float) -> list[int]:
        """The ranks that have shown no sign of life for so long."""
        now = time.monotonic()
        return [rank for rank, (_, last) in self._beats.items() if now - last > seconds]

    def _beat(self, number: int) -> None:
        self._own.set(f"beat {self.number}", str(number))

    def _live(self) -> None:
        """Show signs of life and look for those of others; end this process where it does not end by itself."""
        number, ranks = 0, [rank for rank in range(self.count) if rank != self.number]
        while not self._over.wait(BEAT):
            number += 1
            try:
                self._beat(number)
                found = self._own.multi_get([f"beat {rank}" for rank in ranks])
            except RuntimeError:  # torchrun is gone, or the machine it runs on
                found = [self._beats[rank][0] for rank in ranks] if self._beats else []
            now = time.monotonic()
            for rank, sign in zip(ranks, found, strict=False):
                if rank not in self._beats or self._beats[rank][0] != sign:
                    self._beats[rank] = sign, now
            if self._silent(SILENT) and not self._over.wait(GRACE) and self._silent(SILENT):
                self._end()

    def _end(self) -> NoReturn:
        """The main thread waits for what will never come."""
        if self.may_speak():
            os.write(2, f"error: {self.lost()}\n".encode())
        os._exit(1)


_group: Group | None = None


def several() -> bool:
    return _group is not None


def count() -> int:
    return 1 if _group is None else _group.count


def number() -> int:
    return 0 if _group is None else _group.number


def local() -> int:
    """The number of this rank among those on its machine."""
    return 0 if _group is None else _group.local


def first() -> bool:
    """Whether this is the rank that writes."""
    return _group is None or _group.number == 0


def together() -> None:
    """Wait until all ranks are here, however long that takes while they live."""
    if _group is not None:
        _group.together()


def require_shares(batch_size: int) -> None:
    """UserError where some rank would have none of a batch."""
    if batch_size < count():
        raise UserError(
            f"--batch-size {batch_size} cannot be shared by {count()} ranks: give --batch-size {count()} or more, or "
            "torchrun fewer of them"
        )


def of_first(work: Callable[[], T]) -> T:
    """What `work` gives, or the UserError that it raises, where the first rank does it and the others wait for it."""
    if _group is None:
        return work()
    import torch.distributed as dist

    found: list = [None, None]
    if first():
        try:
            found[0] = work()
        except UserError as error:
            found[1] = str(error)
    together()
    dist.broadcast_object_list(found)
    if found[1] is not None:
        raise UserError(found[1])
    return found[0]


def launched() -> int:
    """How many ranks torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else 1


@contextlib.contextmanager
def joined(made_for_ranks: bool) -> Iterator[None]:
    """Be one of torchrun's ranks, if it has started several; UserError where a script is not made for that. A rank that
    fails, and is not the one to say why, ends without a word."""
    global _group
    if launched() == 1:
        yield
        return
    if not made_for_ranks:
        if int(os.environ["RANK"]):
            try:
                time.sleep(GRACE)  # one of them says it, before torchrun ends the others
            finally:
                os._exit(1)
        raise UserError(
            f"{os.path.basename(sys.argv[0])} is not made for torchrun, trainvae.py and trainmdrnn.py are: run it "
            "with `python`"
        )
    _group = met()
    unsaid = io.StringIO()
    try:
        with contextlib.nullcontext() if first() else silenced(unsaid), interrupts.agreeing(agreed):
            yield
            _group.together()
        leave()
    except BaseException as error:
        if not isinstance(error, SystemExit) or error.code:
            fail(error, unsaid.getvalue())
        raise
    finally:
        _group = None


def met() -> Group:
    """The group, when all ranks have come."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # what torch wonders about, as it is loaded
    import torch
    import torch.distributed as dist

    store, rank, size = next(dist.rendezvous("env://", timeout=LONGEST))
    store = dist.PrefixStore(f"dreamdrive {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=LONGEST)
    return Group(size, rank, int(os.environ.get("LOCAL_RANK", rank)), store)


def leave() -> None:
    """End the group, where all ranks do."""
    import torch.distributed as dist

    assert _group is not None, "it was joined"
    _group.leave()
    dist.destroy_process_group()


def fail(error: BaseException, unsaid: str) -> None:
    """Make of an error what is said of it: Lost, of one that comes of another rank's end. Ends this process where
    another rank says it, and where it would wait for ranks that are gone."""
    assert _group is not None, "it was joined"
    status = interrupts.status(interrupts.asked()) if isinstance(error, KeyboardInterrupt) else 1
    lost = is_of_another(error)
    if not _group.may_speak():
        os._exit(status)
    print(unsaid, end="", file=sys.stderr)
    last = threading.Timer(GRACE + SILENT, os._exit, [status])
    last.daemon = True
    last.start()
    if lost:
        raise _group.lost() from None


def is_of_another(error: BaseException) -> bool:
    """Whether it says that another rank cannot be reached; gloo's are RuntimeErrors that name its files."""
    import torch.distributed as dist

    return isinstance(error, (Lost, dist.DistError)) or (isinstance(error, RuntimeError) and "gloo" in str(error))


@contextlib.contextmanager
def silenced(unsaid: io.StringIO) -> Iterator[None]:
    """What is printed is printed by the first rank; what is said of errors waits in `unsaid`."""
    from dreamdrive.utils.settings import QUIET

    os.environ[QUIET] = "1"
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(unsaid):
        yield


def agreed(asked: signal.Signals | None) -> signal.Signals | None:
    """The signal that one of the ranks was asked by to end, of that which this one was `asked` by: all hear it at the
    same place."""
    import torch
    import torch.distributed as dist

    found = torch.tensor(int(asked or 0))
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return signal.Signals(int(found)) if found else None
