"""Recorded moments that dreams of actor and critic begin from: every frame that an action was taken on, with M's state
before it, as M has it now."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamdrive.data.loaders import Sequences
from dreamdrive.envs.dream import Dream, begin
from dreamdrive.models.world_model import Memory, Starts, State, latents_at
from dreamdrive.utils.progress import Bar

EPISODES_AT_ONCE = 32  # run through M together
MOST, MOST_BYTES = 100_000, 400e6  # moments that are kept, evenly spread, and what their states may take
EARLY = 6  # steps that an episode begins with


@dataclass
class Moments:
    """N moments.

    Fields:
        starts: their latents and states
        early: (n,) int64 those of an episode's first EARLY steps
        frame: (N,) int64 which of all frames they are        age: (N,) int64 steps from their episode's start to them
        z: (F, Z) the likeliest latent of all frames
    """

    starts: Starts
    early: Tensor
    frame: Tensor
    age: Tensor
    z: Tensor

    def __len__(self) -> int:
        return len(self.starts)

    def drawn(self, num: int, early_share: float, generator: torch.Generator) -> Tensor:
        """(num,) int64 moments drawn at random, a share of them from early ones: who never dreams of setting off does
        not set off."""
        where = generator.device
        index = torch.randint(len(self), (num,), generator=generator, device=where)
        from_early = int(early_share * num)
        drawn = torch.randint(len(self.early), (from_early,), generator=generator, device=where)
        index[:from_early] = self.early[drawn]
        return index

    def begin(self, index: Tensor) -> Dream:
        """Dreams from the moments `index` (B,), z the likeliest."""
        return begin(self.starts, index, None)

    def before(self, index: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """The latents of the W = `frames` frames before each of the moments `index` (B,), (B, W, Z), and whether its
        episode had begun (B, W)."""
        back = torch.arange(frames, 0, -1, device=index.device)
        real = self.age[index, None] >= back
        return self.z[torch.where(real, self.frame[index, None] - back, self.frame[index, None])], real

    def to(self, device: torch.device) -> "Moments":
        others = (self.early, self.frame, self.age, self.z)
        return Moments(self.starts.to(device), *(values.to(device) for values in others))


@torch.no_grad()
def recorded_moments(data: Sequences, memory: Memory, most: int = MOST) -> Moments:
    """The moments of the train split; M runs over each episode from its start, as it will in use."""
    episodes = data.episodes("train")
    bytes_each = sum(part.nbytes for part in memory.bare(memory.initial(1)))
    stride = -(-int(data.steps[episodes].sum()) // min(most, int(MOST_BYTES // bytes_each)))
    where, frames, states, ages = next(memory.parameters()).device, [], [], []
    groups = [episodes[i : i + EPISODES_AT_ONCE] for i in range(0, len(episodes), EPISODES_AT_ONCE)]
    for group in Bar(groups, desc="M over what was recorded", unit="batch", leave=False):
        steps = int(data.steps[group].max())
        windows = data.windows(np.stack([group, np.zeros_like(group)], 1), steps)
        z, action = windows.z.to(where), windows.action.to(where)
        state = memory.started(torch.from_numpy(data.seed[group]).to(where))
        for t in range(steps):
            if t % stride == 0 or t < EARLY:
                rows = np.flatnonzero(data.steps[group] > t)
                frames.append(torch.from_numpy(data.frame_offset[group[rows]] + t))
                states.append(memory.bare(state).take(torch.from_numpy(rows).to(where)).to("cpu"))
                ages.append(torch.full((len(rows),), t))
            _, state = memory.observe(z[:, t : t + 1], action[:, t : t + 1], state)
    frame, age = torch.cat(frames), torch.cat(ages)
    starts = Starts(data.vision, latents_at(data.latents, frame), State.joined(states))
    return Moments(starts, (age < EARLY).nonzero()[:, 0], frame, age, data.vision.z(data.latents))
