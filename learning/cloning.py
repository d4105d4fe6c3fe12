"""A run of stage 4b, trainbc.py: cloning, then dagger or ditto; scored in the simulator, kept, and resumed."""

import contextlib
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from dreamdrive.data.loaders import check_world, open_datasets
from dreamdrive.data.sequences import FrameSequences
from dreamdrive.data.shards import Dataset
from dreamdrive.data.steps import NumberSteps, Steps
from dreamdrive.driving.agent import make_head
from dreamdrive.driving.evaluation import DriverSpec, Evaluator
from dreamdrive.driving.recording import RecordingSettings, generate
from dreamdrive.envs import fast, make
from dreamdrive.learning.cloning_settings import AVERAGE, CloneSettings, DaggerSettings, DittoSettings
from dreamdrive.learning.ditto import Ditto
from dreamdrive.learning.dream_report import film, plot_distances, plot_relation
from dreamdrive.learning.imagination import Dreams, random_action
from dreamdrive.models.cloning import CloneLoss, averaged, run_epoch, run_sequences
from dreamdrive.models.controller import Controller, parameter_vector
from dreamdrive.models.policy import Policy
from dreamdrive.models.world_model import latents_at
from dreamdrive.utils import checkpoint
from dreamdrive.utils.device import device
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.metrics import line, write_csv
from dreamdrive.utils.plots import curves
from dreamdrive.utils.seeds import SEEDS, seed_everything, selection_seeds
from dreamdrive.utils.spaces import ActionSpace

STAGE = 5
NAMES = {False: "numbers", True: "choices"}  # of actions, by whether they are discrete
FLAGS = {
    "features": "--features or --model",
    "hidden": "--hidden",
    "latent": "--dataset",
    "memory": "--model",
    "units": "--units",
    "width": "--width",
}
DRIVER = "driver.tar"  # of dagger in the simulator: the clone that drives in this epoch


class Cloning:
    """A run of the stage, from the beginning or from the content of checkpoint.tar.

    Attributes:
        model: the head            cloned: parameters of the one that drove best before it dreamt, and its score
        seeds: the simulator's, of the episodes that epochs are chosen by
        disturbed: the most that the drivers of the datasets were (stage 1's --action-noise)
        drifted: z (N, Z), h (N, R) and action (N, A) that dagger has added in the dream, in half precision
        history: rows of metrics.csv           best: highest mean return so far
        generator: state of torch's after the last epoch; the critic's first weights are drawn from there, wherever a
            run was stopped
    """

    def __init__(
        self,
        args: CloneSettings,
        folder: Path,
        config: dict,
        datasets: Sequence[Dataset],
        data: dict[str, Steps] | dict[str, NumberSteps] | dict[str, FrameSequences],
        world: dict,
        parents: dict[str, str],
        dreams: Dreams | None,
        state: dict | None,
    ) -> None:
        for split, steps in data.items():
            if not len(steps):
                raise UserError(
                    f'{", ".join(str(d.root) for d in datasets)} has no expert actions in its "{split}" split: '
                    "record episodes with `--policy expert`, or a mixture that has enough of it"
                )
        discrete = ActionSpace.from_dict(config["action_space"]).discrete
        for flag, given, choices in (
            ("--loss", args.loss != "squared", False),
            ("--action-noise", args.action_noise, False),
            ("--label-smoothing", args.label_smoothing, True),
        ):
            if given and discrete != choices:
                raise UserError(
                    f"{flag} is for actions that are {NAMES[choices]}, and those of {world['env']} are "
                    f"{NAMES[discrete]}: leave it away"
                )
        if args.world == "simulator":
            require_expert(world)
        self.args, self.folder, self.data, self.world, self.parents, self.dreams = (
            args,
            folder,
            data,
            world,
            parents,
            dreams,
        )
        self.seeds = selection_seeds(args.seed, args.n_samples)
        self.disturbed = max(dataset.manifest.action_noise for dataset in datasets)
        seed_everything(args.seed, STAGE)
        self.model = make_head(config).to(device(args.device))
        self.criterion = CloneLoss(self.model.space, args.loss, args.label_smoothing, args.action_noise).to(
            device(args.device)
        )
        self.run_epoch = run_sequences if isinstance(self.model, Policy) else run_epoch
        self.optimizer, self.ditto = self._optimizer(), None
        self.average = self._averaged()
        self.history, self.best, self.cloned, self.drifted, self.generator = [], -math.inf, None, None, None
        if state:
            self._resume(state, datasets[0])
        args.write(folder)

    def _optimizer(self) -> torch.optim.Optimizer:
        groups = [
            {"params": list(self.model.parameters())},
            {"params": list(self.criterion.parameters()), "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, self.args.learning_rate, weight_decay=self.args.weight_decay)

    def _averaged(self) -> AveragedModel | None:
        steps = self.args.average or AVERAGE.get("ditto" if self.ditto else "model" if self.args.model else None, 1)
        return averaged(self.model, steps) if steps > 1 else None

    @property
    def driving(self) -> Controller | Policy:
        """The head that drives: what is trained, or the average of its weights."""
        return self.average.module if self.average else self.model

    def _resume(self, state: dict, dataset: Dataset) -> None:
        args = self.args
        if "learner" in state:
            raise UserError(
                f"{self.folder / 'checkpoint.tar'} is of a clone that was taught: resume with --teacher; or retrain "
                "from its trials in another --logdir with "
                f"--dataset {self.folder / 'taught'}"
            )
        if "cloned" not in state:
            raise UserError(
                f"{self.folder / 'checkpoint.tar'} was written by an earlier version of trainbc.py: start afresh with "
                "--noreload, or resume with that version"
            )
        check_world(dataset, state["world"], str(self.folder / "checkpoint.tar"))
        checkpoint.check_config(state, self.model.config_dict(), FLAGS)
        checkpoint.check_config({"config": state["settings"]}, self._settings(), {"loss": "--loss"})
        began = self._settings() | state["settings"]  # a version before ours had fewer
        if began["seed"] != args.seed:
            raise UserError(
                f"the run to resume began with --seed {began['seed']}, and now it is {args.seed}: "
                f"give --seed {began['seed']}, start afresh with --noreload, or use another --logdir"
            )
        self.history, self.best, self.cloned, self.drifted = (
            state[name] for name in ("history", "best", "cloned", "drifted")
        )
        self.generator = state.get("luck")  # a version before ours did not have it
        dreamt = [row["method"] for row in self.history if row["method"] != "bc"]
        cloned, world = len(self.history) - len(dreamt), began["world"]
        if dreamt and (args.method, args.epochs, args.world) != (dreamt[0], cloned, world):
            raise UserError(
                f"the run to resume cloned for {cloned} epochs, and since then by --method {dreamt[0]} in the "
                f"{world}: "
                f"give --epochs {cloned} --method {dreamt[0]}{' --world simulator' if world == 'simulator' else ''}, "
                "or start afresh with --noreload"
            )
        if not dreamt and args.method != "bc" and cloned > args.epochs:
            raise UserError(
                f"the run to resume cloned for {cloned} epochs, and --method {args.method} was to begin after "
                f"{args.epochs}: "
                f"give --epochs {cloned} to begin with the best of them, or start afresh with --noreload"
            )
        self.model.load_state_dict(state["model"])
        self.criterion.load_state_dict(state["criterion"])
        if dreamt and args.method == "ditto":
            self._start_ditto()
            self.ditto.load_state_dict(state["ditto"])
        else:
            self.optimizer.load_state_dict(state["optimizer"])
            self.optimizer.param_groups[0]["weight_decay"] = args.weight_decay
            self.average = self._averaged()
        if self.average and state.get("average"):
            self.average.load_state_dict(state["average"])

    def run(self) -> None:
        """Clone up to epoch --epochs, then dream for --dream-epochs more, as far as that has not been done."""
        args = self.args
        last = args.epochs + self._dream_epochs
        driver = DriverSpec("agent", args.logdir, self.model.config_dict())
        with Evaluator(
            fast(self.world["env"]), driver, args.max_workers, device(args.device), self.world.get("options")
        ) as self.evaluator:
            for method, first, end in (("bc", 0, args.epochs), (args.method, args.epochs, last)):
                begun = max(first, len(self.history))
                if begun >= end:
                    self._score_late(method)
                    continue
                if begun == first and method != "bc":
                    self._enter_dream()
                pace = self._pace(method) + len(self.data["val"])
                with tqdm(
                    total=(end - first) * pace,
                    initial=(begun - first) * pace,
                    desc=method,
                    unit="step",
                    unit_scale=True,
                ) as bar:
                    for epoch in range(begun + 1, end + 1):
                        bar.set_description(f"epoch {epoch} of {last} ({method})")
                        self._epoch(method, epoch, epoch == end, bar)
        rates = [("accuracy", "val_accuracy")] if "accuracy" in self.history[0] else []
        curves(
            self.folder / "loss.png",
            self.history,
            "epoch",
            [("loss", "val_loss"), *rates, ("return_mean",)],
            "the clone",
        )

    @property
    def _dream_epochs(self) -> int:
        return self.args.dream_epochs if isinstance(self.args, DaggerSettings | DittoSettings) else 0

    def _pace(self, method: str) -> int:
        """Steps that an epoch learns from."""
        args, recorded = self.args, len(self.data["train"])
        if method == "bc":
            return recorded
        return args.passes * recorded if method == "dagger" else args.updates * args.dreams * args.horizon

    def _enter_dream(self) -> None:
        """Take the clone that drove best, which dreams begin with."""
        self.model.load_state_dict(self.cloned["model"])
        self.optimizer, self.average = self._optimizer(), self._averaged()
        for leftover in self.folder.glob("dagger_*"):  # of an earlier run, or of an epoch that is done again
            shutil.rmtree(leftover)
        if self.generator is not None:
            torch.set_rng_state(self.generator)
        if self.args.method == "ditto":
            self._start_ditto()

    def _start_ditto(self) -> None:
        sizes, args = self.dreams.memory.config, self.args
        how = args.dream_rate, args.spread, self.world["dt"], args.anchor, self.criterion
        self.ditto = Ditto(self.model, sizes.latent, sizes.hidden, *how)
        self.average = self._averaged()

    def _epoch(self, method: str, epoch: int, final: bool, bar: tqdm) -> None:
        rng = seed_everything(self.args.seed, STAGE, epoch)
        for group in self.optimizer.param_groups:  # a resumed optimizer brings the rate of its last epoch
            group["lr"] = self._rate(method, epoch)
        row = {"epoch": epoch, "method": method, **getattr(self, f"_{method}")(epoch, rng, bar)}
        row |= {
            f"val_{name}": value
            for name, value in self.run_epoch(
                self.driving, self.data["val"].batches(epoch, None), self.criterion, None, bar
            ).items()
        }
        row |= {"return_mean": None, "return_std": None}
        if epoch % self.args.evaluate_every == 0 or final:
            row |= self._score(epoch, method)
        self.history.append(row)
        self.generator = torch.get_rng_state()
        self._keep(epoch)

    def _score_late(self, method: str) -> None:
        """Score the epoch that a run was stopped after, now that no more of `method` are to follow."""
        if self.history[-1]["method"] == method and self.history[-1]["return_mean"] is None:
            self.history[-1] |= self._score(len(self.history), method)
            self._keep(len(self.history))

    def _keep(self, epoch: int) -> None:
        """Write what was done up to this epoch."""
        tqdm.write(line(self.history[-1]))
        checkpoint.save(
            self.folder / "checkpoint.tar",
            "bc",
            **self._common(epoch),
            model=self.model.state_dict(),
            history=self.history,
            average=self.average and self.average.state_dict(),
            optimizer=self.optimizer.state_dict(),
            criterion=self.criterion.state_dict(),
            settings=self._settings(),
            scale=self.data["train"].scale(),
            cloned=self.cloned,
            drifted=self.drifted,
            ditto=self.ditto and self.ditto.state_dict(),
            luck=self.generator,  # its name in files of every version
        )
        write_csv(self.folder / "metrics.csv", self.history)

    def _rate(self, method: str, epoch: int) -> float:
        """The learning rate of an epoch (1 upwards) of cloning, or of dagger, in which it starts anew."""
        args = self.args
        done, of = (epoch - 1, args.epochs) if method == "bc" else (epoch - 1 - args.epochs, self._dream_epochs)
        return args.learning_rate * (share_left(done, of) if args.anneal else 1.0)

    def _settings(self) -> dict:
        """What may not change when a run is resumed, beside the head's sizes: loss, seed, and the world in which it
        drifts."""
        return {"loss": self.args.loss, "seed": self.args.seed, "world": self.args.world}

    def _common(self, epoch: int) -> dict:
        return {
            "config": self.model.config_dict(),
            "parents": self.parents,
            "world": self.world,
            "epoch": epoch,
            "best": self.best,
        }

    def _bc(self, epoch: int, rng: np.random.Generator, bar: tqdm) -> dict:
        return self.run_epoch(
            self.model, self.data["train"].batches(epoch, rng), self.criterion, self.optimizer, bar, self.average
        )

    def _dagger(self, epoch: int, rng: np.random.Generator, bar: tqdm) -> dict:
        if self.args.world == "simulator":
            steps = self._drive(epoch)
        else:
            self.drifted = self.dreams.drift(self.driving, self.drifted, rng)
            z, h, action = (self.drifted[name].float() for name in ("z", "h", "action"))
            steps = self.data["train"].joined(self.dreams.vision.fixed(z), h, action)
        for _ in range(self.args.passes):
            learnt = self.run_epoch(
                self.model, steps.batches(epoch, rng), self.criterion, self.optimizer, bar, self.average
            )
        return {**learnt, "steps": len(steps)}

    def _drive(self, epoch: int) -> Steps | FrameSequences:
        """Let the clone drive in the simulator, whose expert says what it would do; returns all steps there are."""
        args = self.args
        checkpoint.save(
            self.folder / DRIVER,
            "bc",
            **self._common(epoch),
            model=self.data["train"].deployed(self.driving).state_dict(),
        )
        folders = [self.folder / f"dagger_{k:03d}" for k in range(epoch - args.epochs)]
        generate(
            RecordingSettings(
                env=fast(self.world["env"]),
                policy="clone",
                logdir=args.logdir,
                checkpoint=DRIVER,
                rootdir=folders[-1],
                rollouts=args.rollouts,
                action_noise=self.disturbed,
                threads=args.max_workers,
                max_steps=self.world["max_steps"],
                seed=(args.seed + epoch) % SEEDS,
                options=self.world.get("options", {}),
            )
        )
        driven = open_datasets(folders, self.world, str(self.folder))
        if not self.dreams:
            known = self.data["train"]
            return FrameSequences([*known.datasets, *driven], "train", known.length, known.lanes, known.shift)
        latents = self.dreams.latents(driven, "train")
        known = latents.known()
        return self.data["train"].joined(latents_at(latents.latents, known), latents.h[known], latents.action[known])

    def _ditto(self, epoch: int, rng: np.random.Generator, bar: tqdm) -> dict:
        learnt = self.dreams.imitate(self.ditto, self.args.updates, rng, bar, self.average)
        if not math.isfinite(learnt["loss"]):
            raise UserError(
                f"the actor's loss became {learnt['loss']} in epoch {epoch}: lower --dream-rate and run again"
            )
        return learnt

    def _score(self, epoch: int, method: str) -> dict:
        """Drive in the simulator and be judged in the dream; keeps best.tar."""
        deployed = self.data["train"].deployed(self.driving)
        parameters = parameter_vector(deployed).cpu()
        returns = np.array(self.evaluator.returns([(parameters, seed) for seed in self.seeds]))
        row = {"return_mean": float(returns.mean()), "return_std": float(returns.std())}
        if self.dreams:
            judged = self.dreams.judge(self.dreams.act(self.driving))
            row |= {"likeness": judged.likeness, "dream_reward": judged.reward}
        # of equals the longer cloned
        if method == "bc" and (self.cloned is None or row["return_mean"] >= self.cloned["score"]):
            self.cloned = {
                "model": {name: value.clone() for name, value in self.driving.state_dict().items()},
                "score": row["return_mean"],
            }
        if row["return_mean"] > self.best:
            self.best = row["return_mean"]
            checkpoint.save(self.folder / "best.tar", "bc", **self._common(epoch), model=deployed.state_dict())
            tqdm.write(f"best.tar is now of epoch {epoch} ({method})")
        return row

    def report(self) -> None:
        """Pictures of what has become of it."""
        args, dreams, space = self.args, self.dreams, ActionSpace.from_dict(self.world["action_space"])
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
        print(
            "likeness to the expert in the dream: "
            + ", ".join(f"{name} {found.likeness:.3f}" for name, found in judged.items())
        )
        plot_distances(
            self.folder / "distance.png", {name: found.distance for name, found in judged.items()}, self.world["dt"]
        )
        plot_relation(self.folder / "dream-and-reality.png", self.history)
        film(
            self.folder,
            dreams.vision,
            dreams.memory,
            dreams.experts["val"],
            dreams.datasets,
            drivers["clone"],
            space,
            self.world["dt"],
            args.temperature,
            args.seed,
        )


def require_expert(world: dict) -> None:
    """UserError unless the simulator has an expert that can be asked."""
    with contextlib.closing(make(fast(world["env"]), **world.get("options", {}))) as simulator:
        simulator.reset(0)
        try:
            simulator.expert_action()
        except UserError:
            raise UserError(
                f"--world simulator asks the simulator's expert, and {world['env']} has none: choose another --method"
            ) from None


def share_left(done: int, of: int) -> float:
    """What is left of the learning rate after so many epochs, along a half cosine (Loshchilov and Hutter 2017, arXiv
    1608.03983, eq. 5 without restarts)."""
    return (1 + math.cos(math.pi * done / of)) / 2
