"""Recordings in a mirror: what turns round and what does not, where they are cached, and who learns from them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamdrive.data.latents import cache_latents, load_sequences
from dreamdrive.data.loaders import FrameStream, open_datasets, with_mirrored
from dreamdrive.data.mirror import Mirror
from dreamdrive.envs.carracing_fast import CarRacingFast
from dreamdrive.envs.classic import CartPole
from dreamdrive.learning.actor_settings import ActorSettings
from dreamdrive.learning.actor_training import moments_of
from dreamdrive.models.vae import VAE, VAEConfig
from dreamdrive.models.world_model import load_world_model
from dreamdrive.tests.tiny_run import call, complaint, tiny, write_dataset
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError

TURNS = (-1.0, 1.0)  # of the two numbers of an action of a made-up dataset
LENGTHS = [5, 20, 3, 9]


@pytest.fixture
def datasets(tmp_path):
    """One, and the same in a mirror."""
    plain = write_dataset(tmp_path / "data", LENGTHS)
    return [plain, replace(plain, mirror=Mirror(TURNS))]


def test_frames_and_steering_turn_round_and_nothing_else_does(datasets):
    plain, turned = datasets
    for e in range(len(LENGTHS)):
        a, b = plain.episode(e), turned.episode(e)
        assert np.array_equal(b.obs, a.obs[:, :, ::-1]) and not np.array_equal(b.obs, a.obs)
        assert np.array_equal(b.action, a.action * np.array(TURNS, np.float32))
        assert np.array_equal(b.expert_action, a.expert_action * np.array(TURNS, np.float32))
        assert np.array_equal(b.reward, a.reward) and np.array_equal(b.terminated, a.terminated)
        assert np.array_equal(turned.frames(e, 1, 3), plain.frames(e, 1, 3)[:, :, ::-1])


def test_choices_become_others_and_what_is_unknown_stays_so():
    mirror = Mirror((1, 0))
    assert mirror.actions(np.array([0, 1, 1, -1])).tolist() == [1, 0, 0, -1]
    unknown = Mirror((-1.0, 1.0)).actions(np.array([[np.nan, np.nan], [0.5, 0.5]], np.float32))
    assert np.isnan(unknown[0]).all() and unknown[1].tolist() == [-0.5, 0.5]


def test_latents_of_both_are_cached_apart_and_join_as_episodes(datasets, tmp_path):
    torch.manual_seed(0)
    vae, digest = VAE(VAEConfig(latent=3)).eval().requires_grad_(False), "a" * 64
    for given in (datasets[:1], datasets):
        cache_latents(tmp_path / "run", vae, digest, given, torch.device("cpu"))
    assert len(list((tmp_path / "run/latents").glob("*.h5"))) == 2 * len(datasets[0].shards)
    data = load_sequences(tmp_path / "run", vae, digest, datasets)
    half, steps = sum(LENGTHS) + len(LENGTHS), sum(LENGTHS)
    assert data.steps.tolist() == LENGTHS * 2 and data.train.tolist() == [True, True, True, False] * 2
    assert torch.equal(data.action[steps:], data.action[:steps] * torch.tensor(TURNS))
    frames = np.concatenate([datasets[1].frames(e) for e in range(2)])
    mu = vae.latents(torch.from_numpy(frames))["mu"]
    assert torch.allclose(data.latents["mu"][half : half + len(mu)], mu, atol=1e-5)
    assert FrameStream(datasets, "train", 8, 0).frames == 2 * FrameStream(datasets[:1], "train", 8, 0).frames


def test_a_world_that_is_another_in_a_mirror_is_refused(tmp_path):
    made_up = write_dataset(tmp_path / "data", LENGTHS)
    with pytest.raises(UserError, match="gym:Made-up, which is another world in a mirror"):
        with_mirrored([made_up])


def test_cars_steered_to_either_side_go_mirrored_ways():
    turn, ways = Mirror(CarRacingFast.MIRROR), []
    action = np.array([[0.5, 0.4, 0.0]], np.float32)
    for given in (action, turn.actions(action)):
        world = CarRacingFast()
        world.reset(0)
        hull = world._environments[0].unwrapped.car.hull
        place, angle = np.array(hull.position), hull.angle
        for _ in range(25):
            world.step(torch.from_numpy(given))
        moved, turned = np.array(hull.position) - place, hull.angle - angle
        aside, ahead = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) @ moved
        ways.append((aside, ahead, turned))
    (right, ahead, clockwise), (left, ahead_too, counter) = ways
    assert right > 0.1 and ahead > 1 and abs(right + left) < 0.02 * ahead and abs(ahead - ahead_too) < 0.02 * ahead
    assert clockwise < -0.05 and abs(clockwise + counter) < 0.02


def test_poles_that_lean_to_either_side_fall_and_look_mirrored():
    turn, frames, states = Mirror(CartPole.MIRROR), [], []
    for sign, action in ((1, np.array([1])), (-1, turn.actions(np.array([1])))):
        world = CartPole()
        world.reset(0)
        world._environments[0].unwrapped.state = sign * np.array([0.3, 0.1, 0.15, 0.2])
        frames.append(world.step(torch.from_numpy(action)).obs[0].float())
        states.append(np.array(world._environments[0].unwrapped.state))
    assert np.allclose(states[0], -states[1]) and abs(states[0]).min() > 0.01
    assert (frames[0] - frames[1].flip(1)).abs().mean() < 0.2 * (frames[0] - frames[1]).abs().mean()


def test_v_m_and_the_actor_learn_from_both_where_they_are_told(tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    tiny("data.generation_script", "--env", "cartpole", "--rollouts", 8, "--val-fraction", 0.25, "--rootdir", data)
    plain, turned = ({"--logdir": tmp_path / name, "--dataset": data} for name in ("plain", "run"))
    tiny("trainvae", *(x for pair in plain.items() for x in pair))
    tiny("trainvae", *(x for pair in turned.items() for x in pair), "--mirror")
    a, b = (checkpoint.load_parent(tmp_path / name, "vae") for name in ("plain", "run"))
    assert a["datasets"] == b["datasets"] == [str(data)]
    assert not torch.equal(*(next(iter(found["model"].values())) for found in (a, b)))
    refused = call("trainvae", "--dataset", data, "--logdir", tmp_path / "plain", "--mirror", "--epochs", 9)
    assert "the run to resume has mirror False, not True" in complaint(refused)
    tiny("trainmdrnn", "--logdir", run, "--mirror")
    saved = checkpoint.load_parent(run, "mdrnn")
    assert saved["mirror"] and saved["datasets"] == [str(data)]
    shards = len(open_datasets([data])[0].shards)
    assert len(list((run / "latents").glob("*-mirror.h5"))) == shards
    assert "mirror True" in tiny("trainmdrnn", "--logdir", run, "--epochs", 3).stdout, "it is inherited"
    (once,) = open_datasets([data])
    moments, _ = moments_of(ActorSettings(logdir=run), load_world_model(run, torch.device("cpu")))
    assert len(moments) == 2 * sum(episode.steps for episode in once.episodes if episode.split == "train")
