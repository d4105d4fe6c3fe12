"""C while it is trained (stage 4a): the search by CMA-ES in the open, and the run of actor and critic."""

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamdrive.driving.evaluation import DriverSpec, Evaluator, require_drivable
from dreamdrive.envs import fast, world_class
from dreamdrive.envs.flags import check_env
from dreamdrive.learning.actor_settings import ActorSettings
from dreamdrive.learning.actor_training import ActorRun, moments_of
from dreamdrive.learning.evolution import (
    STAGE,
    DreamFitness,
    Search,
    SimulatorFitness,
    all_alike,
    evaluated,
    evolved_weights,
    finite,
    samples_now,
    simulator_scores,
)
from dreamdrive.learning.evolution_settings import EvolutionSettings
from dreamdrive.learning.unfinished import Unfinished
from dreamdrive.models.controller import Controller, ControllerConfig, parameter_vector, set_parameters
from dreamdrive.models.heads import loaded_head, make_head
from dreamdrive.models.world_model import WorldModel, load_world_model
from dreamdrive.utils import checkpoint
from dreamdrive.utils.device import device
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.metrics import line, read_csv, write_csv
from dreamdrive.utils.plots import curves
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.seeds import seed_everything, selection_seeds
from dreamdrive.utils.settings import say_inherited
from dreamdrive.utils.tracking import track
from dreamdrive.utils.words import counted, duration


def start_controller(args: EvolutionSettings, model: WorldModel) -> Controller:
    """The controller evolution begins from: zeros, or the clone of --init."""
    if args.init is None:
        sizes, space = model.memory.config, model.world["action_space"]
        config = ControllerConfig(sizes.latent, sizes.hidden, args.features, 0, space)
        controller: Controller = make_head(asdict(config))
        set_parameters(controller, torch.zeros_like(parameter_vector(controller)))
        return controller
    return load_clone(args.init, args.features, model)


def load_clone(path: Path, features: str, model: WorldModel) -> Controller:
    """The clone of --init, which must be of the same V and M and see the same."""
    saved = checkpoint.load(path, "bc")
    checkpoint.check_parents(saved, model.parents, path, "bc")
    if saved["config"]["features"] != features:
        raise UserError(
            f"{path} sees {saved['config']['features']}, not {features}: use --features {saved['config']['features']}"
        )
    return loaded_head(saved, path, model.world, model.memory.config)


class Record:
    """What a search has brought so far, and the files it is written to.

    Attributes:
        history: rows of metrics.csv        scores: (G, P) of all candidates so far
        best: score of best.tar: of the search's mean, with --evaluate-every in the simulator, else on fresh starts
    """

    def __init__(
        self, args: EvolutionSettings, folder: Path, controller: Controller, parents: dict[str, str], state: dict | None
    ) -> None:
        self.args, self.folder, self.controller, self.parents = args, folder, controller, parents
        self.start = parameter_vector(controller).cpu()
        self.history: list[dict] = state["history"] if state else []
        self.best: float = state["best"] if state else -math.inf
        self.scores = state["scores"] if state else torch.empty(0, args.pop_size, dtype=torch.float64)
        self.clock: list[dict] = read_csv(folder / "clock.csv")[: len(self.history)]

    def described(self) -> dict:
        return {
            "config": self.controller.config_dict(),
            "model": self.controller.state_dict(),
            "parents": self.parents,
            "settings": self.args.fixed(),
        }

    def learnt(self) -> dict:
        """Nothing: a generation is a single step, of which only the episodes are worth keeping."""
        return {}

    def learn_on(self, learnt: dict) -> None:
        pass

    def add(self, scores: Tensor, sigma: float, seconds: float, **row: float | None) -> None:
        """A generation: scores (P,) of its candidates, the step size after it, the seconds it took, and the other
        columns of its row."""
        generation = len(self.history) + 1
        self.scores = torch.cat([self.scores, scores[None]])
        best, mean = float(scores.max()), float(scores.mean())
        row = {"generation": generation, "best": best, "mean": mean, "sigma": sigma, **row}
        columns = ("generation", "best", "mean", "rescored", "simulator", "sigma", "samples", "frames")
        self.history.append({name: row[name] for name in columns})
        self.clock.append({"generation": generation, "seconds": round(seconds, 3)})

    def keep_if_best(self, mean: Tensor, score: float | None) -> None:
        """Write best.tar if the search's mean (N,) has a score, and none had a higher one."""
        set_parameters(self.controller, mean.to(next(self.controller.parameters()).device))
        if score is not None and score > self.best:
            self.best = score
            settings = self.args.fixed()
            self.save("best.tar", generation=len(self.history), best=score, settings=settings)

    def publish(self, search: Search) -> None:
        """Write what the last generation has brought, after `keep_if_best`."""
        self.save(
            "checkpoint.tar",
            settings=self.args.fixed(),
            start=self.start,
            scores=self.scores,
            mean=search.mean,
            search=search.state(),
            history=self.history,
            best=self.best,
        )
        self.show()

    def show(self) -> None:
        """The files for people, also of what a killed process had no time left to show."""
        write_csv(self.folder / "metrics.csv", self.history)
        write_csv(self.folder / "clock.csv", self.clock)
        shown = [("best", "mean", *(["rescored"] if self.args.rescores else []))]
        if self.args.evaluate_every:
            shown = [*shown, ("simulator",)] if self.args.rescores else [(*shown[0], "simulator")]
        curves(
            self.folder / "fitness.png", self.history, "generation", [*shown, ("sigma",)], f"C in the {self.args.world}"
        )

    def save(self, name: str, **more) -> None:
        config, weights = self.controller.config_dict(), self.controller.state_dict()
        checkpoint.save(self.folder / name, "ctrl", config, weights, self.parents, **more)


def resumable(args: EvolutionSettings | ActorSettings, parents: dict[str, str]) -> dict | None:
    """checkpoint.tar of this method to resume from, if there is one."""
    adopt, actor = (args.adopt, True) if isinstance(args, ActorSettings) else (False, False)
    state = checkpoint.resume(args.logdir, args.stage, parents, args.noreload, adopt)
    if state and ("learner" in state) != actor:
        raise UserError(
            f"{args.logdir / args.stage / 'checkpoint.tar'} is of --method {'cma' if actor else 'actor-critic'}: give "
            "that, use another --name or --logdir, or start afresh with --noreload"
        )
    return state


def train_actor(args: ActorSettings) -> tuple[float, str]:
    """Actor and critic in the dream; (score of best.tar, where)."""
    where = device(args.device)
    args.check()
    model = load_world_model(args.logdir, where)
    world = model.world
    check_env(args.logdir, world, args.env)
    require_drivable(world)
    with checkpoint.stage_folder(args.logdir, args.stage) as folder:
        state = resumable(args, model.parents)
        args, inherited = args.resume(state and state["settings"])
        say_inherited({folder / "checkpoint.tar": inherited})
        moments, unit = moments_of(args, model)
        clone = load_clone(args.init, args.features, model) if args.init else None
        actors = ActorRun(args, folder, model, moments, world_class(world["env"]).OPPOSED, unit, state, clone)
        driver = DriverSpec("agent", args.logdir, actors.driver.config_dict())
        workers = Evaluator(fast(world["env"]), driver, args.max_workers, where, world.get("options"), args.cluster)
        with track(args, folder, "updates"), workers as evaluator:
            actors.run(evaluator)
            actors.plot()
    return actors.best, "simulator" if args.evaluate_every else "dream"


def train_by_search(args: EvolutionSettings) -> tuple[float, str]:
    """Evolution; (score of best.tar, where)."""
    where = device(args.device)
    model = load_world_model(args.logdir, where)
    world, parents = model.world, model.parents
    check_env(args.logdir, world, args.env)
    with checkpoint.stage_folder(args.logdir, args.stage) as folder:
        state = resumable(args, parents)
        args, inherited = args.sized(state and state["settings"])
        say_inherited({folder / "checkpoint.tar": inherited})
        controller = start_controller(args, model)
        search = Search(parameter_vector(controller), args, evolved_weights(controller, args.evolve))
        record = Record(args, folder, controller, parents, state)
        if state:
            resume(search, record, state)  # before workers start, in case it refuses
            record.show()
        evaluator = Evaluator(
            fast(world["env"]),
            DriverSpec("agent", args.logdir, controller.config_dict()),
            args.max_workers,
            where,
            world.get("options"),
            args.cluster,
        )  # starts workers when first asked
        fitness: DreamFitness | SimulatorFitness
        if args.world == "dream":
            fitness = DreamFitness(args, model, controller.to(where))
        else:
            fitness = SimulatorFitness(args, evaluator)
        with track(args, folder, "generation"), evaluator:
            evolve(args, search, fitness, evaluator, record)
    return record.best, "simulator" if args.evaluate_every else args.world


def resume(search: Search, record: Record, state: dict) -> None:
    """Bring a search to where checkpoint.tar, whose content is `state`, was written."""
    source = record.folder / "checkpoint.tar"
    if not torch.equal(state["start"], record.start):
        raise UserError(f"{source} began from another --init: give the same one, or start afresh with --noreload")
    search.load(state.get("search"), state["scores"])  # an earlier version did not store it
    if not torch.equal(state["mean"], search.mean[-len(state["mean"]) :]):
        raise UserError(
            f"replaying {source} gave another population, so the number of threads or cores, NumPy, pycma or the "
            "processor differ from those it was made with: resume where it was made, with the same OMP_NUM_THREADS, "
            "or start afresh with --noreload"
        )


def evolve(
    args: EvolutionSettings,
    search: Search,
    fitness: DreamFitness | SimulatorFitness,
    evaluator: Evaluator,
    record: Record,
) -> None:
    """Ask, score, tell: from the last generation of `record` up to generation `args.generations`."""
    seed_everything(args.seed, STAGE)
    args.write(record.folder)
    clock, first, warned = Clock([], []), len(record.history), False
    unfinished = Unfinished("ctrl", record, args, evaluator)
    if not first and args.init and args.evaluate_every:
        record.keep_if_best(search.mean, drive_mean(args, search, evaluator))
        print(f"generation 0  simulator {record.best:.4g}", flush=True)
    for generation in range(first + 1, args.generations + 1):
        if record.best >= args.target_return:
            print(f"target return {args.target_return} reached")
            break
        with unfinished.epoch():
            scores, rate = one_generation(args, search, fitness, evaluator, record, clock)
        following = range(generation + 1, args.generations + 1)
        left = clock.left(len(following), sum(is_driven(args, later) for later in following))
        print(f"{line(record.history[-1])}  {rate:.0f} steps/s{left}", flush=True)
        if all_alike(scores) and not warned:
            warned = True
            print(
                f"all {len(scores)} candidates of generation {generation} scored {scores[0]:.4g}, so the search learns "
                "nothing from them and widens: where that lasts, use a larger --sigma, more --n-samples, or a clone "
                "with --init",
                flush=True,
            )


def one_generation(
    args: EvolutionSettings,
    search: Search,
    fitness: DreamFitness | SimulatorFitness,
    evaluator: Evaluator,
    record: Record,
    clock: "Clock",
) -> tuple[Tensor, float]:
    """The next generation, from its candidates to its files: their scores (P,), and steps a second of the search."""
    generation = len(record.history) + 1
    since, steps, frames = time.monotonic(), fitness.steps, evaluator.steps
    samples, rescored, simulator = samples_now(args, record.history), None, None
    episodes = (args.pop_size + args.rescores) * samples if args.world == "simulator" else args.pop_size
    with progress(args, episodes, f"generation {generation} of {args.generations}") as bar:
        candidates = search.ask()
        scores = finite(fitness(candidates, generation, samples, False, bar)).double()
        search.tell(candidates, scores)
        if args.rescores:
            rescored = float(finite(fitness(search.mean[None], generation, samples, True, bar)))
    searched = time.monotonic() - since
    clock.searches.append(searched)
    rate = (fitness.steps - steps) / searched
    if is_driven(args, generation):
        simulator = drive_mean(args, search, evaluator)
        clock.drives.append(time.monotonic() - since - searched)
    frames = evaluator.steps - frames + (record.history[-1]["frames"] if record.history else 0)
    seconds = time.monotonic() - since
    record.add(scores, search.sigma, seconds, rescored=rescored, simulator=simulator, samples=samples, frames=frames)
    record.keep_if_best(search.mean, simulator if args.evaluate_every else rescored)
    record.publish(search)
    return scores, rate


def is_driven(args: EvolutionSettings, generation: int) -> bool:
    """Whether the search's mean drives the simulator after a generation."""
    return evaluated(args, generation) or bool(args.evaluate_every and generation == args.generations)


@dataclass(frozen=True)
class Clock:
    """How long the generations so far have taken.

    Fields:
        searches: seconds of each, without its drive in the simulator
        drives: seconds of each of those drives
    """

    searches: list[float]
    drives: list[float]

    def left(self, searches: int, drives: int) -> str:
        """How long so many generations will take, so many of them with a drive, for the screen; "" for none."""
        if not searches:
            return ""
        seconds = float(np.mean(self.searches)) * searches
        seconds += float(np.mean(self.drives)) * drives if self.drives else 0.0
        unknown = "" if self.drives or not drives else f" and {counted(drives, 'drive')} in the simulator"
        return f"  {duration(seconds)}{unknown} left"


def drive_mean(args: EvolutionSettings, search: Search, evaluator: Evaluator) -> float:
    """The score of the search's mean in the simulator, always on the same seeds."""
    seeds = evaluator.different(selection_seeds(args.seed, args.selection_episodes))
    with progress(args, len(seeds), "its mean in the simulator") as bar:
        tasks = [(search.mean, seed) for seed in seeds]
        return float(np.mean(simulator_scores(evaluator, tasks, args.collision_cost, bar)))


def progress(args: EvolutionSettings, episodes: int, what: str) -> Bar:
    return Bar(total=episodes, desc=what, unit="episode", leave=False, disable=not args.display)
