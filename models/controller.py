"""C: the head that turns (z, h) into an action; linear as in the paper, or with one hidden layer."""

from dataclasses import asdict, dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn

from dreamdrive.utils.spaces import ActionSpace


@dataclass(frozen=True)
class ControllerConfig:
    """Sizes of C.

    Fields:
        latent, recurrent: Z and R
        features: "z" for z alone, "zh" for z and h, "state" for an observation that is Z numbers itself, without V and
            M; or those of a head of another kind (models/heads.py)
        hidden: width of a hidden tanh layer; 0 for a linear head
        action_space: as `utils.spaces.ActionSpace.to_dict` writes it
    """

    latent: int
    recurrent: int
    features: str
    hidden: int
    action_space: dict

    @property
    def outputs(self) -> int:
        return ActionSpace.from_dict(self.action_space).size


class Controller(nn.Module):
    """(z, h) -> action, which `ActionSpace.action` makes of the outputs."""

    sizes = ControllerConfig

    def __init__(self, config: ControllerConfig) -> None:
        super().__init__()
        self.config, self.space = config, ActionSpace.from_dict(config.action_space)
        sizes = [self.width, *([config.hidden] if config.hidden else []), config.outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))

    @classmethod
    def from_config(cls, config: dict) -> Self:
        """The inverse of `config_dict`, untrained."""
        return cls(ControllerConfig(**config))

    @property
    def width(self) -> int:
        """How many numbers the first layer sees."""
        return self.config.latent + (self.config.recurrent if self.config.features == "zh" else 0)

    @property
    def linears(self) -> list[nn.Linear]:
        return cast(list[nn.Linear], list(self.layers))

    def inputs(self, z: Tensor, h: Tensor) -> Tensor:
        """z (..., Z), h (..., R) -> (..., width)."""
        return torch.cat([z, h], -1) if self.config.features == "zh" else z

    def outputs(self, z: Tensor, h: Tensor) -> Tensor:
        """z (..., Z), h (..., R) -> raw outputs (..., A), before clipping or argmax."""
        return self.finish(self.inputs(z, h), [(layer.weight.T, layer.bias) for layer in self.linears])

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        """z (..., Z), h (..., R) -> action (..., A) float32, or (...) int64."""
        return self.space.action(self.outputs(z, h))

    def explored(self, z: Tensor, h: Tensor, push: Tensor) -> Tensor:
        """The action as a vector (B, A), its numbers pushed by `push` (B, A); a box."""
        return self.space.vector(self.space.action(self.outputs(z, h) + push))

    def population_action(self, parameters: Tensor, z: Tensor, h: Tensor) -> Tensor:
        """Actions of P candidates at once: parameters (P, n), z (P, S, Z), h (P, S, R) -> (P, S, A) or (P, S)."""
        weights, start = [], 0
        for layer in self.linears:
            outputs, inputs = layer.weight.shape
            weight = parameters[:, start : start + inputs * outputs].unflatten(1, (outputs, inputs)).transpose(1, 2)
            start += inputs * outputs
            weights.append((weight, parameters[:, None, start : start + outputs]))
            start += outputs
        return self.space.action(self.finish(self.inputs(z, h), weights))

    @staticmethod
    def finish(features: Tensor, weights: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The layers one after another, tanh between them; weight (..., inputs, outputs), bias broadcast."""
        for i, (weight, bias) in enumerate(weights):
            features = features @ weight + bias
            if i + 1 < len(weights):
                features = features.tanh()
        return features

    def config_dict(self) -> dict:
        """Plain values from which `from_config` rebuilds the model."""
        return asdict(self.config)


def parameter_vector(controller: nn.Module) -> Tensor:
    """All parameters as one vector (n,): weights and bias of each layer in turn."""
    return nn.utils.parameters_to_vector(controller.parameters()).detach()


def set_parameters(controller: nn.Module, vector: Tensor) -> None:
    """The inverse of `parameter_vector`."""
    nn.utils.vector_to_parameters(vector.to(torch.float32), controller.parameters())
