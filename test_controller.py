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

--render opens the window of play.py (no score is written): what the simulator shows, what V makes of it, what M
expected. Keys: space pause, S single step, R reset, Q quit; with --controller human the arrows drive. Without a screen
the window is on a virtual one, and a line says where it can be seen; --record needs none.
"""

import importlib.metadata
import json
import os
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
from tqdm import tqdm

from dreamdrive.driving.agent import Head
from dreamdrive.driving.cast import TRAINED, Cast, cast, usual_controller
from dreamdrive.driving.evaluation import PLAN, Driven, DriverSpec, Evaluator, dream_returns
from dreamdrive.driving.planning import METHODS, Plan
from dreamdrive.driving.policies import REFERENCES, UNTRAINED
from dreamdrive.envs import REPEAT, flags, official, world_class
from dreamdrive.envs.dream import DREAM_STEPS, DreamWorld
from dreamdrive.models.controller import parameter_vector
from dreamdrive.playing.drive import Drive, dream_of, make_drive, simulator_of
from dreamdrive.playing.recording import RECORDINGS
from dreamdrive.playing.screen import Window
from dreamdrive.playing.session import Session
from dreamdrive.utils import runs
from dreamdrive.utils.argument_types import natural, natural_float, positive
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder, write_atomically
from dreamdrive.utils.metrics import line
from dreamdrive.utils.scores import FOLDER, score_file, trial_name
from dreamdrive.utils.script import run
from dreamdrive.utils.seeds import evaluation_seeds
from dreamdrive.utils.settings import RunFolder, command_line, flag
from dreamdrive.utils.video import VideoWriter, side_by_side, with_lines

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
        args = replace(args, controller=usual_controller(args.logdir))
    args.check()
    return args


def cast_of(args: EvaluationSettings) -> Cast:
    """Who drives, and where."""
    assert args.controller, "parse_args has chosen one"
    return cast(args.logdir, args.controller, args.world == "dream", args.env, args.options, args.planned)


def show_of(args: EvaluationSettings, who: Cast, seeds: list[int]) -> Drive:
    """The episodes of some seeds, to be looked at."""
    assert args.controller, "parse_args has chosen one"
    world = dream_of(args.logdir, args.temperature, args.horizon) if args.world == "dream" else simulator_of(who)
    return make_drive(world, who, args.controller, seeds.__getitem__, len(seeds))


def watch(args: EvaluationSettings, show: Drive) -> None:
    """Episodes in a window, one a seed, until the last or until the window is closed."""
    title = f"dreamdrive: {args.controller} in the {args.world}"
    with Window(title, show.panels, show.keys, show.SOUGHT) as window:
        Session(show, window, recordings=runs.results(args.logdir) / RECORDINGS).run()


def record(path: Path, show: Drive) -> None:
    """The first episode as a video."""
    show.begin(0)
    with (
        VideoWriter(path, 1 / show.dt) as video,
        tqdm(total=show.world.spec.max_steps, desc=f"recording {path}", unit="frame") as bar,
    ):
        while True:
            line = f"{show.driver}   step {show.steps}   return {show.total:.1f}"
            video.add(with_lines(side_by_side(show.images(), show.panels), [line]))
            if show.over:
                break
            show.step(set())
            bar.update(1)
    print(f"{path}: {show.result()}")


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


def main() -> None:
    args = parse_args()
    who = cast_of(args)
    agent, seeds = who.agent, evaluation_seeds(args.seed, args.episodes)
    if args.render:
        watch(args, show_of(args, who, seeds))
        return
    if args.record:  # first, so that a video that cannot be written is known before the score has taken its time
        record(args.record, show_of(args, who, seeds))
    make_folder(runs.results(args.logdir) / FOLDER)  # before the long work, in case it cannot be written to
    episodes, frames = score(args, who.env, who.options, agent, seeds)
    parents = agent.parents if agent is not None and args.controller in (*TRAINED, PLAN) else {}
    trial = flags.tried(agent.world if agent is not None else {"env": who.env}, args.options)
    report(args, who.env, seeds, episodes, frames, parents, trial)


if __name__ == "__main__":
    run(main)
