"""What stage 4b can be told: cloning, dagger and ditto; of teaching see teacher/lesson_settings.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dreamdrive.envs.flags import OfWorld
from dreamdrive.models.catalogue import MEMORIES, latent_features
from dreamdrive.utils.argument_types import learning_rate, natural, natural_float, positive, positive_float, share
from dreamdrive.utils.cores import usable
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.settings import WORKERS, ControllerTraining, Spread, flag

LOSSES = ("squared", "gaussian")
# training steps that weights are averaged over: of --model, and in ditto's dream
AVERAGE = {"model": 500, "ditto": 100}
# what alone some flags are for
FRAMES = ("--model", lambda args: args.model is not None)
LATENTS = ("cloning without --model", lambda args: args.model is None)
DREAMT = (
    "--method ditto, or dagger in the dream",
    lambda args: args.method == "ditto" or (args.method == "dagger" and args.world == "dream"),
)
DRIVEN = ("--method dagger --world simulator", lambda args: args.world == "simulator")


@dataclass(frozen=True, kw_only=True)
class HeadSettings(ControllerTraining):
    """Of whatever trains a clone: what it sees, its sizes, and how it learns."""

    KIND: ClassVar[str] = "bc"
    GROUPS: ClassVar[dict[str, str]] = {"clone": "features hidden model units width", "learning": "weight_decay"}

    features: str = flag("zh", help="what the clone sees: z alone, or z and h", choices=latent_features(), fixed=True)
    hidden: int = flag(0, natural, "width of a hidden layer; 0 for the linear head evolution uses", fixed=True)
    model: str | None = flag(
        None,
        help="clone frames themselves, without V and M: convolutions and this memory (mlp: none)",
        choices=MEMORIES,
    )
    units: int = flag(64, positive, "of the memory of --model", fixed=True, where=FRAMES)
    width: int = flag(
        16,
        positive,
        "channels of the first convolution of --model; the others have twice as many",
        fixed=True,
        where=FRAMES,
    )
    weight_decay: float = flag(1e-2, natural_float, "AdamW's")


@dataclass(frozen=True, kw_only=True)
class CloneSettings(HeadSettings, OfWorld, Spread):
    """Of cloning what experts did."""

    GROUPS: ClassVar[dict[str, str]] = {
        "data": "dataset",
        "learning": "epochs sequence batch_size loss action_noise label_smoothing learning_rate anneal average shift",
        "scores in the simulator": "evaluate_every n_samples max_workers",
        "in the dream, after cloning": "temperature horizon dreams",
    }

    method: str = "bc"
    world: str = "dream"
    dataset: tuple[Path, ...] | None = flag(
        None, Path, "folders written by stage 1 (default: those M was trained on)", nargs="+"
    )
    sequence: int = flag(32, positive, "frames that --model is trained to look back through", where=FRAMES)
    epochs: int = flag(30, positive, "of cloning; more than before resumes")
    batch_size: int = flag(256, positive, "steps; of --model in whole sequences")
    loss: str = flag(
        "squared",
        help="of actions that are numbers: squared error, or the likelihood of a normal distribution, "
        "whose spread is learnt for each of an action's components",
        choices=LOSSES,
    )
    action_noise: float = flag(
        0.0,
        natural_float,
        "of actions that are numbers: spread of noise on the expert's, drawn anew each time, in an action's "
        "typical size",
    )
    label_smoothing: float = flag(
        0.0, share, "of actions that are choices: the share of the expert's that goes to all alike"
    )
    learning_rate: float = flag(1e-3, learning_rate, "AdamW's")
    anneal: bool = flag(
        False,
        help="let the learning rate fall to nothing, along a half cosine, by the last of --epochs, and "
        "again in dagger, by the last of --dream-epochs",
    )
    average: int | None = flag(
        None,
        positive,
        "training steps over which the weights that drive are averaged; 1 for the last ones as they are "
        f"(default: with --model {AVERAGE['model']}, while ditto dreams {AVERAGE['ditto']}, otherwise 1)",
    )
    shift: int = flag(
        0,
        natural,
        "pixels by which frames of --model are shifted at most while it learns, elsewhere in each sequence",
        where=FRAMES,
    )
    evaluate_every: int = flag(
        5, positive, "epochs between two scores in the simulator; the last epoch is always scored"
    )
    n_samples: int = flag(8, positive, "episodes of such a score")
    max_workers: int = flag(usable(), positive, "processes that drive the simulator", names=WORKERS)
    temperature: float = flag(0.0, natural_float, "of the dream", where=LATENTS)
    horizon: int = flag(24, positive, "steps of a dream, which begins where an expert was", where=LATENTS)
    dreams: int = flag(256, positive, "at once", where=DREAMT)

    @property
    def cloned(self) -> int:
        """Epochs of cloning."""
        return self.epochs


@dataclass(frozen=True, kw_only=True)
class ImprovementSettings(CloneSettings):
    """Of what begins with a clone: the one that `epochs` of cloning bring, or another."""

    GROUPS: ClassVar[dict[str, str]] = {"in the dream, after cloning": "init dream_epochs"}

    init: Path | None = flag(
        None, Path, "begin with this clone instead of cloning for --epochs, e.g. exp_dir/bc/best.tar"
    )
    dream_epochs: int = flag(20, positive, "of dagger or ditto, after those of cloning")

    def check(self) -> None:
        super().check()
        if self.init is not None and self.was_given("epochs"):
            raise UserError("--epochs are of cloning, which --init leaves out: leave one of the two away")

    @property
    def cloned(self) -> int:
        return 0 if self.init is not None else self.epochs


@dataclass(frozen=True, kw_only=True)
class DaggerSettings(ImprovementSettings):
    """Of cloning, and then: the clone drifts off on its own, what the expert would do there is added, and all is cloned
    again."""

    GROUPS: ClassVar[dict[str, str]] = {"in the dream, after cloning": "world passes rollouts"}

    method: str = "dagger"
    world: str = flag(
        "dream",
        help="drift in the dream, where the expert of the most similar recorded moment is asked, or in the simulator, "
        "where its expert is",
        choices=("dream", "simulator"),
    )
    passes: int = flag(5, positive, "over all steps there are, in each epoch")
    rollouts: int = flag(
        4,
        positive,
        "in the simulator: episodes the clone drives in an epoch, disturbed like who was recorded",
        where=DRIVEN,
    )


@dataclass(frozen=True, kw_only=True)
class DittoSettings(ImprovementSettings):
    """Of cloning, and then reinforcement learning in the dream, rewarded for seeing what the expert saw."""

    GROUPS: ClassVar[dict[str, str]] = {"in the dream, after cloning": "updates dream_rate spread anchor"}

    method: str = "ditto"
    horizon: int = flag(50, positive, "steps of a dream, which begins where an expert was")
    updates: int = flag(40, positive, "of actor and critic in an epoch")
    dream_rate: float = flag(1e-4, learning_rate, "learning rate of actor and critic")
    spread: float = flag(
        0.2, positive_float, "of the pushes that actions are explored with, in an action's typical size"
    )
    anchor: float = flag(
        100.0, natural_float, "weight of the loss of cloning beside the return; 0, as in the paper, for none"
    )
