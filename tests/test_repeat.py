"""Actions that are held for several steps of the simulator (--repeat)."""

import json

import numpy as np
import pytest
import torch

from dreamdrive.data.shards import Dataset
from dreamdrive.driving.recording import generate
from dreamdrive.driving.recording_settings import RecordingSettings
from dreamdrive.envs import make
from dreamdrive.utils.errors import UserError

WORLDS = ("carracing", "carracing-fast", "cartpole", "mountaincar", "atari:Breakout")


@pytest.mark.parametrize("env", WORLDS)
def test_a_held_action_is_the_same_action_several_times(env):
    held, plain = (make(env, num=2, restart=False, **more) for more in ({"repeat": 3}, {}))
    assert held.spec.repeat == 3 and held.spec.dt == 3 * plain.spec.dt
    assert held.spec.max_steps == -(-plain.spec.max_steps // 3)
    assert torch.equal(held.reset(5), plain.reset(5))
    rng = np.random.default_rng(0)
    for _ in range(12):
        action = torch.from_numpy(np.stack([held.spec.space.uniform(rng) for _ in range(2)]))
        step, parts = held.step(action), [plain.step(action) for _ in range(3)]
        torch.testing.assert_close(step.reward, sum(part.reward for part in parts))
        assert torch.equal(step.obs, parts[-1].obs)
        assert torch.equal(step.terminated, parts[-1].terminated)


def test_an_episode_ends_when_the_simulators_own_would():
    held, plain = (make("mountaincar", restart=False, **more) for more in ({"repeat": 3}, {}))
    held.reset(0), plain.reset(0)
    still = torch.ones(1, dtype=torch.int64)
    steps = [held.step(still) for _ in range(held.spec.max_steps)]
    assert plain.spec.max_steps == 200 and [bool(s.truncated) for s in steps] == [False] * 66 + [True]
    assert sum(float(s.reward) for s in steps) == -200, "the last step had two, not three"


def test_an_episode_cut_short_counts_what_is_held():
    world = make("cartpole", max_steps=4, repeat=2, restart=False)
    world.reset(0)
    ends = [bool(world.step(torch.tensor([t % 2])).truncated) for t in range(4)]
    assert world.spec.max_steps == 4 and ends == [False] * 3 + [True]


def test_a_restarted_copy_does_not_inherit_what_was_held():
    world = make("cartpole", repeat=5)
    world.reset(0)
    left = torch.zeros(1, dtype=torch.int64)
    while not (step := world.step(left)).terminated:
        pass
    fresh = make("cartpole")
    assert torch.equal(step.obs, fresh.reset(1)) and not torch.equal(step.info["final_obs"], step.obs)


def test_nocturne_says_that_it_cannot_hold_an_action():
    with pytest.raises(UserError, match="nocturne has no option repeat: only carracing"):
        make("nocturne", repeat=2)


def test_a_dataset_and_its_world_know_that_actions_were_held(tmp_path):
    generate(RecordingSettings(env="cartpole", options={"repeat": 2}, rootdir=tmp_path, rollouts=3, threads=1))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["options"] == {"repeat": 2} and manifest["max_steps"] == 250 and manifest["dt"] == 0.04


def test_episodes_are_given_up_and_left_out_as_told(tmp_path):
    common = RecordingSettings(env="mountaincar", threads=1, rollouts=4, rootdir=tmp_path / "all")
    whole = generate(common)
    assert [e.steps for e in whole.episodes] == [200] * 4 and "give_up" not in whole.to_json()
    later = generate(RecordingSettings(env="mountaincar", threads=1, rollouts=2, skip=2, rootdir=tmp_path / "later"))
    assert [e.seed for e in later.episodes] == [e.seed for e in whole.episodes][2:]
    for a, b in ((0, 2), (1, 3)):
        mine, theirs = (Dataset.open(tmp_path / name).episode(e) for name, e in (("later", a), ("all", b)))
        assert np.array_equal(mine.obs, theirs.obs) and np.array_equal(mine.action, theirs.action)
    short = generate(RecordingSettings(env="mountaincar", threads=1, rollouts=2, give_up=7, rootdir=tmp_path / "short"))
    assert [e.steps for e in short.episodes] == [7, 7] and short.to_json()["give_up"] == 7
    assert Dataset.open(tmp_path / "short").episode(0).truncated.tolist() == [False] * 6 + [True]
