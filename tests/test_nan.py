"""NaN and infinity are refused by name where they enter: no score, no best.tar and no JSON comes of them."""

import json
import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from dreamdrive.driving.agent import Head
from dreamdrive.driving.evaluation import DriverSpec, _driving
from dreamdrive.envs import make
from dreamdrive.learning.control import Record
from dreamdrive.learning.evolution import finite
from dreamdrive.learning.evolution_settings import EvolutionSettings
from dreamdrive.models.controller import Controller, ControllerConfig
from dreamdrive.tests.tiny_run import call, complaint
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.json_files import write_json
from dreamdrive.utils.settings import plain

SPACE = {"type": "discrete", "n": 2}


class Odd(gym.Env):
    """What it gives at step 3 of an episode whose seed is odd."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, reward=1.0, seen=0.0, render_mode=None):
        self.odd = {"reward": reward, "seen": seen}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.bad = 0, bool(seed % 2)
        return np.zeros(2), {}

    def step(self, action):
        self.t += 1
        now = self.bad and self.t == 3
        return (
            np.array([0, self.odd["seen"] if now else 0.0]),
            self.odd["reward"] if now else 1.0,
            self.t == 5,
            False,
            {},
        )


gym.register("Odd-v0", Odd)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"reward": math.nan}, "gave a reward of nan in step 3"),
        ({"reward": math.inf}, "gave a reward of inf in step 3"),
        ({"reward": -1e39}, r"gave a reward of -1e\+39 in step 3"),
        ({"seen": math.nan}, "showed nan after 3 steps"),
        ({"seen": 1e300}, r"showed 1e\+300 after 3 steps"),
    ],
)
def test_what_an_environment_gives_is_refused_with_the_seed_and_the_step(what, words):
    world = make("gym:Odd-v0", num=2, restart=False, observation="state", **what)
    world.reset([4, 7])
    action = torch.zeros(2, dtype=torch.int64)
    world.step(action)
    world.step(action)
    with np.errstate(all="raise"), pytest.raises(UserError, match=rf"gym:Odd-v0 {words} of seed 7"):
        world.step(action)
    world.reset([4, 6])
    for _ in range(5):
        assert torch.isfinite(world.step(action).reward).all()


def test_a_score_of_an_episode_that_is_no_number_is_none(monkeypatch):
    """Of any world."""
    drives = _driving("gym:CartPole-v1", DriverSpec("white"), "cpu", {"max_steps": 4})
    monkeypatch.setattr("dreamdrive.envs.gym_adapter.GymWorld._held", lambda *a: _advance(math.nan))
    with pytest.raises(UserError, match=r"return of the episode of gym:CartPole-v1 with seed 8 is nan"):
        drives((None, [8], 0), lambda share: None)


def _advance(reward):
    from dreamdrive.envs.gym_adapter import Advance

    return Advance(np.zeros(4, np.float32), reward, True, False)


def test_a_controller_that_says_nan_chooses_nothing():
    head = Controller(ControllerConfig(4, 0, "state", 0, SPACE))
    torch.nn.init.constant_(head.layers[0].weight, 3e38)
    driver = Head(head, {}, {})
    driver.reset(1)
    driver.see(torch.tensor([[1e30, 1e30, -1e30, 1e30]]))
    with pytest.raises(UserError, match="the controller says NaN"):
        driver.choose()


def test_a_search_whose_mean_has_no_score_ends_with_a_sentence():
    with pytest.raises(UserError, match="M diverges in the dream"):
        finite(torch.tensor([math.nan]))
    assert finite(torch.tensor([1.0, math.nan, math.inf])).tolist() == [1.0, 1.0, 1.0]


def test_no_file_that_says_nan_is_written(tmp_path):
    with pytest.raises(UserError, match=r"x\.json was not written: returns\.7 is nan"):
        write_json(tmp_path / "x.json", {"returns": {"7": math.nan}})
    with pytest.raises(UserError, match=r"x\.json was not written: \[1\] is inf"):
        write_json(tmp_path / "x.json", [0.0, math.inf])
    assert not (tmp_path / "x.json").exists()
    EvolutionSettings(logdir=tmp_path).write(tmp_path)  # whose target return is infinite, unless it is given
    told = (tmp_path / "args.json").read_text()
    assert json.loads(told, parse_constant=pytest.fail)["target_return"] == "inf" and plain(math.nan) == "nan"


def test_a_target_that_is_never_reached_is_refused(tmp_path):
    said = complaint(call("traincontroller", "--logdir", tmp_path, "--target-return", "nan"))
    assert "--target-return" in said and "nan is no number" in said


def test_a_best_score_that_nothing_can_beat_is_neither_written_nor_read(tmp_path):
    head = Controller(ControllerConfig(4, 0, "z", 0, SPACE))
    config, weights, target = head.config_dict(), head.state_dict(), tmp_path / "best.tar"
    for best in (math.nan, math.inf):
        with pytest.raises(UserError, match=f"best.tar was not written, it has {best} as best"):
            checkpoint.save(target, "ctrl", config, weights, {}, best=best, generation=3)
    checkpoint.save(target, "ctrl", config, weights, {}, best=-math.inf, generation=3)
    args = EvolutionSettings(logdir=tmp_path, pop_size=4, n_samples=1)
    record = Record(args, tmp_path, head, {}, None)
    record.keep_if_best(torch.zeros(10), math.nan)
    assert record.best == -math.inf
