"""Ctrl-C ends a script wherever it comes: dropped by Python, made another exception of, or in the middle of a
clean-up."""

import signal
import subprocess
import sys
import time
import weakref

import pytest

from dreamdrive.tests.tiny_run import ROOT
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


STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGUSR1: 138}


@pytest.mark.parametrize("number", STATUS)
def test_every_signal_ends_a_script_with_its_own_status_and_a_sentence(number, capsys):
    def main():
        signal.raise_signal(number)
        time.sleep(30)

    before = signal.getsignal(number)
    said = ends(main, capsys, STATUS[number])
    assert said.startswith("\nstopped") and said.endswith("; run the same command again to resume\n")
    assert (number.name in said) == (number != signal.SIGINT) and signal.getsignal(number) is before


@pytest.mark.parametrize("number", STATUS)
def test_one_that_is_put_off_waits_for_the_end_of_a_batch(number, capsys):
    done = []

    def main():
        with interrupts.put_off():
            for batch in range(5):
                if batch == 2:
                    signal.raise_signal(number)
                done.append(batch)
                interrupts.hear()

    ends(main, capsys, STATUS[number])
    assert done == [0, 1, 2]


def test_one_that_is_put_off_is_heard_at_the_end_of_the_block_and_where_others_work_at_once(capsys):
    def to_the_end():
        with interrupts.put_off():
            signal.raise_signal(signal.SIGTERM)
            done.append(1)
        done.append(2)

    def inside():
        with interrupts.put_off(), interrupts.at_once():
            signal.raise_signal(signal.SIGTERM)
            done.append(3)

    done = []
    ends(to_the_end, capsys, 143)
    ends(inside, capsys, 143)
    assert done == [1]


def test_patience_has_an_end_and_a_second_ctrl_c_waits_for_nothing(capsys, monkeypatch):
    monkeypatch.setattr(interrupts, "PATIENCE", 0.2)

    def patient():
        with interrupts.put_off():
            signal.raise_signal(signal.SIGTERM)
            time.sleep(30)

    def twice():
        with interrupts.put_off():
            ctrl_c()
            ctrl_c()
            time.sleep(30)

    ends(patient, capsys, 143)
    monkeypatch.setattr(interrupts, "PATIENCE", 30)
    ends(twice, capsys, 130)


def test_other_signals_are_heard_once(capsys):
    """A terminal that is closed sends SIGHUP twice, and some schedulers SIGTERM after SIGUSR1."""
    closed = []

    def main():
        try:
            signal.raise_signal(signal.SIGHUP)
        finally:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
            closed.append(True)

    ends(main, capsys, 129)
    assert closed


def test_what_answers_a_signal_by_itself_ends_as_it_would_and_with_that_status(capsys):
    def lesson():
        stopping = []
        with interrupts.put_off(lambda: stopping.append(True)):
            signal.raise_signal(number)
            while not stopping:
                time.sleep(0.01)
        print("what was taught is kept")

    number = signal.SIGTERM
    ends(lesson, capsys, 143)
    number = signal.SIGINT
    script.run(lesson)  # like the page's button
    assert "what was taught" in capsys.readouterr().out


SCRIPT = """
import sys, time
from dreamdrive.utils.script import run
def main():
    print("here", flush=True)
    try:
        time.sleep(60)
    finally:
        time.sleep(60)
run(main)
"""


def test_a_process_ends_soon_after_two_and_shows_no_traceback():
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout.readline() == "here\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 130 and time.monotonic() - began < 2 and "Traceback" not in said
