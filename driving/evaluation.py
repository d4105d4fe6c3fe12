"""Episodes driven for their score, in the simulator by worker processes or in the dream as one batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dreamdrive.driving.policies import make_policy
from dreamdrive.envs import World, make
from dreamdrive.envs.dream import DreamWorld
from dreamdrive.models.agent import ALONE, Agent, filled, load_models, make_head
from dreamdrive.models.controller import Controller, set_parameters
from dreamdrive.models.policy import FRAMES
from dreamdrive.utils.workers import WorkerPool

REPORT_EVERY = 20  # steps between two reports of a worker
TOGETHER = 64  # episodes driven as one batch, at most
LARGE = 100_000  # parameters of a head that is sent and held once, where all episodes have the same


@dataclass(frozen=True)
class Driver:
    """Who drives.

    Fields:
        name: "agent", or a policy of driving/policies.py: "white", "brown", "expert"
        logdir: the run whose V and M an agent sees with
        head: config of the agent's controller; its parameters come with each task
    """

    name: str
    logdir: Path | None = None
    head: dict | None = None


@dataclass(frozen=True)
class Driven:
    """An episode that was driven: its undiscounted return, what else came of it (`World.outcome`), and where it
    happened."""

    score: float
    outcome: dict[str, float]
    place: str


class Evaluator:
    """Worker processes that drive episodes of one world, each several episodes as one batch; a context manager.

    with Evaluator("carracing", Driver("expert"), workers=2) as evaluator:  # `device` is where an agent thinks, and
    where carracing-fast draws
        returns = evaluator.returns([(None, seed) for seed in evaluation_seeds(0, 10)])

    Tasks that follow each other with one seed share a track, which carracing-fast draws once. Which episodes share a
    batch depends on the number of workers, what becomes of them does not (models.agent.LANES).
    """

    def __init__(
        self, env: str, driver: Driver, workers: int, device: str | torch.device = "cpu", options: dict | None = None
    ) -> None:
        self.steps = 0  # driven so far
        self.workers = workers
        self._sees_frames = driver.head is not None and driver.head["features"] == FRAMES
        self._pool = WorkerPool(_driving, (env, driver, str(device), options or {}), workers)

    def __enter__(self) -> "Evaluator":
        self._pool.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._pool.__exit__(*exception)

    def returns(
        self, tasks: Sequence[tuple[torch.Tensor | None, int]], bar: tqdm | None = None, give_up: int = 0
    ) -> list[float]:
        """Undiscounted return of each task; see `episodes`."""
        return [driven.score for driven in self.episodes(tasks, bar, give_up)]

    def episodes(
        self, tasks: Sequence[tuple[torch.Tensor | None, int]], bar: tqdm | None = None, give_up: int = 0
    ) -> list[Driven]:
        """The episode of each task (parameters of the agent's head or None, simulator seed); `bar` counts episodes,
        those under way by what is driven of them.

        give_up: after so many steps without a reward above 0 an episode ends, and what is left counts like its last
            step; 0 for never.
        """
        rounds = -(-len(tasks) // (TOGETHER * self.workers))  # for every worker, batches of much the same size
        size = -(-len(tasks) // (rounds * self.workers))
        groups = [tasks[i : i + size] for i in range(0, len(tasks), size)]
        head = tasks[0][0]
        large = head is not None and (self._sees_frames or head.numel() >= LARGE)
        # of all tasks, not of a group: what is computed must not depend on these
        alike = large and all(p is head for p, _ in tasks)
        found: list[list[Driven]] = [[] for _ in groups]
        driven, before = [0.0] * len(groups), bar.n if bar is not None else 0

        def keep(index: int, result: tuple[list[Driven], int]) -> None:
            found[index] = result[0]
            self.steps += result[1]

        def progress(index: int, episodes: float | None) -> None:
            driven[index] = 0.0 if episodes is None else driven[index] + episodes
            if bar is not None:
                bar.update(before + int(sum(driven) + 1e-6) - bar.n)

        heads = [head.numpy() if alike else [None if p is None else p.numpy() for p, _ in group] for group in groups]
        self._pool.run(
            [(own, [seed for _, seed in group], give_up) for own, group in zip(heads, groups, strict=True)],
            keep,
            progress,
        )
        return [driven for group in found for driven in group]


def _driving(env: str, driver: Driver, device: str, options: dict) -> Callable:
    """Set up a worker: worlds, a driver, and the function that drives some episodes: (parameters, seeds, give_up) ->
    (the episodes, steps driven)."""
    worlds: dict[int, World] = {}  # by number of copies
    drive = AgentDriver(driver, torch.device(device)) if driver.name == "agent" else PolicyDriver(driver.name)

    def episodes(task, report) -> tuple[list[Driven], int]:
        parameters, seeds, give_up = task
        if len(seeds) not in worlds:
            worlds[len(seeds)] = make(env, num=len(seeds), device=device, restart=False, **options)
            if isinstance(drive, PolicyDriver):
                worlds[len(seeds)].look_away()
        world = worlds[len(seeds)]
        obs = world.reset(seeds)
        drive.reset(world, seeds, parameters)
        total, going, driven, steps, share = (
            torch.zeros(len(seeds), dtype=torch.float64, device=device),
            torch.arange(len(seeds), device=device),
            0,
            0,
            0.0,
        )
        idle = torch.zeros(len(seeds), dtype=torch.int64, device=device)  # steps since a reward above 0
        action = world.spec.space.zeros(len(seeds), device=device)
        while len(going):
            action[going] = drive.act(obs, going).to(device)  # those that have ended are frozen, whatever they are told
            step = world.step(action)
            obs, total, driven, steps = step.obs, total + step.reward, driven + len(going), steps + 1
            over = (step.terminated | step.truncated)[going]
            idle = torch.where(step.reward > 0, 0, idle + 1)
            if give_up and (hopeless := ~over & (idle[going] >= give_up)).any():
                total[going[hopeless]] += step.reward[going[hopeless]] * (world.spec.max_steps - steps)
                world.truncate(going[hopeless].tolist())
                over |= hopeless
            share += len(going) / world.spec.max_steps + float(over.sum()) * (1 - steps / world.spec.max_steps)
            if steps % REPORT_EVERY == 0 or over.all():
                report(share)
                share = 0.0
            if over.any():
                drive.keep(~over)
                going = going[~over]
        outcome = {name: values.tolist() for name, values in world.outcome().items()}
        return [
            Driven(score, {name: values[b] for name, values in outcome.items()}, place)
            for b, (score, place) in enumerate(zip(total.tolist(), world.places(), strict=True))
        ], driven

    return episodes


class AgentDriver:
    """Agents that share V and M, if they have any, each with a head of its own."""

    def __init__(self, driver: Driver, device: torch.device) -> None:
        controller = make_head(driver.head).to(device).eval()
        if controller.config.features in ALONE:
            self.agent = ALONE[controller.config.features](controller, {}, {})
            return
        vae, mdrnn, world, _, parents = load_models(driver.logdir, device)
        self.agent = Agent(vae, mdrnn, controller, world, parents)

    def reset(self, world: World, seeds: Sequence[int], parameters: Sequence[np.ndarray] | np.ndarray) -> None:
        """`parameters`: of a head for each episode, or (n,) of one for all."""
        if isinstance(parameters, np.ndarray):
            set_parameters(self.agent.controller, torch.from_numpy(parameters).to(self.agent.device))
            self.agent.reset(len(seeds))
        else:
            self.agent.reset(len(seeds), torch.from_numpy(np.stack(parameters)).to(self.agent.device))

    def act(self, obs: torch.Tensor, going: torch.Tensor) -> torch.Tensor:
        """Actions of the copies that are still going, from the frames of all."""
        return self.agent.act(obs.index_select(0, going))

    def keep(self, which: torch.Tensor) -> None:
        """From now on only `which` (n,) bool of those that were going go on."""
        self.agent.keep(which)


class PolicyDriver:
    """A policy that needs no training and no eyes; what is random in it follows from the episode's seed."""

    def __init__(self, name: str) -> None:
        self.name = name

    def reset(self, world: World, seeds: Sequence[int], parameters) -> None:
        self.policy = make_policy(self.name, world.spec)
        self.policy.reset([np.random.default_rng([seed, 1]) for seed in seeds], world)

    def act(self, obs: torch.Tensor, going: torch.Tensor) -> torch.Tensor:
        return self.policy.act(obs)[going.cpu()]

    def keep(self, which: torch.Tensor) -> None:
        pass


@torch.inference_mode()
def dream_returns(world: DreamWorld, controller: Controller | None, seeds: Sequence[int]) -> list[float]:
    """Returns of one dream a copy, begun from `seeds`; without a controller the actions are uniformly random."""
    if world.restart:
        raise ValueError("dream_returns needs a DreamWorld with restart=False")
    world.reset(list(seeds))
    policy = make_policy("white", world.spec)
    policy.reset([np.random.default_rng([s, 1]) for s in seeds], world)
    total = torch.zeros(world.num, device=world.device)
    for _ in tqdm(range(world.spec.max_steps), desc="dream", unit="step"):
        z, h = world.dream.z, world.dream.h
        action = controller(filled(z), filled(h))[: world.num] if controller else policy.act(z)
        step = world.step(action)
        total += step.reward
        if bool((step.terminated | step.truncated).all()):
            break
    return total.tolist()
