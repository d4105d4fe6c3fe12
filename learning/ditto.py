"""DITTO: imitation as reinforcement learning in the dream (DeMoss et al. 2023, arXiv 2302.03086). A clone dreams on
from where an expert was, and is rewarded for every step at which it sees what the expert then saw. No step is taken in
the simulator.

The actor is the clone's own head. Where actions are numbers, its gradient is that of the returns themselves, through
the dream (Hafner et al. 2021, arXiv 2010.02193, eq. 6 with rho = 0, as theirs is for continuous actions); where they
are choices, it is REINFORCE with the critic as baseline (rho = 1).
"""

import math

import torch
from torch import Tensor, nn

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
SLOW = 0.02  # share of the critic that its slow copy, from which returns are bootstrapped, takes over at each update
CLIP = 1.0  # of the gradient's norm


class Critic(nn.Module):
    """(z, h) -> the return to expect from there on."""

    def __init__(self, latent: int, recurrent: int, hidden: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent + recurrent, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1)
        )
        nn.init.zeros_(self.layers[-1].get_parameter("weight"))

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        """z (..., Z), h (..., R) -> (...)."""
        return self.layers(torch.cat([z, h], -1)).squeeze(-1)


def similarity(mine: Tensor, experts: Tensor) -> Tensor:
    """How alike two vectors are (..., n) -> (...), 1 for the same: a . b / max(|a|, |b|)^2, the reward of DITTO (its
    section 3.2; "max-cosine" in Hafner et al. 2022, arXiv 2206.04114). Unlike the cosine it also tells apart vectors of
    one direction and different lengths."""
    longest = torch.maximum(mine.square().sum(-1), experts.square().sum(-1))
    return (mine * experts).sum(-1) / longest.clamp_min(1e-8)


def lambda_returns(reward: Tensor, discount: Tensor, value: Tensor, mix: float) -> Tensor:
    """(T, B): R_t = r_t + d_t ((1 - mix) v_(t+1) + mix R_(t+1)), with R_T = v_T (arXiv 2010.02193, eq. 4).

    reward, discount (T, B) of steps 0 to T - 1; value (T + 1, B) of the states before and after them.
    """
    found, later = [], value[-1]
    for t in reversed(range(len(reward))):
        later = reward[t] + discount[t] * ((1 - mix) * value[t + 1] + mix * later)
        found.append(later)
    return torch.stack(found[::-1])


class Ditto:
    """Actor and critic, and what trains them.

    for every update:
        ditto.begin(dreams)
        dreamt = driving.dreaming.dream_on(memory, begun, steps, ditto.act, ...)
        ditto.learn(z, h, action, alive, reward)
    """

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
        self.actor, self.spread, self.kept = controller, spread, math.exp(-dt / CORRELATION)
        where = next(controller.parameters()).device
        self.critic, self.slow = (Critic(latent, recurrent).to(where) for _ in range(2))
        self.slow.load_state_dict(self.critic.state_dict())
        self.slow.requires_grad_(False)
        self.learning_rate = learning_rate
        self.optimizers = [torch.optim.Adam(model.parameters(), learning_rate) for model in (self.actor, self.critic)]

    def begin(self, dreams: int, generator: torch.Generator) -> None:
        """Before so many dreams: the pushes are drawn with `generator`."""
        self._generator = generator
        self._push = torch.randn(dreams, self.actor.config.outputs, generator=generator, device=generator.device)

    def act(self, z: Tensor, h: Tensor) -> Tensor:
        """What the actor tries, as a vector (B, A); z (B, Z), h (B, R)."""
        outputs = self.actor.outputs(z, h)
        if self.actor.space.discrete:
            chosen = torch.multinomial(outputs.softmax(-1), 1, generator=self._generator)
            return torch.zeros_like(outputs).scatter_(1, chosen, 1.0)
        noise = torch.randn(outputs.shape, generator=self._generator, device=outputs.device)
        self._push = self.kept * self._push + math.sqrt(1 - self.kept**2) * noise
        space = self.actor.space
        return space.vector(space.action(outputs + self.spread * self._push))

    def learn(
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
        weight, value = alive[:-1], self.slow(z, h) * alive
        returns = lambda_returns(reward * alive[1:], DISCOUNT * alive[1:], value, MIX)
        if self.actor.space.discrete:
            logp = self.actor.outputs(z[:-1], h[:-1]).log_softmax(-1)
            advantage = (returns - value[:-1]).detach()
            entropy = -(logp.exp() * logp).sum(-1)
            scale = advantage[weight > 0].std(unbiased=False).clamp_min(1e-3)  # steps after a dream's end say nothing
            gain = (logp * action).sum(-1) * advantage / scale + ENTROPY * entropy
        else:
            gain = returns
        actor_loss = -(gain * weight).sum() / weight.sum()
        if self.anchor and recorded is not None:
            z_recorded, h_recorded, chosen = recorded
            self._cloning.train()  # it may have measured since
            actor_loss = actor_loss + self.anchor * self._cloning(self.actor.outputs(z_recorded, h_recorded), chosen)
        critic_loss = (
            (self.critic(z[:-1].detach(), h[:-1].detach()) - returns.detach()).square() * weight
        ).sum() / weight.sum()
        for loss, optimizer in zip((actor_loss, critic_loss), self.optimizers, strict=True):
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], CLIP)
            optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self.slow.parameters(), self.critic.parameters(), strict=True):
                slow.lerp_(fast, SLOW)
        return {
            "loss": actor_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "reward": ((reward * alive[1:]).sum() / weight.sum()).detach(),
        }

    def state_dict(self) -> dict:
        return {
            "critic": self.critic.state_dict(),
            "slow": self.slow.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load_state_dict(self, state: dict) -> None:
        self.critic.load_state_dict(state["critic"])
        self.slow.load_state_dict(state["slow"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
            for group in optimizer.param_groups:  # it may be another than before
                group["lr"] = self.learning_rate
