"""A module is imported where the user has named it, and never because a file does."""

import os
import sys

import pytest
import torch

from dreamdrive import load_run
from dreamdrive.envs import make
from dreamdrive.envs.catalogue import module_of
from dreamdrive.envs.simulated import Simulated, SimulatedConfig
from dreamdrive.models.controller import Controller, ControllerConfig
from dreamdrive.tests.tiny_run import call, complaint, write_dataset
from dreamdrive.utils import checkpoint, modules
from dreamdrive.utils.errors import UserError

SPACE = {"type": "discrete", "n": 2}
# A world of numbers, which leaves a mark when it is imported.
LOOKS = """
import pathlib
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv
pathlib.Path(__file__).with_name("mark").touch()
gym.register("Looks-v0", CartPoleEnv, max_episode_steps=5)
"""
ENV = "gym:looks:Looks-v0"


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A run that was handed on, whose world names a module that lies beside it and on the path; nothing is allowed."""
    (tmp_path / "looks.py").write_text(LOOKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(modules.NAMED, raising=False)
    head = Controller(ControllerConfig(4, 0, "state", 0, SPACE))
    (tmp_path / "run" / "bc").mkdir(parents=True)
    world = {"env": ENV, "image_shape": [4], "action_space": SPACE, "dt": 0.02, "max_steps": 5}
    world["options"] = {"observation": "state"}
    target = tmp_path / "run" / "bc" / "best.tar"
    checkpoint.save(target, "bc", head.config_dict(), head.state_dict(), {}, world=world, epoch=1, best=0.0)
    yield tmp_path
    sys.modules.pop("looks", None)


def refused(folder, done):
    said = complaint(done)
    assert f"give --env {ENV}" in said and "looks" in said
    assert not (folder / "mark").exists() and "looks" not in sys.modules
    assert modules.NAMED not in os.environ


def drive(folder, *options):
    """Score the run with one worker."""
    return call(
        "test_controller",
        "--logdir",
        folder / "run",
        "--controller",
        "bc",
        "--episodes",
        1,
        "--max-workers",
        1,
        *options,
    )


def test_a_checkpoint_does_not_choose_a_module_and_env_on_the_command_line_does(stranger):
    refused(stranger, drive(stranger))
    assert drive(stranger, "--env", ENV).returncode == 0 and (stranger / "mark").exists()
    assert not modules.remembered()  # that is for stage 1
    assert modules.NAMED not in os.environ


def test_films_the_api_and_a_world_model_that_is_the_simulator_refuse_it_too(stranger):
    refused(stranger, drive(stranger, "--record", stranger / "out.mp4"))
    with pytest.raises(UserError, match=f"give --env {ENV}"):
        load_run(stranger / "run").simulator()
    memory = Simulated(SimulatedConfig(4, 2, ENV, {"observation": "state"}, 5))
    with pytest.raises(UserError, match=f"give --env {ENV}"):
        memory._again(1, torch.zeros(0, 2), 1)
    assert not (stranger / "mark").exists()


def test_stage_1_allows_what_it_was_given_and_notes_that_in_neither_dataset_nor_run(stranger):
    done = call(
        "data.generation_script", "--rollouts", 2, "--threads", 1, "--policy", "white", "--observation", "state",
        "--val-fraction", 0.5, "--rootdir", stranger / "data", "--env", ENV,
    )  # fmt: skip
    assert done.returncode == 0 and "the module looks is allowed on this machine" in done.stdout, done.stderr
    assert modules.remembered() == {"looks"} and modules.NAMED not in os.environ
    with modules.only_named():
        make(ENV, observation="state").close()


def test_a_manifest_does_not_choose_a_module(stranger):
    write_dataset(stranger / "data", [5, 5, 5, 5], image=(4,), space=SPACE, env=ENV)
    options = "--epochs", 1, "--evaluate-every", 1, "--n-samples", 1, "--max-workers", 1, "--device", "cpu"
    told = "trainbc", "--dataset", stranger / "data", "--logdir", stranger / "new", *options
    refused(stranger, call(*told))


def test_another_world_than_the_runs_is_refused(stranger):
    said = complaint(drive(stranger, "--env", "gym:other:Looks-v0"))
    assert f"was trained on {ENV}, not gym:other:Looks-v0" in said and not (stranger / "mark").exists()


def test_a_program_that_names_the_world_itself_imports_its_module(stranger):
    world = make(ENV, observation="state")
    world.close()
    assert (stranger / "mark").exists()


@pytest.mark.parametrize(
    ("env", "module"),
    [("gym:a.b:C-v0", "a.b"), ("gym:old/a:C-v0", "a"), ("gym:C-v0", None), ("gym:old/C-v0", None), ("carracing", None),
     ("atari:Breakout", None)],
)  # fmt: skip
def test_the_module_that_a_name_has_in_it(env, module):
    assert module_of(env) == module


def test_a_home_that_cannot_be_written_to_allows_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    assert not modules.remember("looks") and not modules.remembered()
