"""What stage 4a by actor-critic can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dreamdrive.envs.flags import OfWorld
from dreamdrive.models.catalogue import DECODED, LATENT_FEATURES, MEMORIES
from dreamdrive.utils.argument_types import learning_rate, natural, natural_float, positive, positive_float, share
from dreamdrive.utils.cores import usable
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.seeds import require_seeds
from dreamdrive.utils.settings import WORKERS, ControllerTraining, Spread, flag

if TYPE_CHECKING:
    from dreamdrive.learning.actor_critic import How

THROUGH, RATIO = "dream", "likelihood"  # where an actor's gradients come from
FEATURES = (*LATENT_FEATURES, DECODED)
OF_WATCHERS = ("an actor that watches, with --features decoded", lambda args: args.features == DECODED)
SETTLED_TO = 0.1  # of the learning rates, by the last update, with --settle
ROW = 50  # updates between two rows of metrics.csv, from each of which a run resumes


@dataclass(frozen=True, kw_only=True)
class ActorSettings(ControllerTraining, OfWorld, Spread):
    """What stage 4a by actor-critic can be told."""

    KIND: ClassVar[str] = "ctrl"

    GROUPS: ClassVar[dict[str, str]] = {
        "actor": "features hidden layers memory burn_in init anchor",
        "dream": "dataset dreams horizon temperature early",
        "learning": "updates critic_first settle gradient discount mix spread penalty entropy actor_rate critic_rate",
        "scores in the simulator": "evaluate_every selection_episodes max_workers",
        "run": "adopt display",
    }

    adopt: bool = flag(
        False, help="resume although V or M has been trained on since: the actor continues in the M that is there now"
    )
    dataset: tuple[Path, ...] | None = flag(
        None,
        Path,
        "folders written by stage 1, whose moments dreams begin from (default: those M was trained on)",
        nargs="+",
    )
    seed: int = flag(0, natural, "decides everything random in the run", fixed=True)
    features: str = flag(
        "zh",
        help="what the actor sees: z alone, z and h, or the frames that V decodes, which it remembers itself (IRIS)",
        choices=FEATURES,
        fixed=True,
    )
    hidden: int = flag(128, positive, "width of the hidden layers of actor and critic, and of its memory", fixed=True)
    layers: int = flag(2, natural, "how many there are; 0 for a linear actor", fixed=True)
    memory: str = flag("lstm", help="what remembers", choices=MEMORIES, fixed=True, where=OF_WATCHERS)
    burn_in: int = flag(20, natural, "frames before a dream that it is shown", fixed=True, where=OF_WATCHERS)
    init: Path | None = flag(None, Path, "begin as this clone drives, e.g. exp_dir/bc/best.tar")
    anchor: float = flag(
        0.0,
        natural_float,
        "what it costs to act otherwise than the clone of --init does",
        where=("an actor that begins as a clone, with --init", lambda args: args.init is not None),
    )
    updates: int = flag(4000, positive, f"learn up to this update, in rows of {ROW}; more than before resumes")
    critic_first: int = flag(
        0,
        natural,
        f"of them the first, in rows of {ROW}, in which the critic learns what the clone is worth, and the actor stays "
        "as it is",
        where=("--init", lambda args: args.init is not None),
    )
    settle: int = flag(0, natural, "of them the last, over which the learning rates fall evenly to a tenth")
    dreams: int = flag(64, positive, "dreams of an update")
    horizon: int = flag(12, positive, "steps of a dream")
    temperature: float = flag(1.0, natural_float, "of the dream")
    early: float = flag(0.2, share, "share of the dreams that begin where episodes do; the others, anywhere")
    gradient: str = flag(
        THROUGH,
        help="of actions that are numbers: through the dream, or by the likelihood ratio of what was tried, which is "
        "noisier, and does not pass what M cannot differentiate; choices learn by the latter anyway",
        choices=(THROUGH, RATIO),
        fixed=True,
    )
    discount: float = flag(0.97, positive_float, "gamma, of a step")
    mix: float = flag(0.95, natural_float, "lambda of the returns")
    spread: float = flag(0.2, natural_float, "of what is added to controls (-1 to 1) to explore")
    penalty: float = flag(0.02, natural_float, "weight of the squares of controls beyond what tanh tells apart")
    entropy: float = flag(3e-3, natural_float, "what a nat of it is worth, where actions are choices")
    actor_rate: float = flag(7e-4, learning_rate, "of the actor's Adam")
    critic_rate: float = flag(1e-3, learning_rate, "of the critic's Adam")
    evaluate_every: int = flag(
        500, natural, "updates between two scores in the simulator, by which best.tar is chosen; 0: the last is kept"
    )
    selection_episodes: int = flag(16, positive, "of such a score")
    max_workers: int = flag(usable(), positive, "processes that drive the simulator", names=WORKERS)
    display: bool = flag(True, help="show a progress bar")

    def check(self) -> None:
        super().check()
        if self.discount > 1 or self.mix > 1:
            raise UserError(
                f"--discount {self.discount:g} and --mix {self.mix:g} are not possible: both must be 1 or less"
            )
        if self.init is not None and self.features == DECODED:
            raise UserError("an actor that watches cannot begin as a clone: leave --init or --features decoded away")
        if self.gradient == RATIO and not self.spread:
            raise UserError("--gradient likelihood learns from what is tried, and --spread 0 tries nothing: raise it")
        if self.evaluate_every:
            require_seeds(self.seed, self.selection_episodes)

    def share_left(self, updates: int) -> float:
        """Of the learning rates, after so many updates."""
        gone = 1 - (self.updates - updates) / self.settle if self.settle else 0.0
        return 1 - (1 - SETTLED_TO) * min(max(gone, 0.0), 1.0)

    @property
    def how(self) -> "How":
        from dreamdrive.learning.actor_critic import How

        return How(
            self.actor_rate,
            self.critic_rate,
            self.discount,
            self.mix,
            self.spread,
            entropy=self.entropy,
            penalty=self.penalty,
            through=self.gradient == THROUGH,
        )
