"""A VNC desktop for a window that somebody at another machine is to see: TigerVNC's X server (Xtigervnc), which only
this machine can connect to, with a password of this start, and which ends with this process.

Neither the password nor the key to the display is written to a disk or stands on a command line: both are in memory
that has a file descriptor (memfd), so that nothing is left of them, also after kill -9.
"""

import os
import secrets
import select
import shutil
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

from dreamdrive.utils import interrupts

PACKAGES = "tigervnc-standalone-server tigervnc-tools"
PORTS = range(5901, 5931)  # where a VNC viewer expects a desktop
ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # no two look alike: somebody types it
LETTERS = 8  # VNC takes no more
PATIENCE = 60.0  # seconds that whoever wants to look is waited for
START = 20.0  # seconds that Xtigervnc may take
# what Xtigervnc logs of a viewer whose password is right
ADMITTED = b"Server default pixel format"


class Unavailable(Exception):
    """There is no desktop: why, and what to install."""


class Desktop:
    """An X server that is looked at over VNC. It ends when its last window and connection does, and at the latest with
    this process.

    Attributes:
        display: its DISPLAY        authority: its XAUTHORITY, the file without which nobody opens windows there
        port: of 127.0.0.1          password: of whoever wants to look
    """

    def __init__(self, size: tuple[int, int], number: int, port: int, password: str, tool: str) -> None:
        """Start display `number`, of (width, height) pixels; Unavailable if it does not start. `tool`: what obscures
        passwords as VNC wants them."""
        self.display, self.port, self.password = f":{number}", port, password
        secret, key = memory("password", obscured(password, tool)), memory("key", x_key())
        try:
            self._start(size, secret, key)
        except Unavailable:
            os.close(key)
            raise
        finally:
            os.close(secret)
        self.authority = f"/proc/{os.getpid()}/fd/{key}"
        self._admitted, self._until = threading.Event(), time.monotonic() + PATIENCE
        threading.Thread(target=self._listen, name="vnc", daemon=True).start()

    @property
    def awaited(self) -> bool:
        """Whether nobody has looked yet, and it is worth to wait for somebody."""
        return not self._admitted.is_set() and time.monotonic() < self._until

    def end(self) -> None:
        """End it where nothing has connected to it."""
        self._server.terminate()
        self._server.wait()

    def _start(self, size: tuple[int, int], secret: int, key: int) -> None:
        read, write = os.pipe()
        command = [
            *("Xtigervnc", self.display, "-displayfd", str(write), "-geometry", f"{size[0]}x{size[1]}", "-depth", "24"),
            *("-localhost", "-rfbport", str(self.port), "-SecurityTypes", "VncAuth"),
            *("-rfbauth", f"/proc/self/fd/{secret}", "-auth", f"/proc/self/fd/{key}", "-nolisten", "tcp"),
            # a viewer that is enlarged does not change the desktop, which the window fills
            *("-AcceptSetDesktopSize=0", "-desktop", "dreamdrive"),
            # it ends with its last client: with the connection that whoever started it keeps open, kill -9 included
            "-terminate",
        ]
        with interrupts.shielded():
            self._server = subprocess.Popen(
                command,
                pass_fds=[write, secret, key],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for us to answer
                env={**os.environ, "LC_ALL": "C"},
            )
        os.close(write)
        with os.fdopen(read) as ready:  # the display's number, or nothing if it has ended
            if not (select.select([read], [], [], START)[0] and ready.readline()):
                raise Unavailable(f"Xtigervnc did not start ({self._last_words()})")

    def _last_words(self) -> str:
        """Why it ended, or that it has not."""
        try:
            _, said = self._server.communicate(timeout=1)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.communicate()
            return f"no answer in {START:g} s"
        lines = [
            line for text in said.decode(errors="replace").splitlines() if (line := text.removeprefix("(EE)").strip())
        ]
        return lines[-1] if lines else f"status {self._server.returncode}"

    def _listen(self) -> None:
        """Follow its log, which would block it if nobody did."""
        assert self._server.stderr is not None, "it was asked for"
        for line in self._server.stderr:
            if ADMITTED in line:
                self._admitted.set()


def start(size: tuple[int, int], number: int) -> Desktop:
    """A desktop of (width, height) pixels on display `number`, which is free, at the first port that is; Unavailable
    where there can be none."""
    if shutil.which("Xtigervnc") is None:
        raise Unavailable(f"Xtigervnc is missing: `apt-get install {PACKAGES}`")
    tool = shutil.which("tigervncpasswd") or shutil.which("vncpasswd")
    if tool is None:
        raise Unavailable(f"tigervncpasswd is missing: `apt-get install {PACKAGES}`")
    password = "".join(secrets.choice(ALPHABET) for _ in range(LETTERS))
    for port in filter(free, PORTS):
        try:
            return Desktop(size, number, port, password, tool)
        except Unavailable:
            if free(port):  # it was not for the port, which somebody may have taken meanwhile
                raise
    raise Unavailable(f"the ports {PORTS.start} to {PORTS.stop - 1} are in use")


def obscured(password: str, tool: str) -> bytes:
    """As VNC wants it, by one of its tools; Unavailable if that fails."""
    try:
        done = subprocess.run([tool, "-f"], input=f"{password}\n".encode(), capture_output=True, timeout=START)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{Path(tool).name} failed ({error})") from None
    if done.returncode or not done.stdout:
        raise Unavailable(f"{Path(tool).name} failed (status {done.returncode})")
    return done.stdout


def free(port: int) -> bool:
    """Whether one can listen at that port of 127.0.0.1."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def memory(name: str, content: bytes) -> int:
    """The descriptor of memory that holds this."""
    number = os.memfd_create(name)
    os.write(number, content)
    return number


def x_key() -> bytes:
    """An Xauthority file (see Xau's AuFileName) with a new key to any display of any machine."""
    fields = (b"", b"", b"MIT-MAGIC-COOKIE-1", secrets.token_bytes(16))  # address, display, name, key
    wild = 0xFFFF  # family
    return struct.pack(">H", wild) + b"".join(struct.pack(">H", len(field)) + field for field in fields)
