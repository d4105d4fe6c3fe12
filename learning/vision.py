"""V while it is trained (stage 2): passes over the frames, what its loss weighs, and what is kept."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from dreamdrive.data.latents import cache_latents
from dreamdrive.data.loaders import (
    FrameStream,
    ReturnStream,
    check_world,
    open_datasets,
    require_validation,
    with_mirrored,
    world_of,
)
from dreamdrive.data.shards import Dataset
from dreamdrive.learning.augmentation import changed
from dreamdrive.learning.fitting import Fit, Learner
from dreamdrive.learning.moving import Kept, Pairs
from dreamdrive.learning.unfinished import Unfinished
from dreamdrive.learning.vision_settings import HALVED_AFTER, KIND_NAMES, VAESettings
from dreamdrive.models.catalogue import BOOKS, COMMITMENT, FREE_BITS, SIZES
from dreamdrive.models.reconstruction import Perceptual, Weights
from dreamdrive.models.vae import colour_weights, to_float
from dreamdrive.models.world_model import Vision, build
from dreamdrive.utils import checkpoint, ranks, split_batch
from dreamdrive.utils.device import device
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.passes import Pass
from dreamdrive.utils.precision import autocast
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.seeds import seed_everything
from dreamdrive.utils.settings import say_inherited
from dreamdrive.utils.tracking import track
from dreamdrive.utils.video import VideoWriter, people, representatives, save_png, side_by_side, strip
from dreamdrive.utils.words import quoted

STAGE = 2
BALANCED_FRAMES = 4096  # that colours are counted in, and the mean frame is of
SAMPLES, CANDIDATES = 10, 256  # frames that are drawn, and those that they stand for
RECONSTRUCTION = Path("media", "reconstructions", "held-out.mp4")  # of a run
FILMED = 300  # steps at most
VALIDATION_FRAMES = 10_000  # at most, and the same ones in every epoch
LITTLE = 0.4  # of what changes, below which it is said what helps
# flags that let V keep more, as they may be given, and whether they are
HELPFUL: dict[str, Callable[["VAESettings"], bool]] = {
    "--beta 0.05": lambda args: args.beta <= 0.1 or args.kind != "vae",
    "--tokens 64": lambda args: args.tokens == 64 or args.kind == "vae",
    "--moving-balance 0.5": lambda args: args.moving_balance > 0,
    "--colour-balance 0.6": lambda args: args.colour_balance > 0,
}
# settings that are not V's sizes
TOLD = (
    "colour_balance",
    "moving_balance",
    "beta",
    "free_bits",
    "commitment",
    "returns",
    "loss",
    "augment",
    "mirror",
    "freeze",
)
# of a run begun before these
NEVER_TOLD = {
    "moving_balance": 0.0,
    "augment": False,
    "mirror": False,
    "fine_shades": False,
    "returns": 0.0,
    "loss": ("l2",),
    "free_bits": FREE_BITS,
    "commitment": COMMITMENT,
    "book": BOOKS[0],
}


def run_epoch(
    model: Vision,
    batches: Iterable[torch.Tensor | tuple[torch.Tensor, torch.Tensor]],
    optimizer: torch.optim.Optimizer | None,
    precision: str,
    bar: Bar,
    augment: bool = False,
    begun: Pass | None = None,
    learner: Learner | None = None,
) -> dict[str, float]:
    """One pass over `batches` of uint8 frames, alone or with their returns; trains with an optimizer, else measures.
    Mean of the losses. `augment`: frames are changed before V sees them, not where they are compared with what it makes
    of them. `begun`: the pass to go on with. `learner`: of V, where ranks train it."""
    where = next(model.parameters()).device
    begun = begun or Pass()
    mean = begun.mean
    bar.update(int(mean.weight))
    model.train(optimizer is not None)

    def work(frames: torch.Tensor, seen: torch.Tensor, returns: torch.Tensor | None) -> dict[str, torch.Tensor]:
        with autocast(precision, where):
            output = model(seen)
        return model.loss(frames, output, returns)

    for number, batch in begun.of(batches):
        batch, returns = (part.to(where) for part in batch) if isinstance(batch, tuple) else (batch.to(where), None)
        with autocast(precision, where):
            seen = changed(batch) if augment else batch
        with split_batch.split(len(batch)), torch.set_grad_enabled(optimizer is not None):
            frames, seen = split_batch.own(batch), split_batch.own(seen)
            given = (frames, seen, returns if returns is None else split_batch.own(returns))
            losses = learner(work, *given) if learner else work(*given)
            objective, losses, weight = split_batch.shared(losses, len(frames))
        loss = float(losses["loss"])
        if not math.isfinite(loss):
            raise UserError(
                f"the loss became {loss} in batch {number} of {bar.desc}: lower --learning-rate, or use --precision "
                "fp32, and run again"
            )
        if optimizer:
            optimizer.zero_grad(set_to_none=True)
            objective.backward()
            optimizer.step()
        mean.add(losses, weight)
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


@torch.inference_mode()
def film(model: Vision, datasets: Sequence[Dataset], path: Path) -> None:
    """How the first episode for validation begins, and beside it what V makes of that."""
    dataset, entry = next((d, e) for d in datasets for e in d.episodes if e.split == "val")
    frames = torch.from_numpy(dataset.frames(entry.index, end=min(FILMED, entry.steps) + 1))
    made = model.frames(model.z(model.latents(frames.to(next(model.parameters()).device)))).cpu()
    with VideoWriter(path, 1 / dataset.manifest.dt) as video:
        for pair in zip(frames.numpy(), made.numpy(), strict=True):
            video.add(side_by_side([people(frame) for frame in pair], ("what was recorded", "what V makes of it")))


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
        commitment=args.commitment,
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


def in_row(kept: Kept) -> dict[str, float]:
    """What V keeps, for metrics.csv."""
    return {"kept": kept.share, **kept.usage}


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
            f"`python trainbc.py --dataset {quoted(datasets[0].root)}`, or record pictures"
        )
    height, width, channels = world["image_shape"]
    if height != width or height not in SIZES:
        raise UserError(
            f"{datasets[0].root} has frames of {height}x{width} pixels: V takes squares of "
            f"{' or '.join(map(str, SIZES))}"
        )
    ranks.require_shares(args.batch_size)
    with checkpoint.stage_folder(args.logdir, "vae") as folder:
        state = ranks.of_first(lambda: checkpoint.resume(args.logdir, "vae", {}, args.noreload))
        args, inherited = args.resume(state and told(state))
        say_inherited({folder / "checkpoint.tar": inherited})
        model = build("vae", args.config(channels, height), KIND_NAMES[args.kind])
        model = model.to(where, memory_format=torch.channels_last)
        if args.mirror:
            datasets = with_mirrored(datasets)
        with track(args, folder, films=[args.logdir / RECONSTRUCTION]):
            train(args, folder, model, datasets, world, state)
            best = checkpoint.load_parent(args.logdir, "vae")
            model.load_state_dict(best["model"])
            model.eval()
            if ranks.first():
                say_what_is_kept(args, model, Pairs.of(datasets))
                if not args.nosamples:
                    film(model, datasets, args.logdir / RECONSTRUCTION)
            ranks.together()
        cache_latents(args.logdir, model, best["digest"], datasets, where)
    return best


def train(
    args: VAESettings, folder: Path, model: Vision, datasets: Sequence[Dataset], world: dict, state: dict | None
) -> None:
    """Train up to epoch `args.epochs`, from the beginning or from `state`, the content of checkpoint.tar."""
    seed_everything(args.seed, STAGE)
    about = {"parents": {}, "world": world}
    names = ("loss", "reconstruction", "kl", *(["returns"] if args.returns else []))
    panels = [(name, f"val_{name}") for name in names], "V"
    last = args.keep == "last"
    fit = Fit("vae", folder, model, args.learning_rate, HALVED_AFTER, about, datasets, last, panels=panels)
    if state:
        checkpoint.check_config(state, model.config_dict(), {"channels": "--dataset", "size": "--dataset"})
        for dataset in datasets:
            check_world(dataset, state["world"], str(folder))
        fit.resume(state)
    elif args.init:
        begin_as(args, model)
    if args.freeze:
        model.freeze()
    if ranks.first():
        args.write(folder)
    stream, validation = streams(datasets, args)
    pairs = Pairs.of(datasets)
    candidates = next(FrameStream(datasets, "val", CANDIDATES, args.seed).epoch(0, CANDIDATES))
    samples = candidates[representatives(candidates.numpy(), SAMPLES)]
    model.weigh(weights(args, datasets, model))
    settings = {name: getattr(args, name) for name in TOLD}
    if args.freeze == "all" and not state:
        with Bar(total=min(VALIDATION_FRAMES, validation.frames), desc="as it was", unit="frame") as bar:
            fit.best = run_epoch(model, validation.epoch(0, VALIDATION_FRAMES), None, args.precision, bar)["loss"]
        if ranks.first():
            fit.keep_best()
            fit.keep(settings=settings)
    unfinished = Unfinished("vae", fit, args)
    for epoch in fit.epochs(0 if args.freeze == "all" else args.epochs, args.patience):
        seed_everything(args.seed, STAGE, epoch)
        if args.anneal:
            fit.anneal(args.learning_rate, epoch, args.epochs)
        total = min(args.epoch_frames, stream.frames) + min(VALIDATION_FRAMES, validation.frames)
        with unfinished.epoch() as begun:
            with Bar(total=total, desc=f"epoch {epoch} of {args.epochs}", unit="frame") as bar:
                frames = stream.epoch(epoch, args.epoch_frames)
                learnt = run_epoch(model, frames, fit.optimizer, args.precision, bar, args.augment, begun, fit.learner)
                measured = run_epoch(model, validation.epoch(0, VALIDATION_FRAMES), None, args.precision, bar)
                measured |= ranks.of_first(lambda: in_row(pairs.kept(model)))
            if fit.add(learnt, measured) and ranks.first():
                fit.keep_best()
            if not args.nosamples and ranks.first():
                (folder / "samples").mkdir(exist_ok=True)
                save_samples(model, samples, folder / "samples" / f"epoch_{epoch:03d}.png")
            if ranks.first():
                fit.keep(settings=settings)
            ranks.together()
