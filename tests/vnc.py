"""A VNC desktop for tests: TigerVNC's X server on this machine alone, and vncdotool as the person who looks at it and
types."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@dataclass(frozen=True)
class Desktop:
    """`display` is its DISPLAY, `port` where its VNC server listens on 127.0.0.1, and `password` what it asks for."""

    display: str
    port: int
    password: str | None = None

    def command(self, *commands: str) -> list[str]:
        """vncdotool's for these commands of its own."""
        client = [str(Path(sys.executable).parent / "vncdo"), "-s", f"127.0.0.1::{self.port}", "-t", "20"]
        return [*client, *(["-p", self.password] if self.password else []), *commands]

    def do(self, *commands: str) -> None:
        """Run vncdotool's commands, e.g. do("key", "space"); a held key is released when they end."""
        done = subprocess.run(self.command(*commands), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def capture(self, path: Path) -> np.ndarray:
        """The whole screen, uint8 (h, w, 3), also saved as a PNG under `path`."""
        self.do("capture", str(path))
        return np.asarray(Image.open(path).convert("RGB"))

    def environment(self) -> dict[str, str]:
        """Of a process that is to show its windows here."""
        return {**os.environ, "DISPLAY": self.display}


@contextmanager
def vnc_desktop(size: tuple[int, int] = (1400, 900)) -> Iterator[Desktop]:
    """Start Xtigervnc on a display and a port that are free, and end it."""
    if shutil.which("Xtigervnc") is None:
        pytest.fail("Xtigervnc is missing: install it with `apt-get install tigervnc-standalone-server`")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    read, write = os.pipe()
    command = [
        "Xtigervnc",
        "-displayfd",
        str(write),
        "-SecurityTypes",
        "None",
        "-localhost",
        "-rfbport",
        str(port),
        "-geometry",
        f"{size[0]}x{size[1]}",
        "-depth",
        "24",
    ]
    with subprocess.Popen(command, pass_fds=[write], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        os.close(write)
        with os.fdopen(read) as numbers:
            number = numbers.readline().strip()  # empty if the server ended instead
        assert number, "Xtigervnc ended at once"
        try:
            wait_for(lambda: accepts(port), 20, "the VNC server listens")
            yield Desktop(f":{number}", port)
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()


def accepts(port: int) -> bool:
    """Whether something listens at that port of 127.0.0.1."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition, seconds: float, what: str) -> None:
    """Until `condition()` holds; a failure that says `what` was waited for."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s in vain until {what}"
        time.sleep(0.1)
