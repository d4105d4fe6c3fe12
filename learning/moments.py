"""Recorded moments that dreams of actor and critic begin from: every frame that an action was taken on, with M's state
before it, as M has it now."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dreamdrive.data.loaders import Sequences
from dreamdrive.envs.dream import Dream, begin
from dreamdrive.models.world_model import Memory, Starts, State, latents_at

EPISODES_AT_ONCE = 32  # run through M together
MOST = 100_000  # moments that are kept, evenly spread; with M's states of the sizes that are usual, 0.2 GB
EARLY = 6  # steps that an episode begins with


@dataclass
class Moments:
    """N moments.

    Fields:
        starts: their latents and states
        early: (n,) int64 those of an episode's first EARLY steps
    """

    starts: Starts
    early: Tensor

    def __len__(self) -> int:
        return len(self.starts)

    def begin(self, num: int, early_share: float, generator: torch.Generator) -> Dream:
        """`num` dreams from moments drawn at random, a share of them from early ones, z the likeliest: who never
        dreams of setting off does not set off."""
        where = generator.device
        index = torch.randint(len(self), (num,), generator=generator, device=where)
        from_early = int(early_share * num)
        drawn = torch.randint(len(self.early), (from_early,), generator=generator, device=where)
        index[:from_early] = self.early[drawn]
        return begin(self.starts, index, None)

    def to(self, device: torch.device) -> "Moments":
        return Moments(self.starts.to(device), self.early.to(device))


@torch.no_grad()
def recorded_moments(data: Sequences, memory: Memory, most: int = MOST) -> Moments:
    """The moments of the train split; M runs over each episode from its start, as it will in use."""
    episodes = data.episodes("train")
    stride = -(-int(data.steps[episodes].sum()) // most)
    where, frames, states, early = next(memory.parameters()).device, [], [], []
    groups = [episodes[i : i + EPISODES_AT_ONCE] for i in range(0, len(episodes), EPISODES_AT_ONCE)]
    for group in tqdm(groups, desc="M over what was recorded", unit="batch", leave=False):
        steps = int(data.steps[group].max())
        windows = data.windows(np.stack([group, np.zeros_like(group)], 1), steps)
        z, action, state = windows.z.to(where), windows.action.to(where), memory.initial(len(group))
        for t in range(steps):
            if t % stride == 0 or t < EARLY:
                rows = np.flatnonzero(data.steps[group] > t)
                frames.append(torch.from_numpy(data.frame_offset[group[rows]] + t))
                states.append(state.take(torch.from_numpy(rows).to(where)).to("cpu"))
                early.append(torch.full((len(rows),), t < EARLY))
            _, state = memory.observe(z[:, t : t + 1], action[:, t : t + 1], state)
    starts = Starts(data.vision, latents_at(data.latents, torch.cat(frames)), State.joined(states))
    return Moments(starts, torch.cat(early).nonzero()[:, 0])
