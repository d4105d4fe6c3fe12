"""A world small and quick enough to record by the hundred, and one that fails in every way a simulator can.

    python -m tests.tiny_world --env tiny ...

is data/generation_script.py with this world; KILL_AT=n kills it (SIGKILL) at its n-th rename.
"""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

from dreamdrive.data import generation_script
from dreamdrive.data.episode import Episode
from dreamdrive.driving.recorder import Recipe, Recorder
from dreamdrive.envs import Step, World, WorldSpec
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.script import run

SHAPE = (8, 8, 3)


class TinyWorld(World):
    """Noise that drifts with the action; an episode ends by itself after 5 to 60 steps, as its seed says.

    Names: "tiny", "tiny-discrete"; "tiny-slow" takes 5 ms a step; "tiny-blind" has no expert; in "tiny-sabotaged" the
    first worker to find the file named by SABOTAGE does what it says: "kill", "raise" (each once, as it deletes the
    file), "always raise", or "user error".
    """

    def __init__(self, name: str, num: int = 1, max_steps: int = 1000, restart: bool = True):
        assert not restart
        self.num, self.device = num, torch.device("cpu")
        space = (
            gym.spaces.Discrete(4)
            if name == "tiny-discrete"
            else gym.spaces.Box(np.array([-1, 0], np.float32), np.array([1, 1], np.float32))
        )
        self.spec = WorldSpec(name, SHAPE, space, 1 / 50, max_steps)

    def reset(self, seed):
        self.copies = [TinyCopy(s) for s in self.seeds(seed)[0]]
        return torch.from_numpy(np.stack([copy.obs for copy in self.copies]))

    def step(self, action):
        if self.spec.name == "tiny-slow":
            time.sleep(0.005)
        if self.spec.name == "tiny-sabotaged":
            sabotage(Path(os.environ["SABOTAGE"]))
        reward = [copy.step(float(a.sum()), self.spec.max_steps) for copy, a in zip(self.copies, action, strict=True)]
        obs = torch.from_numpy(np.stack([copy.obs for copy in self.copies]))
        terminated, truncated = (
            torch.tensor([getattr(copy, end) for copy in self.copies]) for end in ("terminated", "truncated")
        )
        return Step(obs, torch.tensor(reward, dtype=torch.float32), terminated, truncated)

    def expert_action(self):
        if self.spec.name == "tiny-blind":
            return super().expert_action()
        if self.spec.name == "tiny-discrete":
            return torch.tensor([copy.t % 4 for copy in self.copies])
        return torch.tensor([[np.sin(copy.t / 5), 0.5] for copy in self.copies], dtype=torch.float32)


class TinyCopy:
    """One copy; it freezes when its episode is over."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.t, self.end, self.drift = 0, int(self.rng.integers(5, 60)), 0.0
        self.terminated = self.truncated = False
        self._look()

    def step(self, push: float, max_steps: int) -> float:
        if self.terminated or self.truncated:
            return 0.0
        self.t += 1
        self.drift += push
        self._look()
        self.terminated = self.t >= self.end
        self.truncated = self.t >= max_steps and not self.terminated
        return self.rng.random() + self.drift

    def _look(self):
        self.obs = (self.rng.integers(0, 200, SHAPE) + self.drift).astype(np.uint8)


def sabotage(file: Path) -> None:
    if multiprocessing.parent_process() is None or not file.exists():  # the main process looks at the world, too
        return
    what = file.read_text()
    if not what.startswith("always"):
        file.unlink(missing_ok=True)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "user error":
        raise UserError("the simulator is not installed: install it")
    raise RuntimeError("the simulator broke down")


def make(name: str, num: int = 1, **options) -> World:
    return TinyWorld(name, num, **options)


def recorder(
    env: str = "tiny", mixture: dict | None = None, noise: float = 0.0, seed: int = 0, max_steps: int = 100
) -> Recorder:
    """Records episodes within this process."""
    return Recorder(Recipe(make, env, max_steps, seed, mixture or {"brown": 1}, noise, Path("nowhere")))


def same(one: Episode, other: Episode) -> bool:
    """Whether two episodes are of the same number, seed and policy; AssertionError unless all that was recorded is
    equal."""
    for name in ("obs", "action", "expert_action", "reward", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    return (one.index, one.seed, one.policy) == (other.index, other.seed, other.policy)


def kill_at(rename: int) -> None:
    """Kill this process at its `rename`-th os.replace: at an odd number before it, at an even one after it."""
    replace, count = os.replace, 0

    def replace_or_die(*args):
        nonlocal count
        for doing in (lambda: None, lambda: replace(*args)):
            doing()
            count += 1
            if count == rename:
                os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace_or_die


if __name__ == "__main__":
    if "KILL_AT" in os.environ:
        kill_at(int(os.environ["KILL_AT"]))
    run(lambda: generation_script.main(make_world=make))
