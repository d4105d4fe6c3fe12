"""What a simulator looks up, made once a scene: logs, experts, a grid of road edges, and the map, as columns that
scenes of different sizes can share a batch with.

Positions are metres relative to the scene's origin, so that float32 is enough.
"""

from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from dreamdrive.envs.nocturne.arrays import atan2, length_of
from dreamdrive.envs.nocturne.point_index import index_table
from dreamdrive.envs.nocturne.scene import ABSENT, GRID, ROADS, STEPS, Scene

MOST_CELLS = 250_000  # 4 km by 4 km; of a larger map only what is within ASTRAY metres of the traffic is looked up
ASTRAY = 1000.0

_made: WeakKeyDictionary[Scene, dict[str, dict[str, np.ndarray]]] = WeakKeyDictionary()


class Table:
    """Columns of scenes, one scene a copy: tensors (B, rows, ...), with as many rows as the longest needs, the others'
    zero or, where it is a float, NaN."""

    def __init__(self, copies: int, device: torch.device) -> None:
        self.copies, self.device = copies, device
        self._columns: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self._columns[name]

    def put(self, copy: int, columns: dict[str, np.ndarray]) -> None:
        """Set the columns of one copy, (rows, ...) each."""
        for name, array in columns.items():
            values = torch.from_numpy(array)
            fill = torch.nan if values.is_floating_point() else 0
            column = self._columns.get(name)
            if column is None or column.shape[1] < len(values):
                room = torch.full(
                    (self.copies, len(values), *values.shape[1:]), fill, dtype=values.dtype, device=self.device
                )
                if column is not None:
                    room[:, : column.shape[1]] = column
                self._columns[name] = column = room
            column[copy, : len(values)] = values.to(self.device)
            column[copy, len(values) :] = fill


def tables(scene: Scene) -> dict[str, dict[str, np.ndarray]]:
    """The columns of a scene, by name, in three groups: "objects", "edges" and "map"."""
    if scene not in _made:
        _made[scene] = {"objects": object_table(scene), "edges": edge_table(scene), "map": map_table(scene)}
    return _made[scene]


def object_table(scene: Scene) -> dict[str, np.ndarray]:
    """Columns of N objects: log (N, 91, 4) float32 x, y, heading, speed; valid (N, 91); track (N, 91, 4), the log with
    its gaps bridged; expert (N, 90, 2); goal (N, 4) x, y, heading, speed; length, width, type; present (N,) all True.
    Past the end of a shorter log nobody is there."""
    log = np.concatenate([scene.position - scene.origin, scene.heading[..., None], scene.speed[..., None]], -1)
    track = np.concatenate([scene.track[..., :2] - scene.origin, scene.track[..., 2:]], -1)
    nowhere = np.concatenate([np.full(2, ABSENT) - scene.origin, np.zeros(2)])
    goal = np.concatenate([scene.goal - scene.origin, scene.goal_heading[:, None], scene.goal_speed[:, None]], -1)
    return {
        "log": lengthened(log.astype(np.float32), STEPS, nowhere),
        "valid": lengthened(scene.valid, STEPS, False),
        "track": lengthened(track.astype(np.float32), STEPS, track[:, -1:]),
        "expert": lengthened(scene.expert_action, STEPS - 1, np.nan),
        "goal": goal.astype(np.float32),
        "length": scene.length,
        "width": scene.width,
        "type": scene.type,
        "present": np.ones(len(scene.ids), bool),
    }


def lengthened(columns: np.ndarray, steps: int, fill: np.ndarray | float) -> np.ndarray:
    """Columns (N, T, ...) with `steps` steps, those after T filled."""
    more = np.empty((len(columns), steps - columns.shape[1], *columns.shape[2:]), columns.dtype)
    more[:] = fill
    return np.concatenate([columns, more], 1)


def edge_table(scene: Scene) -> dict[str, np.ndarray]:
    """The road edges' segments by place: every cell of a grid lists those that an object whose centre is in it could
    touch. Of a map that is too large for that, those that somebody may get to.

    segments (S, 4) float32: middle x, y and half of the way from end to end; lists (n,) int32: segments, cell by cell;
    starts (cells + 1,) int32: where in lists a cell's begin, row by row; corner (1, 2) float32, shape (1, 2) int64: the
    grid's corner, and its cells in x and y.
    """
    ends = road_edges(scene)
    reach = np.hypot(scene.length, scene.width).max() / 2 + 0.01
    middle, half, low, high = spans_of(ends, reach)
    if len(ends) and np.prod((high.max(0) - low.min(0)) / GRID) > MOST_CELLS:
        traffic = scene.position[scene.valid] - scene.origin
        corners = traffic.min(0) - ASTRAY, traffic.max(0) + ASTRAY
        near = ((low < corners[1]) & (high > corners[0])).all(1)
        middle, half, low, high = spans_of(ends[near], reach)
        low, high = np.maximum(low, corners[0]), np.minimum(high, corners[1])
        ends = ends[near]
    corner = low.min(0) if len(ends) else np.zeros(2)
    first, last = (((edge - corner) // GRID).astype(np.int64) for edge in (low, high))
    shape = last.max(0, initial=0) + 1
    spans = last - first + 1  # cells a segment is listed in, (S, 2)
    which = np.repeat(np.arange(len(ends)), spans.prod(1))
    within = np.arange(len(which)) - np.repeat(np.cumsum(spans.prod(1)) - spans.prod(1), spans.prod(1))
    cell = (first[which, 1] + within // spans[which, 0]) * shape[0] + first[which, 0] + within % spans[which, 0]
    order = np.argsort(cell, kind="stable")
    return {
        "segments": np.concatenate([middle, half], 1).astype(np.float32),
        "lists": which[order].astype(np.int32),
        "starts": np.searchsorted(cell[order], np.arange(shape.prod() + 1)).astype(np.int32),
        "corner": corner[None].astype(np.float32),
        "shape": shape[None],
    }


def spans_of(ends: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of segments (S, 4): their middles, half of the way from end to end, and the corners of the boxes `reach` around
    them, (S, 2) each."""
    middle, half = (ends[:, 2:] + ends[:, :2]) / 2, (ends[:, 2:] - ends[:, :2]) / 2
    return middle, half, middle - np.abs(half) - reach, middle + np.abs(half) + reach


def map_table(scene: Scene) -> dict[str, np.ndarray]:
    """Columns of what does not move: road_points, road_next (M, 2) float32, points and the way from each to the next
    one of its element (0 from the last); road_way (M, 2) float64: how long that is, and its direction; road_type (M,)
    int64 into ROADS; lights (L, 2), stop_signs (S, 2) float32;
    light_state (L, 91) int64 into LIGHTS; and a grid over the road points (point_index.index_table)."""
    relative = {
        name: (points - scene.origin).astype(np.float32)
        for name, points in (
            ("road_points", scene.road_points),
            ("lights", scene.light_position),
            ("stop_signs", scene.stop_signs),
        )
    }
    following = _next_points(scene)
    x, y = following.astype(np.float64).T.copy()
    return {
        **relative,
        "road_next": following,
        "road_way": np.stack([length_of(np.stack([x, y], -1)), atan2(y, x)], -1),
        "road_type": np.repeat(scene.road_type, np.diff(scene.road_first)),
        "light_state": lengthened(scene.light_state, STEPS, 0),
        **index_table(relative["road_points"]),
    }


def road_edges(scene: Scene) -> np.ndarray:
    """(S, 4) float64: x, y of both ends of every segment of the road edges, relative to the scene's origin."""
    points = scene.road_points - scene.origin
    joined = np.ones(max(len(points) - 1, 0), bool)
    joined[scene.road_first[1:-1] - 1] = False  # from one element's last point to the next one's first there is nothing
    joined &= np.repeat(scene.road_type, np.diff(scene.road_first))[:-1] == ROADS.index("road_edge")
    return np.concatenate([points[:-1][joined], points[1:][joined]], 1)


def _next_points(scene: Scene) -> np.ndarray:
    """(M, 2) float32: the way from each road point to the next one of its element; from the last one there is none,
    0."""
    # as Nocturne has them: far from the origin, that turns the half metre between two by up to 0.002 rad
    points = scene.road_points.astype(np.float32)
    way = np.zeros_like(points)
    way[:-1] = np.diff(points, axis=0)
    way[scene.road_first[1:] - 1] = 0.0
    return way
