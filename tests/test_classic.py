"""CartPole and MountainCar with experts, as pictures and as numbers; other gymnasium environments as numbers."""

import numpy as np
import pytest
import torch

from dreamdrive.data.shards import Dataset
from dreamdrive.envs import classic, make
from dreamdrive.tests.tiny_run import call
from dreamdrive.utils.errors import UserError

OFFICIAL = {"cartpole": "gym:CartPole-v1", "mountaincar": "gym:MountainCar-v0"}


def scores(name, seeds):
    """Returns (B,) of the expert, seeing numbers."""
    world = make(name, num=len(seeds), restart=False, observation="state")
    world.reset(seeds)
    total = torch.zeros(len(seeds))
    for _ in range(world.spec.max_steps):
        step = world.step(world.expert_action())
        total += step.reward
        if (step.terminated | step.truncated).all():
            break
    return total


@pytest.mark.parametrize("name", OFFICIAL)
def test_it_is_the_official_one_as_pictures_and_as_numbers(name):
    ours, official, numbers = make(name, num=2), make(OFFICIAL[name], num=2), make(name, num=2, observation="state")
    assert torch.equal(ours.reset(3), official.reset(3)) and torch.equal(numbers.reset(3), official.state)
    assert (ours.spec.image_shape, numbers.spec.image_shape) == ((64, 64, 3), official.state.shape[1:])
    for key in (0, 1, 1, 0):
        action = torch.full((2,), key)
        mine, theirs, plain = ours.step(action), official.step(action), numbers.step(action)
        assert (
            torch.equal(mine.obs, theirs.obs)
            and torch.equal(plain.obs, theirs.info["state"])
            and torch.equal(mine.reward, theirs.reward)
        )
    assert plain.obs.dtype == torch.float32 and mine.obs.float().std() > 5
    assert (ours.spec.max_steps, ours.spec.dt, ours.spec.action_space) == (
        official.spec.max_steps,
        official.spec.dt,
        official.spec.action_space,
    )


def test_numbers_restart_and_freeze_as_pictures_do():
    going, frozen = (
        make("cartpole", num=2, max_steps=2, observation="state", restart=restart) for restart in (True, False)
    )
    for world in (going, frozen):
        world.reset([5, 9])
        world.step(torch.tensor([0, 1]))
    step, still = going.step(torch.tensor([0, 1])), frozen.step(torch.tensor([0, 1]))
    assert step.truncated.all() and torch.equal(step.info["final_obs"], still.obs)
    assert torch.equal(step.obs, make("cartpole", num=2, observation="state").reset([6, 10]))
    assert torch.equal(frozen.step(torch.tensor([1, 1])).obs, still.obs)


def test_a_world_nobody_looks_at_goes_on_the_same():
    seen, unseen = make("mountaincar"), make("mountaincar")
    unseen.look_away()
    start = unseen.reset(0)
    seen.reset(0)
    for _ in range(5):
        a, b = seen.step(seen.expert_action()), unseen.step(unseen.expert_action())
        assert torch.equal(a.info["state"], b.info["state"]) and torch.equal(b.obs, start)


def test_the_pole_stays_up_from_every_start():
    assert (scores("cartpole", [2_000_000 + k for k in range(30)]) == 500).all()


def test_the_car_takes_the_quickest_way():
    returns = scores("mountaincar", [2_000_000 + k for k in range(100)])
    assert returns.mean() > -101 and returns.min() > -115


def test_the_steps_that_were_worked_out_are_the_steps_it_takes():
    position = np.linspace(-0.6, -0.4, 9)
    index, weight = classic.corners(position, np.zeros(9))
    expected = (weight * classic.steps_to_go()[index]).sum(0)
    state, taken = np.stack([position, np.zeros(9)], 1), np.zeros(9)
    while (state[:, 0] < classic.GOAL).any():
        going = state[:, 0] < classic.GOAL
        state = np.where(going[:, None], np.stack(classic.drive(*state.T, classic.quickest_action(state)), 1), state)
        taken += going
        assert taken.max() < 150
    assert np.abs(taken - expected).max() < 3


def test_the_dynamics_are_gymnasiums():
    world = make("mountaincar", num=4, observation="state", restart=False)
    state = world.reset(0).double().numpy()
    rng = np.random.default_rng(0)
    for _ in range(60):
        action = rng.integers(0, 3, 4)
        state = np.stack(classic.drive(*state.T, action), 1)
        np.testing.assert_allclose(world.step(torch.from_numpy(action)).obs, state, atol=1e-5)


def test_grid_points_around_a_state_average_to_it():
    rng = np.random.default_rng(0)
    position, speed = rng.uniform(*classic.POSITIONS, 50), rng.uniform(*classic.SPEEDS, 50)
    position[0], speed[0] = classic.POSITIONS[1], classic.SPEEDS[1]
    index, weight = classic.corners(position, speed)
    grid = np.stack(
        np.meshgrid(
            np.linspace(*classic.POSITIONS, classic.GRID[0]),
            np.linspace(*classic.SPEEDS, classic.GRID[1]),
            indexing="ij",
        ),
        -1,
    ).reshape(-1, 2)
    np.testing.assert_allclose((weight[..., None] * grid[index]).sum(0), np.stack([position, speed], 1), atol=1e-9)
    assert (weight >= -1e-9).all()


def test_numbers_are_recorded_cloned_and_driven(tmp_path):
    done = call(
        "data.generation_script",
        "--env",
        "mountaincar",
        "--observation",
        "state",
        "--policy",
        "expert",
        "--action-noise",
        0.5,
        "--rollouts",
        8,
        "--val-fraction",
        0.25,
        "--rootdir",
        tmp_path / "data",
        "--threads",
        1,
    )
    assert done.returncode == 0, done.stderr
    dataset = Dataset.open(tmp_path / "data")
    assert dataset.manifest.image_shape == (2,) and dataset.manifest.options == {"observation": "state"}
    assert call("data.shards", "verify", tmp_path / "data").returncode == 0
    with dataset.open_shard(dataset.shards[0]) as shard:
        assert (shard.column("expert_action") >= 0).all() and (
            shard.column("expert_action") != shard.column("action")
        ).any()
    done = call(
        "trainbc",
        "--dataset",
        tmp_path / "data",
        "--logdir",
        tmp_path / "run",
        "--hidden",
        8,
        "--epochs",
        1,
        "--n-samples",
        1,
        "--max-workers",
        1,
    )
    assert done.returncode == 0, done.stderr
    done = call(
        "test_controller", "--logdir", tmp_path / "run", "--controller", "bc", "--episodes", 1, "--max-workers", 1
    )
    assert done.returncode == 0 and "bc in the simulator" in done.stdout, done.stderr


def test_other_environments_are_observed_as_numbers_too():
    world = make("gym:Pendulum-v1", num=2, observation="state")
    assert world.reset(0).shape == (2, 3) and world.spec.options == {"observation": "state"} and not world.spec.pictures
    assert make("gym:CartPole-v1").spec.options == {}  # as in datasets recorded before there was a choice


@pytest.mark.parametrize(
    ("name", "observation", "words"),
    [
        ("cartpole", "stack", "choose picture or state"),
        ("gym:CarRacing-v3", "state", "cannot be observed as numbers"),
        ("carracing", "state", "carracing has no option observation: only nocturne and atari"),
    ],
)
def test_what_cannot_be_observed_is_refused_in_one_sentence(name, observation, words):
    with pytest.raises(UserError, match=words) as error:
        make(name, observation=observation)
    assert "\n" not in str(error.value)
