"""Clones in the dream: where experts were, as latents; dreams that begin there; and what an expert would have done
where a clone drifts to."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from dreamdrive.data.latents import cache_latents, load_sequences
from dreamdrive.data.loaders import Sequences
from dreamdrive.data.shards import Dataset
from dreamdrive.data.steps import Steps
from dreamdrive.driving.dreaming import dream_on
from dreamdrive.envs.dream import Dream
from dreamdrive.learning.ditto import Ditto, similarity
from dreamdrive.models.controller import Controller
from dreamdrive.models.world_model import Latents, Memory, State, Vision, WorldModel, joined_latents, latents_at
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.passes import Pass
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.spaces import ActionSpace

EPISODES_AT_ONCE = 32  # run through M together
STRIDE = 10  # frames between two places where a dream may begin
ASKED_AT_ONCE = 1024
DRIFT_STRIDE = 4  # steps of a dream between two that are asked about
JUDGED = 256  # dreams


@dataclass
class ExpertLatents:
    """Episodes with an expert's actions, one after another, as V and M see them.

    Fields:
        vision, latents: V, and what it stores of every frame, each (F, n)        z: (F, Z) the likeliest of them
        h: (F, R) M's output before it
        action: (F, A) what the expert does there, one-hot for a discrete space
        is_known: (F,) whether somebody knows that, as nobody does at an episode's last frame; else action is 0
        driven: (F, A) what whoever drove did there; 0 at an episode's last frame
        left: (F,) steps to the last frame of its episode
        frame: (F,) its number among the frames of all episodes of the dataset
        starts: (S,) every STRIDE-th frame of each episode, with state: M's before it, S copies
    """

    vision: Vision
    latents: Latents
    z: Tensor
    h: Tensor
    action: Tensor
    is_known: Tensor
    driven: Tensor
    left: Tensor
    frame: Tensor
    starts: Tensor
    state: State

    def to(self, device: torch.device) -> "ExpertLatents":
        latents = {name: value.to(device) for name, value in self.latents.items()}
        others = [field.name for field in fields(self) if field.name not in ("vision", "latents")]
        return ExpertLatents(self.vision, latents, **{name: getattr(self, name).to(device) for name in others})

    def known(self) -> Tensor:
        """(N,) the frames where the expert's action is known."""
        return self.is_known.nonzero()[:, 0]

    def steps(self, size: int) -> Steps:
        """Every step for which the expert's action is known, in batches of `size`."""
        return Steps(self.vision, self.latents, self.h, self.action, self.known(), size)

    def long(self, steps: int) -> Tensor:
        """(N,) numbers of the starts after which an episode has `steps` more steps."""
        return (self.left[self.starts] >= steps).nonzero()[:, 0]

    def begin(self, chosen: Tensor) -> Dream:
        """Dreams from the starts number `chosen` (B,), from the likeliest z."""
        return Dream(self.z[self.starts[chosen]], self.state.take(chosen))

    def after(self, chosen: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """What was really seen from the starts number `chosen` (B,) on: z (steps + 1, B, Z) and h (steps + 1, B, R)."""
        at = self.starts[chosen] + torch.arange(steps + 1, device=chosen.device)[:, None]
        return self.z[at], self.h[at]

    def replay(self, chosen: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """act(z, h) that does step by step what was done after the starts number `chosen` (B,), whatever it sees."""
        at = itertools.count()
        return lambda z, h: self.driven[self.starts[chosen] + next(at)]

    def embed(self, z: Tensor, h: Tensor) -> Tensor:
        """z (..., Z), h (..., R) -> (..., Z + R): both less the experts' mean and in units of their spread, so that z
        and h count alike in distances."""
        mean_z, mean_h, spread_z, spread_h = self._moments
        return torch.cat([(z - mean_z) / spread_z, (h - mean_h) / spread_h], -1)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Means of z (Z,) and h (R,), and the root of each one's variance, summed."""
        z, h = (values.var(0, unbiased=False).sum().sqrt().clamp_min(1e-6) for values in (self.z, self.h))
        return self.z.mean(0), self.h.mean(0), z, h


@torch.no_grad()
def expert_latents(data: Sequences, memory: Memory, split: str) -> ExpertLatents:
    """The episodes of "train" or "val" in which an expert was asked; M runs over each from its start, as it will in
    use."""
    where = next(memory.parameters()).device
    parts: dict[str, list] = {field.name: [] for field in fields(ExpertLatents) if field.name != "vision"}
    episodes, frames = [e for e in data.episodes(split) if data.known_in(e).any()], 0
    for first in Bar(
        range(0, len(episodes), EPISODES_AT_ONCE), desc=f"M over the {split} split", unit="batch", leave=False
    ):
        chosen = np.array(episodes[first : first + EPISODES_AT_ONCE])
        length = -(-int(data.steps[chosen].max()) // STRIDE) * STRIDE
        windows = data.windows(np.stack([chosen, np.zeros_like(chosen)], 1), length)
        state = memory.started(torch.from_numpy(data.seed[chosen]).to(where))
        states, seen = [state], [state.h[:, None]]  # the first every STRIDE steps
        for t in range(0, length, STRIDE):
            z, action = windows.z[:, t : t + STRIDE].to(where), windows.action[:, t : t + STRIDE].to(where)
            after, state = memory.observe(z, action, state)
            seen.append(after)
            states.append(memory.bare(state))
        h = torch.cat(seen, 1).cpu()  # (B, length + 1, R)
        state = State.joined(states).to("cpu")  # of copy b after k strides at k * B + b
        for row, e in enumerate(chosen):
            steps, start = int(data.steps[e]), int(data.frame_offset[e])
            own, begins = slice(start, start + steps + 1), torch.arange(0, steps, STRIDE)
            _, driven, expert = data.episode(e)
            values = {
                "latents": latents_at(data.latents, own),
                "h": h[row, : steps + 1],
                "state": state.take(torch.arange(len(begins)) * len(chosen) + row),
                "action": torch.cat([expert, torch.zeros_like(expert[:1])]),
                "is_known": torch.cat([data.known_in(e), torch.tensor([False])]),
                "driven": torch.cat([driven, torch.zeros_like(driven[:1])]),
                "left": torch.arange(steps, -1, -1),
                "frame": torch.arange(start, start + steps + 1),
                "starts": frames + begins,
            }
            for name, value in values.items():
                parts[name].append(value)
            frames += steps + 1
    latents = joined_latents(parts.pop("latents") or [latents_at(data.latents, slice(0))])
    states = parts.pop("state") or [memory.initial(0).to("cpu")]
    none, no_action = torch.empty(0, dtype=torch.long), data.action[:0]
    empty = {
        "h": states[0].h[:0],
        "action": no_action,
        "is_known": none.bool(),
        "driven": no_action,
        "left": none,
        "frame": none,
        "starts": none,
    }
    joined = {name: torch.cat([nothing, *parts[name]]) for name, nothing in empty.items()}
    return ExpertLatents(data.vision, latents, data.vision.z(latents), state=State.joined(states), **joined)


class Nearest:
    """What an expert did where it saw something most like what is asked about. Nothing but z is compared: h knows what
    was done before, so that whoever was nearest in h, too, would tend to have done the same again."""

    def __init__(self, experts: ExpertLatents) -> None:
        known = experts.known()
        self._seen, self._action = experts.z[known], experts.action[known]

    @torch.no_grad()
    def action(self, z: Tensor) -> Tensor:
        """(N, A) for z (N, Z)."""
        return torch.cat([self._action[torch.cdist(asked, self._seen).argmin(1)] for asked in z.split(ASKED_AT_ONCE)])


@dataclass
class Judgement:
    """What dreams of a clone are worth that begin where an expert was.

    Fields:
        distance: (T,) from what the expert saw, step by step, a mean over the dreams (Euclidean, in
            `ExpertLatents.embed`)
        likeness: mean of DITTO's reward
        reward: that M expects, a mean over steps
    """

    distance: Tensor
    likeness: float
    reward: float


@dataclass(frozen=True)
class Setting:
    """How clones dream.

    Fields:
        horizon: steps of a dream
        num: dreams at once
        temperature: of the mixture
        seed: of the dreams that clones are judged by
    """

    horizon: int
    num: int
    temperature: float
    seed: int


class Dreams:
    """Dreams that begin where experts were, with V and M of a run.

    Attributes:
        recorded: ExpertLatents of "train" and "val"        experts: the same, on M's device
    """

    def __init__(self, logdir: Path, model: WorldModel, datasets: Sequence[Dataset], setting: Setting) -> None:
        self.logdir, self.model, self.datasets, self.setting = logdir, model, datasets, setting
        self.vision, self.memory = model.vision, model.memory
        self.where = next(model.memory.parameters()).device
        model.memory.train()  # nothing of it trains; but cuDNN looks back through an LSTM in this mode only
        self.recorded = {split: self.latents(datasets, split) for split in ("train", "val")}
        self.experts = {split: latents.to(self.where) for split, latents in self.recorded.items()}

    def latents(self, datasets: Sequence[Dataset], split: str) -> ExpertLatents:
        """What V and M make of the experts' episodes of some datasets."""
        digest = self.model.parents["vae"]
        cache_latents(self.logdir, self.vision, digest, datasets, self.where)
        return expert_latents(load_sequences(self.logdir, self.vision, digest, datasets), self.memory, split)

    def act(self, model: Controller) -> Callable[[Tensor, Tensor], Tensor]:
        """What `model` does, as vectors."""
        return lambda z, h: model.space.vector(model(z, h))

    @torch.no_grad()
    def drift(self, model: Controller, before: dict[str, Tensor] | None, rng: np.random.Generator) -> dict[str, Tensor]:
        """Let `model` dream, and ask what the expert did where it saw what was most like it: z (N, Z), h (N, R), action
        (N, A) as float16, added to `before`."""
        experts, generator = self.experts["train"], self._generator(rng)
        begun = experts.begin(self._starts(rng))
        dreamt = dream_on(
            self.memory, begun, self.setting.horizon, self.act(model), self.setting.temperature, generator
        )
        chosen = dreamt.alive[::DRIFT_STRIDE] > 0
        z, h = dreamt.z[::DRIFT_STRIDE][chosen], dreamt.h[::DRIFT_STRIDE][chosen]
        fresh = {"z": z, "h": h, "action": self._nearest.action(z)}
        return {
            name: torch.cat([*([before[name]] if before else []), value.half().cpu()]) for name, value in fresh.items()
        }

    def imitate(
        self,
        ditto: Ditto,
        updates: int,
        rng: np.random.Generator,
        bar: Bar,
        average: AveragedModel | None = None,
        begun: Pass | None = None,
    ) -> dict[str, float]:
        """So many updates of actor and critic, and of the actor's average, if there is one; means of what `Ditto.learn`
        says. `bar` counts dreamt steps. `begun`: the pass to go on with."""
        begun = begun or Pass()
        experts, generator, mean = self.experts["train"], self._generator(rng), begun.mean
        horizon, num, known = self.setting.horizon, self.setting.num, experts.known()
        bar.update(begun.done * num * horizon)
        for _ in begun.of(range(updates), rng, generator):
            chosen = self._starts(rng)
            ditto.begin(num, generator)
            with torch.set_grad_enabled(not ditto.actor.space.discrete):
                dreamt = dream_on(
                    self.memory, experts.begin(chosen), horizon, ditto.act, self.setting.temperature, generator
                )
                z, h = dreamt.z, dreamt.h
                reward = similarity(experts.embed(z, h)[1:], experts.embed(*experts.after(chosen, horizon))[1:])
            at = known[torch.from_numpy(rng.integers(len(known), size=num)).to(self.where)]
            recorded = experts.z[at], experts.h[at], experts.action[at]
            mean.add(ditto.imitate(z, h, dreamt.action, dreamt.alive, reward, recorded))
            if average:
                average.update_parameters(ditto.actor)
            bar.update(num * horizon)
        return mean.result()

    @torch.no_grad()
    def judge(self, act: Callable[[Tensor, Tensor], Tensor] | None) -> Judgement:
        """JUDGED dreams from where experts of the validation split were, the same starts and noise for everybody;
        without `act` of what was really done, which tells how well M foresees."""
        experts, generator = self.experts["val"], torch.Generator(self.where).manual_seed(self.setting.seed)
        steps = min(self.setting.horizon, int(experts.left[experts.starts].max()))
        long = experts.long(steps)
        chosen = long[torch.randint(len(long), (JUDGED,), generator=generator, device=self.where)]
        act = act or experts.replay(chosen)
        dreamt = dream_on(self.memory, experts.begin(chosen), steps, act, self.setting.temperature, generator)
        mine, theirs = experts.embed(dreamt.z, dreamt.h)[1:], experts.embed(*experts.after(chosen, steps))[1:]
        return Judgement(
            (mine - theirs).norm(dim=-1).mean(1),
            float((similarity(mine, theirs) * dreamt.alive[1:]).mean()),
            float(dreamt.reward.mean()),
        )

    @cached_property
    def _nearest(self) -> Nearest:
        return Nearest(self.experts["train"])

    def _generator(self, rng: np.random.Generator) -> torch.Generator:
        return torch.Generator(self.where).manual_seed(int(rng.integers(2**31)))

    def _starts(self, rng: np.random.Generator) -> Tensor:
        """(num,) numbers of starts of the train split with a whole horizon after them; UserError if there are none."""
        long = self.experts["train"].long(self.setting.horizon)
        if not len(long):
            raise UserError(
                f"no episode with an expert has {self.setting.horizon} steps after a moment where dreams begin: choose "
                "a smaller --horizon"
            )
        return long[torch.from_numpy(rng.integers(len(long), size=self.setting.num)).to(self.where)]


def random_action(space: ActionSpace, where: torch.device, seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Uniformly random actions, as vectors."""
    rng = np.random.default_rng(seed)
    return lambda z, h: space.vector(torch.from_numpy(np.stack([space.uniform(rng) for _ in z])).to(where))
