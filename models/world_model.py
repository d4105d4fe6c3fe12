"""The one interface of world models: V, which makes a latent of a frame, and M, which foresees the next latent (Ha &
Schmidhuber 2018, figure 8). Dreams, agents, the cache of latents, trainers, evolution, cloning, viewer and teacher know
V and M by what is written here; what they are made of is known to their kinds alone (models/vae.py, models/mdrnn.py).

    latents = vision.latents(frames)                   what V's kind stores of a frame: a posterior, or tokens
    z = vision.drawn(latents, generator)               what heads and M see of it, (..., Z)
    h, state = memory.observe(z, action, state)        M takes in steps that were taken; h (B, T, R) is for heads
    imagined = memory.sample(state, temperature, noise)     what M takes for the next latent, reward and end

A kind is a class and a line in KINDS.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from dreamdrive.models.catalogue import KINDS
from dreamdrive.models.reconstruction import Weights
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.spaces import ActionSpace
from dreamdrive.utils.words import quoted

Latents = dict[str, Tensor]  # what V's kind stores of frames, by name, each (..., n)


def latents_at(latents: Latents, index: Tensor | slice) -> Latents:
    """Latents of some frames: index (...) int64, or a slice."""
    return {name: value[index] for name, value in latents.items()}


def joined_latents(parts: Sequence[Latents]) -> Latents:
    """Latents of frames, one part after another."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class State:
    """All that M carries from step to step, for B copies, batch first.

    Fields:
        h: (B, R) what heads see of it
        more: whatever else M's kind carries, by name, each (B, ...). Copies that lack a part which others have get
            zeros there, from which their kind knows that it is to be made anew
    """

    h: Tensor
    more: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.h)

    def take(self, index: Tensor | slice) -> "State":
        """The states of some copies: index (n,) int64, or (B,) bool."""
        return self._each(lambda part: part[index])

    def where(self, chosen: Tensor, other: "State") -> "State":
        """These states in the copies where chosen (B,) is True, those of `other` elsewhere."""
        own, others = alike([self, other])
        return own._of(
            torch.where(chosen.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(own, others, strict=True)
        )

    def put(self, index: Tensor, other: "State") -> "State":
        """These states, but `other` (n) in the copies `index` (n,) int64."""
        own, others = alike([self, other])
        return own._of(a.index_copy(0, index, b) for a, b in zip(own, others, strict=True))

    def repeat(self, times: int) -> "State":
        """All copies, `times` times one after another."""
        return self._each(lambda part: part.repeat(times, *[1] * (part.ndim - 1)))

    def detach(self) -> "State":
        return self._each(Tensor.detach)

    def to(self, device: torch.device | str) -> "State":
        return self._each(lambda part: part.to(device))

    def to_dict(self) -> dict[str, Tensor]:
        return {"h": self.h, **self.more}

    @staticmethod
    def joined(states: list["State"]) -> "State":
        """The copies of all states, one state after another."""
        states = alike(states)
        return states[0]._of(torch.cat(parts) for parts in zip(*states, strict=True))

    def __iter__(self) -> Iterator[Tensor]:
        yield self.h
        yield from self.more.values()

    def _each(self, change) -> "State":
        return self._of(change(part) for part in self)

    def _of(self, parts) -> "State":
        h, *more = parts
        return State(h, dict(zip(self.more, more, strict=True)))


def alike(states: list[State]) -> list[State]:
    """The same states with the same parts: those that one of them lacks are zeros."""
    if len({tuple(state.more) for state in states}) == 1:
        return states
    parts = {name: part for state in states for name, part in state.more.items()}

    def filled(state: State) -> dict[str, Tensor]:
        return {
            name: state.more[name] if name in state.more else part.new_zeros(len(state), *part.shape[1:])
            for name, part in parts.items()
        }

    return [State(state.h, filled(state)) for state in states]


@dataclass
class Imagined:
    """What M takes for the next step of B dreams.

    Fields:
        z: (B, Z)
        reward: (B,)        ending: (B,) probability of the episode ending        ended: (B,) whether it does, bool
    """

    z: Tensor
    reward: Tensor
    ending: Tensor
    ended: Tensor


class Steps(Protocol):
    """Recorded steps that M learns from: z, z_next (B, T, Z), action (B, T, A), reward, terminal, mask (B, T)."""

    z: Tensor
    z_next: Tensor
    action: Tensor
    reward: Tensor
    terminal: Tensor
    mask: Tensor


class Vision(nn.Module, ABC):
    """V. Frames are uint8 (N, H, W, C).

    Attributes:
        kind: its name in KINDS        config: a dataclass of its sizes, with `latent`, Z
        stored: names of what is stored of a frame
        frozen: whether the parts that make latents stay as they are while others learn
    """

    frozen = False

    kind: ClassVar[str]
    stored: ClassVar[tuple[str, ...]]
    config: Any

    @abstractmethod
    def latents(self, frames: Tensor) -> Latents:
        """What is stored of frames, float32 or a dtype of the kind's own."""

    @property
    @abstractmethod
    def draws(self) -> int:
        """How many standard normal numbers it takes to draw the z of one frame."""

    @abstractmethod
    def z(self, latents: Latents, normal: Tensor | None = None) -> Tensor:
        """z (..., Z) of stored latents: drawn, with normal (..., draws), or without it the likeliest."""

    def drawn(self, latents: Latents, generator: torch.Generator | None) -> Tensor:
        """z (..., Z) drawn with `generator`; without one the likeliest."""
        if generator is None:
            return self.z(latents)
        first = next(iter(latents.values()))
        return self.z(latents, torch.randn(*first.shape[:-1], self.draws, generator=generator, device=first.device))

    @abstractmethod
    def prior(self, num: int, generator: torch.Generator) -> Tensor:
        """z (num, Z) as they are before any frame is seen, on the generator's device."""

    @property
    def alphabet(self) -> list[Tensor]:
        """What z is written in, where latents are tokens: for each letter of a code the numbers (L, n) that each of
        its L values stands for; z is the letters of all places. Empty where z is any numbers."""
        return []

    @abstractmethod
    def fixed(self, z: Tensor) -> Latents:
        """Latents whose z is z (N, Z), however it is drawn."""

    @abstractmethod
    def frames(self, z: Tensor) -> Tensor:
        """What z (N, Z) looks like."""

    @property
    @abstractmethod
    def seeing(self) -> list[nn.Module]:
        """The parts that make latents of frames."""

    def freeze(self) -> None:
        """Keep the parts that make latents as they are from now on."""
        self.frozen = True
        for part in self.seeing:
            part.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "Vision":
        super().train(mode)
        for part in self.seeing if self.frozen else ():
            part.eval()
        return self

    @abstractmethod
    def usage(self, latents: Latents) -> dict[str, float]:
        """How much of what can be stored says something, of the latents of some frames (N, ...): for metrics.csv."""

    def weigh(self, weights: Weights) -> None:
        """Say what `loss` weighs; UserError where the kind has no such weights."""
        if weights != Weights():
            raise UserError(
                f"a V of kind {self.kind} has no such weights: leave --beta, --colour-balance, --loss and --returns out"
            )

    @abstractmethod
    def loss(self, frames: Tensor, output: Any, returns: Tensor | None = None) -> dict[str, Tensor]:
        """What it costs that frames became `output`, as `forward(frames)` gave it: scalars, one of them "loss".
        `returns`: (B,) what came of the frames, which V may be asked to tell; NaN where nobody knows."""

    @abstractmethod
    def config_dict(self) -> dict:
        """Plain values from which `from_config` makes the model again, untrained."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict) -> "Vision":
        """The inverse of `config_dict`."""


class Memory(nn.Module, ABC):
    """M.

    Attributes:
        kind: its name in KINDS        config: a dataclass of its sizes, with `latent`, Z, `action`, A, and `hidden`, R
        from_starts: whether states are known only of episodes that it has followed from their starts
    """

    from_starts = False

    kind: ClassVar[str]
    config: Any

    def meet(self, vision: Vision) -> None:
        """Take over what is to be known of the V on whose latents it learns."""

    @property
    @abstractmethod
    def rewarded(self) -> bool:
        """Whether rewards were learnt."""

    @abstractmethod
    def initial(self, num: int) -> State:
        """The states of `num` copies at an episode's start."""

    def started(self, seeds: Tensor) -> State:
        """The states at the starts of episodes with these seeds (B,) int64 of their world."""
        return self.initial(len(seeds)).to(seeds.device)

    @abstractmethod
    def observe(self, z: Tensor, action: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Steps that were taken: z (B, T, Z), action (B, T, A) -> h after each (B, T, R), and the state after the last.
        T steps at once are the same as T times one."""

    def bare(self, state: State) -> State:
        """A state without what M can make anew of the rest of it: to keep many."""
        return state

    @abstractmethod
    def loss(self, steps: Steps) -> dict[str, Tensor]:
        """What it costs to foresee each of these steps from those before it: scalars, means over the steps where mask
        is 1, one of them "loss"."""

    @property
    @abstractmethod
    def draws(self) -> tuple[int, int]:
        """How many uniform and how many standard normal numbers it takes to draw one step of one dream."""

    @abstractmethod
    def noise(self, uniform: Tensor, normal: Tensor, copies: int = 1) -> Any:
        """All that is random in one step of B dreams, from numbers (B, draws[0]) and (B, draws[1]); of `copies` groups
        of B dreams, it is the same in every group."""

    def drawn(self, num: int, generator: torch.Generator, copies: int = 1) -> Any:
        """The noise of `copies` groups of `num` dreams, the same in every group: candidates that are compared then meet
        the same."""
        uniforms, normals = self.draws
        uniform = torch.rand(num, uniforms, generator=generator, device=generator.device)
        normal = torch.randn(num, normals, generator=generator, device=generator.device)
        return self.noise(uniform, normal, copies)

    @abstractmethod
    def sample(self, state: State, temperature: float, noise: Any) -> Imagined:
        """What comes after `state`, drawn at `temperature`; at 0 the likeliest."""

    @abstractmethod
    def likeliest(self, state: State) -> Tensor:
        """The likeliest next latent (B, Z) after a state."""

    @abstractmethod
    def config_dict(self) -> dict:
        """Plain values from which `from_config` makes the model again, untrained."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict) -> "Memory":
        """The inverse of `config_dict`."""


@dataclass
class Starts:
    """Where dreams may begin: latents of real frames, with M's state after the real steps before them.

    Fields:
        vision: the V whose latents they are
        latents: each (N, n)        state: of N copies
    """

    vision: Vision
    latents: Latents
    state: State

    def __len__(self) -> int:
        return len(self.state)

    def take(self, index: Tensor) -> "Starts":
        """Some of the starts: index (n,) int64, or (N,) bool."""
        return Starts(self.vision, latents_at(self.latents, index), self.state.take(index))

    def to(self, device: torch.device) -> "Starts":
        latents = {name: value.to(device) for name, value in self.latents.items()}
        return Starts(self.vision, latents, self.state.to(device))

    def to_dict(self) -> dict[str, Tensor]:
        return {**self.latents, **self.state.to_dict()}

    @staticmethod
    def from_dict(values: dict[str, Tensor], vision: Vision) -> "Starts":
        """The inverse of `to_dict`; half precision, as exported runs have it, becomes float32."""
        whole = {name: value.float() if value.is_floating_point() else value for name, value in values.items()}
        more = {name: value for name, value in whole.items() if name not in (*vision.stored, "h")}
        return Starts(vision, {name: whole[name] for name in vision.stored}, State(whole["h"], more))


@dataclass
class WorldModel:
    """V and M of a run, frozen.

    Fields:
        world: the world they model, as V's checkpoint says it
        starts: where dreams may begin, or None: an imported M has none
        parents: the digests of both, by stage
    """

    vision: Vision
    memory: Memory
    world: dict
    starts: Starts | None
    parents: dict[str, str]


def build(stage: str, config: dict, kind: str | None = None) -> Any:
    """The untrained V ("vae") or M ("mdrnn") of a checkpoint's config and kind; UserError for a kind that this version
    does not know."""
    kind = kind or next(iter(KINDS[stage]))
    if kind not in KINDS[stage]:
        raise UserError(
            f'"{kind}" is no kind of {stage} that this version of dreamdrive knows ({", ".join(KINDS[stage])}): '
            "use the version that trained it"
        )
    module, name = KINDS[stage][kind]
    return getattr(import_module(module), name).from_config(config)


def load_vision(logdir: Path, device: torch.device) -> tuple[Vision, dict]:
    """V of a run, frozen, and its checkpoint."""
    saved = checkpoint.load_parent(logdir, "vae")
    vision = build("vae", saved["config"], saved.get("kind"))
    vision.load_state_dict(saved["model"])
    return vision.to(device, memory_format=torch.channels_last).eval().requires_grad_(False), saved


def load_world_model(logdir: Path, device: torch.device) -> WorldModel:
    """V and M of a run; UserError if M was trained on another V."""
    vision, saved_vision = load_vision(logdir, device)
    saved = checkpoint.load_parent(logdir, "mdrnn")
    checkpoint.check_parents(saved, {"vae": saved_vision["digest"]}, checkpoint.path(logdir, "mdrnn"), "mdrnn")
    memory = build("mdrnn", saved["config"], saved.get("kind"))
    memory.load_state_dict(saved["model"])
    memory = memory.to(device).eval().requires_grad_(False)
    require_fit(vision, memory, saved_vision["world"], saved["starts"], checkpoint.path(logdir, "mdrnn"))
    memory.meet(vision)
    starts = saved["starts"] and Starts.from_dict(saved["starts"], vision)
    parents = {"vae": saved_vision["digest"], "mdrnn": saved["digest"]}
    return WorldModel(vision, memory, saved_vision["world"], starts, parents)


def require_fit(vision: Vision, memory: Memory, world: dict, starts: dict[str, Tensor] | None, source: Path) -> None:
    """UserError unless M, whose checkpoint is `source`, is of what this V makes and of what is done in its world."""
    config, action = memory.config, ActionSpace.from_dict(world["action_space"]).size
    pairs = [("latents", config.latent, vision.config.latent), ("numbers of an action", config.action, action)]
    if hasattr(config, "letters"):
        letters = vision.alphabet
        pairs.append(("letters", tuple(config.letters), tuple(map(len, letters))))
        pairs.append(
            ("numbers of a letter", (config.numbers,) * len(letters), tuple(part.shape[1] for part in letters))
        )
    if starts is not None:
        pairs.append(("latents to start from", {*starts} & {"mu", "logsigma", "tokens"}, {*vision.stored}))
    for what, found, wanted in pairs:
        if found != wanted:
            raise UserError(
                f"{source} takes {found} {what}, and V and its world have {wanted}: get the whole run again, or train "
                f"M with `python trainmdrnn.py --logdir {source.parent.parent} --noreload`"
            )
    if starts is not None:
        require_latents(vision, starts, source)


def require_latents(vision: Vision, starts: dict[str, Tensor], source: Path) -> None:
    """UserError unless what dreams start from is what V stores of frames."""
    if "tokens" in starts:
        tokens, config = starts["tokens"], vision.config
        fits = tokens.shape[1] == config.tokens and 0 <= int(tokens.min()) and int(tokens.max()) < config.codes
    else:
        fits = bool(torch.isfinite(starts["logsigma"].float().exp()).all())
    if not fits:
        raise UserError(
            f"{source} has dreams start from what its V never makes of a frame: get the whole run again, or train M "
            f"with `python trainmdrnn.py --logdir {source.parent.parent} --noreload`"
        )


def require_starts(model: WorldModel, logdir: Path) -> Starts:
    """Where dreams of the run may begin; UserError if it does not say."""
    if model.starts is None:
        raise UserError(
            f"{Path(logdir) / 'mdrnn/best.tar'} has no starting latents (it was imported): "
            f"train M with `python trainmdrnn.py --logdir {quoted(logdir)} --noreload`"
        )
    return model.starts


def require_rewards(model: WorldModel, logdir: Path) -> None:
    """UserError if M of the run has not learnt rewards."""
    if not model.memory.rewarded:
        raise UserError(
            f"{Path(logdir) / 'mdrnn/best.tar'} was trained with --no-include_reward, and rewards are needed here: "
            f"train M with `python trainmdrnn.py --logdir {quoted(logdir)} --noreload`, or drive in the simulator"
        )
