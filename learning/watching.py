"""A watcher in dreams: what it has seen goes along with them (models/watcher.py)."""

import torch
from torch import Tensor

from dreamdrive.models.watcher import Watcher
from dreamdrive.models.world_model import Vision


class Watching:
    """B dreams, watched by one actor.

    Attributes:
        actor: who watches        said: (T, B, C) what it said in each step so far, with gradients
    """

    def __init__(self, actor: Watcher, vision: Vision) -> None:
        self.actor, self._vision = actor, vision

    @torch.no_grad()
    def begin(self, seen: Tensor, real: Tensor) -> None:
        """Before dreams that begin after frames whose latents were `seen` (B, W, Z); where `real` (B, W) is False the
        episode had not begun yet."""
        self._said: list[Tensor] = []
        self._state = self.actor.initial_state(len(seen))
        for z, begun in zip(seen.unbind(1), real.unbind(1), strict=True):
            if begun.any():
                _, state = self.actor.raw(self._vision.frames(z)[:, None], self._state)
                self._state = torch.where(begun[:, None], state, self._state)

    def look(self, z: Tensor) -> Tensor:
        """What the actor says to the next frame of each dream, of latents z (B, Z): (B, C). Gradients are of its
        weights alone: what it does changes the dream, and so what it sees, by more than they could say."""
        with torch.no_grad():
            frames = self._vision.frames(z.detach())[:, None]
        with torch.enable_grad():
            said, self._state = self.actor.raw(frames, self._state)
            self._said.append(said.squeeze(1))
        return self._said[-1]

    @property
    def said(self) -> Tensor:
        return torch.stack(self._said)
