"""A probe: can the encoder of a V that is there already be taught to see through changes of CarRacing, so that the M
and the driver that were trained on it still hold?

Reads   a run with V, M and a driver (--logdir); a dataset (--dataset)
Writes  docs/results/carracing.md, its section "distilled"

    python data/generation_script.py --env carracing-fast --policy expert --action-noise 0.6 --rollouts 60 \
        --rootdir datasets/disturbed
    python -m benchmarks.distilled --logdir carracing --dataset datasets/disturbed

Frames are changed as by `trainvae.py --augment`; what the encoder, begun with its own weights, makes of a changed frame
x~ is pulled towards what it made of the frame x before it was taught anything,

    KL(q'(z | x~) || q(z | x))

as consistency regularisation does in a V that is trained meanwhile (Sinha & Dieng 2021, "Consistency Regularization for
Variational Auto-Encoders", arXiv 2105.14859). M, the driver and the decoder stay as they are.
"""

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
import torch
from torch import Tensor

from dreamdrive.benchmarks.perturbed import CHANGES, EVERY, FAST, ROOT, STEPS, TRACKS, frames, moved
from dreamdrive.benchmarks.report import circumstances, interval, table, write_section
from dreamdrive.data.loaders import FrameStream, open_datasets
from dreamdrive.driving.agent import Agent, load_agent
from dreamdrive.driving.driver import drive
from dreamdrive.envs import make
from dreamdrive.learning.augmentation import changed
from dreamdrive.models.vae import VAE, Posterior, to_float
from dreamdrive.models.world_model import load_world_model
from dreamdrive.utils.argument_types import controller, positive
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.script import run
from dreamdrive.utils.seeds import evaluation_seeds, seed_everything
from dreamdrive.utils.settings import RunFolder, parser

BATCH, LEARNING_RATE, LAST = 64, 3e-4, 0.05  # which falls to this share of it


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    RunFolder.add_flags(p)
    p.set_defaults(logdir=Path("carracing"))
    p.add_argument("--dataset", type=Path, nargs="+", default=[Path("datasets/disturbed")], help="frames to learn from")
    p.add_argument("--frames", type=positive, default=70_000, help="to learn from")
    p.add_argument("--controller", type=controller, default="ctrl", help="the driver: ctrl, bc or one with a name")
    p.add_argument("--episodes", type=positive, default=20, help=f"tracks of {FAST}")
    p.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "carracing.md", help="the document")
    return p.parse_args()


def divergence(found: Posterior, wanted: Posterior) -> Tensor:
    """KL(found || wanted) of diagonal Gaussians, a mean over the batch."""
    squared = (2 * found.logsigma).exp() + (found.mu - wanted.mu).square()
    each = wanted.logsigma - found.logsigma + squared / (2 * (2 * wanted.logsigma).exp()) - 0.5
    return each.sum(1).mean()


def distil(vision: VAE, args: argparse.Namespace) -> VAE:
    """`vision` with an encoder that has been taught to give changed frames the posterior of the frames they were."""
    seed_everything(0, 0)
    taught = copy.deepcopy(vision)
    parameters = [p for part in (taught.encoder, taught.mu, taught.logsigma) for p in part.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE)
    stream = FrameStream(open_datasets(args.dataset), "train", BATCH, 0)
    with Bar(total=args.frames, desc="distilling", unit="frame") as bar:
        for epoch in range(-(-args.frames // stream.frames)):
            for batch in stream.epoch(epoch, min(args.frames - bar.n, stream.frames)):
                share = min(bar.n / args.frames, 1)
                optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - (1 - LAST) * share)
                with torch.no_grad():
                    wanted = vision.encode(to_float(batch))
                loss = divergence(taught.encode(to_float(changed(batch))), wanted)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                bar.update(len(batch))
                bar.set_postfix(kl=f"{loss.item():.2f}")
    return taught.requires_grad_(False)


def returns(agent: Agent, options: dict, episodes: int) -> np.ndarray:
    """The agent's return on each evaluation track of a world with these options."""
    world = make(FAST, num=episodes, restart=False, **options)
    moments = drive(world, agent, evaluation_seeds(0, episodes))
    rewards = [moment.step.reward.double() for moment in moments if moment.step is not None]
    return torch.stack(rewards).sum(0).numpy()


def main() -> None:
    args = parse_args()
    driver = load_agent(args.logdir, args.controller)
    model = load_world_model(args.logdir, torch.device("cpu"))
    vision = model.vision
    assert isinstance(vision, VAE), "its posterior is a Gaussian"
    taught = distil(vision, args)
    agent = Agent(replace(model, vision=taught), driver.controller, {})
    pairs = frames([*CHANGES.values()], TRACKS, list(range(EVERY, STEPS, EVERY)))
    rows = []
    for (name, options), after in zip(CHANGES.items(), pairs, strict=True):
        values = returns(agent, options, args.episodes)
        around = interval(float(values.mean()), float(values.std()), len(values))
        figures = [f"{values.mean():.1f} +- {values.std():.1f}", around, f"{values.min():.0f}"]
        same = name == "physics"  # the frames are of other states
        distances = ["" if same else f"{moved(v, pairs[0], after):.2f}" for v in (vision, taught)]
        rows.append([name, *figures, f"{np.median(values):.0f}", str(len(values)), *distances])
        print(rows[-1], flush=True)
    head = ["changed", "mean +- std", "95 % interval of the mean", "min", "median", "episodes"]
    text = table([*head, "latents moved before", "after"], rows)
    command = (
        f"python -m benchmarks.distilled --logdir {args.logdir} --dataset {' '.join(map(str, args.dataset))} "
        f"--frames {args.frames} --controller {args.controller} --episodes {args.episodes}"
    )
    write_section(args.out, "distilled", f"{text}\n\n{circumstances()}\n\n```\n{command}\n```")


if __name__ == "__main__":
    run(main)
