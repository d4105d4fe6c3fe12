"""How a shard is stored, and the checks that a file is one, made before any of its data is read.

A shard of E episodes, S = sum(T) steps and F = S + E frames, one episode after another:

    obs             (F, H, W, C) uint8, or (F, S) float32 of worlds that are observed as S numbers
    action          (S, A) float32, or (S,) int64
    expert_action   like action; NaN or -1 where no expert was asked
    reward          (S,) float32
    terminated      (S,) uint8          truncated   (S,) uint8
    length          (E,) int64, T       episode     (E,) int64, index in the dataset
    seed            (E,) int64, the simulator's         policy  (E,) int64, index into the manifest's `policies`

and, where a teacher taught (teacher/), two more:

    clone_action    like action: what the clone would have done
    demonstration   (S,) uint8: 1 where the teacher acted, 0 where the clone did and the teacher let it

Flipped bits do not pass: libver="latest" puts checksums on HDF5's own records, fletcher32 on the data.
"""

import h5py
import numpy as np

from dreamdrive.data.episode import EPISODE_COLUMNS, FLAGS, STEP_COLUMNS, TAUGHT_COLUMNS
from dreamdrive.data.manifest import SCHEMA, Manifest, ShardEntry, frame_type
from dreamdrive.utils.spaces import ActionSpace

CHUNK = 16  # frames
COLUMN_CHUNK = 4096  # steps, or episodes
FILTERS = [h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32]


def chunks_of(name: str, row: tuple) -> tuple:
    """Rows of a member that are compressed together, and the shape `row` of each."""
    return (CHUNK if name == "obs" else COLUMN_CHUNK, *row)


def column_type(name: str, values: np.ndarray) -> np.dtype:
    """On disk flags are uint8, rewards float32; actions stay what they are."""
    return np.dtype({**dict.fromkeys(FLAGS, np.uint8), "reward": np.float32}.get(name, values.dtype))


def check_members(file: h5py.File) -> None:
    """ValueError unless the file has exactly the schema's members, each a plain chunked dataset of a plain type; reads
    no data."""
    if file.userblock_size or set(file.attrs) != {"schema"}:
        raise ValueError('it must have one attribute, "schema"')
    attribute = file.attrs.get_id("schema")
    if attribute.dtype != np.int64 or attribute.shape != () or file.attrs["schema"] != SCHEMA:
        raise ValueError(
            f"its schema is not {SCHEMA}, the one this version reads: use the version it was written with, or record "
            "it again"
        )
    names = set(file)
    if (
        names - set(TAUGHT_COLUMNS) != {"obs", *STEP_COLUMNS, *EPISODE_COLUMNS}
        or len(names.intersection(TAUGHT_COLUMNS)) == 1
    ):
        raise ValueError(
            f"it must have exactly the members obs, {', '.join(STEP_COLUMNS + EPISODE_COLUMNS)}, not "
            f"{', '.join(sorted(names))[:200]}"
        )
    for name in sorted(names):
        if type(file.get(name, getlink=True)) is not h5py.HardLink:
            raise ValueError(f"{name} is a link to somewhere else, which is not allowed")
        if not isinstance(file[name], h5py.Dataset):
            raise ValueError(f"{name} is not a dataset")
        _check_storage(name, file[name])


def _check_storage(name: str, dataset: h5py.Dataset) -> None:
    """ValueError unless `dataset` is stored as we store it: in chunks of our size, in this file, with our filters, all
    of them there."""
    creation = dataset.id.get_create_plist()
    if creation.get_layout() != h5py.h5d.CHUNKED or creation.get_external_count():
        raise ValueError(f"{name} is virtual or stored outside the file, which is not allowed")
    if dataset.id.get_type().get_class() not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT) or dataset.ndim < 1:
        raise ValueError(f"{name} has a type that is not allowed")
    if [creation.get_filter(i)[0] for i in range(creation.get_nfilters())] != FILTERS:
        raise ValueError(f"{name} has filters other than gzip and fletcher32, which is not allowed")
    if len(dataset.attrs):
        raise ValueError(f"{name} has attributes, which is not allowed")
    if dataset.chunks != chunks_of(name, dataset.shape[1:]) or dataset.maxshape != (None, *dataset.shape[1:]):
        raise ValueError(f"{name} is stored in pieces of another size than {chunks_of(name, dataset.shape[1:])}")
    if dataset.size > 1 << 40 or dataset.id.get_num_chunks() != -(-len(dataset) // dataset.chunks[0]):
        raise ValueError(f"{name} has the shape {dataset.shape}, but not as many values")


def check_sizes(file: h5py.File, manifest: Manifest | None, entry: ShardEntry | None) -> None:
    """ValueError unless shapes and types agree with each other, and with the manifest where one is given."""
    frames, steps, episodes = (len(file[name]) for name in ("obs", "action", "length"))
    row = file["action"].shape[1:]
    image_shape, discrete = file["obs"].shape[1:], row == ()
    if manifest is not None and entry is not None:
        frames, steps, episodes, image_shape = (
            entry.frames,
            entry.steps,
            entry.last - entry.first,
            tuple(manifest.image_shape),
        )
        space = ActionSpace.from_dict(manifest.action_space)
        discrete, row = space.discrete, space.shape
    action = ((steps, *row), np.int64 if discrete else np.float32)
    obs = ((frames, *image_shape), frame_type(image_shape))
    wanted = {
        "obs": obs,
        "action": action,
        "expert_action": action,
        "reward": ((steps,), np.float32),
        "clone_action": action,
        **{name: ((steps,), np.uint8) for name in FLAGS},
        **{name: ((episodes,), np.int64) for name in EPISODE_COLUMNS},
    }
    for name in file:
        shape, dtype = wanted[name]
        if file[name].shape != shape or file[name].dtype != dtype:
            raise ValueError(f"{name} is {file[name].dtype} {file[name].shape} instead of {np.dtype(dtype)} {shape}")
    if frames != steps + episodes:
        raise ValueError(f"{frames} frames are not {steps} steps and one more for each of {episodes} episodes")
