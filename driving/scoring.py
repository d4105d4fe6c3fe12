"""A driver in the simulator or in the dream, scored (stage 5)."""

import contextlib
import importlib.metadata
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from dreamdrive.driving.agent import Head
from dreamdrive.driving.cast import Cast, cast
from dreamdrive.driving.catalogue import PLAN, UNTRAINED
from dreamdrive.driving.evaluation import Driven, DriverSpec, Evaluator, dream_returns
from dreamdrive.driving.scoring_settings import WORST, EvaluationSettings
from dreamdrive.envs import REPEAT, flags, official, world_class
from dreamdrive.envs.dream import DreamWorld
from dreamdrive.models.controller import parameter_vector
from dreamdrive.utils import runs
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.json_files import write_json
from dreamdrive.utils.metrics import line
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.scores import FOLDER, keep_row, score_file, trial_name
from dreamdrive.utils.seeds import evaluation_seeds
from dreamdrive.utils.settings import command_line
from dreamdrive.utils.stages import is_controller
from dreamdrive.utils.tracking import track
from dreamdrive.utils.words import counted, mean_and_spread

FILMS = 3  # of the episodes that went worst
PACKAGES = ("torch", "numpy", "gymnasium", "box2d", "h5py", "cma")


def cast_of(args: EvaluationSettings) -> Cast:
    """Who drives, and where."""
    assert args.controller, "parse_args has chosen one"
    return cast(args.logdir, args.controller, args.world == "dream", args.env, args.options, args.planned)


def score(
    args: EvaluationSettings, env: str, options: dict, agent: Head | None, seeds: list[int]
) -> tuple[list[Driven], int]:
    """An episode for each seed, and the frames of the simulator that took."""
    assert args.controller, "parse_args has chosen one"
    controller = agent.controller if agent is not None and is_controller(args.controller) else None
    if args.world == "dream":
        world = DreamWorld(
            args.logdir, len(seeds), "cpu", args.temperature, args.horizon, restart=False, observation="latent"
        )
        returns = dream_returns(world, controller, seeds)
        wrong = {seed: value for seed, value in zip(seeds, returns, strict=True) if not math.isfinite(value)}
        if wrong:
            raise UserError(
                f"M diverges in {len(wrong)} of {len(seeds)} dreams, e.g. of seed {next(iter(wrong))}, whose return is "
                f"{next(iter(wrong.values()))}: train it longer, or use a lower --temperature or --horizon"
            )
        return [Driven(value, {}, "") for value in returns], 0
    if args.controller == PLAN:
        driver = DriverSpec(PLAN, args.logdir, plan=args.planned)
    elif controller is None:
        driver = DriverSpec(UNTRAINED[args.controller])
    else:
        driver = DriverSpec("agent", args.logdir, controller.config_dict())
    parameters = parameter_vector(controller) if controller else None
    with (
        Evaluator(
            env,
            driver,
            min(args.max_workers, len(seeds)),
            options={**options, **world_class(env).SCORED_WITH},
            cluster=args.cluster,
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


def trial_of(args: EvaluationSettings, who: Cast) -> dict:
    """The options of a score that its driver was not trained with."""
    return flags.tried(who.agent.world if who.agent is not None else {"env": who.env}, args.options)


def file_of(args: EvaluationSettings, who: Cast) -> Path:
    """Where the score goes."""
    assert args.controller, "parse_args has chosen one"
    trial = trial_name(trial_of(args, who))
    return score_file(runs.results(args.logdir), args.controller, who.env, args.world, trial)


@contextlib.contextmanager
def shown(args: EvaluationSettings, who: Cast) -> Iterator[None]:
    """While the block scores, --track is shown what comes of it: a row of the score's own metrics.csv, beside its file,
    and the film of --record."""
    folder = file_of(args, who).with_suffix("")
    if args.track != "none":
        make_folder(folder)
    with track(args, folder, "scoring", films(args, who)):
        yield


def films(args: EvaluationSettings, who: Cast) -> list[Path]:
    """Where those of --record go; of the worst episodes beside the score, the worst first."""
    if args.record != Path(WORST):
        return [args.record] if args.record else []
    score = file_of(args, who)
    return [score.with_name(f"{score.stem}-worst-{place}.mp4") for place in range(1, FILMS + 1)]


def by_subset(episodes: list[Driven], names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """What came of those episodes, on average, of which each of the outcomes `names` is 1, and how many there are."""
    found = {name: [e.outcome for e in episodes if e.outcome.get(name)] for name in names}
    return {
        name: {
            "episodes": float(len(some)),
            **{of: float(np.mean([outcome[of] for outcome in some])) for of in some[0] if of not in names},
        }
        for name, some in found.items()
        if some
    }


def told(
    places: dict[str, dict[str, float]],
    subsets: dict[str, dict[str, float]],
    overall: dict[str, float],
    details: tuple[str, ...],
) -> str:
    """A line a place, without `details`, one a subset, and one for all."""
    brief = {
        place: {name: value for name, value in values.items() if name not in details}
        for place, values in places.items()
    }
    rows = [*brief.items(), *subsets.items(), ("all", overall)]
    return "\n".join(line({"scene": place, **values}) for place, values in rows)


def report(
    args: EvaluationSettings,
    env: str,
    seeds: list[int],
    episodes: list[Driven],
    frames: int,
    digests: dict[str, str],
    trial: dict,
    target: Path,
) -> None:
    """Print the score and write it to the file `target`, with --track also as a row beside it; `frames` of the
    simulator were driven for it, and `trial` are options that it was not trained with."""
    returns = [e.score for e in episodes]
    values = np.array(returns)
    summary = {"mean": values.mean(), "std": values.std(), "min": values.min()}
    summary |= {"median": np.median(values), "max": values.max()}
    summary = {name: float(value) for name, value in summary.items()}
    where = args.world if args.world == "dream" or env == official(env) else env
    assert args.controller, "parse_args has chosen one"
    where += f" ({trial_name(trial)})" if trial else ""
    versions = {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}}
    outcomes = by_place(episodes)
    overall, subsets = outcomes.pop(""), by_subset(episodes, world_class(env).SUBSETS)
    detail = (
        {
            "by_scene": outcomes,
            "by_subset": subsets,
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
        "controller": args.controller,
        "env": env,
        **trial,
        "returns": dict(zip(map(str, seeds), returns, strict=True)),
        **detail,
        "versions": versions,
        "command": command_line(),
        "checkpoints": digests,
    }
    write_json(target, content)
    if args.track != "none":
        keep_row(target.with_suffix(""), {**summary, **overall, "episodes": len(seeds)})
    among = f" (min {summary['min']:.1f}, median {summary['median']:.1f}, max {summary['max']:.1f})"
    print(
        f"{args.controller} in {'the ' + where if env == official(env) else where}: {mean_and_spread(returns)} over "
        f"{counted(len(seeds), 'episode')}{among if len(seeds) > 1 else ''}; {target}"
    )
    if overall:
        print(told(outcomes, subsets, overall, world_class(env).DETAILS))


def with_episodes_there_are(args: EvaluationSettings, who: Cast) -> EvaluationSettings:
    """`args` with no more episodes than there are different ones, which is said."""
    if args.world == "dream":
        return args
    which = world_class(who.env).prepare(**who.options)
    different = len({which(seed) for seed in evaluation_seeds(args.seed, args.episodes)})
    if different == args.episodes:
        return args
    print(f"--episodes {args.episodes}: there are {different} different ones, and none counts twice: {different} it is")
    return replace(args, episodes=different)


def worst(episodes: list[Driven], number: int) -> list[int]:
    """Which episodes went worst, the worst first: collisions, then goals that were not reached, then low returns."""

    def merit(k: int) -> tuple[float, float, float]:
        outcome = episodes[k].outcome
        return -outcome.get("collision_rate", 0.0), outcome.get("goal_rate", 0.0), episodes[k].score

    return sorted(range(len(episodes)), key=merit)[:number]


def drive_for_score(args: EvaluationSettings, who: Cast) -> list[Driven]:
    """The whole stage; what became of the episodes."""
    seeds, agent = evaluation_seeds(args.seed, args.episodes), who.agent
    make_folder(runs.results(args.logdir) / FOLDER)  # before the long work, in case it cannot be written to
    episodes, frames = score(args, who.env, who.options, agent, seeds)
    assert args.controller, "parse_args has chosen one"
    driven = args.controller == PLAN or is_controller(args.controller)
    parents = agent.parents if agent is not None and driven else {}
    report(args, who.env, seeds, episodes, frames, parents, trial_of(args, who), file_of(args, who))
    return episodes
