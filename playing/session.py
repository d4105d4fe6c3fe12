"""People look at a show and drive in it: the one loop behind a window and a page in a browser.

    Session(show, screen).run()

Whoever watches gives orders (what, value) through the screen:

    stop, pause (and again: go on), step, reset, next, previous     without a value
    speed    one of SPEEDS, or "faster", "slower"
    driver   a name, or "next"
    seek     a share of the episode, 0 to 1; or "back", "ahead", "first", "last"
    header, record    turn it on and off
    keep     True or False: whether to keep the episode that is over
"""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dreamdrive.driving.catalogue import HUMAN
from dreamdrive.playing.pace import Pace
from dreamdrive.playing.recording import Kept, Recording
from dreamdrive.playing.screen import Screen, Status
from dreamdrive.playing.show import Show
from dreamdrive.utils.viewer import values_line

END_PAUSE = 1.0  # seconds the last picture of an episode stays
NAP = 0.02  # seconds between two looks at what is wanted while nothing is to be done
FASTEST = 30.0  # pictures a second that are drawn at more than the usual speed
SKIP = 1.0  # seconds that "back" and "ahead" go


class Session:
    """Episodes of a show, one after another.

    Attributes:
        status: how things are, for the screen
    """

    def __init__(
        self,
        show: Show,
        screen: Screen,
        countdown: float = 0.0,
        header: bool = False,
        recordings: Path | None = None,
        kept: Kept | None = None,
        say: Callable[[str], None] = lambda text: print(text, flush=True),
    ) -> None:
        """
        Args:
            countdown: seconds before a person drives
            recordings: the folder for them; None where there are none
            kept: where episodes go that somebody wants to keep; None where nobody is asked
        """
        self.show, self.screen, self.countdown, self.recordings, self.kept, self.say = (
            show,
            screen,
            countdown,
            recordings,
            kept,
            say,
        )
        self.status = Status(header=header)
        self._recording: Recording | None = None
        self._single = self._stopping = False
        self._number, self._shown, self._pace = 0, 0.0, Pace()
        self._counted: float | None = None  # when a person starts to drive

    def run(self) -> None:
        """All episodes; returns after the last, or when somebody has had enough."""
        try:
            self._begin(0)
            self._draw()
            while (wish := self._wait()) != "stop":
                if wish == "step" and not self.show.over:
                    self.show.step(self.screen.held)
                    self._taken()
                elif not self._next():
                    return
                else:
                    self._draw()
        finally:
            self._end_recording()

    def _begin(self, number: int) -> None:
        self._end_recording()
        self._number = number
        self.show.begin(number)
        self._pace.begin(self.show.dt)
        self._count_down()

    def _count_down(self) -> None:
        counts = self.countdown > 0 and self.show.driver == HUMAN
        self._counted = time.monotonic() + self.countdown if counts else None

    def _next(self) -> bool:
        """Begin the episode after this one; whether there is one."""
        if self.show.count is not None and self._number + 1 >= self.show.count:
            return False
        self._begin(self._number + 1)
        return True

    def _taken(self) -> None:
        """A step was taken."""
        now = time.monotonic()
        self._pace.taken()
        often = self.status.speed <= 1 or self.status.paused or now - self._shown >= 1 / FASTEST
        drawn = often or self.show.over
        images = self.show.images() if drawn or self._recording is not None else []
        if self._recording is not None:
            self._recording.add(images, [values_line(self.show.facts())])
        if drawn:
            self._draw(images)
        if self.show.over:
            self._over()

    def _over(self) -> None:
        """The episode has ended of itself."""
        self._end_recording()
        self.say(self.show.result())
        self._pace.rest(END_PAUSE)
        if self.kept is not None:
            self._ask()

    def _ask(self) -> None:
        """Whether the episode is to be kept is asked, and nothing goes on before that is answered."""
        if self.show.steps:
            self.status.asking = "keep this episode?"
            self._draw()

    def _wait(self) -> str:
        """Until something is to be done: "step", or "stop"; orders are carried out meanwhile."""
        while True:
            self.screen.look()
            with suppress(IndexError):
                while True:
                    if self._obey(*self.screen.orders.popleft()):
                        return "stop"
            now = time.monotonic()
            if self._counted is not None:
                if not self.screen.present:  # it is for whoever is to drive
                    self._counted = now + self.countdown
                count = max(0, math.ceil(self._counted - now))
                if now >= self._counted:
                    self._counted = None
                    self._pace.rest()
                if count != self.status.count:
                    self.status.count = count
                    self._draw()
            halted = self.status.paused or not self.screen.present or self._counted is not None
            if self.status.asking:
                halted, self._single = True, False
            left = self._pace.left()
            if self._single or (not halted and left <= 0):
                self._single = False
                self._pace.take()
                return "step"
            if halted:
                self._pace.halt()
            time.sleep(NAP if halted else min(NAP, left))

    def _obey(self, what: str, value: Any = None) -> bool:
        """Carry out an order; whether it is to end."""
        if what == "stop":
            if self.kept is None or self.show.over or not self.show.steps or self.status.asking:
                return True
            self._stopping = True
            self._ask()
            return False
        if self.status.asking:
            if what == "keep":
                self._answered(bool(value))
                self._draw()
            return self._stopping and not self.status.asking
        getattr(self, f"_do_{what}")(*(() if value is None else (value,)))
        self._draw()
        return False

    def _answered(self, keep: bool) -> None:
        assert self.kept is not None, "it was asked"
        self.status.asking = ""
        self.say(self.kept.keep() if keep else "not kept")
        self._pace.rest()
        if not self.show.over and not self._stopping:  # it was broken off
            self._begin(self._number + keep)

    def _do_pause(self) -> None:
        self.status.paused = not self.status.paused
        self._pace.rest()

    def _do_step(self) -> None:
        self.status.paused = self._single = True

    def _do_reset(self) -> None:
        if self.kept is not None and self.show.steps and not self.show.over:
            self._ask()
        else:
            self._begin(self._number)

    def _do_next(self) -> None:
        self._next()

    def _do_previous(self) -> None:
        self._begin(max(0, self._number - 1))

    def _do_speed(self, value: float | str) -> None:
        self._pace.change(value)
        self.status.speed = self._pace.speed

    def _do_driver(self, name: str) -> None:
        names = list(self.show.drivers)
        if name not in (*names, "next") or not names:  # the page knew of an expert that there is not
            return
        self.show.driver = names[(names.index(self.show.driver) + 1) % len(names)] if name == "next" else name
        self._count_down()

    def _do_seek(self, value: float | str) -> None:
        if self.show.length is None:
            return
        skip = max(1, round(SKIP / self.show.dt))
        places = {"back": self.show.steps - skip, "ahead": self.show.steps + skip, "first": 0, "last": self.show.length}
        self.show.seek(places[value] if isinstance(value, str) else round(value * self.show.length))

    def _do_header(self) -> None:
        self.status.header = not self.status.header

    def _do_keep(self, value: bool) -> None:
        """Nobody was asked."""

    def _do_record(self) -> None:
        if self._recording is not None:
            self._end_recording()
        elif self.recordings is not None:
            self._recording = Recording(self.recordings, self.show)
            self._recording.add(self.show.images(), [values_line(self.show.facts())])

    def _end_recording(self) -> None:
        if self._recording is not None:
            recording, self._recording = self._recording, None
            self.say(f"recorded {recording.close()}")

    def _draw(self, images: list[np.ndarray] | None = None) -> None:
        """Show how things are; `images`: the show's, where they are known."""
        show, status = self.show, self.status
        self._shown = time.monotonic()
        status.driver, status.drivers, status.number, status.episodes = (
            show.driver,
            tuple(show.drivers),
            self._number,
            show.count,
        )
        status.step, status.length, status.over = show.steps, show.length, show.over
        status.recording = self._recording is not None
        status.slow = self._pace.managed()
        self.screen.panels = show.panels
        self.screen.show(images or show.images(), show.facts(), show.header() if status.header else {}, status)
