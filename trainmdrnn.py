"""Stage 3: train M, the MDN-RNN, on latents of the frozen V.

Reads   exp_dir/vae/best.tar          written by trainvae.py
        exp_dir/latents/              cached posterior of every frame; made here where it is missing or stale
Writes  exp_dir/mdrnn/best.tar        lowest validation loss; also holds the latents dreams start from
        exp_dir/mdrnn/checkpoint.tar  to resume from: run the same command again
        exp_dir/mdrnn/metrics.csv, loss.png, dreams/epoch_NNN.png, args.json

    python trainmdrnn.py --logdir exp_dir --epochs 30
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
import torch
from tqdm import tqdm

from dreamdrive.data.latents import cache_latents, load_sequences
from dreamdrive.data.loaders import Sequences, folders_of, open_datasets, require_validation, with_mirrored
from dreamdrive.driving.dreaming import dream_on
from dreamdrive.envs.dream import Dream
from dreamdrive.learning.fitting import Fit
from dreamdrive.models.attention import gpt2_sizes, load_gpt2
from dreamdrive.models.attention_cores import AttentionCore
from dreamdrive.models.world_model import KINDS, Memory, Starts, Vision, build, latents_at, load_vision
from dreamdrive.utils import checkpoint
from dreamdrive.utils.argument_types import ALL, count_or_all, learning_rate, natural, natural_float, positive, share
from dreamdrive.utils.device import device
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.metrics import Mean
from dreamdrive.utils.plots import curves
from dreamdrive.utils.precision import autocast
from dreamdrive.utils.script import run
from dreamdrive.utils.seeds import seed_everything
from dreamdrive.utils.settings import Fitting, flag, say_inherited
from dreamdrive.utils.spaces import ActionSpace
from dreamdrive.utils.tracking import track
from dreamdrive.utils.video import save_png, strip

STAGE = 3
HALVED_AFTER = 3  # epochs without progress, the learning rate
STARTS = 1024  # latents a dream may begin from, kept in best.tar
FIRST_FRAMES = 0.5  # share of them that are an episode's first frame
WARM_UP = 32  # real steps M has seen when a dream begins
CORES, HEADS, ENSEMBLE = ("lstm", "cfc", "ncp", "frames", "tokens"), ("mixture", "once", "sequence"), "-ensemble"
SIMULATOR = "simulator"
ATTENTIVE = ("a transformer, with --core frames or --core tokens", lambda args: args.core in ("frames", "tokens"))
WIRED = ("--core ncp", lambda args: args.core == "ncp")
LAYERED = ("--core ncp, frames or tokens", lambda args: args.core in ("ncp", "frames", "tokens"))
MIXTURE = ("--head mixture", lambda args: args.head == "mixture")  # what alone a flag is for
# Settings by the name of whoever published them; what the command line says goes before
PRESETS: dict[str, dict[str, Any]] = {
    # Micheli et al. 2023, arXiv 2209.00588
    "iris": {
        "core": "tokens",
        "head": "sequence",
        "hidden": 256,
        "layers": 10,
        "attention_heads": 4,
        "context": 20,
        "dropout": 0.1,
        "seq_len": 20,
        "batch_size": 64,
        "learning_rate": 1e-4,
        "weight_decay": 0.01,
    },
    # a bachelor thesis on top of it: two layers of 3,264 wired neurons, all tokens of a frame at once; 103 M weights
    "thesis-ncp": {
        "core": "ncp",
        "head": "once",
        "hidden": 2176,
        "layers": 2,
        "neurons": 3264,
        "seq_len": 20,
        "learning_rate": 1e-4,
    },
    # the same thesis: GPT-2 (Radford et al. 2019), whose folder --gpt2 gives, with its attention and layers frozen
    "gpt2": {
        "core": "tokens",
        "head": "sequence",
        "freeze": ALL,
        "context": 20,
        "dropout": 0.1,
        "seq_len": 20,
        "learning_rate": 1e-4,
        "weight_decay": 0.01,
    },
}
STRIP_STEPS, STRIP_STRIDE = 36, 3  # steps of the dream strip, and how many of them lie between two pictures


@dataclass(frozen=True, kw_only=True)
class MDRNNSettings(Fitting):
    """What stage 3 can be told."""

    dataset: tuple[Path, ...] | None = flag(
        None, Path, "folders written by stage 1 (default: those V was trained on)", nargs="+"
    )
    include_reward: bool = flag(
        True, help="make the reward part of the loss", names=("--include_reward", "--include-reward"), fixed="reward"
    )
    mirror: bool = flag(
        False, help="learn from all episodes in a mirror, too, where the world is the same there", fixed=True
    )
    preset: str | None = flag(
        None, str, "settings as they were published; other flags go before", choices=sorted(PRESETS)
    )
    hidden: int = flag(256, positive, "R, size of the core, or of all of an ensemble's together", fixed=True)
    core: str = flag(
        "lstm",
        help="what remembers; `simulator` trains nothing: the dream is the simulator itself",
        choices=(*CORES, SIMULATOR),
        fixed=True,
    )
    head: str = flag(
        "mixture",
        help="what foresees the next z: a mixture of Gaussians, or of a V of tokens all of them at once, or one place "
        "after another",
        choices=HEADS,
        fixed=True,
        where=("an M that learns", lambda args: args.core != SIMULATOR),
    )
    mixtures: int = flag(
        5, positive, "K, Gaussians in the mixture, or in that of each member", fixed=True, where=MIXTURE
    )
    members: int = flag(
        1,
        positive,
        "LSTMs; several are an ensemble, each of them trained by itself",
        fixed=True,
        where=("--core lstm and --head mixture", lambda args: (args.core, args.head) == ("lstm", "mixture")),
    )
    layers: int = flag(4, positive, "of wired neurons, or blocks of a transformer", fixed=True, where=LAYERED)
    neurons: int = flag(384, positive, "of a layer, R of which are its output", fixed=True, where=WIRED)
    attention_heads: int = flag(4, positive, "of each block of a transformer", fixed="heads", where=ATTENTIVE)
    context: int = flag(32, positive, "W, frames a transformer looks back on", fixed=True, where=ATTENTIVE)
    dropout: float = flag(0.0, share, "of a transformer in training", fixed=True, where=ATTENTIVE)
    gpt2: Path | None = flag(
        None,
        Path,
        "begin with the blocks of the GPT-2 in this folder (config.json, model.safetensors), of whose sizes M is then",
        where=ATTENTIVE,
    )
    freeze: int = flag(
        0,
        count_or_all,
        "of GPT-2's blocks keep the attention and layers of the first so many, or of `all`, as they are",
        fixed="frozen",
        where=("GPT-2's blocks, with --gpt2", lambda args: args.gpt2 is not None),
    )
    seq_len: int = flag(32, positive, "T, steps of a training window")
    batch_size: int = flag(16, positive, "windows")
    learning_rate: float = flag(1e-3, learning_rate, f"Adam's; halved after {HALVED_AFTER} epochs without progress")
    weight_decay: float = flag(0.0, natural_float, "of the weights of layers (AdamW)", fixed=True)
    patience: int = flag(10, positive, "stop after so many epochs without progress")
    epochs: int = flag(
        30, natural, "train up to this epoch; more than before resumes; 0 keeps M untrained, for the ablation"
    )
    updates: int | None = flag(None, positive, "updates of an epoch (default: those of one pass over the train split)")
    adopt: bool = flag(False, help="resume although V has been trained on since: M continues on its latents of now")
    temperature: float = flag(1.0, natural_float, "of the dream in the strip; 0 for no randomness")

    def check(self) -> None:
        super().check()
        if self.hidden % self.members:
            raise UserError(
                f"--hidden {self.hidden} cannot be shared by {self.members} members: give a multiple of {self.members}"
            )
        if ATTENTIVE[1](self) and self.hidden % self.attention_heads:
            raise UserError(
                f"--hidden {self.hidden} cannot be shared by {self.attention_heads} heads: give a multiple of that, or "
                "other --attention-heads"
            )
        if self.core == "ncp" and self.neurons < self.hidden + 3:
            raise UserError(
                f"{self.hidden} of --neurons {self.neurons} cannot be outputs: give {self.hidden + 3} or more, or a "
                "smaller --hidden"
            )
        if (self.core, self.head) == ("tokens", "mixture"):
            raise UserError("--core tokens foresees tokens, not a mixture: give --head once or --head sequence")

    def with_preset(self) -> Self:
        """These settings with those that a preset or GPT-2's sizes say where the command line does not."""
        said = dict(PRESETS[self.preset]) if self.preset else {}
        if self.gpt2:
            sizes = gpt2_sizes(self.gpt2)
            said |= {"hidden": sizes["hidden"], "layers": sizes["layers"], "attention_heads": sizes["heads"]}
        return replace(self, **{name: value for name, value in said.items() if not self.was_given(name)})

    @property
    def kind(self) -> str:
        """Of M."""
        if self.core == SIMULATOR:
            return SIMULATOR
        return f"{self.core}-{self.head}{'' if self.members == 1 else ENSEMBLE}"

    def config(self, vision: Vision, action: int, reward_scale: float) -> dict:
        """Sizes of M, for V's latents and action vectors of A numbers; UserError where its head cannot foresee
        them."""
        found: dict[str, Any] = {
            "latent": vision.config.latent,
            "action": action,
            "hidden": self.hidden,
            "reward": self.include_reward,
            "reward_scale": reward_scale,
        }
        if ATTENTIVE[1](self):
            found |= {"heads": self.attention_heads, "context": self.context, "dropout": self.dropout}
            found |= {"layers": self.layers, "frozen": self.freeze}
        if self.core == "ncp":
            found |= {"layers": self.layers, "neurons": self.neurons}
        if self.head == "mixture":
            return {**found, "mixtures": self.mixtures, **({} if self.members == 1 else {"members": self.members})}
        if not vision.alphabet:
            raise UserError(
                f"--head {self.head} foresees tokens, and V of {self.logdir} has none: leave it away, or train a V "
                "with `python trainvae.py --kind fsq`"
            )
        letters = [len(letter) for letter in vision.alphabet]
        return {**found, "letters": letters, "numbers": vision.alphabet[0].shape[1]}


def run_epoch(
    model: Memory,
    data: Sequences,
    cuts: np.ndarray,
    args: MDRNNSettings,
    generator: torch.Generator,
    optimizer: torch.optim.Optimizer | None,
    bar: tqdm,
) -> dict[str, float]:
    """One pass over the windows at `cuts`; trains with an optimizer, else measures. Mean of the losses over steps."""
    where = next(model.parameters()).device
    mean = Mean()
    model.train(optimizer is not None)
    for number, first in enumerate(range(0, len(cuts), args.batch_size)):
        chosen = cuts[first : first + args.batch_size]
        batch = data.windows(chosen, args.seq_len, generator)
        batch = type(batch)(**{name: value.to(where, non_blocking=True) for name, value in vars(batch).items()})
        with torch.set_grad_enabled(optimizer is not None):
            with autocast(args.precision, where):
                losses = model.loss(batch)
        loss = losses["loss"].item()
        if not math.isfinite(loss):
            files = "; ".join(sorted({data.source[e] for e in chosen[:, 0]})[:3])
            raise UserError(
                f"the loss became {loss} in batch {number} of {bar.desc} ({files}): "
                "check the data with `dreamdrive data verify`, or lower --learning-rate"
            )
        if optimizer:
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        steps = batch.mask.sum().item()
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


def main() -> None:
    args = MDRNNSettings.parse(None, __doc__)
    best = train_memory(args)
    learnt = "the simulator itself" if args.core == SIMULATOR else f"validation loss {best:.4f}"
    print(
        f"{checkpoint.path(args.logdir, 'mdrnn')}: {learnt}; next: python traincontroller.py "
        f"--logdir {args.logdir}, python trainbc.py --logdir {args.logdir}"
    )


def train_memory(args: MDRNNSettings) -> float:
    """The whole stage; the validation loss of best.tar."""
    args = args.with_preset()
    args.check()
    where = device(args.device)
    vision, saved = load_vision(args.logdir, where)
    owner = str(checkpoint.path(args.logdir, "vae"))
    datasets = open_datasets(args.dataset or saved["datasets"], saved["world"], owner)
    require_validation(datasets)
    with checkpoint.stage_folder(args.logdir, "mdrnn") as folder:
        parents = {"vae": saved["digest"]}
        # before the long work, in case it refuses
        state = checkpoint.resume(args.logdir, "mdrnn", parents, args.noreload, args.adopt)
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
            return keep_simulator(args, folder, vision, saved["world"], data, parents, folders_of(datasets))
        # in other units the losses of latents and end would drown in those of large rewards, or small ones in them
        scale = state["config"].get("reward_scale", 1.0) if state else data.reward_spread()
        config = args.config(vision, ActionSpace.from_dict(saved["world"]["action_space"]).size, scale)
        with track(args, folder):
            model = build("mdrnn", config, args.kind).to(where)
            return train(args, folder, model, vision, data, parents, folders_of(datasets), state)


def keep_simulator(
    args: MDRNNSettings,
    folder: Path,
    vision: Vision,
    world: dict,
    data: Sequences,
    parents: dict[str, str],
    datasets: list[str],
) -> float:
    """best.tar of an M that is the simulator: dreams begin where episodes did, or up to WARM_UP steps later."""
    if args.mirror:
        raise UserError("a simulator has no mirror: leave --mirror away")
    sizes = {"latent": vision.config.latent, "action": ActionSpace.from_dict(world["action_space"]).size}
    options = {name: value for name, value in world.get("options", {}).items() if value is not None}
    config = {**sizes, "env": world["env"], "options": options, "max_steps": world["max_steps"]}
    memory: Memory = build("mdrnn", config, SIMULATOR)
    memory.meet(vision)
    starts = dream_starts(memory, data, seed_everything(args.seed, STAGE)).to_dict()
    config, model = memory.config_dict(), memory.state_dict()
    more = {"kind": SIMULATOR, "epoch": 0, "datasets": datasets, "best": 0.0, "starts": starts}
    checkpoint.save(folder / "best.tar", "mdrnn", config, model, parents, **more)
    args.write(folder)
    return 0.0


def told(state: dict) -> dict:
    """What a run was told that may not change, of its checkpoint's content."""
    core, head = state.get("kind", next(iter(KINDS["mdrnn"]))).removesuffix(ENSEMBLE).split("-")
    kept = {"mirror": state.get("mirror", False), "weight_decay": state.get("weight_decay", 0.0)}
    return {"core": core, "head": head, "members": 1, **state["config"], **kept}


def train(
    args: MDRNNSettings,
    folder: Path,
    model: Memory,
    vision: Vision,
    data: Sequences,
    parents: dict[str, str],
    datasets: list[str],
    state: dict | None,
) -> float:
    """Train up to epoch `args.epochs`, from the beginning or from `state`, the content of checkpoint.tar; returns the
    best validation loss."""
    seed_everything(args.seed, STAGE)
    told = {"mirror": args.mirror, "weight_decay": args.weight_decay}
    about = {"parents": parents, **{name: value for name, value in told.items() if value}}
    last = args.keep == "last"
    fit = Fit("mdrnn", folder, model, args.learning_rate, HALVED_AFTER, about, datasets, last, args.weight_decay)
    if state:
        fit.resume(state)
    elif args.gpt2:
        load_gpt2(cast(AttentionCore, model).blocks, args.gpt2)
    model.meet(vision)
    args.write(folder)
    (folder / "dreams").mkdir(exist_ok=True)
    validation = data.cut("val", args.seq_len, None)
    if args.epochs == 0 and not state:
        keep_untrained(args, fit, model, data, validation)
    for epoch in fit.epochs(args.epochs, args.patience):
        rng = seed_everything(args.seed, STAGE, epoch)
        if args.anneal:
            fit.anneal(args.learning_rate, epoch, args.epochs)
        draw = torch.Generator().manual_seed(int(rng.integers(2**31)))
        cuts = epoch_cuts(args, data, rng)
        with tqdm(
            total=args.seq_len * (len(cuts) + len(validation)), desc=f"epoch {epoch} of {args.epochs}", unit="step"
        ) as bar:
            learnt = run_epoch(model, data, cuts, args, draw, fit.optimizer, bar)
            measured = measure(model, data, validation, args, bar)
        if fit.add(learnt, measured):
            fit.keep_best(starts=dream_starts(model, data, rng).to_dict())
        save_strip(model, vision, data, args.temperature, folder / "dreams" / f"epoch_{epoch:03d}.png")
        fit.keep()
        panels = [("loss", "val_loss"), ("nll", "val_nll"), ("val_reward_mse", "val_terminal_bce")]
        curves(folder / "loss.png", fit.history, "epoch", panels, "M")
    return fit.best


def epoch_cuts(args: MDRNNSettings, data: Sequences, rng: np.random.Generator) -> np.ndarray:
    """The windows of an epoch, (N, 2): of one pass, or of as many as its updates take."""
    cuts = data.cut("train", args.seq_len, rng)
    if args.updates is None:
        return cuts
    wanted = args.updates * args.batch_size
    while len(cuts) < wanted:
        cuts = np.concatenate([cuts, data.cut("train", args.seq_len, rng)])
    return cuts[:wanted]


def measure(model: Memory, data: Sequences, validation: np.ndarray, args: MDRNNSettings, bar: tqdm) -> dict[str, float]:
    """Losses over the validation windows, by the same draws of z each time."""
    return run_epoch(model, data, validation, args, torch.Generator().manual_seed(args.seed), None, bar)


def keep_untrained(args: MDRNNSettings, fit: Fit, model: Memory, data: Sequences, validation: np.ndarray) -> None:
    """best.tar of an M with the weights it was made with, for the ablation."""
    fit.best = measure(model, data, validation, args, tqdm(desc="untrained", unit="step"))["loss"]
    fit.keep_best(starts=dream_starts(model, data, np.random.default_rng(args.seed)).to_dict())


if __name__ == "__main__":
    run(main)
