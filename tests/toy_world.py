"""What a new world takes: this file, and one line in envs/catalogue.py. The cursor is to be kept on the middle of a
line.

    python -m dreamdrive.tests.toy_world data.generation_script --env toy ...        a script with this world in it
"""

import importlib
import sys

import gymnasium as gym
import numpy as np
import torch

from dreamdrive.envs import Listed, Option, Step, World, WorldSpec, catalogue
from dreamdrive.utils import script
from dreamdrive.utils.argument_types import positive_float
from dreamdrive.utils.keys import NumberKeys, Push

OPTIONS = (
    Option("wind", "how far it blows a cursor", positive_float, default=0.5),
    Option("landscape", "file of the hills around", str, place=True),
    Option("calm"),
)
LINE = {"toy": Listed("dreamdrive.tests.toy_world:Toy", OPTIONS)}


class Toy(World):
    """`num` cursors, seen as (place, wind); action (B, 1) moves them by -1 to 1, and so does the wind."""

    NUMBERS = None
    SCORED_WITH = {"calm": True}  # noqa: RUF012

    def __init__(self, num=1, device="cpu", max_steps=None, restart=True, wind=0.5, landscape=None, calm=False):
        self.num, self.device, self.wind = num, torch.device(device), 0.0 if calm else wind
        space = gym.spaces.Box(np.float32([-1]), np.float32([1]))
        options = {"wind": wind, "landscape": landscape}
        self.spec = WorldSpec("toy", (2,), space, 0.1, max_steps or 5, options=options)

    def reset(self, seed):
        self.place, self.steps = torch.tensor(self.seeds(seed)[0]).float().remainder(7), 0
        return self.seen()

    def seen(self):
        return torch.stack([self.place, torch.full_like(self.place, self.wind)], 1)

    def step(self, action):
        self.place, self.steps = self.place + action[:, 0] + self.wind, self.steps + 1
        over = torch.full((self.num,), self.steps >= self.spec.max_steps)
        obs = self.seen()
        return Step(obs, -self.place.abs(), torch.zeros_like(over), over, {"final_obs": obs})

    @classmethod
    def keys(cls, space):
        return NumberKeys(space, {"j": Push(0, -1, "back"), "k": Push(0, 1, "on")}, names=("cursor",))

    def expert_action(self):
        return -(self.place + self.wind).clamp(-1, 1)[:, None]

    def outcome(self):
        return {"wind": torch.full((self.num,), self.wind)}


catalogue.WORLDS |= LINE  # the one line; here, so that a worker process has it too

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    script.run(importlib.import_module(f"dreamdrive.{sys.argv[0]}").main)
