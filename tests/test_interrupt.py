"""Ctrl-C ends a script wherever it comes: dropped by Python, made another exception of, or in the middle of a
clean-up."""

import signal
import time
import weakref

import pytest

from dreamdrive.utils import interrupts, script
from dreamdrive.utils.errors import UserError


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


class Destructor:
    def __del__(self):
        ctrl_c()


class Descriptor:
    def __set_name__(self, owner, name):
        ctrl_c()


def dropped_by_a_destructor():
    del [Destructor()][0]


def dropped_by_a_callback():
    thing = Descriptor()
    _watch = weakref.ref(thing, lambda _: ctrl_c())
    del thing


def caught():
    try:
        ctrl_c()
    except BaseException:
        pass


def made_another_by_python():
    type("Owner", (), {"x": Descriptor()})  # RuntimeError, in Python 3.11


def made_another_by_us():
    try:
        ctrl_c()
    except KeyboardInterrupt as stop:
        raise UserError("the file is damaged") from stop


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(interrupts, "ASK_AGAIN", 0.3)


def ends(main, capsys, status):
    """What it says."""
    began = time.monotonic()
    with pytest.raises(SystemExit) as stop:
        script.run(main)
    assert stop.value.code == status and time.monotonic() - began < 5
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and signal.getitimer(signal.ITIMER_REAL) == (
        0,
        0,
    )
    return capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "happens",
    [ctrl_c, dropped_by_a_destructor, dropped_by_a_callback, caught, made_another_by_python, made_another_by_us],
)
def test_it_is_heard_whatever_becomes_of_the_exception(happens, capsys):
    def main():
        happens()
        time.sleep(30)

    assert ends(main, capsys, 130) == "\nstopped; run the same command again to resume\n"


def test_a_clean_up_that_hangs_is_asked_again(capsys):
    def main():
        try:
            ctrl_c()
        finally:
            time.sleep(30)

    assert "stopped" in ends(main, capsys, 130)


def test_without_it_an_error_is_an_error_and_a_bug_a_traceback(capsys):
    def refuse():
        raise UserError("no such folder")

    assert ends(refuse, capsys, 1) == "error: no such folder\n"
    with pytest.raises(ZeroDivisionError):
        script.run(lambda: 1 / 0)


def test_where_it_is_ignored_it_stays_ignored():
    """As in a shell's background job."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        script.run(ctrl_c)
    finally:
        signal.signal(signal.SIGINT, before)
