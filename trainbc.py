"""Stage 4b: clone the recorded expert, (z, h) -> action, on cached latents; or, of a dataset that holds numbers and no pictures, numbers -> action, without V and M.

Reads   exp_dir/vae/best.tar, exp_dir/mdrnn/best.tar
        exp_dir/latents/             and the expert's actions in the datasets
Writes  exp_dir/bc/best.tar          highest mean return in the simulator (seeds of the model-selection range)
        exp_dir/bc/checkpoint.tar    to go on from: run the same command again
        exp_dir/bc/metrics.csv, loss.png, args.json
        exp_dir/bc/dream.mp4, dream.png   the clone driving in the dream, if there is one

    python trainbc.py --logdir exp_dir --hidden 256 --epochs 30
    python trainbc.py --logdir exp_dir --hidden 256 --dataset datasets/features
"""

import argparse
import math
import os
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from data.evaluation import Driver, Evaluator
from data.latents import cache_latents, load_sequences
from data.loaders import LabelledStream, Sequences, check_world, open_datasets, require_validation, world_of
from data.shards import Dataset
from envs import fast
from envs.dream import DreamWorld
from models.agent import load_models, load_vae
from models.controller import LATENT_FEATURES, Controller, ControllerConfig, parameter_vector
from models.mdrnn import MDRNN
from utils import checkpoint
from utils.cli import add_training, device, learning_rate, natural, natural_float, parser, positive, run, seed_everything, write_args
from utils.errors import UserError
from utils.metrics import Mean, line, write_csv
from utils.plots import curves
from utils.seeds import selection_seeds
from utils.video import VideoWriter, save_png, strip

STAGE = 5
EPISODES_AT_ONCE = 32  # run through M together
DREAM_STEPS, STRIP_STRIDE = 300, 25
SCALE_STEPS = 16_384  # that the spread of observed numbers is measured on


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    add_training(p)
    p.add_argument("--dataset", type=Path, nargs="+", help="folders written by stage 1 (default: those M was trained on)")
    p.add_argument("--features", choices=LATENT_FEATURES, help="what the clone sees: z alone, or z and h (default: zh)")
    p.add_argument("--hidden", type=natural, default=0, help="width of a hidden layer; 0 for the linear head evolution uses")
    p.add_argument("--epochs", type=positive, default=30, help="train up to this epoch; more than before goes on")
    p.add_argument("--batch-size", type=positive, default=256, help="steps")
    p.add_argument("--learning-rate", type=learning_rate, default=1e-3, help="AdamW's")
    p.add_argument("--weight-decay", type=natural_float, default=1e-2, help="AdamW's")
    p.add_argument("--evaluate-every", type=positive, default=5, help="epochs between two scores in the simulator; the last epoch is always scored")
    p.add_argument("--n-samples", type=positive, default=8, help="episodes of such a score")
    p.add_argument("--max-workers", type=positive, default=os.cpu_count(), help="processes that drive the simulator")
    return p.parse_args()


@dataclass
class Steps:
    """Recorded steps with the expert's action, in memory.

    Fields:
        mu, logsigma: (N, Z) posterior of the frame acted upon        h: (N, R) M's output before it
        action: (N, A) the expert's, one-hot for a discrete space
        size: B, of a batch
    """

    mu: Tensor
    logsigma: Tensor
    h: Tensor
    action: Tensor
    size: int

    def __len__(self) -> int:
        return len(self.action)

    def batches(self, epoch: int, rng: np.random.Generator | None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """z (B, Z), h (B, R) and action (B, A) of all steps, shuffled and z drawn anew with `rng`; or in order and z's mean."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**31))) if rng else None
        order = torch.from_numpy(rng.permutation(len(self))) if rng else torch.arange(len(self))
        for chosen in order.split(self.size):
            z = self.mu[chosen]
            if rng:
                z = z + self.logsigma[chosen].exp() * torch.randn(z.shape, generator=generator)
            yield z, self.h[chosen], self.action[chosen]

    def deployed(self, model: Controller) -> Controller:
        """The head that acts on what a driver sees."""
        return model

    def scale(self) -> dict[str, Tensor]:
        """What a resumed run must have the same."""
        return {}


class NumberSteps:
    """Recorded steps of a world that is observed as S numbers, streamed from the dataset. The head is trained on them in units of their spread, less their mean;
    numbers that never change are left out."""

    def __init__(self, datasets: Sequence[Dataset], split: str, size: int, seed: int, scale: dict[str, Tensor] | None = None) -> None:
        """`scale`: "mean" and "factor" (S,), or None to measure them here."""
        self._stream = LabelledStream(datasets, split, size, seed)
        self._scale = scale or self._measured()

    def __len__(self) -> int:
        return self._stream.steps

    def batches(self, epoch: int, rng: np.random.Generator | None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Observations (B, S), nothing, and action (B, A) of all steps, shuffled as (seed, epoch) say."""
        for obs, action in self._stream.epoch(epoch if rng else 0):
            yield self._scaled(obs), obs[:, :0], action

    def deployed(self, model: Controller) -> Controller:
        """The head that acts on the numbers as they are: the scale has gone into its first layer."""
        plain, layer = deepcopy(model), model.layers[0]
        mean, factor = (self._scale[name].to(layer.weight.device) for name in ("mean", "factor"))
        plain.layers[0].weight.data = layer.weight.data * factor
        plain.layers[0].bias.data = layer.bias.data - plain.layers[0].weight.data @ mean
        return plain

    def scale(self) -> dict[str, Tensor]:
        """What a resumed run must have the same."""
        return self._scale

    def _scaled(self, obs: Tensor) -> Tensor:
        return (obs - self._scale["mean"]) * self._scale["factor"]

    def _measured(self) -> dict[str, Tensor]:
        count, total, squares = 0, 0.0, 0.0
        for obs, _ in self._stream.epoch(0):
            obs = obs.double()
            count, total, squares = count + len(obs), total + obs.sum(0), squares + obs.square().sum(0)
            if count >= SCALE_STEPS:
                break
        if not count:
            return {}
        mean = total / count
        spread = (squares / count - mean.square()).clamp(min=0).sqrt()
        return {"mean": mean.float(), "factor": torch.where(spread > 1e-6, 1 / spread, 0.0).float()}


@torch.inference_mode()
def labelled_steps(data: Sequences, mdrnn: MDRNN, split: str, size: int) -> Steps:
    """Every step of the split for which the expert's action is known; M runs over the whole episode from its start, as it will in use."""
    where = mdrnn.head.weight.device
    parts: dict[str, list[Tensor]] = {"mu": [], "logsigma": [], "h": [], "action": []}
    episodes = [e for e in data.episodes(split) if not torch.isnan(data.episode(e)[2]).all()]
    for first in tqdm(range(0, len(episodes), EPISODES_AT_ONCE), desc=f"M over the {split} split", unit="batch", leave=False):
        chosen = np.array(episodes[first : first + EPISODES_AT_ONCE])
        length = int(data.steps[chosen].max())
        windows = data.windows(np.stack([chosen, np.zeros_like(chosen)], 1), length)
        h, _ = mdrnn.hidden(windows.z.to(where), windows.action.to(where))
        before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1).cpu()  # (B, T, R): what M knew when it saw frame t
        for row, e in enumerate(chosen):
            steps, start = int(data.steps[e]), int(data.frame_offset[e])
            expert = data.episode(e)[2]
            known = ~torch.isnan(expert).any(-1)
            frames = slice(start, start + steps)
            for name, value in {"mu": data.mu[frames], "logsigma": data.logsigma[frames], "h": before[row, :steps], "action": expert}.items():
                parts[name].append(value[known])
    return Steps(**{name: torch.cat(values) if values else torch.empty(0) for name, values in parts.items()}, size=size)


def clone_loss(outputs: Tensor, action: Tensor, discrete: bool) -> Tensor:
    """Cross-entropy of a one-hot action (B, n), or squared error summed over a box's components (B, A); a mean over the batch."""
    if discrete:
        return F.cross_entropy(outputs, action)
    return (outputs - action).square().sum(1).mean()


def run_epoch(model: Controller, batches: Iterator[tuple[Tensor, Tensor, Tensor]], optimizer: torch.optim.Optimizer | None, bar: tqdm) -> float:
    """One pass over `batches` of z, h and action; trains with an optimizer, else measures. Mean loss."""
    where, mean = next(model.parameters()).device, Mean()
    discrete = model.config.action_space["type"] == "discrete"
    for number, (z, h, action) in enumerate(batches):
        with torch.set_grad_enabled(optimizer is not None):
            loss = clone_loss(model.outputs(z.to(where), h.to(where)), action.to(where), discrete)
        if not math.isfinite(loss.item()):
            raise UserError(f"the loss became {loss.item()} in batch {number} of {bar.desc}: lower --learning-rate and run again")
        if optimizer:
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        mean.add({"loss": loss}, len(action))
        bar.update(len(action))
    return mean.result()["loss"]


@torch.inference_mode()
def save_dream(args: argparse.Namespace, folder: Path, model: Controller) -> None:
    """The clone in the dream, decoded: dream.mp4 and dream.png."""
    world = DreamWorld(args.logdir, 1, "cpu", horizon=DREAM_STEPS, restart=False)
    model = model.cpu()
    frames = [world.reset(args.seed)[0].numpy()]
    with VideoWriter(folder / "dream.mp4", 1 / world.spec.dt, scale=6) as video:
        video.add(frames[0])
        for _ in range(DREAM_STEPS):
            frames.append(world.step(model(world.dream.z, world.dream.h)).obs[0].numpy())
            video.add(frames[-1])
    save_png(folder / "dream.png", strip([("the clone's dream", frames[::STRIP_STRIDE])]))


def main() -> None:
    args = parse_args()
    datasets = open_datasets(args.dataset) if args.dataset else None
    numbers = datasets and len(world_of(datasets[0])["image_shape"]) == 1
    best = clone_numbers(args, datasets) if numbers else clone_latents(args, datasets)
    print(f"{checkpoint.path(args.logdir, 'bc')}: mean return {best:.1f} over {args.n_samples} episodes; "
          f"next: python test_controller.py --logdir {args.logdir} --controller bc")


def clone_latents(args: argparse.Namespace, datasets: list[Dataset] | None) -> float:
    """Clone what V and M see, on `datasets` or those M was trained on; returns the best score in the simulator."""
    where = device(args.device)
    vae, saved = load_vae(args.logdir, where)
    _, mdrnn, world, _, parents = load_models(args.logdir, where)
    datasets = datasets or open_datasets(checkpoint.load_parent(args.logdir, "mdrnn")["datasets"])
    check_world(datasets[0], world, str(checkpoint.path(args.logdir, "vae")))
    with checkpoint.stage_folder(args.logdir, "bc") as folder:
        state = checkpoint.resume(args.logdir, "bc", parents, args.noreload)  # before the long work, in case it refuses
        cache_latents(args.logdir, vae, saved["digest"], datasets, where)
        data = load_sequences(args.logdir, saved["digest"], datasets)
        steps = {split: labelled_steps(data, mdrnn, split, args.batch_size) for split in ("train", "val")}
        config = ControllerConfig(mdrnn.config.latent, mdrnn.config.hidden, args.features or "zh", args.hidden, world["action_space"])
        best = train(args, folder, config, datasets, steps, world, parents, state)
        model = Controller(config)
        model.load_state_dict(checkpoint.load_parent(args.logdir, "bc")["model"])
        save_dream(args, folder, model)
    return best


def clone_numbers(args: argparse.Namespace, datasets: list[Dataset]) -> float:
    """Clone what the world's numbers say; returns the best score in the simulator."""
    require_validation(datasets)
    world = world_of(datasets[0])
    if args.features:
        raise UserError(f"--features {args.features} is for latents, and {datasets[0].root} holds numbers, which the clone sees as they are: leave --features away")
    with checkpoint.stage_folder(args.logdir, "bc") as folder:
        state = checkpoint.resume(args.logdir, "bc", {}, args.noreload)
        scale = state.get("scale") if state else None
        steps = {"train": NumberSteps(datasets, "train", args.batch_size, args.seed, scale)}
        steps["val"] = NumberSteps(datasets, "val", args.batch_size, args.seed, steps["train"].scale())
        config = ControllerConfig(world["image_shape"][0], 0, "state", args.hidden, world["action_space"])
        return train(args, folder, config, datasets, steps, world, {}, state)


def train(args: argparse.Namespace, folder: Path, config: ControllerConfig, datasets: Sequence[Dataset], data: dict[str, Steps] | dict[str, NumberSteps], world: dict,
          parents: dict[str, str], state: dict | None) -> float:
    """Train up to epoch `args.epochs`, from the beginning or from `state`, the content of checkpoint.tar; returns the best score in the simulator."""
    for split, steps in data.items():
        if not len(steps):
            raise UserError(f'{", ".join(str(d.root) for d in datasets)} has no expert actions in its "{split}" split: '
                            "record episodes with `--policy expert`, or a mixture that has enough of it")
    seed_everything(args.seed, STAGE)
    model = Controller(config).to(device(args.device))
    optimizer = torch.optim.AdamW(model.parameters(), args.learning_rate, weight_decay=args.weight_decay)
    history, best = [], -math.inf
    if state:
        checkpoint.check_config(state, model.config_dict(), {"hidden": "--hidden", "features": "--features", "latent": "--dataset"})
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        history, best = state["history"], state["best"]
    write_args(folder, args)
    seeds, pace = selection_seeds(args.seed, args.n_samples), len(data["train"]) + len(data["val"])
    driver = Driver("agent", args.logdir, model.config_dict())
    with (Evaluator(fast(world["env"]), driver, args.max_workers, device(args.device), world.get("options")) as evaluator,
          tqdm(total=args.epochs * pace, initial=len(history) * pace, desc="cloning", unit="step", unit_scale=True) as bar):
        for epoch in range(len(history) + 1, args.epochs + 1):
            bar.set_description(f"epoch {epoch} of {args.epochs}")
            rng = seed_everything(args.seed, STAGE, epoch)
            loss = run_epoch(model, data["train"].batches(epoch, rng), optimizer, bar)
            val_loss = run_epoch(model, data["val"].batches(epoch, None), None, bar)
            row = {"epoch": epoch, "loss": loss, "val_loss": val_loss, "return_mean": None, "return_std": None}
            common = {"config": model.config_dict(), "parents": parents, "world": world, "epoch": epoch}
            if epoch % args.evaluate_every == 0 or epoch == args.epochs:
                deployed = data["train"].deployed(model)
                returns = np.array(evaluator.returns([(parameter_vector(deployed).cpu(), seed) for seed in seeds]))
                row.update(return_mean=float(returns.mean()), return_std=float(returns.std()))
                if row["return_mean"] > best:
                    best = row["return_mean"]
                    checkpoint.save(folder / "best.tar", "bc", **common, model=deployed.state_dict(), best=best)
            history.append(row)
            tqdm.write(line(row))
            checkpoint.save(folder / "checkpoint.tar", "bc", **common, model=model.state_dict(), best=best, history=history, optimizer=optimizer.state_dict(),
                            scale=data["train"].scale())
            write_csv(folder / "metrics.csv", history)
    curves(folder / "loss.png", history, "epoch", [("loss", "val_loss"), ("return_mean",)], "the clone")
    return best


if __name__ == "__main__":
    run(main)
