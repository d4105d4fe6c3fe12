"""Episodes that are driven to be kept: the recorder of stage 1 and of DAgger."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dreamdrive.data.episode import Episode, unknown_action
from dreamdrive.driving.agent import Head, load_agent
from dreamdrive.driving.catalogue import trained
from dreamdrive.driving.disturbance import Disturbance, Disturbed
from dreamdrive.driving.driver import Driver, drive
from dreamdrive.driving.mixture import Labelled, Mixture
from dreamdrive.driving.policies import draw_policy, make_policy
from dreamdrive.envs import Step, World
from dreamdrive.envs.catalogue import ONE_INSTANCE
from dreamdrive.utils.seeds import recording_seed

REPORT_EVERY = 25  # frames


@dataclass(frozen=True)
class Recipe:
    """What a worker needs to record; `make_world` is called as `envs.make` is. Without `max_steps` it may be looked at,
    but not be recorded."""

    make_world: Callable[..., World]
    env: str
    max_steps: int | None
    seed: int
    mixture: dict[str, float]
    action_noise: float
    logdir: Path
    options: dict = field(default_factory=dict)
    checkpoint: str = "best.tar"
    give_up: int = 0
    skip: int = 0


class Recorder:
    """Records episodes of one recipe, several as one batch."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._worlds: dict[int, World] = {}  # by number of copies
        self.space = self._world(1).spec.space
        self._trained: dict[str, Head] = {
            name: load_agent(recipe.logdir, stage, name=recipe.checkpoint)
            for name in recipe.mixture
            if (stage := trained(name))
        }

    def record(self, indices: Sequence[int], report: Callable[[int], None] = lambda frames: None) -> list[Episode]:
        """The episodes `indices`; the simulator seed, driver and every draw of episode i follow from (seed, i),
        whatever is recorded beside it."""
        if self.recipe.options.get(ONE_INSTANCE) and len(indices) > 1:
            return [episode for i in indices for episode in self.record([i], report)]
        seed, world = self.recipe.seed, self._world(len(indices))
        numbers = [self.recipe.skip + i for i in indices]  # among all episodes of the seed
        names = [draw_policy(self.recipe.mixture, seed, i) for i in numbers]
        seeds = [recording_seed(seed, i) for i in numbers]
        mixture = Mixture({name: self._driver(name, world) for name in dict.fromkeys(names)}, names, self.space)
        labelled = Labelled(mixture, world)
        disturbances = [self._disturbance(name, world, i) for name, i in zip(names, numbers, strict=True)]
        taped, unreported = [Tape() for _ in indices], 0
        rngs = [np.random.default_rng([seed, i, 0]) for i in numbers]
        for moment in drive(world, Disturbed(labelled, disturbances), seeds, rngs, patience=self.recipe.give_up):
            if moment.step is None:
                for tape, obs in zip(taped, moment.obs, strict=True):
                    tape.frames.append(obs.numpy().copy())
                continue
            for row, b in enumerate(moment.drove.tolist()):
                label = labelled.label[row].numpy() if labelled.known[row] else unknown_action(self.space)
                taped[b].add(moment.action[b], label, moment.step, b, bool(moment.hopeless[row]))
            unreported += len(moment.drove)
            if unreported >= REPORT_EVERY or not len(moment.going):
                report(unreported)
                unreported = 0
        policies = list(self.recipe.mixture)
        return [
            tape.episode(i, seeds[b], policies.index(names[b]), self._world(1).held_out(seeds[b]))
            for b, (tape, i) in enumerate(zip(taped, indices, strict=True))
        ]

    def _driver(self, name: str, world: World) -> Driver:
        return self._trained[name] if name in self._trained else make_policy(name, world)

    def _disturbance(self, name: str, world: World, i: int) -> Disturbance:
        scale = self.recipe.action_noise if name == "expert" or trained(name) else 0
        return Disturbance(scale, world.spec, np.random.default_rng([self.recipe.seed, i, 1]))

    def _world(self, num: int) -> World:
        if num not in self._worlds:
            recipe = self.recipe
            limits = {"max_steps": recipe.max_steps, "restart": False}
            self._worlds[num] = recipe.make_world(recipe.env, num=num, **limits, **recipe.options)
        return self._worlds[num]


class Tape:
    """What happened in one copy."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []
        self.rows: list[tuple[Any, ...]] = []

    def add(self, action: Tensor, label: np.ndarray, step: Step, copy: int, hopeless: bool) -> None:
        """A step of copy number `copy`, and the frame it led to; `hopeless`: its episode was given up there."""
        ends = bool(step.terminated[copy]), bool(step.truncated[copy]) or hopeless
        self.note(step.obs[copy].numpy().copy(), action, label, float(step.reward[copy]), *ends)

    def note(
        self, frame: np.ndarray, action: Tensor, label: np.ndarray, reward: float, terminated: bool, truncated: bool
    ) -> None:
        """A step: the frame it led to, and the rest of its row in a shard."""
        self.frames.append(frame)
        self.rows.append((action.numpy().copy(), label, reward, terminated, truncated))

    def episode(self, index: int, seed: int, policy: int, held_out: bool | None) -> Episode:
        action, label, reward, terminated, truncated = (np.array(column) for column in zip(*self.rows, strict=True))
        ends = terminated, truncated
        frames, reward = np.stack(self.frames), reward.astype(np.float32)
        return Episode(frames, action, label, reward, *ends, index, seed, policy, held_out)
