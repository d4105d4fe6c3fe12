"""Episodes driven for their score, in the simulator by worker processes or in the dream as one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.policies import make_policy
from envs import World, make
from envs.dream import DreamWorld
from models.agent import Agent, load_models
from models.controller import Controller, ControllerConfig, set_parameters
from utils.workers import WorkerPool

ALIVE_EVERY = 100  # steps between two signs of life of a worker


@dataclass(frozen=True)
class Driver:
    """Who drives.

    Fields:
        name: "agent", or a policy of data/policies.py: "white", "brown", "expert"
        logdir: the run whose V and M an agent sees with
        head: config of the agent's controller; its parameters come with each task
    """

    name: str
    logdir: Path | None = None
    head: dict | None = None


class Evaluator:
    """Worker processes that drive episodes of one world; a context manager.

    with Evaluator("carracing", Driver("expert"), workers=2) as evaluator:
        returns = evaluator.returns([(None, seed) for seed in evaluation_seeds(0, 10)])
    """

    def __init__(self, env: str, driver: Driver, workers: int) -> None:
        self.steps = 0  # driven so far
        self._pool = WorkerPool(_driving, (env, driver), workers)

    def __enter__(self) -> "Evaluator":
        self._pool.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._pool.__exit__(*exception)

    def returns(self, tasks: Sequence[tuple[torch.Tensor | None, int]], bar: tqdm | None = None) -> list[float]:
        """Undiscounted return of each task (parameters of the agent's head or None, simulator seed); `bar` counts episodes."""
        found: list[float] = [0.0] * len(tasks)

        def keep(index: int, result: tuple[float, int]) -> None:
            found[index] = result[0]
            self.steps += result[1]
            if bar is not None:
                bar.update(1)

        self._pool.run([(None if p is None else p.numpy(), seed) for p, seed in tasks], keep)
        return found


def _driving(env: str, driver: Driver):
    """Set up a worker: a world, a driver, and the function that drives one episode: (parameters, seed) -> (return, steps)."""
    world = make(env, restart=False)
    drive = AgentDriver(driver) if driver.name == "agent" else PolicyDriver(driver.name, world)
    if isinstance(drive, PolicyDriver):
        world.look_away()

    def episode(task, report) -> tuple[float, int]:
        parameters, seed = task
        obs = world.reset([seed])
        drive.reset(world, seed, parameters)
        total, steps = 0.0, 0
        while True:
            step = world.step(drive.act(obs))
            obs, total, steps = step.obs, total + float(step.reward), steps + 1
            if steps % ALIVE_EVERY == 0:
                report(steps)
            if step.terminated or step.truncated:
                return total, steps

    return episode


class AgentDriver:
    """An agent whose head takes its parameters anew for every episode."""

    def __init__(self, driver: Driver) -> None:
        device = torch.device("cpu")
        vae, mdrnn, world, _, parents = load_models(driver.logdir, device)
        self.agent = Agent(vae, mdrnn, Controller(ControllerConfig(**driver.head)), world, parents)

    def reset(self, world: World, seed: int, parameters) -> None:
        set_parameters(self.agent.controller, torch.as_tensor(parameters))
        self.agent.reset(world.num)

    def act(self, obs: torch.Tensor) -> torch.Tensor:
        return self.agent.act(obs)


class PolicyDriver:
    """A policy that needs no training and no eyes; what is random in it follows from the episode's seed."""

    def __init__(self, name: str, world: World) -> None:
        self.policy = make_policy(name, world.spec)

    def reset(self, world: World, seed: int, parameters) -> None:
        self.policy.reset([np.random.default_rng([seed, 1])], world)

    def act(self, obs: torch.Tensor) -> torch.Tensor:
        return self.policy.act(obs)


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
        action = controller(world.dream.z, world.dream.h) if controller else policy.act(world.dream.z)
        step = world.step(action)
        total += step.reward
        if bool((step.terminated | step.truncated).all()):
            break
    return total.tolist()
