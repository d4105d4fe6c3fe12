"""Noise on what is seen (envs/noise.py, --obs-noise): in every world of pictures, in recordings and in scores."""

import json

import numpy as np
import pytest
import torch

from dreamdrive.data.shards import Dataset
from dreamdrive.envs import make
from dreamdrive.tests.tiny_run import TINY, call, complaint
from dreamdrive.utils.errors import UserError

STD = 0.08
WORLDS = ["carracing-fast", "nocturne", "atari:Breakout", "cartpole", "mountaincar", "gym:Acrobot-v1"]


def driven(
    name: str, seeds: list[int], steps: int, restart: bool = False, **options
) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames (T + 1, B, H, W, C) and rewards (T, B) of doing the same in every copy."""
    world = make(name, len(seeds), restart=restart, **options)
    space, rng = world.spec.space, np.random.default_rng(0)
    frames, rewards = [world.reset(seeds)], []
    for _ in range(steps):
        action = torch.from_numpy(np.stack([space.uniform(rng)] * len(seeds)))
        result = world.step(action)
        frames.append(result.obs)
        rewards.append(result.reward)
    world.close()
    return torch.stack(frames), torch.stack(rewards)


@pytest.mark.parametrize("name", WORLDS)
def test_noise_has_the_spread_that_is_asked_for_is_new_in_every_frame_and_follows_from_the_seed(name):
    plain, rewards = driven(name, [8, 3], 4)
    seen, same = driven(name, [8, 3], 4, obs_noise=STD)
    assert torch.equal(rewards, same) and seen.dtype == torch.uint8, "the world is as it was"
    noise = (seen.int() - plain.int()).float()
    middle = (plain > 4 * 255 * STD) & (plain < 255 - 4 * 255 * STD)  # away from where it is clipped
    edge = (plain == 0) | (plain == 255)
    assert max(middle.sum(), edge.sum()) > 2000
    if middle.sum() > 2000:
        assert abs(noise[middle].std() - 255 * STD) < 1 and abs(noise[middle].mean()) < 1.5
    if edge.sum() > 2000:  # half of it is clipped: E[max(N, 0)] = std / sqrt(2 pi)
        assert abs(noise[edge].abs().mean() - 255 * STD / (2 * np.pi) ** 0.5) < 1
    alone, _ = driven(name, [3], 4, obs_noise=STD)
    assert torch.equal(seen[:, 1:], alone), "whatever is driven beside it"
    correlation = np.corrcoef(noise[1, 0].flatten(), noise[2, 0].flatten())[0, 1]
    assert abs(correlation) < 0.05


def test_an_episode_that_begins_anew_has_the_noise_of_its_own_seed():
    seen, _ = driven("cartpole", [3], 4, restart=True, max_steps=2, obs_noise=STD)
    fresh, _ = driven("cartpole", [4], 1, obs_noise=STD)  # seed 3 restarts as 3 + 1
    assert torch.equal(seen[2], fresh[0])


def test_worlds_that_show_numbers_have_no_noise():
    with pytest.raises(UserError, match="cannot be seen with noise: leave --obs-noise away"):
        make("gym:CartPole-v1", observation="state", obs_noise=STD)
    with pytest.raises(UserError, match="cannot be seen with noise"):
        make("nocturne", observation="features", obs_noise=STD)


@pytest.mark.slow
def test_noise_goes_from_the_recording_through_the_stages_into_scores(tmp_path):
    data, logdir = tmp_path / "data", tmp_path / "run"
    common = ("--env", "gym:CartPole-v1", "--rollouts", 6, "--val-fraction", 0.34, "--threads", 1)
    done = call("data.generation_script", *common, "--rootdir", data, "--obs-noise", 0.1)
    assert done.returncode == 0, done.stderr
    assert json.loads((data / "manifest.json").read_text())["options"]["obs_noise"] == 0.1
    frames = Dataset.open(data).frames(0, 0, 1)[0]
    assert len(np.unique(frames)) > 100
    refused = complaint(call("data.generation_script", *common, "--rootdir", data))
    assert "options" in refused and "choose another --rootdir" in refused
    for stage in ("trainvae", "trainmdrnn", "traincontroller"):
        place = ("--dataset", data) if stage == "trainvae" else ()
        done = call(stage, *TINY[stage], *place, "--logdir", logdir)
        assert done.returncode == 0, (stage, done.stderr)
    quick = ("--logdir", logdir, "--episodes", 2, "--max-workers", 1)
    for flags in ((), ("--obs-noise", 0), ("--obs-noise", 0.2)):
        done = call("test_controller", *quick, *flags)
        assert done.returncode == 0, done.stderr
    names = {path.name for path in (logdir / "scores").iterdir()}
    assert names == {
        f"ctrl-gym:CartPole-v1{middle}-simulator.json" for middle in ("", "-obs-noise-0", "-obs-noise-0.2")
    }
    assert "must be 0 or more and less than 1" in complaint(call("test_controller", *quick, "--obs-noise", 20))
