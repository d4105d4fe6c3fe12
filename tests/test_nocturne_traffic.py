"""Traffic that answers (--traffic idm): the log as long as nobody has to answer, then distance and giving way."""

import json

import pytest
import torch

from dreamdrive import envs
from dreamdrive.driving.evaluation import Driven
from dreamdrive.driving.scoring import by_subset
from dreamdrive.envs.flags import tried
from dreamdrive.envs.nocturne import load_scene
from dreamdrive.envs.nocturne.logged_paths import paths_of
from dreamdrive.envs.nocturne.must_react import must_react
from dreamdrive.tests.tiny_run import call, complaint
from dreamdrive.tests.tiny_scene import STEPS, car, scene_of, write
from dreamdrive.utils.errors import UserError

EAST, NORTH = 0.0, torch.pi / 2
ROLL = torch.zeros(1, 2)


@pytest.fixture
def made(tmp_path):
    """A world in a scene of some objects, of which the first is the ego."""

    def make(*objects, lights=None, traffic="idm", num=1, **options):
        write(tmp_path, scene_of(objects, lights=lights))
        world = envs.make(
            "nocturne", num=num, scenes=str(tmp_path), traffic=traffic, restart=False, drive_on=True, **options
        )
        world.look_away()
        world.reset([0] * num)
        return world

    return make


def driven(world, action, steps: int = 80) -> torch.Tensor:
    """(steps + 1, N, 4): where all are, `action` being asked for what the ego does."""
    states = [world.sim.local[0].clone()]
    for _ in range(steps):
        world.step(action(world) if callable(action) else action)
        states.append(world.sim.local[0].clone())
    return torch.stack(states)


def braking(world):
    """Down to a standstill."""
    speed = world.sim.local[0, world.egos[0], 3]
    return torch.tensor([[-min(4.0, 10 * float(speed)), 0.0]])


def log_of(world) -> torch.Tensor:
    return world.sim.log[0, :, world.warmup :].transpose(0, 1)


def test_who_has_nobody_to_answer_is_where_the_log_has_it_to_the_last_bit(made):
    world = made(car(), car(x=-12), car(x=12), car(x=40, y=-60, heading=NORTH, speed=8))
    assert torch.equal(driven(world, lambda w: w.expert_action())[:, 1:], log_of(world)[:, 1:])


def test_who_follows_stops_behind_an_ego_that_stops_and_so_does_the_next_one(made):
    objects = car(), car(x=-15), car(x=-30), car(y=30)
    world, replay = made(*objects), made(*objects, traffic="log")
    states = driven(world, braking)
    gaps = states[-1, :2, 0] - states[-1, 1:3, 0] - 4.0
    assert (gaps > 0.3).all() and (gaps < 6).all() and states[-1, :3, 3].max() < 0.2
    assert world.outcome()["vehicle_collision_rate"].item() == 0
    assert (states.diff(dim=0)[:, 1:3, 0] >= 0).all() and (states[:, 1:3, 0] <= log_of(world)[:, 1:3, 0] + 1e-3).all()
    assert (states.diff(dim=0)[:, :, 3] > -0.62).all(), "nobody brakes harder than 6 m/s^2"
    assert torch.equal(states[:, 3], log_of(world)[:, 3]), "who has nothing to do with it does not notice"
    driven(replay, braking)
    assert replay.outcome()["vehicle_collision_rate"].item() == 1


def test_who_was_held_up_catches_up_and_is_never_ahead_of_its_log(made):
    world = made(car(speed=8), car(x=-18, speed=8))
    slow = iter([-5.0] * 10 + [5.0] * 25 + [0.0] * 45)
    states = driven(world, lambda w: torch.tensor([[next(slow), 0.0]]))
    behind = log_of(world)[:, 1, 0] - states[:, 1, 0]
    assert behind.max() > 1 and behind.min() > -1e-3 and behind[-1] < behind.max() - 1


def test_who_crosses_gives_way_to_an_ego_that_comes_late(made):
    """In the log the ego is over the crossing two seconds before the other; held up, both would be there at once."""
    crossing = car(x=20.0, y=-60.0, heading=NORTH, speed=10.0)
    late = [-4.0] * 10 + [0.0] * 70
    outcomes = {}
    for traffic in ("log", "idm"):
        world = made(car(x=-10.0, speed=8.0), crossing, traffic=traffic)
        actions = iter(late)
        driven(world, lambda w, actions=actions: torch.tensor([[next(actions), 0.0]]))
        outcomes[traffic] = world.outcome()["vehicle_collision_rate"].item()
    assert outcomes == {"log": 1.0, "idm": 0.0}


def test_who_is_late_stops_at_a_light_that_is_red_by_then(made):
    light = {
        "7": {
            "state": ["go" if t < 40 else "stop" for t in range(STEPS)],
            "x": [8.0] * STEPS,
            "y": [0.0] * STEPS,
            "time_index": list(range(STEPS)),
        }
    }
    turned_off = iter([-4.0] * 12 + [0.0] * 10 + [6.0] * 5 + [0.0] * 53)
    world = made(car(x=0.0, y=0.0), car(x=-12.0), lights=light)
    state = driven(world, lambda w: torch.tensor([[next(turned_off), 0.0]]))[-1]
    front = state[1, 0] + world.sim.origin[0, 0] + 2.0
    assert state[0, 0] > state[1, 0] + 15 and 4 < front < 8.1 and state[1, 3] < 0.3


def test_who_is_due_where_somebody_is_waits_until_there_is_room(made):
    arrives = [t == 0 or t >= 40 for t in range(STEPS)]
    world = made(car(x=0.0), car(x=-15.0 + 4.5, valid=arrives), car(y=30.0))  # in the log 10 m behind the ego
    seen = []
    for _ in range(80):
        world.step(braking(world))
        seen.append(bool(world.sim.there[0, 1]))
    assert world.outcome()["vehicle_collision_rate"].item() == 0 and not any(seen[:29])


def test_copies_do_not_depend_on_each_other(made):
    objects = car(), car(x=-15), car(x=-28), car(x=30.0, y=-45.0, heading=NORTH, speed=8.0)
    alone, several = made(*objects), made(*objects, num=3)
    wanted = driven(alone, braking)
    states = []
    for _ in range(80):
        speed = float(several.sim.local[1, several.egos[1], 3])
        several.step(torch.cat([ROLL, torch.tensor([[-min(4.0, 10 * speed), 0.0]]), -ROLL]))
        states.append(several.sim.local[1].clone())
    assert torch.equal(torch.stack(states), wanted[1:])


def test_a_copy_that_begins_again_has_forgotten_who_was_late(tmp_path):
    write(tmp_path, scene_of([car(), car(x=-12)]), "a.json")
    write(tmp_path, scene_of([car(), car(x=-12), car(y=30, kind="cyclist"), car(y=50)]), "b.json")
    world = envs.make("nocturne", num=2, scenes=str(tmp_path), traffic="idm", max_steps=30, drive_on=True)
    world.look_away()
    world.reset([0, 2])
    for _ in range(30):
        world.step(torch.tensor([[-4.0, 0.0], [0.0, 0.0]]))
    assert not world._traffic.late.any() and (world.sim.time == 10).all()


def test_pedestrians_and_who_stands_replay_the_log(made):
    world = made(car(), car(x=-12, speed=0.0), car(x=20, y=-4, heading=NORTH, speed=1.0, kind="pedestrian"))
    assert len(paths_of(world.sim.scenes[0]).who) == 1
    assert torch.equal(driven(world, ROLL)[:, 1:], log_of(world)[:, 1:])


def test_an_ego_must_react_if_it_would_hit_somebody_on_its_way(tmp_path):
    scene = load_scene(write(tmp_path, scene_of([car(speed=2.0), car(x=12.0, speed=2.0), car(y=20, speed=12.0)])))
    assert must_react(scene, 0, 10) and not must_react(scene, 1, 10) and not must_react(scene, 2, 10)


def test_scores_tell_those_that_must_react_apart():
    episodes = [Driven(0.0, {"goal_rate": g, "must_react": m}, "") for g, m in ((1, 1), (0, 1), (1, 0))]
    assert by_subset(episodes, ("must_react",)) == {"must_react": {"episodes": 2, "goal_rate": 0.5}}
    assert by_subset(episodes[2:], ("must_react",)) == {}


def test_traffic_is_part_of_what_a_world_is_and_may_be_another_for_scores(made):
    assert made(car()).spec.options["traffic"] == "idm"
    assert "traffic" not in made(car(), traffic="log").spec.options, "files from before say nothing, and mean the log"
    old = {"env": "nocturne", "options": {}}
    assert tried(old, {"traffic": "idm"}) == {"traffic": "idm"} and tried(old, {"traffic": "log"}) == {}
    with pytest.raises(UserError, match='no traffic "x": choose log or idm'):
        made(car(), traffic="x")


@pytest.mark.slow
def test_episodes_are_recorded_and_cloned_among_traffic_that_answers(tmp_path):
    scenes, data, run = tmp_path / "scenes", tmp_path / "data", tmp_path / "run"
    scenes.mkdir()
    for k in range(3):
        write(scenes, scene_of([car(), car(x=-15)]), f"{k}.json")
    place = ("--env", "nocturne", "--scenes", scenes, "--observation", "features", "--rootdir", data, "--threads", 1)
    done = call("data.generation_script", *place, "--traffic", "idm", "--rollouts", 6, "--policy", "expert")
    assert done.returncode == 0, done.stderr
    assert json.loads((data / "manifest.json").read_text())["options"]["traffic"] == "idm"
    quick = ("--epochs", 1, "--batch-size", 8, "--n-samples", 2, "--max-workers", 1)
    done = call("trainbc", "--logdir", run, "--dataset", data, *quick)
    assert done.returncode == 0, done.stderr
    score = ("--logdir", run, "--controller", "bc", "--scenes", scenes, "--episodes", 2, "--max-workers", 1)
    done = call("test_controller", *score, "--traffic", "log")
    assert done.returncode == 0, done.stderr
    assert (run / "scores" / "bc-nocturne-log-simulator.json").exists(), "told apart from scores among what it knows"
    assert "--traffic" in complaint(call("test_controller", *score, "--traffic", "none"))
