"""The one loop in which a driver drives a world, and what a driver is.

    for moment in drive(world, driver, seeds):
        if moment.step is not None:
            total += moment.step.reward

Recording, evolution, cloning in the dream, scores, the viewer and the teacher are consumers of that loop; policies,
trained agents, people at a keyboard, disturbances and mixtures are drivers.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamdrive.envs import Step, World


class Driver(ABC):
    """Answers what B copies of a world show with actions. Copies whose episode is over are no longer asked about; n of
    the B are left.

    Attributes:
        copies: (n,) int64 those that are left
    """

    copies: Tensor

    def reset(self, num: int, rngs: Sequence[np.random.Generator] = (), parameters: Tensor | None = None) -> None:
        """Begin an episode in each of `num` copies, B. What is random in copy b is drawn from rngs[b] alone; a driver
        that is a network may have parameters (B, p) of its own in each."""
        self.copies = torch.arange(num)

    @property
    def num(self) -> int:
        """n."""
        return len(self.copies)

    @abstractmethod
    def see(self, obs: Tensor) -> None:
        """Take in what the copies that are left show, (n, ...)."""

    @abstractmethod
    def choose(self) -> Tensor:
        """The actions for what was last seen, (n, A) float32 or (n,) int64."""

    def follow(self, action: Tensor) -> None:  # noqa: B027  most remember nothing
        """`action` was taken in them, shaped like what `choose` answered; somebody else may have changed it."""

    def keep(self, which: Tensor) -> None:
        """Only the copies `which` (n,) bool of those that were left continue."""
        self.copies = self.copies[which.to(self.copies.device)]

    def act(self, obs: Tensor) -> Tensor:
        """See, choose, and follow what was chosen."""
        self.see(obs)
        action = self.choose()
        self.follow(action)
        return action


class Around(Driver):
    """A driver around another, to which it passes on all that it is told; what it answers is the other's, unless a
    subclass says otherwise."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    def reset(self, num: int, rngs: Sequence[np.random.Generator] = (), parameters: Tensor | None = None) -> None:
        super().reset(num)
        self.driver.reset(num, rngs, parameters)

    def see(self, obs: Tensor) -> None:
        self.driver.see(obs)

    def choose(self) -> Tensor:
        return self.driver.choose()

    def follow(self, action: Tensor) -> None:
        self.driver.follow(action)

    def keep(self, which: Tensor) -> None:
        super().keep(which)
        self.driver.keep(which)


NOBODY = torch.empty(0, dtype=torch.int64)


@dataclass
class Moment:
    """B copies of a world as they stand, in episodes of T steps T + 1 times each.

    Fields:
        obs: what they show
        going: (n,) int64 the copies whose episodes continue from here
        steps: taken so far
        action, step: what was done to get here, (B, A) or (B,), and what came of it; where episodes begin nothing was,
            and step is None
        drove: (m,) int64 the copies that took it        over: (m,) bool which of them have ended by it
        hopeless: (m,) bool which of those were ended by `patience`, not by the world
    """

    obs: Tensor
    going: Tensor
    steps: int = 0
    action: Tensor = NOBODY
    step: Step | None = None
    drove: Tensor = NOBODY
    over: Tensor = NOBODY.bool()
    hopeless: Tensor = NOBODY.bool()


def drive(
    world: World,
    driver: Driver,
    seeds: Sequence[int] | None,
    rngs: Sequence[np.random.Generator] = (),
    parameters: Tensor | None = None,
    patience: int = 0,
    together: bool = False,
) -> Iterator[Moment]:
    """An episode in every copy of a world with restart=False, from its first moment to its last.

    At each moment that is yielded the driver has seen it, but not chosen yet: its action is asked for when the next
    moment is. The last moment, in which nobody is left, it has not seen.

    Args:
        seeds: one a copy; None for a world that says itself where it begins
        rngs, parameters: for the driver, see Driver.reset
        patience: after so many steps without a reward above 0 an episode is ended; 0 for never
        together: the driver is asked about all copies until the last has ended, and what it says of those that have is
            ignored: for batches whose rows are worked on in groups
    """
    obs = world.reset(seeds)  # type: ignore[arg-type]  # None is for worlds that take it
    driver.reset(world.num, rngs, parameters)
    everybody = torch.arange(world.num, device=world.device)
    idle = torch.zeros(world.num, dtype=torch.int64, device=world.device)  # steps since a reward above 0
    moment = Moment(obs, everybody)
    ended = torch.zeros(world.num, dtype=torch.bool, device=world.device)
    while len(moment.going):
        going = moment.going
        driver.see(moment.obs if len(going) == world.num else moment.obs.index_select(0, going))
        yield moment
        chosen = driver.choose()
        driver.follow(chosen)
        chosen = chosen.to(world.device)
        # a new tensor: who keeps the last moment's keeps it; those that have ended are frozen, whatever they are told
        action = chosen if len(going) == world.num else moment.action.index_copy(0, going, chosen)
        step = world.step(action)
        over = step.terminated | step.truncated
        if together:
            over = over & ~ended
        elif len(going) < world.num:
            over = over[going]
        hopeless = torch.zeros_like(over)
        if patience:
            idle = torch.where(step.reward > 0, 0, idle + 1)
            hopeless = ~over & (idle[going] >= patience)
            if hopeless.any():
                world.truncate(going[hopeless].tolist())
                over = over | hopeless
        left = going
        if over.any():
            ended[going[over]] = True
            left = going[~over] if not together else going[:0] if ended.all() else going
            if 0 < len(left) < len(going):
                driver.keep(~over)
        moment = Moment(step.obs, left, moment.steps + 1, action, step, going, over, hopeless)
    yield moment


class Watched(Around):
    """A driver, and another that sees and follows all it does, but is not asked: what V and M make of a drive can so be
    shown whoever drives."""

    def __init__(self, driver: Driver, watching: Driver) -> None:
        super().__init__(driver)
        self.watching = watching

    def reset(self, num: int, rngs: Sequence[np.random.Generator] = (), parameters: Tensor | None = None) -> None:
        super().reset(num, rngs, parameters)
        self.watching.reset(num)

    def see(self, obs: Tensor) -> None:
        super().see(obs)
        self.watching.see(obs)

    def follow(self, action: Tensor) -> None:
        super().follow(action)
        self.watching.follow(action)

    def keep(self, which: Tensor) -> None:
        super().keep(which)
        self.watching.keep(which)
