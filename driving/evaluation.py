"""Episodes driven for their score, in the simulator by worker processes or in the dream as one batch."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamdrive.driving.agent import ALONE, Head, agent_of, in_dreams
from dreamdrive.driving.catalogue import PLAN
from dreamdrive.driving.driver import drive
from dreamdrive.driving.needed import needed
from dreamdrive.driving.planning import Plan, load_planner
from dreamdrive.driving.policies import make_policy
from dreamdrive.envs import World, fast, make, world_class
from dreamdrive.envs.catalogue import ONE_INSTANCE, require_module
from dreamdrive.envs.dream import DreamWorld
from dreamdrive.models.catalogue import FRAMES, OF_ACTOR_CRITIC
from dreamdrive.models.controller import Controller, set_parameters
from dreamdrive.models.heads import make_head
from dreamdrive.models.lanes import LANES
from dreamdrive.models.world_model import load_world_model
from dreamdrive.utils.cluster import Carried, Cluster
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.workers import WorkerPool

REPORT_EVERY = 20  # steps between two reports of a worker
TOGETHER = 64  # episodes driven as one batch, at most
GROUPS = 4  # batches that a worker of a cluster drives, one after another: nobody waits long for the slowest
LARGE = 100_000  # parameters of a head that is sent and held once, where all episodes have the same


@dataclass(frozen=True)
class DriverSpec:
    """Who is to drive.

    Fields:
        name: "agent", PLAN, or a policy of driving/policies.py: "white", "brown", "expert"
        logdir: the run whose V and M an agent sees with
        head: config of the agent's controller; its parameters come with each task
        plan: how to plan, of a driver called PLAN
    """

    name: str
    logdir: Path | None = None
    head: dict | None = None
    plan: Plan | None = None


@dataclass(frozen=True)
class Driven:
    """An episode that was driven: its undiscounted return, what else came of it (`World.outcome`), and where it
    happened."""

    score: float
    outcome: dict[str, float]
    place: str


def require_drivable(world: dict) -> None:
    """UserError where the world of a run ("env", "options") cannot be driven here and now, for want of its module or of
    its scenes: for stages that drive it after long work."""
    prepared(fast(world["env"]), world.get("options"))


def prepared(env: str, options: dict | None) -> Callable[[int], Any]:
    """Which episode a seed leads to (`World.prepare`); UserError where that world cannot be had here."""
    require_module(env)
    return world_class(env).prepare(**(options or {}))


class Evaluator:
    """Worker processes that drive episodes of one world, each several episodes as one batch; a context manager.

    with Evaluator("carracing", DriverSpec("expert"), workers=2) as evaluator:  # `device` is where an agent thinks, and
    where carracing-fast draws
        returns = evaluator.returns([(None, seed) for seed in evaluation_seeds(0, 10)])

    Tasks that follow each other with one seed share a track, which carracing-fast draws once. Which episodes share a
    batch depends on the number of workers, what becomes of them does not (models/lanes.py).
    """

    def __init__(
        self,
        env: str,
        spec: DriverSpec,
        workers: int,
        device: str | torch.device = "cpu",
        options: dict | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        self._which = prepared(env, options)  # before workers start
        self.steps = 0  # of the simulator, driven so far
        self.driven: dict[str, list] = {}  # what came of groups of tasks, for another process to know
        self.known: dict[str, list] = {}  # the same of another process: those need not be driven
        self._world = repr((env, spec, str(device), sorted((options or {}).items())))
        workers = 1 if (options or {}).get(ONE_INSTANCE) else workers
        # of a head of these kinds copies cannot have parameters of their own
        self._shared = spec.head is not None and (
            spec.head["features"] == FRAMES or spec.head.get("head") in OF_ACTOR_CRITIC
        )
        self._groups = GROUPS if cluster else 1
        where = str(device) if cluster is None else "cuda" if cluster.gpu else "cpu"
        carried = Carried(needed(env, options or {}, spec.logdir, ("ctrl",) if spec.name == PLAN else ()))
        self._pool = WorkerPool(_driving, (env, spec, where, options or {}), workers, cluster=cluster, carried=carried)

    @property
    def workers(self) -> int:
        """How many there are at most."""
        return self._pool.crew.size

    def __enter__(self) -> "Evaluator":
        self._pool.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._pool.__exit__(*exception)

    def different(self, seeds: Sequence[int]) -> list[int]:
        """The first of `seeds` that leads to each episode, so that none counts more often than another."""
        return [*{self._which(seed): seed for seed in reversed(seeds)}.values()][::-1]

    def returns(
        self, tasks: Sequence[tuple[torch.Tensor | None, int]], bar: Bar | None = None, patience: int = 0
    ) -> list[float]:
        """Undiscounted return of each task; see `episodes`."""
        return [driven.score for driven in self.episodes(tasks, bar, patience)]

    def episodes(
        self, tasks: Sequence[tuple[torch.Tensor | None, int]], bar: Bar | None = None, patience: int = 0
    ) -> list[Driven]:
        """The episode of each task (parameters of the agent's head or None, simulator seed); `bar` counts episodes,
        those under way by what is driven of them.

        patience: after so many steps without a reward above 0 an episode ends, and what is left counts like its last
            step; 0 for never.
        """
        size = self._together(len(tasks))
        groups = [tasks[i : i + size] for i in range(0, len(tasks), size)]
        head = tasks[0][0]
        large = head is not None and (self._shared or head.numel() >= LARGE)
        # of all tasks, not of a group: what is computed must not depend on these
        alike = large and all(p is head for p, _ in tasks)
        found: list[list[Driven]] = [[] for _ in groups]
        driven, before = [0.0] * len(groups), bar.n if bar is not None else 0
        names = [self._name(group, patience) for group in groups]

        def keep(index: int, result: tuple[list[Driven], int]) -> None:
            found[index] = result[0]
            self.steps += result[1]
            self.driven[names[index]] = [[[d.score, d.outcome, d.place] for d in result[0]], result[1]]

        def progress(index: int, episodes: float | None) -> None:
            driven[index] = 0.0 if episodes is None else driven[index] + episodes
            if bar is not None:
                bar.update(before + int(sum(driven) + 1e-6) - bar.n)

        heads: list[Any] = [
            head.numpy() if head is not None and alike else [None if p is None else p.numpy() for p, _ in group]
            for group in groups
        ]
        left = []
        for index, name in enumerate(names):
            there = self.known.get(name)
            if there and len(there[0]) == len(groups[index]):
                keep(index, ([Driven(*episode) for episode in there[0]], there[1]))
                progress(index, len(groups[index]))
            else:
                left.append(index)
        self._pool.run(
            [(heads[index], [seed for _, seed in groups[index]], patience) for index in left],
            lambda k, result: keep(left[k], result),
            lambda k, episodes: progress(left[k], episodes),
        )
        return [driven for group in found for driven in group]

    def _together(self, tasks: int) -> int:
        """How many of so many tasks are driven as one batch: of every worker much the same, and on a cluster a part of
        that, as far as networks do not mind."""
        rounds = -(-tasks // (TOGETHER * self.workers))
        size = -(-tasks // (rounds * self.workers))
        return max(-(-size // self._groups), min(size, LANES))

    def _name(self, group: Sequence[tuple[torch.Tensor | None, int]], patience: int) -> str:
        """A digest of all that comes of a group of tasks depends on."""
        said = hashlib.sha256(repr((self._world, patience)).encode())
        for head, seed in group:
            said.update(str(seed).encode() if head is None else head.numpy().tobytes() + str(seed).encode())
        return said.hexdigest()


def _driving(env: str, spec: DriverSpec, device: str, options: dict) -> Callable:
    """Set up a worker: worlds, a driver, and the function that drives some episodes: (parameters, seeds, patience) ->
    (the episodes, steps driven)."""
    worlds: dict[int, World] = {}  # by number of copies
    agent = _agent(spec, torch.device(device)) if spec.name in ("agent", PLAN) else None

    def one_by_one(task: tuple, report: Callable) -> tuple[list[Driven], int]:
        """Of a world that there can be one of; others may want it after these."""
        parameters, seeds, patience = task
        own = [parameters] * len(seeds) if isinstance(parameters, np.ndarray) else [[part] for part in parameters]
        found = [episodes((part, [seed], patience), report) for part, seed in zip(own, seeds, strict=True)]
        worlds.pop(1).close()
        return [one for driven, _ in found for one in driven], sum(steps for _, steps in found)

    def episodes(task: tuple, report: Callable) -> tuple[list[Driven], int]:
        parameters, seeds, patience = task
        if len(seeds) not in worlds:
            worlds[len(seeds)] = make(env, num=len(seeds), device=device, restart=False, **options)
            if agent is None:
                worlds[len(seeds)].look_away()
        world = worlds[len(seeds)]
        driver = agent or make_policy(spec.name, world)
        trained = agent is not None and spec.name != PLAN
        rngs = [] if trained else [np.random.default_rng([seed, 1]) for seed in seeds]
        own = _give(agent, parameters) if agent and trained else None
        total, driven, share = torch.zeros(len(seeds), dtype=torch.float64, device=device), 0, 0.0
        for moment in drive(world, driver, seeds, rngs, own, patience):
            if moment.step is None:
                continue
            total += moment.step.reward
            left = world.spec.max_steps - moment.steps
            hopeless = moment.drove[moment.hopeless]
            total[hopeless] += moment.step.reward[hopeless] * left  # what is left counts like the last step
            driven += world.spec.repeat * len(moment.drove)
            share += (len(moment.drove) + float(moment.over.sum()) * left) / world.spec.max_steps
            if moment.steps % REPORT_EVERY == 0 or not len(moment.going):
                report(share)
                share = 0.0
        for seed, score in zip(seeds, total.tolist(), strict=True):
            if not math.isfinite(score):
                raise UserError(f"the return of the episode of {env} with seed {seed} is {score}: mend that world")
        outcome = {name: values.tolist() for name, values in world.outcome().items()}
        return [
            Driven(score, {name: values[b] for name, values in outcome.items()}, place)
            for b, (score, place) in enumerate(zip(total.tolist(), world.places(), strict=True))
        ], driven

    return one_by_one if options.get(ONE_INSTANCE) else episodes


def _agent(spec: DriverSpec, device: torch.device) -> Head:
    """The agent with a head that has no parameters yet, or the planner."""
    if spec.plan is not None and spec.logdir is not None:
        return load_planner(spec.logdir, spec.plan, device)
    assert spec.head is not None, "an agent has a head"
    head = make_head(spec.head).to(device).eval()
    if head.config.features in ALONE:
        return ALONE[head.config.features](head, {}, {})
    assert spec.logdir is not None, "it sees by V and M of a run"
    return agent_of(load_world_model(spec.logdir, device), head, {})


def _give(agent: Head, parameters: Sequence[np.ndarray] | np.ndarray) -> torch.Tensor | None:
    """Parameters of a head for each episode, (B, n), or (n,) of one for all, which the head then has itself."""
    if isinstance(parameters, np.ndarray):
        set_parameters(agent.controller, torch.from_numpy(parameters).to(agent.device))
        return None
    return torch.from_numpy(np.stack(parameters)).to(agent.device)


@torch.inference_mode()
def dream_returns(world: DreamWorld, controller: Controller | None, seeds: Sequence[int]) -> list[float]:
    """Returns of one dream a copy, begun from `seeds`; without a controller the actions are uniformly random."""
    if world.restart:
        raise ValueError("dream_returns needs a DreamWorld with restart=False")
    driver = in_dreams(controller, world) if controller else make_policy("white", world)
    rngs = [np.random.default_rng([seed, 1]) for seed in seeds]
    total = torch.zeros(world.num, device=world.device)
    with Bar(total=world.spec.max_steps, desc="dream", unit="step") as bar:
        for moment in drive(world, driver, seeds, rngs):
            if moment.step is not None:
                total += moment.step.reward
                bar.update(1)
    return total.tolist()
