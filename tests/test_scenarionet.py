"""ScenarioNet's pickles become scenes without being unpickled; hostile and damaged ones are refused in a sentence."""

import io
import os
import pickle
import struct
import zlib
from collections import OrderedDict

import numpy as np
import pytest

from dreamdrive.envs.nocturne import load_scene
from dreamdrive.envs.nocturne.scenarionet import convert
from dreamdrive.tests.tiny_run import call, complaint
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.plain_pickle import NotPlain, as_array, read_plain

STEPS = 91


def track(x: float, kind: str = "VEHICLE", steps: int = STEPS, apart: float = 0.1, valid=None) -> dict:
    """One that goes up at 5 m/s."""
    at = np.arange(steps, dtype=np.float32) * apart * 5
    valid = np.ones(steps, bool) if valid is None else valid
    state = {
        "position": np.stack([np.full(steps, x, np.float32), at, np.zeros(steps, np.float32)], 1) * valid[:, None],
        "length": np.full(steps, 4.5, np.float32) * valid,
        "width": np.full(steps, 1.9, np.float32) * valid,
        "height": np.full(steps, 1.5, np.float32) * valid,
        "heading": np.full(steps, np.pi / 2, np.float32) * valid,
        "velocity": np.tile(np.array([0.0, 5.0], np.float32), (steps, 1)) * valid[:, None],
        "valid": valid,
    }
    return {"type": kind, "state": state, "metadata": {"type": kind, "track_length": steps, "object_id": "7"}}


def scenario(steps: int = STEPS, apart: float = 0.1, **changed) -> dict:
    line = np.array([[0, 0, 0], [0, 50, 0], [0, 90, 0]], np.float32)
    late = np.arange(steps) > 20
    return {
        "id": "Waymo-001",
        "version": "MetaDrive v0.3.0.1",
        "length": steps,
        "metadata": {
            "ts": np.arange(steps, dtype=np.float32) * apart,
            "metadrive_processed": False,
            "coordinate": "waymo",
            "sdc_id": "172",
            "tracks_to_predict": {"8": {"track_index": 1, "track_id": "8"}},
            "number_summary": {"object_types": {"VEHICLE"}, "num_objects": np.int64(3), "mean": np.float32(1.5)},
        },
        "tracks": {
            "8": track(6.0, steps=steps, apart=apart),
            "172": track(0.0, steps=steps, apart=apart),
            "9": track(20.0, "PEDESTRIAN", steps, apart, late),
            "10": track(30.0, "TRAFFIC_CONE", steps, apart),
        },
        "dynamic_map_states": {
            "219": {
                "type": "TRAFFIC_LIGHT",
                "state": {"object_state": ["LANE_STATE_STOP"] * 10 + [None] * (steps - 10)},
                "lane": "219",
                "stop_point": np.array([0.0, 40.0, 0.0], np.float32),
                "metadata": {"type": "TRAFFIC_LIGHT", "object_id": "219"},
            }
        },
        "map_features": {
            "219": {"type": "LANE_SURFACE_STREET", "polyline": line, "entry_lanes": [], "width": [[1, 2]]},
            "1": {"type": "ROAD_LINE_BROKEN_SINGLE_WHITE", "polyline": line[:, :2] + 2},
            "2": {"type": "ROAD_EDGE_BOUNDARY", "polyline": line - 8},
            "3": {"type": "STOP_SIGN", "position": np.array([3.0, 40.0, 0.0]), "lane": ["219"]},
            "4": {"type": "CROSSWALK", "polygon": line + 1},
            "5": {"type": "UNKNOWN"},
        },
        **changed,
    }


def written(folder, content, name: str = "sd_waymo_v1_a.pkl", protocol: int = 4):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_of_every_protocol_are_read(protocol):
    held = {
        "a": [1, -2, 2**70, 1.5, None, True, "ü", b"\xff\x00", (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "s": {1, "x"},
        "f": frozenset([2]),
        7: OrderedDict(k=[]),
        "n": [np.float32(0.5), np.int64(3), np.bool_(True)],
    }
    arrays = [
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([True, False]),
        np.array(["ab", "c"]),
        np.array(["ab", None], object),
        np.zeros((0, 2), np.float32),
        np.float32(2.0),
    ]
    found = read_plain(pickle.dumps({**held, "arrays": arrays}, protocol))
    assert {key: value for key, value in found.items() if key != "arrays"} == held
    for ours, theirs in zip(found["arrays"][:-1], arrays[:-1], strict=True):
        assert np.array_equal(as_array(ours), theirs)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_scenario_becomes_a_scene(tmp_path, protocol):
    content = convert(written(tmp_path, scenario(), protocol=protocol), "a.json")
    scene = load_scene("a.json", content=content, spawn_invalid=True)
    assert content["metadata"]["sdc_track_index"] == 1 and content["scenario_id"] == "Waymo-001"
    assert content["metadata"]["tracks_to_predict"] == [{"track_index": 0, "difficulty": 0}]
    assert [thing["type"] for thing in content["objects"]] == ["vehicle", "vehicle", "pedestrian", "other"]
    assert scene.valid.sum(1).tolist() == [91, 91, 70] and scene.length[0] == np.float32(4.5)
    assert np.allclose(scene.speed[:2], 5) and np.allclose(scene.heading[:2], np.pi / 2)
    assert np.allclose(scene.goal[0], [6, 45]) and scene.light_position.tolist() == [[0, 40]]
    assert scene.light_state[0, :11].tolist() == [1] * 10 + [0] and scene.stop_signs.tolist() == [[3, 40]]
    roads = [(road["type"], road["map_element_id"], len(road["geometry"])) for road in content["roads"]]
    assert roads == [
        ("lane", 2, 3),
        ("road_line", 6, 3),
        ("road_edge", 15, 3),
        ("stop_sign", 17, 1),
        ("crosswalk", 18, 4),  # around
    ]


def test_twenty_steps_a_second_are_taken_every_other(tmp_path):
    content = convert(written(tmp_path, scenario(181, 0.05)), "a.json")
    assert len(content["objects"][0]["position"]) == 91 == len(content["tl_states"]["219"]["state"])
    assert content["objects"][0]["position"][10]["y"] == pytest.approx(5.0)
    with pytest.raises(UserError, match=r"steps are 0\.07 s apart"):
        convert(written(tmp_path, scenario(181, 0.07)), "a.json")


class Hostile:
    def __init__(self, what, *arguments):
        self.call = what, arguments

    def __reduce__(self):
        return self.call


def laughs() -> dict:
    """A list that would be 10^30 numbers."""
    found = [0.0] * 10
    for _ in range(29):
        found = [found] * 10
    return found


def looped() -> list:
    found: list = []
    found.append(found)
    return found


def with_state(**changed) -> dict:
    made = scenario()
    made["tracks"]["8"]["state"].update(changed)
    return made


def huge_memo() -> bytes:
    return b"\x80\x04}r" + struct.pack("<I", 2**32 - 1) + b"."


def object_pointers() -> bytes:
    """An array of objects made of raw bytes: numpy itself would take them for pointers."""
    whole = pickle.dumps(np.zeros(4, "u8"), 2)
    assert b"u8" in whole
    return whole.replace(b"u8", b"O8")


BAD = {
    "a command": (Hostile(os.system, "touch {}"), "it wants to use (posix|nt).system"),
    "eval": (Hostile(eval, "1"), "it wants to use builtins.eval"),
    "a way round": (Hostile(getattr, "x", "upper"), "it wants to use builtins.getattr"),
    "load within": (Hostile(np.load, "x"), "it wants to use numpy"),
    "a string that is called": (b"\x80\x04\x8c\x01x\x8c\x01y\x93).", "it wants to use x.y"),
    "a persistent id": (b"\x80\x04Pabc\n.", "instruction PERSID"),
    "an extension": (b"\x80\x04\x82\x01.", "instruction EXT1"),
    "memory without end": (huge_memo(), "no dict metadata"),
    "pointers": (object_pointers(), "an array of objects"),
    "a shape that lies": (pickle.dumps(np.zeros(4), 2).replace(b"K\x04\x85", b"J\x00\x00\x00\x7f\x85"), "not as many"),
    "half a file": (pickle.dumps(scenario())[:3000], "damaged or no pickle|ends too early"),
    "nothing": (b"", "damaged or no pickle"),
    "text": (b"hello", "damaged or no pickle"),
    "compressed": (zlib.compress(pickle.dumps(scenario())), "damaged or no pickle"),
    "a list": ([1, 2], "no dict metadata"),
    "no tracks": (scenario(tracks={}), "0 tracks"),
    "tracks of numbers": (scenario(tracks={"1": 5}), "tracks.1 has no dict state"),
    "laughs": (with_state(position=laughs()), "more than|too deeply"),
    "a loop": (with_state(heading=looped()), "too deeply"),
    "an id of laughs": (scenario(length=laughs()), "no number of steps"),
    "not finite": (with_state(heading=np.full(STEPS, np.nan)), "not finite"),
    "another length": (with_state(heading=np.zeros(90)), r"shape \(90,\) where \(91\) was wanted"),
    "no velocity": (with_state(velocity=None), "NoneType where an array"),
    "words": (with_state(heading=["x"] * STEPS), "does not hold numbers"),
    "ragged": (with_state(position=[[1, 2]] * 90 + [[1]]), "different lengths"),
    "many steps": (scenario(length=10**9), "no number of steps"),
    "a nested key": ({("a", ("b",)): 1}, "a tuple is a key"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_hostile_damaged_or_no_scenario_is_refused_in_a_sentence(kind, tmp_path):
    content, reason = BAD[kind]
    if isinstance(content, Hostile) and content.call[0] is os.system:
        content.call = os.system, (f"touch {tmp_path / 'was-here'}",)
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=reason) as refused:
        convert(path, "a.json")
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)
    assert not (tmp_path / "was-here").exists()


def test_every_truncation_and_many_flipped_bytes_are_refused_or_read(tmp_path):
    whole = pickle.dumps(scenario(11), 4)
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[int(rng.integers(len(whole)))] ^= int(rng.integers(1, 256))
        for content in (bytes(damaged), whole[: int(rng.integers(len(whole)))]):
            try:
                convert(written(tmp_path, content), "a.json")
            except UserError as error:
                assert "\n" not in str(error)


def test_a_folder_is_converted_and_what_is_bad_is_passed_over_by_name(tmp_path):
    written(tmp_path, scenario(), "in/deep/sd_a.pkl")
    written(tmp_path, scenario(), "in/other/sd_a.pkl")  # of the same name
    written(tmp_path, Hostile(os.system, "true"), "in/deep/sd_bad.pkl")
    written(tmp_path, {}, "in/dataset_summary.pkl")
    done = call("data.exchange", "import", "scenarionet", tmp_path / "in", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "2 scenes" in done.stdout and "1 file passed over" in done.stdout and "sd_bad.pkl" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sd_a.json", "sd_a~1.json"]
    assert "choose another --out" in complaint(
        call("data.exchange", "import", "scenarionet", tmp_path / "in", "--out", tmp_path / "out")
    )
    for folder in ("none", "in/deep/sd_a.pkl", "out"):
        refused = call("data.exchange", "import", "scenarionet", tmp_path / folder, "--out", tmp_path / "new")
        assert "ScenarioNet" in complaint(refused) and not (tmp_path / "new").exists()


def test_a_pickle_is_never_unpickled(monkeypatch):
    def never(*_, **__):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, never)
    assert read_plain(pickle.dumps({"a": np.arange(3)}))["a"] is not None
    with pytest.raises(NotPlain):
        read_plain(io.BytesIO(b"x").read())
