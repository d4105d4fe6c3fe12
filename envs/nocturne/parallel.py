"""Several egos of one scene as a PettingZoo environment (Terry et al. 2021), for learners of many agents.

from dreamdrive.envs.nocturne.parallel import NocturneParallelEnv

environment = NocturneParallelEnv(scenes="datasets/scenes", agents=4, observation="features")
observations, infos = environment.reset(seed=7)
while environment.agents:
    actions = {agent: environment.action_space(agent).sample() for agent in environment.agents}
    observations, rewards, terminations, truncations, infos = environment.step(actions)
"""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from dreamdrive.envs.nocturne.world import Nocturne, NocturneEnv, observation_space
from dreamdrive.utils.errors import UserError

try:
    from pettingzoo import ParallelEnv
except ImportError:
    raise UserError("PettingZoo is not installed: `pip install 'dreamdrive[learners]'` does it") from None


class NocturneParallelEnv(ParallelEnv):
    """Up to `agents` egos of a scene, "ego_0", "ego_1", ...: those that the scene has are in `agents` after `reset`,
    and leave it when they end. Options are those of `Nocturne`; `reset(seed=...)` chooses the scene and the first
    ego."""

    metadata: ClassVar[dict[str, Any]] = {
        **NocturneEnv.metadata,
        "name": "dreamdrive/Nocturne-v0",
        "is_parallelizable": True,
    }

    def __init__(self, agents: int = 4, render_mode: str | None = None, **options: Any) -> None:
        self.world = Nocturne(1, restart=False, agents=agents, **options)
        self.render_mode = render_mode
        self.possible_agents = [f"ego_{k}" for k in range(agents)]
        self.agents: list[str] = []
        self._observation_space = observation_space(self.world.spec)
        self._spaces = {name: (self._observation_space, self.world.spec.action_space) for name in self.possible_agents}
        self._rng = np.random.default_rng()

    def observation_space(self, agent: str) -> gym.Space:
        return self._spaces[agent][0]

    def action_space(self, agent: str) -> gym.Space:
        return self._spaces[agent][1]

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        start = int(self._rng.integers(2**19)) if seed is None else seed
        obs = self.world.reset([start])
        there = self.world.present.tolist()
        self.agents = [name for name, present in zip(self.possible_agents, there, strict=True) if present]
        return self._of_each(obs), {name: {} for name in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        """UserError unless each of `agents` has an action."""
        missing = [name for name in self.agents if name not in actions]
        if missing:
            raise UserError(f"{', '.join(missing)} got no action: each of {', '.join(self.agents)} wants one")
        space = self.world.spec.space
        asked = np.zeros((len(self.possible_agents), *space.shape), space.dtype)
        for name in self.agents:
            asked[self._row(name)] = actions[name]
        result = self.world.step(torch.from_numpy(asked))
        told = {name: value for name, value in result.info.items() if name != "final_obs"}
        infos = {name: {key: value[self._row(name)].item() for key, value in told.items()} for name in self.agents}
        reward, terminated, truncated = (
            {name: values[self._row(name)].item() for name in self.agents}
            for values in (result.reward, result.terminated, result.truncated)
        )
        observations = self._of_each(result.obs)
        self.agents = [name for name in self.agents if not (terminated[name] or truncated[name])]
        return observations, reward, terminated, truncated, infos

    def render(self) -> np.ndarray | None:
        """The scene from above, the first ego in its middle."""
        return self.world.render() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        self.world.close()

    def _row(self, name: str) -> int:
        return self.possible_agents.index(name)

    def _of_each(self, rows: Tensor) -> dict[str, np.ndarray]:
        return {name: rows[self._row(name)].cpu().numpy() for name in self.agents}
