"""The simulator moves and collides objects as Nocturne does."""

import numpy as np
import pytest
import torch

from dreamdrive.envs.nocturne import Simulator, load_scene
from dreamdrive.envs.nocturne.simulator import ROAD_EDGE, VEHICLE, Boxes, bicycle, overlap, wrap
from dreamdrive.tests.tiny_scene import NAMES, ORACLE, STEPS, car, needs_oracle, road, scene_of, write


def oracle(name: str, late: bool = False):
    """A scene, by Nocturne's rule for objects that appear late or with them after its own, and Nocturne's results."""
    folder = ORACLE / "oracle" / name
    return load_scene(ORACLE / "scenes" / f"{name}.json", spawn_invalid=late), *(
        np.load(folder / f"{kind}.npz") for kind in ("dynamics", "replay", "expert")
    )


def simulator(tmp_path, objects, roads=(), copies: int = 1, **options) -> Simulator:
    return Simulator([load_scene(write(tmp_path, scene_of(objects, roads)))] * copies, **options)


def advance(sim: Simulator, accel: float = 0.0, steer: float = 0.0, expert: bool = False, dt: float = 0.1) -> None:
    sim.step(
        torch.full_like(sim.length, accel), torch.full_like(sim.length, steer), torch.full_like(sim.present, expert), dt
    )


@needs_oracle
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["random", "wild", "dt005"])
def test_a_step_of_the_dynamics_is_nocturnes(name, kind):
    scene, dynamics, _, _ = oracle(name)
    states, actions, dt = (
        torch.from_numpy(dynamics[f"{kind}_states"]),
        torch.from_numpy(dynamics[f"{kind}_actions"]),
        float(dynamics[f"{kind}_dt"]),
    )
    who = torch.from_numpy(np.searchsorted(scene.ids, dynamics["ids"]))
    sim = Simulator([scene] * actions.shape[1])  # a copy for every step of the rollout
    sim.local[:, who] = (states[:, :-1].double() - torch.tensor([*scene.origin, 0, 0])).float().transpose(0, 1)
    inputs = torch.zeros(*sim.length.shape, 2)
    inputs[:, who] = actions.transpose(0, 1)
    sim.step(inputs[..., 0], inputs[..., 1], torch.zeros_like(sim.present), dt)
    error = (sim.state[:, who].transpose(0, 1) - states[:, 1:]).abs()
    assert error[..., :2].max() < 1e-3 and wrap(error[..., 2]).abs().max() < 1e-5 and error[..., 3].max() < 1e-5


@needs_oracle
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["all", "vehicles"])
@pytest.mark.parametrize("late", [False, True], ids=["late-left-out", "late-replay"])
def test_replay_and_collision_flags_are_nocturnes(name, mode, late):
    scene, _, replay, _ = oracle(name, late)
    sim = Simulator([scene], collisions="all")
    own = replay["all_state"].shape[1]  # objects that Nocturne has
    expert = torch.ones_like(sim.present) if mode == "all" else sim.type == 1
    none = torch.full_like(sim.length, torch.nan)
    checked = 0
    for t in range(STEPS):
        if t:
            sim.step(none, none, expert)
        wanted, there = torch.from_numpy(replay[f"{mode}_state"][t]), sim.there[0, :own]
        error = (sim.state[0, :own] - wanted).abs()[there]
        assert error[:, :2].max() < 1e-3 and wrap(error[:, 2]).abs().max() < 1e-5 and error[:, 3].max() < 1e-5
        type_ = np.where(replay[f"{mode}_collided"][t], replay[f"{mode}_collision_type"][t], 0)
        found = sim.collision[0, :own].numpy()
        met = (found == VEHICLE) & meets_late(sim, own) & (type_ == 0)
        compared = there.numpy() & ~met
        assert np.array_equal(found[compared], type_[compared])
        distance = replay[f"{mode}_goal_dist"][t]
        clear = there.numpy() & (np.abs(distance - 1) > 1e-5)  # one scene of ours passes its goals at exactly 1 m
        assert np.array_equal(sim.at_goal()[0, :own][clear], replay[f"{mode}_goal_rl"][t][clear])
        checked += int(there.sum())
        # gliding objects gather Nocturne's rounding
        gliding = ~expert[0, :own]
        sim.local[0, :own][gliding] = (wanted.double() - torch.tensor([*scene.origin, 0, 0])).float()[gliding]
    assert checked > 800


def meets_late(sim: Simulator, own: int) -> np.ndarray:
    """(own,) bool: which of Nocturne's objects an object that appears late touches."""
    box = Boxes.of(sim.local[0], sim.length[0], sim.width[0])
    return (overlap(box[:own].unsqueeze(), box[own:]) & sim.there[0, own:]).any(1).numpy()


@needs_oracle
@pytest.mark.parametrize("name", NAMES)
def test_driving_by_the_expert_actions_drifts_as_nocturne_does(name):
    scene, _, _, expert = oracle(name)
    used, wanted = expert["open_loop_used_action"], torch.from_numpy(expert["open_loop_states"])
    whole = torch.from_numpy(used.all(0))
    sim = Simulator([scene])
    for t in range(STEPS - 1):
        action = sim.expert_action()
        sim.step(action[..., 0], action[..., 1], torch.zeros_like(sim.present))
        # Nocturne adds up positions in float32: some 1e-3 m an addition, far from the world's origin
        assert not whole.any() or (sim.state[0, whole, :2] - wanted[t + 1, whole, :2]).norm(dim=-1).max() < 0.05
    assert whole.any() or name == "example_scenario"


def test_a_missing_input_keeps_the_last_one_and_reset_forgets_it(tmp_path):
    sim = simulator(tmp_path, [car(speed=1.0)])
    advance(sim, accel=2.0)
    advance(sim, accel=np.nan)
    assert sim.local[0, 0, 3] == pytest.approx(1.4)
    sim.reset()
    advance(sim, accel=np.nan)
    assert sim.local[0, 0, 3] == pytest.approx(1.0)


def test_cars_may_drive_backwards_and_full_circles(tmp_path):
    state = torch.tensor([[0.0, 0.0, 0.0, 5.0]])
    for _ in range(100):
        state = bicycle(state, torch.tensor([-1.0]), torch.tensor([0.5]), torch.tensor([4.0]), 0.1)
    assert state[0, 3] == pytest.approx(-5.0, abs=1e-4)
    assert state[0, :3].norm() < 0.5  # what it did forwards, some 13 m, it undid backwards, but for the step's length


def test_copies_of_a_batch_do_not_touch_each_other(tmp_path):
    objects, walls = [car(), car(9, speed=3.0), car(0, 5, heading=1.0)], [road("road_edge", (20, -9), (20, 9))]
    one, many = (simulator(tmp_path, objects, walls, copies=n, collisions="all") for n in (1, 3))
    for sim in (one, many):
        for t in range(60):
            accel = torch.full_like(sim.length, 0.1 * t)
            if sim is many:
                accel[0], accel[2] = -3.0, 5.0
            sim.step(accel, torch.full_like(accel, 0.01), torch.zeros_like(sim.present))
    assert torch.equal(one.local[0], many.local[1]) and torch.equal(one.collision[0], many.collision[1])
    assert not torch.equal(many.local[0], many.local[1])


def test_scenes_of_different_sizes_share_a_batch(tmp_path):
    small = load_scene(write(tmp_path, scene_of([car(1000, 2000)]), "small.json"))
    large = load_scene(
        write(
            tmp_path, scene_of([car(), car(10, 9), car(30)], [road("road_edge", (39.2, -9), (39.2, 9))]), "large.json"
        )
    )
    sim = Simulator([small, large, small], collisions="all")
    assert sim.present.tolist() == [[True, False, False], [True] * 3, [True, False, False]]
    for _ in range(15):
        advance(sim)
    assert sim.collision.tolist() == [[0, 0, 0], [0, 0, ROAD_EDGE], [0, 0, 0]]
    assert torch.allclose(sim.state[0, 0, :2], torch.tensor([1007.5, 2000.0], dtype=torch.float64), atol=1e-3)


@pytest.mark.parametrize("gap, wanted", [(-0.01, VEHICLE), (0.01, 0)])
def test_rectangles_collide_when_they_meet(tmp_path, gap, wanted):
    # Side by side, 2 m wide each; and corner to side: half a diagonal of a turned square.
    for other in (
        car(y=2 + gap, speed=0.0),
        car(y=1 + 0.5**0.5 * 2 + gap, heading=np.pi / 4, speed=0.0, size=(2.0, 2.0)),
    ):
        sim = simulator(tmp_path, [car(speed=0.0), other], collisions="all")
        assert sim.collision.tolist() == [[wanted, wanted]]


def test_a_road_edge_outweighs_a_car_and_counts_inside_the_car_too(tmp_path):
    objects = [car(speed=0.0), car(1.0, speed=0.0)]
    inside = [road("road_edge", (-1.5, 0.1), (-1.2, 0.2))]
    assert simulator(tmp_path, objects, inside, collisions="all").collision.tolist() == [[ROAD_EDGE, VEHICLE]]
    assert simulator(
        tmp_path, objects, [road("road_line", (-1.5, 0.1), (-1.2, 0.2))], collisions="all"
    ).collision.tolist() == [[VEHICLE, VEHICLE]]


def test_a_long_segment_and_a_far_corner_of_the_map_are_found(tmp_path):
    rng = np.random.default_rng(0)
    walls = [road("road_edge", *rng.uniform(-60, 60, (2, 2))) for _ in range(40)]
    cars = [
        car(
            *rng.uniform(-70, 70, 2),
            heading=rng.uniform(-3, 3),
            speed=0.0,
            size=(rng.uniform(1, 12), rng.uniform(1, 3)),
        )
        for _ in range(200)
    ]
    found = simulator(tmp_path, cars, walls, collisions="all").collision[0] == ROAD_EDGE

    def meets(c, w):  # by brute force: points along the segment, inside the rectangle
        (a, b), angle = ([(p["x"], p["y"]) for p in w["geometry"]]), np.radians(c["heading"][0])
        along = np.linspace(a, b, 4000) - [c["position"][0]["x"], c["position"][0]["y"]]
        x, y = along @ [np.cos(angle), np.sin(angle)], along @ [-np.sin(angle), np.cos(angle)]
        return ((np.abs(x) <= c["length"] / 2) & (np.abs(y) <= c["width"] / 2)).any()

    wanted = [any(meets(c, w) for w in walls) for c in cars]
    # a grazed corner lies between the points
    assert sum(f != w for f, w in zip(found.tolist(), wanted, strict=True)) <= 1 and 20 < sum(wanted) < 180


def test_objects_the_log_does_not_have_collide_with_nobody(tmp_path):
    gone = [t < 5 for t in range(STEPS)]
    sim = simulator(tmp_path, [car(valid=gone), car(y=50, valid=gone), car(y=90)], collisions="all")
    for _ in range(10):
        advance(sim, expert=True)
    assert sim.there.tolist() == [[False, False, True]] and not sim.collision.any()
    assert (sim.state[0, :2, :2] == -10000).all()


def test_only_driven_objects_are_checked_unless_all_are_asked_for(tmp_path):
    objects = [car(speed=0.0), car(1.0, speed=0.0)]
    flags = {}
    for which in ("controlled", "all"):
        sim = simulator(tmp_path, objects, collisions=which)
        sim.step(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([[False, True]]))
        flags[which] = sim.collision.tolist()
    assert flags == {"controlled": [[VEHICLE, 0]], "all": [[VEHICLE, VEHICLE]]}


def test_short_steps_move_cars_and_leave_the_clock(tmp_path):
    sim = simulator(tmp_path, [car()])
    advance(sim, dt=0.05)
    assert sim.time.tolist() == [0] and sim.local[0, 0, 0] + sim.origin[0, 0] == pytest.approx(0.25, abs=1e-4)
    advance(sim, dt=0.2)
    assert sim.time.tolist() == [2]


def test_copies_can_be_reset_alone_and_the_log_ends(tmp_path):
    sim = simulator(tmp_path, [car()], copies=2)
    for _ in range(STEPS - 1):
        advance(sim, expert=True)
    sim.reset([1])
    assert (
        sim.time.tolist() == [STEPS - 1, 0]
        and sim.state[0, 0, 0] == pytest.approx(45.0, abs=1e-3)
        and sim.state[1, 0, 0] == pytest.approx(0.0, abs=1e-3)
    )
    with pytest.raises(ValueError, match="the log ends at step 90"):
        advance(sim, expert=True)
