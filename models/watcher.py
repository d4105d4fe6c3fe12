"""An actor that watches: it sees the frames that V makes of its latents, one after another, and remembers them itself
(as the actor of IRIS does, Micheli et al. 2023, arXiv 2209.00588). In the simulator it sees what V makes of the
frames there, so that both worlds look alike to it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

import torch
from torch import Tensor

from dreamdrive.models.actor import FIRST_OUTPUTS, LAYERS, Controls
from dreamdrive.models.catalogue import DECODED, WATCHER
from dreamdrive.models.policy import Policy, PolicyConfig


@dataclass(frozen=True)
class WatcherConfig(PolicyConfig):
    """Sizes of a watcher.

    Fields:
        latent, recurrent: Z and R of the critic beside it, which sees these
        layers: of that critic, which are as wide as the memory
        opposed: pairs of numbers of a box that share a control
        features, head: always DECODED and WATCHER
    """

    latent: int = 0
    recurrent: int = 0
    layers: int = LAYERS
    opposed: Sequence[Sequence[int]] = ()
    features: str = DECODED
    head: str = WATCHER

    @property
    def hidden(self) -> int:
        return self.units

    @property
    def outputs(self) -> int:
        """C: how many outputs there are; one for each choice where actions are choices."""
        return super().outputs - len(self.opposed)


class Watcher(Policy):
    """Frames as V makes them, one after another -> actions."""

    sizes = WatcherConfig

    def __init__(self, config: WatcherConfig) -> None:
        super().__init__(config)
        with torch.no_grad():
            self.head.weight.mul_(FIRST_OUTPUTS)
            self.head.bias.zero_()
        self.controls = None if self.space.discrete else Controls(self.space, config.opposed)

    @classmethod
    def from_config(cls, config: dict) -> Self:
        return cls(WatcherConfig(**{**config, "image_shape": tuple(config["image_shape"])}))

    def raw(self, frames: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """frames uint8 (B, T, H, W, C), state (B, S) before them -> controls before tanh, or logits of the choices, (B,
        T, C), and the state after them."""
        return super().forward(frames, state)

    def forward(self, frames: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The same, with actions as vectors (B, T, A), or the logits of the choices."""
        raw, state = self.raw(frames, state)
        return (raw if self.controls is None else self.controls(raw.tanh())), state

    def config_dict(self) -> dict:
        return {**asdict(self.config), "image_shape": list(self.config.image_shape)}
