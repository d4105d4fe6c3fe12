"""The dream: M stepping on its own, thousands of dreams in one batch.

Pure functions over an explicit record, so any dream can be replayed:

    dream = begin(starts, index, normal)
    dream, reward, terminated = step(memory, dream, action, temperature, noise)

and the same as worlds (`DreamWorld`, for those who drive by frames or seeds; `Dreams`, for training in latents) and as
a gymnasium environment (`dreamdrive/Dream-v0`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from dreamdrive.envs import Step, World, WorldSpec, keys
from dreamdrive.envs.catalogue import DREAM_STEPS
from dreamdrive.envs.dream_noise import DreamNoise
from dreamdrive.models.lanes import LANES, filled
from dreamdrive.models.world_model import (
    Imagined,
    Memory,
    Starts,
    State,
    WorldModel,
    latents_at,
    load_world_model,
    require_rewards,
    require_starts,
)
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.keys import Keys
from dreamdrive.utils.spaces import ActionSpace


@dataclass
class Dream:
    """B dreams at one moment.

    Fields:
        z: (B, Z)
        state: M's, B copies
    """

    z: Tensor
    state: State

    @property
    def h(self) -> Tensor:
        """(B, R) what heads see of the state."""
        return self.state.h

    def where(self, chosen: Tensor, other: "Dream") -> "Dream":
        """These dreams where chosen (B,) is True, `other` elsewhere."""
        return Dream(torch.where(chosen[:, None], self.z, other.z), self.state.where(chosen, other.state))

    def take(self, index: Tensor | slice) -> "Dream":
        """Some of the dreams, by number (n,)."""
        return Dream(self.z[index], self.state.take(index))

    def put(self, index: Tensor, other: "Dream") -> "Dream":
        """These dreams, but `other` (n) at the numbers `index` (n,)."""
        return Dream(self.z.index_copy(0, index, other.z), self.state.put(index, other.state))

    def repeat(self, times: int) -> "Dream":
        """All dreams, `times` times one after another."""
        return Dream(self.z.repeat(times, 1), self.state.repeat(times))


def begin(starts: Starts, index: Tensor, normal: Tensor | None) -> Dream:
    """Dreams from the starts number `index` (B,), z drawn with standard normal numbers (B, starts.vision.draws), or
    without them the likeliest."""
    return Dream(starts.vision.z(latents_at(starts.latents, index), normal), starts.state.take(index))


def step(memory: Memory, dream: Dream, action: Tensor, temperature: float, noise: Any) -> tuple[Dream, Tensor, Tensor]:
    """One step of B dreams: action (B, A) as a vector -> the next moment, reward (B,), terminated (B,) bool.

    The end is drawn at the probability M gives it; at temperature 0 it comes where M gives it more than one half.
    """
    dream, imagined = imagine(memory, dream, action, temperature, noise)
    return dream, imagined.reward, imagined.ended


def imagine(memory: Memory, dream: Dream, action: Tensor, temperature: float, noise: Any) -> tuple[Dream, Imagined]:
    """As `step`, with all that M says of it."""
    _, state = memory.observe(dream.z[:, None], action[:, None], dream.state)
    imagined = memory.sample(state, temperature, noise)
    return Dream(imagined.z, state), imagined


class Dreams(World):
    """Dreams that continue from given moments, for training: actions are vectors (B, A), `obs` is z (B, Z), and
    gradients pass where they are asked for. A dream that has ended is dreamt on, and its rewards are 0.

    Attributes:
        dream: the present moment        alive: (B,) 1 until a dream's end, 0 after it
        ending: (B,) how likely the last step was to be the dream's last
    """

    def __init__(
        self,
        memory: Memory,
        begun: Dream,
        temperature: float,
        horizon: int,
        generator: torch.Generator,
        groups: int = 1,
        whole: bool = False,
        mortal: bool = True,
    ) -> None:
        """
        Args:
            horizon: steps after which dreams are truncated
            groups: of dreams, one after another, that all meet the same noise
            whole: no dream is said to have ended before the horizon; `alive` says it
            mortal: whether ends are drawn; without that no dream ends before the horizon, and `ending` says all
        """
        self.memory, self.begun, self.temperature, self.horizon = memory, begun, temperature, horizon
        self.generator, self.groups, self.whole, self.mortal = generator, groups, whole, mortal
        self.num, self.device = len(begun.z), begun.z.device

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensor:
        """Go back to where the dreams began; the noise continues."""
        self.dream, self.steps, self.alive = self.begun, 0, self.begun.z.new_ones(self.num)
        return self.dream.z

    def step(self, action: Tensor) -> Step:
        noise = self.memory.drawn(self.num // self.groups, self.generator, self.groups)
        self.dream, imagined = imagine(self.memory, self.dream, action, self.temperature, noise)
        reward, self.ending, self.steps = imagined.reward * self.alive, imagined.ending, self.steps + 1
        if self.mortal:
            self.alive = self.alive * ~imagined.ended
        over = torch.zeros_like(imagined.ended) if self.whole else self.alive == 0
        return Step(self.dream.z, reward, over, torch.full_like(over, self.steps >= self.horizon) & ~over)


class DreamWorld(World):
    """The dream with a simulator's interface. `obs` are decoded frames uint8 (B, H, W, C); `self.dream` holds z and h
    for policies on latents.

    A dream follows from its seed: the same seed and actions give the same latents, rewards and end, to the last bit
    whatever is dreamed beside it (on a CPU with a given number of threads; see models/lanes.py).

    Attributes:
        ending: (B,) how likely M took the last step to be the last; there after a step

    Args:
        logdir: folder of a run with V and M (exp_dir/vae, exp_dir/mdrnn)
        num: B
        temperature: of the mixture; 0 for no randomness but the start's
        horizon: steps after which a dream is truncated
        restart: see the restart rule in envs/__init__.py
        observation: "frame", or "latent": then `obs` is z, float32 (B, Z), and nothing is decoded
        rewarded: whether rewards are needed; UserError, then, if M has not learnt any
        model: V and M of the run on `device`, if they are loaded already
    """

    def __init__(
        self,
        logdir: Path,
        num: int = 1,
        device: str | torch.device = "cpu",
        temperature: float = 1.0,
        horizon: int = DREAM_STEPS,
        restart: bool = True,
        observation: str = "frame",
        rewarded: bool = True,
        model: WorldModel | None = None,
    ) -> None:
        if not 0 <= temperature < float("inf"):
            raise UserError(f"the temperature of a dream must be 0 or more, not {temperature}")
        self.num, self.device, self.temperature = num, torch.device(device), temperature
        self.restart, self.observation = restart, observation
        self.model = model or load_world_model(logdir, self.device)
        self.vision, self.memory, self.world = self.model.vision, self.model.memory, self.model.world
        if rewarded:
            require_rewards(self.model, logdir)
        self.starts = require_starts(self.model, logdir).to(self.device)
        self._noise = DreamNoise(self.vision, self.memory, num, self.device)
        # M works on a multiple of LANES: on the last copy several times, where there are fewer
        self._lanes = filled(torch.arange(num, device=self.device))
        space = ActionSpace.from_dict(self.world["action_space"])
        self.spec = WorldSpec(
            f"dream of {self.world['env']}",
            tuple(self.world["image_shape"]),
            space.to_gym(),
            self.world["dt"],
            horizon,
            space.scale,
            action_center=space.center,
        )

    @torch.inference_mode()
    def reset(self, seed: int | Sequence[int]) -> Tensor:
        self._seeds, self._restart_adds = self.seeds(seed)
        self.dream = begin(self.starts, *self._noise.begin(range(self.num), self._seeds, len(self.starts)))
        self.steps = torch.zeros(self.num, dtype=torch.long, device=self.device)
        self._terminated = torch.zeros(self.num, dtype=torch.bool, device=self.device)
        self._truncated = self._terminated.clone()
        return self._obs()

    @torch.inference_mode()
    def step(self, action: Tensor) -> Step:
        action = torch.as_tensor(action, device=self.device)
        if not torch.isfinite(action.float()).all():
            raise UserError(
                f"the action {action.tolist()} is not finite: a policy must give numbers within the action space"
            )
        frozen = self._terminated | self._truncated  # only without restart: those stay as they are
        dream, imagined = self._advance(self.spec.space.vector(action))
        reward, terminated = imagined.reward[: self.num], imagined.ended[: self.num]
        self.ending = imagined.ending[: self.num]
        self.dream = self.dream.where(frozen, dream)
        self.steps += ~frozen
        self._terminated |= terminated & ~frozen
        self._truncated |= (self.steps >= self.spec.max_steps) & ~self._terminated & ~frozen
        result = Step(self._obs(), reward.masked_fill(frozen, 0.0), self._terminated.clone(), self._truncated.clone())
        result.info["final_obs"] = result.obs
        over = self._terminated | self._truncated
        if self.restart and over.any():
            self._begin_again(over.nonzero()[:, 0])
            self.steps.masked_fill_(over, 0)
            self._terminated, self._truncated = torch.zeros_like(over), torch.zeros_like(over)
            result.obs = self._obs()
        return result

    def keyboard(self) -> Keys:
        return keys(self.world["env"], self.spec.space)

    def render(self, copy: int = 0) -> np.ndarray:
        return self.decode(self.dream.z[copy : copy + 1])[0].cpu().numpy()

    @torch.inference_mode()
    def decode(self, z: Tensor) -> Tensor:
        """z (B, Z) -> frames uint8 (B, H, W, C)."""
        return self.vision.frames(z)

    def _obs(self) -> Tensor:
        return self.dream.z.clone() if self.observation == "latent" else self.decode(self.dream.z)

    def _advance(self, vector: Tensor) -> tuple[Dream, Imagined]:
        """A step of all copies with actions `vector` (B, A): the next moment, and what M says of that and of copies
        beside them, see LANES."""
        noise, dream = self._noise.step(), self.dream
        if self.num % LANES:
            dream, vector = dream.take(self._lanes), vector[self._lanes]
        dream, imagined = imagine(self.memory, dream, vector, self.temperature, noise)
        return dream.take(slice(self.num)) if self.num % LANES else dream, imagined

    def _begin_again(self, copies: Tensor) -> None:
        """Begin the next dreams of `copies` (n,)."""
        numbers = copies.tolist()
        for copy in numbers:
            self._seeds[copy] += self._restart_adds
        seeds = [self._seeds[copy] for copy in numbers]
        begun = begin(self.starts, *self._noise.begin(numbers, seeds, len(self.starts)))
        self.dream = self.dream.put(copies, begun)


class DreamEnv(gym.Env):
    """One dream as a gymnasium environment: `gym.make("dreamdrive/Dream-v0", logdir="exp_dir",
    observation="frame"|"latent", temperature=1.0, horizon=1000)`.

    Import `envs.dream` first, which registers it.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}

    def __init__(
        self,
        logdir: str | Path = "exp_dir",
        observation: str = "frame",
        temperature: float = 1.0,
        horizon: int = DREAM_STEPS,
        render_mode: str | None = None,
    ) -> None:
        if observation not in ("frame", "latent"):
            raise UserError(f'observation must be "frame" or "latent", not "{observation}"')
        self.render_mode = render_mode
        self.world = DreamWorld(Path(logdir), 1, "cpu", temperature, horizon, restart=False, observation=observation)
        self.metadata = {**self.metadata, "render_fps": round(1 / self.world.spec.dt)}
        self.action_space = self.world.spec.action_space
        latent = self.world.memory.config.latent
        self.observation_space = (
            gym.spaces.Box(0, 255, self.world.spec.image_shape, np.uint8)
            if observation == "frame"
            else gym.spaces.Box(-np.inf, np.inf, (latent,), np.float32)
        )

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        start = int(self.np_random.integers(2**31)) if seed is None else seed
        return self.world.reset(start)[0].numpy(), {}

    def step(self, action) -> tuple[np.ndarray, float, bool, bool, dict]:
        result = self.world.step(torch.as_tensor(np.asarray(action))[None])
        return result.obs[0].numpy(), float(result.reward[0]), bool(result.terminated[0]), bool(result.truncated[0]), {}

    def render(self) -> np.ndarray | None:
        return self.world.render() if self.render_mode == "rgb_array" else None


gym.register("dreamdrive/Dream-v0", entry_point="dreamdrive.envs.dream:DreamEnv")
