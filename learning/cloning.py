"""A run of stage 4b, trainbc.py: a head that is trained by one method after another, scored in the simulator, kept, and
resumed. The methods are in learning/cloning_methods.py."""

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from dreamdrive.data.loaders import check_world, origin_of
from dreamdrive.data.shards import Dataset
from dreamdrive.driving.evaluation import DriverSpec, Evaluator
from dreamdrive.envs import fast
from dreamdrive.learning.cloning_head import HeadTraining
from dreamdrive.learning.cloning_methods import Epoch, Method, Recorded, methods, require_expert
from dreamdrive.learning.cloning_settings import CloneSettings
from dreamdrive.learning.unfinished import Unfinished
from dreamdrive.models.controller import parameter_vector
from dreamdrive.utils import checkpoint
from dreamdrive.utils.device import device
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.metrics import line, write_csv
from dreamdrive.utils.plots import curves
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.resumed import load_random_state
from dreamdrive.utils.seeds import seed_everything, selection_seeds
from dreamdrive.utils.spaces import ActionSpace
from dreamdrive.utils.words import quoted

STAGE = 5
# files have all of them, whatever the method
OF_METHODS: dict[str, Any] = {"cloned": None, "drifted": None, "ditto": None}
NAMES = {False: "numbers", True: "choices"}  # of actions, by whether they are discrete
FLAGS = {
    "features": "--features or --model",
    "hidden": "--hidden",
    "latent": "--dataset",
    "memory": "--model",
    "units": "--units",
    "width": "--width",
}


class Cloning:
    """A run of the stage, from the beginning or from the content of checkpoint.tar.

    Attributes:
        head: what is trained        methods: what by, one after another
        seeds: the simulator's, of the episodes that epochs are chosen by
        history: rows of metrics.csv     best: highest mean return so far     init: digest of --init, or None
        generator: state of torch's after the last epoch, from which the critic's first weights are drawn
    """

    def __init__(
        self,
        args: CloneSettings,
        folder: Path,
        config: dict,
        recorded: Recorded,
        state: dict | None,
        begun: dict | None = None,
    ) -> None:
        """`begun`: the content of --init, of the same `config`."""
        check_settings(args, recorded)
        self.args, self.folder, self.recorded = args, folder, recorded
        self.init: str | None = begun["digest"] if begun else None
        self.seeds = selection_seeds(args.seed, args.n_samples)  # before anything is written, in case it refuses
        seed_everything(args.seed, STAGE)
        self.head = HeadTraining(config, args, begun)
        self.methods = methods(args, recorded, self.head, folder)
        self.history: list[dict] = []
        self.best, self.generator = -math.inf, cast(torch.Tensor | None, None)
        if state:
            self._resume(state)
        args.write(folder)

    def _resume(self, state: dict) -> None:
        config = self.head.model.config_dict()
        check_resumed(state, self.folder / "checkpoint.tar", self.args, self.init, config, self.recorded.datasets[0])
        self.history, self.best = state["history"], state["best"]
        self.generator = state.get("luck")  # a version before ours did not have it
        begun = next(method for method in self.methods if method.name == self.history[-1]["method"])
        self.head.load_state_dict(state, begun.averaged_steps)
        for method in self.methods:
            method.resume(state)

    def run(self) -> None:
        """Train by each method in turn, as far as that has not been done."""
        args, world = self.args, self.recorded.world
        driver = DriverSpec("agent", args.logdir, self.head.model.config_dict())
        with Evaluator(
            fast(world["env"]), driver, args.max_workers, device(args.device), world.get("options"), args.cluster
        ) as self.evaluator:
            self._unfinished = Unfinished("bc", CloningEpoch(self), args, self.evaluator)
            self.seeds = self.evaluator.different(self.seeds)
            if self.init and not self.history:
                self._score_first()
            for method in (method for method in self.methods if method.epochs):
                if len(self.history) < method.end:
                    self._train(method)
                else:
                    self._score_late(method)
        show(self.folder, self.history)

    def _train(self, method: Method) -> None:
        """The epochs of a method that are left."""
        begun, last = len(self.history), self.methods[-1].end
        if begun == method.first:
            if self.generator is not None:
                load_random_state(self.generator)
            method.begin()
        pace = method.pace + len(self.recorded.val)
        done = (begun - method.first) * pace
        with Bar(total=method.epochs * pace, initial=done, desc=method.name, unit="step", unit_scale=True) as bar:
            for number in range(begun + 1, method.end + 1):
                bar.set_description(f"epoch {number} of {last} ({method.name})")
                self._epoch(method, number, bar)

    def _epoch(self, method: Method, number: int, bar: Bar) -> None:
        args = self.args
        rng, done = seed_everything(args.seed, STAGE, number), number - 1 - method.first
        self.head.set_rate(args.learning_rate * (share_left(done, method.epochs) if args.anneal else 1.0))
        self.method = method
        with self._unfinished.epoch() as begun:
            learnt = method.learn(Epoch(number, rng, bar, self.about(number), begun))
            measured = self.head.measure(self.recorded.val.batches(number, None), bar)
            on_val = {f"val_{name}": value for name, value in measured.items()}
            row = {"epoch": number, "method": method.name, **learnt, **on_val, "return_mean": None, "return_std": None}
            if number % args.evaluate_every == 0 or number == method.end:
                row |= self._score(method, number)
            self.history.append(row)
            self.generator = torch.get_rng_state()
            self._keep()

    def _score_first(self) -> None:
        """Score the clone of --init, which may be better than all that comes of it."""
        clone = self.methods[0]
        clone.begin()
        Bar.write(line({"epoch": 0, "method": clone.name, **self._score(clone, 0)}))

    def _score_late(self, method: Method) -> None:
        """Score the epoch that a run was stopped after, now that no more of `method` are to follow."""
        if self.history[-1]["method"] == method.name and self.history[-1]["return_mean"] is None:
            self.history[-1] |= self._score(method, len(self.history))
            self._keep()

    def _score(self, method: Method, number: int) -> dict[str, float]:
        """Drive in the simulator and be judged in the dream; keeps best.tar."""
        deployed, dreams = self.recorded.train.deployed(self.head.driving), self.recorded.dreams
        parameters = parameter_vector(deployed).cpu()
        returns = np.array(self.evaluator.returns([(parameters, seed) for seed in self.seeds]))
        mean = float(returns.mean())
        row = {"return_mean": mean, "return_std": float(returns.std())}
        if dreams:
            judged = dreams.judge(dreams.act(self.head.driving))
            row |= {"likeness": judged.likeness, "dream_reward": judged.reward}
        method.scored(mean)
        if mean > self.best:
            self.best = mean
            checkpoint.save(self.folder / "best.tar", "bc", **self.about(number), model=deployed.state_dict())
            Bar.write(f"best.tar is now of epoch {number} ({method.name})")
        return row

    def _keep(self) -> None:
        """Write what has been done."""
        Bar.write(line(self.history[-1]))
        of_methods = dict(OF_METHODS)
        for method in self.methods:
            of_methods |= method.state()
        checkpoint.save(
            self.folder / "checkpoint.tar",
            "bc",
            **self.about(len(self.history)),
            history=self.history,
            **self.head.state_dict(),
            settings=unchanging(self.args, self.init),
            scale=self.recorded.train.scale(),
            **of_methods,
            luck=self.generator,  # its name in files of every version
        )
        write_csv(self.folder / "metrics.csv", self.history)

    def about(self, epoch: int) -> dict:
        """What a checkpoint says of the clone beside its weights."""
        return {
            "config": self.head.model.config_dict(),
            "parents": self.recorded.parents,
            "world": self.recorded.world,
            **origin_of(self.recorded.datasets),
            "epoch": epoch,
            "best": self.best,
            **({"init": self.init} if self.init else {}),
        }


class CloningEpoch:
    """An epoch of a run, as learning/unfinished.py keeps it."""

    def __init__(self, run: Cloning) -> None:
        self.run, self.folder, self.history = run, run.folder, run.history

    @property
    def best(self) -> float:
        return self.run.best

    def described(self) -> dict:
        return {**self.run.about(len(self.history)), "model": self.run.head.model.state_dict()}

    def learnt(self) -> dict:
        return {**self.run.head.state_dict(), "ditto": self.run.method.state().get("ditto")}

    def learn_on(self, learnt: dict) -> None:
        self.run.head.load_state_dict(learnt, self.run.method.averaged_steps)
        if learnt["ditto"]:
            self.run.method.resume(learnt)


def show(folder: Path, history: list[dict]) -> None:
    """metrics.csv and loss.png, also of what a killed process had no time left to show."""
    write_csv(folder / "metrics.csv", history)
    rates = [("accuracy", "val_accuracy")] if "accuracy" in history[0] else []
    curves(folder / "loss.png", history, "epoch", [("loss", "val_loss"), *rates, ("return_mean",)], "the clone")


def check_settings(args: CloneSettings, recorded: Recorded) -> None:
    """UserError where what was recorded is not enough, or of another kind, for what is asked."""
    for split, steps in (("train", recorded.train), ("val", recorded.val)):
        if not len(steps):
            raise UserError(
                f'{", ".join(str(d.root) for d in recorded.datasets)} has no expert actions in its "{split}" split: '
                "record episodes with `--policy expert`, or a mixture that has enough of it"
            )
    discrete = ActionSpace.from_dict(recorded.world["action_space"]).discrete
    for flag, given, choices in (
        ("--loss", args.loss != "squared", False),
        ("--action-noise", args.action_noise, False),
        ("--label-smoothing", args.label_smoothing, True),
    ):
        if given and discrete != choices:
            raise UserError(
                f"{flag} is for actions that are {NAMES[choices]}, and those of {recorded.world['env']} are "
                f"{NAMES[discrete]}: leave it away"
            )
    if args.world == "simulator":
        require_expert(recorded.world)


def unchanging(args: CloneSettings, init: str | None) -> dict:
    """What may not change when a run is resumed, beside the head's sizes: loss, seed, the world in which it drifts, and
    the digest of the clone that it began with."""
    return {"loss": args.loss, "seed": args.seed, "world": args.world, **({"init": init} if init else {})}


def check_resumed(
    state: dict, source: Path, args: CloneSettings, init: str | None, config: dict, dataset: Dataset
) -> None:
    """UserError unless a head of this `config`, begun with the clone `init`, can be trained on from `state`, the
    content of `source`."""
    if "learner" in state:
        raise UserError(
            f"{source} is of a clone that was taught: resume with --teacher; or retrain "
            f"from its trials with another --name or --logdir and --dataset {quoted(source.with_name('taught'))}"
        )
    if "cloned" not in state:
        raise UserError(
            f"{source} was written by an earlier version of trainbc.py: start afresh with "
            "--noreload, or resume with that version"
        )
    check_world(dataset, state["world"], str(source))
    checkpoint.check_config(state, config, FLAGS)
    checkpoint.check_config({"config": state["settings"]}, unchanging(args, init), {"loss": "--loss"})
    check_init(state["settings"].get("init"), init, source)
    began = unchanging(args, init) | state["settings"]  # a version before ours had fewer
    if began["seed"] != args.seed:
        raise UserError(
            f"the run to resume began with --seed {began['seed']}, and now it is {args.seed}: "
            f"give --seed {began['seed']}, start afresh with --noreload, or use another --logdir"
        )
    check_progress([row["method"] for row in state["history"]], began["world"], args)


def check_init(began: str | None, now: str | None, source: Path) -> None:
    """UserError unless a run goes on with the clone that it began with, both by their digests."""
    if began == now:
        return
    if began and now:
        said = "began with another clone than --init is now: give that one"
    else:
        said = "began with a clone of --init: give that" if began else "did not begin with --init: leave it away"
    raise UserError(f"{source} {said}, use another --name, or start afresh with --noreload")


def check_progress(done: list[str], world: str, args: CloneSettings) -> None:
    """UserError unless `args` continue what was done, the method of each epoch, dagger in this `world`."""
    later = [method for method in done if method != "bc"]
    cloned = len(done) - len(later)
    if later and (args.method, args.cloned, args.world) != (later[0], cloned, world):
        epochs = f"--epochs {cloned} " if cloned else ""
        raise UserError(
            f"the run to resume cloned for {cloned} epochs, and since then by --method {later[0]} in the {world}: "
            f"give {epochs}--method {later[0]}{' --world simulator' if world == 'simulator' else ''}, "
            "start afresh with --noreload, or use another --name"
        )
    if not later and args.method != "bc" and cloned > args.cloned:
        raise UserError(
            f"the run to resume cloned for {cloned} epochs, and --method {args.method} was to begin after "
            f"{args.cloned}: give --epochs {cloned} to begin with the best of them, or start afresh with --noreload"
        )


def share_left(done: int, of: int) -> float:
    """What is left of the learning rate after so many epochs, along a half cosine (Loshchilov and Hutter 2017, arXiv
    1608.03983, eq. 5 without restarts)."""
    return (1 + math.cos(math.pi * done / of)) / 2
