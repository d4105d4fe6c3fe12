"""Drivers that were trained: V, M and C together, from a frame to an action; C alone, where a world is observed as
numbers, or a dream as latents; or a policy that sees frames without V and M."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamdrive.driving.driver import Driver
from dreamdrive.envs.dream import DreamWorld
from dreamdrive.models.catalogue import WITHOUT_LATENTS
from dreamdrive.models.controller import Controller
from dreamdrive.models.heads import loaded_head
from dreamdrive.models.lanes import LANES, filled
from dreamdrive.models.policy import Policy
from dreamdrive.models.watcher import Watcher
from dreamdrive.models.world_model import WorldModel, joined_latents, load_world_model
from dreamdrive.utils import checkpoint, stages
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.spaces import ActionSpace

ENCODED_AT_ONCE = 256  # frames


def load_agent(
    logdir: Path, controller: str = "ctrl", device: str | torch.device = "cpu", name: str = "best.tar"
) -> "Head":
    """The agent of a run with one of its controllers, called as its folder is ("ctrl", "bc-dagger"), as it is in the
    checkpoint `name`."""
    device, path = torch.device(device), checkpoint.path(logdir, controller, name)
    # V's absence is to be told before a controller's
    alone = checkpoint.load(path, controller) if path.exists() else None
    if alone and alone["config"]["features"] in ALONE:
        head = loaded_head(alone, path, alone["world"]).to(device).eval()
        return ALONE[alone["config"]["features"]](head, alone["world"], {controller: alone["digest"]})
    model = load_world_model(logdir, device)
    saved = alone or checkpoint.load(path, controller)
    checkpoint.check_parents(saved, model.parents, path, controller)
    head = loaded_head(saved, path, model.world, model.memory.config).to(device).eval()
    return agent_of(model, head, {controller: saved["digest"]})


def agent_of(model: WorldModel, head: Any, digest: dict[str, str]) -> "Agent":
    """The agent of V, M and a head, whose digest is given by its stage."""
    return (WatchingAgent if isinstance(head, Watcher) else Agent)(model, head, digest)


def in_dreams(head: Any, dreams: DreamWorld) -> "Head":
    """A head that drives dreams."""
    return (WatchingDreamHead if isinstance(head, Watcher) else DreamHead)(head, dreams)


def world_trained_on(logdir: Path) -> dict | None:
    """The world that a run was trained for, by whatever checkpoint it has: env, image_shape, action_space, ...; None
    where it has none."""
    for stage in ("vae", *stages.controllers(logdir)):
        path = checkpoint.path(logdir, stage)
        if path.exists() and (world := checkpoint.load(path, stage).get("world")):
            return world
    return None


class Head(Driver):
    """B copies of C alone, which acts on observations that are numbers and remembers nothing. The same numbers give the
    same actions, to the last bit whoever drives beside them (on a CPU with a given number of threads): see LANES.

    Attributes:
        world: env, image_shape, action_space, dt and max_steps it was made for
        parents: digests of its checkpoints
        device: where it thinks
    """

    def __init__(self, controller: Controller | None, world: dict, parents: dict[str, str]) -> None:
        self.controller: Any = controller  # of a PolicyHead its Policy; None where V and M only watch
        self.world, self.parents = world, parents
        self.device: torch.device = next(controller.parameters()).device if controller else torch.device("cpu")

    def reset(self, num: int, rngs: Sequence[np.random.Generator] = (), parameters: Tensor | None = None) -> None:
        super().reset(num)
        self._parameters = None if parameters is None else filled(parameters)

    def keep(self, which: Tensor) -> None:
        super().keep(which)
        if self._parameters is not None:
            self._parameters = self._parameters[filled(which.nonzero()[:, 0])]

    @torch.inference_mode()
    def see(self, obs: Tensor) -> None:
        self._z = self._h = filled(obs).to(self.device)

    @property
    def z(self) -> Tensor:
        """(B, Z): latent of the last frame; or the last numbers (B, S)."""
        return self._z[: self.num]

    @property
    def h(self) -> Tensor:
        """(B, R): M's output before the last frame."""
        return self._h[: self.num]

    def outputs(self) -> Tensor:
        """C's raw outputs on the last observation, (B, A), before clipping or argmax."""
        return self.controller.outputs(self._z, self._h)[: self.num]

    def known(self, outputs: Tensor) -> Tensor:
        """C's outputs (B, A); UserError where they are NaN, of which a choice would be made, too."""
        if outputs.isnan().any():
            raise UserError(
                "the controller says NaN: what it sees, or V and M make of that, is too large for its weights; train "
                "them again, or take an earlier checkpoint"
            )
        return outputs

    @torch.inference_mode()
    def choose(self) -> Tensor:
        if self._parameters is None:
            return self.controller.space.action(self.known(self.outputs()))
        return self.controller.population_action(self._parameters, self._z[:, None], self._h[:, None])[: self.num, 0]


class Remembering(Head):
    """What copies of a policy that sees frames do, wherever these come from: it remembers them itself."""

    def reset(self, num: int, rngs: Sequence[np.random.Generator] = (), parameters: Tensor | None = None) -> None:
        if parameters is not None:
            raise ValueError("copies of a policy on frames all have the same parameters")
        super().reset(num, rngs)
        self._memory = self.controller.initial_state(num + -num % LANES)

    def keep(self, which: Tensor) -> None:
        super().keep(which)
        self._memory = self._memory[filled(which.nonzero()[:, 0])]

    def watch(self, frames: Tensor) -> None:
        """See frames uint8 of all lanes."""
        outputs, self._next = self.controller(frames[:, None], self._memory)
        self._outputs = outputs[: self.num, 0]

    def outputs(self) -> Tensor:
        return self._outputs

    def choose(self) -> Tensor:
        return self.controller.space.action(self.known(self._outputs))

    def follow(self, action: Tensor) -> None:
        super().follow(action)
        self._memory = self._next


class PolicyHead(Remembering):
    """B copies of a policy that sees frames and remembers them itself."""

    def __init__(self, policy: Policy, world: dict, parents: dict[str, str]) -> None:
        self.controller, self.world, self.parents, self.device = policy, world, parents, policy.head.weight.device

    @torch.inference_mode()
    def see(self, obs: Tensor) -> None:
        self.watch(filled(obs).to(self.device))


class DreamHead(Head):
    """B copies of C alone in a dream, whose latents it sees."""

    def __init__(self, controller: Controller, dreams: DreamWorld) -> None:
        super().__init__(controller, dreams.world, dreams.model.parents)
        self.dreams = dreams

    def known(self, outputs: Tensor) -> Tensor:
        """As they are: in a dream that diverges it is M that says NaN, and who dreams looks at the returns."""
        return outputs

    @torch.inference_mode()
    def see(self, obs: Tensor) -> None:
        dream = self.dreams.dream.take(self.copies.to(self.dreams.device))
        self._z, self._h = filled(dream.z), filled(dream.h)


class WatchingDreamHead(Remembering, DreamHead):
    """B copies of a watcher in a dream, which sees what V makes of its latents."""

    @torch.inference_mode()
    def see(self, obs: Tensor) -> None:
        super().see(obs)
        self.watch(self.dreams.model.vision.frames(self._z))


class Agent(Head):
    """B copies of (V, M, C): sees frames, remembers, acts. z is the likeliest, so that the same frames give the same
    actions."""

    def __init__(self, model: WorldModel, controller: Controller | None, digest: dict[str, str]) -> None:
        """`digest`: of the controller, by its stage."""
        super().__init__(controller, model.world, {**model.parents, **digest})
        self.vision, self.memory = model.vision, model.memory
        self.device = next(model.memory.parameters()).device
        self._space = ActionSpace.from_dict(model.world["action_space"])  # M's own

    def reset(self, num: int, rngs: Sequence[np.random.Generator] = (), parameters: Tensor | None = None) -> None:
        super().reset(num, rngs, parameters)
        self._state = self.memory.initial(num + -num % LANES)

    def keep(self, which: Tensor) -> None:
        super().keep(which)
        self._state = self._state.take(filled(which.nonzero()[:, 0]))

    @torch.inference_mode()
    def see(self, obs: Tensor) -> None:
        self._z = self.vision.z(self.vision.latents(filled(obs).to(self.device)))
        self._before, self._h = self._state, self._state.h

    @torch.inference_mode()
    def follow(self, action: Tensor) -> None:
        """M's step after `action` was taken on the last frame."""
        vector = filled(self._space.vector(action.to(self.device)))
        _, self._state = self.memory.observe(self._z[:, None], vector[:, None], self._state)

    def latents(self, frames: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """What was `z` (T, Z) and `h` (T, R) at each frame of an episode, uint8 (T, H, W, C), in which action (T, A) or
        (T,) was taken."""
        parts = [self.vision.latents(part.to(self.device)) for part in frames.split(ENCODED_AT_ONCE)]
        z = self.vision.z(joined_latents(parts))
        h, _ = self.memory.observe(z[None], self._space.vector(action.to(self.device))[None], self.memory.initial(1))
        return z, torch.cat([torch.zeros_like(h[0, :1]), h[0, :-1]])

    @torch.inference_mode()
    def reconstruction(self) -> Tensor:
        """What V makes of the last frame, uint8 (B, H, W, C)."""
        return self.vision.frames(self.z)

    @torch.inference_mode()
    def expectation(self) -> Tensor:
        """What M expected the last frame to be, uint8 (B, H, W, C)."""
        return self.vision.frames(self.memory.likeliest(self._before)[: self.num])


class WatchingAgent(Remembering, Agent):
    """B copies of (V, M, C) whose C sees what V makes of frames."""

    @torch.inference_mode()
    def see(self, obs: Tensor) -> None:
        super().see(obs)
        self.watch(self.vision.frames(self._z))


ALONE = dict(zip(WITHOUT_LATENTS, (Head, PolicyHead), strict=True))  # drivers by what their heads see
