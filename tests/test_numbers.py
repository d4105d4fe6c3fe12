"""A world that is observed as numbers is recorded, cloned and scored without V and M."""

import json

import numpy as np
import pytest
import torch

from dreamdrive import envs
from dreamdrive.data import shards
from dreamdrive.data.episode import Episode
from dreamdrive.data.loaders import LabelledStream, open_datasets
from dreamdrive.data.shards import Dataset
from dreamdrive.data.steps import NumberSteps
from dreamdrive.driving import evaluation
from dreamdrive.driving.agent import Agent, Head, load_agent
from dreamdrive.driving.evaluation import DriverSpec, Evaluator
from dreamdrive.envs.nocturne.feature_vector import WIDTH, features
from dreamdrive.models.controller import Controller, ControllerConfig, parameter_vector
from dreamdrive.tests.tiny_run import BOX, DISCRETE, call, complaint, contents, record_nocturne, write_dataset
from dreamdrive.tests.tiny_scene import car, scene_of, write

LENGTHS = [5, 40, 1, 17]  # episode 3 is for validation


@pytest.mark.parametrize("space", [BOX, DISCRETE], ids=["box", "discrete"])
def test_a_clone_meets_every_step_once_with_the_experts_action_on_it(tmp_path, space):
    write_dataset(tmp_path / "data", LENGTHS, image=(6,), space=space)
    stream = LabelledStream(open_datasets([tmp_path / "data"]), "train", 16, seed=0)
    obs, action = (torch.cat(parts) for parts in zip(*stream.epoch(1), strict=True))
    met = [(int(e), int(t)) for e, t in obs[:, :2]]
    assert (
        sorted(met) == [(e, t) for e in range(3) for t in range(LENGTHS[e])]
        and stream.steps == len(met)
        and met != sorted(met)
    )
    for (e, t), a in zip(met, action, strict=True):
        wanted = [-e / 100, -t / 1000] if space is BOX else np.eye(space["n"])[space["n"] - 1 - (e + t) % space["n"]]
        np.testing.assert_allclose(a, wanted, atol=1e-6)


def test_the_head_that_is_saved_does_with_numbers_what_the_trained_one_does_with_scaled_ones(tmp_path):
    write_dataset(tmp_path / "data", LENGTHS, image=(6,))
    steps = NumberSteps(open_datasets([tmp_path / "data"]), "train", 16, 0)
    model = Controller(ControllerConfig(6, 0, "state", 8, BOX))
    raw, _ = next(steps._stream.epoch(1))
    scaled, h, _ = next(steps.batches(1, np.random.default_rng(0)))
    assert scaled.std(0).max() < 3 and raw.std(0).max() > 3
    torch.testing.assert_close(steps.deployed(model).outputs(raw, h), model.outputs(scaled, h), atol=1e-4, rtol=1e-4)


def test_numbers_that_are_not_finite_do_not_pass(tmp_path):
    folder = write_dataset(tmp_path / "data", LENGTHS, image=(6,)).root
    with Dataset.open(folder).open_shard(Dataset.open(folder).shards[0]) as shard:
        frames, episode = shard.frames(0, 6), shard.column("episode")[0]
    frames[3, 3] = np.nan
    zeros = np.zeros((5, 2), np.float32)
    bad = Episode(frames, zeros, zeros, zeros[:, 0], zeros[:, 0] > 0, zeros[:, 0] > 0, int(episode), 0, 0)
    with pytest.raises(ValueError, match="obs, reward and action must be finite"):
        bad.check()


def test_pictures_are_wanted_where_v_is_trained(tmp_path):
    write_dataset(tmp_path / "data", LENGTHS, image=(6,))
    before = contents(tmp_path)
    done = call("trainvae", "--dataset", tmp_path / "data", "--logdir", tmp_path / "run")
    assert "holds 6 numbers a step and no pictures, which need no V" in complaint(done) and contents(tmp_path) == before


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Scenes, their features recorded, and a clone of them."""
    folder = tmp_path_factory.mktemp("numbers")
    (folder / "scenes").mkdir()
    for k in range(6):
        write(folder / "scenes", scene_of([car(speed=4.0 + k), car(y=8.0, speed=5.0)]), f"{k}.json")
    record_nocturne(folder, "--policy", "expert", "--observation", "features")
    done = call(
        "trainbc",
        "--dataset",
        folder / "data",
        "--logdir",
        folder / "run",
        "--hidden",
        16,
        "--epochs",
        2,
        "--evaluate-every",
        2,
        "--n-samples",
        2,
        "--max-workers",
        1,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_what_is_recorded_is_nocturnes_feature_vector(run):
    dataset = Dataset.open(run / "data")
    assert (
        dataset.manifest.image_shape == (WIDTH,)
        and dataset.manifest.options["observation"] == "features"
        and not shards.verify(run / "data")
    )
    world = envs.make("nocturne", num=1, restart=False, **dataset.manifest.options)
    obs = world.reset([0])
    assert obs.dtype == torch.float32 and torch.equal(obs, features(world.sim, [(0, int(world.egos[0]))]).flat)
    with dataset.open_shard(dataset.shards[0]) as shard:
        assert torch.equal(torch.from_numpy(shard.frames(0, 1)), obs)


def test_the_clone_of_numbers_drives_and_is_filmed(run, tmp_path):
    agent = load_agent(run / "run", "bc")
    assert type(agent) is Head and not isinstance(agent, Agent) and agent.world["image_shape"] == [WIDTH]
    done = call(
        "test_controller",
        "--logdir",
        run / "run",
        "--controller",
        "bc",
        "--episodes",
        2,
        "--max-workers",
        1,
        "--scenes",
        run / "scenes",
        "--record",
        tmp_path / "a.mp4",
    )
    assert done.returncode == 0, done.stderr
    score = json.loads((run / "run" / "scores" / "bc-nocturne-simulator.json").read_text())
    assert (
        score["episodes"] == 2 and score["checkpoints"].keys() == {"bc"} and (tmp_path / "a.mp4").stat().st_size > 2_000
    )


def test_a_clone_of_numbers_goes_on_where_it_stopped(run, tmp_path):
    options = ("--dataset", run / "data", "--hidden", 16, "--evaluate-every", 2, "--n-samples", 2, "--max-workers", 1)
    for epochs, folder in ((2, "twice"), (4, "twice"), (4, "once")):
        done = call("trainbc", *options, "--logdir", tmp_path / folder, "--epochs", epochs)
        assert done.returncode == 0, done.stderr
    once, twice = ((tmp_path / folder / "bc" / "checkpoint.tar").read_bytes() for folder in ("once", "twice"))
    assert once == twice


def test_latents_of_numbers_and_dreams_of_them_are_refused(run):
    done = call("trainbc", "--dataset", run / "data", "--logdir", run / "run", "--features", "z")
    assert "is for latents" in complaint(done)
    done = call("test_controller", "--logdir", run / "run", "--controller", "bc", "--world", "dream")
    assert "has no dream to drive in" in complaint(done)


def test_a_large_head_is_held_once_and_drives_as_if_each_episode_had_its_own(run, monkeypatch):
    head = load_agent(run / "run", "bc").controller
    driver, scenes = (
        DriverSpec("agent", None, head.config_dict()),
        {"scenes": str(run / "scenes"), "observation": "features"},
    )
    vector, held = parameter_vector(head), []
    with Evaluator("nocturne", driver, 1, options=scenes) as evaluator:
        monkeypatch.setattr(
            evaluator._pool,
            "run",
            lambda tasks, keep, progress, send=evaluator._pool.run: held.append(tasks) or send(tasks, keep, progress),
        )
        together = evaluator.returns([(vector, seed) for seed in (0, 3, 5)])
        monkeypatch.setattr(evaluation, "LARGE", 10**9)
        apart = evaluator.returns([(vector, seed) for seed in (0, 3, 5)])
    assert vector.numel() > 100_000 and [type(tasks[0][0]) for tasks in held] == [np.ndarray, list]
    assert together == pytest.approx(apart, abs=1e-3)
