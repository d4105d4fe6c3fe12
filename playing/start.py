"""From what play.py is told to a session."""

from contextlib import AbstractContextManager
from typing import Any

import torch

from dreamdrive.driving.agent import Agent
from dreamdrive.driving.cast import cast
from dreamdrive.driving.catalogue import known_controller
from dreamdrive.driving.planning import load_learnt
from dreamdrive.envs import World, make
from dreamdrive.envs.dream import DreamWorld
from dreamdrive.models.world_model import load_world_model
from dreamdrive.playing.drive import Beside, Drive, dream_of, make_drive, simulator_of
from dreamdrive.playing.recording import RECORDINGS, Kept
from dreamdrive.playing.replay import EPISODES, IMAGINATION, TRAIN, Replay, stored
from dreamdrive.playing.screen import Screen, Window
from dreamdrive.playing.session import Session
from dreamdrive.playing.settings import PlaySettings
from dreamdrive.playing.show import Show
from dreamdrive.utils import checkpoint, runs, stages
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.seeds import STRIDE, evaluation_seeds


def play(args: PlaySettings) -> None:
    """The whole of it."""
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
    trained = name if stages.is_controller(name) else known_controller(args.logdir) or name
    who = cast(args.logdir, trained, args.dream, args.env, args.options)
    world: World = dream_of(args.logdir, args.temperature, args.horizon) if args.dream else simulator_of(who)
    beside = simulator_beside(who.env, who.options) if isinstance(world, DreamWorld) and args.beside else None
    learnt = None
    if isinstance(who.agent, Agent) and checkpoint.path(args.logdir, "mdrnn").exists():
        critics = trained if stages.kind_of(trained) == "ctrl" else "ctrl"
        learnt = load_learnt(args.logdir, who.agent, torch.device("cpu"), critics)
    seeds = evaluation_seeds(args.seed, STRIDE)  # more than anybody looks at
    asked = {"reconstruction": args.reconstruction, "framed": args.reconstruction, "taped": args.save_mode}
    return make_drive(world, who, name, lambda number: seeds[number % STRIDE], beside=beside, learnt=learnt, **asked)


def simulator_beside(env: str, options: dict[str, Any]) -> Beside | None:
    """The simulator to be shown beside a dream, or None, and why, where it cannot be made."""
    try:
        return Beside(make(env, restart=False, **options))
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
