"""Recordings as they look in a mirror: frames with left and right swapped, and the actions that belong there."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mirror:
    """How a world turns round.

    Fields:
        turns: what each number of an action is multiplied by, or what each choice becomes (`World.MIRROR`)
    """

    turns: tuple[float, ...]

    def frames(self, frames: np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, C), each turned round."""
        return np.ascontiguousarray(frames[:, :, ::-1])

    def actions(self, actions: np.ndarray) -> np.ndarray:
        """float32 (n, A) or int64 (n,), likewise; what is unknown stays so."""
        turns = np.array(self.turns, actions.dtype)
        return actions * turns if actions.ndim > 1 else np.where(actions < 0, actions, turns[actions])
