"""The official CarRacing as a world, its frame, and our driver."""

import math
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch

from dreamdrive.envs import make
from dreamdrive.envs.carracing import SIMULATOR, Driver, frame
from dreamdrive.envs.gym_adapter import find_environment, make_environment
from dreamdrive.utils.seeds import evaluation_seeds

ACTIONS = torch.from_numpy(np.random.default_rng(0).uniform([-1, 0, 0], [1, 1, 0.3], (40, 1, 3)).astype(np.float32))


def drive(world, seed, actions=ACTIONS):
    """Frames (T + 1, H, W, C) and rewards (T,) of a world of one copy."""
    frames, rewards = [world.reset(seed)[0]], []
    for action in actions:
        step = world.step(action)
        frames.append(step.obs[0])
        rewards.append(step.reward[0])
    return torch.stack(frames), torch.stack(rewards)


@pytest.fixture(scope="module")
def physics():
    """The official simulator, its drawing switched off: the same car, track and reward, a hundred times faster."""
    simulator = make_environment(*find_environment("CarRacing-v3")).unwrapped
    simulator._render = lambda mode: None
    return simulator


def episode(simulator, seed):
    """Return of our driver on one track."""
    simulator.reset(seed=seed)
    driver, total = Driver(simulator), 0.0
    for _ in range(1000):
        _, reward, terminated, _, _ = simulator.step(driver.action())
        total += reward
        if terminated:
            break
    return total


def test_frame_is_the_exact_mean_of_the_area_of_each_pixel():
    observation = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    # (64 * 21, 64 * 3, 3): now every target pixel is 21 x 3 whole ones
    fine = observation[:84].repeat(16, axis=0).repeat(2, axis=1)
    mean = fine.reshape(64, 21, 64, 3, 3).astype(np.float64).mean(axis=(1, 3))
    assert np.array_equal(frame(observation), np.rint(mean).astype(np.uint8))


def test_frame_leaves_out_the_instrument_panel():
    observation = np.zeros((96, 96, 3), np.uint8)
    observation[84:] = 255
    assert not frame(observation).any()
    observation[83] = 255
    assert frame(observation)[63].all() and not frame(observation)[:63].any()


def test_obs_is_the_frame_of_the_official_observation():
    world = make("carracing")
    obs = world.reset(3)
    assert np.array_equal(obs[0].numpy(), frame(world._environments[0].unwrapped.state))
    step = world.step(ACTIONS[0])
    assert np.array_equal(step.obs[0].numpy(), frame(world._environments[0].unwrapped.state))


@pytest.mark.parametrize("seed, driven", [(4, "slowly"), (5, "fast"), (6, "off the playfield")])
def test_rewards_and_pictures_are_the_official_ones_to_the_last_digit(seed, driven):
    official, ours = (gymnasium.make(id, render_mode="rgb_array") for id in ("CarRacing-v3", SIMULATOR))
    observations = [simulator.reset(seed=seed)[0] for simulator in (official, ours)]
    assert np.array_equal(*observations)
    if driven == "off the playfield":
        for simulator in (official, ours):
            simulator.unwrapped.car.hull.position = (315, 315)  # a corner of it: the field beyond ends in view
    driver = Driver(official.unwrapped)
    seen = set()
    for t in range(150):
        action = {"slowly": ACTIONS[t % len(ACTIONS), 0].numpy(), "fast": driver.action()}.get(
            driven, np.float32([0.1, 0.5, 0])
        )
        expected, got = official.step(action), ours.step(action)
        assert np.array_equal(expected[0], got[0]) and expected[1:] == got[1:]
        seen.add(got[0].tobytes())
        if got[2]:
            break
    assert len(seen) > 30
    assert np.array_equal(official.render(), ours.render())


def test_a_world_nobody_looks_at_drives_the_same_and_can_still_be_rendered():
    seen, unseen = make("carracing"), make("carracing")
    unseen.look_away()
    (frames, rewards), (blank, same) = drive(seen, 4), drive(unseen, 4)
    assert torch.equal(rewards, same) and frames.any() and not blank.any()
    assert np.array_equal(seen.render(), unseen.render())


def test_a_seed_gives_the_same_frames_whatever_the_copy_did_before():
    used = make("carracing")
    drive(used, 8)
    drive(used, 9, ACTIONS[:7])
    for fresh, again in zip(drive(make("carracing"), 3), drive(used, 3), strict=True):
        assert torch.equal(fresh, again)


def test_actions_are_clipped_to_the_action_space():
    wild = torch.tensor([[-3.0, 7.0, -2.0]]).expand(20, 1, 3)
    tame = torch.tensor([[-1.0, 1.0, 0.0]]).expand(20, 1, 3)
    world = make("carracing")
    assert torch.equal(drive(world, 0, wild)[0], drive(world, 0, tame)[0])


def test_an_episode_lasts_a_thousand_steps_by_default():
    assert make("carracing").spec.max_steps == 1000


def test_render_is_the_official_picture():
    world = make("carracing", num=2)
    world.reset(0)
    pictures = [world.render(copy) for copy in range(2)]
    assert all(p.shape == (400, 600, 3) and p.dtype == np.uint8 for p in pictures)
    assert not np.array_equal(*pictures)


def test_it_runs_silently_and_without_a_display():
    program = (
        'from dreamdrive.envs import make; w = make("carracing"); w.reset(0); w.step(w.expert_action()); w.render()'
    )
    done = subprocess.run([sys.executable, "-c", program], env={}, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_missing_box2d_names_what_to_install():
    program = (
        'import sys; sys.modules["Box2D"] = None\n'
        'from dreamdrive.envs import make; from dreamdrive.utils.script import run; run(lambda: make("carracing"))'
    )
    done = subprocess.run([sys.executable, "-c", program], env={}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert 'pip install "gymnasium[box2d]"' in done.stderr


def test_the_expert_answers_for_every_copy_within_the_action_space():
    world = make("carracing", num=2)
    world.reset(0)
    action = world.expert_action()
    assert action.shape == (2, 3) and action.dtype == torch.float32
    assert all(world.spec.action_space.contains(a.numpy()) for a in action)


def test_the_expert_looks_at_the_track_again_after_a_restart():
    world = make("carracing", max_steps=1)
    world.reset(0)
    world.expert_action()
    step = world.step(torch.zeros(1, 3))
    assert step.truncated.all()
    other = make("carracing")
    other.reset(1)
    assert torch.equal(world.expert_action(), other.expert_action())


@pytest.mark.slow
def test_the_expert_scores_at_least_850_over_20_evaluation_tracks(physics):
    returns = [episode(physics, seed) for seed in evaluation_seeds(0, 20)]
    assert np.mean(returns) >= 850, returns
    assert min(returns) >= 700, returns


def place(simulator, aside, turned, speed, spin):
    """Put the car beside a straight piece of the track: `aside` to the right, `turned` (rad), sliding along the road at
    `speed`, spinning at `spin`."""
    _, beta, x, y = simulator.track[40]
    hull, wheels = simulator.car.hull, simulator.car.wheels
    corners = [hull.GetLocalPoint(wheel.position) for wheel in wheels]
    hull.position, hull.angle = (x + aside * math.cos(beta), y + aside * math.sin(beta)), beta + turned
    for wheel, corner in zip(wheels, corners, strict=True):
        wheel.position, wheel.angle = hull.GetWorldPoint(corner), hull.angle
    for body in [hull, *wheels]:
        body.linearVelocity, body.angularVelocity = (-speed * math.sin(beta), speed * math.cos(beta)), spin


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("aside", "turned", "speed", "spin"),
    [(15, 0, 40, 0), (0, math.pi, 0, 0), (0, 1.5, 50, 6), (3, 0.7, 60, 2), (-30, 2, 20, -3), (-18, -1.5, 30, 0)],
    ids=["on the grass", "facing backwards", "spun", "sliding", "far off the road", "across the road"],
)
def test_the_expert_recovers(physics, seed, aside, turned, speed, spin):
    """Within 400 steps (8 s) it drives forwards on the road again, and from there visits 40 tiles in 200 steps."""
    physics.reset(seed=seed)
    place(physics, aside, turned, speed, spin)
    driver = Driver(physics)
    for _ in range(400):
        physics.step(driver.action())
    on_road = sum(bool(wheel.tiles) for wheel in physics.car.wheels)
    visited = physics.tile_visited_count
    for _ in range(200):
        physics.step(driver.action())
    assert on_road == 4
    assert physics.tile_visited_count - visited >= 40 or physics.tile_visited_count == len(physics.track)
