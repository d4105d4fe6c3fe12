"""A driver that plans: at every step it tries out sequences of actions in M's dream from where it is, does the first
action of what came out best, and begins the next step's search with the rest of it.

    mppi    all candidates, weighed by how well they did (Williams et al. 2017, arXiv 1509.01149)
    cem     mean and spread of the best tenth, again and again (cross-entropy method, Rubinstein 1997)
    rmhc    mutate some actions of the best sequence so far and keep what is better (random-mutation hill climbing, as
            in Olesen et al. 2020, arXiv 2011.11293)

Where the run has an actor, what it would do in the dream is one of the sequences tried, and its critic says what the
end of each is worth. Without, a plan tells what an M is worth: a driver that has learnt nothing drives as well as M
foresees.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamdrive.driving.agent import Agent
from dreamdrive.envs import world_class
from dreamdrive.envs.dream import Dream, imagine
from dreamdrive.models.actor import Actor, Controls, Critic
from dreamdrive.models.heads import loaded_head
from dreamdrive.models.world_model import WorldModel, load_world_model, require_rewards
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError

LANES_OF_ALL = 16  # candidates come in multiples of models.lanes.LANES, on every processor
ELITE = 0.1  # share of the candidates that cem learns from
SHARPNESS = 0.5  # mppi: in units of the spread of the candidates' returns, what makes a candidate weigh e times as much
SPREAD, LEAST_SPREAD = 0.4, 0.05  # of candidates' controls (-1 to 1): at first, and what cem keeps at least
KEPT = 0.6  # of a candidate's push, from a step to the next
MUTATED = 0.3  # rmhc: probability that a step's action is drawn afresh
SMOOTHING = 0.1  # cem: share of choices that are drawn from all alike


@dataclass(frozen=True)
class Plan:
    """How to plan.

    Fields:
        method: one of METHODS
        candidates: N sequences tried at once        iterations: how often a step's search is repeated
        steps: H, that are foreseen        dreams: D, that a candidate's return is a mean over
        temperature: of these dreams        discount: gamma
    """

    method: str = "mppi"
    candidates: int = 64
    iterations: int = 2
    steps: int = 12
    dreams: int = 1
    temperature: float = 0.0
    discount: float = 0.98


class Planner(Agent):
    """B copies of V and M that plan, each with random numbers of its own.

    Attributes:
        plan: how
        critic: says what the end of a dream is worth, in units of `unit`; None where nobody has learnt that
        actor: proposes a sequence; None where there is none
        mean: (n, H, C) controls, or scores of choices, that the next search begins with
    """

    def __init__(
        self, model: WorldModel, plan: Plan, critic: Critic | None = None, unit: float = 1.0, actor: Actor | None = None
    ) -> None:
        super().__init__(model, None, {})
        self.plan, self.critic, self.unit, self.actor = plan, critic, unit, actor
        opposed = world_class(model.world["env"]).OPPOSED
        self.controls = None if self._space.discrete else Controls(self._space, opposed).to(self.device)
        self.size = self._space.size if self.controls is None else self.controls.size  # C
        if plan.candidates % LANES_OF_ALL:
            raise UserError(f"{plan.candidates} candidates are not possible: give a multiple of {LANES_OF_ALL}")
        if plan.method == "mppi" and self._space.discrete:
            raise UserError("mppi weighs actions that are numbers, and these are choices: give --plan cem or rmhc")

    def reset(self, num: int, rngs: Sequence[np.random.Generator] = (), parameters: Tensor | None = None) -> None:
        super().reset(num)
        if len(rngs) != num:
            raise ValueError(f"{num} copies take one generator each, not {len(rngs)}")
        self.rngs = list(rngs)
        self.mean = torch.zeros(num, self.plan.steps, self.size, device=self.device)

    def keep(self, which: Tensor) -> None:
        super().keep(which)
        self.rngs = [rng for rng, kept in zip(self.rngs, which.tolist(), strict=True) if kept]
        self.mean = self.mean[which.to(self.device)]

    @torch.inference_mode()
    def choose(self) -> Tensor:
        spread = torch.full_like(self.mean, SPREAD)
        proposed = self._proposed()
        for _ in range(self.plan.iterations):
            tried = self._candidates(spread, proposed)
            returns = self._returns(self._vectors(tried))
            self.mean, spread = getattr(self, f"_{self.plan.method}")(tried, returns, spread)
        best = self._vectors(self.mean[None, :, :1])[0, :, 0]
        return self._space.action(best)

    def follow(self, action: Tensor) -> None:
        super().follow(action)
        self.mean = torch.cat([self.mean[:, 1:], self.mean[:, -1:]], 1)

    def _candidates(self, spread: Tensor, proposed: Tensor | None) -> Tensor:
        """(N, n, H, C) sequences to try; the first is what the search has come to, the second what the actor would do
        (n, H, C)."""
        if self.plan.method == "rmhc":
            mutated = self._drawn(lambda rng, shape: rng.random(shape[:2])) < MUTATED
            tried = torch.where(mutated[..., None], self._fresh(torch.full_like(spread, SPREAD)), self.mean)
        else:
            tried = self._fresh(spread)
        known = self.mean[None] if proposed is None else torch.stack([self.mean, proposed])
        return torch.cat([known, tried[len(known) :]])

    def _proposed(self) -> Tensor | None:
        """(n, H, C): the actor's controls, or scores of choices, in the likeliest dream from here."""
        if self.actor is None:
            return None
        found, dream = [], Dream(self._z, self._state)  # lanes that nobody drives, too: see models/lanes.py
        noise = self.memory.noise(*self._still(len(dream.z)), 1)
        for _ in range(self.plan.steps):
            raw = self.actor.raw(dream.z, dream.h)
            found.append(raw if self.controls is None else raw.tanh())
            dream, _ = imagine(self.memory, dream, self._vectors(found[-1]), 0.0, noise)
        return torch.stack(found, 1)[: len(self.mean)]

    def _fresh(self, spread: Tensor) -> Tensor:
        """(N, n, H, C) sequences around the mean: of choices the largest score is drawn (Gumbel's trick)."""
        if self.controls is None:
            uniform = self._drawn(lambda rng, shape: rng.random(shape)).clamp(1e-6, 1 - 1e-6)
            shares = (1 - SMOOTHING) * self.mean.softmax(-1) + SMOOTHING / self.size
            return shares.log() - (-uniform.log()).log()
        pushed = self._drawn(lambda rng, shape: rng.standard_normal(shape))
        for t in range(1, self.plan.steps):
            pushed[:, :, t] = KEPT * pushed[:, :, t - 1] + (1 - KEPT**2) ** 0.5 * pushed[:, :, t]
        return (self.mean + spread * pushed).clamp(-1, 1)

    def _drawn(self, draw: Callable[[np.random.Generator, tuple], np.ndarray]) -> Tensor:
        """What each copy draws of shape (N, H, C) or (N, H), from its own generator: (N, n, ...)."""
        shape = self.plan.candidates, self.plan.steps, self.size
        return torch.from_numpy(np.stack([draw(rng, shape) for rng in self.rngs], 1)).float().to(self.device)

    def _vectors(self, tried: Tensor) -> Tensor:
        """The actions of sequences (N, n, H, C) as vectors (N, n, H, A)."""
        return self._space.vector(tried.argmax(-1)) if self.controls is None else self.controls(tried)

    def _returns(self, actions: Tensor) -> Tensor:
        """(N, n): what M expects of each copy's candidates, actions (N, n, H, A); all of a copy's meet the same
        noise."""
        plan, (candidates, num) = self.plan, actions.shape[:2]
        dream = Dream(self._z[:num], self._state.take(slice(num))).repeat(candidates * plan.dreams)
        actions = actions[:, None].expand(-1, plan.dreams, -1, -1, -1).flatten(0, 2)  # (N * D * n, H, A)
        total = actions.new_zeros(len(actions))
        lasting = torch.ones_like(total)
        for t in range(plan.steps):
            dream, imagined = imagine(self.memory, dream, actions[:, t], plan.temperature, self._noise(num))
            total += lasting * imagined.reward
            lasting = lasting * plan.discount * (1 - imagined.ending)
        if self.critic is not None:
            total += lasting * self.critic(dream.z, dream.h) * self.unit
        return total.unflatten(0, (candidates, plan.dreams, num)).mean(1)

    def _noise(self, num: int) -> Any:
        """Of one step of D dreams of each of `num` copies, the same for all candidates."""
        uniforms, normals = self.memory.draws
        if not self.plan.temperature:
            uniform, normal = self._still(self.plan.dreams * num)
        else:
            drawn = [
                (rng.random((self.plan.dreams, uniforms)), rng.standard_normal((self.plan.dreams, normals)))
                for rng in self.rngs
            ]
            uniform, normal = (
                torch.from_numpy(np.stack(part, 1)).float().flatten(0, 1) for part in zip(*drawn, strict=True)
            )
        return self.memory.noise(uniform.to(self.device), normal.to(self.device), self.plan.candidates)

    def _still(self, num: int) -> tuple[Tensor, Tensor]:
        """What is drawn for a step of `num` dreams where nothing is left to chance."""
        uniforms, normals = self.memory.draws
        return (
            torch.full((num, uniforms), 0.5, device=self.device),
            torch.zeros(1, normals, device=self.device).expand(num, -1),
        )

    def _mppi(self, tried: Tensor, returns: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread of the next search from sequences (N, n, H, C) and their returns (N, n)."""
        unit = SHARPNESS * returns.std(0, unbiased=False).clamp_min(1e-6)
        weight = ((returns - returns.amax(0)) / unit).softmax(0)
        return (weight[..., None, None] * tried).sum(0), spread

    def _cem(self, tried: Tensor, returns: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        best = returns.topk(max(2, round(ELITE * len(returns))), 0).indices[..., None, None]
        elite = tried.gather(0, best.expand(-1, -1, *tried.shape[2:]))
        if self.controls is not None:
            return elite.mean(0), elite.std(0, unbiased=False).clamp_min(LEAST_SPREAD)
        shares = self._space.vector(elite.argmax(-1)).mean(0)  # of each choice among the best
        return ((1 - SMOOTHING) * shares + SMOOTHING / self.size).log(), spread

    def _rmhc(self, tried: Tensor, returns: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        best = returns.argmax(0)
        return tried[best, torch.arange(len(best), device=best.device)], spread


@dataclass(frozen=True)
class Learnt:
    """What an actor-critic left in a run.

    Fields:
        actor: the driver        critic: z, h -> what is to be expected, in units of `unit`
        digest: of the checkpoint
    """

    actor: Any
    critic: Critic
    unit: float
    digest: str

    @torch.inference_mode()
    def value(self, z: Tensor, h: Tensor) -> Tensor:
        """The return (B,) to be expected from z (B, Z) and h (B, R) on, later rewards counting less."""
        return self.critic(z, h) * self.unit


def load_learnt(
    logdir: Path, model: Agent | WorldModel, device: torch.device, controller: str = "ctrl"
) -> Learnt | None:
    """What an actor-critic left in a run, whose V and M are those of `model`; None where there was none."""
    path = checkpoint.path(logdir, controller)
    saved = checkpoint.load(path, controller) if path.exists() else None
    if saved is None or "critic" not in saved:
        return None
    checkpoint.check_parents(saved, {stage: model.parents[stage] for stage in ("vae", "mdrnn")}, path, controller)
    actor = loaded_head(saved, path, model.world, model.memory.config)
    critic = Critic.beside(actor.config)
    critic.load_state_dict(saved["critic"])
    return Learnt(actor.to(device).eval(), critic.to(device).eval(), saved["unit"], saved["digest"])


def load_planner(logdir: Path, plan: Plan, device: torch.device) -> Planner:
    """A planner in the M of a run, with the critic of its actor where there is one."""
    model = load_world_model(logdir, device)
    require_rewards(model, logdir)
    learnt = load_learnt(logdir, model, device)
    if learnt is None:
        return Planner(model, plan)
    # one that watches has no answer to a dream that it did not see begin
    proposing = learnt.actor if isinstance(learnt.actor, Actor) else None
    planner = Planner(model, plan, learnt.critic, learnt.unit, proposing)
    planner.parents["ctrl"] = learnt.digest
    return planner
