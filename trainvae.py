"""Stage 2: train V, the VAE that turns a frame into Z numbers.

Reads   datasets/<name>/             written by data/generation_script.py; one folder or several of the same environment
Writes  exp_dir/vae/best.tar         lowest validation loss, for the next stages
        exp_dir/vae/checkpoint.tar   to resume from: run the same command again
        exp_dir/vae/metrics.csv, loss.png, samples/epoch_NNN.png, args.json
        exp_dir/vae/lost.png         of what changes from a step to the next, what V loses most
        exp_dir/latents/             posterior of every frame of the datasets

    python trainvae.py --dataset datasets/carracing --epochs 20

With --augment the frames that V is trained on are changed at random, and it is to reconstruct those that they were
(learning/augmentation.py); validation and cached latents are of frames as they are.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import torch
from tqdm import tqdm

from dreamdrive.data.latents import cache_latents
from dreamdrive.data.loaders import (
    RETURN_STEPS,
    FrameStream,
    ReturnStream,
    check_world,
    folders_of,
    open_datasets,
    require_validation,
    with_mirrored,
    world_of,
)
from dreamdrive.data.shards import Dataset
from dreamdrive.learning.augmentation import changed
from dreamdrive.learning.fitting import Fit
from dreamdrive.learning.moving import Pairs
from dreamdrive.models.reconstruction import FREE_BITS, TERMS, Perceptual, Weights
from dreamdrive.models.tokens import TOKENS
from dreamdrive.models.vae import GRID, SIZES, colour_weights, to_float
from dreamdrive.models.world_model import Vision, build
from dreamdrive.utils import checkpoint
from dreamdrive.utils.argument_types import learning_rate, natural_float, positive, share
from dreamdrive.utils.device import device
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.metrics import Mean
from dreamdrive.utils.plots import curves
from dreamdrive.utils.precision import autocast
from dreamdrive.utils.script import run
from dreamdrive.utils.seeds import seed_everything
from dreamdrive.utils.settings import Fitting, flag, say_inherited
from dreamdrive.utils.tracking import track
from dreamdrive.utils.video import representatives, save_png, strip

STAGE = 2
HALVED_AFTER = 2  # epochs without progress, the learning rate
BALANCED_FRAMES = 4096  # that colours are counted in, and the mean frame is of
VALIDATION_FRAMES = 10_000  # at most, and the same ones in every epoch
KIND_NAMES = {"vae": "gaussian", "fsq": "fsq", "vq": "vq"}  # of --kind, as models.world_model.KINDS has them
NUMBERS = ("--kind vae", lambda args: args.kind == "vae")  # what alone some flags are for
SAMPLES, CANDIDATES = 10, 256  # frames that are drawn, and those that they stand for
LITTLE = 0.4  # of what changes, below which it is said what helps
# flags that let V keep more, as they may be given, and whether they are
HELPFUL: dict[str, Callable[["VAESettings"], bool]] = {
    "--beta 0.05": lambda args: args.beta <= 0.1 or args.kind != "vae",
    "--tokens 64": lambda args: args.tokens == 64 or args.kind == "vae",
    "--moving-balance 0.5": lambda args: args.moving_balance > 0,
    "--colour-balance 0.6": lambda args: args.colour_balance > 0,
}
FREEZES = ("encoder", "all")
# settings that are not V's sizes
TOLD = ("colour_balance", "moving_balance", "beta", "free_bits", "returns", "loss", "augment", "mirror", "freeze")
# of a run begun before these
NEVER_TOLD = {
    "moving_balance": 0.0,
    "augment": False,
    "mirror": False,
    "fine_shades": False,
    "returns": 0.0,
    "loss": ("l2",),
    "free_bits": FREE_BITS,
}


def sees_features(args: "VAESettings") -> bool:
    return "perceptual" in args.loss


@dataclass(frozen=True, kw_only=True)
class VAESettings(Fitting):
    """What stage 2 can be told."""

    dataset: tuple[Path, ...] = flag((Path("datasets/carracing"),), Path, "folders written by stage 1", nargs="+")
    init: Path | None = flag(None, Path, "begin with V of this run, of the same kind and sizes")
    freeze: str | None = flag(
        None,
        help="what of that stays as it is: what makes latents of frames, or all of it, and nothing is trained",
        choices=FREEZES,
        fixed=True,
        where=("a V that begins as another, with --init", lambda args: args.init is not None),
    )
    kind: str = flag(
        "vae",
        help="numbers with a spread, tokens whose codes are rounded numbers (fsq), or tokens from a book of codes (vq)",
        choices=tuple(KIND_NAMES),
        fixed=True,
    )
    latent: int = flag(32, positive, "Z, numbers a frame is compressed to", fixed=True, where=NUMBERS)
    grid: bool = flag(
        False,
        help="latents as an 8x8 grid over the frame, Z a multiple of 64, instead of each seeing all of it: "
        "for worlds where small things in their places matter",
        fixed=True,
        where=NUMBERS,
    )
    tokens: int = flag(
        16,
        int,
        "of a frame, in a square",
        choices=TOKENS,
        fixed=True,
        where=("--kind fsq or vq", lambda args: args.kind != "vae"),
    )
    epochs: int = flag(20, positive, "train up to this epoch; more than before resumes")
    colour_balance: float = flag(
        0.0,
        natural_float,
        "0: every pixel's error counts alike; up to 1: every colour's, so that small things of a colour of their "
        "own survive",
        fixed=True,
    )
    moving_balance: float = flag(
        0.0,
        share,
        "0: every pixel's error counts alike; towards 1: as much as the pixel differs from the mean frame there, so "
        "that small things that move survive, and are learnt sooner",
        fixed=True,
    )
    beta: float = flag(
        1.0,
        natural_float,
        "weight of the KL divergence; below 1 the latents keep more detail, and M has more to predict",
        fixed=True,
        where=NUMBERS,
    )
    free_bits: float = flag(
        FREE_BITS,
        natural_float,
        "nats a latent dimension, up to which the KL divergence costs nothing",
        fixed=True,
        where=NUMBERS,
    )
    fine_shades: bool = flag(
        False,
        help="let the encoder see fine shades beside the colours, so that it can tell what differs by a few grey "
        "levels",
        fixed=True,
    )
    returns: float = flag(
        0.0,
        natural_float,
        f"weight of what V guesses, from its latents, the rewards of the next {RETURN_STEPS} steps to be: above 0 they "
        "keep what rewards depend on, however few pixels show it; 8 does for CarRacing",
        fixed=True,
    )
    loss: tuple[str, ...] = flag(
        ("l2",),
        help="of frames: squared error, absolute error, distance of features, or the sum of several",
        choices=TERMS,
        nargs="+",
        fixed=True,
    )
    vgg: Path | None = flag(
        None, Path, "file of torchvision's VGG-16, whose features they are", where=("--loss perceptual", sees_features)
    )
    augment: bool = flag(
        False,
        help="train on frames that have been given other colours, bars, blobs and noise, to be seen as they were "
        "before",
        fixed=True,
    )
    mirror: bool = flag(
        False, help="train on all frames in a mirror, too, where the world is the same there", fixed=True
    )
    epoch_frames: int = flag(100_000, positive, "frames an epoch takes (the whole dataset at most)")
    batch_size: int = flag(64, positive, "frames")
    learning_rate: float = flag(1e-3, learning_rate, f"Adam's; halved after {HALVED_AFTER} epochs without progress")
    patience: int = flag(8, positive, "stop after so many epochs without progress")
    nosamples: bool = flag(False, help="do not write samples/epoch_NNN.png")

    def check(self) -> None:
        super().check()
        if self.grid and self.latent % GRID**2:
            raise UserError(f"--grid takes --latent in multiples of {GRID**2}, not {self.latent}")
        if sees_features(self) and self.vgg is None:
            raise UserError(
                "--loss perceptual compares what a VGG-16 sees: give the file of torchvision's weights to --vgg "
                "(nothing is downloaded)"
            )

    def config(self, channels: int, size: int) -> dict:
        """Sizes of V, for frames of so many channels and pixels a side."""
        numbers = {"latent": self.latent, "grid": self.grid}
        common = {"channels": channels, "size": size, "fine_shades": self.fine_shades, "guesses": self.returns > 0}
        return {**(numbers if self.kind == "vae" else {"tokens": self.tokens}), **common}


def run_epoch(
    model: Vision,
    batches: Iterable[torch.Tensor | tuple[torch.Tensor, torch.Tensor]],
    optimizer: torch.optim.Optimizer | None,
    precision: str,
    bar: tqdm,
    augment: bool = False,
) -> dict[str, float]:
    """One pass over `batches` of uint8 frames, alone or with their returns; trains with an optimizer, else measures.
    Mean of the losses. `augment`: frames are changed before V sees them, not where they are compared with what it makes
    of them."""
    where = next(model.parameters()).device
    mean = Mean()
    model.train(optimizer is not None)
    for number, batch in enumerate(batches):
        batch, returns = (part.to(where) for part in batch) if isinstance(batch, tuple) else (batch.to(where), None)
        with torch.set_grad_enabled(optimizer is not None), autocast(precision, where):
            output = model(changed(batch) if augment else batch)
        with torch.set_grad_enabled(optimizer is not None):
            losses = model.loss(batch, output, returns)
        loss = losses["loss"].item()
        if not math.isfinite(loss):
            raise UserError(
                f"the loss became {loss} in batch {number} of {bar.desc}: lower --learning-rate, or use --precision "
                "fp32, and run again"
            )
        if optimizer:
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            optimizer.step()
        mean.add(losses, len(batch))
        bar.update(len(batch))
        bar.set_postfix(loss=f"{mean.result()['loss']:.1f}")
    return mean.result()


@torch.inference_mode()
def save_samples(model: Vision, frames: torch.Tensor, path: Path) -> None:
    """Originals, their reconstructions, and frames decoded from the prior."""
    where = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    reconstruction = model.frames(model.z(model.latents(frames.to(where)))).cpu().numpy()
    prior = model.frames(model.prior(len(frames), generator).to(where)).cpu().numpy()
    save_png(
        path,
        strip(
            [
                ("real frame", list(frames.numpy())),
                ("reconstruction", list(reconstruction)),
                ("sample of the prior", list(prior)),
            ]
        ),
    )


def weights(args: VAESettings, datasets: Sequence[Dataset], model: Vision) -> Weights:
    """What V's loss weighs, where `model` is: of pixels, by their colours and by what is usual where they are, from a
    few thousand frames."""
    where, colours, usual = next(model.parameters()).device, None, None
    if args.colour_balance or args.moving_balance:
        stream = FrameStream(datasets, "train", args.batch_size, args.seed)
        frames = torch.cat(list(stream.epoch(0, BALANCED_FRAMES)))
        colours = colour_weights(frames, args.colour_balance).to(where) if args.colour_balance else None
        usual = to_float(frames).mean(0, keepdim=True).to(where) if args.moving_balance else None
    return Weights(
        beta=args.beta,
        colours=colours,
        usual=usual,
        moving=args.moving_balance,
        returns=args.returns,
        free_bits=args.free_bits,
        terms=args.loss,
        perceptual=Perceptual.load(args.vgg).to(where) if args.vgg else None,
    )


def begin_as(args: VAESettings, model: Vision) -> None:
    """Give V the weights of --init's; UserError where that is another one."""
    assert args.init is not None, "it was given"
    there, source = checkpoint.load_parent(args.init, "vae"), checkpoint.path(args.init, "vae")
    if kind_of(there) != args.kind:
        raise UserError(f"{source} is of --kind {kind_of(there)}, not {args.kind}: give the same")
    ours, theirs = model.config_dict(), type(model).from_config(there["config"]).config_dict()
    for name, value in theirs.items():
        if ours[name] != value:
            raise UserError(f"{source} has {name} {value}, not {ours[name]}: give the same to begin with it")
    model.load_state_dict(there["model"])


def streams(
    datasets: Sequence[Dataset], args: VAESettings
) -> tuple[FrameStream, FrameStream] | tuple[ReturnStream, ReturnStream]:
    """What V is trained on and what it is measured on; returns of both count in the units of the first."""
    if not args.returns:
        return (
            FrameStream(datasets, "train", args.batch_size, args.seed),
            FrameStream(datasets, "val", args.batch_size, args.seed),
        )
    stream = ReturnStream(datasets, "train", args.batch_size, args.seed)
    validation = ReturnStream(datasets, "val", args.batch_size, args.seed)
    validation.mean, validation.spread = stream.mean, stream.spread
    return stream, validation


def told(state: dict) -> dict:
    """What a run was told that may not change, of its checkpoint's content."""
    found = {"kind": kind_of(state), **NEVER_TOLD, **state["config"], **state.get("settings", {})}
    return {name: value for name, value in found.items() if value is not None}


def kind_of(state: dict) -> str:
    """What --kind was, of a checkpoint's content."""
    there = state.get("kind", KIND_NAMES["vae"])
    return next(name for name, kind in KIND_NAMES.items() if kind == there)


def say_what_is_kept(args: VAESettings, model: Vision, pairs: Pairs) -> None:
    """Say, and draw, how much V keeps of what changes from a step to the next; advise where that is little."""
    kept, path = pairs.kept(model), checkpoint.path(args.logdir, "vae").with_name("lost.png")
    if math.isnan(kept.share):
        return
    pairs.draw(model, kept, path)
    print(f"V keeps {100 * kept.share:.0f} % of what changes from a step to the next; {path} shows what it loses most")
    help_with = [flag for flag, is_used in HELPFUL.items() if not is_used(args)]
    if kept.share < LITTLE and help_with:
        print(f"that is little, and M and controllers see no more than V: try {', '.join(help_with)}, or more --epochs")


def main() -> None:
    args = VAESettings.parse(None, __doc__)
    best = train_vision(args)
    print(
        f"{checkpoint.path(args.logdir, 'vae')}: epoch {best['epoch']}, validation loss {best['best']:.2f}; next: "
        f"python trainmdrnn.py --logdir {args.logdir}"
    )


def train_vision(args: VAESettings) -> dict:
    """The whole stage; the content of best.tar."""
    args.check()
    where = device(args.device)
    datasets = open_datasets(args.dataset)
    require_validation(datasets)
    world = world_of(datasets[0])
    if len(world["image_shape"]) != 3:
        raise UserError(
            f"{datasets[0].root} holds {world['image_shape'][0]} numbers a step and no pictures, which need no V: "
            "clone them with "
            f"`python trainbc.py --dataset {datasets[0].root}`, or record pictures"
        )
    height, width, channels = world["image_shape"]
    if height != width or height not in SIZES:
        raise UserError(
            f"{datasets[0].root} has frames of {height}x{width} pixels: V takes squares of "
            f"{' or '.join(map(str, SIZES))}"
        )
    with checkpoint.stage_folder(args.logdir, "vae") as folder:
        state = checkpoint.resume(args.logdir, "vae", {}, args.noreload)
        args, inherited = args.resume(state and told(state))
        say_inherited({folder / "checkpoint.tar": inherited})
        model = build("vae", args.config(channels, height), KIND_NAMES[args.kind])
        model = model.to(where, memory_format=torch.channels_last)
        if args.mirror:
            datasets = with_mirrored(datasets)
        with track(args, folder):
            train(args, folder, model, datasets, world, state)
        best = checkpoint.load_parent(args.logdir, "vae")
        model.load_state_dict(best["model"])
        say_what_is_kept(args, model.eval(), Pairs.of(datasets))
        cache_latents(args.logdir, model, best["digest"], datasets, where)
    return best


def train(
    args: VAESettings, folder: Path, model: Vision, datasets: Sequence[Dataset], world: dict, state: dict | None
) -> None:
    """Train up to epoch `args.epochs`, from the beginning or from `state`, the content of checkpoint.tar."""
    seed_everything(args.seed, STAGE)
    about = {"parents": {}, "world": world}
    fit = Fit("vae", folder, model, args.learning_rate, HALVED_AFTER, about, folders_of(datasets), args.keep == "last")
    if state:
        checkpoint.check_config(state, model.config_dict(), {"channels": "--dataset", "size": "--dataset"})
        for dataset in datasets:
            check_world(dataset, state["world"], str(folder))
        fit.resume(state)
    elif args.init:
        begin_as(args, model)
    if args.freeze:
        model.freeze()
    args.write(folder)
    stream, validation = streams(datasets, args)
    pairs = Pairs.of(datasets)
    candidates = next(FrameStream(datasets, "val", CANDIDATES, args.seed).epoch(0, CANDIDATES))
    samples = candidates[representatives(candidates.numpy(), SAMPLES)]
    model.weigh(weights(args, datasets, model))
    settings = {name: getattr(args, name) for name in TOLD}
    if args.freeze == "all" and not state:
        with tqdm(total=min(VALIDATION_FRAMES, validation.frames), desc="as it was", unit="frame") as bar:
            fit.best = run_epoch(model, validation.epoch(0, VALIDATION_FRAMES), None, args.precision, bar)["loss"]
        fit.keep_best()
        fit.keep(settings=settings)
    for epoch in fit.epochs(0 if args.freeze == "all" else args.epochs, args.patience):
        seed_everything(args.seed, STAGE, epoch)
        if args.anneal:
            fit.anneal(args.learning_rate, epoch, args.epochs)
        total = min(args.epoch_frames, stream.frames) + min(VALIDATION_FRAMES, validation.frames)
        with tqdm(total=total, desc=f"epoch {epoch} of {args.epochs}", unit="frame") as bar:
            frames = stream.epoch(epoch, args.epoch_frames)
            learnt = run_epoch(model, frames, fit.optimizer, args.precision, bar, args.augment)
            measured = run_epoch(model, validation.epoch(0, VALIDATION_FRAMES), None, args.precision, bar)
            kept = pairs.kept(model)
            measured |= {"kept": kept.share, **kept.usage}
        if fit.add(learnt, measured):
            fit.keep_best()
        if not args.nosamples:
            (folder / "samples").mkdir(exist_ok=True)
            save_samples(model, samples, folder / "samples" / f"epoch_{epoch:03d}.png")
        fit.keep(settings=settings)
        panels = [("loss", "val_loss"), ("reconstruction", "val_reconstruction"), ("kl", "val_kl")]
        panels += [("returns", "val_returns")] if args.returns else []
        curves(folder / "loss.png", fit.history, "epoch", panels, "V")


if __name__ == "__main__":
    run(main)
