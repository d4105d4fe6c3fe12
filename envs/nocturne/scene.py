"""Traffic scenes: nine seconds of logged traffic on a map, from the JSON files of Nocturne and of GPUDrive.

Positions are metres in world coordinates (x right, y up), headings radians counter-clockwise from +x in [-pi, pi],
speeds m/s; a scene has T steps, at most 91, 0.1 s apart. How files become scenes: scene_file.py. Vinitsky et al. 2022
(Nocturne); Kazemkhani et al. 2025 (GPUDrive); Ettinger et al. 2021 (the Waymo Open Motion Dataset, where the public
files come from).
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dreamdrive.envs.catalogue import SCENE_STEPS
from dreamdrive.utils.errors import UserError

STEPS = SCENE_STEPS  # at most
DT = 0.1  # seconds between them
GRID = 8.0  # metres of the squares that road edges are looked up in
ABSENT = -10_000.0  # position of an object at a step at which it is not valid, whatever its file has there
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
MOVED_SPEED, MOVED_DISTANCE = 0.05, 0.2  # m/s, m: Nocturne's thresholds


@dataclass(frozen=True, eq=False)
class Scene:
    """A log and its map: N objects, R road elements with M points in all, L traffic lights, S stop signs.

    Fields:
        name: of the file it came from; of a later piece of a long log with "#1", "#2", ... after it
        ids (N,) int64: Nocturne's numbers of the objects (gaps are objects that do not take part), and after them those
        that appear later than the first step; json_index (N,): their places in the file; type (N,) int64: into OBJECTS
        length, width (N,) float32
        position (N, T, 2) float64, heading, speed (N, T) float32 (negative where a vehicle drives backwards), valid
        (N, T) bool: the log; ABSENT, 0 and 0 where it is not valid; goal (N, 2) float64
        road_points (M, 2) float64, road_type (R,) int64 into ROADS; element r has points road_first[r] to road_first[r
        + 1], road_first (R + 1,) stop_signs (S, 2) float64
        light_position (L, 2) float64, light_state (L, T) int64 into LIGHTS
        marked, sdc, tracks: places in the arrays of those marked as experts by the file, of the self-driving car, of
        Waymo's tracks to predict
        pieces: how many pieces of 91 steps, the last one shorter, the file's log has
        notes: what of the file was left out or taken otherwise than it says
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
    marked: tuple[int, ...] = ()
    sdc: tuple[int, ...] = ()
    tracks: tuple[int, ...] = ()
    pieces: int = 1
    notes: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """T."""
        return self.valid.shape[1]

    @cached_property
    def origin(self) -> np.ndarray:
        """(2,) whole metres, in the middle of the traffic that is there at the first step, if any: relative to it
        float32 resolves a hundredth of a millimetre."""
        first = self.valid & self.valid[:, :1]
        return np.round(self.position[first if first.any() else self.valid].mean(0))

    @cached_property
    def last_valid(self) -> np.ndarray:
        """(N,) each object's last valid step, where its goal is."""
        return self.steps - 1 - self.valid[:, ::-1].argmax(1)

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
        return (self.valid & ((np.abs(self.speed) > MOVED_SPEED) | (distance > MOVED_DISTANCE))).any(1)

    @cached_property
    def expert_action(self) -> np.ndarray:
        """(N, T - 1, 2) float32, m/s^2 and rad: the acceleration and the steering that lead from the log's step t to
        t + 1; unbounded.

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
    def track(self) -> np.ndarray:
        """(N, T, 4) float64 x, y, heading, speed: the log with its gaps bridged, and held before its first and after
        its last valid step."""
        track = np.concatenate([self.position, self.heading[..., None], self.speed[..., None]], -1, dtype=np.float64)
        steps = np.arange(self.steps)
        for n in np.flatnonzero(~self.valid.all(1)):
            at = np.flatnonzero(self.valid[n])
            known = track[n, at]
            known[:, 2] = np.unwrap(known[:, 2])
            bridged = np.stack([np.interp(steps, at, column) for column in known.T], -1)
            bridged[:, 2] = wrap(bridged[:, 2])
            track[n, ~self.valid[n]] = bridged[~self.valid[n]]
        return track

    @cached_property
    def egos(self) -> np.ndarray:
        """ids of the vehicles that can be driven after the usual warm-up (see egos.py)."""
        from dreamdrive.envs.nocturne.egos import movers  # reads scenes, too

        return self.ids[movers(self)]

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
    spawn_invalid: bool = True,
    content: dict | None = None,
    piece: int = 0,
    speeds: str = "checked",
    rate: int | None = None,
) -> Scene:
    """Read a scene, or take one that was read before (`content`; then `path` is only its name). UserError, with the
    file's name and the field's, for whatever is not one.

    `kind` is "nocturne" (headings in degrees), "gpudrive" (in radians), or "auto": by the way vehicles go, or where
    they stand, by the fields that only GPUDrive's files have; a file that contradicts its kind is refused. Objects that
    are not valid at step `start` but later are numbered after the others, or, unless `spawn_invalid`, left out, as
    Nocturne does; those left out otherwise use up a number, as in Nocturne. `piece`: which 91 steps of a longer log.
    `speeds`: "checked" refuses velocities that are not those of the positions, "file" takes them as they are,
    "positions" takes those of the positions. `rate`: steps a second, 10 or 20 (every other step is read then); None for
    what the file says or the way vehicles go tells.
    """
    from dreamdrive.envs.nocturne.scene_file import Reader  # knows what is above

    reader = Reader(Path(path), kind, start, allow_non_vehicles, spawn_invalid, speeds, rate)
    return reader.scene(reader.parse() if content is None else content, piece)
