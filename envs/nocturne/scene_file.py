"""How the JSON files of Nocturne, GPUDrive, ScenarioMax and PufferDrive become scenes.

What they may lack is tl_states, goalPosition, metadata, name and the fields that GPUDrive added; what they have beside
Nocturne's fields is read where it means something here: mark_as_expert, is_sdc, sdc_track_index and tracks_to_predict
(in metadata or beside it), the time between steps, points as lists, flags as 0 and 1, types as Waymo's numbers and
names.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from dreamdrive.envs.catalogue import SCENE_FORMATS, SCENE_RATES, SCENE_SPEEDS
from dreamdrive.envs.nocturne.scene import ABSENT, DT, LOADED, OBJECTS, STEPS, Scene, wrap
from dreamdrive.envs.nocturne.scene_checks import (
    LARGEST_BOX,
    Motion,
    backwards,
    far_object,
    middle_of,
    placed,
    unit_of_headings,
    velocities,
)
from dreamdrive.envs.nocturne.scene_fields import Fields
from dreamdrive.envs.nocturne.scene_map import light_columns, road_columns
from dreamdrive.envs.nocturne.scene_time import paced, stated_rate
from dreamdrive.utils.errors import UserError

# What is beyond these drives to numbers that are not finite. Waymo's scenes are up to 50 km from their origin.
FURTHEST, FASTEST, TURNED = 1e6, 1e5, 1e6  # metres, m/s, degrees or radians
LEAST_PIECE = 11  # steps, as many as Waymo's test scenes have
SIZES = {"vehicle": (4.6, 1.9), "pedestrian": (0.8, 0.8), "cyclist": (1.8, 0.7)}  # metres, of those that have no size
# What GPUDrive, and those that write for it, added: of the file, of its objects, of its roads
MARKS = (
    ("scenario_id", "metadata", "sdc_track_index"),
    ("id", "mark_as_expert", "is_sdc", "height"),
    ("map_element_id",),
)
NUMBERED = {1: "vehicle", 2: "pedestrian", 3: "cyclist", 4: "other"}  # Waymo's types of objects


class Reader(Fields):
    """Reads one file, as `load_scene` is told."""

    def __init__(
        self,
        path: Path,
        kind: str,
        start: int,
        allow_non_vehicles: bool,
        spawn_invalid: bool,
        speeds: str,
        rate: int | None,
    ) -> None:
        super().__init__(path)
        for what, value, wanted in (
            ("kind", kind, ("auto", *SCENE_FORMATS)),
            ("reading of speeds", speeds, SCENE_SPEEDS),
            ("rate of steps", rate, (None, *SCENE_RATES)),
        ):
            if value not in wanted:
                raise UserError(f'there is no {what} "{value}" of scenes: choose {", ".join(map(str, wanted))}')
        self.kind, self.start, self.speeds, self.rate = kind, start, speeds, rate
        self.late = spawn_invalid
        self.loaded = LOADED if allow_non_vehicles else ("vehicle",)
        self.notes: list[str] = []

    def scene(self, content: dict, piece: int) -> Scene:
        self.notes = []
        objects, roads = self.field(content, "objects", "", list), self.field(content, "roads", "", list)
        if not objects:
            raise self.refuse("objects", "is empty, and a scene has at least one")
        rows = [self.object(item, f"objects[{i}]", i) for i, item in enumerate(objects)]
        taking = [row for row in rows if row["kind"] in self.loaded and row["valid"].any()]
        if not taking:
            raise self.none_there()
        meta = self.metadata(content)
        motion, every = self.motion(content, meta, roads, taking)
        steps = len(range(0, motion.valid.shape[1], every))
        pieces = max(1, -(-(steps - LEAST_PIECE + 1) // STEPS))
        if not 0 <= piece < pieces:
            raise self.refuse("", f"has {pieces} pieces of {STEPS} steps, and no piece {piece}")
        part = slice(piece * STEPS * every, (piece + 1) * STEPS * every, every)
        columns = self.columns(rows, taking, motion, part)
        map_, left_out = road_columns(self, roads, middle_of(motion))
        return Scene(
            name=self.path.name + (f"#{piece}" if piece else ""),
            **columns,
            **map_,
            **light_columns(self, content, motion.valid.shape[1], part),
            **named(objects, meta, columns["json_index"]),
            pieces=pieces,
            notes=(*self.notes, *left_out),
        )

    def none_there(self) -> UserError:
        what = "object" if len(self.loaded) > 1 else "vehicle"
        return self.refuse("objects", f"has no {what} that is valid at step {self.start}{' or later' * self.late}")

    def metadata(self, content: dict) -> dict:
        """What the file says beside the scene; PufferDrive's may be a text, and lie beside the objects."""
        meta = content.get("metadata")
        if isinstance(meta, str):
            try:
                meta = json.loads(meta)
            except (ValueError, RecursionError):
                meta = None
        return {**content, **(meta if isinstance(meta, dict) else {})}

    def object(self, item: Any, field: str, index: int) -> dict:
        """One object's columns at the file's F steps: kind in words, position and velocity (F, 2), heading (F,) in the
        file's unit, valid (F,); its place in the file, sizes, its goal (2,), or None."""
        valid = self.flags(self.steps(item, "valid", field), f"{field}.valid")
        position, velocity = (
            self.points(self.steps(item, key, field, len(valid)), f"{field}.{key}", valid)
            for key in ("position", "velocity")
        )
        heading = self.numbers(self.steps(item, "heading", field, len(valid)), f"{field}.heading", valid)
        for column, value in ((position, ABSENT), (velocity, 0.0), (heading, 0.0)):
            column[~valid] = value
        for key, column, most in (("position", position, FURTHEST), ("velocity", velocity, FASTEST)):
            self.bounded(column, f"{field}.{key}", most)
        self.bounded(heading, f"{field}.heading", TURNED)
        kind = self.field(item, "type", field, (str, int))
        kind = NUMBERED.get(kind, "other") if isinstance(kind, int) else kind.lower()
        taking = kind in self.loaded and bool(valid.any())
        return {
            "kind": kind,
            "index": index,
            "field": field,
            "position": position,
            "velocity": velocity,
            "heading": heading,
            "valid": valid,
            "size": self.size(item, field, kind, valid) if taking else None,
            "goal": self.goal(item, field) if taking else None,
            "marked": item.get("mark_as_expert") in (True, 1),
        }

    def steps(self, of: dict, key: str, field: str, wanted: int | None = None) -> list:
        values = self.field(of, key, field, list)
        if wanted is None and len(values) < 2:
            raise self.refuse(f"{field}.{key}", f"has {len(values)} steps where at least 2 were wanted")
        if wanted is not None and len(values) != wanted:
            raise self.refuse(f"{field}.{key}", f"has {len(values)} steps where {wanted} were wanted")
        return values

    def size(self, item: dict, field: str, kind: str, valid: np.ndarray) -> tuple[float, float]:
        """Length and width; Nocturne's files give none to those not seen at the first step, which get usual ones."""
        found = []
        for key, usual in zip(("length", "width"), SIZES[kind], strict=True):
            value = self.field(item, key, field, (float, int, list))
            if isinstance(value, list):  # one a step: Nocturne's is that of the last valid one
                value = self.steps(item, key, field, len(valid))[int(np.flatnonzero(valid)[-1])]
            size = float(self.numbers([value], f"{field}.{key}")[0])
            if size < 0 or (size == 0 and valid[0]):
                raise self.refuse(f"{field}.{key}", f"is {size:g} where something above 0 was wanted")
            if size > LARGEST_BOX:
                raise self.refuse(f"{field}.{key}", f"is {size:g} where at most {LARGEST_BOX:g} metres were wanted")
            found.append(size or usual)
        return found[0], found[1]

    def goal(self, item: dict, field: str) -> np.ndarray | None:
        """(2,), or None where the file has none."""
        if item.get("goalPosition") is None:
            return None
        goal = self.points([self.field(item, "goalPosition", field, dict)], f"{field}.goalPosition")
        self.bounded(goal, f"{field}.goalPosition", FURTHEST)
        return goal[0] if placed(goal)[0] else None

    def motion(self, content: dict, meta: dict, roads: list, taking: list[dict]) -> tuple[Motion, int]:
        """What objects that take part do at the file's steps, headings in radians and velocities as `speeds` has them;
        and every how many of these steps is one of a scene."""
        longest = len(taking[0]["valid"])
        for row in taking:
            if len(row["valid"]) != longest:
                raise self.refuse(f"{row['field']}.valid", f"has {len(row['valid'])} steps where others have {longest}")
        as_read = Motion(
            np.array([row["kind"] for row in taking]),
            *(np.stack([row[key] for row in taking]) for key in ("position", "heading", "velocity", "valid")),
        )
        middle = middle_of(as_read)
        far = far_object(as_read, middle)
        if far:
            raise self.refuse(
                f"{taking[far[0]]['field']}.position", f"is {far[2] / 1000:,.1f} km from the others at step {far[1]}"
            )
        unit = self.unit(content, roads, as_read)
        # Nocturne computes in float32, and whether a slow car's steering is defined depends on the last bit
        heading = as_read.heading.astype(np.float32)
        heading = wrap(np.radians(heading) if unit == "nocturne" else heading)
        rate = self.rate or self.told("", stated_rate(meta, longest))
        found, complaint = paced(as_read, rate)
        if self.speeds == "checked":
            rate = found
            self.told("objects", complaint)
        elif complaint:
            self.notes.append(f"objects {complaint.partition(':')[0]}")
        rate = rate or SCENE_RATES[0]
        every = rate // SCENE_RATES[0]
        if every > 1:
            self.notes.append(f"its steps are {1 / rate:g} s apart, and every other one is read")
        velocity = velocities(as_read, DT / every) if self.speeds == "positions" else as_read.velocity
        return Motion(as_read.kind, as_read.position, heading, velocity.astype(np.float32), as_read.valid), every

    def unit(self, content: dict, roads: list, motion: Motion) -> str:
        """Which of the two kinds of file it is."""
        marked = any(
            key in thing
            for keys, things in zip(MARKS, ([content], content["objects"], roads), strict=True)
            for thing in things[:1]
            if isinstance(thing, dict)
            for key in keys
        )
        unit, wrong = unit_of_headings(self.kind, marked, motion)
        if wrong:
            taken = "degrees" if unit == "nocturne" else "radians"
            drive = (
                "vehicles that do not drive where their headings, taken as"
                if "point" in wrong
                else "vehicles, headings"
            )
            raise self.refuse(
                "objects",
                f"has {drive} {taken}, {wrong}: say which kind of file it is, --scene-kind "
                f"{' or '.join(SCENE_FORMATS)}",
            )
        return unit

    def told(self, field: str, found: int | str | None) -> int | None:
        """What was found; UserError for a complaint."""
        if isinstance(found, str):
            raise self.refuse(field, found)
        return found

    def columns(self, rows: list[dict], taking: list[dict], motion: Motion, part: slice) -> dict:
        """The columns of Scene that are of objects, at the steps `part` of the file."""
        every = part.step
        back = backwards(motion, motion.heading, DT / every)
        # summed as Nocturne does
        speed = np.sqrt((motion.velocity * motion.velocity).sum(-1)) * np.where(back, -1, 1).astype(np.float32)
        place = {row["index"]: n for n, row in enumerate(taking)}
        start = self.start * every + part.start
        if not 0 <= self.start or start >= min(motion.valid.shape[1], part.stop):
            raise UserError(f"{self.path} has no step {self.start}: choose one of 0 to {(part.stop - 1) // every}")
        there_first = [row for row in rows if row["valid"][min(start, len(row["valid"]) - 1)]]
        numbered = [(number, row) for number, row in enumerate(there_first) if row["index"] in place]
        if self.late:
            later = [row for row in taking if not row["valid"][start] and row["valid"][part].any()]
            numbered += [(len(there_first) + k, row) for k, row in enumerate(later)]
        if not numbered:
            raise self.none_there()
        at = [place[row["index"]] for _, row in numbered]
        valid = motion.valid[at, part]
        position = motion.position[at, part]
        last = valid.shape[1] - 1 - valid[:, ::-1].argmax(1)
        after = np.arange(motion.valid.shape[1]) >= part.stop
        goal = position[np.arange(len(at)), last]
        for n, (_, row) in enumerate(numbered):
            if row["goal"] is not None and every == 1 and not (row["valid"] & after).any():
                goal[n] = row["goal"]
        return {
            "ids": np.array([number for number, _ in numbered], np.int64),
            "json_index": np.array([row["index"] for _, row in numbered], np.int64),
            "type": np.array([OBJECTS.index(row["kind"]) for _, row in numbered], np.int64),
            **{
                key: np.array([row["size"][k] for _, row in numbered], np.float32)
                for k, key in enumerate(("length", "width"))
            },
            "position": position,
            "heading": motion.heading[at, part],
            "speed": speed[at, part],
            "valid": valid,
            "goal": goal,
            "marked": tuple(n for n, (_, row) in enumerate(numbered) if row["marked"]),
        }


def named(objects: list, meta: dict, json_index: np.ndarray) -> dict:
    """The self-driving car and Waymo's tracks to predict, as places in the arrays."""
    sdc = [i for i, item in enumerate(objects) if item.get("is_sdc") in (True, 1)]
    sdc += [meta["sdc_track_index"]] if isinstance(meta.get("sdc_track_index"), int) else []
    listed = meta.get("tracks_to_predict")
    listed = listed if isinstance(listed, list) else []
    tracks = [track.get("track_index") if isinstance(track, dict) else track for track in listed]
    place = {int(index): n for n, index in enumerate(json_index)}
    return {
        name: tuple(sorted({place[i] for i in wanted if isinstance(i, int) and i in place}))
        for name, wanted in (("sdc", sdc[:1]), ("tracks", tracks))
    }
