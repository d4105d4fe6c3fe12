"""Imports of .npz files: rollouts of ctallec/world-models, and the Atari demonstrations of ncps.

Of the former DIR/**/*.npz are read, one rollout each, with members observations (N, H, W, 3), rewards (N,), actions (N
or more, A) and terminals (N,). There `observations[t]` comes after `actions[t]`, the frame of the reset is missing and
`actions` may be too long. So an imported episode has T = N - 1 steps:

    theirs    -   a0  o0  a1  o1  a2  o2  ...  a(N-1)  o(N-1)
    ours               o0  a0  o1  a1  o2  ...          oT

Of the latter DIR/train_*.npz and DIR/val_*.npz, as ncps' AtariCloningDataset does: sequences cut from games, each with
members obs uint8 (32, 84, 84, 4) and actions (32,), where `actions[t]` was chosen on seeing `obs[t]` and nobody knows
what it brought. So a sequence becomes an episode of T = 31 steps, whose action is the expert's, without rewards, and
truncated; the last action, whose frame is missing, is left out. Its files keep their split.
"""

import zipfile
from pathlib import Path

import numpy as np

from dreamdrive.data.episode import Episode, unknown_action
from dreamdrive.data.manifest import Manifest
from dreamdrive.data.shards import pieces, write_dataset
from dreamdrive.envs import make
from dreamdrive.envs.carracing import frame
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import raise_if_unreadable, require_file
from dreamdrive.utils.spaces import ActionSpace

MEMBERS = ("observations", "rewards", "actions", "terminals")
SHARD_EPISODES = 10
CARRACING = {"type": "box", "low": [-1.0, 0.0, 0.0], "high": [1.0, 1.0, 1.0]}
MAX_STEPS = 1000  # CarRacing's own limit: a rollout of this length was cut, not ended
DT = 1 / 50
NCPS = {"obs": (32, 84, 84, 4), "actions": (32,)}
NCPS_SHARD = 125  # sequences
LARGEST = 1 << 30  # bytes of the members of an .npz file, unpacked


def import_ncps(source: Path, out: Path, game: str) -> Manifest:
    """Make a dataset in `out` of the sequences in `source`, which were played in `game`; returns its manifest."""
    files = [*sorted(source.glob("train_*.npz")), *sorted(source.glob("val_*.npz"))]
    if not files:
        raise UserError(
            f"{source} holds no train_*.npz and no val_*.npz: give the folder of one game, e.g. data_atari_seq/breakout"
        )
    world = make(f"atari:{game}")
    known, space = world.spec.space.n, world.spec.plain_action_space
    world.close()
    manifest = Manifest(
        world.spec.name,
        world.spec.image_shape,
        space,
        world.spec.dt,
        world.spec.max_steps,
        0,
        "imported",
        0.0,
        0.0,
        len(files),
        ("imported",),
        options=world.spec.options,
        by_place=True,
    )
    return write_dataset(out, manifest, pieces(len(files), NCPS_SHARD), lambda i: read_sequence(files[i], i, known))


def read_sequence(file: Path, index: int, known: int) -> Episode:
    """One sequence as an episode, of a game with `known` actions."""
    values = read_archive(file, tuple(NCPS), "a sequence of ncps' AtariCloningDataset")
    obs, actions = values["obs"], values["actions"]
    if obs.shape != NCPS["obs"] or obs.dtype != np.uint8:
        raise UserError(f"{file} has obs {obs.dtype} {obs.shape}: uint8 {NCPS['obs']} is wanted; move it away")
    if actions.shape != NCPS["actions"] or not np.issubdtype(actions.dtype, np.integer):
        raise UserError(
            f"{file} has actions {actions.dtype} {actions.shape}: whole numbers {NCPS['actions']} are wanted; move it "
            "away"
        )
    if (actions < 0).any() or (actions >= known).any():
        raise UserError(
            f"{file} has actions from {actions.min()} to {actions.max()}, and the game knows 0 to {known - 1}: name "
            "another --game, or move it away"
        )
    action, steps = actions[:-1].astype(np.int64), len(actions) - 1
    nothing = np.zeros(steps, bool)
    return Episode(
        obs,
        action,
        action.copy(),
        np.zeros(steps, np.float32),
        nothing,
        np.arange(steps) == steps - 1,
        index,
        index,
        0,
        file.name.startswith("val_"),
    )


def read_archive(file: Path, members: tuple[str, ...], what: str) -> dict[str, np.ndarray]:
    """Some members of an .npz file, without running anything that is in it; UserError where it is not `what`."""
    try:
        require_file(file)
        with zipfile.ZipFile(file) as packed:
            sizes = [packed.getinfo(f"{name}.npy").file_size for name in members]
        if sum(sizes) > LARGEST:
            raise ValueError(f"it unpacks to {max(sizes) if max(sizes) > LARGEST else sum(sizes)} bytes")
        with np.load(file, allow_pickle=False) as archive:
            values = {name: archive[name] for name in members}
        # NumPy gives a member that is no array as bytes
        if not all(isinstance(value, np.ndarray) for value in values.values()):
            raise ValueError("a member is no array")
        for name, value in values.items():
            if value.dtype.kind not in "biuf" or value.ndim < 1:
                raise ValueError(f"{name} is {value.dtype} {value.shape}")
        return values
    except Exception as error:  # a damaged file can fail in any part of zipfile or NumPy
        raise_if_unreadable(file, error)
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{file} is not {what} that can be read ({reason}): it must hold {', '.join(members)} as plain arrays; "
            "move it away or restore it"
        ) from None


def import_npz(source: Path, out: Path, val_fraction: float) -> Manifest:
    """Make a dataset in `out` of all rollouts below `source`; returns its manifest."""
    files = sorted(source.rglob("*.npz"))
    if not files:
        raise UserError(
            f"{source} holds no .npz files: give the folder that holds that project's rollouts, e.g. datasets/carracing"
        )
    manifest = Manifest(
        "carracing", (64, 64, 3), CARRACING, DT, MAX_STEPS, 0, "imported", 0.0, val_fraction, len(files), ("imported",)
    )
    return write_dataset(out, manifest, pieces(len(files), SHARD_EPISODES), lambda i: read_rollout(files[i], i))


def read_rollout(file: Path, index: int) -> Episode:
    """One rollout as an episode, shifted and cut as the drawing above shows."""
    values = read_archive(file, MEMBERS, "a rollout")
    observations, rewards, actions, terminals = (values[name] for name in MEMBERS)
    n = len(observations)
    shape = observations.shape[1:]
    if n < 2 or shape not in ((96, 96, 3), (64, 64, 3)) or observations.dtype != np.uint8:
        raise UserError(
            f"{file} has observations {observations.dtype} {observations.shape}: at least 2 of uint8 96x96x3 or "
            "64x64x3 are wanted; move it away"
        )
    if (
        rewards.shape != (n,)
        or terminals.shape != (n,)
        or actions.ndim != 2
        or len(actions) < n
        or actions.shape[1] != 3
    ):
        raise UserError(
            f"{file} has {n} observations, rewards {rewards.shape}, actions {actions.shape}, terminals "
            f"{terminals.shape}: "
            f"({n},), ({n} or more, 3) and ({n},) are wanted; move it away"
        )
    with np.errstate(over="ignore"):
        rewards, actions = rewards.astype(np.float32), actions.astype(np.float32)
    if not (np.isfinite(rewards).all() and np.isfinite(actions).all() and np.isfinite(terminals).all()):
        raise UserError(f"{file} holds rewards, actions or terminals that are not finite: move it away")
    ended = terminals[1:].astype(bool)
    if ended[:-1].any():
        raise UserError(f"{file} goes on after a terminal step: it must hold one rollout; move it away")
    obs = observations if shape == (64, 64, 3) else np.stack([frame(o) for o in observations])
    action = np.ascontiguousarray(actions[1:n])
    cut = n >= MAX_STEPS
    return Episode(
        obs,
        action,
        np.stack([unknown_action(ActionSpace.from_dict(CARRACING))] * len(action)),
        rewards[1:],
        ended & (not cut),
        ended & cut,
        index,
        index,
        0,
    )
