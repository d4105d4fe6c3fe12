"""What M remembers by: a core takes in steps that were taken, and gives h, from which a head foresees the next one.

    lstm    Hochreiter & Schmidhuber 1997, as in Ha & Schmidhuber 2018
    cfc     closed-form continuous-time network (Hasani et al. 2022, arXiv 2106.13898, of the package ncps)

A kind of M is a core and a head (models/mdrnn.py, models/token_memory.py): a class that inherits from both.
"""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from dreamdrive.models.policy import make_memory
from dreamdrive.models.world_model import Memory, State


class Core(Memory):
    """M that is made of a core and a head."""

    @abstractmethod
    def make_core(self) -> None:
        """Make the layers that remember, of `config`'s sizes."""

    @abstractmethod
    def nothing(self, num: int) -> State:
        """What `num` copies remember at an episode's start."""

    @abstractmethod
    def remember(self, z: Tensor, action: Tensor, state: State) -> tuple[Tensor, State]:
        """Steps z (B, T, Z), action (B, T, A) -> h after each (B, T, R), and what is remembered after the last."""

    def initial(self, num: int) -> State:
        return self.nothing(num)

    def observe(self, z: Tensor, action: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return self.remember(z, action, self.initial(len(z)) if state is None else state)


class LSTMCore(Core):
    """Carries the cell c beside h."""

    def make_core(self) -> None:
        config = self.config
        self.lstm = nn.LSTM(config.latent + config.action, config.hidden, batch_first=True)

    def nothing(self, num: int) -> State:
        zeros = next(self.lstm.parameters()).new_zeros(num, self.config.hidden)
        return State(zeros, {"c": zeros.clone()})

    def remember(self, z: Tensor, action: Tensor, state: State) -> tuple[Tensor, State]:
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

    def remember(self, z: Tensor, action: Tensor, state: State) -> tuple[Tensor, State]:
        after, last = self.cfc(torch.cat([z, action], -1), state.h)
        return after, State(last)
