"""Any gymnasium or old-gym environment as a world."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamdrive.envs import make
from dreamdrive.envs.gym_adapter import area_resize
from dreamdrive.utils.errors import UserError

MODULE = '''
import gymnasium as gym
import numpy as np


class Picture(gym.Env):
    """Its observation is an image: grey level = seed + number of steps."""

    observation_space = gym.spaces.Box(0, 255, (32, 48, 3), np.uint8)
    action_space = gym.spaces.Box(-2, 2, (1,), np.float64)
    metadata = {"render_fps": 25}

    def reset(self, *, seed=None, options=None):
        self.level = seed
        return self.obs(), {}

    def obs(self):
        return np.full((32, 48, 3), self.level, np.uint8)

    def step(self, action):
        assert abs(action[0]) <= 2
        self.level += 1
        return self.obs(), float(action[0]), False, False, {}


class Old(Picture):
    """Answers in the old form: seed(), reset() without a seed, a step of four, render(mode)."""

    observation_space = gym.spaces.Box(0, 255, (2,), np.float64)
    action_space = gym.spaces.Discrete(3)

    def seed(self, seed):
        self.level = seed

    def reset(self):
        return np.array([self.level, 0.5])

    def step(self, action):
        self.level += 1
        late = self.level == 14
        return np.array([self.level, action]), 1.0, self.level >= 12, {"TimeLimit.truncated": True} if late else {}

    def render(self, mode):
        assert mode == "rgb_array"
        return self.obs()


class Blind(Picture):
    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)

    def obs(self):
        return np.zeros(1, np.float32)

    def render(self):
        return None


class Many(Picture):
    action_space = gym.spaces.MultiDiscrete([2, 3])


gym.register("Picture-v0", Picture)
gym.register("Short-v0", Picture, max_episode_steps=2)
gym.register("Old-v0", Old, max_episode_steps=100)
gym.register("Blind-v0", Blind)
gym.register("Many-v0", Many)
'''


@pytest.fixture(scope="module", autouse=True)
def users_module(tmp_path_factory):
    """A user's module `my_simulator` that registers environments, on the path."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "my_simulator.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def test_a_users_module_is_imported_and_its_image_is_the_frame():
    world = make("gym:my_simulator:Picture-v0", num=2, frame_size=16)
    assert world.spec.image_shape == (16, 16, 3) and world.spec.dt == 1 / 25 and world.spec.max_steps == 1000
    assert world.spec.action_space.dtype == np.float32
    assert (world.reset(3)[1] == 4).all()
    step = world.step(torch.tensor([[0.5], [9.0]]))
    assert (step.obs[0] == 4).all() and step.reward.tolist() == [0.5, 2.0]
    assert "state" not in step.info and world.state is None


def test_the_registered_limit_truncates_and_max_steps_replaces_it():
    action = torch.zeros(1, 1)
    for options, limit in (({}, 2), ({"max_steps": 3}, 3), ({"max_steps": 1}, 1)):
        world = make("gym:my_simulator:Short-v0", **options)
        world.reset(0)
        assert world.spec.max_steps == limit
        assert [world.step(action).truncated.item() for _ in range(limit)] == [False] * (limit - 1) + [True]


def test_the_old_forms_of_reset_step_and_render_are_understood():
    world = make("gym:my_simulator:Old-v0", num=2, restart=False)
    obs = world.reset(10)
    assert (obs[0] == 10).all() and world.state.tolist() == [[10, 0.5], [11, 0.5]]
    first = world.step(torch.tensor([2, 1]))
    assert first.info["state"].tolist() == [[11, 2], [12, 1]] and torch.equal(first.info["state"], world.state)
    assert first.terminated.tolist() == [False, True] and not first.truncated.any()
    late = make("gym:my_simulator:Old-v0")
    late.reset(13)
    step = late.step(torch.tensor([0]))
    assert step.truncated.item() and not step.terminated.item()


def test_the_state_is_of_the_same_moment_as_the_frame_after_a_restart():
    world = make("gym:my_simulator:Old-v0", max_steps=1)
    world.reset(0)
    step = world.step(torch.tensor([1]))
    assert (step.obs == 1).all() and step.info["state"].tolist() == [[1, 0.5]]  # seed 1, just reset
    assert (step.info["final_obs"] == 1).all()


def test_a_rendered_picture_is_resized_and_given_whole_by_render():
    world = make("gym:CartPole-v1", num=2)
    obs = world.reset(0)
    picture = world.render(1)
    assert picture.shape == (400, 600, 3)
    assert np.array_equal(obs[1].numpy(), area_resize(picture, 64, 64))
    assert world.state.shape == (2, 4) and world.state.dtype == torch.float32
    assert world.spec.max_steps == 500 and world.spec.dt == 1 / 50


def test_the_example_of_the_docs_runs_repeats_and_brings_its_expert(tmp_path, monkeypatch):
    page = (Path(__file__).parent.parent / "docs/your-own-world.md").read_text()
    (tmp_path / "ball.py").write_text(page.split("```python\n")[1].split("```")[0])
    monkeypatch.syspath_prepend(tmp_path)
    returns = []
    for _ in range(2):
        world = make("gym:ball:Ball-v0", num=2, restart=False)
        world.reset(0)
        returns.append(sum(world.step(world.expert_action()).reward for _ in range(200)))
    assert world.spec.max_steps == 200 and world.expert_action().dtype == torch.float32
    assert torch.equal(*returns) and (returns[0] > 150).all()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gym:Nowhere-v0", 'no environment "Nowhere-v0"'),
        ("gym:CarRacing-v0", "CarRacing-v3"),
        ("gym:no_such_module:X-v0", "no_such_module"),
        ("gym:my_simulator:Nowhere-v0", 'no environment "my_simulator:Nowhere-v0"'),
        ("gym:my_simulator:Many-v0", "action space"),
    ],
)
def test_what_cannot_run_is_refused_in_one_sentence(name, words):
    with pytest.raises(UserError, match=words) as error:
        make(name)
    assert "\n" not in str(error.value)


def test_an_environment_without_a_picture_is_refused():
    world = make("gym:my_simulator:Blind-v0")
    with pytest.raises(UserError, match=r"render\(\) gave NoneType, wanted uint8"):
        world.reset(0)


@pytest.mark.parametrize("size", [(84, 96), (400, 600), (7, 5), (64, 64), (65, 63), (3, 200)])
def test_area_resize_is_the_exact_mean_of_areas_at_any_size(size):
    height, width = 64, 48
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    out = area_resize(image, height, width)
    for i, j in np.random.default_rng(1).integers(0, (height, width), (40, 2)):
        rows = np.clip(
            np.minimum(np.arange(size[0]) + 1, (i + 1) * size[0] / height)
            - np.maximum(np.arange(size[0]), i * size[0] / height),
            0,
            None,
        )
        columns = np.clip(
            np.minimum(np.arange(size[1]) + 1, (j + 1) * size[1] / width)
            - np.maximum(np.arange(size[1]), j * size[1] / width),
            0,
            None,
        )
        mean = np.einsum("h,w,hwc->c", rows, columns, image) / (rows.sum() * columns.sum())
        assert np.abs(out[i, j] - mean).max() <= 0.5 + 1e-9


def test_area_resize_leaves_an_image_of_the_right_size_alone():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert np.array_equal(area_resize(image, 64, 64), image)


def test_old_gym_is_asked_for_by_name_and_missed_in_one_sentence():
    program = (
        'import sys; sys.modules["gym"] = None\nfrom dreamdrive.envs import make; from dreamdrive.utils.script '
        'import run; run(lambda: make("gym:old/CartPole-v1"))'
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "pip install --no-deps gym==0.26.2" in done.stderr


OLD_GYM = """
import sys
import gym
import numpy as np
import torch
from dreamdrive.envs import make

assert gym.__version__ == "0.26.2"
gym.register("OnlyInOldGym-v0", "gym.envs.classic_control.cartpole:CartPoleEnv", max_episode_steps=3)
frames = []
for name in sys.argv[1:]:
    world = make(name, num=2)
    assert type(world._environments[0].unwrapped).__module__ == "gym.envs.classic_control.cartpole"
    assert world.spec.action_space.__class__.__module__.startswith("gymnasium")
    frames.append(world.reset(0))
    ends = 0
    for _ in range(30):
        step = world.step(torch.tensor([1, 1]))
        ends += int((step.terminated | step.truncated).sum())
    assert ends >= 4 and (step.reward == 1).all() and step.info["state"].shape == (2, 4)
assert torch.equal(*frames)
assert torch.equal(frames[0], make("gym:CartPole-v1", num=2).reset(0))  # gymnasium's, which draws and seeds the same
"""


@pytest.mark.slow
def test_old_gym_runs_from_a_folder_of_its_own(tmp_path):
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(tmp_path),
        "gym==0.26.2",
        "gym-notices",
    ]
    subprocess.run(install, check=True, timeout=200)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])}
    done = subprocess.run(
        [sys.executable, "-c", OLD_GYM, "gym:old/CartPole-v1", "gym:OnlyInOldGym-v0"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_a_world_that_is_closed_leaves_others_what_they_draw_by():
    """gymnasium's classic control ends pygame, whose fonts CarRacing may just be drawing with."""
    import pygame

    ended = make("cartpole")
    ended.reset(0)
    pygame.font.init()
    ended.close()
    assert pygame.font.get_init() and pygame.display.quit.__name__ == pygame.quit.__name__ == "quit"
