"""What every world promises (envs/__init__.py), shown on the official CarRacing, on Breakout and on CartPole."""

import json
import subprocess

import numpy as np
import pytest
import torch

from dreamdrive import envs, test_controller
from dreamdrive.data.manifest import read_manifest
from dreamdrive.data.shards import Dataset
from dreamdrive.driving import scoring
from dreamdrive.envs import catalogue, fast, make, official, without_places
from dreamdrive.playing import shown
from dreamdrive.tests.tiny_run import ROOT, command, variables
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


# Adding a world


def toy(*words) -> str:
    """What a script says that has the world of tests/toy_world.py in it."""
    done = subprocess.run(
        command("-m", "dreamdrive.tests.toy_world", *words),
        cwd=ROOT,
        env=variables(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode in (0, 1, 2), done.stderr
    return done.stdout + done.stderr


def test_a_world_is_one_file_and_one_line(tmp_path):
    record = ("data.generation_script", "--env", "toy", "--rootdir", tmp_path / "data", "--rollouts", 2, "--threads", 2)
    toy(*record, "--policy", "expert", "--wind", 0.25, "--landscape", "here")
    manifest = read_manifest(tmp_path / "data")
    assert manifest.options == {"wind": 0.25, "landscape": "here"} and manifest.max_steps == 5
    dataset = Dataset.open(tmp_path / "data")
    assert len(dataset.episodes) == 2 and all(e.policy == "expert" for e in dataset.episodes)
    assert "--wind: 0.0 is not possible" in toy("data.generation_script", "--wind", 0, "--env", "toy")
    said = " ".join(toy("test_controller", "--help").split())
    assert "toy: how far it blows a cursor (default: 0.5)" in said and "--calm" not in said


def test_a_new_world_is_scored_as_it_declares_and_its_options_are_its_own(tmp_path):
    where = ("--logdir", tmp_path, "--episodes", 2, "--max-workers", 1)
    toy("test_controller", "--env", "toy", "--controller", "expert", *where)
    (path,) = (tmp_path / "scores").glob("expert*.json")
    assert json.loads(path.read_text())["wind"] == 0.0
    said = toy("data.generation_script", "--env", "cartpole", "--wind", 1, "--rootdir", tmp_path / "data")
    assert said.strip() == "error: cartpole has no option wind: only toy does"


def test_a_world_declares_its_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "WORLDS", dict(catalogue.WORLDS))
    from dreamdrive.tests.toy_world import LINE

    catalogue.WORLDS |= LINE
    keys = make("toy").keyboard()
    assert keys.listed == {"j": "back", "k": "on", "n": "nothing: all at 0"} and keys.help == "j, k: cursor"
    assert keys.action({"left"}, None) is None and keys.words(keys.action({"j"}, None)) == "cursor -0.10"
    assert envs.keys("toy", make("toy").spec.space).listed == keys.listed  # in a dream of it
    args = test_controller.parse_args(["--env", "toy", "--controller", "human", "--render", "--logdir", str(tmp_path)])
    driven = shown.show_of(args, scoring.cast_of(args))
    driven.begin(0)
    driven.step({"k"})
    driven.step({"k", "left"})
    assert driven.action == pytest.approx([0.2]) and driven.human.keys.listed == keys.listed


def test_a_world_that_declares_no_keys_has_those_that_its_actions_suggest():
    assert list(make("cartpole").keyboard().listed) == ["left", "right"]
    assert list(make("gym:MountainCarContinuous-v0").keyboard().listed) == ["left", "right", "n"]
    box = make("carracing-fast").spec.space
    assert envs.keys("no longer there", box).listed == make("carracing-fast").keyboard().listed


def test_the_keys_of_a_game_hold_in_a_window_too():
    pong = make("atari:Pong")
    keys, names = pong.keyboard(), pong.action_names()
    assert [names[keys.action(held, 0)] for held in ({"left"}, {"1"}, {"n"})] == ["LEFT", "FIRE", "NOOP"]
    assert keys.let_go(3) == 0 and keys.help == "arrows, 0-5: act"
    assert list(envs.keys("atari:Pong", pong.spec.space).listed) == list("012345")  # a dream knows no names


def test_declaring_worlds_imports_no_simulator():
    code = (
        "import sys; from dreamdrive.envs import all_options, fast; all_options(); fast('x'); "
        "print([name for name in ('pyglet', 'ale_py', 'Box2D', 'pygame') if name in sys.modules])"
    )
    done = subprocess.run(command("-c", code), cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_what_says_where_a_world_is_found_does_not_say_what_it_is():
    options = {"scenes": "here", "goal": True}
    assert without_places("nocturne", options) == {"goal": True}
    assert without_places("no such world", options) == options
