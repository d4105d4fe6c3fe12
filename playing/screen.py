"""Where a session is seen: in a window, or as a page in a browser (playing/browser.py)."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamdrive.driving.catalogue import HUMAN
from dreamdrive.utils.keys import Keys
from dreamdrive.utils.viewer import STOP, Viewer, values_line

# what keys of a window order, and with which value
ORDERS: dict[str, tuple[str, Any]] = {
    "space": ("pause", None),
    "s": ("step", None),
    "period": ("step", None),
    "r": ("reset", None),
    "q": (STOP, None),
    "escape": (STOP, None),
    "h": ("header", None),
    "comma": ("record", None),
    "tab": ("driver", "next"),
    "plus": ("speed", "faster"),
    "equal": ("speed", "faster"),
    "minus": ("speed", "slower"),
    "pageup": ("previous", None),
    "pagedown": ("next", None),
}
SEEKING: dict[str, tuple[str, Any]] = {
    "left": ("seek", "back"),
    "right": ("seek", "ahead"),
    "home": ("seek", "first"),
    "end": ("seek", "last"),
}
ANSWERS: dict[str, tuple[str, Any]] = {"y": ("keep", True), "n": ("keep", False)}
HELP = "space: pause    S: step    R: reset    H: header    ,: record    +, -: speed    PgUp, PgDn: episode    Q: quit"


@dataclass
class Status:
    """How a session stands.

    Fields:
        paused, recording, header, over: whether it is so
        speed: of what is usual; slow: the speed that the machine manages, where that is less
        driver, drivers: who drives, and who else could
        number, episodes: of the episode, from 0, and how many there are (None: without end)
        step, length: of the episode; None where one cannot go to any step
        count: seconds until a person drives; 0 where nobody waits
        asking: a question that is to be answered by yes or no
    """

    paused: bool = False
    recording: bool = False
    header: bool = False
    over: bool = False
    speed: float = 1.0
    slow: float | None = None
    driver: str = ""
    drivers: Sequence[str] = ()
    number: int = 0
    episodes: int | None = None
    step: int = 0
    length: int | None = None
    count: int = 0
    asking: str = ""

    @property
    def words(self) -> list[str]:
        """What is worth saying of it."""
        said = [f"speed {self.speed:g}"] if self.speed != 1 else []
        if self.slow is not None:
            said = [f"speed {self.slow:.2g}, not {self.speed:g}: this machine is too slow"]
        said += [f"you drive in {self.count}"] if self.count else []
        said += ["[recording]"] if self.recording else []
        said += ["[paused]"] if self.paused else []
        return [f"{self.asking} Y: yes    N: no"] if self.asking else said


class Screen(ABC):
    """What a session needs.

    Attributes:
        panels: names of the pictures, which may change with them
        orders: those that were given and are not yet carried out, as (what, value)
        held: keys that are held        present: whether somebody is there
    """

    panels: Sequence[str]
    orders: deque[tuple[str, Any]]
    held: Set[str]
    present: bool

    @abstractmethod
    def look(self) -> None:
        """Take in what whoever watches wants."""

    @abstractmethod
    def show(self, images: Sequence[np.ndarray], facts: dict[str, Any], header: dict[str, Any], status: Status) -> None:
        """Show pictures, one a panel, and what is said of them."""


class Window(Screen):
    """A window, and the keys of whoever sits in front of it."""

    def __init__(self, title: str, panels: Sequence[str], keys: Keys | None, sought: bool) -> None:
        self.panels, self.keys, self.orders = panels, keys, deque()
        self.given = {**ORDERS, **(SEEKING if sought else {})}
        self.help = HELP + ("    arrows, slider: seek" if sought else "    Tab: driver")
        self.viewer = Viewer(title, panels, {key: key for key in self.given})

    def __enter__(self) -> "Window":
        return self

    def __exit__(self, *_) -> None:
        self.viewer.close()

    @property
    def held(self) -> Set[str]:  # type: ignore[override]
        return self.viewer.held

    @property
    def present(self) -> bool:  # type: ignore[override]
        return self.viewer.desktop is None or not self.viewer.desktop.awaited

    def look(self) -> None:
        self.viewer.events()
        while self.viewer.orders:
            key = self.viewer.orders.popleft()
            self.orders.append((STOP, None) if key == STOP else {**self.given, **ANSWERS}[key])
        if (share := self.viewer.slider.take()) is not None:
            self.orders.append(("seek", share))

    def show(self, images: Sequence[np.ndarray], facts: dict[str, Any], header: dict[str, Any], status: Status) -> None:
        # a key that has driven until now, and is held, is no answer
        self.viewer.commands = {key: key for key in (*self.given, *(ANSWERS if status.asking else ()))}
        own = [self.keys.help] if self.keys is not None and status.driver == HUMAN else []
        lines = [values_line(facts), *([values_line(header)] if status.header else [])]
        self.viewer.panels = list(self.panels)
        place = status.step / max(1, status.length) if status.length is not None else None
        self.viewer.show(images, [*lines, "    ".join([*own, *status.words]), self.help], place)
