"""The VNC desktop of a window that is to be seen without a display (utils/vnc.py): who may look, and how it ends."""

import os
import re
import shutil
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from dreamdrive.tests.test_display import ended, start
from dreamdrive.tests.vnc import Desktop, wait_for
from dreamdrive.utils import display, vnc

SIZE = (320, 200)
WAIT = "print('ready', flush=True); time.sleep(60)"
pytestmark = pytest.mark.skipif(
    not (shutil.which("Xtigervnc") and shutil.which("tigervncpasswd")), reason=f"apt-get install {vnc.PACKAGES}"
)


@pytest.fixture
def desktop():
    """One that nothing has connected to."""
    made = vnc.start(SIZE, display.free_number())
    yield made
    made.end()


def looked(desktop: vnc.Desktop, password: str | None = None) -> Desktop:
    """As somebody meets it who was told of it."""
    return Desktop(desktop.display, desktop.port, password or desktop.password)


def servers(port: int) -> list[bytes]:
    """The command lines of those at a port."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found.append(place.read_bytes())
    return [text for text in found if text.startswith(b"Xtigervnc") and str(port).encode() in text.split(b"\0")]


def test_who_has_the_password_is_awaited_and_nobody_else_sees(desktop, tmp_path):
    with pytest.raises(AssertionError, match="Authentication failure"):
        looked(desktop, "wrong").capture(tmp_path / "no.png")
    assert desktop.awaited
    assert looked(desktop).capture(tmp_path / "yes.png").shape == (SIZE[1], SIZE[0], 3)
    wait_for(lambda: not desktop.awaited, 5, "it has noticed")


def test_nobody_is_awaited_for_ever(monkeypatch):
    monkeypatch.setattr(vnc, "PATIENCE", 0.0)
    made = vnc.start(SIZE, display.free_number())
    assert not made.awaited
    made.end()


def test_the_password_is_of_one_start_and_on_no_command_line(desktop):
    other = vnc.start(SIZE, display.free_number())
    other.end()
    assert other.password != desktop.password and len(desktop.password) == 8
    (command,) = servers(desktop.port)
    assert b"VncAuth" in command and b"-localhost" in command and desktop.password.encode() not in command


def test_other_machines_cannot_connect(desktop):
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    listening = {row[1].split(":")[0] for row in rows if row[1].endswith(f":{desktop.port:04X}") and row[3] == "0A"}
    loopback = {"0100007F", "00000000000000000000000001000000"}
    assert "0100007F" in listening and listening <= loopback


def test_other_users_have_no_windows_there(monkeypatch):
    process = start(WAIT, seen=SIZE)
    name = process.stdout.readline().split("|")[0]
    monkeypatch.delenv("XAUTHORITY", raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    assert not display.answers(name)
    keys = [fd for fd in Path(f"/proc/{process.pid}/fd").iterdir() if "memfd:key" in os.readlink(fd)]
    monkeypatch.setenv("XAUTHORITY", str(keys[0]))
    assert display.answers(name) and not ended(name, 0.5), "who has the key comes and goes"
    process.kill()
    process.communicate()


def test_ports_that_are_in_use_are_left_alone(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(vnc, "PORTS", range(port, port + 1))
        with pytest.raises(vnc.Unavailable, match=f"the ports {port} to {port} are in use"):
            vnc.start(SIZE, display.free_number())
        monkeypatch.setattr(vnc, "PORTS", range(port, port + 20))
        made = vnc.start(SIZE, display.free_number())
        made.end()
        assert port < made.port < port + 20


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_it_is_as_large_as_the_window_and_ends_with_the_script_however_that_ends(sent, status, tmp_path):
    process = start(WAIT, seen=SIZE)
    said = process.stdout.readline() + process.stdout.readline()
    name, port, password = re.match(r"(:\d+)\|.*port (\d+) of this machine, password (\w+)\nto look: ", said).groups()
    assert process.stdout.readline() == "ready\n"
    assert Desktop(name, int(port), password).capture(tmp_path / "seen.png").shape == (SIZE[1], SIZE[0], 3)
    (os.killpg if sent == signal.SIGINT else os.kill)(process.pid, sent)
    _, err = process.communicate(timeout=20)
    assert process.returncode == status, err
    assert ended(name)
    wait_for(lambda: vnc.free(int(port)), 5, "the port is free again")


DIES = "#!/bin/sh\necho '(EE) it cannot be' >&2\nexit 1\n"


@pytest.mark.parametrize(
    ("programs", "said"),
    [
        ({}, f"Xtigervnc is missing: `apt-get install {vnc.PACKAGES}`"),
        ({"Xtigervnc": DIES}, f"tigervncpasswd is missing: `apt-get install {vnc.PACKAGES}`"),
        ({"Xtigervnc": DIES, "vncpasswd": None}, "Xtigervnc did not start (it cannot be)"),
        ({"Xtigervnc": None, "vncpasswd": "#!/bin/sh\nexit 3\n"}, "vncpasswd failed (status 3)"),
    ],
    ids=["no server", "no tool", "a server that dies", "a tool that fails"],
)
def test_where_there_can_be_none_the_window_is_on_a_virtual_screen_and_the_reason_is_said(programs, said, tmp_path):
    for name, text in {"Xvfb": None, **programs}.items():
        if text is None:
            (tmp_path / name).symlink_to(shutil.which(name))
        else:
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
    process = start(seen=SIZE, PATH=str(tmp_path))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert f"the window is on the virtual screen {out.split('|')[0]} (no VNC desktop: {said})" in out
    assert ended(out.split("|")[0])


def test_a_display_that_is_in_use_is_left_alone(desktop):
    with pytest.raises(vnc.Unavailable, match="Xtigervnc did not start .*already running"):
        vnc.start(SIZE, int(desktop.display[1:]))
    other = vnc.start(SIZE, display.free_number())
    other.end()
    assert other.display != desktop.display and other.port != desktop.port
