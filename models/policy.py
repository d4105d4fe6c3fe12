"""A policy on frames, without V and M: convolutions, then a closed-form continuous-time network (CfC, Hasani et al.
2022), an LSTM, a GRU, or no memory at all."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dreamdrive.models.catalogue import FRAMES, MEMORIES
from dreamdrive.models.vae import to_float
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.spaces import ActionSpace

BACKBONE = 128  # units between the CfC's input and its gates, as in ncps


@dataclass(frozen=True)
class PolicyConfig:
    """Sizes of a policy.

    Fields:
        image_shape: (H, W, C) of the frames
        memory: one of MEMORIES
        units: of the memory
        width: channels of the first convolution; the others have twice as many
        action_space: as `utils.spaces.ActionSpace.to_dict` writes it
        features: always FRAMES
    """

    image_shape: tuple[int, int, int]
    memory: str
    units: int
    width: int
    action_space: dict
    features: str = FRAMES

    def __post_init__(self) -> None:
        if self.memory not in MEMORIES:
            raise ValueError(f'memory must be one of {", ".join(MEMORIES)}, not "{self.memory}"')
        if min(self.image_shape[:2]) < 36:
            raise ValueError(
                f"frames of {self.image_shape[0]}x{self.image_shape[1]} are too small for the convolutions: 36x36 at "
                "least"
            )

    @property
    def outputs(self) -> int:
        return ActionSpace.from_dict(self.action_space).size


class Policy(nn.Module):
    """Frames, one after another -> actions. The convolutions are those of Mnih et al. (2015), with `width` channels
    instead of 32.

    What they see is normalised frame by frame (layer normalisation): running means over the frames of a game, which are
    all alike, are what makes the clone of ncps' Atari guide swing from one epoch to the next.
    """

    sizes: ClassVar[type["PolicyConfig"]] = PolicyConfig

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config, self.space = config, ActionSpace.from_dict(config.action_space)
        height, width, channels = config.image_shape
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, config.width, 8, 4),
            nn.ReLU(),
            nn.Conv2d(config.width, 2 * config.width, 4, 2),
            nn.ReLU(),
            nn.Conv2d(2 * config.width, 2 * config.width, 3, 1),
            nn.ReLU(),
        )
        with torch.no_grad():
            seen = self.convolutions(torch.zeros(1, channels, height, width)).numel()
        self.glance = nn.Sequential(nn.Linear(seen, 2 * config.units), nn.LayerNorm(2 * config.units), nn.SiLU())
        self.memory = make_memory(config.memory, 2 * config.units, config.units)
        self.head = nn.Linear(config.units, config.outputs)

    @classmethod
    def from_config(cls, config: dict) -> Self:
        """The inverse of `config_dict`, untrained."""
        return cls(PolicyConfig(**{**config, "image_shape": tuple(config["image_shape"])}))

    def initial_state(self, num: int) -> Tensor:
        """What is remembered at an episode's start, zeros (num, S)."""
        return self.head.weight.new_zeros(num, self.config.units * (2 if self.config.memory == "lstm" else 1))

    def forward(self, frames: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """frames uint8 (B, T, H, W, C), state (B, S) before them -> raw outputs (B, T, A), and the state after them."""
        seen = self.convolutions(to_float(frames.flatten(0, 1)))
        glance = self.glance(seen.flatten(1)).unflatten(0, frames.shape[:2])
        if self.config.memory == "mlp":
            remembered = self.memory(glance)
        elif self.config.memory == "lstm":
            h, c = (part[None].contiguous() for part in state.chunk(2, -1))
            remembered, (h, c) = self.memory(glance, (h, c))
            state = torch.cat([h[0], c[0]], -1)
        elif self.config.memory == "gru":
            remembered, state = self.memory(glance, state[None].contiguous())
            state = state[0]
        else:
            remembered, state = self.memory(glance, state)
        return self.head(remembered), state

    def config_dict(self) -> dict:
        """Plain values from which `from_config` rebuilds the model."""
        return {**asdict(self.config), "image_shape": list(self.config.image_shape)}


def make_memory(kind: str, inputs: int, units: int) -> Callable:
    """The module that remembers: (B, T, inputs) -> (B, T, units)."""
    if kind == "lstm":
        return nn.LSTM(inputs, units, batch_first=True)
    if kind == "gru":
        return nn.GRU(inputs, units, batch_first=True)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(inputs, units), nn.SiLU())
    return ncps().CfC(inputs, units, backbone_units=BACKBONE)


def make_wired(inputs: int, neurons: int, units: int) -> nn.Module:
    """A CfC wired as a neural circuit policy, of whose neurons `units` are outputs."""
    return ncps().CfC(inputs, import_module("ncps.wirings").AutoNCP(neurons, units))


def ncps() -> Any:
    """The package's module; UserError where it cannot be imported."""
    try:
        return import_module("ncps.torch")
    except ImportError as error:
        raise UserError(
            f"a CfC needs the package ncps, which cannot be imported here ({error}): run `make setup`, or `pip install "
            "-r requirements.txt`"
        ) from None
