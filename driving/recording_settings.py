"""What stage 1 can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dreamdrive.driving.catalogue import parse_mixture, trained
from dreamdrive.envs import flags
from dreamdrive.utils import checkpoint
from dreamdrive.utils.argument_types import natural, natural_float, positive, share
from dreamdrive.utils.cores import usable
from dreamdrive.utils.seeds import require_seeds
from dreamdrive.utils.settings import WORKERS, Spread, flag
from dreamdrive.utils.words import counted

ROLLOUTS = 1000  # where a world has no number of its own
VAL_FRACTION = 0.1
MOST_STEPS = 1000  # of an episode, unless told otherwise: a game may last for hours
# what alone --logdir and --checkpoint are for
TRAINED = (
    "a --policy that has a controller or a clone in it",
    lambda args: any(map(trained, parse_mixture(args.policy))),
)


@dataclass(frozen=True, kw_only=True)
class RecordingSettings(flags.WorldSettings, Spread):
    """What stage 1 can be told."""

    GROUPS: ClassVar[dict[str, str]] = {
        "dataset": "env rollouts rootdir seed skip max_steps give_up val_fraction",
        "driver": "policy action_noise logdir checkpoint",
        "run": "threads",
    }

    env: str = flag(
        "carracing",
        help="world to record: carracing, carracing-fast (almost the same frames, sooner), nocturne, "
        "atari:<Game>, cartpole, mountaincar or gym:<id>",
    )
    rollouts: int | None = flag(
        None,
        positive,
        f"episodes the dataset shall hold (default: {ROLLOUTS}; with --scenes, one for every vehicle worth it)",
    )
    rootdir: Path = flag(Path("datasets/carracing"), Path, "folder of the dataset")
    threads: int = flag(usable(), positive, "processes that drive the simulator", names=WORKERS[::-1])
    policy: str = flag(
        "brown",
        help="the driver: brown, white, held (random actions, each for a while), expert, controller (evolved), clone, "
        "another controller as its folder is called (bc-NAME), or shares such as brown=0.5,expert=0.5",
    )
    action_noise: float = flag(
        0.0,
        natural_float,
        "spread of the bursts that disturb expert, controller and clone, in an action's typical size (half its "
        "range where none is known); 0: none",
    )
    seed: int = flag(0, natural, "decides every episode")
    max_steps: int | None = flag(
        None, positive, f"steps after which an episode is cut (default: the world's own limit, at most {MOST_STEPS})"
    )
    give_up: int = flag(
        0, natural, "an episode ends after so many steps without a reward above 0, as if it had been too long; 0: never"
    )
    skip: int = flag(0, natural, "leave out so many episodes of the seed, which another dataset has")
    val_fraction: float | None = flag(
        None,
        share,
        f"share of the episodes kept for validation (default: {VAL_FRACTION}; with --scenes, every tenth scene)",
    )
    logdir: Path = flag(
        Path("exp_dir"), Path, "trained run that drives where --policy has a controller or a clone in it", where=TRAINED
    )
    checkpoint: str = flag("best.tar", help="file in the controller's folder that drives", where=TRAINED)

    def check(self) -> None:
        super().check()
        require_seeds(self.seed, self.skip + (self.rollouts or 1))
        for name in parse_mixture(self.policy):
            if stage := trained(name):
                checkpoint.require(self.logdir, stage, name=self.checkpoint)

    def busy(self) -> str:
        """What is said where somebody else is at work in the folder."""
        return f"another generator is recording into {self.rootdir}: wait until it is done, or choose another --rootdir"

    def plan(self) -> str:
        """What is recorded by default, for someone who did not say."""
        return (
            f"this would record {ROLLOUTS} episodes of {self.env}, driven by {self.policy}, into {self.rootdir}, with "
            f"{counted(self.threads, 'worker')}: say how many with --rollouts N, and it begins"
        )
