"""A slider below the pictures of a window: where an episode is, and where somebody with a mouse wants it to be."""

import numpy as np
from PIL import Image, ImageDraw

from dreamdrive.utils.video import BACKGROUND, FOREGROUND, GAP

HEIGHT = 28  # pixels, all of which answer the mouse
KNOB, TRACK = 8, 3  # half their heights
GONE, AHEAD = (110, 163, 255), (62, 66, 76)


class Slider:
    """Its picture, and pyglet's events of the mouse on it. `place` says where in the window that picture is."""

    def __init__(self) -> None:
        self._left = self._bottom = self._width = 0
        self._held = False
        self._sought: float | None = None

    def picture(self, width: int, share: float) -> np.ndarray:
        """uint8 (HEIGHT, width, 3), the knob at `share` (0 to 1) of the way."""
        canvas = Image.new("RGB", (width, HEIGHT), BACKGROUND)
        draw, middle = ImageDraw.Draw(canvas), HEIGHT // 2
        left, right = ends(width)
        knob = round(left + share * (right - left))
        for start, stop, colour in ((left, right, AHEAD), (left, knob, GONE)):
            draw.rounded_rectangle((start - TRACK, middle - TRACK, stop + TRACK, middle + TRACK), TRACK, colour)
        draw.ellipse((knob - KNOB, middle - KNOB, knob + KNOB, middle + KNOB), FOREGROUND)
        return np.asarray(canvas)

    def place(self, left: int, bottom: int, width: int) -> None:
        """Where the picture is, from the window's lower left corner; a width of 0 where there is none."""
        self._left, self._bottom, self._width = left, bottom, width

    def take(self) -> float | None:
        """Where somebody has put the knob, 0 to 1, since this was asked last; None if nobody has."""
        share, self._sought = self._sought, None
        return share

    def on_mouse_press(self, x: int, y: int, button: int, modifiers: int) -> None:
        if self._width and 0 <= x - self._left < self._width and 0 <= y - self._bottom < HEIGHT:
            self._held = True
            self._seek(x)

    def on_mouse_drag(self, x: int, y: int, dx: int, dy: int, buttons: int, modifiers: int) -> None:
        if self._held:
            self._seek(x)

    def on_mouse_release(self, x: int, y: int, button: int, modifiers: int) -> None:
        self._held = False

    def _seek(self, x: int) -> None:
        left, right = ends(self._width)
        self._sought = min(max((x - self._left - left) / max(1, right - left), 0.0), 1.0)


def ends(width: int) -> tuple[int, int]:
    """Where the knob is at the start and at the end, in a picture of that width."""
    return GAP + KNOB, max(GAP + KNOB, width - GAP - KNOB - 1)
