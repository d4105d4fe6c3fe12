"""Properties of utils/display.py. Windows are opened in processes of their own, as scripts do."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dreamdrive.utils import display
from dreamdrive.utils.errors import UserError

ROOT = Path(__file__).parent.parent
WINDOW = """
import sys, time
from dreamdrive.utils.script import run
from dreamdrive.utils.display import open_display

def main():
    message = open_display({seen}).message
    import pyglet
    window = pyglet.window.Window(64, 64)
    window.clear(); window.flip()
    import os
    print(os.environ["DISPLAY"], message, sep="|", flush=True)
    {then}

run(main)
"""


def start(then="pass", seen=None, **environment):
    """A script that opens a window, in a process group of its own; DISPLAY is unset unless given."""
    values = {**{k: v for k, v in os.environ.items() if k != "DISPLAY"}, **environment}
    return subprocess.Popen(
        [sys.executable, "-c", WINDOW.format(then=then, seen=seen)],
        cwd=ROOT,
        env=values,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ended(name, seconds=30):
    """Whether the X server `name` goes within so many seconds. It removes its socket first and its lock after that."""
    left = [Path(f"/tmp/.X11-unix/X{name[1:]}"), Path(f"/tmp/.X{name[1:]}-lock")]
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(path.exists() for path in left):
        time.sleep(0.05)
    return not any(path.exists() for path in left)


def test_without_a_display_a_virtual_screen_is_started_said_and_ended():
    process = start()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    name, message = out.strip().split("|")
    assert name in message and "x11vnc" in message and "there is no DISPLAY" in message
    assert err == "" and ended(name)


def test_a_display_that_does_not_answer_is_replaced():
    process = start(DISPLAY=":4242")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "DISPLAY=:4242 does not answer" in out


@pytest.mark.parametrize(
    ("sent", "status", "group"), [(signal.SIGINT, 130, True), (signal.SIGKILL, -9, False), (signal.SIGTERM, 143, False)]
)
def test_the_virtual_screen_ends_with_its_script_however_that_ends(sent, status, group):
    process = start(
        "try:\n        print('ready', flush=True); time.sleep(60)\n    finally:\n        window.flip(); print('cleaned "
        "up', flush=True)"
    )
    name = process.stdout.readline().split("|")[0]
    assert process.stdout.readline() == "ready\n"
    (os.killpg if group else os.kill)(process.pid, sent)
    out, err = process.communicate(timeout=20)
    assert process.returncode == status, err
    assert ended(name)
    if sent == signal.SIGINT:
        assert "cleaned up" in out, "Ctrl-C must not take the screen away before the script has cleaned up"


def test_an_exception_is_reported_and_ends_the_virtual_screen():
    process = start("raise RuntimeError('told')")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "told" in err and ended(out.split("|")[0])


def test_a_display_that_is_there_is_used():
    command = [
        "xvfb-run",
        "-a",
        "-s",
        "-screen 0 1400x900x24",
        sys.executable,
        "-c",
        WINDOW.format(then="pass", seen=None),
    ]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert out.returncode == 0 and out.stdout.strip().endswith("|None"), out.stderr


def test_a_server_that_hangs_is_given_up_after_five_seconds(tmp_path):
    with socket.socket(socket.AF_UNIX) as deaf:
        number = next(n for n in range(900, 999) if not Path(f"/tmp/.X11-unix/X{n}").exists())
        Path("/tmp/.X11-unix").mkdir(exist_ok=True)
        path = f"/tmp/.X11-unix/X{number}"
        deaf.bind(path)
        try:
            deaf.listen()
            before = time.monotonic()
            assert not display.answers(f":{number}")
            assert time.monotonic() - before < 8
        finally:
            os.unlink(path)


def test_without_xvfb_one_sentence_names_the_package(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="apt-get install xvfb"):
        display.open_display()


def test_a_probe_reports_what_draws_and_survives_a_crash_and_a_hang(monkeypatch):
    assert display.probe("egl").ok
    monkeypatch.setenv("DISPLAY", ":4242")
    found = display.probe("x")
    assert not found.ok and "NoSuchDisplayException" in found.detail
    monkeypatch.setattr(display, "DRAW", "import os; os.kill(os.getpid(), 11)")
    assert display.probe("x") == display.Probe(False, "crashed by SIGSEGV")
    monkeypatch.setattr(display, "DRAW", "import time; time.sleep(60)")
    assert display.probe("x", timeout=1) == display.Probe(False, "no answer in 1 s")
