"""The steps of a dataset as pairs: an observation, the action that was chosen on seeing it, and the observation it led
to. For whoever learns from single steps, in what everybody reads:

    x.npz        an array a column, each with a row a step; np.load opens it without pickles
    x.parquet    the same columns; pictures and vectors are flat lists, their shape is in the schema's metadata
    x-v0/        a dataset of Minari's (data/minari_export.py), which keeps episodes, of which pairs are neighbours

One episode at a time is in memory, however many there are.
"""

import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamdrive.data.manifest import EpisodeEntry
from dreamdrive.data.minari_export import export_minari, full_disk_told, require_space
from dreamdrive.data.minari_file import NAME
from dreamdrive.data.shards import Dataset
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import Unnamed, make_folder
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.spaces import ActionSpace

COLUMNS = {  # of a step, beside observation, action and next_observation: their types
    "reward": np.float32,
    "terminated": np.bool_,
    "truncated": np.bool_,
    "episode": np.int64,
    "step": np.int64,
    "validation": np.bool_,
}
BATCH = 1024  # steps that are written at once


def export_pairs(source: Path, out: Path) -> int:
    """Write the steps of the dataset in `source` to `out`, whose name says in which format; returns how many. UserError
    where `out` is there already, or its name says no format."""
    write = WRITERS.get(out.suffix)
    if write is None and not NAME.fullmatch(out.name):
        raise UserError(
            f'"{out.name}" does not say what pairs are to be written as: give --out a name that ends in '
            f"{', '.join(WRITERS)}, or in -v0 for one of Minari's datasets"
        )
    if write is None:
        return sum(entry.steps for entry in export_minari(source, out).episodes)
    if write is write_parquet:
        require_pyarrow()
    if out.exists():
        raise UserError(f"{out} is there already: choose another --out")
    dataset = Dataset.open(source)
    make_folder(out.parent)
    require_space(out.parent, 2 * sum(shard.bytes for shard in dataset.shards))
    with full_disk_told(out):
        file = Unnamed(out)
        try:
            write(file.place, dataset)
            file.name()
        finally:
            file.discard()
    return sum(entry.steps for entry in dataset.episodes)


def column_types(dataset: Dataset) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """What each column holds, and the shape of one row of it."""
    manifest = dataset.manifest
    frame = np.dtype(np.uint8 if len(manifest.image_shape) == 3 else np.float32), tuple(manifest.image_shape)
    space = ActionSpace.from_dict(manifest.action_space)
    return {
        "observation": frame,
        "action": (np.dtype(space.dtype), tuple(space.shape)),
        "next_observation": frame,
        **{name: (np.dtype(kind), ()) for name, kind in COLUMNS.items()},
    }


def column(dataset: Dataset, entry: EpisodeEntry, name: str) -> np.ndarray:
    """(T, ...) of one episode."""
    if name in ("observation", "next_observation"):
        first = int(name == "next_observation")
        return dataset.frames(entry.index, first, entry.steps + first)
    if name == "step":
        return np.arange(entry.steps)
    told = {"episode": entry.index, "validation": entry.split == "val"}
    if name in told:
        return np.full(entry.steps, told[name])
    return dataset.steps(entry.index, (name,))[name]


def write_npz(path: Path, dataset: Dataset) -> None:
    rows = sum(entry.steps for entry in dataset.episodes)
    types = column_types(dataset)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        Bar(total=len(types) * len(dataset.episodes), desc="exporting", unit="episode") as bar,
    ):
        for name, (kind, shape) in types.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                head = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (rows, *shape)}
                np.lib.format.write_array_header_2_0(member, head)
                for entry in dataset.episodes:
                    member.write(np.ascontiguousarray(column(dataset, entry, name), kind).tobytes())
                    bar.update()


def write_parquet(path: Path, dataset: Dataset) -> None:
    import pyarrow
    from pyarrow import parquet

    def listed(kind: np.dtype, shape: Sequence[int]) -> Any:
        plain = pyarrow.from_numpy_dtype(kind)
        return pyarrow.list_(plain, int(np.prod(shape))) if shape else plain

    types = column_types(dataset)
    manifest = dataset.manifest
    told = {
        "env": manifest.env,
        "options": manifest.options,
        "action_space": manifest.action_space,
        "shapes": {name: shape for name, (_, shape) in types.items()},
    }
    schema = pyarrow.schema(
        [(name, listed(*kind)) for name, kind in types.items()], {"dreamdrive": json.dumps(told, default=str)}
    )

    def filled(name: str, values: np.ndarray) -> Any:
        flat = pyarrow.array(np.ascontiguousarray(values, types[name][0]).reshape(-1))
        shape = types[name][1]
        return pyarrow.FixedSizeListArray.from_arrays(flat, int(np.prod(shape))) if shape else flat

    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for entry in Bar(dataset.episodes, desc="exporting", unit="episode"):
            whole = {name: column(dataset, entry, name) for name in types}
            for at in range(0, entry.steps, BATCH):
                part = [filled(name, values[at : at + BATCH]) for name, values in whole.items()]
                writer.write_batch(pyarrow.record_batch(part, schema=schema))


def require_pyarrow() -> None:
    """UserError where it is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError(
            "Parquet needs the package pyarrow: `pip install -r requirements-extra.txt` brings it, or give --out a "
            "name that ends in .npz"
        ) from None


# by the end of a file's name
WRITERS: dict[str, Callable[[Path, Dataset], None]] = {".npz": write_npz, ".parquet": write_parquet}
