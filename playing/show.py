"""What a session shows: a driver live in the simulator or in the dream, or episodes that were recorded."""

from abc import ABC, abstractmethod
from collections.abc import Sequence, Set
from typing import Any, ClassVar

import numpy as np

from dreamdrive.utils.keys import Keys


class Show(ABC):
    """Episodes, one at a time, that can be looked at step by step.

    Attributes:
        title: of the whole        dt: seconds of a step
        panels: names of its pictures, as they are now
        keys: of whoever drives; None where nobody can
        drivers: who may drive, `driver` who does; a new one drives from the next step on
        count: of episodes; None where there is always another
        steps: taken so far        over: whether the episode has ended
        SOUGHT: whether one may go to any step of it
    """

    SOUGHT: ClassVar[bool] = False

    title: str
    panels: list[str]
    dt: float
    keys: Keys | None = None
    drivers: Sequence[str] = ()
    driver: str = ""
    count: int | None = None
    steps: int
    over: bool

    @abstractmethod
    def begin(self, number: int) -> None:
        """Begin episode `number`, from 0 on."""

    @abstractmethod
    def step(self, held: Set[str]) -> None:
        """Go on by a step; `held` are the keys that are held."""

    @abstractmethod
    def images(self) -> list[np.ndarray]:
        """One uint8 picture (h, w, 3) a panel."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What is said below the pictures: values by name."""

    @abstractmethod
    def header(self) -> dict[str, Any]:
        """What is said besides, for those who ask: values by name."""

    @property
    @abstractmethod
    def moment(self) -> tuple[np.ndarray, Any, float]:
        """What is seen now, a frame (H, W, C) or numbers (S,); the action that led here (None at an episode's start),
        and its reward."""

    @abstractmethod
    def result(self) -> str:
        """How the episode went, once it is over."""

    @property
    def length(self) -> int | None:
        """Steps of the episode, where one may go to any of them."""
        return None

    def seek(self, step: int) -> None:  # noqa: B027  most are where they are
        """Go to a step of the episode, where its `length` is known."""

    def close(self) -> None:  # noqa: B027  most have nothing to
        """Let go of what it holds."""
