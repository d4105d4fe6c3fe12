"""Traffic scenes: nine seconds of logged traffic on a map, from the JSON files of Nocturne and of GPUDrive.

Positions are metres in world coordinates (x right, y up), headings radians counter-clockwise from +x in [-pi, pi],
speeds m/s; a scene has T = 91 steps, 0.1 s apart. Vinitsky et al. 2022 (Nocturne); Kazemkhani et al. 2025 (GPUDrive);
Ettinger et al. 2021 (the Waymo Open Motion Dataset, where the public files come from).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dreamdrive.envs.catalogue import SCENE_FORMATS, SCENE_STEPS
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import raise_if_unreadable, require_file

STEPS = SCENE_STEPS
DT = 0.1  # seconds between them
GRID = 8.0  # metres of the squares that road edges are looked up in
ABSENT = -10_000.0  # position, velocity and heading of an object at a step at which it is not valid
OBJECTS = ("unset", "vehicle", "pedestrian", "cyclist", "other")  # Scene.type counts in these, ...
# ... Scene.road_type in these, ...
ROADS = ("none", "lane", "road_line", "road_edge", "stop_sign", "crosswalk", "speed_bump", "other")
# ... light_state in these
LIGHTS = (
    "unknown",
    "stop",
    "caution",
    "go",
    "arrow_stop",
    "arrow_caution",
    "arrow_go",
    "flashing_stop",
    "flashing_caution",
)
LOADED = ("vehicle", "pedestrian", "cyclist")  # kinds of objects that take part
LARGEST = 256 << 20  # bytes of a file: Waymo's scenes have one to five million
# What is beyond these drives to numbers that are not finite, or is looked up in a grid that fits into no memory.
# Waymo's scenes are some 200 m wide, up to 50 km from where they are measured from.
FURTHEST, FASTEST, TURNED, LONGEST = 1e6, 1e5, 1e6, 100.0  # metres, m/s, degrees or radians, metres of an object
WIDEST, MOST_CELLS = 20_000.0, 1 << 24  # metres from road edge to road edge; squares of 8 m that edges touch, in all
MOVED_SPEED, MOVED_DISTANCE = 0.05, 0.2  # m/s, m: Nocturne's thresholds
TELLING_SPEED = 2.0  # m/s, from which an object's heading is the direction it moves in


@dataclass(frozen=True, eq=False)
class Scene:
    """A log and its map: N objects, R road elements with M points in all, L traffic lights, S stop signs.

    Fields:
        name: of the file it came from
        ids (N,) int64: Nocturne's numbers of the objects (gaps are objects that do not take part); json_index (N,):
        their places in the file type (N,) int64: into OBJECTS
        length, width (N,) float32
        position (N, 91, 2) float64, heading, speed (N, 91) float32, valid (N, 91) bool: the log; whatever the file has
        where it is not valid goal (N, 2) float64
        road_points (M, 2) float64, road_type (R,) int64 into ROADS; element r has points road_first[r] to road_first[r
        + 1], road_first (R + 1,) stop_signs (S, 2) float64
        light_position (L, 2) float64, light_state (L, 91) int64 into LIGHTS
    """

    name: str
    ids: np.ndarray
    json_index: np.ndarray
    type: np.ndarray
    length: np.ndarray
    width: np.ndarray
    position: np.ndarray
    heading: np.ndarray
    speed: np.ndarray
    valid: np.ndarray
    goal: np.ndarray
    road_points: np.ndarray
    road_type: np.ndarray
    road_first: np.ndarray
    stop_signs: np.ndarray
    light_position: np.ndarray
    light_state: np.ndarray

    @cached_property
    def origin(self) -> np.ndarray:
        """(2,) whole metres, in the middle of the traffic: relative to it float32 resolves a hundredth of a
        millimetre."""
        return np.round(self.position[self.valid].mean(0))

    @cached_property
    def last_valid(self) -> np.ndarray:
        """(N,) each object's last valid step, where its goal is."""
        return STEPS - 1 - self.valid[:, ::-1].argmax(1)

    @cached_property
    def goal_heading(self) -> np.ndarray:
        """(N,) float32."""
        return self.heading[np.arange(len(self.ids)), self.last_valid]

    @cached_property
    def goal_speed(self) -> np.ndarray:
        """(N,) float32."""
        return self.speed[np.arange(len(self.ids)), self.last_valid]

    @cached_property
    def moved(self) -> np.ndarray:
        """(N,) bool: at some valid step an object is faster than 0.05 m/s or further than 0.2 m from its goal
        (Nocturne's getObjectsThatMoved)."""
        distance = np.linalg.norm(self.position - self.goal[:, None], axis=-1)
        return (self.valid & ((self.speed > MOVED_SPEED) | (distance > MOVED_DISTANCE))).any(1)

    @cached_property
    def expert_action(self) -> np.ndarray:
        """(N, 90, 2) float32, m/s^2 and rad: the acceleration and the steering that lead from the log's step t to t +
        1; unbounded.

        Both are NaN where the log has a gap (Nocturne: None). Steering is NaN where no steering gives the log's turn:
        above all where a car stands (Nocturne: NaN).
        """
        a, b = self.speed[:, :-1], self.speed[:, 1:]
        turn = wrap(np.diff(self.heading, axis=1)) / np.float32(DT)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            curve = 2 * self.length[:, None] * turn / (a + b)
            steer = np.arctan(2 * curve / np.sqrt(4 - curve * curve))
        action = np.stack([(b - a) / np.float32(DT), steer], -1)
        action[~(self.valid[:, :-1] & self.valid[:, 1:])] = np.nan
        return action

    @cached_property
    def egos(self) -> np.ndarray:
        """ids of the vehicles that move and whose expert action is defined at every step: those an agent can learn
        from, or stand in for."""
        whole = np.isfinite(self.expert_action).all((1, 2))
        return self.ids[(self.type == OBJECTS.index("vehicle")) & self.moved & whole]

    def index(self, identity: int) -> int:
        """The place of object `identity` in the arrays."""
        found = np.flatnonzero(self.ids == identity)
        if not len(found):
            raise UserError(f"{self.name} has no object {identity}: it has {', '.join(map(str, self.ids))}")
        return int(found[0])


def wrap(angle: np.ndarray) -> np.ndarray:
    """An angle's equal in [-pi, pi]."""
    angle = np.asarray(angle)
    return np.remainder(angle + np.pi, 2 * np.pi).astype(angle.dtype) - angle.dtype.type(np.pi)


def load_scene(
    path: str | Path,
    kind: str = "auto",
    start: int = 0,
    allow_non_vehicles: bool = True,
    spawn_invalid: bool = False,
    content: dict | None = None,
) -> Scene:
    """Read a scene, or take one that was read before (`content`; then `path` is only its name). UserError, with the
    file's name and the field's, for whatever is not one.

    `kind` is "nocturne" (headings in degrees), "gpudrive" (in radians), or "auto": by the fields that only GPUDrive's
    files have; a file whose headings contradict its kind is refused. Objects that are not valid at step `start` are
    left out unless `spawn_invalid`; those left out otherwise use up a number, as in Nocturne.
    """
    reader = _Reader(Path(path))
    return reader.scene(reader.parse() if content is None else content, kind, start, allow_non_vehicles, spawn_invalid)


class _Reader:
    """Reads one file; every complaint names it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def refuse(self, field: str, what: str) -> UserError:
        where = f"{self.path}: {field} " if field else f"{self.path} "
        return UserError(
            f"{where}{what}; give a scene in Nocturne's or GPUDrive's JSON (`python -m envs.nocturne check FOLDER` "
            "looks through a folder)"
        )

    def require_file(self) -> None:
        try:
            require_file(self.path)
        except ValueError as error:
            raise self.refuse("", f"cannot be read ({error})") from None

    def parse(self) -> dict:
        try:
            self.require_file()
            size = self.path.stat().st_size
            if size > LARGEST:
                raise self.refuse("", f"has {size:,} bytes, and no scene has more than {LARGEST:,}")
            content = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            raise UserError(
                f"{self.path} is missing: give the JSON file of a scene (`python -m envs.nocturne.synthetic` writes "
                "some)"
            ) from None
        except OSError as error:
            raise_if_unreadable(self.path, error)
            raise self.refuse("", f"cannot be read ({error.strerror or error})") from None
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError, too
            raise self.refuse("", f"is not JSON ({str(error)[:200]})") from None
        if not isinstance(content, dict):
            raise self.refuse(
                "",
                f"holds a {type(content).__name__} where an object with name, objects, roads and tl_states was wanted",
            )
        return content

    def field(self, of: Any, key: str, field: str, wanted: type | tuple[type, ...]) -> Any:
        if not isinstance(of, dict):
            raise self.refuse(field, f"is a {type(of).__name__} where an object with {key} was wanted")
        if key not in of:
            raise self.refuse(field, f"has no {key}" if field else f"has no {key}, which a scene has")
        if not isinstance(of[key], wanted):
            names = " or ".join(t.__name__ for t in (wanted if isinstance(wanted, tuple) else (wanted,)))
            raise self.refuse(f"{field}.{key}".lstrip("."), f"is a {type(of[key]).__name__} where a {names} was wanted")
        return of[key]

    def numbers(self, values: Any, field: str) -> np.ndarray:
        """Finite numbers, float64."""
        try:
            if any(type(v) is not float and type(v) is not int for v in values):
                raise TypeError
            array = np.asarray(values, np.float64)
        except (TypeError, ValueError, OverflowError):
            raise self.refuse(field, "holds something that is not a number") from None
        if not np.isfinite(array).all():
            raise self.refuse(field, "holds a number that is not finite")
        return array

    def bounded(self, values: Any, field: str, most: float) -> np.ndarray:
        """Numbers, float64, none of which is beyond `most` or its negative."""
        array = self.numbers(values, field)
        if (abs(array) > most).any():
            raise self.refuse(field, f"holds {array[abs(array) > most][0]:g}, and none is beyond {most:g}")
        return array

    def points(self, values: Sequence, field: str, most: float = FURTHEST) -> np.ndarray:
        """(n, 2) of [{x, y}, ...]."""
        try:
            flat = [v for p in values for v in (p["x"], p["y"])]
        except (TypeError, KeyError):
            raise self.refuse(field, "holds something that is not a point with x and y") from None
        return self.bounded(flat, field, most).reshape(-1, 2)

    def steps(self, of: dict, key: str, field: str) -> list:
        values = self.field(of, key, field, list)
        if len(values) != STEPS:
            raise self.refuse(f"{field}.{key}", f"has {len(values)} steps where {STEPS} were wanted")
        return values

    def scene(self, content: dict, kind: str, start: int, allow_non_vehicles: bool, spawn_invalid: bool) -> Scene:
        if kind not in ("auto", *SCENE_FORMATS):
            raise UserError(f'there is no kind of scene "{kind}": choose auto, {" or ".join(SCENE_FORMATS)}')
        if not 0 <= start < STEPS:
            raise UserError(f"a scene has no step {start}: choose one of 0 to {STEPS - 1}")
        objects, roads = self.field(content, "objects", "", list), self.field(content, "roads", "", list)
        if not objects:
            raise self.refuse("objects", "is empty, and a scene has at least one")
        name = self.field(content, "name", "", str)
        degrees = self.kind(content, objects, kind) == "nocturne"
        columns, number = [], 0
        for i, item in enumerate(objects):
            row = self.object(item, f"objects[{i}]", degrees)
            if not (row["valid"][start] or spawn_invalid):
                continue
            kept = row["kind"] in LOADED and (allow_non_vehicles or row["kind"] == "vehicle") and row["valid"].any()
            if kept:
                columns.append({**row, "ids": number, "json_index": i, "type": OBJECTS.index(row["kind"])})
            number += 1
        if not columns:
            raise self.refuse(
                "objects", f"has no {'object' if allow_non_vehicles else 'vehicle'} that is valid at step {start}"
            )
        self.check_headings(columns, degrees)
        stacked = {key: np.stack([row[key] for row in columns]) for key in columns[0] if key not in ("kind", "motion")}
        return Scene(name=name, **stacked, **self.roads(roads), **self.lights(content))

    def kind(self, content: dict, objects: list, asked: str) -> str:
        """Which of the two formats, by the fields that GPUDrive added."""
        if asked != "auto":
            return asked
        marks = {
            "scenario_id": "scenario_id" in content,
            "metadata": "metadata" in content,
            **{key: all(isinstance(o, dict) and key in o for o in objects) for key in ("mark_as_expert", "id")},
        }
        if len(set(marks.values())) > 1:
            have, lack = ([k for k, v in marks.items() if v == there] for there in (True, False))
            raise self.refuse(
                "",
                f"has GPUDrive's {', '.join(have)} and lacks its {', '.join(lack)}, so whether headings are degrees or "
                "radians cannot be told: "
                "say so (kind, or --kind)",
            )
        return "gpudrive" if marks["metadata"] else "nocturne"

    def object(self, item: Any, field: str, degrees: bool) -> dict:
        """One object's columns of Scene, "kind" its type in words and "motion" (91, 2) its velocity."""
        position = self.points(self.steps(item, "position", field), f"{field}.position")
        motion = self.points(self.steps(item, "velocity", field), f"{field}.velocity", FASTEST).astype(np.float32)
        heading = self.bounded(self.steps(item, "heading", field), f"{field}.heading", TURNED)
        valid = self.steps(item, "valid", field)
        if any(type(v) is not bool for v in valid):
            raise self.refuse(f"{field}.valid", "holds something that is neither true nor false")
        sizes = {
            key: self.bounded([self.field(item, key, field, (float, int))], f"{field}.{key}", LONGEST)[0]
            for key in ("length", "width")
        }
        for key, value in sizes.items():
            # Nocturne's files give no size to those not seen at the first step
            if value < 0 or (value == 0 and valid[0]):
                raise self.refuse(f"{field}.{key}", f"is {value:g} where something above 0 was wanted")
        goal = self.points([self.field(item, "goalPosition", field, dict)], f"{field}.goalPosition")[0]
        kind = self.field(item, "type", field, str)
        # Nocturne computes in float32, and whether a slow car's steering is defined depends on the last bit.
        radians = wrap(np.radians(heading.astype(np.float32)) if degrees else heading.astype(np.float32))
        return {
            "kind": kind,
            "position": position,
            "heading": radians,
            "speed": np.sqrt((motion * motion).sum(1)),
            "motion": motion,
            "valid": np.asarray(valid),
            "goal": goal,
            **{key: np.float32(value) for key, value in sizes.items()},
        }

    def check_headings(self, rows: list[dict], degrees: bool) -> None:
        """Vehicles drive where they point: if they do so only with the other unit, the file is not what it is taken
        for."""
        moving = [(row, row["valid"] & (row["speed"] > TELLING_SPEED)) for row in rows if row["kind"] == "vehicle"]
        if not any(at.any() for _, at in moving):
            return
        heading = np.concatenate([row["heading"][at] for row, at in moving])
        course = np.concatenate([np.arctan2(row["motion"][at, 1], row["motion"][at, 0]) for row, at in moving])
        if np.median(np.abs(wrap(heading - course))) < 0.3:
            return
        other = "radians" if degrees else "degrees"
        raise self.refuse(
            "objects",
            f"has vehicles that do not drive where their headings, taken as {'degrees' if degrees else 'radians'}, "
            f"point (are they {other}?): "
            f"say which kind of file it is, {' or '.join(SCENE_FORMATS)} (kind, or --kind)",
        )

    def roads(self, roads: list) -> dict:
        """The road columns of Scene."""
        points, kinds, signs = [np.empty((0, 2))], [], [np.empty((0, 2))]
        edges: list[np.ndarray] = []
        for i, road in enumerate(roads):
            kind, geometry = (
                self.field(road, "type", f"roads[{i}]", str),
                self.field(road, "geometry", f"roads[{i}]", (list, dict)),
            )
            line = self.points(geometry if isinstance(geometry, list) else [geometry], f"roads[{i}].geometry")
            if not len(line):
                raise self.refuse(f"roads[{i}].geometry", "has no points")
            if kind == "stop_sign":
                signs.append(line[:1])
                continue
            if kind == "road_edge":
                edges.append(line)
            points.append(line)
            kinds.append(ROADS.index(kind) if kind in ROADS else ROADS.index("other"))
        self.check_edges(edges)
        return {
            "road_points": np.concatenate(points),
            "road_type": np.array(kinds, np.int64),
            "road_first": np.cumsum([0, *map(len, points[1:])]),
            "stop_signs": np.concatenate(signs),
        }

    def check_edges(self, edges: list[np.ndarray]) -> None:
        """Road edges are looked up in a grid (tables.py), whose size they decide."""
        if not edges:
            return
        every = np.concatenate(edges)
        wide = np.ptp(every, axis=0).max()
        if wide > WIDEST:
            raise self.refuse("roads", f"has road edges {wide:.0f} m apart, and no scene is wider than {WIDEST:.0f}")
        spans = np.concatenate([abs(np.diff(line, axis=0)) for line in edges]) / GRID + LONGEST / GRID
        if spans.prod(1).sum() > MOST_CELLS:
            raise self.refuse("roads", "has road edges that are too long and too many to be looked up")

    def lights(self, content: dict) -> dict:
        """The light columns of Scene. At step t a light shows the state of its first record at or after t, "unknown"
        after the last (as Nocturne has it)."""
        lights = self.field(content, "tl_states", "", (dict, list))
        positions, states = [np.empty((0, 2))], []
        for key, light in lights.items() if isinstance(lights, dict) else enumerate(lights):
            field = f"tl_states[{key}]"
            columns = {name: self.field(light, name, field, list) for name in ("state", "x", "y", "time_index")}
            if len({len(c) for c in columns.values()}) > 1 or not columns["state"]:
                raise self.refuse(
                    field,
                    f"has columns of {', '.join(f'{len(c)} {n}' for n, c in columns.items())} where equally many, at "
                    "least one, were wanted",
                )
            unknown = [s for s in columns["state"] if s not in LIGHTS]
            if unknown:
                raise self.refuse(f"{field}.state", f"holds {unknown[0]!r} where one of {', '.join(LIGHTS)} was wanted")
            times = self.numbers(columns["time_index"], f"{field}.time_index")
            if (np.diff(times) <= 0).any():
                raise self.refuse(f"{field}.time_index", "does not ascend")
            xy = np.stack([self.bounded(columns[axis], f"{field}.{axis}", FURTHEST) for axis in "xy"], 1)
            codes = np.array([*(LIGHTS.index(s) for s in columns["state"]), 0])
            positions.append(xy[:1])
            states.append(codes[np.searchsorted(times, np.arange(STEPS))])
        return {
            "light_position": np.concatenate(positions),
            "light_state": np.array(states, np.int64).reshape(-1, STEPS),
        }
