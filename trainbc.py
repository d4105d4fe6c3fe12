"""Stage 4b: clone the recorded expert, (z, h) -> action, on cached latents, and go on in the dream; or, without V and M, numbers -> action of a dataset that holds no
pictures, or with --model frames -> action by a network that remembers.

Reads   exp_dir/vae/best.tar, exp_dir/mdrnn/best.tar
        exp_dir/latents/             and the expert's actions in the datasets
Writes  exp_dir/bc/best.tar          highest mean return in the simulator (seeds of the model-selection range)
        exp_dir/bc/checkpoint.tar    to go on from: run the same command again
        exp_dir/bc/metrics.csv, loss.png, args.json
        exp_dir/bc/dream.mp4, dream.png   the clone's dream, below what the expert saw from the same frame on
        exp_dir/bc/distance.png      how far dreams of clone and others are from what experts saw
        exp_dir/bc/dream-and-reality.png   scores in the dream against scores in the simulator
        exp_dir/bc/dagger_000/ ...   with --method dagger --world simulator: what the clone recorded; the last as driver.tar

    python trainbc.py --logdir exp_dir --hidden 256 --epochs 30
    python trainbc.py --logdir exp_dir --hidden 256 --epochs 30 --method ditto --dream-epochs 20
    python trainbc.py --logdir exp_dir --hidden 256 --dataset datasets/features
    python trainbc.py --logdir exp_dir/breakout --model cfc --dataset datasets/breakout --evaluate-every 1 --n-samples 10

    python trainbc.py --teacher --env mountaincar --logdir exp_dir/lesson

--teacher serves a web page on which you teach a clone by hand, see teacher/lesson.py; its files are exp_dir/bc/taught, snapshots and lesson.png.
--method dagger and ditto go on with the clone of the first --epochs epochs that drove best.
"""

import argparse
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from data import generation_script
from data.dream_report import film, plot_distances, plot_relation
from data.evaluation import Driver, Evaluator
from data.imagination import Dreams, Setting, random_action
from data.loaders import check_world, open_datasets, require_validation, world_of
from data.sequences import FrameSequences
from data.shards import Dataset
from data.steps import NumberSteps, Steps
from envs import fast
from envs.dream import DREAM_STEPS
from models.agent import load_models, load_vae, make_head
from models.cloning import CloneLoss, averaged, run_epoch, run_sequences
from models.controller import LATENT_FEATURES, Controller, ControllerConfig, parameter_vector
from models.ditto import Ditto
from models.policy import MEMORIES, Policy, PolicyConfig
from teacher import lesson
from utils import checkpoint
from utils.cli import add_training, device, learning_rate, natural, natural_float, parser, positive, positive_float, run, seed_everything, settled, share, write_args
from utils.errors import UserError
from utils.metrics import line, write_csv
from utils.plots import curves
from utils.seeds import RANGE, STRIDE, selection_seeds
from utils.tracking import track

STAGE = 5
METHODS = ("bc", "dagger", "ditto")
LOSSES = ("squared", "gaussian")
SIZES = {**lesson.SIZES, "hidden": 0}  # of a clone, and what latents it sees, unless told otherwise
NAMES = {"box": "numbers", "discrete": "choices"}  # of actions
FLAGS = {"features": "--features or --model", "hidden": "--hidden", "latent": "--dataset", "memory": "--model", "units": "--units", "width": "--width"}
BATCH, RATE = 256, 1e-3  # defaults: steps, and AdamW's learning rate
HORIZONS = {"bc": 24, "dagger": 24, "ditto": 50}  # default steps of a dream, by --method
AVERAGE = {"model": 500, "ditto": 100}  # training steps that weights are averaged over: of --model, and in ditto's dream
DRIVER = "driver.tar"  # of dagger in the simulator: the clone that drives in this epoch
MEANT = {  # where alone flags mean something: what it takes, whether it is so, the flags
    "--model": (lambda args: args.model, ("units", "width", "sequence", "shift")),
    "--method dagger or ditto": (lambda args: args.method != "bc", ("dream_epochs",)),
    "--method ditto": (lambda args: args.method == "ditto", ("updates", "dream_rate", "spread", "anchor")),
    "--method dagger": (lambda args: args.method == "dagger", ("passes",)),
    "--method dagger --world simulator": (lambda args: args.method == "dagger" and args.world == "simulator", ("rollouts",)),
    "--method dagger, or for --teacher": (lambda args: args.method == "dagger" or args.teacher, ("world",)),
    "cloning without --teacher": (lambda args: not args.teacher, ("dataset", "sequence", "epochs", "loss", "action_noise", "label_smoothing", "anneal", "shift", "method",
                                                                  "evaluate_every", "n_samples", "max_workers", "dreams")),
}


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    add_training(p)
    p.add_argument("--dataset", type=Path, nargs="+", help="folders written by stage 1 (default: those M was trained on)")
    p.add_argument("--features", choices=LATENT_FEATURES, help="what the clone sees: z alone, or z and h (default: zh)")
    p.add_argument("--hidden", type=natural, help=f"width of a hidden layer; 0 for the linear head evolution uses (default: 0, with --teacher {lesson.SIZES['hidden']})")
    p.add_argument("--model", choices=MEMORIES, help="clone frames themselves, without V and M: convolutions and this memory (mlp: none)")
    p.add_argument("--units", type=positive, help=f"of the memory of --model (default: {lesson.SIZES['units']})")
    p.add_argument("--width", type=positive, help=f"channels of the first convolution of --model; the others have twice as many (default: {lesson.SIZES['width']})")
    p.add_argument("--sequence", type=positive, default=32, help="frames that --model is trained to look back through")
    p.add_argument("--epochs", type=positive, default=30, help="of cloning; more than before goes on")
    p.add_argument("--batch-size", type=positive, help=f"steps; of --model in whole sequences (default: {BATCH}, with --teacher {lesson.BATCH})")
    p.add_argument("--loss", choices=LOSSES, default="squared", help="of actions that are numbers: squared error, or the likelihood of a normal distribution, "
                   "whose spread is learnt for each of an action's components")
    p.add_argument("--action-noise", type=natural_float, default=0.0,
                   help="of actions that are numbers: spread of noise on the expert's, drawn anew each time, in an action's typical size")
    p.add_argument("--label-smoothing", type=share, default=0.0, help="of actions that are choices: the share of the expert's that goes to all alike")
    p.add_argument("--learning-rate", type=learning_rate, help=f"AdamW's (default: {RATE:g}, with --teacher {lesson.RATES[1]:g} for numbers)")
    p.add_argument("--anneal", action="store_true", help="let the learning rate fall to nothing, along a half cosine, by the last of --epochs, and "
                   "again while --method dagger goes on, by the last of --dream-epochs")
    p.add_argument("--weight-decay", type=natural_float, default=1e-2, help="AdamW's")
    p.add_argument("--average", type=positive, help="training steps over which the weights that drive are averaged; 1 for the last ones as they are "
                   f"(default: with --model {AVERAGE['model']}, with --teacher {lesson.AVERAGE}, while ditto dreams {AVERAGE['ditto']}, otherwise 1)")
    p.add_argument("--shift", type=natural, default=0, help="pixels by which frames of --model are shifted at most while it learns, elsewhere in each sequence")
    p.add_argument("--evaluate-every", type=positive, default=5, help="epochs between two scores in the simulator; the last epoch is always scored")
    p.add_argument("--n-samples", type=positive, default=8, help="episodes of such a score")
    p.add_argument("--max-workers", type=positive, default=os.cpu_count(), help="processes that drive the simulator")
    dreaming = p.add_argument_group("in the dream, after cloning")
    dreaming.add_argument("--method", choices=METHODS, default="bc", help="bc: nothing more. dagger: the clone drifts off on its own, what the expert would do there "
                          "is added, and all is cloned again. ditto: reinforcement learning in the dream, rewarded for seeing what the expert saw")
    dreaming.add_argument("--dream-epochs", type=positive, default=20, help="of dagger or ditto, after --epochs")
    dreaming.add_argument("--horizon", type=positive, help="steps of a dream, which begins where an expert was "
                          f"(default: {HORIZONS['bc']}, of ditto {HORIZONS['ditto']}, with --teacher {DREAM_STEPS})")
    dreaming.add_argument("--dreams", type=positive, default=256, help="at once")
    dreaming.add_argument("--temperature", type=natural_float, default=0.0, help="of the dream")
    dreaming.add_argument("--updates", type=positive, default=40, help="ditto: of actor and critic in an epoch")
    dreaming.add_argument("--dream-rate", type=learning_rate, default=1e-4, help="ditto: learning rate of actor and critic")
    dreaming.add_argument("--spread", type=positive_float, default=0.2, help="ditto: of the pushes that actions are explored with, in an action's typical size")
    dreaming.add_argument("--anchor", type=natural_float, default=100.0, help="ditto: weight of the loss of cloning beside the return; 0, as in the paper, for none")
    dreaming.add_argument("--world", choices=("dream", "simulator"),
                          help="dagger: drift in the dream, where the expert of the most similar recorded moment is asked, or in the simulator, where its expert is "
                               "(default: the dream). --teacher: where to teach (default: the simulator)")
    dreaming.add_argument("--passes", type=positive, default=5, help="dagger: over all steps there are, in each epoch")
    dreaming.add_argument("--rollouts", type=positive, default=4, help="dagger in the simulator: episodes the clone drives in an epoch, "
                          "disturbed like who was recorded")
    lesson.add_flags(p.add_argument_group("by a teacher, in the browser"))
    args = p.parse_args()
    taught = lesson.add_flags(parser("")).parse_args([])
    for what, (so, flags) in (MEANT | {"--teacher": (lambda args: args.teacher, vars(taught))}).items():
        idle = None if so(args) else next((flag for flag in flags if getattr(args, flag) != p.get_default(flag)), None)
        if idle:
            p.error(f"--{idle.replace('_', '-')} is for {what}: leave it away, or give that")
    if not args.teacher:
        args.batch_size, args.learning_rate = args.batch_size or BATCH, args.learning_rate or RATE
        args.horizon, args.world = args.horizon or HORIZONS[args.method], args.world or "dream"
    return args


def main() -> None:
    args = parse_args()
    if args.teacher:
        lesson.teach(args, STAGE)
        return
    datasets = open_datasets(args.dataset) if args.dataset else None
    numbers = datasets and len(world_of(datasets[0])["image_shape"]) == 1
    best = clone_frames(args, datasets) if args.model else clone_numbers(args, datasets) if numbers else clone_latents(args, datasets)
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
        vars(args).update(settled(args, SIZES, state and state["config"]))
        dreams = Dreams(args.logdir, vae, saved["digest"], mdrnn, datasets, Setting(args.horizon, args.dreams, args.temperature, args.seed))
        steps = {split: latents.steps(args.batch_size) for split, latents in dreams.recorded.items()}
        config = ControllerConfig(mdrnn.config.latent, mdrnn.config.hidden, args.features, args.hidden, world["action_space"])
        cloning = Cloning(args, folder, asdict(config), datasets, steps, world, parents, dreams, state)
        with track(args, folder):
            cloning.run()
            cloning.report()
    return cloning.best


def clone_numbers(args: argparse.Namespace, datasets: list[Dataset]) -> float:
    """Clone what the world's numbers say; returns the best score in the simulator."""
    require_validation(datasets)
    world = world_of(datasets[0])
    if args.features:
        raise UserError(f"--features {args.features} is for latents, and {datasets[0].root} holds numbers, which the clone sees as they are: leave --features away")
    if args.method != "bc":
        raise UserError(f"--method {args.method} dreams, and {datasets[0].root} holds numbers, of which there is no V and no M: leave --method away")
    with checkpoint.stage_folder(args.logdir, "bc") as folder:
        state = checkpoint.resume(args.logdir, "bc", {}, args.noreload)
        vars(args).update(settled(args, SIZES, state and state["config"]))
        scale = state.get("scale") if state else None
        steps = {"train": NumberSteps(datasets, "train", args.batch_size, args.seed, scale)}
        steps["val"] = NumberSteps(datasets, "val", args.batch_size, args.seed, steps["train"].scale())
        config = ControllerConfig(world["image_shape"][0], 0, "state", args.hidden, world["action_space"])
        cloning = Cloning(args, folder, asdict(config), datasets, steps, world, {}, None, state)
        with track(args, folder):
            cloning.run()
    return cloning.best


def clone_frames(args: argparse.Namespace, datasets: list[Dataset] | None) -> float:
    """Clone frames -> action; returns the best score in the simulator."""
    if not datasets:
        raise UserError(f"--model {args.model} learns from frames: say which, with --dataset")
    require_validation(datasets)
    world = world_of(datasets[0])
    if len(world["image_shape"]) == 1:
        raise UserError(f"--model {args.model} learns from frames, and {datasets[0].root} holds {world['image_shape'][0]} numbers a step: leave --model away")
    for flag, given in (("--features", args.features), ("--hidden", args.hidden), ("--method ditto", args.method == "ditto"),
                        ("--world dream", args.method == "dagger" and args.world == "dream")):
        if given:
            raise UserError(f"{flag} is for clones on latents, and --model {args.model} sees frames: leave one of the two away"
                            + (", or give --world simulator" if flag == "--world dream" else ""))
    with checkpoint.stage_folder(args.logdir, "bc") as folder:
        state = checkpoint.resume(args.logdir, "bc", {}, args.noreload)
        vars(args).update(settled(args, SIZES, state and state["config"]))
        lanes = max(1, args.batch_size // args.sequence)
        steps = {split: FrameSequences(datasets, split, args.sequence, lanes, args.shift if split == "train" else 0) for split in ("train", "val")}
        config = PolicyConfig(tuple(world["image_shape"]), args.model, args.units, args.width, world["action_space"])
        cloning = Cloning(args, folder, asdict(config), datasets, steps, world, {}, None, state)
        with track(args, folder):
            cloning.run()
    return cloning.best


class Cloning:
    """A run of this stage, from the beginning or from the content of checkpoint.tar.

    Attributes:
        model: the head            cloned: parameters of the one that drove best before it dreamt, and its score
        disturbed: the most that who drove in the datasets was (stage 1's --action-noise)
        drifted: z (N, Z), h (N, R) and action (N, A) that dagger has added in the dream, in half precision
        history: rows of metrics.csv           best: highest mean return so far
    """

    def __init__(self, args: argparse.Namespace, folder: Path, config: dict, datasets: Sequence[Dataset],
                 data: dict[str, Steps] | dict[str, NumberSteps] | dict[str, FrameSequences], world: dict, parents: dict[str, str], dreams: Dreams | None,
                 state: dict | None) -> None:
        for split, steps in data.items():
            if not len(steps):
                raise UserError(f'{", ".join(str(d.root) for d in datasets)} has no expert actions in its "{split}" split: '
                                "record episodes with `--policy expert`, or a mixture that has enough of it")
        for flag, given, kind in (("--loss", args.loss != LOSSES[0], "box"), ("--action-noise", args.action_noise, "box"),
                                  ("--label-smoothing", args.label_smoothing, "discrete")):
            if given and config["action_space"]["type"] != kind:
                raise UserError(f"{flag} is for actions that are {NAMES[kind]}, and those of {world['env']} are {NAMES[config['action_space']['type']]}: leave it away")
        self.args, self.folder, self.data, self.world, self.parents, self.dreams = args, folder, data, world, parents, dreams
        self.disturbed = max(dataset.manifest.action_noise for dataset in datasets)
        seed_everything(args.seed, STAGE)
        self.model = make_head(config).to(device(args.device))
        self.criterion = CloneLoss(config["action_space"], args.loss, args.label_smoothing, args.action_noise).to(device(args.device))
        self.run_epoch = run_sequences if isinstance(self.model, Policy) else run_epoch
        self.optimizer, self.ditto = self._optimizer(), None
        self.average = self._averaged()
        self.history, self.best, self.cloned, self.drifted = [], -math.inf, None, None
        if state:
            self._resume(state)
        write_args(folder, args)

    def _optimizer(self) -> torch.optim.Optimizer:
        groups = [{"params": list(self.model.parameters())}, {"params": list(self.criterion.parameters()), "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, self.args.learning_rate, weight_decay=self.args.weight_decay)

    def _averaged(self) -> AveragedModel | None:
        steps = self.args.average or AVERAGE.get("ditto" if self.ditto else "model" if self.args.model else None, 1)
        return averaged(self.model, steps) if steps > 1 else None

    @property
    def driving(self) -> Controller | Policy:
        """The head that drives: what is trained, or the average of its weights."""
        return self.average.module if self.average else self.model

    def _resume(self, state: dict) -> None:
        args = self.args
        if "learner" in state:
            raise UserError(f"{self.folder / 'checkpoint.tar'} is of a clone that was taught: go on with --teacher; or retrain from its trials in another --logdir with "
                            f"--dataset {self.folder / 'taught'}")
        if "cloned" not in state:
            raise UserError(f"{self.folder / 'checkpoint.tar'} was written by an earlier version of trainbc.py: start afresh with --noreload, or go on with that version")
        checkpoint.check_config(state, self.model.config_dict(), FLAGS)
        checkpoint.check_config({"config": state["settings"]}, self._settings(), {"loss": "--loss"})
        self.history, self.best, self.cloned, self.drifted = (state[name] for name in ("history", "best", "cloned", "drifted"))
        dreamt = [row["method"] for row in self.history if row["method"] != "bc"]
        if dreamt and (args.method != dreamt[0] or args.epochs != len(self.history) - len(dreamt)):
            raise UserError(f"the run to go on with cloned for {len(self.history) - len(dreamt)} epochs and dreamt by {dreamt[0]} since: "
                            f"give --epochs {len(self.history) - len(dreamt)} --method {dreamt[0]}, or start afresh with --noreload")
        self.model.load_state_dict(state["model"])
        self.criterion.load_state_dict(state["criterion"])
        if dreamt and args.method == "ditto":
            self._start_ditto()
            self.ditto.load_state_dict(state["ditto"])
        else:
            self.optimizer.load_state_dict(state["optimizer"])
            self.average = self._averaged()
        if self.average and state.get("average"):
            self.average.load_state_dict(state["average"])

    def run(self) -> None:
        """Clone up to epoch --epochs, then dream for --dream-epochs more, as far as that has not been done."""
        args = self.args
        last = args.epochs + (args.dream_epochs if args.method != "bc" else 0)
        driver = Driver("agent", args.logdir, self.model.config_dict())
        with Evaluator(fast(self.world["env"]), driver, args.max_workers, device(args.device), self.world.get("options")) as self.evaluator:
            for method, first, end in (("bc", 0, args.epochs), (args.method, args.epochs, last)):
                begun = max(first, len(self.history))
                if begun >= end:
                    continue
                if begun == first and method != "bc":
                    self._enter_dream()
                pace = {"ditto": args.updates * args.dreams * args.horizon, "dagger": args.passes * len(self.data["train"])}.get(method, len(self.data["train"]))
                pace += len(self.data["val"])
                with tqdm(total=(end - first) * pace, initial=(begun - first) * pace, desc=method, unit="step", unit_scale=True) as bar:
                    for epoch in range(begun + 1, end + 1):
                        bar.set_description(f"epoch {epoch} of {last} ({method})")
                        self._epoch(method, epoch, epoch == end, bar)
        rates = [("accuracy", "val_accuracy")] if "accuracy" in self.history[0] else []
        curves(self.folder / "loss.png", self.history, "epoch", [("loss", "val_loss"), *rates, ("return_mean",)], "the clone")

    def _enter_dream(self) -> None:
        """Take the clone that drove best, which dreams begin with."""
        self.model.load_state_dict(self.cloned["model"])
        self.optimizer, self.average = self._optimizer(), self._averaged()
        for leftover in self.folder.glob("dagger_*"):  # of an earlier run, or of an epoch that is done again
            shutil.rmtree(leftover)
        if self.args.method == "ditto":
            self._start_ditto()

    def _start_ditto(self) -> None:
        m = self.dreams.mdrnn.config
        self.ditto = Ditto(self.model, m.latent, m.hidden, self.args.dream_rate, self.args.spread, self.world["dt"], self.args.anchor)
        self.average = self._averaged()

    def _epoch(self, method: str, epoch: int, final: bool, bar: tqdm) -> None:
        rng = seed_everything(self.args.seed, STAGE, epoch)
        for group in self.optimizer.param_groups:  # a resumed optimizer brings the rate of its last epoch
            group["lr"] = self._rate(method, epoch)
        row = {"epoch": epoch, "method": method, **getattr(self, f"_{method}")(epoch, rng, bar)}
        row |= {f"val_{name}": value for name, value in self.run_epoch(self.driving, self.data["val"].batches(epoch, None), self.criterion, None, bar).items()}
        row |= {"return_mean": None, "return_std": None}
        if epoch % self.args.evaluate_every == 0 or final:
            row |= self._score(epoch, method)
        self.history.append(row)
        tqdm.write(line(row))
        checkpoint.save(self.folder / "checkpoint.tar", "bc", **self._common(epoch), model=self.model.state_dict(), history=self.history,
                        average=self.average and self.average.state_dict(), optimizer=self.optimizer.state_dict(), criterion=self.criterion.state_dict(),
                        settings=self._settings(), scale=self.data["train"].scale(), cloned=self.cloned, drifted=self.drifted,
                        ditto=self.ditto and self.ditto.state_dict())
        write_csv(self.folder / "metrics.csv", self.history)

    def _rate(self, method: str, epoch: int) -> float:
        """The learning rate of an epoch (1 upwards) of cloning, or of dagger, in which it starts anew."""
        args = self.args
        done, of = (epoch - 1, args.epochs) if method == "bc" else (epoch - 1 - args.epochs, args.dream_epochs)
        return args.learning_rate * (share_left(done, of) if args.anneal else 1.0)

    def _settings(self) -> dict:
        """What may not change when a run goes on, beside the head's sizes."""
        return {"loss": self.args.loss}

    def _common(self, epoch: int) -> dict:
        return {"config": self.model.config_dict(), "parents": self.parents, "world": self.world, "epoch": epoch, "best": self.best}

    def _bc(self, epoch: int, rng: np.random.Generator, bar: tqdm) -> dict:
        return self.run_epoch(self.model, self.data["train"].batches(epoch, rng), self.criterion, self.optimizer, bar, self.average)

    def _dagger(self, epoch: int, rng: np.random.Generator, bar: tqdm) -> dict:
        if self.args.world == "simulator":
            steps = self._drive(epoch)
        else:
            self.drifted = self.dreams.drift(self.driving, self.drifted, rng)
            steps = self.data["train"].joined(*(self.drifted[name].float() for name in ("z", "h", "action")))
        for _ in range(self.args.passes):
            learnt = self.run_epoch(self.model, steps.batches(epoch, rng), self.criterion, self.optimizer, bar, self.average)
        return {**learnt, "steps": len(steps)}

    def _drive(self, epoch: int) -> Steps | FrameSequences:
        """Let the clone drive in the simulator, whose expert says what it would do; returns all steps there are."""
        args = self.args
        checkpoint.save(self.folder / DRIVER, "bc", **self._common(epoch), model=self.data["train"].deployed(self.driving).state_dict())
        folders = [self.folder / f"dagger_{k:03d}" for k in range(epoch - args.epochs)]
        order = generation_script.parse_args(["--env", fast(self.world["env"]), "--policy", "clone", "--logdir", str(args.logdir), "--checkpoint", DRIVER,
                                              "--rootdir", str(folders[-1]), "--rollouts", str(args.rollouts), "--action-noise", str(self.disturbed),
                                              "--threads", str(args.max_workers), "--max-steps", str(self.world["max_steps"]),
                                              "--seed", str((args.seed + epoch) % (RANGE // STRIDE))])
        vars(order).update(self.world.get("options", {}))
        generation_script.generate(order)
        driven = open_datasets(folders)
        if not self.dreams:
            known = self.data["train"]
            return FrameSequences([*known.datasets, *driven], "train", known.length, known.lanes, known.shift)
        latents = self.dreams.latents(driven, "train")
        known = latents.known()
        return self.data["train"].joined(latents.mu[known], latents.h[known], latents.action[known], latents.logsigma[known])

    def _ditto(self, epoch: int, rng: np.random.Generator, bar: tqdm) -> dict:
        learnt = self.dreams.imitate(self.ditto, self.args.updates, rng, bar, self.average)
        if not math.isfinite(learnt["loss"]):
            raise UserError(f"the actor's loss became {learnt['loss']} in epoch {epoch}: lower --dream-rate and run again")
        return learnt

    def _score(self, epoch: int, method: str) -> dict:
        """Drive in the simulator and be judged in the dream; keeps best.tar."""
        args, deployed = self.args, self.data["train"].deployed(self.driving)
        parameters = parameter_vector(deployed).cpu()
        returns = np.array(self.evaluator.returns([(parameters, seed) for seed in selection_seeds(args.seed, args.n_samples)]))
        row = {"return_mean": float(returns.mean()), "return_std": float(returns.std())}
        if self.dreams:
            judged = self.dreams.judge(self.dreams.act(self.driving))
            row |= {"likeness": judged.likeness, "dream_reward": judged.reward}
        if method == "bc" and (self.cloned is None or row["return_mean"] >= self.cloned["score"]):  # of equals the longer cloned
            self.cloned = {"model": {name: value.clone() for name, value in self.driving.state_dict().items()}, "score": row["return_mean"]}
        if row["return_mean"] > self.best:
            self.best = row["return_mean"]
            checkpoint.save(self.folder / "best.tar", "bc", **self._common(epoch), model=deployed.state_dict())
            tqdm.write(f"best.tar is now of epoch {epoch} ({method})")
        return row

    def report(self) -> None:
        """Pictures of what has become of it."""
        args, dreams, space = self.args, self.dreams, self.world["action_space"]
        model = Controller(self.model.config).to(dreams.where)
        model.load_state_dict(checkpoint.load_parent(args.logdir, "bc")["model"])
        drivers = {"clone": dreams.act(model)}
        if args.method != "bc":
            before = Controller(self.model.config).to(dreams.where)
            before.load_state_dict(self.cloned["model"])
            drivers[f"clone before {args.method}"] = dreams.act(before)
        drivers["random"] = random_action(space, dreams.where, args.seed)
        drivers["what was really done"] = None
        judged = {name: dreams.judge(act) for name, act in drivers.items()}
        print("likeness to the expert in the dream: " + ", ".join(f"{name} {found.likeness:.3f}" for name, found in judged.items()))
        plot_distances(self.folder / "distance.png", {name: found.distance for name, found in judged.items()}, self.world["dt"])
        plot_relation(self.folder / "dream-and-reality.png", self.history)
        film(self.folder, dreams.vae, dreams.mdrnn, dreams.experts["val"], dreams.datasets, drivers["clone"], space, self.world["dt"], args.temperature, args.seed)


def share_left(done: int, of: int) -> float:
    """What is left of the learning rate after so many epochs, along a half cosine (Loshchilov and Hutter 2017, arXiv 1608.03983, eq. 5 without restarts)."""
    return (1 + math.cos(math.pi * done / of)) / 2


if __name__ == "__main__":
    run(main)
