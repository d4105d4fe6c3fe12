"""A dataset of ours as one of Minari's (data/minari_file.py), with nothing lost: pictures stay what they are, to the
bit, and beside each episode's seed its attributes have who drove it, its split and its return. Actions of experts, and
of a clone that was taught, are in infos. The whole manifest goes with it, so that data/minari_import.py makes the same
dataset of it again, to the byte.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dreamdrive import __version__
from dreamdrive.data.episode import TAUGHT_COLUMNS, Episode, known_actions, unknown_action
from dreamdrive.data.manifest import EpisodeEntry, Manifest
from dreamdrive.data.minari_file import FOLDER, MAIN, METADATA, NAME, VERSION
from dreamdrive.data.shard_layout import CHUNK, COLUMN_CHUNK
from dreamdrive.data.shards import Dataset
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import fsync_folder, write_atomically
from dreamdrive.utils.locks import being_written, workplace
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.spaces import ActionSpace

OURS = "dreamdrive"  # what the metadata calls that which Minari has no place for
BEGUN = f".{FOLDER}.tmp"  # what FOLDER is called until it is whole
MARGIN = 1.2  # of bytes: an episode is a group here


def export_minari(source: Path, out: Path) -> Dataset:
    """Write the dataset in `source` to `out`; returns it. UserError where `out` is not called as Minari's datasets are,
    or holds something."""
    if not NAME.fullmatch(out.name):
        raise UserError(
            f'Minari knows a dataset by the name of its folder, which must end in a version, and "{out.name}" does '
            f"not: give --out {out.with_name(out.name + '-v0')}"
        )
    dataset = Dataset.open(source)
    with workplace(out, being_written(out)):
        if (out / FOLDER).exists():
            raise UserError(f"{out} holds a dataset already: choose another --out")
        begun = out / BEGUN
        if begun.exists():  # by an export that was killed
            shutil.rmtree(begun)
        require_space(out, sum(shard.bytes for shard in dataset.shards))
        begun.mkdir()
        try:
            write_episodes(begun / MAIN, dataset)
            content = json.dumps(metadata(dataset.manifest, out.name)) + "\n"
            write_atomically(begun / METADATA, content.encode())
            os.rename(begun, out / FOLDER)
        except BaseException:
            shutil.rmtree(begun)
            raise
        fsync_folder(out)
    return dataset


def require_space(folder: Path, size: int) -> None:
    """UserError where the disk has no place for so many bytes: HDF5 does not survive a disk that fills up."""
    free = shutil.disk_usage(folder).free
    if free < size * MARGIN:
        raise UserError(
            f"{folder} needs {size * MARGIN / 1e6:.1f} MB and its disk has {free / 1e6:.1f} MB free: free some space, "
            "or choose another --out"
        )


def write_episodes(path: Path, dataset: Dataset) -> None:
    """All episodes of a dataset."""
    space = ActionSpace.from_dict(dataset.manifest.action_space)
    with full_disk_told(path):
        with h5py.File(path, "w", libver=("v110", "v110")) as file:
            for entry in Bar(dataset.episodes, desc="exporting", unit="episode"):
                group = file.create_group(f"episode_{entry.index}")
                write_episode(group, dataset.episode(entry.index), entry, space)
        with open(path, "rb") as written:
            os.fsync(written.fileno())


@contextlib.contextmanager
def full_disk_told(path: Path) -> Iterator[None]:
    """UserError where the disk does not take a file that is exported."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({error.strerror or error}): free some space or choose another --out, then "
            "run the same command again"
        ) from None


def write_episode(group: h5py.Group, episode: Episode, entry: EpisodeEntry, space: ActionSpace) -> None:
    """An episode as Minari has it."""
    group.attrs.update(
        {
            "id": episode.index,
            "seed": episode.seed,
            "total_steps": entry.steps,
            "policy": entry.policy,
            "split": entry.split,
            "return": entry.score,
        }
    )
    group.create_group("infos")  # also where there are none: Minari counts on it
    columns = {
        "observations": episode.obs,
        "actions": episode.action,
        "rewards": episode.reward,
        "terminations": episode.terminated.astype(bool),
        "truncations": episode.truncated.astype(bool),
        **{f"infos/{name}": values for name, values in infos(episode, space).items()},
    }
    for name, values in columns.items():
        chunk = min(len(values), CHUNK if name == "observations" else COLUMN_CHUNK)
        group.create_dataset(
            name,
            data=values,
            chunks=(chunk, *values.shape[1:]),
            maxshape=(None, *values.shape[1:]),
            compression="gzip",
            compression_opts=1,
            fletcher32=True,
        )


def infos(episode: Episode, space: ActionSpace) -> dict[str, np.ndarray]:
    """What was known beside each observation, the last one included, after which nobody acted: (T + 1, ...)."""
    found = {"expert_action": episode.expert_action} if known_actions(episode.expert_action).any() else {}
    found |= {name: getattr(episode, name) for name in TAUGHT_COLUMNS if getattr(episode, name) is not None}
    ends = {
        name: np.zeros((), np.uint8) if values.dtype == np.uint8 else unknown_action(space)
        for name, values in found.items()
    }
    return {name: np.concatenate([values, ends[name][None].astype(values.dtype)]) for name, values in found.items()}


def metadata(manifest: Manifest, name: str) -> dict[str, Any]:
    """What metadata.json says."""
    space = manifest.action_space
    return {
        "total_episodes": len(manifest.episodes),
        "total_steps": sum(e.steps for e in manifest.episodes),
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": json.dumps(observation_space(manifest.image_shape)),
        "action_space": json.dumps(
            {"type": "Discrete", "dtype": "int64", "start": 0, "n": space["n"]}
            if space["type"] == "discrete"
            else box("float32", [len(space["low"])], space["low"], space["high"])
        ),
        "dataset_id": name,
        "minari_version": VERSION,
        "algorithm_name": ", ".join(dict.fromkeys(e.policy for e in manifest.episodes)),
        "description": f"{len(manifest.episodes)} episodes of {manifest.env}, recorded by dreamdrive {__version__}",
        OURS: manifest.to_json(),
    }


def observation_space(shape: tuple[int, ...]) -> dict[str, Any]:
    """Of pictures (H, W, C), or of numbers (S,)."""
    if len(shape) == 3:
        return box("uint8", list(shape), np.zeros(shape, int).tolist(), np.full(shape, 255).tolist())
    return box("float32", list(shape), [-np.inf] * shape[0], [np.inf] * shape[0])


def box(dtype: str, shape: list[int], low: list, high: list) -> dict[str, Any]:
    return {"type": "Box", "dtype": dtype, "shape": shape, "low": low, "high": high}
