"""Which keys a teacher has in a world, and what they do there. A teacher who holds none of them lets the clone act."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from dreamdrive.envs import World
from dreamdrive.utils.viewer import DISCRETE, is_bicycle, is_driving, keyboard_action, pairs_of

NOTHING = "n"  # do nothing: an action, unlike no key at all
DIGITS = "0123456789"
# keys, by the parts of ale-py's names
ATARI = {"up": "UP", "down": "DOWN", "left": "LEFT", "right": "RIGHT", "space": "FIRE"}
# what an action's numbers are, to the right and to the left
DRIVING, BICYCLE = ("steer", "gas", "brake"), ("accelerate", "steer")
# the order of the parts in a name; of two keys that exclude each other neither counts
CHORDS = (("up", "down"), ("right", "left"), ("space",))


class Keys:
    """The keys of one world.

    Attributes:
        listed: key -> what it does, in words; a key is an arrow ("left"), "space", a digit or a small letter
    """

    def __init__(self, world: World) -> None:
        space, self._names = world.spec.space, world.action_names()
        numbers = DRIVING if is_driving(space) else BICYCLE if is_bicycle(space) else ()
        self.space = replace(space, names=tuple(self._names) if space.discrete else numbers)
        self._choice: dict[str, int] = {}
        self._chords = world.spec.name.startswith("atari:")
        if not self.space.discrete:
            self.listed = self._box()
        elif self._chords:
            parts = {part for name in self._names for key, part in ATARI.items() if part in name}
            self.listed = {key: part.lower() for key, part in ATARI.items() if part in parts} | {NOTHING: "nothing"}
        else:
            self.listed = self._choices(self.space.n)

    def action(self, held: Iterable[str], previous: np.ndarray | int | None) -> np.ndarray | int | None:
        """What the teacher does who holds these keys, float32 (A,) or an int, after the action `previous` (None at the
        start); None for nothing at all."""
        held = {key for key in held if key in self.listed}
        if not held:
            return None
        if not self.space.discrete:
            return keyboard_action(held - {NOTHING}, self.space, previous)
        if self._chords:
            return self._chord(held)
        return next((action for key, action in self._choice.items() if key in held), None)

    def words(self, action: np.ndarray | int) -> str:
        """An action, as a person would say it."""
        return self.space.words(action)

    def _box(self) -> dict[str, str]:
        if is_driving(self.space):
            return {
                "left": "steer left",
                "right": "steer right",
                "up": "gas",
                "down": "brake",
                NOTHING: "nothing: roll on",
            }
        if is_bicycle(self.space):
            return {
                "left": "steer left",
                "right": "steer right",
                "up": "accelerate",
                "down": "brake",
                NOTHING: "nothing: roll on",
            }
        listed = {
            key: f"number {i + 1} {way}"
            for i, pair in enumerate(pairs_of(self.space))
            for key, way in zip(pair, ("down", "up"), strict=True)
        }
        return listed | {NOTHING: "nothing: all at 0"}

    def _choices(self, n: int) -> dict[str, str]:
        """Arrows where they have a meaning, else digits."""
        arrows = {key or "down": action for key, action in DISCRETE.get(n, {}).items()}
        if arrows and 0 not in arrows.values():
            arrows[NOTHING] = 0  # by the order gymnasium gives these actions
        self._choice = arrows or {digit: k for k, digit in enumerate(DIGITS[:n])}
        return {key: self.words(action) for key, action in sorted(self._choice.items(), key=lambda pair: pair[1])}

    def _chord(self, held: set[str]) -> int:
        """The game's action that has most of the keys held: all of them, or less the ones it has no name for."""
        pressed = [
            next(iter(both), None) if len(both := [key for key in group if key in held]) == 1 else None
            for group in CHORDS
        ]
        for wanted in (
            pressed,
            [*pressed[:2], None],
            [None, *pressed[1:]],
            [None, None, pressed[2]],
            [None, pressed[1], None],
        ):
            name = "".join(ATARI[key] for key in wanted if key) or "NOOP"
            if name in self._names:
                return self._names.index(name)
        return 0
