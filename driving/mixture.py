"""Several drivers in one batch, and what the world's expert would do where they drive."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dreamdrive.driving.catalogue import trained
from dreamdrive.driving.driver import Around, Driver
from dreamdrive.envs import World
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.spaces import ActionSpace


class Mixture(Driver):
    """In each copy the driver that is named for it."""

    def __init__(self, drivers: dict[str, Driver], names: Sequence[str], space: ActionSpace) -> None:
        """`names`: of each copy's driver, in `drivers`."""
        self.drivers, self.names, self.space = drivers, list(names), space

    def reset(self, num: int, rngs: Sequence[np.random.Generator] = (), parameters: Tensor | None = None) -> None:
        super().reset(num)
        self._find()
        for name, driver in self.drivers.items():
            driver.reset(num, rngs, parameters)
            driver.keep(torch.tensor([of == name for of in self.names]))

    def see(self, obs: Tensor) -> None:
        for name, rows in self._rows.items():
            self.drivers[name].see(obs[rows])

    def choose(self) -> Tensor:
        action = self.space.zeros(self.num)
        for name, rows in self._rows.items():
            action[rows] = self.drivers[name].choose()
        return action

    def follow(self, action: Tensor) -> None:
        for name, rows in self._rows.items():
            self.drivers[name].follow(action[rows])

    def keep(self, which: Tensor) -> None:
        for name, rows in self._rows.items():
            self.drivers[name].keep(which[rows])
        super().keep(which)
        self._find()

    def _find(self) -> None:
        """Which of the copies that are left each driver drives, by name; those that drive none are not there."""
        of = [self.names[b] for b in self.copies.tolist()]
        self._rows = {name: torch.tensor([i for i, n in enumerate(of) if n == name]) for name in dict.fromkeys(of)}


class Labelled(Around):
    """A mixture, and what the expert does in its place: what the expert itself chose, or what the world's expert says
    where a controller or a clone drives, as DAgger wants it.

    Attributes:
        label: like what `choose` answered last        known: (n,) bool, in which copies it means something
    """

    def __init__(self, mixture: Mixture, world: World) -> None:
        super().__init__(mixture)
        self.mixture, self.world = mixture, world

    def reset(self, num: int, rngs: Sequence[np.random.Generator] = (), parameters: Tensor | None = None) -> None:
        super().reset(num, rngs, parameters)
        names = self.mixture.names
        self._experts = torch.tensor([name == "expert" for name in names])  # (n,) bool, and so is the next
        self._asked = torch.tensor([trained(name) is not None for name in names])

    def keep(self, which: Tensor) -> None:
        super().keep(which)
        self._experts, self._asked = self._experts[which], self._asked[which]

    def choose(self) -> Tensor:
        space = self.mixture.space
        choice = torch.from_numpy(space.clip(self.mixture.choose().numpy()))
        opinion = self._opinion() if self._asked.any() else None
        self.label, self.known = choice, self._experts
        if opinion is not None:
            opinion = torch.from_numpy(space.clip(opinion.numpy()))
            self.label = torch.where(self._asked.view(-1, *[1] * (choice.ndim - 1)), opinion, choice)
            self.known = self._experts | self._asked
        return choice

    def _opinion(self) -> Tensor | None:
        """What the expert would do in the copies that are left (n, ...); None if the world has none."""
        try:
            return self.world.expert_action()[self.copies]
        except UserError:
            return None
