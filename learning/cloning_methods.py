"""What trainbc.py trains a head by, a class a method: cloning what experts did; and dagger, in the dream or in the
simulator, and ditto, which begin with the clone that drove best.

A run (learning/cloning.py) goes through its methods one after another:

    method.begin()                        before the first of its epochs
    for every epoch:
        row = method.learn(epoch)
        method.scored(mean_return)        where the clone was driven
        checkpoint(**method.state())      and method.resume(checkpoint) to continue from there
"""

import contextlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from dreamdrive.data.loaders import open_datasets
from dreamdrive.data.sequences import FrameSequences
from dreamdrive.data.shards import Dataset
from dreamdrive.data.steps import Labelled, Steps
from dreamdrive.driving.catalogue import policy_of
from dreamdrive.driving.recording import generate
from dreamdrive.driving.recording_settings import RecordingSettings
from dreamdrive.envs import fast, make
from dreamdrive.learning.cloning_head import HeadTraining
from dreamdrive.learning.cloning_settings import (
    AVERAGE,
    CloneSettings,
    DaggerSettings,
    DittoSettings,
    ImprovementSettings,
)
from dreamdrive.learning.ditto import Ditto
from dreamdrive.learning.imagination import Dreams
from dreamdrive.models.world_model import latents_at
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.passes import Pass
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.resumed import load_weights
from dreamdrive.utils.seeds import SEEDS

DRIVER = "driver.tar"  # of dagger in the simulator: the clone that drives in this epoch


@dataclass(frozen=True)
class Recorded:
    """What a clone is made of.

    Fields:
        datasets: recorded with an expert
        train, val: their steps
        world: env, image_shape, action_space, ... that they are of
        parents: digests of V and M, where it is by them that the clone sees
        dreams: of these V and M
    """

    datasets: Sequence[Dataset]
    train: Labelled
    val: Labelled
    world: dict
    parents: dict[str, str]
    dreams: Dreams | None = None


@dataclass(frozen=True)
class Epoch:
    """One epoch of a run.

    Fields:
        number: 1 upwards, over all methods
        rng: the epoch's own
        bar: counts the steps that are learnt from
        about: what a checkpoint says of the clone beside its weights
        begun: the pass to go on with, of methods that can in the middle of an epoch
    """

    number: int
    rng: np.random.Generator
    bar: Bar
    about: dict
    begun: Pass


class Method(ABC):
    """What trains a head for some epochs of a run.

    Attributes:
        name: in metrics.csv and in messages
        first, epochs: how many epochs come before it, and how many it has
        averaged_steps: training steps over which the weights that drive are averaged
    """

    name: str

    def __init__(self, args: CloneSettings, recorded: Recorded, head: HeadTraining, first: int, epochs: int) -> None:
        self.recorded, self.head, self.first, self.epochs = recorded, head, first, epochs
        self.averaged_steps = args.average or (AVERAGE["model"] if args.model else 1)

    @property
    def end(self) -> int:
        """How many epochs there are, to its last."""
        return self.first + self.epochs

    @property
    @abstractmethod
    def pace(self) -> int:
        """Steps that an epoch learns from."""

    def begin(self) -> None:
        """Before the first epoch of it."""
        self.head.begin(self.averaged_steps)

    @abstractmethod
    def learn(self, epoch: Epoch) -> dict[str, float]:
        """Train the head for an epoch; returns what there is to say of it."""

    def scored(self, mean_return: float) -> None:  # noqa: B027  most do not care
        """The head that drives had this mean return in the simulator."""

    def state(self) -> dict:
        """What checkpoint.tar has of it beside the head."""
        return {}

    def resume(self, state: dict) -> None:  # noqa: B027  most have nothing else
        """Continue from the content of checkpoint.tar, as the head does."""


class Clone(Method):
    """Supervised learning of what the expert did.

    Attributes:
        best: weights of the clone that drove best, as "model", and its "score"; None before the first score
    """

    name = "bc"

    def __init__(self, args: CloneSettings, recorded: Recorded, head: HeadTraining) -> None:
        super().__init__(args, recorded, head, 0, args.cloned)
        self.best: dict | None = None

    @property
    def pace(self) -> int:
        return len(self.recorded.train)

    def learn(self, epoch: Epoch) -> dict[str, float]:
        return self.head.fit(self.recorded.train.batches(epoch.number, epoch.rng), epoch.bar, epoch.begun)

    def scored(self, mean_return: float) -> None:
        if self.best is None or mean_return >= self.best["score"]:  # of equals the longer cloned
            weights = {name: value.clone() for name, value in self.head.driving.state_dict().items()}
            self.best = {"model": weights, "score": mean_return}

    def state(self) -> dict:
        return {"cloned": self.best}

    def resume(self, state: dict) -> None:
        self.best = state["cloned"]


class Improvement(Method):
    """What follows cloning for --dream-epochs and begins with the clone that drove best."""

    def __init__(
        self, args: ImprovementSettings, recorded: Recorded, head: HeadTraining, clone: Clone, folder: Path
    ) -> None:
        super().__init__(args, recorded, head, args.cloned, args.dream_epochs)
        self.clone, self.folder = clone, folder

    def begin(self) -> None:
        assert self.clone.best is not None, "the last epoch of cloning is scored"
        load_weights(self.head.model, self.clone.best["model"])
        for leftover in self.folder.glob("dagger_*"):  # of an earlier run, or of an epoch that is done again
            shutil.rmtree(leftover)
        super().begin()


class Dagger(Improvement):
    """Ross et al. 2011, arXiv 1011.0686: the clone drifts off, what the expert would do there is added to what it
    learns from, and all is cloned."""

    name = "dagger"

    def __init__(
        self, args: DaggerSettings, recorded: Recorded, head: HeadTraining, clone: Clone, folder: Path
    ) -> None:
        super().__init__(args, recorded, head, clone, folder)
        self.args = args

    @property
    def pace(self) -> int:
        return self.args.passes * len(self.recorded.train)

    def learn(self, epoch: Epoch) -> dict[str, float]:
        steps, learnt = self.enlarged(epoch), {}
        for _ in range(self.args.passes):
            learnt = self.head.fit(steps.batches(epoch.number, epoch.rng), epoch.bar)
        return {**learnt, "steps": len(steps)}

    @abstractmethod
    def enlarged(self, epoch: Epoch) -> Labelled:
        """The recorded steps and those that the clone drifted into, up to this epoch."""


class DreamDagger(Dagger):
    """In the dream, where the expert of the most similar recorded moment is asked.

    Attributes:
        drifted: z (N, Z), h (N, R) and action (N, A) that were added, in half precision
    """

    drifted: dict[str, Tensor] | None = None

    def enlarged(self, epoch: Epoch) -> Labelled:
        dreams, steps = self.recorded.dreams, self.recorded.train
        assert dreams is not None and isinstance(steps, Steps), "trainbc.py has refused all others"
        self.drifted = dreams.drift(self.head.driving, self.drifted, epoch.rng)
        z, h, action = (self.drifted[name].float() for name in ("z", "h", "action"))
        return steps.joined(dreams.vision.fixed(z), h, action)

    def state(self) -> dict:
        return {"drifted": self.drifted}

    def resume(self, state: dict) -> None:
        self.drifted = state["drifted"]


class DrivenDagger(Dagger):
    """In the simulator, whose expert is asked: each epoch records a dataset that the clone drives."""

    def enlarged(self, epoch: Epoch) -> Labelled:
        folders = [self.folder / f"dagger_{k:03d}" for k in range(epoch.number - self.first)]
        self.drive(epoch, folders[-1])
        driven = open_datasets(folders, self.recorded.world, str(self.folder))
        known, dreams = self.recorded.train, self.recorded.dreams
        if isinstance(known, FrameSequences):
            return FrameSequences([*known.datasets, *driven], "train", known.length, known.lanes, known.shift)
        assert dreams is not None and isinstance(known, Steps), "trainbc.py has refused all others"
        seen = dreams.latents(driven, "train")
        rows = seen.known()
        return known.joined(latents_at(seen.latents, rows), seen.h[rows], seen.action[rows])

    def drive(self, epoch: Epoch, folder: Path) -> None:
        """Let the clone drive, disturbed like who was recorded, and record that in `folder`."""
        args, world = self.args, self.recorded.world
        model = self.recorded.train.deployed(self.head.driving).state_dict()
        checkpoint.save(self.folder / DRIVER, "bc", **epoch.about, model=model)
        generate(
            RecordingSettings(
                env=fast(world["env"]),
                policy=policy_of(self.folder.name),
                logdir=args.logdir,
                checkpoint=DRIVER,
                rootdir=folder,
                rollouts=args.rollouts,
                val_fraction=0.0,
                action_noise=max(dataset.manifest.action_noise for dataset in self.recorded.datasets),
                max_steps=world["max_steps"],
                seed=(args.seed + epoch.number) % SEEDS,
                options=world.get("options", {}),
                **args.crew(),
            )
        )


class DreamDitto(Improvement):
    """Reinforcement learning in the dream: see learning/ditto.py.

    Attributes:
        ditto: actor and critic; None before they have begun
    """

    name = "ditto"

    def __init__(self, args: DittoSettings, recorded: Recorded, head: HeadTraining, clone: Clone, folder: Path) -> None:
        super().__init__(args, recorded, head, clone, folder)
        assert recorded.dreams is not None, "trainbc.py has refused all others"
        self.args, self.dreams = args, recorded.dreams
        self.averaged_steps = args.average or AVERAGE["ditto"]
        self.ditto: Ditto | None = None

    @property
    def pace(self) -> int:
        return self.args.updates * self.args.dreams * self.args.horizon

    def begin(self) -> None:
        super().begin()
        self.ditto = self._ditto()

    def learn(self, epoch: Epoch) -> dict[str, float]:
        assert self.ditto is not None, "begun, or resumed"
        return self.dreams.imitate(self.ditto, self.args.updates, epoch.rng, epoch.bar, self.head.average, epoch.begun)

    def state(self) -> dict:
        return {"ditto": self.ditto and self.ditto.state_dict()}

    def resume(self, state: dict) -> None:
        if state["ditto"]:
            self.ditto = self._ditto()
            self.ditto.load_state_dict(state["ditto"])

    def _ditto(self) -> Ditto:
        sizes, args, dt = self.dreams.memory.config, self.args, self.recorded.world["dt"]
        how = args.dream_rate, args.spread, dt, args.anchor, self.head.criterion
        return Ditto(self.head.model, sizes.latent, sizes.hidden, *how)


def methods(args: CloneSettings, recorded: Recorded, head: HeadTraining, folder: Path) -> list[Method]:
    """What a run trains its head by, in this order; `folder`: the stage's."""
    clone = Clone(args, recorded, head)
    if isinstance(args, DittoSettings):
        return [clone, DreamDitto(args, recorded, head, clone, folder)]
    if isinstance(args, DaggerSettings):
        dagger = DrivenDagger if args.world == "simulator" else DreamDagger
        return [clone, dagger(args, recorded, head, clone, folder)]
    return [clone]


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
