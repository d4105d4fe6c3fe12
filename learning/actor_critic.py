"""Actor and critic that learn in dreams: lambda-returns, a slow critic, and gradients through the dream where actions
are numbers, or by likelihood ratio (REINFORCE) where they are choices, or where that is wanted (Hafner et al. 2021,
arXiv 2010.02193, eq. 4 to 6, with rho = 0 and 1).

    learner = ActorCritic(actor, critic, How())
    for every update:
        learner.begin(dreams, generator)
        dreamt = driving.dreaming.dream_on(memory, begun, steps, learner.act, ...)
        learner.learn(dreamt.z, dreamt.h, dreamt.action, reward, survival, weight)
"""

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from dreamdrive.learning.watching import Watching
from dreamdrive.models.actor import Actor
from dreamdrive.models.controller import Controller
from dreamdrive.models.watcher import Watcher
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.resumed import load_optimizer, load_weights

CLIP = 1.0  # of the gradient's norm
SLOW = 0.02  # share of the critic that its slow copy, from which returns are bootstrapped, takes over at each update
# Returns count in units of the distance between these quantiles of them, a running mean over some 100 updates, so that
# no world needs weights of its own (Hafner et al. 2023, arXiv 2301.04104, eq. 7)
QUANTILES, KEPT = (0.05, 0.95), 0.99
LEAST_RANGE = 1e-3  # of returns, below which all are taken for alike


@dataclass(frozen=True)
class How:
    """How actor and critic learn.

    Fields:
        actor_rate, critic_rate: Adam's
        discount, mix: gamma and lambda of the returns
        spread: of the pushes that numbers are explored with, in units of a control
        kept: of a push, from a step to the next: 0 for independent ones
        entropy: what a nat of it is worth, where actions are choices
        penalty: weight of the squares of controls beyond `free`, before tanh: an actor that says ever more of the same
            cannot turn round
        through: whether actions that are numbers learn through the dream; else by likelihood ratio, of pushes that are
            normal with standard deviation `spread` around what the actor says (Williams 1992)
    """

    actor_rate: float = 7e-4
    critic_rate: float = 1e-3
    discount: float = 0.97
    mix: float = 0.95
    spread: float = 0.2
    kept: float = 0.0
    entropy: float = 3e-3
    penalty: float = 0.02
    free: float = 1.5
    through: bool = True


def lambda_returns(reward: Tensor, discount: Tensor, value: Tensor, mix: float) -> Tensor:
    """(T, B): R_t = r_t + d_t ((1 - mix) v_(t+1) + mix R_(t+1)), with R_T = v_T (arXiv 2010.02193, eq. 4).

    reward, discount (T, B) of steps 0 to T - 1; value (T + 1, B) of the states before and after them.
    """
    found, later = [], value[-1]
    for t in reversed(range(len(reward))):
        later = reward[t] + discount[t] * ((1 - mix) * value[t + 1] + mix * later)
        found.append(later)
    return torch.stack(found[::-1])


class ActorCritic:
    """Actor and critic, and what trains them.

    Attributes:
        range: of returns, what they count in units of; 0 until the first update
    """

    def __init__(
        self, actor: Actor | Controller | Watcher, critic: nn.Module, how: How, watching: Watching | None = None
    ) -> None:
        """`critic`: z (..., Z), h (..., R) -> the return to expect (...). `watching`: of an actor that watches; who
        dreams with it says to that where dreams begin."""
        self.actor: Any = actor  # what is asked of it depends on its kind
        self.critic, self.how, self.watching = critic, how, watching
        self.slow = deepcopy(critic).requires_grad_(False)
        self.optimizers = [
            torch.optim.Adam(model.parameters(), rate)
            for model, rate in ((actor, how.actor_rate), (critic, how.critic_rate))
        ]
        self.range = torch.zeros((), device=next(critic.parameters()).device)
        self.through = how.through and not actor.space.discrete
        if not (self.through or actor.space.discrete) and (how.kept or not how.spread):
            raise ValueError("a likelihood ratio takes pushes that are drawn, each by itself")

    def begin(self, dreams: int, generator: torch.Generator) -> None:
        """Before so many dreams: what is explored is drawn with `generator`."""
        self._generator = generator
        self._push = torch.randn(dreams, self.actor.config.outputs, generator=generator, device=generator.device)
        self._pushes: list[Tensor] = []

    def act(self, z: Tensor, h: Tensor) -> Tensor:
        """What the actor tries, as a vector (B, A); z (B, Z), h (B, R)."""
        if self.actor.space.discrete:
            outputs = self.watching.look(z) if self.watching else self.actor.outputs(z, h)
            chosen = torch.multinomial(outputs.softmax(-1), 1, generator=self._generator)
            return torch.zeros_like(outputs).scatter_(1, chosen, 1.0)
        kept = self.how.kept
        noise = torch.randn(self._push.shape, generator=self._generator, device=z.device)
        self._push = kept * self._push + math.sqrt(1 - kept**2) * noise
        self._pushes.append(self._push)
        if self.watching:
            return self.actor.controls.explored(self.watching.look(z), self.how.spread * self._push)
        return self.actor.explored(z, h, self.how.spread * self._push)

    def learn(
        self,
        z: Tensor,
        h: Tensor,
        action: Tensor,
        reward: Tensor,
        survival: Tensor,
        weight: Tensor,
        more: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """One update from dreams z (T + 1, B, Z), h (T + 1, B, R), of their steps the actions (T, B, A), rewards
        (T, B), survival (T, B), how likely the dream continues after them, and weight (T, B); `more`: what else the
        actor is to lower. UserError, and nothing learnt, where a gradient is not finite."""
        value = self.slow(z, h)
        returns = lambda_returns(reward, self.how.discount * survival, value, self.how.mix)
        advantage = (returns - value[:-1]).detach()
        actor_loss = -(self._gain(z, h, action, returns, advantage, weight) * weight).sum() / weight.sum()
        actor_loss = actor_loss + self._restraint(z, h)
        if more is not None:
            actor_loss = actor_loss + more
        critic_loss = (
            (self.critic(z[:-1].detach(), h[:-1].detach()) - returns.detach()).square() * weight
        ).sum() / weight.sum()
        for loss, optimizer in zip((actor_loss, critic_loss), self.optimizers, strict=True):
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], CLIP)
            if not torch.isfinite(norm):  # before it is in the weights
                raise UserError(
                    f"a loss became {float(loss.detach()):g} and its gradient {float(norm):g}: lower the learning "
                    "rates (--actor-rate and --critic-rate; of ditto --dream-rate), or train M longer"
                )
            optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self.slow.parameters(), self.critic.parameters(), strict=True):
                slow.lerp_(fast, SLOW)
        return {
            "loss": actor_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "reward": ((reward * weight).sum() / weight.sum()).detach(),
        }

    def unit(self, returns: Tensor, advantage: Tensor, weight: Tensor) -> Tensor | float:
        """What returns (T, B) count in units of, after an update."""
        low, high = torch.quantile(returns.detach().flatten(), torch.tensor(QUANTILES, device=returns.device))
        found = high - low
        self.range = found if self.range == 0 else KEPT * self.range + (1 - KEPT) * found
        return self.range.clamp_min(LEAST_RANGE)

    def _gain(self, z: Tensor, h: Tensor, action: Tensor, returns: Tensor, advantage: Tensor, weight: Tensor) -> Tensor:
        """What the actor is to raise, (T, B)."""
        unit = self.unit(returns, advantage, weight)
        if self.through:
            return returns / unit
        if not self.actor.space.discrete:
            said = self._said(z, h).tanh()
            pushes = self.how.spread * torch.stack(self._pushes)
            logp = -0.5 * ((said.detach() + pushes - said) / self.how.spread).square().sum(-1)
            return logp * advantage / unit
        outputs = self.watching.said if self.watching else self.actor.outputs(z[:-1].detach(), h[:-1].detach())
        logp = outputs.log_softmax(-1)
        entropy = -(logp.exp() * logp).sum(-1)
        return (logp * action).sum(-1) * advantage / unit + self.how.entropy * entropy

    def _said(self, z: Tensor, h: Tensor) -> Tensor:
        """What the actor says of the dreams' steps but the last (T, B, C), before tanh, with gradients of its weights
        alone."""
        if self.watching:
            return self.watching.said
        return cast(Actor, self.actor).raw(z[:-1].detach(), h[:-1].detach())

    def _restraint(self, z: Tensor, h: Tensor) -> Tensor | float:
        """What it costs that controls are far beyond what tanh tells apart."""
        if not self.how.penalty or not isinstance(self.actor, (Actor, Watcher)) or self.actor.space.discrete:
            return 0.0
        beyond = (self._said(z, h).abs() - self.how.free).clamp_min(0)
        return self.how.penalty * beyond.square().sum(-1).mean()

    def state_dict(self) -> dict:
        return {
            "critic": self.critic.state_dict(),
            "slow": self.slow.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "range": self.range,
        }

    def load_state_dict(self, state: dict) -> None:
        load_weights(self.critic, state["critic"])
        load_weights(self.slow, state["slow"])
        self.range = state.get("range", self.range).to(self.range.device)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            load_optimizer(optimizer, saved)
        self.slow_down(1.0)  # rates may be others than before

    def slow_down(self, share: float, critic_alone: bool = False) -> None:
        """Learn on at this share of the learning rates; `critic_alone`: the actor stays as it is."""
        rates = 0.0 if critic_alone else self.how.actor_rate, self.how.critic_rate
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = share * rate
