"""A world as Stable-Baselines3 takes its environments."""

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from dreamdrive import envs
from dreamdrive.envs.stable_baselines import REACH, VecWorld
from dreamdrive.tests.tiny_scene import car, scene_of, write
from dreamdrive.utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, scene_of([car(), car(y=20)]))
    return str(tmp_path)


def test_ppo_trains_on_a_world(folder):
    world = envs.make("nocturne", num=2, scenes=folder, observation="features", max_steps=6)
    PPO("MlpPolicy", VecWorld(world, seed=0), n_steps=8, batch_size=8, n_epochs=1, device="cpu").learn(16)


def test_actions_are_in_units_of_what_is_typical_and_cut_to_what_is_possible(folder):
    wrapped = VecWorld(envs.make("nocturne", scenes=folder, observation="features"), seed=0)
    assert wrapped.action_space.shape == (2,) and wrapped.action_space.high.tolist() == [1, 1]
    asked = wrapped.action(np.array([[0.5, -1.0]], np.float32))
    assert torch.allclose(asked, torch.tensor([[REACH * 1.0, -REACH * 0.1]]))
    assert wrapped.action(np.array([[9.0, 90.0]], np.float32)).tolist() == [[6.0, 1.0]]
    choices = VecWorld(envs.make("nocturne", scenes=folder, observation="features", actions="discrete"), seed=0)
    assert choices.action_space.n == 273 and choices.action(np.array([5])).tolist() == [5]


def test_an_episode_that_ends_tells_its_last_observation_and_whether_it_was_cut(folder):
    wrapped = VecWorld(envs.make("nocturne", num=2, scenes=folder, observation="features", max_steps=3), seed=0)
    first = wrapped.reset()
    for t in range(3):
        obs, reward, ended, infos = wrapped.step(np.zeros((2, 2), np.float32))
        assert ended.tolist() == [t == 2] * 2 and obs.shape == first.shape and reward.dtype == np.float32
    assert infos[0]["TimeLimit.truncated"] and infos[0]["terminal_observation"].shape == first[0].shape
    assert not np.array_equal(infos[0]["terminal_observation"], obs[0])


def test_a_world_of_pictures_is_one_too(folder):
    wrapped = VecWorld(envs.make("carracing-fast", num=2), seed=3)
    assert wrapped.reset().dtype == np.uint8 and wrapped.observation_space.shape == (64, 64, 3)
    wrapped.close()


def test_copies_that_do_not_begin_anew_are_refused(folder):
    with pytest.raises(UserError, match="restart=True"):
        VecWorld(envs.make("nocturne", scenes=folder, restart=False), seed=0)
