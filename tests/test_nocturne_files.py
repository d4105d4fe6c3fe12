"""Files of scenes as others write them are read, or refused in one sentence: what marks a missing place, late objects,
logs of any length and rate, fields that are missing or more, speeds and units that contradict positions, stray
points."""

import copy
import math

import numpy as np
import pytest

from dreamdrive.envs.nocturne import Simulator, load_scene, render_cones
from dreamdrive.envs.nocturne.scene import ABSENT
from dreamdrive.envs.nocturne.scene_checks import REACH
from dreamdrive.envs.nocturne.simulator import ROAD_EDGE
from dreamdrive.envs.nocturne.tables import MOST_CELLS, tables
from dreamdrive.tests.tiny_scene import ORACLE, STEPS, car, gpudrive, road, scene_of, write
from dreamdrive.utils.errors import UserError

LANES = [road("lane", *((x, 0) for x in range(-50, 151))), road("road_edge", *((x, 6) for x in range(-50, 151)))]


def street(*more: dict, **fields) -> dict:
    """A car that drives along a lane, and other objects."""
    return {**scene_of([car(speed=8.0), *more], copy.deepcopy(LANES)), **fields}


def seen(scene, t: int = 20) -> np.ndarray:
    """The first object's picture at a step."""
    sim = Simulator([scene])
    sim.reset(time=t)
    return render_cones(sim, [(0, 0)], 64, 40.0, anchor=0.75)[0].numpy()


@pytest.mark.parametrize("marker", [0.0, -1.0, -10000.0, 25.0, math.nan, None])
def test_an_object_is_there_where_its_log_is_valid_whatever_marks_a_missing_place(tmp_path, marker):
    gone = [t < 8 for t in range(STEPS)]
    base = street(car(40, speed=8.0, valid=gone))
    marked = copy.deepcopy(base)
    for t in range(8, STEPS):
        marked["objects"][1]["position"][t] = {"x": marker, "y": 0.0}
        marked["objects"][1]["velocity"][t] = {"x": marker, "y": marker}
        marked["objects"][1]["heading"][t] = marker
    scenes = [load_scene(write(tmp_path, content)) for content in (base, marked)]
    assert (scenes[1].position[1, 8:] == ABSENT).all() and np.array_equal(scenes[0].speed, scenes[1].speed)
    assert np.array_equal(*map(seen, scenes)) and np.array_equal(
        seen(scenes[1]), seen(load_scene(street_alone(tmp_path)))
    )


def street_alone(folder):
    return write(folder, street(), "alone.json")


def test_a_late_object_replays_its_log_from_then_on_or_is_left_out_as_in_nocturne(tmp_path):
    path = write(tmp_path, street(car(30, speed=8.0, valid=[t >= 30 for t in range(STEPS)])))
    late, nocturnes = load_scene(path), load_scene(path, spawn_invalid=False)
    assert late.ids.tolist() == [0, 1] and nocturnes.ids.tolist() == [0]
    assert np.array_equal(seen(late, 20), seen(nocturnes, 20)) and not np.array_equal(
        seen(late, 40), seen(nocturnes, 40)
    )
    assert np.array_equal(late.origin, nocturnes.origin)


def test_an_object_without_a_size_gets_a_usual_one(tmp_path):
    scene = load_scene(write(tmp_path, street(car(30, size=(0.0, 0.0), valid=[t >= 30 for t in range(STEPS)]))))
    assert scene.length[1] > 4 and scene.width[1] > 1.5


@pytest.mark.parametrize(("steps", "pieces"), [(2, 1), (11, 1), (91, 1), (101, 1), (102, 2), (199, 3)])
def test_a_log_is_as_long_as_its_file_and_a_longer_one_comes_in_pieces(tmp_path, steps, pieces):
    path = write(
        tmp_path, scene_of([car(steps=steps), car(y=9.0, steps=steps, valid=[t < steps - 1 for t in range(steps)])])
    )
    scenes = [load_scene(path, piece=k) for k in range(pieces)]
    assert [s.pieces for s in scenes] == [pieces] * pieces
    lengths = [s.steps for s in scenes]
    assert lengths == [min(steps - 91 * k, 91) for k in range(pieces)]
    assert [s.name for s in scenes] == ["tiny.json", *(f"tiny.json#{k}" for k in range(1, pieces))]
    for k, scene in enumerate(scenes):
        assert np.allclose(scene.position[0, :, 0], 0.5 * (91 * k + np.arange(lengths[k])))
        assert np.allclose(scene.goal[0], scene.position[0, -1])  # within the piece
        assert np.allclose(scene.goal[1], scene.position[1, scene.last_valid[1]])
    with pytest.raises(UserError, match=f"and no piece {pieces}"):
        load_scene(path, piece=pieces)


@pytest.mark.parametrize(
    "said",
    [
        {},  # by the way that cars go
        {"metadata": {"timestamps": [50_000 * t for t in range(199)]}},
        {"metadata": {"dt": 0.05}},
        {"metadata": {"sample_rate": 20.0}},
        {"rate": 20},
    ],
)
def test_twenty_steps_a_second_are_read_as_ten(tmp_path, said):
    lights = {"1": {"state": ["stop", "go"], "x": [0.0] * 2, "y": [0.0] * 2, "time_index": [40, 198]}}
    content = {**scene_of([car(steps=199, dt=0.05), car(y=9.0, speed=3.0, steps=199, dt=0.05)], lights=lights), **said}
    content.pop("rate", None)
    scene = load_scene(write(tmp_path, content), rate=said.get("rate"))
    assert scene.steps == 91 and scene.pieces == 1 and "0.05 s apart" in scene.notes[0]
    assert np.allclose(np.diff(scene.position[0, :, 0]), 0.5) and np.allclose(scene.speed[0], 5.0)
    assert (scene.light_state[0, :21] == 1).all() and (scene.light_state[0, 21:] == 3).all()


def test_another_time_between_steps_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has steps 0\.5 s apart where 0\.1 or 0\.05 s were wanted"):
        load_scene(write(tmp_path, {**scene_of([car()]), "metadata": {"dt": 0.5}}))


def test_a_shorter_log_of_half_the_way_is_refused_with_both_remedies(tmp_path):
    path = write(tmp_path, scene_of([car(steps=91, dt=0.05)]))
    with pytest.raises(UserError, match="go 0.50 times as far as their velocities say") as caught:
        load_scene(path)
    assert all(flag in str(caught.value) for flag in ("--scene-speeds positions", "--scene-rate 20"))
    assert load_scene(path, rate=20).steps == 46


@pytest.mark.parametrize("times", [0.0, 0.5, 2.0, 3.6])
def test_velocities_that_are_not_those_of_the_positions_are_refused_unless_allowed(tmp_path, times):
    content = street(car(y=20.0, speed=3.0), car(0, 30, speed=0.0))
    right = load_scene(write(tmp_path, content))
    for o in content["objects"]:
        o["velocity"] = [{axis: times * v[axis] for axis in "xy"} for v in o["velocity"]]
    path = write(tmp_path, content)
    with pytest.raises(UserError, match="times as far as their velocities say: give --scene-speeds positions"):
        load_scene(path)
    assert np.allclose(load_scene(path, speeds="positions").speed, right.speed, atol=1e-3)
    assert np.allclose(load_scene(path, speeds="file").speed, times * right.speed, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: [s.pop("tl_states"), s.pop("name"), s["objects"][0].pop("goalPosition")],
        lambda s: [
            s.update(tl_states=None, metadata='{"sdc_track_index": 0}'),
            s["objects"][0].update(goalPosition=None),
        ],
        lambda s: s["objects"][0].update(goalPosition={"x": -10000.0, "y": -10000.0}),
        lambda s: s["objects"][0].update(valid=[1] * STEPS),
        lambda s: [
            o.update(position=[[p["x"], p["y"], 0.0] for p in o["position"]]) for o in s["objects"] + s["roads"][:0]
        ],
        lambda s: [r.update(geometry=[[p["x"], p["y"], 0.0] for p in r["geometry"]]) for r in s["roads"]],
        lambda s: [
            s["objects"][0].update(type=1),
            s["roads"][0].update(type="LANE_SURFACE_STREET"),
            s["roads"][1].update(type=15),
        ],
        lambda s: s["objects"][0].update(type="VEHICLE", length=[4.0] * STEPS, width=[2.0] * STEPS),
        lambda s: s["objects"][0].update(is_sdc=True, total_distance_traveled=3.0, height=1.5),
    ],
)
def test_what_files_of_others_lack_or_say_otherwise_changes_nothing(tmp_path, change):
    base = gpudrive(street(car(y=20.0, speed=3.0)))
    other = copy.deepcopy(base)
    change(other)
    a, b = (load_scene(write(tmp_path, content)) for content in (base, other))
    for name in ("position", "heading", "speed", "valid", "goal", "length", "road_points", "road_type", "light_state"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert a.name == b.name and a.sdc == b.sdc == (0,)


@pytest.mark.parametrize("lacks", [("metadata",), ("scenario_id",), ("metadata", "scenario_id")])
@pytest.mark.parametrize("heading", [0.0, 0.7, 3.0])
def test_radians_are_told_by_any_of_gpudrives_fields(tmp_path, lacks, heading):
    content = gpudrive(scene_of([car(heading=heading), car(50, speed=0.0, heading=heading)]))
    for key in lacks:
        del content[key]
    assert np.allclose(load_scene(write(tmp_path, content)).heading[:, 0], heading, atol=1e-6)


@pytest.mark.parametrize("headings", [(0.0, math.pi / 2, math.pi), (0.2, 0.3), (-math.pi / 2,), (0.0, math.pi)])
@pytest.mark.parametrize("speed", [0.2, 1.5])
def test_slow_scenes_in_radians_without_a_field_are_told_by_the_way_cars_go(tmp_path, headings, speed):
    content = scene_of([car(y=20.0 * k, heading=h, speed=speed) for k, h in enumerate(headings)])
    in_degrees = load_scene(write(tmp_path, content))
    for o in content["objects"]:
        o["heading"] = [math.radians(h) for h in o["heading"]]
    assert np.allclose(load_scene(write(tmp_path, content)).heading, in_degrees.heading, atol=1e-5)


def test_where_nobody_moves_and_no_field_tells_the_unit_is_asked_for(tmp_path):
    content = scene_of([car(heading=1.2, speed=0.0)])
    assert load_scene(write(tmp_path, content)).heading[0, 0] == pytest.approx(1.2)
    content["objects"][0]["heading"] = [1.2] * STEPS
    with pytest.raises(
        UserError, match="cannot be told: say which kind of file it is, --scene-kind nocturne or gpudrive"
    ):
        load_scene(write(tmp_path, content))
    assert load_scene(write(tmp_path, content), kind="gpudrive").heading[0, 0] == pytest.approx(1.2)
    assert load_scene(write(tmp_path, content), kind="nocturne").heading[0, 0] == pytest.approx(0.0209440, abs=1e-6)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("heading", [0.0, 0.8, -2.0])
def test_cars_that_reverse_are_read_with_a_negative_speed(tmp_path, alone, heading):
    others = [] if alone else [car(y=30.0, heading=heading), car(y=60.0, heading=heading)]
    scene = load_scene(write(tmp_path, scene_of([car(speed=-2.5, heading=heading), *others])))
    assert np.allclose(scene.speed[0], -2.5) and (scene.speed[1:] > 0).all()
    assert np.allclose(scene.heading[0], heading, atol=1e-6) and np.allclose(scene.expert_action[0], 0, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda s: s["roads"][1]["geometry"].append({"x": 1e6, "y": 1e6}),
            r"roads\[1\].*lies 1,414.2 km from the traffic",
        ),
        (lambda s: s["roads"].append(road("road_edge", (2e4, 0), (2e4, 9))), r"roads\[2\].*km from the traffic"),
        (
            lambda s: s["roads"][0]["geometry"][7].update(y=900.0),
            r"roads\[0\].geometry\[7\] lies 0.9 km from the points",
        ),
        (
            lambda s: s["roads"][0]["geometry"][0].update(x=-900.0),
            r"roads\[0\].geometry\[0\] lies 0.\d km from the points",
        ),
        (lambda s: s["objects"][0].update(length=40_000.0), r"objects\[0\].length is 40000 where at most 100 metres"),
        (lambda s: s["objects"][1].update(length=-1.3), r"objects\[1\].length is -1.3"),
        (
            lambda s: s["objects"][0]["position"][50].update(x=-10000.0),
            r"objects\[0\].position is 10.0 km from the others",
        ),
        (lambda s: s["objects"][0]["position"].pop(), r"objects\[0\].position has 90 steps where 91"),
        (lambda s: s["objects"].append(car(steps=80)), r"objects\[2\].valid has 80 steps where others have 91"),
    ],
)
def test_what_cannot_be_a_place_or_a_size_is_refused(tmp_path, change, complaint):
    content = street(car(y=3.0))
    change(content)
    with pytest.raises(UserError, match=complaint):
        load_scene(write(tmp_path, content))


def test_a_marker_among_road_points_is_left_out_and_named(tmp_path):
    content = street()
    base = load_scene(write(tmp_path, content))
    content["roads"][1]["geometry"].insert(7, {"x": -10000.0, "y": -10000.0})
    content["roads"].append(road("lane", (-10000.0, -10000.0)))
    scene = load_scene(write(tmp_path, content))
    assert np.array_equal(scene.road_points, base.road_points) and np.array_equal(seen(scene), seen(base))
    assert "roads[1].geometry[7] is no place but a marker" in scene.notes[0] and len(scene.notes) == 2


def test_the_roads_of_a_large_map_are_as_sharp_as_those_of_a_small_one(tmp_path):
    content = street()
    near = seen(load_scene(write(tmp_path, content))).astype(int)
    far = [road("lane", *((0.6 * REACH, y) for y in range(-3000, 3000, 300)))]
    far += [road("lane", *((x, 0.6 * REACH) for x in range(-3000, 3000, 300)))]
    content["roads"] = content["roads"] + far
    large = seen(load_scene(write(tmp_path, content))).astype(int)
    assert np.abs(large - near).mean() < 1 and (np.abs(large - near).max(-1) > 60).mean() < 0.01


def test_a_large_map_takes_no_more_memory_and_its_edges_are_met_all_the_same(tmp_path):
    edges = [road("road_edge", (60, -3), (60, 3)), road("road_edge", (-3400, -3400), (3400, 3300))]
    scene = load_scene(write(tmp_path, scene_of([car(speed=8.0), car(y=30.0)], edges)))
    columns = tables(scene)["edges"]
    assert len(columns["starts"]) < MOST_CELLS and len(columns["lists"]) < MOST_CELLS
    sim = Simulator([scene], collisions="all")
    sim.reset(time=74)  # the first is 59.2 m on
    assert sim.collision.tolist() == [[ROAD_EDGE, 0]]


@pytest.mark.skipif(not (ORACLE.parent / "cases" / "nocturne").is_dir(), reason="needs ../shared/cases/nocturne")
def test_the_files_that_failed_once_are_read_or_refused_in_a_sentence():
    refused = {"41_far_edge_1e6": "1,414.2 km from the traffic", "86": "go 0.50 times as far"}
    lists = ("valid_files", "invalid_files")
    paths = [p for p in (ORACLE.parent / "cases" / "nocturne").rglob("*.json") if p.stem not in lists]
    assert len(paths) > 18
    for path in paths:
        if path.stem in refused:
            with pytest.raises(UserError, match=refused[path.stem]):
                load_scene(path)
        else:
            assert load_scene(path).valid.any()
