"""Where windows and OpenGL can be had: the DISPLAY that is there, else one of our own, a VNC desktop (utils/vnc.py) for
what is to be seen, and else a virtual screen (Xvfb).

Nothing on the default path needs this module: only windows (`--render`) do, and pictures drawn by OpenGL.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass

from dreamdrive.utils import interrupts, vnc
from dreamdrive.utils.errors import UserError

SCREEN = (1400, 900)

# Asked in a process of its own, because connecting to an X server that hangs (a dead ssh -X, say) cannot be given a
# time limit in this one.
CONNECT = (
    "import ctypes, sys; x = ctypes.CDLL('libX11.so.6'); x.XOpenDisplay.restype = ctypes.c_void_p; sys.exit(0 "
    "if "
    "x.XOpenDisplay(None) else 1)"
)

# Draws one pixel and reads it back: a driver may load, and then not draw.
DRAW = """
import sys
import pyglet
platform, _, device = sys.argv[1].partition(":")
pyglet.options["headless"], pyglet.options["headless_device"] = platform == "egl", int(device or 0)
window = pyglet.window.Window(32, 32, vsync=False)
pyglet.gl.glClearColor(1, 0, 1, 1)
window.clear()
pixel = (pyglet.gl.GLubyte * 4)()
pyglet.gl.glReadPixels(16, 16, 1, 1, pyglet.gl.GL_RGBA, pyglet.gl.GL_UNSIGNED_BYTE, pixel)
if tuple(pixel)[:3] != (255, 0, 255):
    sys.exit(f"drew the colour {tuple(pixel)[:3]} instead of (255, 0, 255)")
info = window.context.get_info()
print(f"OpenGL {info.major_version}.{info.minor_version}, {info.get_renderer()}")
"""

_connection = None  # our own connection to our own X server, which ends with its last client


def answers(display: str) -> bool:
    """Whether an X server answers at `display` within five seconds."""
    environment = {**os.environ, "DISPLAY": display}
    try:
        return (
            subprocess.run(
                [sys.executable, "-I", "-S", "-c", CONNECT], env=environment, capture_output=True, timeout=5
            ).returncode
            == 0
        )
    except subprocess.TimeoutExpired:
        return False


@dataclass(frozen=True)
class Opened:
    """A display that can show a window.

    Fields:
        message: how to look at it; None where it was there already
        desktop: the one that was started to be looked at, if one was
    """

    message: str | None = None
    desktop: vnc.Desktop | None = None


def open_display(seen: tuple[int, int] | None = None) -> Opened:
    """Make sure that os.environ["DISPLAY"] can show a window.

    Where no display is there, one is started, which ends with this process however this process ends: a VNC desktop for
    a window of `seen` (width, height) pixels that somebody is to look at, where TigerVNC is installed; else a virtual
    screen. UserError where there is neither.
    """
    name = os.environ.get("DISPLAY")
    if name and answers(name):
        return Opened()
    why, no_desktop = f"DISPLAY={name} does not answer" if name else "there is no DISPLAY", None
    if seen is not None:
        try:
            return open_desktop(seen, why)
        except vnc.Unavailable as error:
            no_desktop = error
    if shutil.which("Xvfb") is None:
        raise UserError(
            f"{why}, and no virtual screen to start instead: install one (`apt-get install xvfb`, or {vnc.PACKAGES}), "
            "or record a video, which needs none"
        )
    start_xvfb()
    here = os.environ["DISPLAY"]
    desktop = f" (no VNC desktop: {no_desktop})" if no_desktop else ""
    return Opened(
        f"{why}: the window is on the virtual screen {here}{desktop}. To see it, run `x11vnc -localhost -display "
        f"{here}` (package x11vnc) and point a VNC viewer at localhost:5900; or start this inside a VNC desktop; or "
        "record a video instead"
    )


def open_desktop(size: tuple[int, int], why: str) -> Opened:
    """Start a VNC desktop and set DISPLAY to it; vnc.Unavailable where there can be none."""
    desktop = vnc.start(size, free_number())
    os.environ.update(DISPLAY=desktop.display, XAUTHORITY=desktop.authority)
    if not connect():
        desktop.end()
        raise vnc.Unavailable("Xtigervnc was started but does not answer")
    port = desktop.port
    return Opened(
        f"{why}: the window is on a VNC desktop, port {port} of this machine, password {desktop.password}\n"
        f"to look: `ssh -L {port}:localhost:{port} ...` on your machine, a VNC viewer at localhost:{port}; it begins "
        f"then, or in {vnc.PATIENCE:g} s",
        desktop,
    )


def connect() -> bool:
    """Connect to DISPLAY for as long as this process lives; whether it answers."""
    global _connection
    x11 = ctypes.CDLL("libX11.so.6")
    x11.XOpenDisplay.restype = ctypes.c_void_p
    _connection = x11.XOpenDisplay(None)
    return bool(_connection)


def start_xvfb() -> None:
    """Start Xvfb and set DISPLAY to it."""
    from xvfbwrapper import Xvfb

    # -terminate: it ends when its last client goes, and the connection made below goes when this process does, kill -9
    # included.
    server = Xvfb(*SCREEN, tempdir="/tmp", display=free_number(), extra_args=["-terminate", "-nolisten", "tcp"])
    # Ctrl-C reaches every process of the terminal. Xvfb outlives our clean-up instead of cutting it short.
    try:
        with interrupts.shielded():
            server.start()
    except RuntimeError as error:
        raise UserError(f"the virtual screen could not be started ({error}): see what `Xvfb :99` says") from None
    if not connect():
        raise UserError("the virtual screen was started but does not answer: see what `Xvfb :99` says")


def free_number() -> int:
    """A display number nobody uses. Left to itself xvfbwrapper draws one from `random`, which a seed makes the same in
    every process."""
    numbers = (100 + (os.getpid() + i) % 9900 for i in range(9900))
    return next(
        n for n in numbers if not os.path.exists(f"/tmp/.X11-unix/X{n}") and not os.path.exists(f"/tmp/.X{n}-lock")
    )


@dataclass(frozen=True)
class Probe:
    """Whether OpenGL draws, and the renderer's name or the reason why not."""

    ok: bool
    detail: str


def probe(platform: str, timeout: float = 30) -> Probe:
    """Draw a pixel by "egl" (no display; "egl:1": on its second device) or "x" (the DISPLAY of the environment).

    In a process of its own: a driver may crash or hang.
    """
    try:
        done = subprocess.run([sys.executable, "-c", DRAW, platform], capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return Probe(False, f"no answer in {timeout:g} s")
    if done.returncode < 0:
        return Probe(False, f"crashed by {signal.Signals(-done.returncode).name}")
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or ["no reason given"]
    return Probe(done.returncode == 0, lines[-1])
