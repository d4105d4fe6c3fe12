"""DITTO: imitation as reinforcement learning in the dream (DeMoss et al. 2023, arXiv 2302.03086). A clone dreams on
from where an expert was, and is rewarded for every step at which it sees what the expert then saw. No step is taken in
the simulator.

The actor is the clone's own head, and it learns as learning/actor_critic.py has it.
"""

import math

import torch
from torch import Tensor

from dreamdrive.learning.actor_critic import ActorCritic, How
from dreamdrive.models.actor import Critic
from dreamdrive.models.cloning import CloneLoss
from dreamdrive.models.controller import Controller

# gamma and lambda of the returns. With more, the critic's word on a dream's end outweighs the dream, and its errors are
# sought
DISCOUNT, MIX = 0.95, 0.95
# what a nat of it is worth, for choices; where actions are numbers the spread of the exploration is given, and its
# entropy with it
ENTROPY = 1e-3
# seconds after which 1/e of a push is left: independent ones would cancel each other before the car has moved
CORRELATION = 0.2
CRITIC = 128, 2  # width and number of its hidden layers


def similarity(mine: Tensor, experts: Tensor) -> Tensor:
    """How alike two vectors are (..., n) -> (...), 1 for the same: a . b / max(|a|, |b|)^2, the reward of DITTO (its
    section 3.2; "max-cosine" in Hafner et al. 2022, arXiv 2206.04114). Unlike the cosine it also tells apart vectors of
    one direction and different lengths."""
    longest = torch.maximum(mine.square().sum(-1), experts.square().sum(-1))
    return (mine * experts).sum(-1) / longest.clamp_min(1e-8)


class Ditto(ActorCritic):
    """Actor and critic that are rewarded for seeing what an expert saw, and perhaps held to what it did."""

    def __init__(
        self,
        controller: Controller,
        latent: int,
        recurrent: int,
        learning_rate: float,
        spread: float,
        dt: float,
        anchor: float = 0.0,
        cloning: CloneLoss | None = None,
    ) -> None:
        """
        Args:
            spread: of the pushes that actions are explored with, in units of the action's scale
            dt: seconds of a step
            anchor: weight of the loss of cloning, which DITTO does without
            cloning: that loss; None for a plain one
        """
        self.anchor, self._cloning = anchor, cloning or CloneLoss(controller.space)
        where = next(controller.parameters()).device
        kept = math.exp(-dt / CORRELATION)
        how = How(learning_rate, learning_rate, DISCOUNT, MIX, spread, kept, ENTROPY, penalty=0.0)
        super().__init__(controller, Critic(latent, recurrent, *CRITIC, normalised=False).to(where), how)

    def imitate(
        self,
        z: Tensor,
        h: Tensor,
        action: Tensor,
        alive: Tensor,
        reward: Tensor,
        recorded: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """One update from dreams z (T + 1, B, Z), h (T + 1, B, R), their actions (T, B, A), alive (T + 1, B) and the
        rewards (T, B) of their steps; and, with an anchor, from steps of the expert z (N, Z), h (N, R) and action (N,
        A)."""
        more = None
        if self.anchor and recorded is not None:
            z_recorded, h_recorded, chosen = recorded
            self._cloning.train()  # it may have measured since
            more = self.anchor * self._cloning(self.actor.outputs(z_recorded, h_recorded), chosen)
        return self.learn(z, h, action, reward * alive[1:], alive[1:], alive[:-1], more)

    def unit(self, returns: Tensor, advantage: Tensor, weight: Tensor) -> Tensor | float:
        """Likenesses are in no world's units; of choices the advantage's spread counts."""
        if not self.actor.space.discrete:
            return 1.0
        return advantage[weight > 0].std(unbiased=False).clamp_min(1e-3)  # steps after a dream's end say nothing
