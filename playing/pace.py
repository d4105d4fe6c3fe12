"""When the next step is due, and how many there are in truth."""

import time
from collections import deque

SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
WINDOW = 2.0  # seconds over which it is measured
SLOW = 0.85  # of what was asked for, below which the machine is too slow


class Pace:
    """Steps at a steady pace.

    Attributes:
        speed: one of SPEEDS, of the world's own pace        dt: seconds of a step at speed 1
    """

    def __init__(self) -> None:
        self.speed, self.dt = 1.0, 1.0
        self._due = time.monotonic()
        self._steps: deque[float] = deque()  # when the last ones were taken

    def begin(self, dt: float) -> None:
        """Steps of `dt` seconds from now on."""
        self.dt = dt
        self._steps.clear()
        self.rest(dt)

    def rest(self, seconds: float = 0.0) -> None:
        """The next step is due after so many seconds."""
        self._due = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until it is due; below 0 where it is late."""
        return self._due - time.monotonic()

    def take(self) -> None:
        """It is taken now: the one after it is due a step later. A slow one is not made up for by a rush."""
        now, step = time.monotonic(), self.dt / self.speed
        self._due = (now if now - self._due > step else self._due) + step

    def taken(self) -> None:
        """Count one."""
        now = time.monotonic()
        self._steps.append(now)
        while len(self._steps) > 2 and self._steps[0] < now - WINDOW:
            self._steps.popleft()

    def halt(self) -> None:
        """Nothing moves: what was counted says nothing of the machine."""
        self._steps.clear()

    def change(self, speed: float | str) -> None:
        """To one of SPEEDS, or "faster" or "slower"."""
        place = SPEEDS.index(self.speed)
        place = {"faster": place + 1, "slower": place - 1}[speed] if isinstance(speed, str) else SPEEDS.index(speed)
        self.speed = SPEEDS[min(max(place, 0), len(SPEEDS) - 1)]
        self._steps.clear()

    def managed(self) -> float | None:
        """The speed that the machine manages, where that is less than what was asked for."""
        if len(self._steps) < 2 or self._steps[-1] - self._steps[0] < WINDOW / 2:
            return None
        speed = (len(self._steps) - 1) / (self._steps[-1] - self._steps[0]) * self.dt
        return speed if speed < SLOW * self.speed else None
