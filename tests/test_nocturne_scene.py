"""Scenes are read as Nocturne reads them, and what is not a scene is refused in one sentence."""

import copy
import json
import math

import numpy as np
import pytest

from dreamdrive.envs.nocturne import load_scene
from dreamdrive.envs.nocturne.scene import LIGHTS, ROADS
from dreamdrive.envs.nocturne.scene_fields import LARGEST
from dreamdrive.tests.tiny_scene import NAMES, ORACLE, STEPS, car, needs_oracle, road, scene_of, write
from dreamdrive.utils.errors import UserError


@pytest.fixture(params=NAMES)
def logged(request):
    """A scene by Nocturne's rule for objects that appear late, Nocturne's facts of it, and its expert arrays."""
    oracle = ORACLE / "oracle" / request.param
    return (
        load_scene(ORACLE / "scenes" / f"{request.param}.json", spawn_invalid=False),
        json.loads((oracle / "meta.json").read_text()),
        np.load(oracle / "expert.npz"),
    )


@needs_oracle
def test_objects_and_their_numbers_are_nocturnes(logged):
    scene, meta, expert = logged
    assert scene.ids.tolist() == expert["ids"].tolist() == [o["id"] for o in meta["objects"]]
    assert scene.json_index.tolist() == [o["json_index"] for o in meta["objects"]]
    assert scene.moved.tolist() == [o["moving"] for o in meta["objects"]]
    assert np.allclose(scene.length, [o["length"] for o in meta["objects"]], atol=1e-6)
    assert np.allclose(scene.goal_heading, [o["target_heading"] for o in meta["objects"]], atol=1e-5)
    assert np.allclose(scene.goal_speed, [o["target_speed"] for o in meta["objects"]], atol=1e-5)
    assert np.allclose(scene.goal, [o["target"] for o in meta["objects"]], atol=1e-3)


@needs_oracle
def test_the_log_and_the_expert_actions_are_nocturnes(logged):
    scene, _, expert = logged
    there = expert["valid"]
    assert np.array_equal(scene.valid, there)
    assert np.abs(scene.position - expert["position"])[there].max() < 1e-3
    assert np.abs(scene.heading - expert["heading"])[there].max() < 1e-5
    assert np.abs(scene.speed - expert["speed"])[there].max() < 1e-5
    wanted = expert["action"][:, : STEPS - 1, :2]
    wanted[expert["action_is_none"][:, : STEPS - 1]] = np.nan
    assert np.array_equal(np.isnan(scene.expert_action), np.isnan(wanted))
    assert np.nanmax(np.abs(scene.expert_action - wanted)[..., 0]) < 1e-4
    assert (
        np.nanmax(
            np.abs(np.tan(scene.expert_action) - np.tan(wanted))[..., 1]
            / (1 + np.nan_to_num(np.tan(wanted[..., 1])) ** 2)
        )
        < 2e-3
    )


def test_a_late_object_comes_after_the_others_or_is_left_out_and_one_that_does_not_take_part_uses_up_a_number(tmp_path):
    late = [t > 3 for t in range(STEPS)]
    path = write(
        tmp_path, scene_of([car(), car(20, valid=late), car(40, kind="other"), car(60, kind="pedestrian"), car(80)])
    )
    nocturnes = load_scene(path, spawn_invalid=False)
    assert nocturnes.ids.tolist() == [0, 2, 3] and nocturnes.json_index.tolist() == [0, 3, 4]
    assert load_scene(path, allow_non_vehicles=False, spawn_invalid=False).ids.tolist() == [0, 3]
    assert load_scene(path).ids.tolist() == [0, 2, 3, 4] and load_scene(path).json_index.tolist() == [0, 3, 4, 1]
    assert load_scene(path, start=4).json_index.tolist() == [0, 1, 3, 4]


def test_expert_actions_are_undefined_at_gaps_and_steering_where_a_car_stands(tmp_path):
    scene = load_scene(
        write(tmp_path, scene_of([car(valid=[t != 10 for t in range(STEPS)]), car(y=9, speed=0.0), car(y=20)]))
    )
    nan = np.isnan(scene.expert_action)
    assert np.flatnonzero(nan[0, :, 0]).tolist() == np.flatnonzero(nan[0, :, 1]).tolist() == [9, 10]
    assert nan[1, :, 1].all() and not nan[1, :, 0].any()
    assert not nan[2].any()


def test_degrees_and_radians_are_told_apart_by_the_fields_and_checked_by_the_way_cars_go(tmp_path):
    tilted = [car(heading=0.7), car(y=30, heading=-2.0)]
    gpudrive = scene_of(
        [
            {**o, "heading": [math.radians(h) for h in o["heading"]], "id": i, "mark_as_expert": False}
            for i, o in enumerate(tilted)
        ]
    )
    gpudrive |= {"scenario_id": "a", "metadata": {}}
    scenes = [load_scene(write(tmp_path, content)) for content in (scene_of(tilted), gpudrive)]
    assert np.allclose(scenes[0].heading, scenes[1].heading, atol=1e-6) and np.allclose(
        scenes[0].heading[:, 0], [0.7, -2.0], atol=1e-6
    )
    disguised = {key: value for key, value in gpudrive.items() if key not in ("scenario_id", "metadata")}
    assert np.allclose(load_scene(write(tmp_path, disguised)).heading, scenes[0].heading, atol=1e-6)
    with pytest.raises(UserError, match="are they radians"):
        load_scene(write(tmp_path, disguised), kind="nocturne")
    with pytest.raises(UserError, match="are they degrees"):
        load_scene(write(tmp_path, scene_of(tilted)), kind="gpudrive")
    assert np.allclose(load_scene(write(tmp_path, disguised), kind="gpudrive").heading, scenes[0].heading, atol=1e-6)


def test_roads_keep_their_order_and_stop_signs_are_set_apart(tmp_path):
    scene = load_scene(
        write(
            tmp_path,
            scene_of(
                [car()],
                [
                    road("lane", (0, 0), (1, 0), (2, 0)),
                    road("stop_sign", (5, 5)),
                    road("driveway", (7, 7), (8, 8)),
                    road("road_edge", (0, 3), (9, 3)),
                ],
            ),
        )
    )
    assert [ROADS[k] for k in scene.road_type] == ["lane", "other", "road_edge"]
    assert scene.road_first.tolist() == [0, 3, 5, 7] and scene.road_points[5:].tolist() == [[0, 3], [9, 3]]
    assert scene.stop_signs.tolist() == [[5, 5]]


def test_a_light_shows_its_next_record_in_a_gap_and_nothing_known_after_the_last(tmp_path):
    light = {"state": ["stop", "go"], "x": [3.0, 3.0], "y": [4.0, 4.0], "time_index": [2, 5]}
    scene = load_scene(write(tmp_path, scene_of([car()], lights={"12": light})))
    assert [LIGHTS[s] for s in scene.light_state[0, :7]] == ["stop"] * 3 + ["go"] * 3 + ["unknown"]
    assert scene.light_position.tolist() == [[3, 4]]


def broken(change) -> dict:
    content = copy.deepcopy(
        scene_of(
            [car()], [road("lane", (0, 0), (1, 0))], {"1": {"state": ["go"], "x": [0.0], "y": [0.0], "time_index": [0]}}
        )
    )
    change(content)
    return content


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda s: s.pop("objects"), "no objects"),
        (lambda s: s.pop("roads"), "no roads"),
        (lambda s: s.update(tl_states=7), "tl_states is a int where a dict or list"),
        (lambda s: s.update(objects=[]), "objects is empty"),
        (lambda s: s.update(objects={}), "objects is a dict where a list"),
        (lambda s: s["objects"].append(7), r"objects\[1\] is a int where an object"),
        (lambda s: s["objects"][0].pop("heading"), r"objects\[0\] has no heading"),
        (lambda s: s["objects"][0]["heading"].pop(), r"objects\[0\]\.heading has 90 steps where 91"),
        (lambda s: s["objects"][0]["position"].append({"x": 0.0, "y": 0.0}), r"objects\[0\]\.position has 92 steps"),
        (
            lambda s: s["objects"][0]["position"][3].pop("y"),
            r"objects\[0\]\.position holds something that is not a point",
        ),
        (
            lambda s: s["objects"][0]["position"][3].update(x="3"),
            r"objects\[0\]\.position holds something that is not a number",
        ),
        (
            lambda s: s["objects"][0]["position"][3].update(x=10**400),
            r"objects\[0\]\.position holds something that is not a number",
        ),
        (
            lambda s: s["objects"][0]["velocity"][3].update(x=math.inf),
            r"objects\[0\]\.velocity holds a number that is not finite",
        ),
        (
            lambda s: s["objects"][0]["heading"].__setitem__(4, math.nan),
            r"objects\[0\]\.heading holds a number that is not finite",
        ),
        (lambda s: s["objects"][0]["valid"].__setitem__(4, 1), r"objects\[0\]\.valid holds something that is neither"),
        (lambda s: s["objects"][0].update(width=0.0), r"objects\[0\]\.width is 0 where something above 0"),
        (lambda s: s["objects"][0].update(length=-1.0), r"objects\[0\]\.length is -1"),
        (lambda s: s["objects"][0].update(goalPosition=[1, 2]), r"objects\[0\]\.goalPosition is a list where a dict"),
        (lambda s: s["objects"][0].update(valid=[False] * STEPS), "no object that is valid at step 0"),
        (lambda s: s["objects"][0].update(type="other"), "no object that is valid at step 0"),
        (lambda s: s["roads"][0].update(geometry=[]), r"roads\[0\]\.geometry has no points"),
        (
            lambda s: s["roads"][0]["geometry"][0].update(x=None),
            r"roads\[0\]\.geometry holds something that is not a number",
        ),
        (
            lambda s: s["tl_states"]["1"].update(state=["green"]),
            r"tl_states\[1\]\.state holds 'green' where one of unknown, stop",
        ),
        (lambda s: s["tl_states"]["1"].update(x=[0.0, 1.0]), r"tl_states\[1\] has columns of 1 state, 2 x"),
        (
            lambda s: s["tl_states"]["1"].update(state=["go"] * 2, x=[0.0] * 2, y=[0.0] * 2, time_index=[3, 3]),
            r"time_index does not ascend",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, change, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        load_scene(write(tmp_path, broken(change)))
    assert "tiny.json" in str(caught.value)


@pytest.mark.parametrize(
    "content, complaint",
    [("", "is not JSON"), ("{", "is not JSON"), ("[" * 100_000, "is not JSON"), ("[1, 2]", "holds a list")],
)
def test_what_is_not_a_scene_at_all_is_refused(tmp_path, content, complaint):
    with pytest.raises(UserError, match=complaint):
        load_scene(write(tmp_path, content))


def test_a_missing_a_binary_and_an_enormous_file_are_refused_without_being_read(tmp_path):
    with pytest.raises(UserError, match="is missing"):
        load_scene(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read"):
        load_scene(tmp_path)
    (tmp_path / "b.json").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="is not JSON"):
        load_scene(tmp_path / "b.json")
    with open(tmp_path / "large.json", "wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(UserError, match="no scene has more than"):
        load_scene(tmp_path / "large.json")
