"""What `trainbc.py teach` can be told. Nothing imports torch for that."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dreamdrive.envs import flags
from dreamdrive.envs.catalogue import DREAM_STEPS
from dreamdrive.learning.cloning_settings import HeadSettings
from dreamdrive.utils.argument_types import learning_rate, natural, natural_float, port, positive
from dreamdrive.utils.settings import DREAM, flag

# learning rates, of a clone that sees latents or frames, and of one that sees a world's few numbers, to which a single
# pass must be enough
RATES = (1e-3, 1e-2)


@dataclass(frozen=True, kw_only=True)
class TeachSettings(HeadSettings, flags.WorldSettings):
    """What a lesson can be told."""

    GROUPS: ClassVar[dict[str, str]] = {
        "lesson": "world env trials train_only_from_demonstration init countdown",
        "learning": "batch_size learning_rate average",
        "in the dream": "temperature horizon",
        "page": "host port",
    }

    hidden: int = flag(
        128,
        natural,
        "width of a hidden layer; 0 for the linear head evolution uses",
        fixed=True,
        where=("a lesson without --model", lambda args: args.model is None),
    )
    batch_size: int = flag(32, positive, "samples")
    learning_rate: float | None = flag(
        None, learning_rate, f"AdamW's (default: {RATES[0]:g}, for numbers {RATES[1]:g})"
    )
    average: int = flag(100, positive, "training steps over which the weights that drive are averaged")
    world: str = flag("simulator", help="where to teach", choices=("dream", "simulator"))
    temperature: float = flag(0.0, natural_float, "of the dream", where=DREAM)
    horizon: int = flag(DREAM_STEPS, positive, "steps of a dream", where=DREAM)
    env: str | None = flag(
        None, help="the world, where --logdir has no V and M, e.g. mountaincar, carracing, nocturne, atari:Breakout"
    )
    trials: int | None = flag(None, positive, "end after so many trials in all (default: at Ctrl-C)")
    train_only_from_demonstration: bool = flag(
        False, help="learn from what the teacher did, not from what the teacher let pass"
    )
    init: Path | None = flag(
        None, Path, "begin with this clone or controller, e.g. exp_dir/bc/best.tar or exp_dir/ctrl/best.tar"
    )
    host: str = flag(
        "127.0.0.1", help="address to serve the page at; any but this machine's own demands a token, which is printed"
    )
    port: int = flag(8080, port, "of the page")
    countdown: float = flag(3.0, natural_float, "seconds before a trial")

    def check(self) -> None:
        super().check()
        if self.world == "dream":
            self.refuse_options()
