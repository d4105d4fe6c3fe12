"""Stage 5: drive the real simulator, or the dream, and report the score; or watch; or drive yourself.

Reads   exp_dir/vae, exp_dir/mdrnn, and exp_dir/ctrl or exp_dir/bc; or those of a run that came with dreamdrive, by its
        name: its scores then go to exp_dir/<name>/scores
Writes  exp_dir/scores/<controller>-<env>-<simulator|dream>.json    mean, std, min, median, max, episodes, returns by
                                                                    seed, versions, command, checkpoints
        exp_dir/scores/<controller>-<env>-<trial>-simulator.json    the same, with --perturb or --obs-noise
        a video, with --record

    python test_controller.py --logdir exp_dir --controller ctrl --episodes 100
    python test_controller.py --logdir exp_dir --controller bc --render
    python test_controller.py --logdir carracing
    python test_controller.py --logdir carracing --perturb bars

--render opens a window (no score is written): what the simulator shows, what V makes of it, what M expected.
Keys: space pause, S single step, R reset, Q quit; with --controller human left and right steer, up is gas, down brakes.
Without a screen the window is on a virtual one, and a line says where it can be seen; --record needs none.
"""

import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
import torch
from tqdm import tqdm

from dreamdrive.driving.agent import Agent, Head, in_dreams, load_agent, world_trained_on
from dreamdrive.driving.driver import Driver, Watched, drive
from dreamdrive.driving.evaluation import PLAN, Driven, DriverSpec, Evaluator, dream_returns
from dreamdrive.driving.planning import METHODS, Plan, load_planner
from dreamdrive.driving.policies import REFERENCES, Blind, make_policy
from dreamdrive.envs import REPEAT, World, flags, make, official, without_places, world_class
from dreamdrive.envs.dream import DREAM_STEPS, DreamWorld
from dreamdrive.models.controller import parameter_vector
from dreamdrive.models.world_model import load_world_model
from dreamdrive.utils import checkpoint, runs
from dreamdrive.utils.argument_types import natural, natural_float, positive
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder, write_atomically
from dreamdrive.utils.keys import Keys
from dreamdrive.utils.metrics import line
from dreamdrive.utils.scores import FOLDER, score_file, trial_name
from dreamdrive.utils.script import run
from dreamdrive.utils.seeds import evaluation_seeds
from dreamdrive.utils.settings import RunFolder, command_line, flag
from dreamdrive.utils.video import VideoWriter, side_by_side, with_lines
from dreamdrive.utils.viewer import HELP, Viewer

TRAINED = ("ctrl", "bc")
END_PAUSE = 1.0  # seconds the last picture of an episode stays
PACKAGES = ("torch", "numpy", "gymnasium", "box2d", "h5py", "cma")


DREAM = ("--world dream", lambda args: args.world == "dream")  # what alone some flags are for
PLANNED = (f"--controller {PLAN}", lambda args: args.controller == PLAN)
SIMULATOR = ("--world simulator", lambda args: args.world == "simulator")


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(RunFolder, flags.WorldSettings):
    """What stage 5 can be told."""

    TRIALS: ClassVar[bool] = True

    controller: str | None = flag(
        None,
        help="the driver: the evolved or the cloned controller, a search in M's dream at every step, uniformly random "
        "actions, the simulator's own expert, the log's own actions or constant velocity (nocturne), or you by "
        "keyboard (default: ctrl, or bc where there is no other)",
        choices=(*TRAINED, PLAN, "random", "expert", *REFERENCES, "human"),
    )
    world: str = flag("simulator", help="where to drive", choices=("simulator", "dream"))
    env: str | None = flag(
        None,
        help="the simulator, where --logdir holds no trained run (carracing unless given); or the fast world that "
        "stands for it, e.g. carracing-fast",
        where=SIMULATOR,
    )
    episodes: int = flag(100, positive, "episodes to drive")
    seed: int = flag(0, natural, "k: episodes use simulator seeds 2,000,000 + 10,000 k onwards")
    render: bool = flag(False, help="show the episodes in a window instead of scoring")
    record: Path | None = flag(
        None, Path, "also write an episode (in the simulator the first one scored) as a video, e.g. out.mp4"
    )
    temperature: float = flag(1.0, natural_float, "of the dream", where=DREAM)
    horizon: int = flag(DREAM_STEPS, positive, "steps of a dream", where=DREAM)
    plan: str = flag("mppi", help="how it searches, see driving/planning.py", choices=METHODS, where=PLANNED)
    candidates: int = flag(64, positive, "sequences of actions it tries at once", where=PLANNED)
    iterations: int = flag(2, positive, "how often, each time around what was better", where=PLANNED)
    ahead: int = flag(12, positive, "steps it looks ahead", where=PLANNED)
    dreams: int = flag(1, positive, "that a sequence is tried in, drawn at temperature 1 if several", where=PLANNED)
    max_workers: int = flag(os.cpu_count(), positive, "processes that drive the simulator")

    @property
    def planned(self) -> Plan:
        return Plan(self.plan, self.candidates, self.iterations, self.ahead, self.dreams, float(self.dreams > 1))

    def check(self) -> None:
        super().check()
        if self.world == "dream":
            self.refuse_options()
        if self.world == "dream" and self.controller in ("expert", *REFERENCES):
            name = self.controller if self.controller == "expert" else f'the driver "{self.controller}"'
            raise UserError(
                f"{'the expert' if name == 'expert' else name} reads the simulator's state, which a dream does not "
                "have: use --world simulator"
            )
        if self.world == "dream" and self.controller == PLAN:
            raise UserError("to plan is to dream from what is seen in the simulator: use --world simulator")
        if self.controller == "human" and not self.render:
            raise UserError("a human needs a window to drive in: add --render")
        if self.render and self.record:
            raise UserError("--render and --record exclude each other: choose one")


def parse_args(argv: list[str] | None = None) -> EvaluationSettings:
    """The settings of a command line; the driver is found in --logdir where it is not said."""
    args = EvaluationSettings.parse(argv, __doc__)
    if args.controller is None:
        evolved, cloned = (checkpoint.path(args.logdir, name).exists() for name in TRAINED)
        args = replace(args, controller="bc" if cloned and not evolved else "ctrl")
    args.check()
    return args


class Human(Blind):
    """A person at the keyboard.

    Attributes:
        held: keys that are held
    """

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.held: set[str] = set()

    def reset(self, num: int, rngs: Sequence[np.random.Generator] = (), parameters: torch.Tensor | None = None) -> None:
        super().reset(num)
        self.action: Any = None  # the last one, as plain numbers

    def choose(self) -> torch.Tensor:
        action = self.keys.action(self.held, self.action)
        chosen = torch.as_tensor(np.asarray(self.keys.let_go(self.action) if action is None else action))
        self.action = chosen.tolist()
        return chosen[None]


class Episode:
    """One episode after another in one world, with pictures of it.

    Attributes:
        panels: names of the pictures        total, steps: return and steps so far        over: whether it has ended
    """

    def __init__(self, args: EvaluationSettings, env: str, options: dict, agent: Head | None) -> None:
        assert args.controller, "parse_args has chosen one"
        self.name = args.controller
        if args.world == "dream":
            self.world: World = DreamWorld(
                args.logdir, 1, "cpu", args.temperature, args.horizon, restart=False, observation="latent"
            )
            self.panels = ["the dream"]
        else:
            self.world = make(env, restart=False, **options)
            self.panels = ["the simulator", *["what is seen of it"] * self.world.seen_apart]
        self.watching = agent if args.world == "simulator" and isinstance(agent, Agent) else None
        self.panels += ["what V makes of it", "what M expected"] if self.watching else []
        self.driver = self._driver(agent)

    def _driver(self, agent: Head | None) -> Driver:
        """The trained controller, a policy, or whoever holds the keys."""
        self.human = Human(self.world.keyboard()) if self.name == "human" else None
        if self.name in (*TRAINED, PLAN):
            assert agent is not None, "a trained controller comes with it"
            return in_dreams(agent.controller, self.world) if isinstance(self.world, DreamWorld) else agent
        driver = self.human or make_policy(UNTRAINED[self.name], self.world)
        return Watched(driver, self.watching) if self.watching else driver

    def reset(self, seed: int) -> None:
        self.seed, self.total = seed, 0.0
        self.action: Any = None
        self._moments = drive(self.world, self.driver, [seed], [np.random.default_rng([seed, 1])])
        self._moment = next(self._moments)

    @property
    def steps(self) -> int:
        return self._moment.steps

    @property
    def over(self) -> bool:
        return not len(self._moment.going)

    def step(self, held: set[str]) -> None:
        """Take a step; `held` are the keys that are held."""
        if self.human is not None:
            self.human.held = held
        self._moment = next(self._moments)
        assert self._moment.step is not None, "it was taken"
        self.action = self._moment.action[0].tolist()
        self.total += float(self._moment.step.reward)
        if self.over and self.watching:
            self.watching.see(self._moment.obs)

    def images(self) -> list[np.ndarray]:
        """One uint8 picture a panel."""
        shown = [self.world.render(), *([self._moment.obs[0].numpy()] if self.world.seen_apart else [])]
        if not self.watching:
            return shown
        return [*shown, self.watching.reconstruction()[0].numpy(), self.watching.expectation()[0].numpy()]

    def text(self) -> dict:
        action: dict[str, Any] = {} if self.action is None else {"action": self.action}
        return {"controller": self.name, "seed": self.seed, "step": self.steps, "return": self.total, **action}


def watch(args: EvaluationSettings, episode: Episode, seeds: list[int]) -> None:
    """Episodes in a window, one a seed, until the last or until the window is closed."""
    keys = f"{episode.human.keys.help}    {HELP}" if episode.human else HELP
    with Viewer(
        f"dreamdrive: {args.controller} in the {args.world}", episode.panels, dt=episode.world.spec.dt, help=keys
    ) as viewer:
        for seed in seeds:
            episode.reset(seed)
            viewer.show(episode.images(), episode.text())
            while (wish := viewer.wait()) != "quit":
                if wish == "reset":
                    episode.reset(seed)
                elif episode.over:
                    break
                else:
                    episode.step(viewer.held)
                viewer.show(episode.images(), episode.text())
                if episode.over:
                    print(f"seed {seed}: return {episode.total:.1f} in {episode.steps} steps", flush=True)
                    viewer.rest(END_PAUSE)
            if wish == "quit":
                return


def record(path: Path, episode: Episode, seed: int) -> None:
    """One episode as a video."""
    episode.reset(seed)
    with (
        VideoWriter(path, 1 / episode.world.spec.dt) as video,
        tqdm(total=episode.world.spec.max_steps, desc=f"recording {path}", unit="frame") as bar,
    ):
        while True:
            line = f"{episode.name}   step {episode.steps}   return {episode.total:.1f}"
            video.add(with_lines(side_by_side(episode.images(), episode.panels), [line]))
            if episode.over:
                break
            episode.step(set())
            bar.update(1)
    print(f"{path}: seed {seed}, return {episode.total:.1f}")


def score(
    args: EvaluationSettings, env: str, options: dict, agent: Head | None, seeds: list[int]
) -> tuple[list[Driven], int]:
    """An episode for each seed, and the frames of the simulator that took."""
    assert args.controller, "parse_args has chosen one"
    controller = agent.controller if agent is not None and args.controller in TRAINED else None
    if args.world == "dream":
        world = DreamWorld(
            args.logdir, len(seeds), "cpu", args.temperature, args.horizon, restart=False, observation="latent"
        )
        return [Driven(value, {}, "") for value in dream_returns(world, controller, seeds)], 0
    if args.controller == PLAN:
        driver = DriverSpec(PLAN, args.logdir, plan=args.planned)
    elif controller is None:
        driver = DriverSpec(UNTRAINED[args.controller])
    else:
        driver = DriverSpec("agent", args.logdir, controller.config_dict())
    parameters = parameter_vector(controller) if controller else None
    with (
        Evaluator(
            env, driver, min(args.max_workers, len(seeds)), options={**options, **world_class(env).SCORED_WITH}
        ) as evaluator,
        tqdm(total=len(seeds), desc=f"{args.controller} in the {args.world}", unit="episode") as bar,
    ):
        began = time.monotonic()
        episodes = evaluator.episodes([(parameters, seed) for seed in seeds], bar)
        if args.controller == PLAN:
            rate = evaluator.steps / options.get(REPEAT, 1) / (time.monotonic() - began)
            print(f"{rate:.1f} actions a second by {evaluator.workers} workers")
        return episodes, evaluator.steps


def by_place(episodes: list[Driven]) -> dict[str, dict[str, float]]:
    """What came of the episodes, on average over all of them ("") and over those of each place that has a name."""
    places = dict.fromkeys(["", *(e.place for e in episodes)])
    return {
        place: {
            name: float(np.mean([e.outcome[name] for e in episodes if place in ("", e.place)]))
            for name in episodes[0].outcome
        }
        for place in places
    }


def report(
    args: EvaluationSettings,
    env: str,
    seeds: list[int],
    episodes: list[Driven],
    frames: int,
    digests: dict[str, str],
    trial: dict,
) -> None:
    """Print the score and write it to the run's folder scores; `frames` of the simulator were driven for it, and
    `trial` are options that it was not trained with."""
    returns = [e.score for e in episodes]
    values = np.array(returns)
    summary = {
        "mean": values.mean(),
        "std": values.std(),
        "min": values.min(),
        "median": np.median(values),
        "max": values.max(),
    }
    summary = {name: float(value) for name, value in summary.items()}
    where = args.world if args.world == "dream" or env == official(env) else env
    assert args.controller, "parse_args has chosen one"
    where += f" ({trial_name(trial)})" if trial else ""
    target = score_file(runs.results(args.logdir), args.controller, env, args.world, trial_name(trial))
    versions = {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}}
    outcomes = by_place(episodes)
    overall = outcomes.pop("")
    detail = (
        {
            "by_scene": outcomes,
            "outcomes": {str(seed): {"scene": e.place, **e.outcome} for seed, e in zip(seeds, episodes, strict=True)},
        }
        if outcomes
        else {}
    )
    content = {
        **summary,
        **overall,
        "episodes": len(seeds),
        "frames": frames,
        "env": env,
        **trial,
        "returns": dict(zip(map(str, seeds), returns, strict=True)),
        **detail,
        "versions": versions,
        "command": command_line(),
        "checkpoints": digests,
    }
    write_atomically(target, (json.dumps(content, indent=1) + "\n").encode())
    print(
        f"{args.controller} in {'the ' + where if env == official(env) else where}: {summary['mean']:.1f} +- "
        f"{summary['std']:.1f} over {len(seeds)} episodes "
        f"(min {summary['min']:.1f}, median {summary['median']:.1f}, max {summary['max']:.1f}); {target}"
    )
    if overall:
        print("\n".join(line({"scene": place, **values}) for place, values in [*outcomes.items(), ("all", overall)]))


def load(args: EvaluationSettings) -> tuple[str, dict, Head | None]:
    """The simulator's name and options, and the agent; UserError where they are not what was asked for."""
    world, agent = trained(args)
    if args.env and official(args.env) != world["env"]:
        raise UserError(
            f"{args.logdir} was trained on {world['env']}, not {args.env}: leave --env away, or use another --logdir"
        )
    flags.check(args.logdir, world, args.options, inherits=True)
    # where a run was trained says nothing of how well it drives
    known = without_places(world["env"], world.get("options", {}))
    return args.env or world["env"], {**known, **args.options}, agent


def trained(args: EvaluationSettings) -> tuple[dict, Head | None]:
    """The world ("env", "options"), and the agent: with its controller, or V and M alone where somebody else drives;
    None where nothing is trained and need not be."""
    if args.controller in TRAINED:
        agent = load_agent(args.logdir, args.controller)
        if args.world == "dream" and not isinstance(agent, Agent):
            raise UserError(
                f"{args.logdir} has no dream to drive in, its controller sees the simulator itself: use --world "
                "simulator"
            )
        return agent.world, agent
    if args.controller == PLAN:
        planner = load_planner(args.logdir, args.planned, torch.device("cpu"))
        return planner.world, planner
    if not checkpoint.path(args.logdir, "mdrnn").exists() and args.world == "simulator":
        trained_on = world_trained_on(args.logdir)
        return trained_on or {"env": official(args.env or "carracing"), "options": args.options}, None
    model = load_world_model(args.logdir, torch.device("cpu"))
    return model.world, Agent(model, None, {})


def main() -> None:
    args = parse_args()
    env, options, agent = load(args)
    seeds = evaluation_seeds(args.seed, args.episodes)
    if args.render:
        watch(args, Episode(args, env, options, agent), seeds)
        return
    if args.record:  # first, so that a video that cannot be written is known before the score has taken its time
        record(args.record, Episode(args, env, options, agent), seeds[0])
    make_folder(runs.results(args.logdir) / FOLDER)  # before the long work, in case it cannot be written to
    episodes, frames = score(args, env, options, agent, seeds)
    parents = agent.parents if agent is not None and args.controller in (*TRAINED, PLAN) else {}
    trial = flags.tried(agent.world if agent is not None else {"env": env}, args.options)
    report(args, env, seeds, episodes, frames, parents, trial)


if __name__ == "__main__":
    run(main)
