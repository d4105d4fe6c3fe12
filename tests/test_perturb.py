"""CarRacing as no driver of it was trained (envs/carracing_perturbed.py), in scores: `--perturb`."""

import json

import numpy as np
import pytest
import torch

from dreamdrive import test_controller
from dreamdrive.driving import scoring
from dreamdrive.envs import make, trials
from dreamdrive.envs.carracing_perturbed import BAR, FIELD, ROAD, SHIFT
from dreamdrive.envs.catalogue import PERTURBATIONS
from dreamdrive.playing import shown
from dreamdrive.tests.tiny_run import call, complaint
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.scores import score_file, trial_name

WORLDS = ("carracing", "carracing-fast")
GAS = torch.tensor([[0.1, 0.2, 0.0]])


def driven(name, seeds, steps, restart=False, **options):
    """Frames (T + 1, B, 64, 64, 3) as int16 and rewards (T, B) of copies that steer left under gas."""
    world = make(name, num=len(seeds), restart=restart, **options)
    frames, rewards = [world.reset(seeds)], []
    for _ in range(steps):
        step = world.step(GAS.expand(len(seeds), 3))
        frames.append(step.obs)
        rewards.append(step.reward)
    return torch.stack(frames).short(), torch.stack(rewards)


@pytest.fixture(scope="module", params=WORLDS)
def plain(request):
    """Name of a world, and what it shows unperturbed on track 3, first and after a second."""
    return request.param, driven(request.param, [3], 55)[0][:, 0]


def simulator(world):
    return world._environments[0].unwrapped


def test_bars_are_black_and_the_rest_is_as_it_was(plain):
    name, frames = plain
    seen = driven(name, [3], 55, perturb="bars")[0][:, 0]
    assert not seen[:, :, :4].any() and not seen[:, :, 60:].any()
    assert torch.equal(seen[:, :, 5:59], frames[:, :, 5:59])
    partly = (frames[:, :, 4] * (5 - BAR)).round()
    assert (seen[:, :, 4] - partly).abs().max() <= 1 and seen[:, :, 4].any()


def test_a_blob_follows_the_car_ahead_and_to_its_right(plain):
    name, frames = plain
    seen = driven(name, [3], 55, perturb="blob")[0][:, 0]
    changed = (seen != frames).any(-1)
    rows, columns = changed[-1].any(1).nonzero()[:, 0], changed[-1].any(0).nonzero()[:, 0]
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (31, 43, 53, 62)
    assert (seen[-1, 33:43, 55:61] == torch.tensor([204, 0, 0])).all()
    assert changed[1].sum() < 10 < changed[30].sum() < changed[-1].sum()  # the camera comes down
    assert torch.equal(seen[-1][~changed[-1]], frames[-1][~changed[-1]])


def test_colours_of_road_and_field_move_by_a_number_each_for_an_episode(plain):
    name, frames = plain
    world = make(name, perturb="colour")
    found = []
    for seed in (3, 4, 3):
        world.reset(seed)
        official = simulator(world)
        road, field = official.road_color - ROAD, official.bg_color - FIELD
        assert len(set(road)) == len(set(field)) == 1 and max(abs(road[0]), abs(field[0])) <= SHIFT
        found.append((int(road[0]), int(field[0])))
    assert found[0] == found[2] != found[1] and 0 not in found[0]
    moved = driven(name, [3], 55, perturb="colour")[0][-1, 0] - frames[-1]
    grey = frames[-1].amax(-1) - frames[-1].amin(-1) < 3
    for where, shift in (
        ((frames[-1] - torch.tensor(FIELD)).abs().amax(-1) <= 2, found[0][1]),
        ((frames[-1] - torch.tensor([102, 230, 102])).abs().amax(-1) <= 2, 0),
        (grey & (frames[-1].amax(-1) > 90) & (frames[-1].amax(-1) < 115), found[0][0]),
    ):
        near = (moved[where] - shift).abs() <= 2  # but for edges between two colours
        assert where.sum() > 100 and near.float().mean() > 0.9


def test_both_worlds_change_in_the_same_way():
    for options in ({"perturb": "colour"}, {"perturb": "bars"}, {"perturb": "blob"}, {"perturb": "physics"}):
        official, fast = (driven(name, [5, 6], 55, **options) for name in WORLDS)
        assert torch.equal(official[1], fast[1])
        assert (official[0] - fast[0])[51:].abs().float().mean() < 2


def test_physics_changes_grip_and_pedals_from_the_seed_and_no_picture_of_the_start():
    plain, plain_rewards = driven("carracing-fast", [3, 4], 60)
    seen, rewards = driven("carracing-fast", [3, 4], 60, perturb="physics")
    assert torch.equal(plain[0], seen[0]) and not torch.equal(plain[-1], seen[-1])
    assert not torch.equal(plain_rewards, rewards)
    world = make("carracing-fast", perturb="physics")
    world.reset(3)
    official = simulator(world)
    grip = {tile.road_friction for tile in official.road}
    assert len(grip) == 1 and 0.7 <= grip.pop() <= 1.3
    world.step(torch.tensor([[0.2, 0.1, 0.4]]))
    response = world._perturbation._response[0]
    assert np.allclose(official.car.wheels[0].steer, -0.2 * response[0])
    assert np.allclose(official.car.wheels[2].gas, min(0.1 * response[1], 0.1))
    assert np.allclose(official.car.wheels[0].brake, 0.4 * response[2])
    assert len(set(response)) == 3 and (response >= 0.7).all() and (response <= 1.3).all()


@pytest.mark.parametrize("options", [{"perturb": kind} for kind in PERTURBATIONS])
def test_an_episode_follows_from_its_seed_whatever_is_driven_beside_it(options):
    frames, rewards = driven("carracing-fast", [8, 3, 8, 5], 30, **options)
    alone, reward = driven("carracing-fast", [3], 30, **options)
    assert torch.equal(frames[:, 1], alone[:, 0]) and torch.equal(rewards[:, 1], reward[:, 0])
    assert torch.equal(frames[:, 0], frames[:, 2])
    again, _ = driven("carracing-fast", [2, 3], 12, restart=True, max_steps=10, **options)
    assert torch.equal(again[9, 1], alone[9, 0])
    fresh, _ = driven("carracing-fast", [5], 2, **options)  # seed 3 restarts as 3 + 1 a copy given one by one
    later, _ = driven("carracing-fast", [4], 2, restart=True, max_steps=1, **options)
    assert torch.equal(later[1, 0], fresh[0, 0])


def test_an_unperturbed_world_says_nothing_of_perturbation():
    world = make("carracing-fast")
    assert world.spec.options == {} and not world.seen_apart and world._perturbation is None
    changed = make("carracing-fast", perturb="bars", obs_noise=0.1)
    assert changed.spec.options == {"perturb": "bars", "obs_noise": 0.1} and changed.seen_apart
    with pytest.raises(UserError, match='no perturbation "wind": choose colour, bars, blob, physics'):
        make("carracing", perturb="wind")


def test_scores_of_what_was_not_trained_for_have_names_of_their_own(tmp_path):
    assert trials({"perturb": "bars", "goal": True, "obs_noise": 0.2}) == {"perturb": "bars", "obs_noise": 0.2}
    assert trial_name({"perturb": "bars", "obs_noise": 0.25}) == "bars-obs-noise-0.25" and trial_name({}) == ""
    assert score_file(tmp_path, "bc", "carracing", "simulator").name == "bc-carracing-simulator.json"
    quick = ("--logdir", tmp_path, "--env", "carracing-fast", "--controller", "expert", "--episodes", 1)
    for flags in ((), ("--perturb", "physics"), ("--obs-noise", 0)):
        done = call("test_controller", *quick, "--max-workers", 1, *flags)
        assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "scores").iterdir())
    assert names == ["expert-carracing-fast-physics-simulator.json", "expert-carracing-fast-simulator.json"]
    changed, same = (json.loads((tmp_path / "scores" / name).read_text()) for name in names)
    assert changed["perturb"] == "physics" and "perturb" not in same and "obs_noise" not in same
    assert changed["mean"] != same["mean"]


def test_a_window_shows_what_the_driver_sees_beside_the_simulators_picture(tmp_path):
    words = ["--env", "carracing-fast", "--controller", "expert", "--render", "--logdir", str(tmp_path)]
    args = test_controller.parse_args([*words, "--perturb", "bars"])
    show = shown.show_of(args, scoring.cast_of(args))
    show.begin(0)
    picture, seen = show.images()
    assert show.panels == ["the simulator", "what is seen of it"]
    assert seen.shape == (64, 64, 3) and not seen[:, :4].any() and picture[:300, :4].any()
    plain = test_controller.parse_args(words)
    assert shown.show_of(plain, scoring.cast_of(plain)).panels == ["the simulator"]


def test_a_world_without_perturbations_and_other_scripts_refuse_them(tmp_path):
    where = ("--logdir", tmp_path, "--controller", "random", "--episodes", 1, "--max-workers", 1)
    said = complaint(call("test_controller", *where, "--env", "cartpole", "--perturb", "bars"))
    assert said == "error: cartpole has no option perturb: only carracing and carracing-fast do"
    said = complaint(call("test_controller", *where, "--perturb", "wind"))
    assert "argument --perturb: invalid choice: 'wind'" in said
    said = complaint(call("test_controller", *where, "--world", "dream", "--perturb", "bars"))
    assert said == "error: --perturb is for --world simulator: leave it away, or give that"
    said = complaint(call("data.generation_script", "--rootdir", tmp_path / "data", "--perturb", "bars"))
    assert "unrecognized arguments: --perturb bars" in said
