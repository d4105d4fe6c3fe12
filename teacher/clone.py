"""The clone that is taught: what it sees and what it would do.

Three kinds, by what they see: numbers of the world (a Controller), V and M's latents (a Controller again), or frames (a
Policy, which may remember).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dreamdrive.driving.agent import Agent, Head, in_dreams
from dreamdrive.driving.driver import Driver
from dreamdrive.envs import World
from dreamdrive.envs.dream import DreamWorld
from dreamdrive.models.controller import Controller
from dreamdrive.models.policy import Policy


class Clone(Driver):
    """A clone as it drives one copy of a world, or a dream, by the parameters it was last given.

    Attributes:
        sample: what a sample of the last observation is made of: numbers (S,), latents (Z + R,) or a frame (H, W, C)
    """

    def __init__(self, agent: Head, world: World, rng: torch.Generator) -> None:
        self.head = in_dreams(agent.controller, world) if isinstance(world, DreamWorld) else agent
        self.rng = rng

    @property
    def model(self) -> Controller | Policy:
        return self.head.controller

    def reset(self, num: int, rngs: Sequence[np.random.Generator] = (), parameters: Tensor | None = None) -> None:
        super().reset(num)
        self.head.reset(num)

    def see(self, obs: Tensor) -> None:
        self.head.see(obs)
        if isinstance(self.model, Policy):
            self.sample = obs[0].numpy()
        else:
            self.sample = self.model.inputs(self.head.z, self.head.h)[0].cpu().numpy()

    @torch.inference_mode()
    def choose(self) -> Tensor:
        """What the clone does, (1, A) or (1,): drawn at the odds it gives to choices; of numbers, those it has in
        mind."""
        outputs = self.head.outputs()
        if self.model.space.discrete:
            return torch.multinomial(outputs[0].softmax(-1).cpu(), 1, generator=self.rng)
        return self.model.space.action(outputs).cpu()

    def follow(self, action: Tensor) -> None:
        """`action` was taken, the clone's or the teacher's."""
        self.head.follow(action)


@torch.inference_mode()
def recorded_inputs(agent: Head, frames: np.ndarray, action: Tensor) -> np.ndarray:
    """What `Clone.sample` was during a recorded episode: frames (T + 1, ...) and action (T, A) or (T,) -> (T,
    ...)."""
    if isinstance(agent.controller, Policy) or not isinstance(agent, Agent):
        return frames[:-1]
    z, h = agent.latents(torch.from_numpy(frames[:-1]), action)
    return agent.controller.inputs(z, h).cpu().numpy()
