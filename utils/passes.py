"""A pass over batches that a signal may stop between two of them, and that another process goes on with.

begun = Pass()
for number, batch in begun.of(batches):
    losses = learn(batch)
    begun.mean.add(losses, len(batch))
return begun.mean.result()
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from dreamdrive.utils import interrupts
from dreamdrive.utils.metrics import Mean
from dreamdrive.utils.seeds import luck, set_luck

if TYPE_CHECKING:
    from torch import Tensor

    from dreamdrive.utils.seeds import Generator

T = TypeVar("T")
WRONG = (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError, AttributeError)  # of states that are none


class Useless(ValueError):
    """A pass cannot be gone on with: the state that was given is of another."""


class Pass:
    """How far it has come.

    Attributes:
        done: batches        mean: of their losses        over: whether these were all
        used: whether anybody goes through batches by it
        carried: what a network that remembers has from one batch to the next
    """

    def __init__(self, state: dict | None = None) -> None:
        """`state`: what `state` gave, to go on from there."""
        self.done, self.over, self.used = 0, False, False
        self.mean = Mean()
        self.carried: Tensor | None = None
        self._luck: dict | None = None
        self._sources: tuple[Generator, ...] = ()
        if state:
            self.done, self.over, self._luck = state["done"], state["over"], state["luck"]
            self.mean.total, self.mean.weight = dict(state["total"]), state["weight"]
            self.carried = state["carried"]

    def of(self, batches: Iterable[T], *sources: "Generator") -> Iterator[tuple[int, T]]:
        """The batches that are left, with their numbers. Random numbers, and those of `sources`, go on from where they
        were; batches that are done are drawn again, so what these are drawn from must not be among them."""
        self.used, self._sources = True, sources
        if self._luck is not None:
            try:
                set_luck(self._luck, *sources)
            except WRONG as error:
                raise Useless(f"its random numbers' states are none: {error}") from None
        if self.over:
            return
        number = -1
        for number, batch in enumerate(batches):
            if number < self.done:
                continue
            yield number, batch
            self.done = number + 1
            interrupts.hear()
        if number + 1 < self.done:
            raise Useless(f"{self.done} batches of {number + 1} are done")
        self.over, self._luck = True, luck(*sources)

    def carried_on(self, like: "Tensor") -> "Tensor":
        """What is carried, where `like` is; Useless unless it has the shape of that."""
        found = self.carried
        if found is None or found.shape != like.shape or not found.is_floating_point():
            raise Useless("what the network remembers has another shape than now")
        return found.to(like.device)

    def state(self) -> dict:
        """All there is to go on from, as tensors and plain values."""
        now = self._luck if self.over else luck(*self._sources)
        mean = {"total": self.mean.total, "weight": self.mean.weight}
        return {"done": self.done, "over": self.over, **mean, "carried": self.carried, "luck": now}
