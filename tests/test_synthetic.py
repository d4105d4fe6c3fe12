"""Synthetic scenes: the format to the letter, motion that Nocturne's dynamics reproduce, nobody in anybody's way, and
drivers that have to react."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dreamdrive.envs.nocturne.synthetic import make_scene, scene_bytes
from dreamdrive.envs.nocturne.synthetic.scenes import KINDS, draw, is_jam, kind_of
from dreamdrive.envs.nocturne.synthetic.statistics import expert_motion, interactions_of, replayed
from dreamdrive.envs.synthetic_scenes import main
from dreamdrive.utils.script import run

ROOT = Path(__file__).resolve().parent.parent
MANY = 110
ROADS = {"lane", "road_line", "road_edge", "stop_sign", "crosswalk", "speed_bump"}
AREAS = ("crosswalk", "speed_bump")
STATES = {
    "unknown",
    "stop",
    "caution",
    "go",
    "arrow_stop",
    "arrow_caution",
    "arrow_go",
    "flashing_stop",
    "flashing_caution",
}


@pytest.fixture(scope="module")
def few():
    """Scenes of seed 0 by index: the first three, and the first three of every kind; and by ("jam", index) one of every
    kind with a jam."""
    kinds = [kind_of(0, i) for i in range(100)]
    indices = {0, 1, 2}.union(*([i for i in range(100) if kinds[i] == kind][:3] for kind in KINDS))
    jams = {("jam", i): draw(0, i, jams=1.0) for i in (kinds.index(kind) for kind in KINDS)}
    return {i: draw(0, i) for i in sorted(indices)} | jams


@pytest.fixture(scope="module")
def files(few):
    return [json.loads(scene_bytes(drawn.scene)) for drawn in few.values()]


def points(rows):
    return np.array([[row["x"], row["y"]] for row in rows])


# The format


def numbers(value):
    """Every number in a JSON value; truth values are none."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def test_files_have_nocturnes_layout_and_every_number_is_a_finite_float(few, files):
    indices = [i[1] if isinstance(i, tuple) else i for i in few]
    for i, scene in zip(indices, files, strict=True):
        assert list(scene) == ["name", "objects", "roads", "tl_states"] and scene["name"] == f"synthetic_{i:06d}.json"
        for thing in scene["objects"]:
            assert set(thing) == {"position", "width", "length", "heading", "velocity", "valid", "goalPosition", "type"}
            assert thing["type"] in ("vehicle", "pedestrian", "cyclist")
            assert all(len(thing[key]) == 91 for key in ("position", "heading", "velocity", "valid"))
            assert all(type(valid) is bool for valid in thing["valid"])
            assert all(
                set(point) == {"x", "y"} for point in [*thing["position"], *thing["velocity"], thing["goalPosition"]]
            )
        for number in numbers([scene["objects"], scene["roads"]]):
            assert type(number) is float and np.isfinite(number)


def test_an_absent_object_carries_the_marker_in_all_its_arrays_and_its_goal_is_where_it_was_last_seen(files):
    absent = 0
    for scene in files:
        for thing in scene["objects"]:
            last = max(t for t in range(91) if thing["valid"][t])
            assert thing["goalPosition"] == thing["position"][last]
            for t in range(91):
                gone = {"x": -10000.0, "y": -10000.0}
                marks = [thing["position"][t] == gone, thing["velocity"][t] == gone, thing["heading"][t] == -10000.0]
                assert marks == [not thing["valid"][t]] * 3
                absent += marks[0]
    assert absent > 0


def test_roads_have_half_metre_spacing_and_areas_are_open_polygons(files):
    for scene in files:
        for road in scene["roads"]:
            assert set(road) == {"geometry", "type"} and road["type"] in ROADS
            xy = points(road["geometry"])
            apart = np.hypot(*np.diff(xy, axis=0).T)
            if road["type"] == "stop_sign":
                assert len(xy) == 1
            elif road["type"] in AREAS:
                assert len(xy) == 4 and np.hypot(*(xy[-1] - xy[0])) > 0.5
            else:
                assert len(xy) >= 2 and apart.max() <= 0.505 and apart.min() > 0.05


def test_traffic_lights_have_a_state_at_every_step_and_change_in_the_right_order(files):
    lights = [light for scene in files for light in scene["tl_states"].values()]
    assert lights
    follows = {"go": "caution", "caution": "stop", "stop": "go"}
    for light in lights:
        assert set(light) == {"state", "x", "y", "time_index"} and light["time_index"] == list(range(91))
        assert set(light["state"]) <= STATES and len(light["state"]) == len(light["x"]) == len(light["y"]) == 91
        assert len(set(light["x"])) == len(set(light["y"])) == 1 and type(light["x"][0]) is float
        assert all(b in (a, follows[a]) for a, b in zip(light["state"], light["state"][1:], strict=False))
    assert len({state for light in lights for state in light["state"]}) == 3


def test_a_scene_file_is_small(files):
    sizes = np.array([len(scene_bytes(scene)) for scene in files])
    assert sizes.mean() < 600_000 and sizes.max() < 1_000_000


def test_every_kind_of_scene_is_drawn_in_its_share():
    counts = {kind: sum(kind_of(1, i) == kind for i in range(2000)) for kind in KINDS}
    assert all(abs(counts[kind] / 2000 - share) < 0.04 for kind, share in KINDS.items())


def test_a_few_scenes_hold_all_that_scenes_are_made_of(few, files):
    assert {drawn.kind for drawn in few.values()} == set(KINDS)
    assert {road["type"] for scene in files for road in scene["roads"]} == ROADS
    assert {thing["type"] for scene in files for thing in scene["objects"]} == {"vehicle", "pedestrian", "cyclist"}


# Determinism


def test_a_scene_depends_on_seed_and_index_alone(few):
    assert scene_bytes(make_scene(0, 3)) == scene_bytes(few[3].scene)
    assert scene_bytes(make_scene(1, 3)) != scene_bytes(few[3].scene)
    assert scene_bytes(make_scene(5)) == scene_bytes(make_scene(5, 0))


def test_a_share_of_scenes_has_a_jam_and_the_others_are_as_they_were(few):
    jams = {share: {i for i in range(1000) if is_jam(1, i, share)} for share in (0.0, 0.3, 0.6, 1.0)}
    assert [len(jams[share]) for share in (0.0, 1.0)] == [0, 1000] and jams[0.3] < jams[0.6]
    assert 250 < len(jams[0.3]) < 350 and 550 < len(jams[0.6]) < 650
    other = next(i for i in few if isinstance(i, int) and not is_jam(0, i, 0.3))
    assert scene_bytes(make_scene(0, other, jams=0.3)) == scene_bytes(few[other].scene)


# Nobody in anybody's way. The tests by crossing sides and contained corners are independent of the separating axes that
# the scenes are checked by.


def boxes(thing):
    """Corners (91, 4, 2) of an object, from the file."""
    h = np.radians(np.array(thing["heading"]))[:, None]
    a, b = np.array([1, 1, -1, -1]) * thing["length"] / 2, np.array([1, -1, -1, 1]) * thing["width"] / 2
    return points(thing["position"])[:, None] + np.stack(
        [np.cos(h) * a - np.sin(h) * b, np.sin(h) * a + np.cos(h) * b], axis=-1
    )


def turn(a, b, c):
    return (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0])


def cross(a, b, c, d):
    """Do segments ab and cd cross?"""
    return (turn(a, b, c) * turn(a, b, d) <= 0) & (turn(c, d, a) * turn(c, d, b) <= 0)


def inside(box, point):
    """Is `point` (..., 2) in the rectangle `box` (..., 4, 2)?"""
    turns = np.stack([turn(box[..., k, :], box[..., (k + 1) % 4, :], point) for k in range(4)])
    return (turns >= 0).all(0) | (turns <= 0).all(0)


def touch(one, two):
    """(P,) for rectangles (P, 4, 2) and (P, 4, 2)."""
    found = np.zeros(len(one), bool)
    for i in range(4):
        found |= inside(one, two[:, i]) | inside(two, one[:, i])
        for j in range(4):
            found |= cross(one[:, i], one[:, (i + 1) % 4], two[:, j], two[:, (j + 1) % 4])
    return found


def overlaps(scene):
    """Pairs of valid objects and steps at which they touch."""
    valid = np.array([thing["valid"] for thing in scene["objects"]])
    xy, box = (
        np.array([points(thing["position"]) for thing in scene["objects"]]),
        np.array([boxes(thing) for thing in scene["objects"]]),
    )
    reach = np.array([np.hypot(thing["length"], thing["width"]) / 2 for thing in scene["objects"]])
    count = 0
    for i in range(len(xy) - 1):
        near = (
            (np.hypot(*np.moveaxis(xy[i + 1 :] - xy[i], -1, 0)) <= (reach[i + 1 :] + reach[i])[:, None])
            & valid[i]
            & valid[i + 1 :]
        )
        j, t = np.nonzero(near)
        count += int(touch(box[i, t], box[j + i + 1, t]).sum()) if len(j) else 0
    return count


def edge_touches(scene):
    """Steps at which a valid object touches a road edge, over all objects."""
    edges = [points(road["geometry"]) for road in scene["roads"] if road["type"] == "road_edge"]
    a, b = np.concatenate([xy[:-1] for xy in edges]), np.concatenate([xy[1:] for xy in edges])
    count = 0
    for thing in scene["objects"]:
        steps = np.flatnonzero(thing["valid"])
        box, xy = boxes(thing)[steps], points(thing["position"])[steps]
        near = np.flatnonzero(((a > xy.min(0) - 9) & (a < xy.max(0) + 9)).all(1))
        t, k = np.nonzero(
            np.hypot(*np.moveaxis(xy[:, None] - a[near], -1, 0)) < np.hypot(thing["length"], thing["width"]) / 2 + 1
        )
        one, two = a[near[k]], b[near[k]]
        found = inside(box[t], one) | inside(box[t], two)
        for i in range(4):
            found |= cross(box[t, i], box[t, (i + 1) % 4], one, two)
        count += int(found.sum())
    return count


def test_the_test_of_touching_rectangles_finds_what_it_should():
    square = np.array([[[1.0, 1], [1, -1], [-1, -1], [-1, 1]]])
    assert (
        touch(square, square + [1.9, 0.3])[0]
        and touch(square, square * 0.1)[0]
        and not touch(square, square + [2.1, 0.3])[0]
    )
    assert not touch(square, square @ np.array([[0.6, 0.8], [-0.8, 0.6]]) + [2.5, 0])[0]


def test_no_two_objects_overlap_and_none_touches_a_road_edge(files):
    assert [overlaps(scene) for scene in files] == [0] * len(files)
    assert [edge_touches(scene) for scene in files] == [0] * len(files)


# Motion


def test_at_least_two_vehicles_drive_throughout_and_their_actions_are_those_of_a_car(files):
    for scene in files:
        motion = expert_motion(scene)
        assert len(motion.rows) >= 2
        assert (
            np.isfinite(motion.acceleration).all()
            and motion.acceleration.min() > -6.1
            and motion.acceleration.max() < 3.1
        )
        assert np.abs(motion.steering).max() < 0.7
        assert np.abs(np.diff(motion.steering, axis=1)).max() < 0.25
        assert np.abs(np.diff(motion.acceleration, axis=1)).mean() / 0.1 < 2


def test_no_moving_vehicle_has_an_undefined_action(files):
    for scene in files:
        moving = [
            thing
            for thing in scene["objects"]
            if thing["type"] == "vehicle"
            and all(thing["valid"])
            and (
                np.hypot(*points(thing["velocity"]).T).max() > 0.05
                or np.hypot(*np.subtract(*points(thing["position"])[[0, -1]])) > 0.2
            )
        ]
        assert len(moving) == len(expert_motion(scene).rows)


def test_velocity_is_the_motion_of_the_centre(files):
    for scene in files:
        for thing in scene["objects"]:
            if thing["type"] == "pedestrian" or not all(thing["valid"]):
                continue
            xy, velocity = points(thing["position"]), points(thing["velocity"])
            # a step's turning lies between them
            assert np.hypot(*(np.diff(xy, axis=0) / 0.1 - (velocity[1:] + velocity[:-1]) / 2).T).max() < 0.45


def test_nocturnes_dynamics_driven_by_the_expert_actions_stay_on_the_track(files):
    misses = np.concatenate(
        [np.hypot(*(replayed(motion) - motion.xy).transpose(2, 0, 1)).max(1) for motion in map(expert_motion, files)]
    )
    assert misses.max() < 0.05


def test_standing_traffic_creeps_so_slowly_that_it_does_not_count_as_moving(files):
    for scene in files:
        for thing in scene["objects"]:
            speed = np.hypot(*points(thing["velocity"]).T)
            if thing["type"] == "vehicle" and all(thing["valid"]) and speed.max() < 0.05:
                assert np.hypot(*(points(thing["position"])[-1] - points(thing["position"])[0])) < 0.2


# What the scenes ask of a driver


def test_many_drivers_have_to_react_to_others(few):
    found = [interactions_of(drawn) for drawn in few.values()]
    egos = sum(one.egos for one in found)
    assert egos > 5 * len(few)
    assert sum(one.must_react for one in found) > 0.2 * egos
    assert sum(one.must_act for one in found) > 0.2 * egos
    assert all(one.must_yield <= one.must_react <= one.egos for one in found)


def test_in_a_jam_there_are_more_vehicles_and_they_are_slower(few):
    def vehicles(drawn):
        there = drawn.bodies.valid[drawn.member >= 0]
        return len(there), np.hypot(*np.moveaxis(drawn.velocity[drawn.member >= 0], -1, 0))[there].mean()

    pairs = [(vehicles(few[i[1]]), vehicles(drawn)) for i, drawn in few.items() if isinstance(i, tuple)]
    assert len(pairs) == len(KINDS) and all(jam[0] > usual[0] for usual, jam in pairs)
    assert np.mean([jam[1] for _, jam in pairs]) < 0.75 * np.mean([usual[1] for usual, _ in pairs])


@pytest.mark.slow
def test_a_hundred_scenes_keep_every_promise_and_are_rarely_drawn_twice():
    tries, egos, react, drifts, overlapping = 0, 0, 0, [], 0
    for i in range(MANY):
        drawn = draw(7, i)
        scene = json.loads(scene_bytes(drawn.scene))
        found = interactions_of(drawn)
        tries, egos, react = tries + found.tries, egos + found.egos, react + found.must_react
        drifts.append(found.drift)
        overlapping += overlaps(scene) + edge_touches(scene)
    assert overlapping == 0
    assert tries < 1.1 * MANY
    assert react > 0.2 * egos
    assert np.concatenate(drifts).max() < 0.3


# The command


def command(*options):
    return subprocess.run(
        [sys.executable, "-m", "dreamdrive.envs.nocturne.synthetic", *map(str, options)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_the_command_writes_scenes_goes_on_where_it_was_and_mends_what_is_broken(tmp_path, few):
    out = tmp_path / "scenes"
    assert command("--scenes", 2, "--out", out).returncode == 0
    assert sorted(path.name for path in out.glob("*.json")) == ["synthetic_000000.json", "synthetic_000001.json"]
    assert (out / "synthetic_000001.json").read_bytes() == scene_bytes(few[1].scene)
    untouched = (out / "synthetic_000000.json").stat().st_mtime_ns
    (out / "synthetic_000001.json").write_bytes(b'{"name": "synthetic_000001.json", "obj')
    done = command("--scenes", 3, "--out", out)
    assert done.returncode == 0 and "2 are new, 1 were there already" in done.stdout
    assert (out / "synthetic_000000.json").stat().st_mtime_ns == untouched
    assert [(out / f"synthetic_00000{i}.json").read_bytes() for i in range(3)] == [
        scene_bytes(few[i].scene) for i in range(3)
    ]


@pytest.fixture
def refusal(monkeypatch, capsys):
    """The status and the complaint of the command with wrong options, run in this process."""

    def refused(*options):
        monkeypatch.setattr(sys, "argv", ["synthetic", *map(str, options)])
        with pytest.raises(SystemExit) as stopped:
            run(main)
        return stopped.value.code, capsys.readouterr().err

    return refused


@pytest.mark.parametrize(
    "options", [("--scenes", "0"), ("--scenes", "few"), ("--seed", "-1"), ("--jams", "1.5"), ("--kinds", "all")]
)
def test_a_bad_argument_is_refused_in_one_sentence(options, tmp_path, refusal):
    status, said = refusal("--out", tmp_path / "scenes", *options)
    assert status != 0 and said.startswith("error: ") and said.count("\n") == 1 and not (tmp_path / "scenes").exists()


def test_a_folder_that_cannot_be_written_to_is_refused_in_one_sentence(tmp_path, refusal):
    (tmp_path / "file").write_text("")
    status, said = refusal("--scenes", 1, "--out", tmp_path / "file")
    assert status == 1 and said.startswith("error: ") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("before", "asked", "named"),
    [
        ('{"seed": 0}', ("--seed", 1), "--seed 0"),
        ('{"seed": 0}', ("--jams", 0.5), "--jams 0.0"),
        ('{"seed": 0, "jams": 0.5}', (), "--jams 0.5"),
    ],
    ids=["another seed", "jams where there were none", "none where there were"],
)
def test_a_folder_of_other_scenes_is_refused_in_one_sentence(before, asked, named, tmp_path, refusal):
    (tmp_path / "command").mkdir()
    (tmp_path / "command" / "args.json").write_text(before)
    status, said = refusal("--scenes", 1, "--out", tmp_path, *asked)
    assert status == 1 and said.count("\n") == 1 and named in said and "choose another --out" in said
    assert not list(tmp_path.glob("*.json"))
