"""The clone that is taught: what it sees and what it would do.

Three kinds, by what they see: numbers of the world (a Controller), V and M's latents (a Controller again), or frames (a
Policy, which may remember).
"""

import numpy as np
import torch
from torch import Tensor

from dreamdrive.envs import World
from dreamdrive.envs.dream import DreamWorld
from dreamdrive.models.agent import Agent, Head
from dreamdrive.models.controller import Controller
from dreamdrive.models.policy import Policy


class Driver:
    """A clone as it drives, one episode after another, by the parameters it was last given.

    sample = driver.see(obs); action = driver.choose(); driver.follow(action_taken)
    """

    def __init__(self, agent: Head, world: World, rng: torch.Generator) -> None:
        self.agent, self.world, self.rng = agent, world, rng

    @property
    def model(self) -> Controller | Policy:
        return self.agent.controller

    def reset(self) -> None:
        self.agent.reset(1)

    def see(self, obs: Tensor) -> np.ndarray:
        """Take in obs, as the world gives it; returns what a sample of it is made of: numbers (S,), latents (Z + R,) or
        a frame (H, W, C)."""
        if isinstance(self.world, DreamWorld):
            self.agent.imagine(self.world.dream.z, self.world.dream.h)
        else:
            self.agent.see(obs)
        if isinstance(self.model, Policy):
            return obs[0].numpy()
        return self.model.inputs(self.agent.z, self.agent.h)[0].cpu().numpy()

    @torch.inference_mode()
    def choose(self) -> np.ndarray | int:
        """What the clone does: drawn at the odds it gives to choices; of numbers, those it has in mind."""
        outputs = self.agent.outputs()
        if self.model.space.discrete:
            return int(torch.multinomial(outputs[0].softmax(-1).cpu(), 1, generator=self.rng))
        return self.model.space.action(outputs)[0].cpu().numpy()

    def follow(self, action: np.ndarray | int) -> None:
        """`action` was taken, the clone's or the teacher's."""
        if not isinstance(self.world, DreamWorld):
            self.agent.follow(torch.as_tensor(action)[None])


@torch.inference_mode()
def recorded_inputs(agent: Head, frames: np.ndarray, action: Tensor) -> np.ndarray:
    """What `Driver.see` returned during a recorded episode: frames (T + 1, ...) and action (T, A) or (T,) -> (T,
    ...)."""
    if isinstance(agent.controller, Policy) or not isinstance(agent, Agent):
        return frames[:-1]
    z, h = agent.latents(torch.from_numpy(frames[:-1]), action)
    return agent.controller.inputs(z, h).cpu().numpy()
