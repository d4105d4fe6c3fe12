"""What ranks make of a V in a few steps, in double precision: python -m dreamdrive.tests.one_step KIND FILE"""

import sys

import numpy as np
import torch

from dreamdrive.learning.fitting import Learner
from dreamdrive.models.reconstruction import Weights
from dreamdrive.models.world_model import build
from dreamdrive.tests.test_kinds import SMALL
from dreamdrive.utils import ranks, split_batch

SIZES = (14, 13, 2, 9)  # of batches; one is too small for three ranks


def main() -> None:
    kind, path = sys.argv[1:]
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # where models leave half precision
    torch.manual_seed(0)
    vision = build("vae", {**SMALL["vae", kind], "guesses": True}, kind).train()
    vision.weigh(Weights(usual=torch.rand(1, 3, 64, 64), moving=0.5, returns=1.0))
    learner, optimizer = Learner(vision), torch.optim.SGD(vision.parameters(), 1e-3)
    rng = np.random.default_rng(0)

    def work(frames: torch.Tensor, returns: torch.Tensor) -> dict[str, torch.Tensor]:
        return vision.loss(frames, vision(frames), returns)

    found = []
    for size in SIZES:
        frames = rng.integers(0, 256, (size, 4, 4, 3), np.uint8).repeat(16, 1).repeat(16, 2)
        returns = torch.from_numpy(np.where(rng.random(size) < 0.5, np.nan, rng.normal(size=size)))
        with split_batch.split(size):
            given = [split_batch.own(rows) for rows in (torch.from_numpy(frames), returns)]
            objective, losses, weight = split_batch.shared(learner(work, *given), len(given[0]))
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        found.append({"weight": weight, **{name: float(loss) for name, loss in losses.items()}})
    if ranks.first():
        torch.save({"losses": found, "model": vision.state_dict()}, path)
