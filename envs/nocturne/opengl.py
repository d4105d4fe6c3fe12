"""An OpenGL context for this process, wherever one can be had, and the little of OpenGL that the renderer needs.

Looked for in this order: EGL, which needs no display (a GPU's driver or Mesa's software), the DISPLAY that is there, an
Xvfb of our own. Each is tried in a process of its own first, since a driver may crash or hang; what was found is kept
in the environment (DREAMDRIVE_OPENGL=egl:0 or x), where spawned workers find it. pyglet does either windows or EGL in
one process: where it has windows already, the context is that of a hidden window beside them, and whichever context was
current before is so again afterwards.
"""

import ctypes
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from dreamdrive.utils import display
from dreamdrive.utils.errors import UserError

FOUND = "DREAMDRIVE_OPENGL"  # in the environment: "egl:0" (the number of the device) or "x"
DEVICES = 8  # of EGL that are tried
PACKAGES = "`apt-get install libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri xvfb`"

_context: "Context | None" = None
_forked = False


def _after_fork() -> None:
    """Mesa's threads are not in a forked child: whatever it asks of the parent's context may hang, the clean-up of
    pyglet's objects at its exit included."""
    global _forked
    _forked = _context is not None
    if _context is not None:
        _context.gl.current_context = None
        for module, name in (("pyglet.window", "BaseWindow"), ("pyglet.display.headless", "HeadlessDisplay")):
            if module in sys.modules:
                getattr(sys.modules[module], name).__del__ = lambda self: None


os.register_at_fork(after_in_child=_after_fork)


def text_at(place: Any) -> str:
    """What OpenGL answered with a pointer to text, "" for a null pointer."""
    return (ctypes.cast(place, ctypes.c_char_p).value or b"").decode()


class Context:
    """The context and what this process knows of it: `gl` (pyglet.gl), `renderer` (its name)."""

    def __init__(self, window: Any, gl: Any) -> None:
        self.window, self.gl, self.thread = window, gl, threading.get_ident()
        self.renderer = text_at(gl.glGetString(gl.GL_RENDERER))
        number = gl.GLint()
        gl.glGetIntegerv(gl.GL_NUM_EXTENSIONS, number)
        self.extensions = {text_at(gl.glGetStringi(gl.GL_EXTENSIONS, i)) for i in range(number.value)}

    def limit(self, name: int) -> int:
        value = self.gl.GLint()
        self.gl.glGetIntegerv(name, value)
        return value.value

    @contextmanager
    def current(self) -> Iterator[Any]:
        """Inside, this context is current; gives `gl`."""
        if threading.get_ident() != self.thread:
            raise UserError(
                "pictures were asked for in another thread than the first ones: draw them all in one thread, or in "
                "processes of their own"
            )
        before = self.gl.current_context
        if before is not self.window.context:
            self.window.switch_to()
        try:
            yield self.gl
        finally:
            if before is not None and before is not self.window.context and before.canvas is not None:
                before.set_current()


def refuse_forked() -> None:
    """UserError in a child of a process that has drawn pictures. To be asked before anything else is done there:
    torch's threads hang in it, too."""
    if _forked:
        raise UserError(
            "this process was forked from one that has drawn pictures, where OpenGL hangs: start workers by spawn "
            "(utils.workers does)"
        )


def open_context() -> Context:
    """This process's context, made at the first call. UserError where there is none to be had."""
    global _context
    refuse_forked()
    if _context is None:
        _context = _make()
    return _context


def _make() -> Context:
    platform = _platform()
    import pyglet

    if "pyglet.gl" not in sys.modules:
        pyglet.options["headless"], pyglet.options["debug_gl"] = platform.startswith("egl"), False
        pyglet.options["headless_device"] = int(platform.partition(":")[2] or 0)
    try:
        from pyglet import gl

        before = gl.current_context
        window = pyglet.window.Window(1, 1, visible=False, vsync=False)
        pyglet.app.windows.discard(window)  # it is nobody's window
        made = Context(window, gl)
        if before is not None and before.canvas is not None:
            before.set_current()
    except Exception as error:  # each driver fails in its own way
        where = "without a display" if platform.startswith("egl") else f"on DISPLAY={os.environ.get('DISPLAY', '')}"
        raise UserError(
            f"OpenGL {where} does not start ({error}): unset {FOUND}, or install Mesa's software, {PACKAGES}"
        ) from None
    return made


def _platform() -> str:
    """ "egl:<device>" or "x": what works here."""
    pyglet = sys.modules.get("pyglet")
    if pyglet is not None and "pyglet.gl" in sys.modules:  # then it is decided, and has worked
        return f"egl:{pyglet.options['headless_device']}" if pyglet.options["headless"] else "x"
    told = os.environ.get(FOUND)
    if told is None:
        told = os.environ[FOUND] = find_platform()
    if told != "x" and not (told.startswith("egl:") and told[4:].isdigit()):
        raise UserError(
            f"{FOUND} is {told!r} where egl:<number of the device> or x was wanted: unset it, and the machine is asked"
        )
    return told


def find_platform() -> str:
    """Try what there is; starts an Xvfb, and sets DISPLAY to it, where nothing else draws."""
    reasons = []
    for device in range(DEVICES):
        found = display.probe(f"egl:{device}")
        if found.ok:
            return f"egl:{device}"
        if "Invalid EGL device id" in found.detail:  # there are no more
            break
        reasons.append(f"by EGL: {found.detail}")
    if os.environ.get("DISPLAY"):
        found = display.probe("x")
        if found.ok:
            return "x"
        reasons.append(f"on DISPLAY={os.environ['DISPLAY']}: {found.detail}")
    if shutil.which("Xvfb") is None:
        reasons.append("there is no Xvfb")
    else:
        display.start_xvfb()
        found = display.probe("x")
        if found.ok:
            return "x"
        reasons.append(f"on Xvfb: {found.detail}")
    raise UserError(f"no OpenGL draws here ({'; '.join(reasons)}): install it, {PACKAGES}")


# The little of OpenGL


def program(gl: Any, **sources: str) -> int:
    """Compile and link `vertex`, `fragment` and, if given, `geometry`."""
    made = gl.glCreateProgram()
    for kind, source in sources.items():
        shader = gl.glCreateShader(
            {"vertex": gl.GL_VERTEX_SHADER, "fragment": gl.GL_FRAGMENT_SHADER, "geometry": gl.GL_GEOMETRY_SHADER}[kind]
        )
        text = ctypes.create_string_buffer(source.encode())
        pointer = ctypes.cast(ctypes.pointer(ctypes.pointer(text)), ctypes.POINTER(ctypes.POINTER(gl.GLchar)))
        gl.glShaderSource(shader, 1, pointer, None)
        gl.glCompileShader(shader)
        gl.glAttachShader(made, shader)
        gl.glDeleteShader(shader)
    gl.glLinkProgram(made)
    ok, log = gl.GLint(), ctypes.create_string_buffer(4096)
    gl.glGetProgramiv(made, gl.GL_LINK_STATUS, ok)
    if not ok.value:
        gl.glGetProgramInfoLog(made, len(log), None, log)
        raise UserError(
            f"this machine's OpenGL refuses a shader ({log.value.decode()[:300]}): unset {FOUND}, or install Mesa's "
            f"software, {PACKAGES}"
        )
    return made


def uniform(gl: Any, made: int, name: str) -> int:
    return gl.glGetUniformLocation(made, ctypes.create_string_buffer(name.encode()))


def new(gl: Any, kind: str) -> int:
    """A new name: kind "Buffers", "Textures", "Framebuffers" or "VertexArrays"."""
    name = gl.GLuint()
    getattr(gl, f"glGen{kind}")(1, name)
    return name.value


def delete(gl: Any, kind: str, name: int) -> None:
    getattr(gl, f"glDelete{kind}")(1, gl.GLuint(name))


def upload(gl: Any, buffer: int, values: np.ndarray, usage: int | None = None) -> None:
    """Put an array into a buffer; leaves the buffer bound."""
    values = np.ascontiguousarray(values)
    gl.glBindBuffer(gl.GL_ARRAY_BUFFER, buffer)
    gl.glBufferData(
        gl.GL_ARRAY_BUFFER, values.nbytes, values.ctypes.data, gl.GL_STREAM_DRAW if usage is None else usage
    )


def attributes(gl: Any, sizes: list[int], each: int) -> None:
    """Describe the bound buffer's rows of floats to the bound vertex array: location i has sizes[i] of them; `each` 0:
    per vertex, 1: per instance."""
    stride, offset = 4 * sum(sizes), 0
    for i, size in enumerate(sizes):
        gl.glEnableVertexAttribArray(i)
        gl.glVertexAttribPointer(i, size, gl.GL_FLOAT, gl.GL_FALSE, stride, offset)
        gl.glVertexAttribDivisor(i, each)
        offset += 4 * size


def plain(gl: Any) -> None:
    """Every primitive is drawn, over what is there, wherever it is."""
    for state in (gl.GL_DEPTH_TEST, gl.GL_BLEND, gl.GL_CULL_FACE, gl.GL_STENCIL_TEST, gl.GL_SCISSOR_TEST):
        gl.glDisable(state)


class Instances:
    """A buffer of rows of floats, one an instance, with the vertex array that reads it."""

    def __init__(self, gl: Any, sizes: list[int]) -> None:
        self.gl, self.number = gl, 0
        self.array, self.buffer = new(gl, "VertexArrays"), new(gl, "Buffers")
        gl.glBindVertexArray(self.array)
        gl.glBindBuffer(gl.GL_ARRAY_BUFFER, self.buffer)
        attributes(gl, sizes, 1)

    def put(self, rows: np.ndarray) -> None:
        self.number = len(rows)
        upload(self.gl, self.buffer, rows.astype(np.float32))


class Stack:
    """Pictures of one size on top of one another in a texture, so that one read-back fetches them all; the first row of
    the first is OpenGL's lowest."""

    def __init__(self, gl: Any) -> None:
        self.gl, self.size = gl, (0, 0, 0)
        self.texture, self.target = new(gl, "Textures"), new(gl, "Framebuffers")

    def begin(self, h: int, w: int, number: int) -> None:
        """Make room for `number` pictures, black, and draw into them from here on."""
        gl = self.gl
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self.target)
        if self.size[:2] != (h, w) or self.size[2] < number:
            self.size = h, w, number
            gl.glBindTexture(gl.GL_TEXTURE_2D, self.texture)
            gl.glTexImage2D(gl.GL_TEXTURE_2D, 0, gl.GL_RGBA8, w, h * number, 0, gl.GL_RGBA, gl.GL_UNSIGNED_BYTE, None)
            gl.glTexParameteri(gl.GL_TEXTURE_2D, gl.GL_TEXTURE_MIN_FILTER, gl.GL_NEAREST)
            gl.glFramebufferTexture(gl.GL_FRAMEBUFFER, gl.GL_COLOR_ATTACHMENT0, self.texture, 0)
        plain(gl)
        gl.glViewport(0, 0, w, h * number)
        gl.glEnable(gl.GL_SCISSOR_TEST)
        gl.glScissor(0, 0, w, h * number)  # what glClear is to clear
        gl.glClearColor(0.0, 0.0, 0.0, 1.0)
        gl.glClear(gl.GL_COLOR_BUFFER_BIT)
        gl.glDisable(gl.GL_SCISSOR_TEST)

    def read(self, out: np.ndarray) -> None:
        """Fetch the pictures into `out` (number, h, w, 3) uint8."""
        gl, (number, h, w, _) = self.gl, out.shape
        pixels = np.empty((number, h, w, 4), np.uint8)
        gl.glPixelStorei(gl.GL_PACK_ALIGNMENT, 4)
        gl.glReadPixels(0, 0, w, h * number, gl.GL_RGBA, gl.GL_UNSIGNED_BYTE, pixels.ctypes.data)
        for channel in range(3):  # at once it takes numpy seven times as long
            out[..., channel] = pixels[..., channel]
