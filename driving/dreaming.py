"""Driving in latents: heads and plain functions that act on (z, h) of dreams, and what came of it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamdrive.driving.driver import drive
from dreamdrive.driving.policies import Blind
from dreamdrive.envs.dream import Dream, Dreams
from dreamdrive.models.controller import Controller
from dreamdrive.models.world_model import Memory

Act = Callable[[Tensor, Tensor], Tensor]  # z (B, Z), h (B, R) -> action (B, A) as a vector


class Latent(Blind):
    """A function of z and h; it looks at the dreams themselves."""

    def __init__(self, act: Act, dreams: Dreams) -> None:
        self._act, self.dreams = act, dreams

    def choose(self) -> Tensor:
        return self._act(self.dreams.dream.z, self.dreams.dream.h)


class Population(Blind):
    """P candidates of one head, each in as many dreams, one candidate's after another's."""

    def __init__(self, controller: Controller, parameters: Tensor, dreams: Dreams) -> None:
        """parameters: (P, n), see models.controller.parameter_vector."""
        self.controller, self.parameters, self.dreams = controller, parameters, dreams

    def choose(self) -> Tensor:
        sizes = len(self.parameters), self.dreams.num // len(self.parameters)
        z, h = (part.unflatten(0, sizes) for part in (self.dreams.dream.z, self.dreams.dream.h))
        return self.controller.space.vector(self.controller.population_action(self.parameters, z, h).flatten(0, 1))


@dataclass
class Dreamt:
    """T steps of B dreams.

    Fields:
        z, h: (T + 1, B, Z) and (T + 1, B, R)
        action: (T, B, A) as vectors
        alive: (T + 1, B) 1 until the dream's end, 0 after it
        reward: (T, B) that M expects
        ending: (T, B) how likely a step was to be the dream's last
    """

    z: Tensor
    h: Tensor
    action: Tensor
    alive: Tensor
    reward: Tensor
    ending: Tensor


def dream_on(
    memory: Memory,
    begun: Dream,
    steps: int,
    act: Act,
    temperature: float,
    generator: torch.Generator,
    mortal: bool = True,
) -> Dreamt:
    """Dream on for `steps` steps, T, from `begun`; with gradients where they are switched on. `mortal`: whether ends
    are drawn."""
    dreams = Dreams(memory, begun, temperature, steps, generator, whole=True, mortal=mortal)
    seen, done = [], []
    for moment in drive(dreams, Latent(act, dreams), None, together=True):
        seen.append((dreams.dream.z, dreams.dream.h, dreams.alive))
        if moment.step is not None:
            done.append((moment.action, moment.step.reward, dreams.ending))
    z, h, alive = (torch.stack(values) for values in zip(*seen, strict=True))
    action, reward, ending = (torch.stack(values) for values in zip(*done, strict=True))
    return Dreamt(z, h, action, alive, reward, ending)
