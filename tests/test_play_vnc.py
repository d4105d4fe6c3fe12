"""Windows on a server without a display, as people meet them: the line that says how to look, a VNC viewer with its
password, keys; and nothing that is left behind."""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dreamdrive.tests.test_render import without_display
from dreamdrive.tests.test_vnc import servers
from dreamdrive.tests.vnc import Desktop, wait_for
from dreamdrive.utils import vnc

ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("Xtigervnc") and shutil.which("tigervncpasswd")), reason=f"apt-get install {vnc.PACKAGES}"
    ),
]


@contextmanager
def on_a_server(tmp_path: Path, *command) -> Iterator[tuple[subprocess.Popen, Desktop, Path]]:
    """A script without a DISPLAY, the desktop as its line says, and what it says."""
    log = tmp_path / "log"
    with open(log, "w") as out:
        script = subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            env=without_display(),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: "to look: " in log.read_text() or script.poll() is not None, 90, "it says how to look")
        line = r"port (\d+) of this machine, password (\w+)\nto look: .* a VNC viewer at localhost:\1;"
        said = re.search(line, log.read_text())
        assert said, log.read_text()
        yield script, Desktop("", int(said[1]), said[2]), log
    finally:
        script.kill()
        script.wait()


def gone(desktop: Desktop) -> bool:
    """Whether its server goes within seconds."""
    wait_for(lambda: not servers(desktop.port), 5, "the server is gone")
    return vnc.free(desktop.port)


def test_play_waits_for_a_viewer_shows_it_obeys_its_keys_and_ends_its_server(tmp_path):
    command = ("play.py", "--env", "mountaincar", "--controller", "random", "--countdown", 1, "--logdir", tmp_path)
    with on_a_server(tmp_path, *command) as (script, desktop, log):
        time.sleep(2)
        first = desktop.capture(tmp_path / "first.png")
        assert first.shape == (560, 1280, 3) and first.mean() > 60, "the window fills it"
        time.sleep(1)
        second = desktop.capture(tmp_path / "second.png")
        assert (second != first).any(), "frames change"

        desktop.do("key", "space", "pause", "1")
        paused = desktop.capture(tmp_path / "paused.png")
        time.sleep(0.5)
        assert (desktop.capture(tmp_path / "still.png") == paused).all(), "nothing moves"
        desktop.do("key", "tab", "pause", "0.3", "key", "tab", "pause", "0.3", "key", "space", "pause", "1.5")
        desktop.do("keydown", "right", "pause", "1.5", "capture", str(tmp_path / "driven.png"), "key", "q")
        assert script.wait(20) == 0, log.read_text()
        assert gone(desktop)


def test_render_begins_once_somebody_looks_and_ends_after_its_last_episode(tmp_path):
    flags = ("--logdir", "carracing-dream", "--world", "dream", "--horizon", 5, "--episodes", 1)
    with on_a_server(tmp_path, "test_controller.py", "--render", *flags) as (script, desktop, log):
        time.sleep(4)
        assert "in 5 steps" not in log.read_text() and script.poll() is None, "nobody has looked yet"
        desktop.capture(tmp_path / "seen.png")
        assert script.wait(30) == 0 and "in 5 steps" in log.read_text()
        assert gone(desktop)


def test_ctrl_c_ends_the_server_while_somebody_looks(tmp_path):
    with on_a_server(tmp_path, "play.py", "--env", "cartpole", "--logdir", tmp_path) as (script, desktop, log):
        viewer = subprocess.Popen(desktop.command("capture", str(tmp_path / "seen.png"), "pause", "30"))
        try:
            wait_for((tmp_path / "seen.png").exists, 20, "somebody looks")
            script.send_signal(signal.SIGINT)
            assert script.wait(20) == 130 and "Traceback" not in log.read_text()
            assert gone(desktop)
        finally:
            viewer.kill()
            viewer.wait()
