"""M while it is trained (stage 3): passes over windows of latents, where dreams may start, and what is kept."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch

from dreamdrive.data.latents import cache_latents, load_sequences
from dreamdrive.data.loaders import Sequences, open_datasets, origin_of, require_validation, with_mirrored
from dreamdrive.data.shards import Dataset
from dreamdrive.driving.dreaming import dream_on
from dreamdrive.envs import make
from dreamdrive.envs.dream import Dream
from dreamdrive.envs.flags import check_env
from dreamdrive.learning.fitting import Fit, Learner
from dreamdrive.learning.memory_settings import HALVED_AFTER, SIMULATOR, MDRNNSettings, told
from dreamdrive.learning.unfinished import Unfinished
from dreamdrive.models.attention import load_gpt2
from dreamdrive.models.attention_cores import AttentionCore
from dreamdrive.models.world_model import Memory, Starts, Vision, build, latents_at, load_vision
from dreamdrive.utils import checkpoint, ranks, split_batch
from dreamdrive.utils.device import device
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.passes import Pass
from dreamdrive.utils.precision import autocast
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.seeds import seed_everything
from dreamdrive.utils.settings import say_inherited
from dreamdrive.utils.spaces import ActionSpace
from dreamdrive.utils.tracking import track
from dreamdrive.utils.video import save_png, strip

STAGE = 3
STARTS = 1024  # latents a dream may begin from, kept in best.tar
FIRST_FRAMES = 0.5  # share of them that are an episode's first frame
WARM_UP = 32  # real steps M has seen when a dream begins
STRIP_STEPS, STRIP_STRIDE = 36, 3  # steps of the dream strip, and how many of them lie between two pictures


def run_epoch(
    model: Memory,
    data: Sequences,
    cuts: np.ndarray,
    args: MDRNNSettings,
    generator: torch.Generator,
    optimizer: torch.optim.Optimizer | None,
    bar: Bar,
    begun: Pass | None = None,
    learner: Learner | None = None,
) -> dict[str, float]:
    """One pass over the windows at `cuts`; trains with an optimizer, else measures. Mean of the losses over steps.
    `begun`: the pass to go on with. `learner`: of M, where ranks train it."""
    where = next(model.parameters()).device
    begun = begun or Pass()
    mean = begun.mean
    bar.update(int(mean.weight))
    model.train(optimizer is not None)
    for number, first in begun.of(range(0, len(cuts), args.batch_size), generator):
        chosen = cuts[first : first + args.batch_size]
        batch = data.windows(chosen, args.seq_len, generator)
        if learner and args.dropout and ranks.several():  # each leaves out something else, the same whoever goes on
            seed_everything(generator.initial_seed(), number, ranks.number())
        with (
            split_batch.split(len(chosen)),
            torch.set_grad_enabled(optimizer is not None),
            autocast(args.precision, where),
        ):
            parts = {name: split_batch.own(value) for name, value in vars(batch).items()}
            batch = type(batch)(**{name: value.to(where, non_blocking=True) for name, value in parts.items()})
            losses = learner(model.loss, batch) if learner else model.loss(batch)
            objective, losses, steps = split_batch.shared(losses, batch.mask.sum().item())
        loss = float(losses["loss"])
        if not math.isfinite(loss):
            files = "; ".join(sorted({data.source[e] for e in chosen[:, 0]})[:3])
            raise UserError(
                f"the loss became {loss} in batch {number} of {bar.desc} ({files}): "
                "check the data with `dreamdrive data verify`, or lower --learning-rate"
            )
        if optimizer:
            optimizer.zero_grad(set_to_none=True)
            objective.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        mean.add(losses, steps)
        bar.update(int(steps))
        bar.set_postfix(loss=f"{mean.result()['loss']:.3f}")
    model.eval()
    return mean.result()


@torch.inference_mode()
def dream_starts(model: Memory, data: Sequences, rng: np.random.Generator) -> Starts:
    """STARTS frames of the train split, drawn at random, each with M's state after up to WARM_UP real steps before it.

    A part of them are first frames: a controller that never dreamt of setting off does not set off.
    """
    where = next(model.parameters()).device
    episode = rng.choice(data.episodes("train"), STARTS)
    t = rng.integers(0, data.steps[episode])  # any frame but the last
    t[: int(FIRST_FRAMES * STARTS)] = 0
    if model.from_starts:
        t = np.minimum(t, WARM_UP)
    first = np.maximum(t - WARM_UP, 0)
    windows = data.windows(np.stack([episode, first], 1), WARM_UP)
    state = model.started(torch.from_numpy(data.seed[episode]).to(where))
    before = torch.from_numpy(t - first).to(where)
    for i in range(WARM_UP):
        _, fresh = model.observe(windows.z[:, i : i + 1].to(where), windows.action[:, i : i + 1].to(where), state)
        state = fresh.where(i < before, state)
    frame = torch.from_numpy(data.frame_offset[episode] + t)
    return Starts(data.vision, latents_at(data.latents, frame), model.bare(state).to("cpu"))


@torch.inference_mode()
def save_strip(model: Memory, vision: Vision, data: Sequences, temperature: float, path: Path) -> None:
    """A real validation sequence, M's one-step prediction of it, and a free dream from the same start with the same
    actions."""
    where = next(model.parameters()).device
    e = max(data.episodes("val"), key=lambda i: data.steps[i])
    z, action, _ = (x.to(where) for x in data.episode(e))
    first = max(0, min(len(action) // 2, len(action) - STRIP_STEPS))
    steps = min(STRIP_STEPS, len(action) - first)
    _, state = model.observe(z[None, :first], action[None, :first]) if first else (None, model.initial(1))
    after, forced = state, [z[first : first + 1]]
    for t in range(first, first + steps):
        _, after = model.observe(z[None, t : t + 1], action[None, t : t + 1], after)
        forced.append(model.likeliest(after))
    begun, taken = Dream(z[first : first + 1], state), iter(action[first:, None])
    generator = torch.Generator(where).manual_seed(0)
    free = dream_on(model, begun, steps, lambda z, h: next(taken), temperature, generator).z[:, 0]
    rows = {"real, through V": z[first : first + steps + 1], "one step ahead": torch.cat(forced), "free dream": free}
    save_png(path, strip([(name, list(vision.frames(z[::STRIP_STRIDE]).cpu().numpy())) for name, z in rows.items()]))


def train_memory(args: MDRNNSettings) -> tuple[float, bool]:
    """The whole stage; (validation loss of best.tar, whether there is an expert in the data, to be cloned)."""
    args = args.with_preset()
    args.check()
    where = device(args.device)
    vision, saved = load_vision(args.logdir, where)
    check_env(args.logdir, saved["world"], args.env)
    owner = str(checkpoint.path(args.logdir, "vae"))
    datasets = open_datasets(args.dataset or saved["datasets"], saved["world"], owner)
    require_validation(datasets)
    ranks.require_shares(args.batch_size)
    with checkpoint.stage_folder(args.logdir, "mdrnn") as folder:
        parents = {"vae": saved["digest"]}
        # before the long work, in case it refuses
        state = ranks.of_first(lambda: checkpoint.resume(args.logdir, "mdrnn", parents, args.noreload, args.adopt))
        args, inherited = args.resume(state and told(state))
        if args.preset == "gpt2" and not (state or args.gpt2):
            raise UserError("--preset gpt2 begins with GPT-2's weights: give their folder with --gpt2")
        say_inherited(
            {
                checkpoint.path(args.logdir, "vae"): {} if args.dataset else {"dataset": saved["datasets"]},
                folder / "checkpoint.tar": inherited,
            }
        )
        if args.mirror:
            datasets = with_mirrored(datasets)
        cache_latents(args.logdir, vision, saved["digest"], datasets, where)
        data = load_sequences(args.logdir, vision, saved["digest"], datasets)
        if args.core == SIMULATOR:
            if ranks.first():
                keep_simulator(args, folder, vision, saved["world"], data, parents, datasets)
            return 0.0, bool(data.known.any())
        # in other units the losses of latents and end would drown in those of large rewards, or small ones in them
        scale = state["config"].get("reward_scale", 1.0) if state else data.reward_spread()
        config = args.config(vision, ActionSpace.from_dict(saved["world"]["action_space"]).size, scale)
        with track(args, folder):
            model = build("mdrnn", config, args.kind).to(where)
            best = train(args, folder, model, vision, data, parents, datasets, state)
        return best, bool(data.known.any())


def keep_simulator(
    args: MDRNNSettings,
    folder: Path,
    vision: Vision,
    world: dict,
    data: Sequences,
    parents: dict[str, str],
    datasets: Sequence[Dataset],
) -> None:
    """best.tar of an M that is the simulator: dreams begin where episodes did, or up to WARM_UP steps later. Its
    episodes are as long as the world's own, wherever recordings stopped."""
    if args.mirror:
        raise UserError("a simulator has no mirror: leave --mirror away")
    sizes = {"latent": vision.config.latent, "action": ActionSpace.from_dict(world["action_space"]).size}
    options = {name: value for name, value in world.get("options", {}).items() if value is not None}
    simulator = make(world["env"], **options)
    config = {**sizes, "env": world["env"], "options": options, "max_steps": simulator.spec.max_steps}
    simulator.close()
    memory: Memory = build("mdrnn", config, SIMULATOR)
    memory.meet(vision)
    starts = dream_starts(memory, data, seed_everything(args.seed, STAGE)).to_dict()
    config, model = memory.config_dict(), memory.state_dict()
    more = {"kind": SIMULATOR, "epoch": 0, **origin_of(datasets), "best": 0.0, "starts": starts}
    checkpoint.save(folder / "best.tar", "mdrnn", config, model, parents, **more)
    args.write(folder)


def train(
    args: MDRNNSettings,
    folder: Path,
    model: Memory,
    vision: Vision,
    data: Sequences,
    parents: dict[str, str],
    datasets: Sequence[Dataset],
    state: dict | None,
) -> float:
    """Train up to epoch `args.epochs`, from the beginning or from `state`, the content of checkpoint.tar; returns the
    validation loss of best.tar."""
    seed_everything(args.seed, STAGE)
    told = {"mirror": args.mirror, "weight_decay": args.weight_decay}
    about = {"parents": parents, **{name: value for name, value in told.items() if value}}
    last = args.keep == "last"
    panels = [(name, f"val_{name}") for name in ("loss", "nll", "reward_mse", "terminal_bce")], "M"
    fit = Fit(
        "mdrnn", folder, model, args.learning_rate, HALVED_AFTER, about, datasets, last, args.weight_decay, panels
    )
    if state:
        fit.resume(state)
    elif args.gpt2:
        load_gpt2(cast(AttentionCore, model).blocks, args.gpt2)
    model.meet(vision)
    if ranks.first():
        args.write(folder)
        (folder / "dreams").mkdir(exist_ok=True)
    validation = data.cut("val", args.seq_len, None)
    if args.epochs == 0 and not state:
        keep_untrained(args, fit, model, data, validation)
    unfinished = Unfinished("mdrnn", fit, args)
    for epoch in fit.epochs(args.epochs, args.patience):
        rng = seed_everything(args.seed, STAGE, epoch)
        if args.anneal:
            fit.anneal(args.learning_rate, epoch, args.epochs)
        draw = torch.Generator().manual_seed(int(rng.integers(2**31)))
        cuts = epoch_cuts(args, data, rng)
        steps = args.seq_len * (len(cuts) + len(validation))
        with unfinished.epoch() as begun:
            with Bar(total=steps, desc=f"epoch {epoch} of {args.epochs}", unit="step") as bar:
                learnt = run_epoch(model, data, cuts, args, draw, fit.optimizer, bar, begun, fit.learner)
                measured = measure(model, data, validation, args, bar)
            if fit.add(learnt, measured) and ranks.first():
                fit.keep_best(starts=dream_starts(model, data, rng).to_dict())
            if ranks.first():
                save_strip(model, vision, data, args.temperature, folder / "dreams" / f"epoch_{epoch:03d}.png")
                fit.keep()
            ranks.together()
    return state["best"] if state and math.isinf(fit.best) else fit.best


def epoch_cuts(args: MDRNNSettings, data: Sequences, rng: np.random.Generator) -> np.ndarray:
    """The windows of an epoch, (N, 2): of one pass, or of as many as its updates take."""
    cuts = data.cut("train", args.seq_len, rng)
    if args.updates is None:
        return cuts
    wanted = args.updates * args.batch_size
    while len(cuts) < wanted:
        cuts = np.concatenate([cuts, data.cut("train", args.seq_len, rng)])
    return cuts[:wanted]


def measure(model: Memory, data: Sequences, validation: np.ndarray, args: MDRNNSettings, bar: Bar) -> dict[str, float]:
    """Losses over the validation windows, by the same draws of z each time."""
    return run_epoch(model, data, validation, args, torch.Generator().manual_seed(args.seed), None, bar)


def keep_untrained(args: MDRNNSettings, fit: Fit, model: Memory, data: Sequences, validation: np.ndarray) -> None:
    """best.tar of an M with the weights it was made with, for the ablation."""
    fit.best = measure(model, data, validation, args, Bar(desc="untrained", unit="step"))["loss"]
    if ranks.first():
        fit.keep_best(starts=dream_starts(model, data, np.random.default_rng(args.seed)).to_dict())
