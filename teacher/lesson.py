"""A whole lesson: the world, the clone, what is known of earlier lessons, the page, and what is kept of it all.

exp_dir/bc/taught/                  every trial, a dataset as stage 1 writes them, with the teacher's part noted
exp_dir/bc/snapshots/000100.tar     the clone after so many training steps; best.tar is the newest
exp_dir/bc/checkpoint.tar           to resume from
exp_dir/bc/metrics.csv, lesson.png  one row a trial

With --name NAME the folder is exp_dir/bc-NAME.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dreamdrive.driving.agent import Agent, Head, PolicyHead
from dreamdrive.envs import World, make, official, without_places, world_class
from dreamdrive.envs.dream import DreamWorld
from dreamdrive.envs.flags import check_env
from dreamdrive.models.controller import Controller, ControllerConfig
from dreamdrive.models.heads import loaded_head, make_head
from dreamdrive.models.policy import Policy, PolicyConfig
from dreamdrive.models.world_model import load_world_model
from dreamdrive.teacher.book import Book
from dreamdrive.teacher.clone import Clone, recorded_inputs
from dreamdrive.teacher.learner import Learner
from dreamdrive.teacher.lesson_settings import RATES, TeachSettings
from dreamdrive.teacher.memory import WINDOW, FrameMemory, VectorMemory
from dreamdrive.teacher.session import Session
from dreamdrive.utils import checkpoint, interrupts
from dreamdrive.utils.device import device
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.metrics import line
from dreamdrive.utils.seeds import seed_everything
from dreamdrive.utils.settings import say_inherited
from dreamdrive.utils.spaces import ActionSpace
from dreamdrive.utils.tracking import track
from dreamdrive.utils.words import quoted

if TYPE_CHECKING:
    from dreamdrive.teacher.server import Server

SNAPSHOTS = "snapshots"
FLAGS = {
    "features": "--features or --model",
    "hidden": "--hidden",
    "memory": "--model",
    "units": "--units",
    "width": "--width",
}


def teach(args: TeachSettings, stage: int) -> None:
    """Serve a lesson until it is over, or until Ctrl-C; resume the one before."""
    page = page_server()
    torch.set_num_threads(1)  # one core is for the picture
    seed_everything(args.seed, stage)
    args = resumed(args)
    world, agent, parents = make_world(args)
    agent.controller.requires_grad_(True)
    with checkpoint.stage_folder(args.logdir, args.stage) as folder:
        state = lesson_before(args, agent.controller.config_dict(), parents)
        book = Book(folder, world, args.seed, args.noreload)
        args.write(folder)
        learner = make_learner(
            args, agent, book, state, lambda learner: keep(folder, learner, agent, parents, session.samples)
        )
        agent.controller.requires_grad_(False)
        keys = world.keyboard()
        about = {
            "world": world.spec.name,
            "keys": keys.listed,
            "two_views": world.seen_apart,
            "only": args.train_only_from_demonstration,
        }
        server = page(args.host, args.port, about)
        session = Session(
            folder,
            world,
            Clone(agent, world, torch.Generator().manual_seed(args.seed + book.trial)),
            learner,
            book,
            keys,
            args.train_only_from_demonstration,
            args.trials,
            args.countdown,
            server.show,
            server.tell,
        )
        server.session = session
        hold(args, session, server)
    report(folder, session, learner, args.logdir)


def page_server() -> "type[Server]":
    """What serves the page; UserError where its package is missing."""
    try:
        from dreamdrive.teacher.server import Server
    except ImportError as error:
        raise UserError(
            f"--teacher needs the package aiohttp, which cannot be imported here ({error}): run `make setup`, or `pip "
            "install -r requirements.txt`"
        ) from None
    return Server


def resumed(args: TeachSettings) -> TeachSettings:
    """The settings with what may not change as it is in the lesson before, if there was one."""
    source = checkpoint.path(args.logdir, args.stage, "checkpoint.tar")
    before = checkpoint.load(source, args.stage)["config"] if source.exists() and not args.noreload else {}
    args, inherited = args.resume(before)
    say_inherited({source: inherited})
    return args


def make_learner(
    args: TeachSettings, agent: Head, book: Book, state: dict | None, keep: Callable[[Learner], None]
) -> Learner:
    """What learns: a copy of the agent's head, from all samples of the trials that are over. `state`: the content of
    checkpoint.tar to resume from."""
    head = agent.controller
    training = type(head)(head.config).to(agent.device)
    training.load_state_dict(head.state_dict())
    return Learner(
        training,
        remembered(agent, book, args.train_only_from_demonstration),
        args.learning_rate or RATES[isinstance(training, Controller) and training.config.features == "state"],
        args.weight_decay,
        args.seed,
        args.batch_size,
        args.average,
        state and state["learner"],
        args.init is None,
        keep,
    )


def keep(folder: Path, learner: Learner, agent: Head, parents: dict[str, str], samples: int) -> None:
    """Write the newest snapshot, under its own name and as best.tar, and all there is to resume from."""
    common = {
        "config": agent.controller.config_dict(),
        "parents": parents,
        "world": agent.world,
        "epoch": learner.steps,
        "samples": samples,
    }
    plain = learner.newest[0]
    checkpoint.save(make_folder(folder / SNAPSHOTS) / f"{learner.steps:06d}.tar", "bc", model=plain, **common)
    checkpoint.save(folder / "checkpoint.tar", "bc", model=plain, learner=learner.state(), **common)
    checkpoint.save(folder / "best.tar", "bc", model=plain, **common)


def hold(args: TeachSettings, session: Session, server: "Server") -> None:
    """Hold the lesson: the page is served and the learner learns until there are trials enough, or Ctrl-C."""
    folder, learner = session.folder, session.learner
    learner.start()
    # nothing is left but to learn what a killed process had not
    over = args.trials is not None and session.book.trial >= args.trials
    if over:
        print(f"{folder} has {session.book.trial} trials already: give more --trials, or none to teach until Ctrl-C")
    else:
        server.start()
    with track(args, folder, "trial"):
        try:
            # the first signal ends the lesson as the page's button does
            with interrupts.put_off(session.end):
                session.run()
        finally:
            if not over:
                server.stop()
            with interrupts.put_off(lambda: None):
                learner.finish(all_of_it=args.trials is not None)
            session.world.close()
        if learner.failure is not None:
            raise learner.failure


def lesson_before(args: TeachSettings, config: dict, parents: dict[str, str]) -> dict | None:
    """Content of checkpoint.tar to resume from, of a clone of this `config`; None if there is nothing."""
    state = checkpoint.resume(args.logdir, args.stage, parents, args.noreload)
    if state is None:
        return None
    if "learner" not in state:
        source = checkpoint.path(args.logdir, args.stage, "checkpoint.tar")
        raise UserError(
            f"{source} is of a clone that was not taught: to begin a lesson from it give --init "
            f"{source.with_name('best.tar')} and a --name of its own, or --noreload (its files are replaced)"
        )
    checkpoint.check_config(state, config, FLAGS)
    return state


def report(folder: Path, session: Session, learner: Learner, logdir: Path) -> None:
    """Say what has become of a lesson."""
    if not session.rows:
        print(f"{folder}: no trial was begun; the same command again begins one")
        return
    share = f", the teacher overrode {100 * session.rows[-1]['overridden']:.0f} % of the last one"
    print(
        f"{folder}: {len(session.rows)} trials, {session.samples} samples, {session.demonstrations} of them "
        f"demonstrations{share}; {learner.steps} training steps. "
        f"Next: python test_controller.py --logdir {quoted(logdir)} --controller {folder.name}, or the same command "
        "again to resume"
    )
    print(line(session.rows[-1]))


def make_world(args: TeachSettings) -> tuple[World, Head, dict[str, str]]:
    """The world, one copy; a clone that acts in it, new or as `--init` says; and the digests of V and M,
    if it sees through them."""
    numbers = dict(args.options).get("observation") in ("state", "features")
    if not args.model and not numbers and checkpoint.path(args.logdir, "mdrnn").exists():
        return world_of_latents(args)
    if args.world == "dream":
        raise UserError(f"{args.logdir} has no V and M to dream with: train them first, or use --world simulator")
    return world_alone(args)


def world_of_latents(args: TeachSettings) -> tuple[World, Head, dict[str, str]]:
    """`make_world` where the run has V and M: the world they were trained on, or their dream."""
    where = device(args.device)
    model = load_world_model(args.logdir, where)
    known, parents = model.world, model.parents
    check_env(args.logdir, known, args.env)
    if args.world == "dream":
        world: World = DreamWorld(args.logdir, 1, "cpu", args.temperature, args.horizon, restart=False, rewarded=False)
    else:
        recorded = without_places(known["env"], known.get("options", {}))
        world = make(args.env or known["env"], restart=False, **{**recorded, **dict(args.options)})
    config = ControllerConfig(
        model.memory.config.latent, model.memory.config.hidden, args.features, args.hidden, known["action_space"]
    )
    return world, Agent(model, initial(args, config, parents).to(where), {}), parents


def world_alone(args: TeachSettings) -> tuple[World, Head, dict[str, str]]:
    """`make_world` without V and M: the clone sees frames by its --model, or the world's numbers."""
    world, where = seen_as_asked(args), device(args.device)
    spec = world.spec
    known: dict[str, Any] = {
        "env": official(spec.name),
        "image_shape": list(spec.image_shape),
        "action_space": spec.plain_action_space,
        "dt": float(spec.dt),
        "max_steps": spec.max_steps,
        "options": spec.options,
    }
    if args.model:
        height, width, channels = spec.image_shape
        sees = PolicyConfig((height, width, channels), args.model, args.units, args.width, known["action_space"])
        return world, PolicyHead(initial(args, sees, {}).to(where), known, {}), {}
    config = ControllerConfig(spec.image_shape[0], 0, "state", args.hidden, known["action_space"])
    return world, Head(initial(args, config, {}).to(where), known, {}), {}


def seen_as_asked(args: TeachSettings) -> World:
    """The world of --env, one copy, which shows frames to a --model, and its numbers where it has some and there is
    none; UserError where it shows the other kind."""
    if args.env is None:
        raise UserError(
            f"--teacher needs a world: give --env, e.g. mountaincar, or a --logdir that has V and M ({args.logdir} has "
            "not)"
        )
    if args.was_given("features"):
        raise UserError(
            f"--features {args.features} is of V's and M's latents, and {args.logdir} has no V and M: leave --features "
            "away"
        )
    asked, numbers = dict(args.options), world_class(args.env).NUMBERS
    if not args.model and numbers:
        asked.setdefault("observation", numbers)
    world = make(args.env, restart=False, **asked)
    if bool(args.model) == world.spec.pictures:
        return world
    world.close()
    if args.model:
        raise UserError(
            f"--model {args.model} learns from frames, and {args.env} with these options shows "
            f"{world.spec.image_shape[0]} numbers: leave --model away"
        )
    raise UserError(
        f"{args.env} is seen as pictures: say what is to look at them, --model mlp or cfc, or a --logdir that has "
        "V and M"
    )


def initial(args: TeachSettings, config: ControllerConfig | PolicyConfig, parents: dict[str, str]) -> Any:
    """A head, Policy or Controller as `config` says, with random weights, or that of `--init`, which may have other
    sizes than asked for but must see the same."""
    if args.init is None:
        return make_head(asdict(config))
    saved = checkpoint.load_controller(args.init)
    checkpoint.check_parents(saved, parents, args.init, saved["stage"])
    if saved["config"]["features"] != config.features:
        raise UserError(
            f"{args.init} sees {saved['config']['features']}, and what is to be taught sees {config.features}: see "
            "--features, --model and --observation"
        )
    model = loaded_head(saved, args.init)
    same_actions = model.space.same_actions(ActionSpace.from_dict(config.action_space))
    if not same_actions or getattr(model.config, "image_shape", None) != getattr(config, "image_shape", None):
        raise UserError(f"{args.init} was trained in another world: its actions or frames are of another kind")
    return model


def remembered(agent: Head, book: Book, only_demonstrations: bool) -> VectorMemory | FrameMemory:
    """All samples of the trials that are over."""
    policy = agent.controller if isinstance(agent.controller, Policy) else None
    memory = (
        FrameMemory(policy.config.image_shape, 1 if policy.config.memory == "mlp" else WINDOW)
        if policy
        else VectorMemory()
    )
    for episode in book.episodes():
        assert episode.demonstration is not None, "a lesson's episodes have it"
        action = torch.from_numpy(episode.action)
        vectors, seen = agent.controller.space.vector(action), recorded_inputs(agent, episode.obs, action)
        for t, (what, vector) in enumerate(zip(seen, vectors.numpy(), strict=True)):
            memory.add(what, vector, bool(episode.demonstration[t]) or not only_demonstrations, t == 0)
    return memory
