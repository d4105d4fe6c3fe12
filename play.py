"""Watch and play: a run's driver in the simulator, you or the driver in the dream, or episodes that were recorded; in a
window, or in a browser.

Reads   a run, as test_controller.py does, or one that came with dreamdrive, by its name; datasets, with -e
Writes  exp_dir/media/recordings/    films and arrays, with the key ","
        exp_dir/media/episodes/      datasets of what was driven, with -s

    python play.py --logdir carracing                   # its driver in the simulator
    python play.py --logdir carracing -r                # beside it what V makes of it, and what M expected
    python play.py --logdir carracing -w                # you drive in the dream, beside it the simulator
    python play.py --logdir carracing -a -H             # the driver in the dream, and what M says of it
    python play.py -e datasets/carracing                # recorded episodes
    python play.py --env carracing --controller human -s    # you drive, and may keep what you drove
    python play.py --logdir carracing -w --browser      # the same in a browser, also through SSH

In the window: Tab hands the controls to the next driver, you among them; space pauses, S takes a single step, R begins
the episode again, Page Down goes to the next, H says more, + and - change the speed, Q quits.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import torch

from dreamdrive.driving.cast import TRAINED, cast, usual_controller
from dreamdrive.driving.planning import load_learnt
from dreamdrive.envs import World, flags, make
from dreamdrive.envs.dream import DREAM_STEPS, DreamWorld
from dreamdrive.models.world_model import load_world_model
from dreamdrive.playing.drive import Drive, dream_of, make_drive, simulator_of
from dreamdrive.playing.hands import HUMAN
from dreamdrive.playing.recording import RECORDINGS, Kept
from dreamdrive.playing.replay import EPISODES, IMAGINATION, TRAIN, Replay, stored
from dreamdrive.playing.screen import Screen, Window
from dreamdrive.playing.session import Session
from dreamdrive.playing.show import Show
from dreamdrive.utils import checkpoint, runs
from dreamdrive.utils.argument_types import natural, natural_float, port, positive
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.script import run
from dreamdrive.utils.seeds import STRIDE, evaluation_seeds
from dreamdrive.utils.settings import RunFolder, flag

DREAM = ("-w or -a", lambda args: args.dream)  # what alone some flags are for
BROWSER = ("--browser", lambda args: args.browser)
LIVE = ("drives, not for -e", lambda args: args.episode_replay is None)


@dataclass(frozen=True, kw_only=True)
class PlaySettings(RunFolder, flags.WorldSettings):
    """What play.py can be told."""

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
        help="who drives at first (default: the run's driver; you with -w, or where there is no run)",
        choices=(*TRAINED, "random", "expert", HUMAN),
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
        asked = [self.play_in_world_model, self.agent_in_world_model, self.episode_replay is not None]
        if sum(asked) > 1:
            raise UserError("-w, -a and -e exclude each other: choose one")
        if self.dream and self.options and not self.beside:
            self.refuse_options()
        if self.dream and self.controller == "expert":
            raise UserError("the expert reads the simulator's state, which a dream does not have: leave -w or -a away")
        if self.play_in_world_model and self.controller not in (None, HUMAN):
            raise UserError(f"with -w you drive: leave --controller {self.controller} away, or give -a")

    def who(self) -> str:
        """Who drives at first."""
        if self.controller is not None:
            return self.controller
        yours = self.play_in_world_model or not (has_driver(self.logdir) or self.agent_in_world_model)
        return HUMAN if yours else usual_controller(self.logdir)


def has_driver(logdir: Path) -> bool:
    """Whether a run has a trained driver."""
    return any(checkpoint.path(logdir, name).exists() for name in TRAINED)


def parse_args(argv: list[str] | None = None) -> PlaySettings:
    args = PlaySettings.parse(argv, __doc__)
    args.check()
    return args


def replay_of(args: PlaySettings) -> Replay:
    """Recorded episodes."""
    logdir = runs.find(args.logdir)
    trained = checkpoint.path(logdir, "vae").exists()
    trained_on = checkpoint.load(checkpoint.path(logdir, "vae"), "vae")["datasets"] if trained else []
    datasets = stored(runs.results(args.logdir), args.episode_replay or [], trained_on)
    if not args.reconstruction:
        return Replay(datasets)
    model = load_world_model(logdir, torch.device("cpu"))
    for dataset in datasets:
        shapes = dataset.manifest.image_shape, tuple(model.world["image_shape"])
        if shapes[0] != shapes[1]:
            raise UserError(f"{dataset.root} has frames {shapes[0]}, and V of {logdir} sees {shapes[1]}: leave -r away")
    return Replay(datasets, model.vision)


def drive_of(args: PlaySettings) -> Drive:
    """A drive in the simulator, or in the dream."""
    name = args.who()
    # a trained driver may take over from you
    trained = usual_controller(args.logdir) if name not in TRAINED and has_driver(args.logdir) else name
    who = cast(args.logdir, trained, args.dream, args.env, args.options)
    world: World = dream_of(args.logdir, args.temperature, args.horizon) if args.dream else simulator_of(who)
    beside = simulator_beside(who.env, who.options) if isinstance(world, DreamWorld) and args.beside else None
    learnt = None
    if who.agent is not None and checkpoint.path(args.logdir, "mdrnn").exists():
        parents = {stage: who.agent.parents[stage] for stage in ("vae", "mdrnn")}
        learnt = load_learnt(args.logdir, parents, torch.device("cpu"))
    seeds = evaluation_seeds(args.seed, STRIDE)  # more than anybody looks at
    asked = {"reconstruction": args.reconstruction, "framed": args.reconstruction, "taped": args.save_mode}
    return make_drive(world, who, name, lambda number: seeds[number % STRIDE], beside=beside, learnt=learnt, **asked)


def simulator_beside(env: str, options: dict[str, Any]) -> World | None:
    """The simulator to be shown beside a dream, or None, and why, where it cannot be made."""
    try:
        return make(env, restart=False, **options)
    except UserError as error:
        print(f"the dream is shown alone: {error}", flush=True)
        return None


def screen(args: PlaySettings, show: Show) -> AbstractContextManager[Screen]:
    """Where it is to be seen."""
    if not args.browser:
        return Window(f"dreamdrive: {show.title}", show.panels, show.keys, show.SOUGHT)
    try:
        from dreamdrive.playing.browser import Page
    except ImportError as error:
        raise UserError(
            f"--browser needs the package aiohttp, which cannot be imported here ({error}): run `make setup`, or `pip "
            "install -r requirements.txt`"
        ) from None
    return Page(show, args.host, args.port)


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)  # what is shown has one copy of everything; the other cores are for the picture
    show: Show = drive_of(args) if args.episode_replay is None else replay_of(args)
    media = runs.results(args.logdir)
    kept = None
    if isinstance(show, Drive) and args.save_mode:
        kept = Kept(media / EPISODES / (IMAGINATION if args.dream else TRAIN), show, args.seed)
    try:
        with screen(args, show) as where:
            Session(show, where, args.countdown, args.header, media / RECORDINGS, kept).run()
    finally:
        show.close()


if __name__ == "__main__":
    run(main)
