"""Which keys do what in an action space, for people who drive: in a window (utils/viewer.py), or as teachers.

    keys = world.keyboard()
    keys.listed                            # {"left": "steer left", ..., "n": "nothing: roll on"}
    keys.action({"left", "up"}, previous)  # what is done by somebody who holds these; None where none of them counts
    keys.let_go(previous)                  # what is done by a driver who holds none

A world declares its own in its class (`keys` of envs.World); `usual_keys` has those that an action space suggests.
Windows keep space, S, R, Q and the full stop for themselves.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from dreamdrive.utils.spaces import ActionSpace

NOTHING = "n"  # do nothing: an action, unlike no key at all
DIGITS = "0123456789"
ARROWS = ("left", "right", "up", "down")
PACE = 0.1  # how far of half its range a number moves in a step; back to the middle it goes twice as fast
BRAKE = 0.8  # full braking blocks the wheels
# the keys that lower and raise each number of an action
PAIRS = (("left", "right"), ("down", "up"), ("a", "d"), ("z", "w"))
# what the arrows mean in a Discrete(n), after the order gymnasium gives these actions, and which action is taken where
# none is held; None for the one before
CHOICES: dict[int, tuple[dict[str, int], int | None]] = {
    2: ({"left": 0, "right": 1}, None),
    3: ({"left": 0, "right": 2, "down": 1}, 1),
    5: ({"right": 1, "left": 2, "up": 3, "down": 4}, 0),
}


class Keys(ABC):
    """The keys of one action space.

    Attributes:
        space: of the actions, with their names where these are known
        listed: key -> what it does, in words; a key is an arrow ("left"), "space", a digit or a small letter
    """

    space: ActionSpace
    listed: dict[str, str]

    @abstractmethod
    def action(self, held: Set[str], previous: np.ndarray | int | None) -> np.ndarray | int | None:
        """What somebody does who holds these keys, float32 (A,) or an int, after the action `previous` (None at the
        start); None for nothing at all."""

    @abstractmethod
    def let_go(self, previous: np.ndarray | int | None) -> np.ndarray | int:
        """What a driver does who holds no key."""

    @property
    @abstractmethod
    def help(self) -> str:
        """All of them in a line."""

    def words(self, action: np.ndarray | int) -> str:
        """An action, as a person would say it."""
        return self.space.words(action)


@dataclass(frozen=True)
class Push:
    """What a key does to one number of an action.

    Fields:
        number: which
        share: how far it brings it towards its upper bound; below 0, towards its lower one
        words: what that is, e.g. "steer left"
    """

    number: int
    share: float
    words: str


class NumberKeys(Keys):
    """Keys of a box: each pushes one of an action's numbers. Numbers that nothing pushes return to 0.

    Attributes:
        pushes: by key        slow: the numbers that move by PACE
    """

    def __init__(
        self,
        space: ActionSpace,
        pushes: Mapping[str, Push],
        names: Sequence[str] = (),
        at_once: Sequence[int] = (),
        nothing: str = "nothing: all at 0",
    ) -> None:
        """`names`: of the numbers, where they have some. `at_once`: the numbers that do what keys say within a step;
        all others move by PACE. `nothing`: what the key for doing nothing does, in words."""
        self.space, self.pushes = replace(space, names=tuple(names)), dict(pushes)
        self.slow = [i for i in range(space.size) if i not in at_once]
        self.listed = {**{key: push.words for key, push in pushes.items()}, NOTHING: nothing}

    def action(self, held: Set[str], previous: np.ndarray | int | None) -> np.ndarray | None:
        return self._pushed(held, previous) if held & self.listed.keys() else None

    def let_go(self, previous: np.ndarray | int | None) -> np.ndarray:
        return self._pushed(set(), previous)

    @property
    def help(self) -> str:
        names = self.space.names or [f"number {i + 1}" for i in range(self.space.size)]
        keys = [[key for key, push in self.pushes.items() if push.number == i] for i in range(self.space.size)]
        return "    ".join(f"{', '.join(own)}: {name}" for own, name in zip(keys, names, strict=True) if own)

    def _pushed(self, held: Set[str], previous: np.ndarray | int | None) -> np.ndarray:
        low, high = self.space.bounds
        wanted = np.zeros_like(low)
        for i in range(self.space.size):
            shares = [push.share for key, push in self.pushes.items() if push.number == i and key in held]
            if shares and min(shares) > 0:
                wanted[i] = max(shares) * high[i]
            elif shares and max(shares) < 0:
                wanted[i] = -min(shares) * low[i]
        wanted = self.space.clip(wanted)
        before = self.space.clip(np.zeros_like(low)) if previous is None else np.asarray(previous, np.float32)
        pace = PACE * self.space.half_range * np.where(np.abs(wanted) < np.abs(before), 2, 1)
        wanted[self.slow] = np.clip(wanted, before - pace, before + pace)[self.slow]
        return wanted


class ChoiceKeys(Keys):
    """Keys of choices: some have a meaning, and digits choose any of the first ten directly.

    Attributes:
        choices: key -> the choice; of several that are held the first counts
        rest: what a driver does who holds none; None for whatever was done before
    """

    def __init__(self, space: ActionSpace, keys: Mapping[str, int], rest: int | None = 0) -> None:
        """`keys`: key -> the choice; where there are none, digits are what is listed. `rest`: what a driver does who
        holds none; None for whatever was done before."""
        self.space, self.rest = space, rest
        digits = {digit: k for k, digit in enumerate(DIGITS[: space.n])}
        shown = dict(keys) or digits
        if 0 not in shown.values():
            shown[NOTHING] = 0  # by the order gymnasium gives actions
        self.choices = digits | shown
        self.listed = {key: self.words(action) for key, action in sorted(shown.items(), key=lambda pair: pair[1])}

    def action(self, held: Set[str], previous: np.ndarray | int | None) -> int | None:
        return next((action for key, action in self.choices.items() if key in held), None)

    def let_go(self, previous: np.ndarray | int | None) -> int:
        if self.rest is not None:
            return self.rest
        return 0 if previous is None else int(previous)

    @property
    def help(self) -> str:
        own = [key for key in self.listed if key not in (*DIGITS, NOTHING, "space")]  # space is the window's
        said = ["arrows"] if own and set(own) <= set(ARROWS) else own
        return f"{', '.join([*said, f'0-{min(self.space.n, 10) - 1}'])}: act"


def driving_keys(space: ActionSpace) -> NumberKeys:
    """Those of a box of steering, gas and brake."""
    return NumberKeys(
        space,
        {
            "left": Push(0, -1, "steer left"),
            "right": Push(0, 1, "steer right"),
            "up": Push(1, 1, "gas"),
            "down": Push(2, BRAKE, "brake"),
        },
        names=("steer", "gas", "brake"),
        at_once=(1, 2),
        nothing="nothing: roll on",
    )


def usual_keys(space: ActionSpace) -> Keys:
    """Those that a space suggests: steering, gas and brake for a box with low (-x, 0, 0); for others a pair of keys for
    each of the first four numbers; for choices digits, and arrows where there are 2, 3 or 5."""
    if space.discrete:
        return ChoiceKeys(space, *CHOICES.get(space.n, ({},)))
    if space.size == 3 and space.low[0] < 0 and space.low[1:] == (0, 0):
        return driving_keys(space)
    pushes = {
        key: Push(i, share, f"number {i + 1} {way}")
        for i, pair in enumerate(PAIRS[: space.size])
        for key, share, way in zip(pair, (-1, 1), ("down", "up"), strict=True)
    }
    return NumberKeys(space, pushes)
