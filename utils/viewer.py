"""A window that shows what a driver sees, and the keys of whoever watches or drives.

    with Viewer("CarRacing", ["simulator", "what V sees", "what M expected"], {"space": "pause"}) as viewer:
        viewer.show([frame, reconstruction, expectation], ["return 0.0"])
        viewer.events()
        viewer.orders   # ["pause"] once somebody has pressed space
        viewer.held     # {"left"} while somebody holds that; keys with an order are not held

Closing the window is the order "stop". pyglet is imported when a Viewer is made, not before.
"""

import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dreamdrive.utils.display import open_display
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.slider import HEIGHT, Slider
from dreamdrive.utils.video import GAP, in_the_middle, line_height, side_by_side, with_lines

STOP = "stop"  # the order to end


class Viewer:
    """Panels side by side, captions above, lines of text below, and between them a slider where there is something to
    slide.

    `size` is (width, height) in pixels, made smaller where the screen is; `commands` are the orders that keys give,
    others are held. State, kept up to date by `events`: `orders`, those given and not yet taken, and `held`, the names
    of the keys that are down ("left", "a", "1"); `slider`, where somebody has put its knob.
    """

    def __init__(
        self,
        title: str,
        panels: Sequence[str],
        commands: Mapping[str, str] | None = None,
        size: tuple[int, int] = (1280, 560),
    ):
        opened = open_display(size)
        if opened.message:
            print(opened.message, flush=True)
        self.desktop = opened.desktop
        import pyglet

        if pyglet.options["headless"]:
            raise UserError(
                "this process draws pictures without a display, and no window besides: set DREAMDRIVE_OPENGL=x, or "
                "open the window first"
            )
        self.pyglet, self.panels, self.commands = pyglet, list(panels), dict(commands or {})
        self.orders: deque[str] = deque()
        self.held: set[str] = set()
        self.slider = Slider()
        self.picture: np.ndarray | None = None
        self.texture: Any = None  # pyglet's
        try:
            screen = pyglet.display.get_display().get_default_screen()
            # vsync off: the pace is ours, and a hidden window's vsync may never come.
            self.window = pyglet.window.Window(
                min(size[0], screen.width), min(size[1], screen.height), title, resizable=True, vsync=False
            )
        # each driver fails in its own way, and pyglet.window, where its errors are named, may fail to load too
        except Exception as error:
            raise UserError(
                f"this display cannot draw with OpenGL 3.3 ({error}): unset DISPLAY for a virtual screen, or record a "
                "video"
            ) from None
        self.window.push_handlers(
            self.on_key_press, self.on_key_release, self.on_close, self.on_deactivate, self.on_expose, self.on_resize
        )
        self.window.push_handlers(self.slider)
        self.window.activate()  # without a window manager nobody else gives us the keyboard

    def __enter__(self) -> "Viewer":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self.window.close()

    def show(self, images: Sequence[np.ndarray], lines: Sequence[str] = (), place: float | None = None) -> None:
        """Draw one picture: `images` uint8 (h, w, 3), one a panel, lines of text, and a slider with its knob at `place`
        (0 to 1), where that is given."""
        self.shown = list(images), list(lines), place
        self.compose()
        self.draw()

    def events(self) -> None:
        """Take in what keyboard and window have to say."""
        self.window.switch_to()
        self.window.dispatch_events()

    def compose(self) -> None:
        """Lay the shown images and text out for the window as it is now."""
        images, lines, place = self.shown
        w, h = self.window.get_size()
        room_w = w - GAP * (len(images) + 1)
        text_h = len(lines) * line_height(16) + GAP
        bar_h = 0 if place is None else HEIGHT
        room_h = h - 2 * GAP - line_height(20) - text_h - bar_h
        height = int(min(room_h, room_w / sum(i.shape[1] / i.shape[0] for i in images)))
        picture = side_by_side(images, self.panels, max(16, height))
        if place is not None:
            picture = in_the_middle(picture, w)
            picture = np.concatenate([picture, self.slider.picture(picture.shape[1], place)])
        self.picture = with_lines(picture, lines, width=w)
        all_h, all_w = self.picture.shape[:2]
        # as `draw` puts it
        self.slider.place((w - all_w) // 2, (h - all_h) // 2 + text_h, all_w if bar_h else 0)

    def draw(self) -> None:
        """Put the composed picture in the middle of the window."""
        if self.picture is None:
            return
        gl, picture = self.pyglet.gl, self.picture
        h, w = picture.shape[:2]
        self.window.switch_to()
        if self.texture is None or (self.texture.width, self.texture.height) != (w, h):
            if self.texture is not None:
                self.texture.delete()
            self.texture = self.pyglet.image.Texture.create(w, h, min_filter=gl.GL_NEAREST, mag_filter=gl.GL_NEAREST)
        data = self.pyglet.image.ImageData(w, h, "RGB", picture.tobytes(), pitch=-3 * w)
        self.texture.blit_into(data, 0, 0, 0)
        gl.glClearColor(*(c / 255 for c in picture[0, 0]), 1)
        self.window.clear()
        self.texture.blit((self.window.width - w) // 2, (self.window.height - h) // 2)
        self.window.flip()

    def redraw(self) -> None:
        if self.picture is not None:
            self.compose()
            self.draw()

    def on_key_press(self, symbol: int, modifiers: int):
        name = key_name(self.pyglet.window.key.symbol_string(symbol))
        if name in self.commands:
            self.orders.append(self.commands[name])
        else:
            self.held.add(name)
        return self.pyglet.event.EVENT_HANDLED  # pyglet's own answer to Escape is to close the window at once

    def on_key_release(self, symbol: int, modifiers: int) -> None:
        self.held.discard(key_name(self.pyglet.window.key.symbol_string(symbol)))

    def on_close(self):
        self.orders.append(STOP)
        return self.pyglet.event.EVENT_HANDLED

    def on_deactivate(self) -> None:
        self.held.clear()  # the release of a key goes to the window that has the keyboard then

    def on_expose(self) -> None:
        self.draw()

    def on_resize(self, width: int, height: int) -> None:
        self.redraw()


def key_name(symbol: str) -> str:
    """pyglet's name of a key as ours: "LEFT" -> "left", "_1" and "NUM_1" -> "1"."""
    return re.sub(r"^(NUM)?_(?=\d$)", "", symbol).lower()


def values_line(values: Mapping[str, Any]) -> str:
    """A line of names and values."""
    return "    ".join(f"{name} {value_text(value)}" for name, value in values.items())


def value_text(value) -> str:
    """Numbers at a constant width, so that the line does not jitter."""
    if isinstance(value, str | int | np.integer):
        return str(value)
    if isinstance(value, float | np.floating):
        return f"{value:.1f}"
    return " ".join(f"{float(v):+.2f}" for v in np.asarray(value).ravel())
