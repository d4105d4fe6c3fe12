"""Several egos of one scene, driven at once: as rows of a world, and as a PettingZoo environment."""

import numpy as np
import pytest
import torch
from pettingzoo.test import parallel_api_test, parallel_seed_test

from dreamdrive import envs
from dreamdrive.driving.driver import drive
from dreamdrive.driving.policies import make_policy
from dreamdrive.envs.nocturne.parallel import NocturneParallelEnv
from dreamdrive.tests.tiny_scene import car, road, scene_of, write
from dreamdrive.utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """A scene of three egos, the second before a wall, the third behind the first; and one of a single ego."""
    wall = [road("road_edge", (25.2, 19), (25.2, 21))]
    write(tmp_path, scene_of([car(), car(y=20), car(x=-12), car(y=40, speed=0.0)], wall), "a.json")
    write(tmp_path, scene_of([car(y=5, speed=8.0)]), "b.json")
    return tmp_path


def world(folder, agents: int, num: int = 1, **options):
    made = envs.make("nocturne", num=num, scenes=str(folder), agents=agents, restart=False, **options)
    made.look_away()
    return made


def test_rows_are_the_egos_of_a_scene_and_each_has_an_end_of_its_own(folder):
    made = world(folder, 3, num=2)
    made.reset([1, 3])  # the second ego of a.json comes first; b.json has but one
    assert made.num == 6 and made.places() == ["a.json"] * 3 + ["b.json"] * 3 and made.egos[:4].tolist() == [1, 2, 0, 0]
    assert made.present.tolist() == [True] * 3 + [True, False, False]
    steps = [made.step(made.expert_action()) for _ in range(80)]
    ended = [next(t for t, s in enumerate(steps, 1) if s.terminated[b] or s.truncated[b]) for b in range(6)]
    assert ended[4:] == [1, 1] and ended[0] < 40 < min(ended[1:4]), "who is not there ends with the first step"
    assert made.outcome()["goal_rate"].tolist() == [0, 1, 1, 1, 0, 0]
    assert made.outcome()["road_edge_rate"].tolist() == [1, 0, 0, 0, 0, 0]
    assert all((s.reward[4:] == 0).all() and s.reward[ended[0] :].shape for s in steps)
    assert sum(float(s.reward[0]) for s in steps[ended[0] :]) == 0


def test_one_agent_is_the_world_as_it_was(folder):
    one, several = world(folder, 1), world(folder, 2)
    one.reset([1])
    several.reset([1])
    for _ in range(30):
        a, b = one.step(torch.zeros(1, 2)), several.step(torch.zeros(2, 2))
        assert torch.equal(a.reward, b.reward[:1]) and torch.equal(one.sim.local, several.sim.local)


def test_agents_meet_each_other_and_who_has_ended_is_out_of_the_way(folder):
    made = world(folder, 3)
    made.reset([0])  # egos 0, 1, 2: the third runs into the first, which brakes
    brake = torch.tensor([[-2.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    hit = next(t for t in range(80) if made.step(brake if t < 25 else brake * 0).info["collision"][2])
    assert made._terminated.tolist() == [True, False, True] and hit < 40
    assert made.sim.there[0, [0, 2]].all()
    made.step(brake * 0)
    assert made.sim.there[0].tolist() == [False, True, False, True], "gone, and not back in their logs"


def test_a_driver_drives_all_of_them_in_the_one_loop(folder):
    made = world(folder, 3, num=2)
    moments = list(drive(made, make_policy("expert", made), [0, 3]))
    assert len(moments[0].going) == 6 and len(moments[1].going) == 4 and not len(moments[-1].going)


def test_others_answer_all_of_them(folder):
    made = world(folder, 2, traffic="idm", drive_on=True)
    made.reset([0])  # egos 0 and 1; the third follows the first
    for _ in range(80):
        speed = made.sim.local[0, 0, 3]
        made.step(torch.stack([torch.stack([-(10 * speed).clamp(max=4.0), 0 * speed]), torch.zeros(2)]))
    assert made.outcome()["vehicle_collision_rate"].tolist() == [0, 0] and made.sim.local[0, 2, 3] < 0.2


def test_numbers_of_agents_that_are_not_possible_are_refused(folder):
    with pytest.raises(UserError, match="0 agents are not possible"):
        world(folder, 0)
    with pytest.raises(UserError, match="give restart=False"):
        envs.make("nocturne", scenes=str(folder), agents=2)
    with pytest.raises(ValueError, match="one seed a scene is wanted: 4 seeds for 2 scenes"):
        world(folder, 2, num=2).reset([0, 1, 2, 3])


@pytest.mark.parametrize("options", [{"observation": "features"}, {"actions": "discrete", "observation": "features"}])
def test_pettingzoo_finds_nothing_wrong_with_the_environment(folder, options):
    environment = NocturneParallelEnv(agents=4, scenes=str(folder), **options)
    parallel_api_test(environment, num_cycles=200)
    assert environment.possible_agents == [f"ego_{k}" for k in range(4)]


def test_the_environment_follows_from_its_seed_and_agents_leave_it_when_they_end(folder):
    parallel_seed_test(lambda: NocturneParallelEnv(agents=3, scenes=str(folder), observation="features"), num_cycles=20)
    environment = NocturneParallelEnv(agents=3, scenes=str(folder), image_size=64, render_mode="rgb_array")
    observations, infos = environment.reset(seed=1)
    assert observations["ego_0"].shape == (64, 64, 3) and set(infos) == {"ego_0", "ego_1", "ego_2"}
    still = np.zeros(2, np.float32)
    with pytest.raises(UserError, match="ego_2 got no action"):
        environment.step({"ego_0": still, "ego_1": still})
    while "ego_0" in environment.agents:
        told = environment.step(dict.fromkeys(environment.agents, still))
    assert told[2]["ego_0"] and told[4]["ego_0"]["collision"] == 2 and environment.agents == ["ego_1", "ego_2"]
    assert environment.render().shape == (512, 512, 3)
