"""What V keeps of what moves. From a step to the next most of a frame stays as it was; what changes is what drivers act
on, and it may be so few pixels that a mean over all of them does not tell whether V has them.

    d  = x' - x            how the colours of two frames, one step apart, differ
    d^ = V(x') - V(x)      how what V makes of them does
    kept = 1 - sum (d^ - d)^2 / sum d^2, over the pixels that change

1: V keeps all of it. 0: what V makes of a frame does not move, or moves as wrongly as if it did not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamdrive.data.shards import Dataset
from dreamdrive.models.world_model import Latents, Vision, joined_latents
from dreamdrive.utils.video import save_png, strip

PAIRS = 256  # of frames, spread evenly over the validation split
CHANGED = 0.1  # of the range of a colour: what differs by more has changed, and not flickered
AT_ONCE = 64  # frames
WORST = 10  # pairs in the picture


@dataclass(frozen=True)
class Kept:
    """What V keeps of some pairs of frames.

    Fields:
        share: of all change, as above; NaN where nothing changes
        lost: (N,) of each pair, the sum of (d^ - d)^2
        usage: what V stores of them, as `Vision.usage` measures it
    """

    share: float
    lost: Tensor
    usage: dict[str, float]


@dataclass(frozen=True)
class Pairs:
    """Frames, and those a step later: uint8 (N, H, W, C) both."""

    before: Tensor
    after: Tensor

    @classmethod
    def of(cls, datasets: Sequence[Dataset], split: str = "val", most: int = PAIRS) -> "Pairs":
        """At most so many pairs, spread evenly over the split; it has at least one episode."""
        steps = [
            (dataset, e, t)
            for dataset in datasets
            for e, episode in enumerate(dataset.episodes)
            if episode.split == split
            for t in range(episode.steps)
        ]
        chosen = np.unique(np.linspace(0, len(steps) - 1, most).round().astype(int))
        frames = np.stack([dataset.frames(e, t, t + 2) for dataset, e, t in map(steps.__getitem__, chosen)])
        both = torch.from_numpy(frames)
        return cls(both[:, 0], both[:, 1])

    @torch.inference_mode()
    def kept(self, vision: Vision) -> Kept:
        """What V keeps of them, on the device it is on."""
        lost, moved, stored = [], [], []
        for before, after in zip(self.before.split(AT_ONCE), self.after.split(AT_ONCE), strict=True):
            latents = stored_of(vision, torch.cat([before, after]))
            change = (after.float() - before.float()) / 255
            first, second = vision.frames(vision.z(latents)).to(after.device).float().chunk(2)
            made = (second - first) / 255
            stored.append(latents)
            where = (change.abs() > CHANGED).any(-1, keepdim=True)
            lost.append(((made - change).square() * where).flatten(1).sum(1))
            moved.append((change.square() * where).flatten(1).sum(1))
        each = torch.cat(lost)
        total = float(torch.cat(moved).sum())
        usage = vision.usage(joined_latents(stored))
        return Kept(1 - float(each.sum()) / total if total else float("nan"), each, usage)

    @torch.inference_mode()
    def draw(self, vision: Vision, kept: Kept, path: Path) -> None:
        """The pairs of which V loses most: both frames, and what V makes of them."""
        worst = kept.lost.argsort(descending=True)[:WORST]
        before, after = self.before[worst], self.after[worst]
        rows = {
            "real frame": before,
            "a step later": after,
            "V: frame": vision.frames(vision.z(stored_of(vision, before))),
            "V: a step later": vision.frames(vision.z(stored_of(vision, after))),
        }
        save_png(path, strip([(name, list(frames.cpu().numpy())) for name, frames in rows.items()]))


def stored_of(vision: Vision, frames: Tensor) -> Latents:
    """The latents of frames uint8 (N, H, W, C), on V's device."""
    return vision.latents(frames.to(next(vision.parameters()).device))
