"""Nocturne as a world: episodes, reward, ends, seeds, experts, actions."""

import gymnasium as gym
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from dreamdrive import envs
from dreamdrive.envs.nocturne import folder_index
from dreamdrive.envs.nocturne.actions import ActionGrid
from dreamdrive.envs.nocturne.expert import curvature_of, steering_for
from dreamdrive.envs.nocturne.folder_index import INDEX
from dreamdrive.envs.nocturne.pool import FolderPool
from dreamdrive.envs.nocturne.simulator import bicycle
from dreamdrive.tests.tiny_scene import car, road, scene_of, write
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.seeds import RANGE, evaluation_seeds

STEPS = 80


@pytest.fixture
def folder(tmp_path):
    """Two scenes: one with a wall across the way of one of its cars, one with a car that curves (as its log has it)."""
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    write(
        scenes,
        scene_of(
            [car(), car(y=20), car(y=60, kind="pedestrian", speed=1.0), car(y=40, speed=0.0)],
            [road("road_edge", (40.2, 19), (40.2, 21))],
        ),
        "a.json",
    )
    states = [torch.tensor([0.0, 0.0, 0.0, 8.0])]
    for _ in range(90):
        states.append(bicycle(states[-1], torch.tensor(0.0), torch.tensor(0.2), torch.tensor(4.0), 0.1))
    x, y, heading, _ = torch.stack(states).double().unbind(1)
    curve = car(speed=8.0)
    curve |= {
        "position": [{"x": a, "y": b} for a, b in zip(x.tolist(), y.tolist(), strict=True)],
        "heading": heading.rad2deg().tolist(),
        "velocity": [{"x": 8 * float(h.cos()), "y": 8 * float(h.sin())} for h in heading],
        "goalPosition": {"x": float(x[-1]), "y": float(y[-1])},
    }
    write(scenes, scene_of([curve]), "b.json")
    return scenes


def world(folder, num: int = 1, **options):
    made = envs.make("nocturne", num=num, scenes=str(folder), **options)
    made.look_away()
    return made


def drive(made, action, steps: int = STEPS):
    """Steps of `action()` in every copy: all Steps."""
    return [made.step(action()) for _ in range(steps)]


def test_every_moving_vehicle_of_every_scene_is_an_episode(folder):
    pool = FolderPool(folder, warmup=10)
    assert pool.episodes == [("a.json", 0), ("a.json", 1), ("b.json", 0)] and world(folder).episodes == 3
    drawn = [pool.draw(seed) for seed in range(4)]
    assert [(scene.name, ego) for scene, ego in drawn] == [("a.json", 0), ("a.json", 1), ("b.json", 0), ("a.json", 0)]
    first_two = {pool.draw(seed)[0].ids.size for seed in evaluation_seeds(0, 2)}
    assert first_two == {4, 1}  # one of each file before the second of any
    assert [pool.draw(RANGE + k)[0] for k in range(3)] == [pool.draw(RANGE + k)[0] for k in range(3)]


def test_selection_sees_only_scenes_that_are_held_out(tmp_path):
    for k in range(26):
        write(tmp_path, scene_of([car(), car(y=8.0)]), f"{k:02d}.json")
    pool = FolderPool(tmp_path, 10)
    assert pool.held == {"05.json", "15.json", "25.json"}
    assert [k // 2 for k in range(52) if pool.held_out(k)] == [5, 5, 15, 15, 25, 25]
    held = [pool.draw(k)[0] for k in range(52) if pool.held_out(k)]
    assert {id(pool.draw(RANGE + k)[0]) for k in range(40)} == {id(scene) for scene in held}
    assert len({id(pool.draw(seed)[0]) for seed in evaluation_seeds(0, 26)}) == 26


def test_a_single_scene_is_not_held_out(tmp_path):
    write(tmp_path, scene_of([car(), car(y=8.0)]))
    pool = FolderPool(tmp_path, 10)
    assert pool.held_out(0) is None and pool.draw(RANGE)[0] is pool.draw(0)[0]


def test_what_a_folder_holds_is_remembered_until_a_file_changes(folder, capsys):
    before = FolderPool(folder, 10).episodes
    assert (folder / INDEX).exists()
    (folder / INDEX).write_text("garbage")
    assert FolderPool(folder, 10).episodes == before
    write(folder, scene_of([car()]), "a.json")
    assert FolderPool(folder, 10).episodes == [("a.json", 0), ("b.json", 0)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"[" * 100_000,
        lambda whole: b"\xff",
        lambda whole: b"[1, 2]\n",
        lambda whole: whole[:-20],  # killed, or a disk that was full
        lambda whole: whole[: len(whole) // 2] + whole[len(whole) // 2 + 9 :],
        lambda whole: whole.replace(b'"0v ', b'"7v '),  # another ego
    ],
)
def test_a_damaged_index_of_a_folder_is_made_again(damage, folder):
    before = FolderPool(folder, 10).episodes
    whole = (folder / INDEX).read_bytes()
    (folder / INDEX).write_bytes(damage(whole))
    assert (folder / INDEX).read_bytes() != whole
    assert FolderPool(folder, 10).episodes == before
    assert sorted((folder / INDEX).read_bytes().splitlines()) == sorted(whole.splitlines())


def test_the_index_of_a_folder_that_cannot_be_written_to_is_in_the_users_own_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "shared"))
    (folder / INDEX).mkdir()
    before = FolderPool(folder, 10).episodes
    (kept,) = (tmp_path / "cache" / "dreamdrive").iterdir()
    assert kept.parent.stat().st_mode & 0o077 == 0 and not (tmp_path / "shared").exists()
    monkeypatch.setattr(folder_index, "drivable", None)
    assert FolderPool(folder, 10).episodes == before


def test_folders_without_scenes_or_egos_are_refused(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        world(tmp_path / "none")
    with pytest.raises(UserError, match="has no .json file"):
        world(tmp_path)
    write(tmp_path, scene_of([car(speed=0.0)]))
    with pytest.raises(UserError, match="in none of them a vehicle that moves"):
        world(tmp_path)


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"image_size": 65}, "choose 64 or 128"),
        ({"actions": "x"}, "continuous or discrete"),
        ({"warmup": 90}, "0 to 89 steps"),
        ({"max_steps": 0}, "must be 1 or more"),
    ],
)
def test_impossible_options_are_refused(folder, options, complaint):
    with pytest.raises(UserError, match=complaint):
        world(folder, **options)


def test_options_of_nocturne_are_refused_by_other_worlds():
    with pytest.raises(UserError, match="carracing has no option image size: only nocturne does"):
        envs.make("carracing", image_size=64)


def test_the_expert_follows_the_log_to_the_goal(folder):
    made = world(folder, num=3, restart=False)
    made.reset([0, 1, 2])
    assert (made.sim.time == 10).all()
    steps = drive(made, made.expert_action)
    assert torch.stack([s.info["log_distance"] for s in steps]).max() < 0.05
    assert made.outcome()["goal_rate"].tolist() == [1, 0, 1] and made.outcome()["road_edge_rate"].tolist() == [0, 1, 0]
    ended = [next(t for t, s in enumerate(steps, 1) if s.terminated[b]) for b in range(3)]
    # 5 m/s: 38.2 m to the wall, 44 m to 1 m before the goal; 10 steps were the warm-up
    assert ended[1] == 67 and 77 <= ended[0] <= 79 and 77 <= ended[2] <= 79


def test_the_expert_finds_back_to_the_log(folder):
    made = world(folder, num=2, restart=False, drive_on=True)
    made.reset([0, 2])
    made.sim.local[[0, 1], made.egos, :2] += torch.tensor([1.0, -1.5])
    made.sim.local[[0, 1], made.egos, 2] += 0.3
    made.sim.local[[0, 1], made.egos, 3] -= 2.0
    steps = drive(made, made.expert_action)
    assert steps[-1].info["log_distance"].max() < 0.1 < steps[0].info["log_distance"].min()


def test_the_log_alone_does_not(folder):
    made = world(folder, num=2, restart=False, drive_on=True)
    made.reset([0, 2])
    assert drive(made, lambda: made.reference_action("log"))[-1].info["log_distance"].max() < 0.2
    made.reset([0, 2])
    made.sim.local[[0, 1], made.egos, 2] += 0.3
    assert drive(made, lambda: made.reference_action("log"))[-1].info["log_distance"].min() > 3


def test_the_reward_is_nocturnes(folder):
    made = world(folder, restart=False)
    made.reset([0])
    step = made.step(torch.zeros(1, 2))  # straight on at 5 m/s, the goal 40 m away
    assert step.reward.item() == pytest.approx((0.2 * (1 - 39.5 / 40) + 0.2 + 0.2) / 10, abs=1e-4)
    rewards = [s.reward.item() for s in drive(made, lambda: torch.zeros(1, 2))]
    assert max(rewards) == pytest.approx(8 + 0.06, abs=1e-2) and rewards[-1] == 0


def test_driving_on_goes_through_what_would_end_an_episode_and_earns_nothing_there(folder):
    made = world(folder, num=3, restart=False, drive_on=True)
    made.reset([0, 1, 2])
    steps = drive(made, made.expert_action)
    assert (
        not any(s.terminated.any() for s in steps)
        and steps[-1].truncated.all()
        and not any(s.truncated.any() for s in steps[:-1])
    )
    assert [made.outcome()[k].tolist() for k in ("goal_rate", "collision_rate")] == [[1, 0, 1], [0, 1, 0]]
    assert steps[-1].reward.tolist() == [0, 0, 0] and made.outcome()["fde"].max() < 0.1


def test_a_copy_that_has_ended_is_frozen_and_the_others_go_on(folder):
    made, alone = world(folder, num=2, restart=False), world(folder, restart=False)
    made.reset([1, 0])
    alone.reset([0])
    steps = drive(made, lambda: torch.zeros(2, 2))
    single = drive(alone, lambda: torch.zeros(1, 2))
    at = made.sim.local[0, made.egos[0]].tolist()
    assert steps[-1].terminated.tolist() == [True, True] and at[0] + made.sim.origin[0, 0].item() == pytest.approx(
        38.5, abs=0.01
    )
    assert [s.reward[1].item() for s in steps] == [s.reward[0].item() for s in single]


def test_a_copy_restarts_in_the_next_scene_of_its_seeds(folder):
    made = world(folder, num=2, restart=True)
    made.reset(0)
    ends = 0
    for _ in range(2 * STEPS + 5):
        ends += int((s := made.step(made.expert_action())).terminated.sum() + s.truncated.sum())
    assert ends == 4 and made._seeds == [4, 5]
    assert (made.sim.time < 30).all() and made.outcome()["ade"].max() < 0.1


def test_the_whole_log_can_be_driven(folder):
    made = world(folder, warmup=0, restart=False, drive_on=True)
    made.reset([0])
    assert made.spec.max_steps == 90 and drive(made, made.expert_action, 90)[-1].truncated.all()


def test_all_273_pairs_have_an_index_of_their_own():
    grid = ActionGrid()
    index = torch.arange(len(grid))
    pairs = grid.pair(index)
    assert len(grid) == 273 and torch.equal(grid.index(pairs), index) and len(pairs.unique(dim=0)) == 273
    assert pairs[0].tolist() == [-6, -1] and pairs[-1].tolist() == [6, 1] and pairs[6 * 21 + 10].tolist() == [0, 0]
    assert grid.index(torch.tensor([[99.0, -99.0], [0.4, 0.04]])).tolist() == [12 * 21, 6 * 21 + 10]
    other = ActionGrid(accel=3.0, steer=0.7, accels=6, steers=43)
    assert torch.equal(other.index(other.pair(torch.arange(len(other)))), torch.arange(6 * 43))


def test_steering_and_curvature_are_each_others_inverse():
    steer = torch.linspace(-1.2, 1.2, 25)
    assert torch.allclose(steering_for(curvature_of(steer, torch.tensor(4.5)), torch.tensor(4.5)), steer, atol=1e-5)


def test_discrete_actions_drive_the_same_car(folder):
    made = world(folder, num=2, restart=False, actions="discrete", drive_on=True)
    made.reset([0, 2])
    assert made.spec.action_space == gym.spaces.Discrete(273)
    drive(made, made.expert_action)
    assert made.outcome()["ade"].max() < 0.5
    with pytest.raises(UserError, match="whole numbers from 0 to 272"):
        made.reset([0, 2]), made.step(torch.tensor([0, 273]))


def test_synthetic_scenes_follow_from_the_seed():
    made = envs.make("nocturne", num=2, restart=False)
    made.look_away()
    made.reset([5, 2_000_001])
    names, states = made.places(), made.sim.local.clone()
    made.reset([2_000_001, 5])
    assert made.places() == names[::-1] and torch.equal(made.sim.local[0, made.egos[0]], states[1][made.egos[0]])


@pytest.mark.filterwarnings("ignore:.*(minimum|maximum) value is (-)?infinity.*")  # features have no bounds
@pytest.mark.parametrize("observation", ["cone", "features"])
def test_gymnasium_finds_nothing_wrong_with_the_environment(folder, observation):
    environment = gym.make(
        "dreamdrive/Nocturne-v0", scenes=str(folder), render_mode="rgb_array", observation=observation
    )
    check_env(environment.unwrapped)
    environment.reset(seed=3)
    *_, info = environment.step(environment.action_space.sample())
    assert set(info) == {"goal", "collision", "off_road", "log_distance"} and environment.render().shape == (
        512,
        512,
        3,
    )


def test_frames_are_the_same_whoever_has_ended_beside(folder):
    together, alone = (envs.make("nocturne", num=n, scenes=str(folder), restart=False) for n in (2, 1))
    frames = [together.reset([1, 0])[1], *(together.step(together.expert_action()).obs[1] for _ in range(STEPS))]
    wanted = [alone.reset([0])[0], *(alone.step(alone.expert_action()).obs[0] for _ in range(STEPS))]
    assert all(torch.equal(a, b) for a, b in zip(frames, wanted, strict=True)) and not torch.equal(
        frames[0], frames[40]
    )
