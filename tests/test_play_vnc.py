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

import numpy as np
import pytest
from PIL import Image

from dreamdrive.tests.test_render import without_display
from dreamdrive.tests.test_vnc import servers
from dreamdrive.tests.tiny_run import write_dataset
from dreamdrive.tests.vnc import Desktop, wait_for
from dreamdrive.utils import vnc
from dreamdrive.utils.slider import HEIGHT, KNOB, ends
from dreamdrive.utils.video import FOREGROUND, GAP, line_height

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


def lit(desktop: Desktop, folder: Path) -> np.ndarray:
    """What is seen once the window is there, uint8 (h, w, 3)."""
    seen: list[np.ndarray] = []

    def bright() -> bool:
        seen.append(desktop.capture(folder / "lit.png"))
        return seen[-1].mean() > 20

    wait_for(bright, 60, "the window is there")
    return seen[-1]


def gone(desktop: Desktop) -> bool:
    """Whether its server goes within seconds."""
    wait_for(lambda: not servers(desktop.port), 5, "the server is gone")
    return vnc.free(desktop.port)


def test_play_waits_for_a_viewer_shows_it_obeys_its_keys_and_ends_its_server(tmp_path):
    command = (
        "play.py",
        "--env",
        "mountaincar",
        "--controller",
        "random",
        "--countdown",
        1,
        "-s",
        "--logdir",
        tmp_path,
    )
    with on_a_server(tmp_path, *command) as (script, desktop, log):
        time.sleep(2)
        first = lit(desktop, tmp_path)
        assert first.shape == (560, 1280, 3), "as large as the window"
        time.sleep(1)
        second = desktop.capture(tmp_path / "second.png")
        assert (second != first).any(), "frames change"

        desktop.do("key", "space", "pause", "1")
        paused = desktop.capture(tmp_path / "paused.png")
        time.sleep(0.5)
        assert (desktop.capture(tmp_path / "still.png") == paused).all(), "nothing moves"
        desktop.do("key", "tab", "pause", "0.3", "key", "tab", "pause", "0.3", "key", "space", "pause", "1.5")
        desktop.do("keydown", "right", "pause", "1.5", "capture", str(tmp_path / "driven.png"))
        desktop.do("key", "q", "pause", "1", "capture", str(tmp_path / "asked.png"), "key", "y")
        assert script.wait(20) == 0 and "kept as episode 0 of " in log.read_text(), log.read_text()
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


def test_a_recorded_episode_has_a_slider_that_the_mouse_moves(tmp_path):
    def knob(name: str) -> float:
        """Where it is, 0 to 1."""
        desktop.capture(tmp_path / name)
        found = np.asarray(Image.open(tmp_path / name).convert("RGB"))[bar]
        return float((np.argwhere((found == FOREGROUND).all(2))[:, 1].mean() - start) / (stop - start))

    data = write_dataset(tmp_path / "data", [900])
    start, stop = ends(1280)
    y = 560 - 3 * line_height(16) - GAP - HEIGHT // 2  # above three lines of text
    bar = slice(y - KNOB, y + KNOB)
    with on_a_server(tmp_path, "play.py", "--logdir", tmp_path, "-e", data.root) as (script, desktop, log):
        lit(desktop, tmp_path)
        desktop.do("key", "space", "pause", "1", "key", "home", "pause", "1")
        assert knob("start.png") == pytest.approx(0, abs=0.03)
        desktop.do("mousemove", "640", str(y), "pause", "0.2", "click", "1", "pause", "1")
        assert knob("middle.png") == pytest.approx(0.5, abs=0.03)
        desktop.do(
            "mousemove", "640", str(y), "mousedown", "1", "mousemove", "1279", "50", "mouseup", "1", "pause", "1"
        )
        assert knob("end.png") == pytest.approx(1, abs=0.03)
        desktop.do("key", "q")
        assert script.wait(20) == 0, log.read_text()
