"""Using runs, worlds and datasets from Python; docs/api.md has examples.

    run = dreamdrive.load_run("carracing")
    z = run.encode(frames)
    dreamt = run.dream(actions, seed=0)
    agent = run.agent("bc")

Frames are uint8 (N, H, W, C) and actions (N, A) float32, or (N,) int64 where they are choices, as worlds have them;
both may be numpy arrays or tensors. What comes back are tensors on the run's device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamdrive import envs
from dreamdrive.driving.agent import Head, in_dreams, load_agent
from dreamdrive.driving.catalogue import check_driver, usual_controller
from dreamdrive.envs.dream import Dream, DreamWorld
from dreamdrive.models.world_model import WorldModel, load_world_model
from dreamdrive.utils import checkpoint, runs, stages
from dreamdrive.utils.device import device as choose_device
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.modules import only_named
from dreamdrive.utils.spaces import ActionSpace

ENCODED_AT_ONCE = 256  # frames


def load_run(logdir: str | Path, device: str = "cpu") -> "Run":
    """The run in the folder `logdir`, or the one that came with dreamdrive under that name; UserError where there is
    none. `device` is where its networks work: "cpu", "cuda", or "auto" for a GPU where there is one."""
    folder = runs.find(logdir)
    if not any(checkpoint.path(folder, stage).exists() for stage in stages.folders(folder)):
        raise UserError(
            f"{logdir} holds no trained run: give the --logdir of one, or the name of one of those that came with "
            f"dreamdrive: {', '.join(runs.shipped())}"
        )
    return Run(folder, choose_device(device))


@dataclass(frozen=True)
class Dreamt:
    """B dreams of T steps. One that has ended stays as it is, and its rewards are 0.

    Fields:
        z: (B, T + 1, Z) latents, the start's first
        frames: uint8 (B, T + 1, H, W, C), what they look like
        reward: (B, T)
        ended: bool (B, T), whether the episode is over after the step
    """

    z: Tensor
    frames: Tensor
    reward: Tensor
    ended: Tensor


class Run:
    """A trained run: its world model, V and M, and those who drive with it.

    Attributes:
        folder: where its files are        device: where its networks work
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device

    @cached_property
    def model(self) -> WorldModel:
        """V and M; UserError for a run without them, such as pretrained/breakout."""
        return load_world_model(self.folder, self.device)

    @cached_property
    def world(self) -> dict:
        """The world it was trained on, as plain values: env, image_shape, action_space, dt, max_steps, options."""
        if checkpoint.path(self.folder, "vae").exists():
            return checkpoint.load_parent(self.folder, "vae")["world"]
        return self.agent().world

    @property
    def space(self) -> ActionSpace:
        """The world's actions."""
        return ActionSpace.from_dict(self.world["action_space"])

    @torch.inference_mode()
    def encode(self, frames: np.ndarray | Tensor) -> Tensor:
        """frames uint8 (N, H, W, C) -> z (N, Z): what V makes of them, without noise."""
        shape = tuple(self.world["image_shape"])
        frames = torch.as_tensor(frames)
        if frames.dtype != torch.uint8 or tuple(frames.shape[1:]) != shape:
            raise UserError(
                f"frames must be uint8 (N, {', '.join(map(str, shape))}), not {frames.dtype} {tuple(frames.shape)}"
            )
        vision = self.model.vision
        parts = [vision.z(vision.latents(part.to(self.device))) for part in frames.split(ENCODED_AT_ONCE)]
        return torch.cat(parts).float()

    @torch.inference_mode()
    def decode(self, z: Tensor) -> Tensor:
        """z (N, Z) -> frames uint8 (N, H, W, C): what they look like."""
        return torch.cat([self.model.vision.frames(part.to(self.device)) for part in z.split(ENCODED_AT_ONCE)])

    def starts(self, num: int, seed: int | Sequence[int] = 0) -> Dream:
        """`num` moments for dreams to start from, drawn from those the run was trained on: each has z (num, Z), and
        M's state after the real steps before. The b-th follows from seed + b, or from the b-th of the seeds."""
        dreams = self.dreams(num)
        dreams.reset(seed)
        return dreams.dream

    @torch.inference_mode()
    def start(self, frames: np.ndarray | Tensor, actions: np.ndarray | Tensor | None = None) -> Dream:
        """The moment after an episode's first t steps, for a dream to start from: frames uint8 (t + 1, H, W, C), and
        actions (t, A) or (t,), each taken on its frame; a single frame needs none."""
        z = self.encode(frames)
        actions = self.space.zeros(0) if actions is None else torch.as_tensor(actions)
        if len(z) != len(actions) + 1:
            raise UserError(f"a start takes one frame more than actions, not {len(z)} and {len(actions)}")
        memory = self.model.memory
        state = memory.initial(1)
        if len(actions):
            vectors = self.space.vector(actions.to(self.device))
            _, state = memory.observe(z[None, :-1], vectors[None], state)
        return Dream(z[-1:], state)

    @torch.inference_mode()
    def dream(
        self,
        actions: np.ndarray | Tensor,
        start: Dream | None = None,
        temperature: float = 1.0,
        seed: int | Sequence[int] = 0,
    ) -> Dreamt:
        """What M makes of actions (B, T, A), or (B, T) of choices, taken one after another from B moments: from
        `start`, of which a single one serves all, or else from the seeds' own (see `starts`). What is random in the
        b-th dream follows from its seed; at temperature 0 the likeliest future is dreamt."""
        actions = torch.as_tensor(actions)
        if actions.ndim < 2 or actions.shape[2:] != self.space.shape or 0 in actions.shape:
            wanted = ", ".join(("B", "T", *map(str, self.space.shape)))
            raise UserError(f"actions must be ({wanted}), not {tuple(actions.shape)}")
        dreams = self.dreams(len(actions), temperature=temperature, horizon=actions.shape[1])
        dreams.reset(seed)
        if start is not None:
            given = start.repeat(len(actions)) if len(start.z) == 1 else start
            if len(given.z) != len(actions):
                raise UserError(
                    f"actions are for {len(actions)} dreams and there are {len(given.z)} starts: give as many"
                )
            dreams.dream = given
        z = [dreams.dream.z]
        steps = [dreams.step(action) for action in actions.unbind(1)]
        latents = torch.stack([*z, *(step.obs for step in steps)], 1)
        frames = self.decode(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
        reward, ended = (torch.stack([getattr(step, name) for step in steps], 1) for name in ("reward", "terminated"))
        return Dreamt(latents, frames, reward, ended)

    def dreams(self, num: int = 1, **options: Any) -> DreamWorld:
        """`num` dreams as a world, to be driven like any other: obs are latents, and options `temperature` and
        `horizon`."""
        return DreamWorld(
            self.folder, num, self.device, restart=False, observation="latent", model=self.model, **options
        )

    def agent(self, controller: str | None = None, dreams: DreamWorld | None = None) -> Head:
        """The trained driver of this run, to be given to `drive`: its evolved ("ctrl") or its cloned ("bc")
        controller, or another by its name ("bc-dagger"), see `controllers`; by default the evolved one, if there is
        one. It sees frames; where `dreams` of this run are given, it drives in these. UserError for one that is not
        there."""
        if controller is not None:
            check_driver(controller, self.folder, ())
        agent = load_agent(self.folder, controller or usual_controller(self.folder), self.device)
        return agent if dreams is None else in_dreams(agent.controller, dreams)

    @property
    def controllers(self) -> list[str]:
        """Those that `agent` can be asked for."""
        return stages.controllers(self.folder)

    def simulator(self, num: int = 1, **options: Any) -> envs.World:
        """`num` copies of the simulator the run was trained for; `options` as of `make`."""
        own = envs.without_places(self.world["env"], self.world.get("options", {}))
        with only_named():  # the name is a file's
            return envs.make(self.world["env"], num, **{**own, "restart": False, **options})
