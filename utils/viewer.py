"""A window that shows what a driver sees, and the keys of whoever watches or drives.

    with Viewer("CarRacing", ["simulator", "what V sees", "what M expected"], dt=0.02) as viewer:
        viewer.show([frame, reconstruction, expectation], {"return": 0.0})
        while (wish := viewer.wait()) != "quit":
            ...  # "reset": start an episode; "step": take one step, e.g. by keyboard_action(viewer.held, space, action)
            viewer.show([frame, reconstruction, expectation], {"return": total, "action": action})

Keys: space pauses and continues, S or . takes a single step, R resets, Q or Escape (or closing the window) quits; all
others are the driver's. pyglet is imported when a Viewer is made, not before.
"""

import re
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from dreamdrive.utils.display import open_display
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.spaces import ActionSpace
from dreamdrive.utils.video import GAP, line_height, side_by_side, with_lines

HELP = "space: pause    S: single step    R: reset    Q: quit"
NAP = 0.02  # seconds between two looks at the keyboard while nothing is to be drawn


class Viewer:
    """Panels side by side, captions above, lines of text below.

    `size` is (width, height) in pixels, made smaller where the screen is; `dt` seconds lie between two "step" answers
    of `wait`. State, kept up to date by `events`: `paused`, `step_once`, `reset`, `quit`, and `held`, the names of the
    keys that are down ("left", "a", "1").
    """

    def __init__(
        self, title: str, panels: Sequence[str], size: tuple[int, int] = (1280, 560), dt: float = 0.02, help: str = HELP
    ):
        message = open_display()
        if message:
            print(message, flush=True)
        import pyglet

        if pyglet.options["headless"]:
            raise UserError(
                "this process draws pictures without a display, and no window besides: set DREAMDRIVE_OPENGL=x, or "
                "open the window first"
            )
        self.pyglet, self.panels, self.dt, self.help = pyglet, list(panels), dt, help
        self.paused = self.step_once = self.reset = self.quit = False
        self.held: set[str] = set()
        self.picture: np.ndarray | None = None
        self.texture: Any = None  # pyglet's
        self.due = time.monotonic()
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
        self.window.activate()  # without a window manager nobody else gives us the keyboard

    def __enter__(self) -> "Viewer":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self.window.close()

    def show(self, images: Sequence[np.ndarray], text: dict | str = "") -> None:
        """Draw one picture: `images` uint8 (h, w, 3), one a panel; `text` lines, or values by name."""
        self.shown = list(images), text
        self.compose()
        self.draw()

    def wait(self) -> str:
        """Block until something is to be done: "step" (when `dt` has passed, or for a single step), "reset" or
        "quit"."""
        while True:
            self.events()
            if self.quit:
                return "quit"
            if self.reset:
                self.reset = False
                return "reset"
            now = time.monotonic()
            if self.step_once or (not self.paused and now >= self.due):
                self.step_once = False
                # a slow step is not made up for by a rush
                self.due = (now if now - self.due > self.dt else self.due) + self.dt
                return "step"
            time.sleep(NAP if self.paused else min(NAP, self.due - now))

    def rest(self, seconds: float) -> None:
        """Let the picture stay that long before the next "step", so that it can be looked at."""
        self.due = time.monotonic() + seconds

    def events(self) -> None:
        """Take in what keyboard and window have to say."""
        self.window.switch_to()
        self.window.dispatch_events()

    def compose(self) -> None:
        """Lay the shown images and text out for the window as it is now."""
        images, text = self.shown
        lines = [*text_lines(text), self.help + ("    [paused]" if self.paused else "")]
        w, h = self.window.get_size()
        room_w = w - GAP * (len(images) + 1)
        room_h = h - 2 * GAP - line_height(20) - len(lines) * line_height(16) - GAP
        height = int(min(room_h, room_w / sum(i.shape[1] / i.shape[0] for i in images)))
        self.picture = with_lines(side_by_side(images, self.panels, max(16, height)), lines, width=w)

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
        if name == "space":
            self.paused = not self.paused
            self.redraw()
        elif name in ("s", "period"):
            self.paused = self.step_once = True
        elif name == "r":
            self.reset = True
        elif name in ("q", "escape"):
            self.quit = True
        else:
            self.held.add(name)
        return self.pyglet.event.EVENT_HANDLED  # pyglet's own answer to Escape is to close the window at once

    def on_key_release(self, symbol: int, modifiers: int) -> None:
        self.held.discard(key_name(self.pyglet.window.key.symbol_string(symbol)))

    def on_close(self):
        self.quit = True
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


def text_lines(text: dict | str) -> list[str]:
    """`text` as lines; a dict becomes one line of names and values."""
    if isinstance(text, str):
        return text.split("\n") if text else []
    return ["    ".join(f"{name} {value_text(value)}" for name, value in text.items())]


def value_text(value) -> str:
    """Numbers at a constant width, so that the line does not jitter."""
    if isinstance(value, str | int | np.integer):
        return str(value)
    if isinstance(value, float | np.floating):
        return f"{value:.1f}"
    return " ".join(f"{float(v):+.2f}" for v in np.asarray(value).ravel())


STEER = 0.1  # how far of its way to full lock the wheel turns in a step; back to the middle it goes twice as fast
BRAKE = 0.8  # full braking blocks the wheels
# the keys that lower and raise each number of an action
PAIRS = (("left", "right"), ("down", "up"), ("a", "d"), ("z", "w"))
BICYCLE = (("down", "up"), ("right", "left"))  # the same of acceleration and steering
# scale of an action space that is acceleration (m/s^2) and steering (rad, to the left): envs/nocturne/world.py
TYPICAL = (2.0, 0.1)
# what the arrows mean in a Discrete(n), after the order gymnasium gives these actions; digits choose any action
# directly
DISCRETE: dict[int, dict[str | None, int]] = {
    2: {"left": 0, "right": 1},  # CartPole
    3: {"left": 0, "right": 2, None: 1},  # MountainCar, Acrobot
    5: {"right": 1, "left": 2, "up": 3, "down": 4},  # CarRacing
}


def keyboard_action(held: set[str], space: ActionSpace, previous: np.ndarray | int | None = None):
    """The action the held keys ask for, in `space`; `previous` is the action before it, None at an episode's start.

    Driving, a box with low (-x, 0, 0): left and right steer smoothly, up is gas, down brakes. Nocturne's: up and down
    accelerate and brake, left and right steer. Other boxes: left / right move the first number, down / up the second, A
    / D and Z / W the next two, smoothly. Discrete(n): digits choose an action; arrows too for n = 2, 3 and 5.
    Returns float32 (A,) or an int.
    """
    if space.discrete:
        return discrete_action(held, space.n, None if previous is None else int(previous))
    low, high = space.bounds
    target = np.zeros_like(low)
    if is_driving(space):
        steer = ("right" in held) - ("left" in held)
        target[:] = steer * high[0], ("up" in held) * high[1], ("down" in held) * BRAKE * high[2]
        smooth = slice(0, 1)
    else:
        for i, (less, more) in enumerate(pairs_of(space)):
            target[i] = (
                high[i] if more in held and less not in held else low[i] if less in held and more not in held else 0
            )
        smooth = slice(0, len(low))
    target = space.clip(target)
    before = space.clip(np.zeros_like(low)) if previous is None else np.asarray(previous, np.float32)
    returning = np.abs(target) < np.abs(before)
    pace = STEER * space.half_range * np.where(returning, 2, 1)
    target[smooth] = np.clip(target, before - pace, before + pace)[smooth]
    return target


def driving_help(space: ActionSpace) -> str:
    """Which keys `keyboard_action` obeys in that space."""
    if space.discrete:
        return f"{'arrows, ' if space.n in DISCRETE else ''}0-{min(space.n, 10) - 1}: act"
    if is_driving(space):
        return "left, right: steer    up: gas    down: brake"
    if is_bicycle(space):
        return "up, down: accelerate, brake    left, right: steer"
    return "    ".join(f"{less}, {more}: number {i + 1}" for i, (less, more) in enumerate(pairs_of(space)))


def is_driving(space: ActionSpace) -> bool:
    """Whether a box is steering to both sides, gas and brake."""
    return len(space.low) == 3 and space.low[0] < 0 and space.low[1:] == (0, 0)


def is_bicycle(space: ActionSpace) -> bool:
    """Whether a box is acceleration and steering, as Nocturne has them."""
    return space.scale == TYPICAL and space.center is None


def pairs_of(space: ActionSpace) -> tuple[tuple[str, str], ...]:
    """For each number of a box's actions the keys that lower and raise it; for four at most."""
    return BICYCLE if is_bicycle(space) else PAIRS[: space.size]


def discrete_action(held: set[str], n: int, previous: int | None) -> int:
    """See `keyboard_action`. With no key down: the neutral action where there is one, else the previous."""
    for digit in sorted(k for k in held if k.isdigit() and int(k) < n):
        return int(digit)
    arrows = DISCRETE.get(n, {})
    for name, action in arrows.items():
        if name in held:
            return action
    neutral = arrows.get(None, 0)
    return previous if n == 2 and previous is not None else neutral
