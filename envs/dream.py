"""The dream: M stepping on its own, thousands of dreams in one batch.

Pure functions over an explicit record, so any dream can be replayed:

    dream = begin(starts, index, normal)
    dream, reward, terminated = step(mdrnn, dream, action, temperature, noise)

and the same as a `World` (`DreamWorld`) and as a gymnasium environment (`dreamdrive/Dream-v0`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from dreamdrive.envs import Step, World, WorldSpec
from dreamdrive.envs.dream_noise import DreamNoise
from dreamdrive.models.agent import LANES, filled, load_models
from dreamdrive.models.mdrnn import MDRNN, Noise, State, sample_mixture
from dreamdrive.models.vae import to_uint8
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.spaces import ActionSpace

DREAM_STEPS = 1000  # length of a dream unless told otherwise; CarRacing's own episode length


@dataclass
class Starts:
    """Where dreams may begin: real latents, with M's state after the real steps before them.

    Fields:
        mu, logsigma: (N, Z) posterior of the frame
        h, c: (N, R) M's state
    """

    mu: Tensor
    logsigma: Tensor
    h: Tensor
    c: Tensor

    def __len__(self) -> int:
        return len(self.mu)

    def to_dict(self) -> dict[str, Tensor]:
        return {"mu": self.mu, "logsigma": self.logsigma, "h": self.h, "c": self.c}

    def to(self, device: torch.device) -> "Starts":
        return Starts(**{name: value.to(device) for name, value in self.to_dict().items()})


@dataclass
class Dream:
    """B dreams at one moment.

    Fields:
        z: (B, Z)
        state: M's (h, c), each (B, R)
    """

    z: Tensor
    state: State

    @property
    def h(self) -> Tensor:
        return self.state[0]


def begin(starts: Starts, index: Tensor, normal: Tensor) -> Dream:
    """Dreams from the starts number `index` (B,), z drawn from the posterior with standard normal noise (B, Z)."""
    z = starts.mu[index] + starts.logsigma[index].exp() * normal
    return Dream(z, (starts.h[index], starts.c[index]))


def step(mdrnn: MDRNN, dream: Dream, action: Tensor, temperature: float, noise: Noise) -> tuple[Dream, Tensor, Tensor]:
    """One step of B dreams: action (B, A) as a vector -> the next moment, reward (B,), terminated (B,) bool.

    The end is drawn at the probability M gives it; at temperature 0 it comes where M gives it more than one half.
    """
    h, state = mdrnn.hidden(dream.z[:, None], action[:, None], dream.state)
    pred = mdrnn.predict(h[:, 0])
    limit = 0.5 if temperature == 0 else noise.uniform
    return Dream(sample_mixture(pred, temperature, noise), state), pred.reward, pred.terminal.sigmoid() > limit


class DreamWorld(World):
    """The dream with a simulator's interface. `obs` are decoded frames uint8 (B, H, W, C); `self.dream` holds z and h
    for policies on latents.

    A dream follows from its seed: the same seed and actions give the same latents, rewards and end, to the last bit
    whatever is dreamed beside it (on a CPU with a given number of threads; see models.agent.LANES).

    Args:
        logdir: folder of a run with V and M (exp_dir/vae, exp_dir/mdrnn)
        num: B
        temperature: of the mixture; 0 for no randomness but the start's
        horizon: steps after which a dream is truncated
        restart: see the restart rule in envs/__init__.py
        observation: "frame", or "latent": then `obs` is z, float32 (B, Z), and nothing is decoded
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
    ) -> None:
        if not 0 <= temperature < float("inf"):
            raise UserError(f"the temperature of a dream must be 0 or more, not {temperature}")
        self.num, self.device, self.temperature, self.restart, self.observation = (
            num,
            torch.device(device),
            temperature,
            restart,
            observation,
        )
        self.vae, self.mdrnn, self.world, starts, _ = load_models(logdir, self.device)
        if starts is None:
            raise UserError(
                f"{Path(logdir) / 'mdrnn/best.tar'} has no starting latents (it was imported): "
                f"train M with `python trainmdrnn.py --logdir {logdir} --noreload`"
            )
        self.starts = Starts(**starts).to(self.device)
        self._noise = DreamNoise(self.mdrnn.config, num, self.device)
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
        dream, reward, terminated = self._advance(self.spec.space.vector(action))
        self.dream = _where(frozen, self.dream, dream)
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

    def render(self, copy: int = 0) -> np.ndarray:
        return self.decode(self.dream.z[copy : copy + 1])[0].cpu().numpy()

    @torch.inference_mode()
    def decode(self, z: Tensor) -> Tensor:
        """z (B, Z) -> frames uint8 (B, H, W, C)."""
        return to_uint8(self.vae.decode(z))

    def _obs(self) -> Tensor:
        return self.dream.z.clone() if self.observation == "latent" else self.decode(self.dream.z)

    def _advance(self, vector: Tensor) -> tuple[Dream, Tensor, Tensor]:
        """A step of all copies with actions `vector` (B, A): the next moment, reward (B,), terminated (B,)."""
        noise, dream = self._noise.step(), self.dream
        if self.num % LANES:
            dream, vector = _take(dream, self._lanes), vector[self._lanes]
        dream, reward, terminated = step(self.mdrnn, dream, vector, self.temperature, noise)
        if self.num % LANES:
            dream = _take(dream, slice(self.num))
        return dream, reward[: self.num], terminated[: self.num]

    def _begin_again(self, copies: Tensor) -> None:
        """Begin the next dreams of `copies` (n,)."""
        numbers = copies.tolist()
        for copy in numbers:
            self._seeds[copy] += self._restart_adds
        seeds = [self._seeds[copy] for copy in numbers]
        begun = begin(self.starts, *self._noise.begin(numbers, seeds, len(self.starts)))
        self.dream = Dream(
            self.dream.z.index_copy(0, copies, begun.z),
            (
                self.dream.state[0].index_copy(0, copies, begun.state[0]),
                self.dream.state[1].index_copy(0, copies, begun.state[1]),
            ),
        )


def _where(chosen: Tensor, yes: Dream, no: Dream) -> Dream:
    """`yes` in the copies where chosen (B,) is True, `no` in the others."""
    mask = chosen[:, None]
    return Dream(
        torch.where(mask, yes.z, no.z),
        (torch.where(mask, yes.state[0], no.state[0]), torch.where(mask, yes.state[1], no.state[1])),
    )


def _take(dream: Dream, index: Tensor | slice) -> Dream:
    return Dream(dream.z[index], (dream.state[0][index], dream.state[1][index]))


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
        latent = self.world.mdrnn.config.latent
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
