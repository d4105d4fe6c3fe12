"""Signals that ask a script to end, and when they are heard.

    SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal is gone), SIGUSR1 (a scheduler wants the machine back)

`script.run` listens. A signal raises KeyboardInterrupt where it comes, and again every ASK_AGAIN seconds, since one may
come where Python drops exceptions (a callback, a destructor) or makes others of them (the import of a library). Where
unfinished work is to be kept it waits for a good moment, but for PATIENCE at most:

    with interrupts.put_off():
        for batch in batches:
            learn(batch)
            interrupts.hear()    # raises Stopped, if a signal has come: what was learnt is whole

A second Ctrl-C waits for nothing. All other repeated signals are what the first was, which is being answered: a closed
terminal sends SIGHUP twice.
"""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
ASK_AGAIN = 5.0  # seconds
PATIENCE = 7.0  # seconds until it is heard, whatever is being done
INSIST = 1.5  # seconds that a process may live after a second Ctrl-C, or after what it said last


class Stopped(KeyboardInterrupt):
    """A signal has come, and is heard where all work is whole."""


class Listener:
    """What has been asked of this process.

    Attributes:
        asked: the first signal that came
        waiting: what signals wait for: None for nothing, else what is called when the first comes
        deaf: whether nothing more is raised, because the process is about to end
        hard: whether the process may be ended at once, because it is the script's own
    """

    def __init__(self, hard: bool = False) -> None:
        self.asked: signal.Signals | None = None
        self.waiting: Callable[[], Any] | None = None
        self.deaf, self.hard, self._insisted = False, hard, False

    def __call__(self, number: int, frame: Any) -> None:
        """A signal has come."""
        if self.deaf:
            return
        if number != signal.SIGALRM:
            if self.asked is None:
                self.asked = signal.Signals(number)
                if number == signal.SIGHUP:
                    let_go_of_terminal()
                if self.waiting is not None:
                    self.waiting()
                    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
                    return
            elif number != signal.SIGINT or self._insisted:
                return
            else:
                self._insisted = True
                self.end_soon()
        self.interrupt()

    def interrupt(self) -> NoReturn:
        signal.setitimer(signal.ITIMER_REAL, ASK_AGAIN)
        raise KeyboardInterrupt

    def end_soon(self) -> None:
        """Live for INSIST seconds more at most, whatever hangs."""
        if self.hard:
            last = threading.Timer(INSIST, os._exit, [status(self.asked)])
            last.daemon = True
            last.start()


_listener = Listener()  # of a process that does not listen
_agreed: Callable[[signal.Signals | None], signal.Signals | None] | None = None  # of ranks, by which they were asked


def status(asked: signal.Signals | None) -> int:
    """What a process ends with that was ended by a signal, as shells count: 130, 143, 129, 138."""
    return 128 + (asked or signal.SIGINT)


def asked() -> signal.Signals | None:
    """The signal that asked this process to end."""
    return _listener.asked


@contextlib.contextmanager
def listening(hard: bool) -> Iterator[Listener]:
    """Hear the signals of ENDING until the block is over, but for those that somebody has made to be ignored, as
    `nohup` does; after it a `hard` listener that was asked hears nothing more, because the process ends there. In
    other threads than the main one there is nothing to hear."""
    global _listener
    before: dict[signal.Signals, Any] = {}
    outer, hook = _listener, sys.unraisablehook
    _listener = listener = Listener(hard)
    if threading.current_thread() is threading.main_thread():
        usual = (signal.SIG_DFL, signal.default_int_handler)
        found = {number: signal.getsignal(number) for number in (*ENDING, signal.SIGALRM)}
        before = {number: there for number, there in found.items() if there in usual or number == signal.SIGALRM}
        for number in before:
            signal.signal(number, listener)
        # what comes where Python drops exceptions is raised again, and nobody needs to know
        sys.unraisablehook = lambda what: None if what.exc_type is KeyboardInterrupt else hook(what)
    try:
        yield listener
    finally:
        if before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if hard and listener.asked:
            listener.deaf = True
        else:
            _listener, sys.unraisablehook = outer, hook
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def put_off(answer: Callable[[], Any] | None = None) -> Iterator[None]:
    """Let a signal wait until `hear` is called or the block is over, which raise Stopped. With an `answer` that is
    called when the signal comes, and nothing is raised: the block ends by itself."""
    listener, outer = _listener, _listener.waiting
    listener.waiting = answer or (lambda: None)
    try:
        yield
        if answer is None:
            hear()
    finally:
        listener.waiting = outer
        if listener.asked is not None and threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_REAL, 0 if answer else ASK_AGAIN)


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Inside a block of `put_off`, where others work and this process waits for them: a signal waits for nothing."""
    listener, outer = _listener, _listener.waiting
    if outer is not None:
        hear()
    listener.waiting = None
    try:
        yield
    finally:
        listener.waiting = outer


def hear() -> None:
    """Stopped if a signal has come."""
    if _agreed is not None:
        _listener.asked = _agreed(_listener.asked) or _listener.asked
    if _listener.asked is not None:
        raise Stopped


@contextlib.contextmanager
def agreeing(how: Callable[[signal.Signals | None], signal.Signals | None]) -> Iterator[None]:
    """Several processes hear a signal at the same place, whichever of them it came to: `how` tells all of them which
    one that was, of what each was asked by."""
    global _agreed
    _agreed = how
    try:
        yield
    finally:
        _agreed = None


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """What is started inside never sees what a terminal or a scheduler sends to all processes, but for SIGTERM: it is
    ended by us. Ours waits until the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [number for number in ENDING if number != signal.SIGTERM])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_go_of_terminal() -> None:
    """Have what is printed thrown away where the terminal that it went to is gone, and printing is an error."""
    looked = select.poll()
    for descriptor in (1, 2):
        looked.register(descriptor, 0)
    for descriptor, _ in looked.poll(0):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
