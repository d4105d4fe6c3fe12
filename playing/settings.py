"""What play.py can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dreamdrive.driving.catalogue import EXPERT, HUMAN, RANDOM, check_driver, require_controller, usual_controller
from dreamdrive.envs import flags
from dreamdrive.envs.catalogue import DREAM_STEPS
from dreamdrive.utils import checkpoint, stages
from dreamdrive.utils.argument_types import natural, natural_float, port, positive
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.settings import RunFolder, flag

DREAM = ("-w or -a", lambda args: args.dream)  # what alone some flags are for
BROWSER = ("--browser", lambda args: args.browser)
LIVE = ("drives, not for -e", lambda args: args.episode_replay is None)


@dataclass(frozen=True, kw_only=True)
class PlaySettings(RunFolder, flags.WorldSettings):
    """What play.py can be told."""

    GROUPS: ClassVar[dict[str, str]] = {
        "what is seen": "reconstruction play_in_world_model agent_in_world_model episode_replay header",
        "driver and world": "controller env seed temperature horizon beside countdown",
        "where it is seen, and what is kept": "browser host port save_mode",
    }

    reconstruction: bool = flag(
        False, help="beside it what V makes of it, and what M expected", names=("-r", "--reconstruction")
    )
    play_in_world_model: bool = flag(False, help="you drive in the dream", names=("-w", "--play-in-world-model"))
    agent_in_world_model: bool = flag(
        False, help="the trained driver drives in the dream", names=("-a", "--agent-in-world-model")
    )
    episode_replay: list[Path] | None = flag(
        None,
        Path,
        "recorded episodes: these datasets, or without a name those kept of play.py and those the run was trained on",
        names=("-e", "--episode-replay"),
        nargs="*",
        metavar="DATASET",
    )
    header: bool = flag(
        False,
        help="say more: reward, horizon, what the critic expects, how likely M takes the end to be",
        names=("-H", "--header"),
    )
    save_mode: bool = flag(
        False,
        help="after each episode you are asked whether to keep it, in a dataset in exp_dir/media/episodes",
        names=("-s", "--save-mode"),
        where=LIVE,
    )
    controller: str | None = flag(
        None,
        help="who drives at first: a controller of the run (ctrl, bc, bc-NAME), random, expert or human (default: the "
        "run's driver; you with -w, or where there is no run)",
        where=LIVE,
    )
    env: str | None = flag(
        None,
        help="the simulator, where --logdir holds no trained run; or the fast world that stands for it",
        where=LIVE,
    )
    seed: int = flag(0, natural, "k: episodes use the same seeds as those of test_controller.py --seed k", where=LIVE)
    temperature: float = flag(1.0, natural_float, "of the dream", where=DREAM)
    horizon: int = flag(DREAM_STEPS, positive, "steps of a dream", where=DREAM)
    beside: bool = flag(
        True,
        help="beside the dream the simulator, which starts where it does and is given the same actions",
        where=DREAM,
    )
    countdown: float = flag(3.0, natural_float, "seconds before you drive", where=LIVE)
    browser: bool = flag(False, help="in a page of a browser instead of a window")
    host: str = flag(
        "127.0.0.1",
        help="address to serve the page at; any but this machine's own demands a token, which is printed",
        where=BROWSER,
    )
    port: int = flag(8080, port, "of the page", where=BROWSER)

    @property
    def dream(self) -> bool:
        return self.play_in_world_model or self.agent_in_world_model

    def check(self) -> None:
        super().check()
        if self.controller is not None:
            check_driver(self.controller, self.logdir, (RANDOM, EXPERT, HUMAN))
        asked = [self.play_in_world_model, self.agent_in_world_model, self.episode_replay is not None]
        if sum(asked) > 1:
            raise UserError("-w, -a and -e exclude each other: choose one")
        if self.dream and self.options and not self.beside:
            self.refuse_options()
        if self.dream and self.controller == EXPERT:
            raise UserError("the expert reads the simulator's state, which a dream does not have: leave -w or -a away")
        if self.play_in_world_model and self.controller not in (None, HUMAN):
            raise UserError(f"with -w you drive: leave --controller {self.controller} away, or give -a")

    def require(self) -> None:
        """UserError where what is to drive has not been trained."""
        if self.episode_replay is None and self.controller and stages.is_controller(self.controller):
            require_controller(self.logdir, self.controller)
        if self.dream or (self.reconstruction and self.episode_replay is not None):
            checkpoint.require(self.logdir, "vae", "mdrnn")

    def who(self) -> str:
        """Who drives at first."""
        if self.controller is not None:
            return self.controller
        yours = self.play_in_world_model or not (stages.controllers(self.logdir) or self.agent_in_world_model)
        return HUMAN if yours else usual_controller(self.logdir)
