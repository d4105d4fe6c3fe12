"""What M remembers by: a core takes in steps that were taken, and gives h, from which a head foresees the next one.

    lstm    Hochreiter & Schmidhuber 1997, as in Ha & Schmidhuber 2018
    cfc     closed-form continuous-time network (Hasani et al. 2022, arXiv 2106.13898, of the package ncps)
    ncp     layers of these whose neurons are wired as a neural circuit policy (Lechner et al. 2020): sparse, from
            inputs over inner neurons to those that give h

and transformers (models/attention_cores.py). A kind of M is a core and a head (models/mdrnn.py,
models/token_memory.py): a class that inherits from both.
"""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from dreamdrive.models.policy import make_memory, make_wired
from dreamdrive.models.world_model import Memory, State


class Core(Memory):
    """M that is made of a core and a head.

    Attributes:
        ATTENTIVE: whether the core is a transformer
    """

    ATTENTIVE: ClassVar[bool] = False

    @abstractmethod
    def make_core(self) -> None:
        """Make the layers that remember, of `config`'s sizes."""

    @abstractmethod
    def nothing(self, num: int) -> State:
        """What `num` copies remember at an episode's start."""

    @abstractmethod
    def remember(self, z: Tensor, action: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Steps z (B, T, Z), action (B, T, A) -> h after each (B, T, R), and what is remembered after the last.
        Without a state they are an episode's first."""

    def initial(self, num: int) -> State:
        return self.nothing(num)

    def observe(self, z: Tensor, action: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return self.remember(z, action, state)


class LSTMCore(Core):
    """Carries the cell c beside h."""

    def make_core(self) -> None:
        config = self.config
        self.lstm = nn.LSTM(config.latent + config.action, config.hidden, batch_first=True)

    def nothing(self, num: int) -> State:
        zeros = next(self.lstm.parameters()).new_zeros(num, self.config.hidden)
        return State(zeros, {"c": zeros.clone()})

    def remember(self, z: Tensor, action: Tensor, state: State | None) -> tuple[Tensor, State]:
        state = self.nothing(len(z)) if state is None else state
        h, c = state.h, state.more["c"]
        if z.shape[1] == 1 and torch.is_grad_enabled() and not self.lstm.weight_ih_l0.requires_grad:
            # A dream looked back through: oneDNN's LSTM would work out the gradients of the frozen weights, too.
            weights = (self.lstm.weight_ih_l0, self.lstm.weight_hh_l0, self.lstm.bias_ih_l0, self.lstm.bias_hh_l0)
            h, c = torch.lstm_cell(torch.cat([z[:, 0], action[:, 0]], -1), (h, c), *cast(Iterable[Any], weights))
            return h[:, None], State(h, {"c": c})
        after, (last_h, last_c) = self.lstm(torch.cat([z, action], -1), (h[None], c[None]))
        return after, State(last_h[0], {"c": last_c[0]})


class CfCCore(Core):
    """Carries nothing but h."""

    def make_core(self) -> None:
        config = self.config
        self.cfc: nn.Module = cast(nn.Module, make_memory("cfc", config.latent + config.action, config.hidden))

    def nothing(self, num: int) -> State:
        return State(next(self.cfc.parameters()).new_zeros(num, self.config.hidden))

    def remember(self, z: Tensor, action: Tensor, state: State | None) -> tuple[Tensor, State]:
        after, last = self.cfc(torch.cat([z, action], -1), (self.nothing(len(z)) if state is None else state).h)
        return after, State(last)


@dataclass(frozen=True, kw_only=True)
class NCPSizes:
    """Sizes of layers of wired neurons.

    Fields:
        layers: how many there are        neurons: of each, of which the last `hidden` give its output
    """

    layers: int = 1
    neurons: int = 384

    def check(self, hidden: int) -> None:
        """ValueError where they do not fit."""
        if self.layers < 1 or self.neurons < hidden + 3:
            raise ValueError(f"{hidden} outputs take {hidden + 3} neurons or more, not {self.neurons}")


class NCPCore(Core):
    """Carries all neurons of each layer beside h."""

    def make_core(self) -> None:
        config = self.config
        self.enter = nn.Linear(config.latent + config.action, config.hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(config.hidden) for _ in range(config.layers))
        wired = [make_wired(config.hidden, config.neurons, config.hidden) for _ in range(config.layers)]
        self.wired = nn.ModuleList(wired)

    def nothing(self, num: int) -> State:
        config, like = self.config, self.enter.weight
        neurons = like.new_zeros(num, config.layers, config.neurons)
        return State(like.new_zeros(num, config.hidden), {"neurons": neurons})

    def remember(self, z: Tensor, action: Tensor, state: State | None) -> tuple[Tensor, State]:
        neurons = (self.nothing(len(z)) if state is None else state).more["neurons"]
        x, last = self.enter(torch.cat([z, action], -1)), []
        for norm, layer, before in zip(self.norms, self.wired, neurons.unbind(1), strict=True):
            x, after = layer(norm(x), before)
            last.append(after)
        return x, State(x[:, -1], {"neurons": torch.stack(last, 1)})
