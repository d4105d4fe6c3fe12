"""A clone that an actor begins as, and that it may be held to while it learns in the dream."""

import torch
from torch import Tensor, nn

from dreamdrive.learning.moments import Moments
from dreamdrive.models.actor import Actor
from dreamdrive.models.controller import Controller
from dreamdrive.utils.progress import Bar

UPDATES, MOMENTS, RATE = 3000, 512, 1e-3  # by which the actor becomes the clone; the rate falls to 0


class Anchor:
    """What the clone does, and how far an actor is from it."""

    def __init__(self, clone: Controller) -> None:
        self.clone = clone.eval().requires_grad_(False)

    def distance(self, actor: Actor, z: Tensor, h: Tensor) -> Tensor:
        """How differently actor and clone act on z (..., Z) and h (..., R): the mean square, in units of an action as
        networks see it; of choices the cross entropy."""
        if actor.space.discrete:
            shares = self.clone.outputs(z, h).softmax(-1)
            return -(shares * actor.outputs(z, h).log_softmax(-1)).sum(-1).mean()
        return (actor.outputs(z, h) - actor.space.vector(self.clone(z, h))).square().sum(-1).mean()

    def teach(self, actor: Actor, moments: Moments, generator: torch.Generator, display: bool) -> float:
        """Make an actor act as the clone does on recorded moments; returns the distance that is left."""
        optimizer = torch.optim.Adam(actor.parameters(), RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, UPDATES)
        last = torch.zeros(())
        for _ in Bar(range(UPDATES), desc="becoming the clone", unit="update", disable=not display, leave=False):
            begun = moments.begin(moments.drawn(MOMENTS, 0.0, generator))
            last = self.distance(actor, begun.z, begun.h)
            optimizer.zero_grad(set_to_none=True)
            last.backward()
            nn.utils.clip_grad_norm_(actor.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        return float(last.detach())
