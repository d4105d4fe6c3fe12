"""A world model that is the simulator itself: what is dreamt is what happens. It tells what M's mistakes cost, and what
a method is worth if there were none.

A state is an episode's seed and what was done in it so far, as vectors: a copy of a state goes on as the state would
have, and a simulator that is elsewhere is brought there by doing all of it again. What is not possible is to look back
through it: a simulator has no gradients.
"""

from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dreamdrive.envs import Step, World, make
from dreamdrive.models.lanes import filled
from dreamdrive.models.world_model import Imagined, Memory, State, Steps, Vision
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.modules import only_named

NOWHERE = -1  # seed of copies that are in no episode of their own: of those who watch another one
SPARE = 32  # simulators that are kept beside those that are in use


@dataclass(frozen=True)
class SimulatedConfig:
    """What is simulated.

    Fields:
        latent: Z of V        action: A, the length of the action vector
        env, options, max_steps: as `envs.make` takes them
        hidden: R; heads see nothing of a simulator's state
    """

    latent: int
    action: int
    env: str
    options: dict = field(default_factory=dict)
    max_steps: int = 1000
    hidden: int = 1


@dataclass
class Run:
    """A simulator in an episode, and its last step."""

    world: World
    last: Step | None = None


class Simulated(Memory):
    """M of which every copy is an episode of its own."""

    kind = "simulator"
    sizes = SimulatedConfig
    rewarded = True
    from_starts = True
    config: SimulatedConfig

    def __init__(self, config: SimulatedConfig) -> None:
        super().__init__()
        self.config = config
        self.place = nn.Parameter(torch.zeros(1))  # which says by its device where V is
        self._runs: OrderedDict[bytes, Run] = OrderedDict()  # by the state they are in, the last one used last
        self._vision: Vision | None = None

    def meet(self, vision: Vision) -> None:
        object.__setattr__(self, "_vision", vision)  # whose weights are not M's

    def initial(self, num: int) -> State:
        return self.started(torch.full((num,), NOWHERE, device=self.place.device))

    def started(self, seeds: Tensor) -> State:
        past = torch.zeros(len(seeds), self.config.max_steps, self.config.action, device=seeds.device)
        h = torch.zeros(len(seeds), self.config.hidden, device=seeds.device)
        return State(h, {"seed": seeds, "past": past, "length": torch.zeros_like(seeds)})

    def observe(self, z: Tensor, action: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        if action.requires_grad or z.requires_grad:
            raise UserError(
                "a simulator has no gradients to learn from: train another M (trainmdrnn.py --core lstm), choose a "
                "world whose actions are choices, or evolve the controller"
            )
        state = self.initial(len(z)) if state is None else state
        past, length = state.more["past"].clone(), state.more["length"]
        copies = torch.arange(len(z), device=past.device)
        for vector in action.unbind(1):
            going = length < self.config.max_steps
            past[copies[going], length[going]] = vector[going]
            length = length + going
        h = state.h[:, None].expand(-1, z.shape[1], -1)
        return h, State(state.h, {"seed": state.more["seed"], "past": past, "length": length})

    def sample(self, state: State, temperature: float, noise: Any) -> Imagined:
        """What came of the last action; nothing is simulated before somebody asks for that."""
        runs = [self._run(*self._told(state, copy), len(state)) for copy in range(len(state))]
        steps = [run.last for run in runs if run.last is not None]
        if len(steps) < len(runs):
            raise UserError("nothing has been done yet in an episode that is asked what came of it")
        frames = filled(torch.cat([step.obs for step in steps]).to(self.place.device))
        assert self._vision is not None, "load_world_model introduces V"
        z = self._vision.z(self._vision.latents(frames))[: len(steps)]
        reward = torch.cat([step.reward for step in steps]).to(z)
        ended = torch.tensor([bool(step.terminated[0] | step.truncated[0]) for step in steps], device=z.device)
        return Imagined(z, reward, ended.to(z), ended)

    def likeliest(self, state: State) -> Tensor:
        """Zeros for copies that are in no episode of their own."""
        if (state.more["seed"] == NOWHERE).any():
            return state.h.new_zeros(len(state), self.config.latent)
        return self.sample(state, 0.0, None).z

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        raise UserError("a simulator has nothing to learn")

    @property
    def draws(self) -> tuple[int, int]:
        return 0, 0

    def noise(self, uniform: Tensor, normal: Tensor, copies: int = 1) -> None:
        return None

    def config_dict(self) -> dict:
        return asdict(self.config)

    @classmethod
    def from_config(cls, config: dict) -> "Simulated":
        return cls(SimulatedConfig(**config))

    def _told(self, state: State, copy: int) -> tuple[int, Tensor]:
        """A copy's seed and what was done in its episode (t, A)."""
        seed, length = int(state.more["seed"][copy]), int(state.more["length"][copy])
        if seed == NOWHERE:
            raise UserError(
                "a simulator dreams from an episode's beginning, or from what was done in it since, and here it is "
                "asked to go on from frames alone: choose another M (trainmdrnn.py --core lstm)"
            )
        return seed, state.more["past"][copy, :length].cpu()

    def _run(self, seed: int, done: Tensor, copies: int) -> Run:
        """A simulator in this episode after these actions: one that is there; one that is a step before; or else one
        that does all of them again. So many copies want one each."""
        key = _key(seed, done)
        run = self._runs.pop(key, None)
        if run is None:
            run = self._runs.pop(_key(seed, done[:-1]), None)
            if run is not None:
                self._do(run, done[-1])
            else:
                run = self._again(seed, done, copies)
        self._runs[key] = run
        return run

    def _again(self, seed: int, done: Tensor, copies: int) -> Run:
        if len(self._runs) >= max(SPARE, copies):  # that which nobody has asked for the longest
            run = Run(self._runs.popitem(last=False)[1].world)
        else:
            config = self.config
            with only_named():  # the name is a file's
                made = make(config.env, num=1, restart=False, max_steps=config.max_steps, **config.options)
            run = Run(made)
        run.world.reset([seed])
        for vector in done:
            self._do(run, vector)
        return run

    def _do(self, run: Run, vector: Tensor) -> None:
        run.last = run.world.step(run.world.spec.space.action(vector[None]))


def _key(seed: int, done: Tensor) -> bytes:
    """What tells states apart."""
    return b"%d %d " % (seed, len(done)) + done.numpy().tobytes()
