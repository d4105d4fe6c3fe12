"""The actor of actor-critic: (z, h) -> action by a few wide layers, and the critic beside it.

Where actions are numbers the last layer's outputs go through tanh: each of these controls, -1 to 1, moves one number
from one end of its range to the other, or two that nobody wants at once, as gas and brake (`World.OPPOSED`): the first
upwards, the second downwards.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dreamdrive.models.catalogue import ACTOR, LATENT_FEATURES
from dreamdrive.utils.spaces import ActionSpace

LAYERS = 2  # of the critic beside a linear actor
FIRST_OUTPUTS = 0.01  # what the last layer's weights begin with, in the usual ones: to do almost nothing


@dataclass(frozen=True)
class ActorConfig:
    """Sizes of an actor.

    Fields:
        latent, recurrent: Z and R
        features: "z" for z alone, "zh" for z and h
        hidden, layers: width and number of the hidden layers; none for a linear actor
        action_space: as `utils.spaces.ActionSpace.to_dict` writes it
        opposed: pairs of numbers of a box that share a control
        head: always ACTOR
    """

    latent: int
    recurrent: int
    features: str
    hidden: int
    layers: int
    action_space: dict
    opposed: Sequence[Sequence[int]] = ()
    head: str = ACTOR

    def __post_init__(self) -> None:
        if self.features not in LATENT_FEATURES:
            raise ValueError(f'features must be {" or ".join(LATENT_FEATURES)}, not "{self.features}"')

    @property
    def inputs(self) -> int:
        return self.latent + (self.recurrent if self.features == "zh" else 0)

    @property
    def outputs(self) -> int:
        """C: how many outputs there are; one for each choice where actions are choices."""
        return ActionSpace.from_dict(self.action_space).size - len(self.opposed)


class Controls(nn.Module):
    """Controls (..., C) of -1 to 1 -> the action of a box as a vector (..., A): each moves one number from one end of
    its range to the other, or both of an opposed pair from their low ends up."""

    def __init__(self, space: ActionSpace, opposed: Sequence[Sequence[int]]) -> None:
        super().__init__()
        partner = {second: first for first, second in opposed}
        own = [i for i in range(space.size) if i not in partner]
        self.size = len(own)  # C
        low, high = (space.vector(torch.tensor(bound)) for bound in (space.low, space.high))
        shared = torch.tensor([any(i in pair for pair in opposed) for i in range(space.size)])
        begins = torch.where(shared, low, (low + high) / 2)
        # of each number, (A,): its control, whether that moves another, too, and which way it then moves this one;
        # where the number is at a control of 0, and how far it goes from there
        for name, values in (
            ("control", torch.tensor([own.index(partner.get(i, i)) for i in range(space.size)])),
            ("shared", shared),
            ("direction", torch.tensor([-1.0 if i in partner else 1.0 for i in range(space.size)])),
            ("begins", begins),
            ("reaches", high - begins),
        ):
            self.register_buffer(name, values, persistent=False)

    def forward(self, controls: Tensor) -> Tensor:
        own = controls[..., self.get_buffer("control")]
        one_way = (own * self.get_buffer("direction")).clamp_min(0)
        moved = torch.where(self.get_buffer("shared"), one_way, own)
        return torch.addcmul(self.get_buffer("begins"), moved, self.get_buffer("reaches"))

    def explored(self, raw: Tensor, push: Tensor) -> Tensor:
        """The action of controls before tanh, (B, C), pushed by `push` and kept within -1 and 1, where gradients pass
        all the same: a control that is pushed to its end could else not come back."""
        pushed = raw.tanh() + push
        return self(pushed + (pushed.clamp(-1, 1) - pushed).detach())


def wide_layers(inputs: int, hidden: int, layers: int, outputs: int, normalised: bool = True) -> nn.Sequential:
    """Layers of `hidden` units, each with SiLU and before it layer normalisation, then a linear one."""
    sizes = [inputs, *[hidden] * layers]
    parts: list[nn.Module] = []
    for a, b in zip(sizes, sizes[1:], strict=False):
        parts += [nn.Linear(a, b), *([nn.LayerNorm(b)] if normalised else []), nn.SiLU()]
    return nn.Sequential(*parts, nn.Linear(sizes[-1], outputs))


class Actor(nn.Module):
    """(z, h) -> action."""

    sizes = ActorConfig

    def __init__(self, config: ActorConfig) -> None:
        super().__init__()
        self.config, self.space = config, ActionSpace.from_dict(config.action_space)
        self.layers = wide_layers(config.inputs, config.hidden, config.layers, config.outputs)
        with torch.no_grad():
            self.layers[-1].get_parameter("weight").mul_(FIRST_OUTPUTS)
            self.layers[-1].get_parameter("bias").zero_()
        self.controls = None if self.space.discrete else Controls(self.space, config.opposed)

    @classmethod
    def from_config(cls, config: dict) -> "Actor":
        """The inverse of `config_dict`, untrained."""
        return cls(ActorConfig(**config))

    def inputs(self, z: Tensor, h: Tensor) -> Tensor:
        """z (..., Z), h (..., R) -> (..., inputs)."""
        return torch.cat([z, h], -1) if self.config.features == "zh" else z

    def raw(self, z: Tensor, h: Tensor) -> Tensor:
        """What the last layer says, (..., C): controls before tanh, or logits of the choices."""
        return self.layers(self.inputs(z, h))

    def outputs(self, z: Tensor, h: Tensor) -> Tensor:
        """z (..., Z), h (..., R) -> the action as a vector (..., A), or logits of the choices."""
        raw = self.raw(z, h)
        return raw if self.controls is None else self.controls(raw.tanh())

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        """z (..., Z), h (..., R) -> action (..., A) float32, or (...) int64."""
        return self.space.action(self.outputs(z, h))

    def explored(self, z: Tensor, h: Tensor, push: Tensor) -> Tensor:
        """The action as a vector (B, A), its controls pushed by `push` (B, C): see `Controls.explored`."""
        assert self.controls is not None, "choices are drawn, not pushed"
        return self.controls.explored(self.raw(z, h), push)

    def config_dict(self) -> dict:
        """Plain values from which `from_config` makes the model again, untrained."""
        return asdict(self.config)


class Critic(nn.Module):
    """(z, h) -> the return to expect from there on."""

    def __init__(self, latent: int, recurrent: int, hidden: int, layers: int, normalised: bool = True) -> None:
        super().__init__()
        self.layers = wide_layers(latent + recurrent, hidden, layers, 1, normalised)
        nn.init.zeros_(self.layers[-1].get_parameter("weight"))

    @classmethod
    def beside(cls, actor: Any) -> "Critic":
        """The critic of an actor, of the same width and depth; a linear actor's has LAYERS."""
        return cls(actor.latent, actor.recurrent, actor.hidden, actor.layers or LAYERS)

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        """z (..., Z), h (..., R) -> (...)."""
        return self.layers(torch.cat([z, h], -1)).squeeze(-1)
