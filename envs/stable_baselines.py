"""A world as Stable-Baselines3 takes its environments (Raffin et al. 2021): its copies are one VecEnv, stepped as a
batch.

    from stable_baselines3 import PPO

    world = make("nocturne", num=16, scenes="datasets/scenes", observation="features")
    PPO("MlpPolicy", VecWorld(world, seed=0)).learn(100_000)
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from dreamdrive.envs import World
from dreamdrive.utils.errors import UserError

try:
    from stable_baselines3.common.vec_env import VecEnv
except ImportError:
    raise UserError("Stable-Baselines3 is not installed: `pip install 'dreamdrive[learners]'` does it") from None

REACH = 3.0  # typical actions, that -1 and 1 stand for


class VecWorld(VecEnv):
    """The copies of `world`, which begin episodes anew by themselves.

    Actions of a Box are within [-1, 1], and stand for `REACH` times what is typical of the world (WorldSpec.
    action_scale), cut to what is possible: a policy that begins as N(0, 1) then drives, and does not reel. Choices stay
    as they are. Observations are those of the world.
    """

    def __init__(self, world: World, seed: int | Sequence[int]) -> None:
        if not getattr(world, "restart", False):
            raise UserError("Stable-Baselines3 wants copies that begin anew by themselves: make it with restart=True")
        self.world, self.start, self.render_mode = world, seed, "rgb_array"
        space, shape = world.spec.action_space, world.spec.image_shape
        self._box = space if isinstance(space, gym.spaces.Box) else None
        seen = (
            gym.spaces.Box(0, 255, shape, np.uint8)
            if world.spec.pictures
            else gym.spaces.Box(-np.inf, np.inf, shape, np.float32)
        )
        super().__init__(world.num, seen, space if self._box is None else gym.spaces.Box(-1.0, 1.0, space.shape))

    def reset(self) -> np.ndarray:
        return self.world.reset(self.start).cpu().numpy()

    def step_async(self, actions: np.ndarray) -> None:
        self._asked = self.action(actions)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        result = self.world.step(self._asked)
        ended = (result.terminated | result.truncated).cpu().numpy()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for copy in np.flatnonzero(ended):
            infos[copy] = {
                "terminal_observation": result.info["final_obs"][copy].cpu().numpy(),
                "TimeLimit.truncated": bool(result.truncated[copy] & ~result.terminated[copy]),
            }
        return result.obs.cpu().numpy(), result.reward.cpu().numpy(), ended, infos

    def action(self, asked: np.ndarray) -> torch.Tensor:
        """The world's actions (B, A) or (B,) that `asked` ones of a policy stand for."""
        if self._box is None:
            return torch.from_numpy(asked)
        spec = self.world.spec
        center, scale = (np.array(v, np.float32) for v in (spec.action_center or (0.0,), spec.action_scale or (1.0,)))
        return torch.from_numpy(np.clip(center + REACH * scale * asked, self._box.low, self._box.high))

    def close(self) -> None:
        self.world.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        owner = self if attr_name == "render_mode" else self.world
        return [getattr(owner, attr_name)] * len(self._chosen(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise UserError(f"the copies of a world are one: {attr_name} cannot be set of some of them")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **more: Any) -> list[Any]:
        raise UserError(f"the copies of a world are one: {method_name} cannot be called of some of them")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * len(self._chosen(indices))

    def get_images(self) -> list[np.ndarray]:
        return [self.world.render(copy) for copy in range(self.num_envs)]

    def _chosen(self, indices: Any) -> Sequence[int]:
        """Numbers of the copies that are meant."""
        return range(self.world.num) if indices is None else list(self._get_indices(indices))
