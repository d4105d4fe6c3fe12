"""How far a long work has come: lines in a log, bars in a terminal, nothing with --quiet."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from dreamdrive.learning.vision_settings import VAESettings
from dreamdrive.tests.tiny_run import ROOT, call, variables, write_dataset
from dreamdrive.utils import progress
from dreamdrive.utils.progress import EVERY, Bar
from dreamdrive.utils.settings import QUIET

NESTED = (
    "from dreamdrive.utils.progress import Bar\n"
    "with Bar(total=3, desc='outer', unit='epoch') as outer:\n"
    "    for _ in range(3):\n"
    "        with Bar(total=50, desc='inner', unit='step') as inner:\n"
    "            for _ in range(50):\n"
    "                inner.update(1); inner.refresh()\n"
    "        outer.update(1); outer.refresh()\n"
    "        Bar.write('a line')\n"
)


@pytest.fixture
def clock(monkeypatch):
    """A clock that is moved by hand, and no terminal."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress, "in_terminal", lambda: False)
    monkeypatch.setattr(Bar, "said", clock.now)
    monkeypatch.delenv(QUIET, raising=False)
    return clock


def test_without_a_terminal_there_is_a_line_every_30_seconds_over_all_bars(clock):
    log = io.StringIO()
    for k in range(20):
        with Bar(total=100, desc=f"epoch {k}", unit="frame", file=log) as bar:
            for _ in range(10):
                clock.now += 1
                bar.update(10)
                bar.set_postfix(loss="1.5")
    lines = log.getvalue().splitlines()
    assert len(lines) == 200 // EVERY
    assert re.fullmatch(r"epoch 2: \d+ %, \d+ of 100 frames, [\d,]+ a second(, 0 s left)?(, loss=1.5)?", lines[0])
    assert "\r" not in log.getvalue() and "\x1b" not in log.getvalue()


def test_a_line_does_without_what_is_not_known(clock):
    log = io.StringIO()
    with Bar(desc="untrained", unit="step", file=log) as bar:
        clock.now += EVERY
        bar.refresh()
        assert not log.getvalue(), "nothing is done yet"
        bar.update(1234)
        bar.refresh()
    assert log.getvalue().startswith("untrained: 1,234 steps, ") and "left" not in log.getvalue()


def test_bars_that_go_over_something_are_the_same(clock):
    assert list(Bar(range(4), desc="scenes", unit="scene", file=io.StringIO())) == [0, 1, 2, 3]
    assert not [bar for bar in Bar._instances if not bar.disable]


def in_a_terminal(code: str) -> str:
    """What a terminal is sent by a script."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=variables(TERM="xterm"), stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 4096):
                said += part
        except OSError:  # how a terminal says that nobody writes to it any more
            pass
        assert process.wait(60) == 0
    os.close(ours)
    return said.decode()


def test_in_a_terminal_there_are_bars_and_nested_ones_move_no_cursor_up():
    said = in_a_terminal(NESTED)
    assert "inner: 100%" in said and "outer: 100%" in said and "\x1b[A" not in said
    shown = [re.split(r"\r(?!\n)", line.rstrip("\r"))[-1].strip() for line in said.split("\n")]
    assert [line for line in shown if line.startswith("inner")] == [], "an inner bar leaves nothing"
    assert shown.count("a line") == 3


def test_in_a_log_nested_bars_leave_what_was_written_alone():
    done = subprocess.run([sys.executable, "-c", NESTED], cwd=ROOT, env=variables(), capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("a line\n" * 3, "")


def test_quiet_shows_nothing_and_holds_for_what_is_started(clock, tmp_path, monkeypatch):
    monkeypatch.setenv(QUIET, "")  # so that it is taken away again
    monkeypatch.delenv(QUIET)
    assert not VAESettings.parse([], None).quiet and QUIET not in os.environ
    assert VAESettings.parse(["--quiet"], None).quiet and os.environ[QUIET]
    log = io.StringIO()
    with Bar(total=9, file=log) as bar:
        clock.now += 10 * EVERY
        bar.update(9)
        bar.refresh()
    assert bar.disable and not log.getvalue()


def test_every_bar_is_one_of_ours():
    folders = ("utils", "models", "envs", "data", "driving", "learning", "teacher", "benchmarks", "scripts")
    paths = [*ROOT.glob("*.py"), *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    others = [path.relative_to(ROOT).as_posix() for path in paths if "tqdm" in path.read_text()]
    assert others == ["utils/progress.py"]


def test_a_stage_in_a_log_says_its_epochs_and_draws_no_bars(tmp_path):
    data = write_dataset(tmp_path / "data", [20] * 4).root
    how = ("--latent", 8, "--epochs", 1, "--epoch-frames", 64, "--device", "cpu", "--logdir", tmp_path / "run")
    done = call("trainvae", "--dataset", data, *how)
    assert done.returncode == 0 and done.stdout.startswith("epoch 1  loss") and "\r" not in done.stderr
