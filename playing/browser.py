"""A session as a page in a browser: the teacher's page and server (teacher/server.py), put to its other use."""

import threading
import time
from collections import deque
from collections.abc import Sequence, Set
from dataclasses import asdict
from typing import Any

import numpy as np

from dreamdrive.driving.catalogue import HUMAN
from dreamdrive.playing.pace import SPEEDS
from dreamdrive.playing.screen import Screen, Status
from dreamdrive.playing.show import Show
from dreamdrive.teacher.server import Doing, Server
from dreamdrive.teacher.session import Held
from dreamdrive.utils.video import side_by_side
from dreamdrive.utils.viewer import value_text

HEIGHT = 400  # of panels, pixels
STATUS_EVERY = 0.2  # seconds, where nothing but the step has changed


class Orders(deque):
    """Orders that the server's thread puts and the session's takes."""

    def put(self, order: tuple[str, Any]) -> None:
        self.append(order)


def share(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= 1


class Page(Screen):
    """A page in a browser, for one person with the controls and others who watch."""

    def __init__(self, show: Show, host: str, port: int) -> None:
        self.orders = self.given = Orders()
        self.pressed, self.there, self.panels = Held(), threading.Event(), show.panels
        doing: Doing = {
            **dict.fromkeys(("pause", "step", "reset", "next", "previous", "header", "record", "stop", "take")),
            "speed": SPEEDS,
            "driver": tuple(show.drivers),
            "keep": (False, True),
            "seek": share,
        }
        keys = show.keys.listed if show.keys is not None else {}
        about = {"use": "play", "world": show.title, "keys": keys, "human": HUMAN}
        self.server = Server(host, port, about, doing, "play", "the session")
        self.server.session = Served(self)
        self._told: dict = {}
        self._when = 0.0

    def __enter__(self) -> "Page":
        self.server.start()
        return self

    def __exit__(self, *_) -> None:
        self.server.tell({**self._told, "phase": "done"})
        self.server.stop()

    @property
    def held(self) -> Set[str]:  # type: ignore[override]
        return self.pressed.now()

    @property
    def present(self) -> bool:  # type: ignore[override]
        return self.there.is_set()

    def look(self) -> None:
        """The server's thread has put it in place already."""

    def show(self, images: Sequence[np.ndarray], facts: dict[str, Any], header: dict[str, Any], status: Status) -> None:
        said = {name: value_text(value) for name, value in {**facts, **header}.items()}
        self.server.show(side_by_side(images, self.panels, HEIGHT), {"step": status.step, "facts": said})
        told = {**asdict(status), "phase": "running"}
        changed = {**told, "step": 0} != {**self._told, "step": 0}
        if changed or time.monotonic() - self._when > STATUS_EVERY:
            self._told, self._when = told, time.monotonic()
            self.server.tell(told)


class Served:
    """What the server needs of it."""

    def __init__(self, page: Page) -> None:
        self.held, self.present, self.orders = page.pressed, page.there, page.given
