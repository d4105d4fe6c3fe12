"""What every world promises (envs/__init__.py), shown on the official CarRacing, on Breakout and on CartPole."""

import numpy as np
import pytest
import torch

from dreamdrive.envs import fast, make, official
from dreamdrive.utils.errors import UserError

NAMES = ["carracing", "carracing-fast", "atari:Breakout", "cartpole", "gym:CartPole-v1"]


def some_action(world, value=1.0):
    """The same action for every copy; in CartPole it makes the pole fall within some ten steps."""
    if world.spec.action_space.shape == ():
        return torch.full((world.num,), int(value))
    return torch.full((world.num, *world.spec.action_space.shape), value)


def drive(world, seed, steps):
    """Frames (steps + 1, B, H, W, C) and rewards (steps, B) under constant actions."""
    frames, rewards = [world.reset(seed)], []
    for _ in range(steps):
        step = world.step(some_action(world, 0.0))
        frames.append(step.obs)
        rewards.append(step.reward)
    return torch.stack(frames), torch.stack(rewards)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num", [1, 3])
def test_every_record_has_the_shapes_and_types_it_states(name, num):
    world = make(name, num=num)
    obs = world.reset(0)
    step = world.step(some_action(world))
    for frames in (obs, step.obs, step.info["final_obs"]):
        assert frames.shape == (num, *world.spec.image_shape) and frames.dtype == torch.uint8
    assert step.reward.shape == (num,) and step.reward.dtype == torch.float32
    for flag in (step.terminated, step.truncated):
        assert flag.shape == (num,) and flag.dtype == torch.bool
    assert world.spec.name == name
    world.close()


@pytest.mark.parametrize("name", NAMES)
def test_an_int_seeds_copy_b_with_seed_plus_b(name):
    together, _ = drive(make(name, num=3), 5, 3)
    one_by_one, _ = drive(make(name, num=3), [5, 6, 7], 3)
    alone, _ = drive(make(name), 7, 3)
    assert torch.equal(together, one_by_one)
    assert torch.equal(together[:, 2], alone[:, 0])
    assert not torch.equal(together[:, 0], together[:, 2])  # Breakout has few different starts


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_a_copy_is_wanted(name):
    with pytest.raises(ValueError, match="2 seeds for 3 copies"):
        make(name, num=3).reset([1, 2])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("seed", "next_seeds"), [(5, [7, 8]), ([5, 9], [6, 10])])
def test_a_copy_that_ends_restarts_within_the_step_with_the_next_seed(name, seed, next_seeds):
    world = make(name, num=2, max_steps=2)
    world.reset(seed)
    world.step(some_action(world, 0.0))
    step = world.step(some_action(world, 0.0))
    assert step.truncated.all()
    assert torch.equal(step.obs, make(name, num=2).reset(next_seeds))
    straight, _ = drive(make(name, num=2), seed, 2)
    assert torch.equal(step.info["final_obs"], straight[2])
    following = world.step(some_action(world, 0.0))
    assert not following.truncated.any()  # the count of steps began again
    assert torch.equal(following.info["final_obs"], following.obs)


@pytest.mark.parametrize("name", NAMES)
def test_without_restart_a_copy_that_ended_is_frozen(name):
    world = make(name, num=2, max_steps=2, restart=False)
    world.reset(0)
    world.step(some_action(world))
    last = world.step(some_action(world))
    after = world.step(some_action(world))
    assert torch.equal(after.obs, last.obs) and torch.equal(after.info["final_obs"], last.obs)
    assert (after.reward == 0).all() and after.truncated.all()
    assert torch.equal(world.reset(0), make(name, num=2).reset(0))


def test_only_the_copy_that_ended_restarts_and_rewards_stop_only_for_it():
    """CartPole's copies fall at different steps: 9 and 10 under these seeds or others, so look for a step where they
    differ."""
    world, frozen = make("gym:CartPole-v1", num=8), make("gym:CartPole-v1", num=8, restart=False)
    world.reset(0)
    frozen.reset(0)
    for _ in range(30):
        step, still = world.step(some_action(world)), frozen.step(some_action(frozen))
        if step.terminated.any() and not step.terminated.all():
            break
    ended = step.terminated
    assert ended.any() and not ended.all()
    changed = (step.obs != step.info["final_obs"]).flatten(1).any(1)
    assert torch.equal(changed, ended)
    assert torch.equal(step.info["final_obs"], still.obs)
    after = frozen.step(some_action(frozen))
    assert torch.equal(after.reward == 0, ended) and torch.equal(after.terminated[ended], ended[ended])


@pytest.mark.parametrize("name", NAMES)
def test_frames_handed_out_are_never_written_again(name):
    world = make(name, num=2)
    obs = world.reset(0)
    kept = obs.clone()
    for _ in range(3):
        world.step(some_action(world))
    assert torch.equal(obs, kept)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_number_of_actions_is_refused(name):
    world = make(name, num=2)
    world.reset(0)
    with pytest.raises(ValueError, match="action has shape"):
        world.step(some_action(make(name, num=1)))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_before_reset_is_refused(name):
    world = make(name)
    with pytest.raises(RuntimeError, match="before reset"):
        world.step(some_action(world))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("nowhere", {}, 'there is no world "nowhere"'),
        ("carracing", {"num": 0}, "num is 0"),
        ("carracing", {"max_steps": 0}, "max_steps is 0"),
        ("gym:CartPole-v1", {"max_steps": -1}, "max_steps is -1"),
        ("gym:CartPole-v1", {"frame_size": 0}, "frame_size is 0"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_sentence(name, options, words):
    with pytest.raises(UserError, match=words) as error:
        make(name, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_non_finite_action_is_refused(value):
    world = make("carracing", num=2)
    world.reset(0)
    action = torch.zeros(2, 3)
    action[1, 0] = value
    with pytest.raises(UserError, match="not finite"):
        world.step(action)


@pytest.mark.parametrize("value", [-1, 2])
def test_an_index_out_of_range_is_refused(value):
    world = make("gym:CartPole-v1")
    world.reset(0)
    with pytest.raises(UserError, match="from 0 to 1"):
        world.step(torch.tensor([value]))


def test_a_world_without_an_expert_says_so():
    with pytest.raises(UserError, match="has no expert"):
        make("gym:CartPole-v1").expert_action()


def test_every_fast_world_stands_for_a_simulator_and_other_worlds_for_themselves():
    assert (official("carracing-fast"), fast("carracing")) == ("carracing", "carracing-fast")
    assert {official(name) for name in ("carracing", "gym:CartPole-v1")} == {"carracing", "gym:CartPole-v1"}
    assert {fast(name) for name in ("carracing-fast", "gym:CartPole-v1")} == {"carracing-fast", "gym:CartPole-v1"}
