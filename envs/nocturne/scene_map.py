"""Roads, stop signs and traffic lights of a scene's file."""

from typing import Any

import numpy as np

from dreamdrive.envs.nocturne.scene import LIGHTS, ROADS
from dreamdrive.envs.nocturne.scene_checks import placed, stray_point
from dreamdrive.envs.nocturne.scene_fields import Fields

# Waymo's types of road elements, up to ...
ELEMENTS = ((3, "lane"), (13, "road_line"), (16, "road_edge"), (17, "stop_sign"), (18, "crosswalk"), (19, "speed_bump"))


def road_columns(of: Fields, roads: list, middle: np.ndarray) -> tuple[dict, list[str]]:
    """The road columns of Scene, whose traffic is around `middle` (2,), and what was left out."""
    notes = []
    points, kinds, signs = [np.empty((0, 2))], [], [np.empty((0, 2))]
    for i, road in enumerate(roads):
        kind = road_kind(of.field(road, "type", f"roads[{i}]", (str, int)), road.get("map_element_id"))
        geometry = of.field(road, "geometry", f"roads[{i}]", (list, dict))
        line = of.points(geometry if isinstance(geometry, list) else [geometry], f"roads[{i}].geometry")
        if not len(line):
            raise of.refuse(f"roads[{i}].geometry", "has no points")
        there = placed(line)
        if not there.all():
            notes.append(
                f"roads[{i}].geometry[{there.argmin()}] is no place but a marker, and is left out"
                + (f", as are {(~there).sum() - 1} more of it" if (~there).sum() > 1 else "")
            )
            line = line[there]
            if not len(line):
                continue
        if kind == "stop_sign":
            signs.append(line[:1])
            continue
        stray = stray_point(line, middle)
        if stray:
            raise of.refuse(
                f"roads[{i}].geometry[{stray[0]}]", f"lies {stray[1] / 1000:,.1f} km from {stray[2]}: take it away"
            )
        points.append(line)
        kinds.append(ROADS.index(kind))
    columns = {
        "road_points": np.concatenate(points),
        "road_type": np.array(kinds, np.int64),
        "road_first": np.cumsum([0, *map(len, points[1:])]),
        "stop_signs": np.concatenate(signs),
    }
    return columns, notes


def light_columns(of: Fields, content: dict, steps: int, part: slice) -> dict:
    """The light columns of Scene, at the steps `part` of the file's. At step t a light shows the state of its first
    record at or after t, "unknown" after the last (as Nocturne has it)."""
    lights = {} if content.get("tl_states") is None else of.field(content, "tl_states", "", (dict, list))
    positions, states = [np.empty((0, 2))], []
    for key, light in lights.items() if isinstance(lights, dict) else enumerate(lights):
        field = f"tl_states[{key}]"
        columns = {name: of.field(light, name, field, list) for name in ("state", "x", "y", "time_index")}
        if len({len(c) for c in columns.values()}) > 1 or not columns["state"]:
            raise of.refuse(
                field,
                f"has columns of {', '.join(f'{len(c)} {n}' for n, c in columns.items())} where equally many, at "
                "least one, were wanted",
            )
        unknown = [s for s in columns["state"] if s not in LIGHTS]
        if unknown:
            raise of.refuse(f"{field}.state", f"holds {unknown[0]!r} where one of {', '.join(LIGHTS)} was wanted")
        times = of.numbers(columns["time_index"], f"{field}.time_index")
        if (np.diff(times) <= 0).any():
            raise of.refuse(f"{field}.time_index", "does not ascend")
        xy = np.stack([of.numbers(columns[axis], f"{field}.{axis}") for axis in "xy"], 1)
        codes = np.array([*(LIGHTS.index(s) for s in columns["state"]), 0])
        positions.append(xy[:1])
        states.append(codes[np.searchsorted(times, np.arange(steps)[part])])
    return {
        "light_position": np.concatenate(positions),
        "light_state": np.array(states, np.int64).reshape(-1, len(range(steps)[part])),
    }


def road_kind(said: str | int, element: Any) -> str:
    """One of ROADS, of the type of a road element: in Nocturne's words, in Waymo's names, or as Waymo's number."""
    number = said if isinstance(said, int) else element
    word = said.lower() if isinstance(said, str) else ""
    if word in ROADS:
        return word
    for start in ("road_line", "road_edge", "lane", "road_lane", "stop_sign", "crosswalk", "speed_bump"):
        if word.startswith(start):
            return start.replace("road_lane", "lane")
    if word and not word.isdigit():
        return "other"
    number = int(word) if word else number
    return next((kind for last, kind in ELEMENTS if isinstance(number, int) and 1 <= number <= last), "other")
