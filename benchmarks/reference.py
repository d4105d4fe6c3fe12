"""The plain way to do what our stages do, to measure them against: the models and loops of ctallec/world-models,
straightforward and in fp32.

Rollouts are npz files as that project records them, read into memory before the clock starts, and frames are already
64x64, so that the reference is spared the reading and the resizing it would have to do there.
"""

import glob
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from dreamdrive.data import shards
from dreamdrive.driving.policies import Brown
from dreamdrive.envs.dream import Dream, begin, step
from dreamdrive.models.controller import Controller
from dreamdrive.models.mdrnn import MDRNN, MDRNNConfig, mixture_log_likelihood
from dreamdrive.models.world_model import Memory, Starts
from dreamdrive.utils.seeds import recording_seed
from dreamdrive.utils.spaces import ActionSpace

EPISODES = 20  # rollouts the reference reads, at most

# Stage 1


def drive(episodes: int, length: int) -> int:
    """One gymnasium loop: make, reset, step, a 64x64 frame; returns the number of frames."""
    env = gymnasium.make("CarRacing-v3")
    policy, frames = Brown(ActionSpace.from_gym(env.action_space)), []
    for i in range(episodes):
        env.reset(seed=recording_seed(0, i))
        policy.reset(1, [np.random.default_rng([0, i, 0])])
        for _ in range(length):
            observation, _, terminated, _, _ = env.step(policy.choose()[0].numpy())
            frames.append(np.asarray(Image.fromarray(observation[:84]).resize((64, 64), Image.Resampling.BOX)))
            if terminated:
                break
    env.close()
    return len(frames)


# Rollouts


def write_rollouts(dataset: shards.Dataset, folder: Path) -> None:
    """The first episodes of `dataset` as npz files."""
    for i, episode in enumerate(islice(dataset.read(), EPISODES)):
        np.savez(
            folder / f"rollout_{i}.npz",
            observations=episode.obs,
            actions=episode.action,
            rewards=episode.reward,
            terminals=episode.terminated,
        )


def read_rollouts(folder: Path) -> list[dict[str, np.ndarray]]:
    rollouts = []
    for path in sorted(glob.glob(f"{folder}/*.npz")):
        with np.load(path) as file:
            rollouts.append({name: file[name] for name in file.files})
    return rollouts


class Frames(Dataset):
    """Single frames, each through PIL: to a picture, resized to 64x64, flipped at random, to a tensor (C, H, W) in [0,
    1]."""

    def __init__(self, rollouts: list[dict]) -> None:
        self.frames = [frame for rollout in rollouts for frame in rollout["observations"]]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, i: int) -> Tensor:
        picture = Image.fromarray(self.frames[i]).resize((64, 64), Image.Resampling.BILINEAR)
        if torch.rand(1) < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float().div(255)


class Windows(Dataset):
    """Windows of 32 steps: (obs, action, reward, terminal, next_obs), obs (T, C, H, W) in [0, 1]."""

    LENGTH = 32

    def __init__(self, rollouts: list[dict]) -> None:
        self.rollouts = rollouts
        self.windows = [
            (r, t) for r, rollout in enumerate(rollouts) for t in range(len(rollout["actions"]) - self.LENGTH + 1)
        ]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, i: int) -> tuple:
        r, t = self.windows[i]
        rollout, steps = self.rollouts[r], slice(t, t + self.LENGTH)
        frames = rollout["observations"][t : t + self.LENGTH + 1].astype(np.float32).transpose(0, 3, 1, 2) / 255
        return (
            frames[:-1],
            rollout["actions"][steps].astype(np.float32),
            rollout["rewards"][steps],
            rollout["terminals"][steps].astype(np.float32),
            frames[1:],
        )


def forever(loader: DataLoader) -> Iterator:
    while True:
        yield from loader


# Stage 4a in the simulator


def control(seconds: float) -> float:
    """One car at a time, as ctallec/world-models rolls out: simulator, frame, the whole of V (its decoder for nothing),
    M's cell, a linear controller; steps a second."""
    env, vae, cell = gymnasium.make("CarRacing-v3"), PlainVAE().eval(), nn.LSTMCell(32 + 3, 256)
    mixture, controller = nn.Linear(256, (2 * 32 + 1) * 5 + 2), nn.Linear(32 + 256, 3)
    steps, episode, start = 0, 0, time.perf_counter()
    with torch.no_grad():
        while time.perf_counter() - start < seconds:
            observation, _ = env.reset(seed=recording_seed(0, episode))
            h = c = torch.zeros(1, 256)
            over, episode = False, episode + 1
            while not over and time.perf_counter() - start < seconds:
                frame = (
                    np.asarray(Image.fromarray(observation[:84]).resize((64, 64), Image.Resampling.BOX), np.float32)
                    / 255
                )
                mu, logsigma = vae(torch.from_numpy(frame).permute(2, 0, 1)[None])[1:]
                z = mu + logsigma.exp() * torch.randn_like(mu)
                action = controller(torch.cat([z, h], 1))
                h, c = cell(torch.cat([z, action], 1), (h, c))
                mixture(h)
                action = action[0].numpy()
                observation, _, terminated, truncated, _ = env.step(
                    np.array([np.tanh(action[0]), *(np.tanh(action[1:]) + 1) / 2], np.float32)
                )
                over, steps = terminated or truncated, steps + 1
        took = time.perf_counter() - start
    env.close()
    return steps / took


# Stage 2


class PlainVAE(nn.Module):
    """V as usually written: nn.ConvTranspose2d, contiguous memory."""

    def __init__(self, latent: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 32, 4, 2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2),
            nn.ReLU(),
            nn.Conv2d(64, 128, 4, 2),
            nn.ReLU(),
            nn.Conv2d(128, 256, 4, 2),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.mu, self.logsigma, self.expand = nn.Linear(1024, latent), nn.Linear(1024, latent), nn.Linear(latent, 1024)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(1024, 128, 5, 2),
            nn.ReLU(),
            nn.ConvTranspose2d(128, 64, 5, 2),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 6, 2),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 3, 6, 2),
            nn.Sigmoid(),
        )

    def encode(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(obs)
        return self.mu(features), self.logsigma(features)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logsigma = self.encode(obs)
        z = mu + logsigma.exp() * torch.randn_like(mu)
        return self.decoder(F.relu(self.expand(z))[..., None, None]), mu, logsigma


def vae_trainer() -> Callable[[Tensor], int]:
    """A training step of V: takes a batch (B, C, H, W), returns B."""
    model = PlainVAE()
    optimizer = torch.optim.Adam(model.parameters())

    def train(obs: Tensor) -> int:
        optimizer.zero_grad()
        reconstruction, mu, logsigma = model(obs)
        loss = (
            F.mse_loss(reconstruction, obs, reduction="sum")
            - 0.5 * (1 + 2 * logsigma - mu.square() - (2 * logsigma).exp()).sum()
        )
        loss.backward()
        loss.item()
        optimizer.step()
        return len(obs)

    return train


# Stage 3


def mdrnn_trainer(decode: bool, action: int) -> Callable[[tuple], int]:
    """A training step of M that encodes obs and next_obs of its batch first; `decode` runs the whole of V for that, as
    the original does.

    M is ours (it is the same model): only the encoding is measured against.
    """
    vae, model = PlainVAE().eval(), MDRNN(MDRNNConfig(32, action))
    optimizer = torch.optim.RMSprop(model.parameters(), 1e-3, alpha=0.9)

    @torch.no_grad()
    def latent(obs: Tensor) -> Tensor:
        """obs (B, T, C, H, W) -> z (B, T, Z)."""
        mu, logsigma = vae(obs.flatten(0, 1))[1:] if decode else vae.encode(obs.flatten(0, 1))
        return (mu + logsigma.exp() * torch.randn_like(mu)).unflatten(0, obs.shape[:2])

    def train(batch: tuple) -> int:
        obs, action, reward, terminal, next_obs = batch
        z, z_next = latent(obs), latent(next_obs)
        optimizer.zero_grad()
        pred, _ = model(z, action)
        loss = (
            -mixture_log_likelihood(pred, z_next).mean()
            + F.mse_loss(pred.reward, reward)
            + F.binary_cross_entropy_with_logits(pred.terminal, terminal)
        ) / (z.shape[-1] + 2)
        loss.backward()
        loss.item()
        optimizer.step()
        return reward.numel()

    return train


# Stage 4a


@torch.inference_mode()
def dream_alone(
    memory: Memory, controller: Controller, starts: Starts, horizon: int, generator: torch.Generator
) -> float:
    """The return of one dream, stepped by itself until it ends."""
    index = torch.randint(len(starts), (1,), generator=generator)
    dream: Dream = begin(starts, index, torch.randn(1, starts.vision.draws, generator=generator))
    total = 0.0
    for _ in range(horizon):
        action = controller(dream.z, dream.h)
        dream, reward, terminated = step(memory, dream, action, 1.0, memory.drawn(1, generator))
        total += reward.item()
        if terminated.item():
            break
    return total


def timed(work: Callable[[], int], seconds: float) -> float:
    """How many units a second `work` (which returns how many it did) gets done, called again and again for
    `seconds`."""
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        done += work()
    return done / (time.perf_counter() - start)
