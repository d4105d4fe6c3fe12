"""Scenarios of ScenarioNet (Li et al. 2023), as MetaDrive stores them, to scenes in GPUDrive's JSON.

A scenario is a pickle of a dict: id, length, metadata, tracks, dynamic_map_states and map_features, as the docstring of
MetaDrive's ScenarioDescription has it. It is read without unpickling (utils/plain_pickle.py).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dreamdrive.envs.nocturne.scene import ABSENT, DT, LIGHTS, load_scene
from dreamdrive.envs.nocturne.scene_fields import LARGEST
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder, raise_if_unreadable, write_atomically
from dreamdrive.utils.plain_pickle import MOST, NotPlain, as_array, read_plain

INDEXES = ("dataset_summary.pkl", "dataset_mapping.pkl")  # of a folder of scenarios
OBJECTS = {"VEHICLE": "vehicle", "PEDESTRIAN": "pedestrian", "CYCLIST": "cyclist"}  # all others: other
COLOURS = {"TRAFFIC_LIGHT_GREEN": "go", "TRAFFIC_LIGHT_YELLOW": "caution", "TRAFFIC_LIGHT_RED": "stop"}
# types of map features by how their names begin: what they are here, and Waymo's numbers of them, which GPUDrive keeps
ROADS = {"LANE_": "lane", "ROAD_LINE_": "road_line", "ROAD_EDGE_SIDEWALK": "other", "ROAD_EDGE_": "road_edge"}
ROADS |= {"GUARDRAIL": "road_edge", "STOP_SIGN": "stop_sign", "CROSSWALK": "crosswalk", "SPEED_BUMP": "speed_bump"}
ELEMENTS = {"LANE_FREEWAY": 1, "LANE_SURFACE_STREET": 2, "LANE_BIKE_LANE": 3, "ROAD_EDGE_BOUNDARY": 15}
ELEMENTS |= {"ROAD_EDGE_MEDIAN": 16, "STOP_SIGN": 17, "CROSSWALK": 18, "SPEED_BUMP": 19, "DRIVEWAY": 20}
ELEMENTS |= {
    f"ROAD_LINE_{name}": 6 + i
    for i, name in enumerate(
        "BROKEN_SINGLE_WHITE SOLID_SINGLE_WHITE SOLID_DOUBLE_WHITE BROKEN_SINGLE_YELLOW BROKEN_DOUBLE_YELLOW "
        "SOLID_SINGLE_YELLOW SOLID_DOUBLE_YELLOW PASSING_DOUBLE_YELLOW".split()
    )
}


def convert_folder(source: Path, out: Path) -> Iterator[tuple[Path, str]]:
    """Convert every scenario under `source` to a scene in `out`; gives each file and, where it was passed over, why.
    UserError where there are none, or `out` holds scenes already."""
    if not source.is_dir():
        raise UserError(f"{source} is not a folder: give one with ScenarioNet's sd_*.pkl in it, at any depth")
    files = sorted(path for path in source.rglob("*.pkl") if path.name not in INDEXES)
    if not files:
        raise UserError(f"{source} has no scenario of ScenarioNet's, sd_*.pkl: give a folder with some in it")
    if out.is_dir() and any(out.glob("*.json")):
        raise UserError(f"{out} holds scenes already: choose another --out")
    make_folder(out)
    taken: set[str] = set()
    for path in files:
        name = path.stem if path.stem not in taken else f"{path.stem}~{len(taken)}"
        try:
            scene = convert(path, f"{name}.json")
            load_scene(path, content=scene)
        except UserError as error:
            yield path, str(error)
            continue
        taken.add(name)
        write_atomically(out / f"{name}.json", json.dumps(scene, separators=(",", ":"), allow_nan=False).encode())
        yield path, ""


def convert(path: Path, name: str) -> dict:
    """The scene, called `name`, of the scenario in a file. UserError, in one sentence, for whatever is none."""
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise NotPlain(f"it has {size:,} bytes, and no scenario has more than {LARGEST:,}")
        return _scene(read_plain(path.read_bytes()), name)
    except OSError as error:
        raise_if_unreadable(path, error)
        reason = error.strerror or str(error)
    except NotPlain as error:
        reason = str(error)
    raise UserError(
        f"{path} is no scenario of ScenarioNet's that can be read without unpickling: {reason}; give a file that "
        "ScenarioNet or MetaDrive has written, or convert the data to GPUDrive's JSON"
    )


def _scene(scenario: Any, name: str) -> dict:
    parts = ("metadata", "tracks", "map_features", "dynamic_map_states")
    metadata, tracks, features, lights = (_field(scenario, part, "the scenario") for part in parts)
    count = _count(scenario)
    if not tracks or (len(tracks) + len(lights)) * count > MOST:
        raise NotPlain(f"it has {len(tracks)} tracks and {len(lights)} lights of {count} steps")
    steps = _every(metadata, count)
    objects = [_object(key, track, count, steps) for key, track in tracks.items()]
    keys, driver = [str(key) for key in tracks], _text(metadata.get("sdc_id"))
    wanted = metadata.get("tracks_to_predict")
    wanted = [str(key) for key in wanted] if isinstance(wanted, dict) else []
    roads, points = [], 0
    for key, feature in features.items():
        road = _road(key, feature)
        roads += [road] if road else []
        points += len(road["geometry"]) if road else 0
        if points > MOST:
            raise NotPlain(f"its map has more than {MOST:,} points")
    return {
        "name": name,
        "scenario_id": _text(scenario.get("id")) or name,
        "objects": [{**thing, "id": i} for i, thing in enumerate(objects)],
        "roads": [{**road, "id": i} for i, road in enumerate(roads)],
        "tl_states": {str(k): v for k, light in lights.items() if (v := _light(k, light, count, steps))},
        "metadata": {
            "sdc_track_index": keys.index(driver) if driver in keys else -1,
            "objects_of_interest": [],
            "tracks_to_predict": [{"track_index": keys.index(key), "difficulty": 0} for key in wanted if key in keys],
        },
    }


def _field(of: Any, key: str, where: str) -> dict:
    if not isinstance(of, dict) or not isinstance(of.get(key), dict):
        raise NotPlain(f"{where} has no dict {key}")
    return of[key]


def _text(value: Any) -> str:
    """A name as text; nothing where it is none."""
    return str(value) if isinstance(value, str | int) else ""


def _count(scenario: dict) -> int:
    length = scenario.get("length")
    if type(length) is not int or not 1 <= length <= 100_000:
        raise NotPlain("its length is no number of steps from 1 to 100,000")
    return length


def _every(metadata: dict, count: int) -> slice:
    """Which steps are taken, so that they are DT apart."""
    name = "ts" if "ts" in metadata else "timestep"
    if name not in metadata or count < 2:
        return slice(None)
    times = _numbers(metadata[name], (count,), f"metadata.{name}")
    apart = float(np.median(np.diff(times)))
    every = round(DT / apart) if apart > 0 else 0
    if every < 1 or abs(every * apart - DT) > DT / 20:
        raise NotPlain(f"its steps are {apart:.3g} s apart, of which none make {DT:g} s")
    return slice(None, None, every)


def _numbers(value: Any, shape: tuple[int | None, ...], where: str) -> np.ndarray:
    """Finite numbers as float64 of a shape, None standing for any size."""
    found = as_array(value)
    if found.dtype.kind not in "biuf":
        raise NotPlain(f"{where} does not hold numbers")
    fits = found.ndim == len(shape) and all(w is None or w == s for w, s in zip(shape, found.shape, strict=True))
    if not fits:
        said = ", ".join("n" if size is None else str(size) for size in shape)
        raise NotPlain(f"{where} has the shape {found.shape} where ({said}) was wanted")
    with np.errstate(over="ignore", invalid="ignore"):
        found = found.astype(np.float64)
    if not np.isfinite(found).all():
        raise NotPlain(f"{where} holds a number that is not finite")
    return found


def _points(value: Any, where: str, count: int | None = None) -> np.ndarray:
    """(n, 2) of points in two or three dimensions."""
    found = as_array(value)
    size = found.shape[-1] if found.ndim == 2 else 0
    if size not in (2, 3) and len(found):
        raise NotPlain(f"{where} has the shape {found.shape} where (n, 2) or (n, 3) was wanted")
    return _numbers(value, (count, None), where)[:, :2] if len(found) else np.empty((0, 2))


def _column(state: dict, key: str, where: str, count: int) -> np.ndarray:
    """(T,) numbers; older files have (T, 1)."""
    if key not in state:
        raise NotPlain(f"{where} has no {key}")
    found = as_array(state[key])
    return _numbers(found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found, (count,), f"{where}.{key}")


def _object(key: Any, track: Any, count: int, steps: slice) -> dict:
    """One object of GPUDrive's JSON."""
    where = f"tracks.{key}"
    state = _field(track, "state", where)
    for name in ("position", "velocity"):
        if name not in state:
            raise NotPlain(f"{where} has no {name}")
    position = _points(state["position"], f"{where}.position", count)[steps]
    velocity = _points(state["velocity"], f"{where}.velocity", count)[steps]
    heading = _column(state, "heading", where, count)[steps]
    valid = _column(state, "valid", where, count)[steps] > 0 if "valid" in state else np.ones(len(heading), bool)
    sizes = {side: _column(state, side, where, count)[steps] for side in ("length", "width")}
    last = np.flatnonzero(valid)[-1] if valid.any() else 0

    def listed(points: np.ndarray) -> list[dict[str, float]]:
        told = np.where(valid[:, None], points, ABSENT)
        return [{"x": x, "y": y} for x, y in told.tolist()]

    return {
        "type": OBJECTS.get(_text(track.get("type")).upper(), "other"),
        "position": listed(position),
        "velocity": listed(velocity),
        "heading": np.where(valid, heading, ABSENT).tolist(),
        "valid": valid.tolist(),
        **{side: float(values[valid].max()) if valid.any() else 0.0 for side, values in sizes.items()},
        "goalPosition": {"x": float(position[last, 0]), "y": float(position[last, 1])},
        "mark_as_expert": False,
    }


def _road(key: Any, feature: Any) -> dict | None:
    """One road of GPUDrive's JSON; None for what has neither line nor place."""
    where = f"map_features.{key}"
    if not isinstance(feature, dict):
        raise NotPlain(f"{where} is a {type(feature).__name__} where a dict was wanted")
    called = _text(feature.get("type")).upper()
    kind = next((ours for begin, ours in ROADS.items() if called.startswith(begin)), "other")
    if kind == "stop_sign":
        if "position" not in feature:
            return None
        place = as_array(feature["position"])
        line = _points(place.reshape(1, -1) if place.ndim == 1 else place, f"{where}.position")[:1]
    else:
        name = next((name for name in ("polyline", "polygon") if name in feature), None)
        line = _points(feature[name], f"{where}.{name}") if name else np.empty((0, 2))
    if not len(line):
        return None
    if kind != "stop_sign" and "polyline" not in feature:
        line = np.concatenate([line, line[:1]])  # around
    geometry = [{"x": x, "y": y, "z": 0.0} for x, y in line.tolist()]
    return {"type": kind, "geometry": geometry, "map_element_id": ELEMENTS.get(called, -1)}


def _light(key: Any, light: Any, count: int, steps: slice) -> dict | None:
    """One of GPUDrive's tl_states; None for one that has no place."""
    where = f"dynamic_map_states.{key}"
    state = _field(light, "state", where)
    if "object_state" not in state:
        raise NotPlain(f"{where} has no object_state")
    shown = as_array(state["object_state"])
    if shown.shape != (count,):
        raise NotPlain(f"{where}.object_state has the shape {shown.shape} where ({count},) was wanted")
    stop = light.get("stop_point", state.get("stop_point"))
    if stop is None:
        return None
    place = as_array(stop)
    place = _points(place.reshape(1, -1) if place.ndim == 1 else place, f"{where}.stop_point")
    there = place[np.any(place != 0, 1)]  # older files have one a step, 0 where the light is not known
    if not len(there):
        return None
    colours = [_colour(said) for said in shown[steps].tolist()]
    number = len(colours)
    return {
        "state": colours,
        "x": [float(there[0, 0])] * number,
        "y": [float(there[0, 1])] * number,
        "z": [0.0] * number,
        "time_index": list(range(number)),
        "lane_id": [str(key)] * number,
    }


def _colour(said: Any) -> str:
    """One of LIGHTS."""
    if isinstance(said, str):
        found = COLOURS.get(said.upper(), said.upper().removeprefix("LANE_STATE_").lower())
        return found if found in LIGHTS else "unknown"
    waymo = ("unknown", "arrow_stop", "arrow_caution", "arrow_go", "stop", "caution", "go")
    numbered = (*waymo, "flashing_stop", "flashing_caution")
    return numbered[said] if type(said) is int and 0 <= said < len(numbered) else "unknown"
