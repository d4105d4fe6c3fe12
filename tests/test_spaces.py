"""Actions in units of half their range, elements of the environment's own space, and files that know no units."""

import sys

import gymnasium as gym
import numpy as np
import pytest
import torch

from dreamdrive.data.loaders import check_world, open_datasets, world_of
from dreamdrive.driving.driver import drive as run_through
from dreamdrive.driving.policies import make_policy
from dreamdrive.envs import make
from dreamdrive.models.cloning import CloneLoss
from dreamdrive.models.controller import Controller, ControllerConfig
from dreamdrive.tests.tiny_run import BOX, write_dataset
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.spaces import ActionSpace

MODULE = '''
import gymnasium as gym
import numpy as np


class Base(gym.Env):
    """A dot to keep in the middle, 12 steps; the same task as `half` and `middle` say the actions' units are."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    middle, half = 0.0, 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.x, self.taken = 0, float(self.np_random.uniform(-1, 1)), []
        return np.array([self.x], np.float32), {}

    def push(self, action):
        return (float(action[0]) - self.middle) / self.half

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.taken.append(action)
        self.t, self.x = self.t + 1, float(np.clip(self.x + 0.2 * self.push(action), -1, 1))
        return np.array([self.x], np.float32), 1 - abs(self.x), self.t >= 12, False, {}

    def expert_action(self):
        return np.array([self.middle + self.half * np.clip(-5 * self.x, -1, 1)], np.float32)


class Far(Base):
    action_space = gym.spaces.Box(100, 200, (1,), np.float32)
    middle, half = 150.0, 50.0


class Thousand(Base):
    action_space = gym.spaces.Box(-1000, 1000, (1,), np.float32)
    half = 1000.0


class Tenth(Base):
    """Bounds that float32 cannot hold."""

    action_space = gym.spaces.Box(-0.1, 0.1, (1,), np.float64)
    half = 0.1


class Whole(Base):
    """An index into a table."""

    action_space = gym.spaces.Box(0, 4, (1,), np.int64)

    def push(self, action):
        return [-1.0, -0.5, 0.0, 0.5, 1.0][action[0]]


class Stuck(Base):
    """One number has no range."""

    action_space = gym.spaces.Box(np.array([-1, 0.5], np.float32), np.array([1, 0.5], np.float32))


class Unbounded(Base):
    action_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)


class Half(Base):
    action_space = gym.spaces.Box(0, np.inf, (1,), np.float32)


for kind in (Base, Far, Thousand, Tenth, Whole, Stuck, Unbounded, Half):
    gym.register(f"{kind.__name__}-v0", kind)
'''


@pytest.fixture(scope="module", autouse=True)
def users_module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    (folder / "odd_actions.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def world(name, num=16):
    return make(f"gym:odd_actions:{name}-v0", num=num, observation="state", restart=False)


def drive(made, act, seed):
    """(returns (B,), observations (T, B, 1), what the expert would have done (T, B, A)) of an episode a copy."""
    obs, total, seen, asked = made.reset(seed), 0, [], []
    for _ in range(12):
        seen.append(obs)
        asked.append(made.expert_action())
        step = made.step(act(obs))
        obs, total = step.obs, total + step.reward
    return total, torch.stack(seen), torch.stack(asked)


def cloned(name):
    """Mean return of a clone of the world's expert."""
    made, rng = world(name), np.random.default_rng(0)
    space = made.spec.space
    _, obs, asked = drive(made, lambda obs: torch.from_numpy(np.stack([space.uniform(rng) for _ in obs])), 0)
    obs, wanted = obs.flatten(0, 1), space.vector(asked.flatten(0, 1))
    torch.manual_seed(0)
    model = Controller(ControllerConfig(1, 0, "state", 16, made.spec.plain_action_space))
    optimizer, criterion = torch.optim.Adam(model.parameters(), 0.02), CloneLoss(model.space)
    for _ in range(200):
        optimizer.zero_grad()
        criterion(model.outputs(obs, obs), wanted).backward()
        optimizer.step()
    with torch.no_grad():
        return float(drive(made, lambda obs: model(obs, obs), 100)[0].mean())


def test_a_clone_is_as_good_whatever_units_the_environment_has():
    base = cloned("Base")
    assert base > 10.5
    assert [cloned(name) for name in ("Far", "Thousand", "Tenth")] == pytest.approx([base] * 3, abs=0.05)


def test_networks_see_actions_in_half_ranges_from_the_middle():
    far = world("Far", 1).spec.plain_action_space
    assert far == {"type": "box", "low": [100.0], "high": [200.0], "scale": [50.0], "center": [150.0]}
    space = ActionSpace.from_dict(far)
    assert space.vector(torch.tensor([[100.0], [175.0]])).tolist() == [[-1.0], [0.5]]
    assert space.action(torch.tensor([[-1.0], [0.5], [9.0]])).tolist() == [[100.0], [175.0], [200.0]]
    assert ActionSpace.from_dict(space.to_dict()) == space and hash(space)


def test_worlds_with_units_of_their_own_and_choices_keep_their_files():
    assert make("carracing").spec.plain_action_space == {"type": "box", "low": [-1, 0, 0], "high": [1, 1, 1]}
    nocturne = make("nocturne").spec.plain_action_space
    assert nocturne["scale"] == [2.0, pytest.approx(0.1)] and "center" not in nocturne
    assert make("cartpole").spec.plain_action_space == {"type": "discrete", "n": 2}


def test_files_without_units_mean_the_environments_own():
    old = ActionSpace.from_dict({"type": "box", "low": [-3.0, 0.0], "high": [3.0, 200.0]})
    action = torch.tensor([[2.5, 130.0], [-9.0, 201.0]])
    assert torch.equal(old.vector(action), action)
    assert old.action(action).tolist() == [[2.5, 130.0], [-3.0, 200.0]]


@pytest.mark.parametrize("name", ["Tenth", "Whole", "Stuck"])
@pytest.mark.parametrize("driver", ["brown", "white"])
def test_the_environment_gets_elements_of_its_own_space(name, driver):
    made = world(name)
    rngs = [np.random.default_rng(b) for b in range(made.num)]
    for _ in run_through(made, make_policy(driver, made), range(made.num), rngs):
        pass  # the environment refuses what is no element
    taken = {float(a[0]) for environment in made._environments for a in environment.unwrapped.taken}
    if name == "Whole":
        assert taken == {0.0, 1.0, 2.0, 3.0, 4.0}


def test_bounds_that_float32_cannot_hold_are_kept_to_the_last_bit():
    made = world("Tenth", 2)
    made.reset(0)
    made.step(torch.tensor([[7.0], [-7.0]]))
    assert [e.unwrapped.taken[-1].tolist() for e in made._environments] == [[0.1], [-0.1]]


@pytest.mark.parametrize("name", ["Unbounded", "Half"])
def test_a_space_without_bounds_is_refused_in_a_sentence(name):
    with pytest.raises(UserError, match="has no bounds"):
        world(name)


def test_a_dataset_without_units_is_seen_in_those_of_the_run(tmp_path):
    write_dataset(tmp_path / "old", [5, 4], space=BOX)
    (dataset,) = open_datasets([tmp_path / "old"])
    units = ActionSpace.from_dict(BOX).in_half_ranges().to_dict()
    run = {**world_of(dataset), "action_space": units}
    assert check_world(dataset, run, "the run").manifest.action_space == units
    assert dataset.manifest.action_space == BOX
    other = {**run, "action_space": {**units, "high": [7.0] * len(units["high"])}}
    with pytest.raises(UserError, match="has action_space"):
        check_world(dataset, other, "the run")


def test_a_manifest_with_impossible_actions_is_refused():
    box = {"type": "box", "low": [-1.0], "high": [1.0]}
    for change in (
        {"high": [-2.0]},
        {"low": [float("nan")]},
        {"scale": [0.0]},
        {"scale": [1.0, 1.0]},
        {"center": [float("inf")]},
        {"type": "dict"},
        {"low": [], "high": []},
    ):
        with pytest.raises(ValueError):
            ActionSpace.from_dict({**box, **change})
    assert ActionSpace.from_dict(box).to_gym() == gym.spaces.Box(-1, 1, (1,))
