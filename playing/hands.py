"""Who has the controls: people at a keyboard, and several drivers of whom one at a time chooses."""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamdrive.driving.driver import Driver
from dreamdrive.driving.policies import Blind
from dreamdrive.utils.keys import Keys


class Human(Blind):
    """A person at the keyboard.

    Attributes:
        held: keys that are held
    """

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.held: Set[str] = set()

    def reset(self, num: int, rngs: Sequence[np.random.Generator] = (), parameters: Tensor | None = None) -> None:
        super().reset(num)
        self.action: Any = None  # the last one that was taken, as plain numbers

    def choose(self) -> Tensor:
        action = self.keys.action(self.held, self.action)
        return torch.as_tensor(np.asarray(self.keys.let_go(self.action) if action is None else action))[None]

    def follow(self, action: Tensor) -> None:
        self.action = action[0].tolist()


class Hands(Driver):
    """Several drivers. All of them see and follow what is done, so that each could take over at any step.

    Attributes:
        drivers: by name        now: the name of the one who chooses
    """

    def __init__(self, drivers: Mapping[str, Driver], now: str) -> None:
        self.drivers, self.now = dict(drivers), now

    def reset(self, num: int, rngs: Sequence[np.random.Generator] = (), parameters: Tensor | None = None) -> None:
        super().reset(num)
        for driver in self.drivers.values():
            driver.reset(num, rngs)

    def see(self, obs: Tensor) -> None:
        for driver in self.drivers.values():
            driver.see(obs)

    def choose(self) -> Tensor:
        return self.drivers[self.now].choose()

    def follow(self, action: Tensor) -> None:
        for driver in self.drivers.values():
            driver.follow(action)

    def keep(self, which: Tensor) -> None:
        super().keep(which)
        for driver in self.drivers.values():
            driver.keep(which)
