"""A drive to be watched: the simulator, or the dream and beside it the simulator given the same actions."""

from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamdrive.data.episode import unknown_action
from dreamdrive.driving.agent import Agent, in_dreams
from dreamdrive.driving.cast import Cast
from dreamdrive.driving.catalogue import EXPERT, HUMAN, PLAN, RANDOM, UNTRAINED
from dreamdrive.driving.driver import Driver, Watched, drive
from dreamdrive.driving.planning import Learnt
from dreamdrive.driving.policies import make_policy
from dreamdrive.driving.recorder import Tape
from dreamdrive.envs import World, make
from dreamdrive.envs.dream import DreamWorld
from dreamdrive.models.world_model import Starts
from dreamdrive.playing.hands import Hands, Human
from dreamdrive.playing.show import Show
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.stages import is_controller
from dreamdrive.utils.video import people

# A dream and the simulator have parted when their frames were more than APART from each other, as shares of 255, for so
# many seconds, and so many steps at least (how that was measured: docs/play.md).
APART, LASTING, FEWEST = 0.1, 1.0, 10
DIMMED = 0.4


class Beside:
    """The simulator beside a dream that begins where it does, given the same actions, until they part or it ends.

    They have parted when their pictures have been more than APART from each other for a second: from then on they
    hardly ever come together again (docs/play.md).

    Attributes:
        simulator: one copy        steps: taken so far
        over: whether its episode has ended        parted: after how many steps they did; None while they have not
    """

    def __init__(self, world: World) -> None:
        self.simulator, self.steps, self.over = world, 0, False
        self.parted: int | None = None
        self._last: np.ndarray  # its dimmed picture, once it has ended

    def begin(self, dreams: DreamWorld, seed: int) -> None:
        """Start, and have the next dream of `dreams` start from what is seen here."""
        self._obs, self.steps, self.over, self.parted = self.simulator.reset([seed]), 0, False, None
        self._far = 0  # steps, until now, of which they are far apart
        with torch.inference_mode():
            latents = dreams.vision.latents(self._obs.to(dreams.device))
            state = dreams.memory.started(torch.tensor([seed], device=dreams.device))
        dreams.starts = Starts(dreams.vision, latents, state)

    def step(self, action: torch.Tensor, frame: np.ndarray) -> None:
        """Take the dream's action (1, A) or (1,), which has led to its `frame`."""
        if self.ended:
            return
        step = self.simulator.step(action)
        self._obs, self.over = step.obs, bool(step.terminated | step.truncated)
        self.steps += 1
        self._far = self._far + 1 if self.apart(frame) > APART else 0
        if self._far >= max(FEWEST, round(LASTING / self.simulator.spec.dt)):
            self.parted = self.steps - self._far
        if self.ended:
            self._last = (people(self.simulator.render()) * DIMMED).astype(np.uint8)

    @property
    def ended(self) -> str:
        """Why nothing moves here any more; empty while it does."""
        if self.parted is not None:
            return f"parted after {self.parted} steps"
        return f"over after {self.steps} steps" if self.over else ""

    @property
    def panel(self) -> str:
        """The name of its picture."""
        return f"the simulator: {self.ended}" if self.ended else "the simulator, given the same"

    @property
    def picture(self) -> np.ndarray:
        """What it shows, or dimmed what it showed when it ended, (h, w, 3)."""
        return self._last if self.ended else people(self.simulator.render())

    def apart(self, frame: np.ndarray) -> float:
        """How far a dream's frame (H, W, C) is from what is seen here: root mean square, in shares of 255."""
        return float(np.sqrt(np.mean(((frame - self._obs[0].numpy().astype(np.float32)) / 255) ** 2)))


class Drive(Show):
    """A world, who drives in it, and what V and M make of it.

    Attributes:
        total: return so far        action: the last one, as plain numbers; None at an episode's start
        frame: what is seen now, (H, W, C) or (S,); decoded, in a dream
        tape, drove: what happened in the episode, and how many steps each driver took
    """

    def __init__(
        self,
        world: World,
        drivers: Mapping[str, Driver],
        driver: str,
        seeds: Callable[[int], int],
        count: int | None = None,
        watching: Agent | None = None,
        beside: Beside | None = None,
        learnt: Learnt | None = None,
        taped: bool = False,
        framed: bool = False,
    ) -> None:
        """
        Args:
            drivers: those who may drive beside a person, and `driver` who does at first
            seeds: number of an episode -> the simulator's seed
            watching: V and M, of whose view there are panels, in the simulator
            beside: the simulator, for a dream
            learnt: whose critic says what a moment is worth
            taped: whether all of an episode is remembered
            framed: whether there is a panel of the frame in the simulator, even where it shows what its picture does
        """
        self.world, self.watching, self.beside, self.learnt = world, watching, beside, learnt
        self.seeds, self.count, self.dt, self.taped = seeds, count, world.spec.dt, taped
        self.keys, self.title = world.keyboard(), world.spec.name
        self.human = Human(self.keys)
        self.hands = Hands({**drivers, HUMAN: self.human}, driver)
        inside = watching in self.hands.drivers.values()
        self.driving: Driver = self.hands if watching is None or inside else Watched(self.hands, watching)
        self.dreamt = isinstance(world, DreamWorld)
        self.framed = not self.dreamt and (world.seen_apart or (framed and world.spec.pictures))

    @property
    def panels(self) -> list[str]:  # type: ignore[override]
        if self.dreamt:
            return ["the dream", *([self.beside.panel] if self.beside else [])]
        own = ["the simulator", *["what is seen of it"] * self.framed]
        return [*own, "what V makes of it", "what M expected"] if self.watching else own

    @property
    def drivers(self) -> list[str]:  # type: ignore[override]
        return list(self.hands.drivers)

    @property
    def driver(self) -> str:  # type: ignore[override]
        return self.hands.now

    @driver.setter
    def driver(self, name: str) -> None:
        self.hands.now = name

    def begin(self, number: int) -> None:
        self.seed, self.total, self.number = self.seeds(number), 0.0, number
        self.action: Any = None
        self.tape, self.drove = Tape(), dict.fromkeys(self.drivers, 0)
        if self.beside and isinstance(self.world, DreamWorld):
            self.beside.begin(self.world, self.seed)
        self._moments = drive(self.world, self.driving, [self.seed], [np.random.default_rng([self.seed, 1])])
        self._moment = next(self._moments)
        if number == 0:
            self._dismiss_expert()
        self._reward, self.frame = 0.0, self._seen()
        self.tape.frames.append(self.frame)

    def _dismiss_expert(self) -> None:
        """Nobody takes over as an expert in a world that has none."""
        if EXPERT in self.hands.drivers and self.driver != EXPERT:
            try:
                self.world.expert_action()
            except UserError:
                del self.hands.drivers[EXPERT]

    @property
    def steps(self) -> int:  # type: ignore[override]
        return self._moment.steps

    @property
    def over(self) -> bool:  # type: ignore[override]
        return not len(self._moment.going)

    def step(self, held: Set[str]) -> None:
        self.human.held, name = held, self.driver
        self._moment = next(self._moments)
        step = self._moment.step
        assert step is not None, "it was taken"
        taken = self._moment.action[0]
        self.action, self._reward, self.frame = taken.tolist(), float(step.reward), self._seen()
        self.total += self._reward
        self.drove[name] += 1
        if self.taped:
            label = taken.numpy() if name in (HUMAN, EXPERT) else unknown_action(self.world.spec.space)
            self.tape.note(self.frame, taken, label, self._reward, bool(step.terminated), bool(step.truncated))
        if self.over and self.watching:
            self.watching.see(self._moment.obs)
        if self.beside is not None:
            self.beside.step(self._moment.action, self.frame)

    def images(self) -> list[np.ndarray]:
        if self.dreamt:
            return [people(self.frame), *([self.beside.picture] if self.beside else [])]
        shown = [people(self.world.render()), *([people(self.frame)] if self.framed else [])]
        if self.watching:
            shown += [people(self.watching.reconstruction()[0].numpy()), people(self.watching.expectation()[0].numpy())]
        return shown

    def facts(self) -> dict[str, Any]:
        action = {} if self.action is None or self.keys is None else {"action": self.keys.words(self.action)}
        return {"driver": self.driver, "seed": self.seed, "step": self.steps, "return": self.total, **action}

    def header(self) -> dict[str, Any]:
        known: dict[str, Any] = {"reward": self._reward, "horizon": self.world.spec.max_steps}
        if isinstance(self.world, DreamWorld):
            known |= {"end probability": f"{float(self.world.ending) if self.steps else 0.0:.3f}"}
        if self.learnt is not None and (seen := self._latents()) is not None:
            known |= {"value": float(self.learnt.value(*seen))}
        if self.beside is not None:
            known |= {"apart": "-" if self.beside.ended else f"{self.beside.apart(self.frame):.3f}"}
        return known

    @property
    def moment(self) -> tuple[np.ndarray, Any, float]:
        return self.frame, self.action, self._reward

    def result(self) -> str:
        return f"seed {self.seed}: return {self.total:.1f} in {self.steps} steps"

    def close(self) -> None:
        for world in (self.world, *([self.beside.simulator] if self.beside else [])):
            world.close()

    def _seen(self) -> np.ndarray:
        if isinstance(self.world, DreamWorld):
            return self.world.decode(self.world.dream.z)[0].cpu().numpy()
        return self._moment.obs[0].numpy().copy()

    def _latents(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """z (1, Z) and h (1, R) now; None where nobody looks through V and M."""
        if isinstance(self.world, DreamWorld):
            return self.world.dream.z, self.world.dream.h
        return (self.watching.z, self.watching.h) if self.watching is not None else None


def dream_of(logdir: Path, temperature: float, horizon: int) -> DreamWorld:
    """A dream of a run, to be looked at."""
    return DreamWorld(logdir, 1, "cpu", temperature, horizon, restart=False, observation="latent")


def simulator_of(who: Cast) -> World:
    """The simulator in which somebody drives, to be looked at."""
    return make(who.env, restart=False, **who.options)


def make_drive(
    world: World,
    who: Cast,
    driver: str,
    seeds: Callable[[int], int],
    count: int | None = None,
    reconstruction: bool = True,
    **more: Any,
) -> Drive:
    """The drive of `driver`, a controller's name, which may be handed over to others; the rest as of `Drive`, which has
    panels of what V and M make of it if there are such and `reconstruction` is asked for."""
    dreamt = isinstance(world, DreamWorld)
    drivers: dict[str, Driver] = {}
    if who.agent is not None and (who.name == PLAN or is_controller(who.name)):
        drivers[who.name] = in_dreams(who.agent.controller, world) if isinstance(world, DreamWorld) else who.agent
    for name in (driver, RANDOM, *([] if dreamt else [EXPERT])):
        if name in UNTRAINED and name not in drivers:
            drivers[name] = make_policy(UNTRAINED[name], world)
    watching = who.agent if reconstruction and not dreamt and isinstance(who.agent, Agent) else None
    return Drive(world, drivers, driver, seeds, count, watching, **more)
