"""A driver in the simulator or in the dream (stage 5): scored, recorded, or watched in a window."""

import importlib.metadata
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamdrive.driving.agent import Agent, Head, in_dreams, load_agent, world_trained_on
from dreamdrive.driving.catalogue import PLAN, REFERENCES
from dreamdrive.driving.driver import Driver, Watched, drive
from dreamdrive.driving.evaluation import Driven, DriverSpec, Evaluator, dream_returns
from dreamdrive.driving.planning import load_planner
from dreamdrive.driving.policies import Blind, make_policy
from dreamdrive.driving.scoring_settings import TRAINED, EvaluationSettings
from dreamdrive.envs import REPEAT, World, flags, make, official, without_places, world_class
from dreamdrive.envs.dream import DreamWorld
from dreamdrive.models.controller import parameter_vector
from dreamdrive.models.world_model import load_world_model
from dreamdrive.utils import checkpoint, runs
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder, write_atomically
from dreamdrive.utils.keys import Keys
from dreamdrive.utils.metrics import line
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.scores import FOLDER, score_file, trial_name
from dreamdrive.utils.seeds import evaluation_seeds
from dreamdrive.utils.settings import command_line
from dreamdrive.utils.video import VideoWriter, side_by_side, with_lines
from dreamdrive.utils.viewer import HELP, Viewer
from dreamdrive.utils.words import counted, mean_and_spread

POLICIES = {"random": "white", "expert": "expert", **{name: name for name in REFERENCES}}  # by --controller
END_PAUSE = 1.0  # seconds the last picture of an episode stays
PACKAGES = ("torch", "numpy", "gymnasium", "box2d", "h5py", "cma")


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
        driver = self.human or make_policy(POLICIES[self.name], self.world)
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
        Bar(total=episode.world.spec.max_steps, desc=f"recording {path}", unit="frame") as bar,
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
        driver = DriverSpec(POLICIES[args.controller])
    else:
        driver = DriverSpec("agent", args.logdir, controller.config_dict())
    parameters = parameter_vector(controller) if controller else None
    with (
        Evaluator(
            env, driver, min(args.max_workers, len(seeds)), options={**options, **world_class(env).SCORED_WITH}
        ) as evaluator,
        Bar(total=len(seeds), desc=f"{args.controller} in the {args.world}", unit="episode") as bar,
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
    among = f" (min {summary['min']:.1f}, median {summary['median']:.1f}, max {summary['max']:.1f})"
    print(
        f"{args.controller} in {'the ' + where if env == official(env) else where}: {mean_and_spread(returns)} over "
        f"{counted(len(seeds), 'episode')}{among if len(seeds) > 1 else ''}; {target}"
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


def drive_for_score(args: EvaluationSettings) -> None:
    """The whole stage."""
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
