"""Road points by place: a grid over them, row by row, so that what is near an ego is found without a look at the rest
of the map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dreamdrive.envs.nocturne.arrays import Array, array, count_up, names, repeated, runs, whole

if TYPE_CHECKING:
    from dreamdrive.envs.nocturne.tables import Table

CELL = 8.0  # metres of a cell, or more where the map is larger than SIDE of them
SIDE = 128


def index_table(points: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of the grid over points (M, 2): point_place (M, 2) float32, the points cell by cell, those of a cell in
    their order, and point_order (M,) int32, which ones they are; point_starts (cells + 1,) int32: where among them a
    cell's begin; point_grid (1, 3) float64: the corner of the grid and the side of a cell, metres; point_shape (1, 2)
    int64: cells in x and y."""
    points = points.astype(np.float64)
    low = points.min(0) if len(points) else np.zeros(2)
    extent = points.max(0) - low if len(points) else np.zeros(2)
    side = max(CELL, float(extent.max()) / SIDE)
    place = ((points - low) // side).astype(np.int64)
    shape = place.max(0, initial=0) + 1
    cell = place[:, 1] * shape[0] + place[:, 0]
    order = np.argsort(cell, kind="stable")
    return {
        "point_place": points[order].astype(np.float32),
        "point_order": order.astype(np.int32),
        "point_starts": np.searchsorted(cell[order], np.arange(shape.prod() + 1)).astype(np.int32),
        "point_grid": np.array([[*low, side]]),
        "point_shape": shape[None],
    }


def points_within(map_: Table, copy: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Of boxes from corners low to high (E, 2) in copies (E,): the boxes' numbers (P,), ascending, and where the points
    in all cells that they touch are, (P,) int64 into the flattened point_place and point_order."""
    grid, shape = array(map_["point_grid"])[copy, 0], array(map_["point_shape"])[copy, 0]
    xp, corner, side = names(grid), grid[:, :2], grid[:, 2:]
    first = whole(xp.floor((low - corner) / side)).clip(0)
    last = xp.minimum(whole(xp.floor((high - corner) / side)), shape - 1)
    rows = last[:, 1] - first[:, 1] + 1
    most = max(int(rows.max()), 1) if len(rows) else 1
    row = count_up(most, copy)
    touched = (row < rows[:, None]) & (first[:, :1] <= last[:, :1])  # (E, rows)
    begin = (first[:, 1:] + row) * shape[:, :1]
    ends = xp.where(touched, xp.stack([begin + first[:, :1], begin + last[:, :1] + 1]), 0)
    starts, ends = whole(array(map_["point_starts"])[copy[:, None], ends])
    count = ends - starts  # of the points in neighbouring cells, one run a row
    place = runs((starts + copy[:, None] * map_["point_order"].shape[1]).reshape(-1), count.reshape(-1))
    return repeated(count.sum(1)), place
