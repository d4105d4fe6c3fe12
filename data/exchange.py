"""Import rollouts and checkpoints of ctallec/world-models, the PyTorch pipeline most people come from, and the Atari
demonstrations of ncps; export a run, small enough to hand on.

    dreamdrive import npz DIR --out datasets/x
    dreamdrive import ncps DIR --out datasets/x
    dreamdrive import checkpoint DIR --logdir exp_dir
    dreamdrive export run --logdir exp_dir --out runs/mine

or `python -m data.exchange import npz ...`.

import npz reads DIR/**/*.npz, one rollout each, with members observations (N, H, W, 3), rewards (N,), actions (N or
more, A) and terminals (N,). There `observations[t]` comes after `actions[t]`, the frame of the reset is missing and
`actions` may be too long. So an imported episode has T = N - 1 steps:

    theirs    -   a0  o0  a1  o1  a2  o2  ...  a(N-1)  o(N-1)
    ours               o0  a0  o1  a1  o2  ...          oT

import ncps reads DIR/train_*.npz and DIR/val_*.npz, as ncps' AtariCloningDataset does: sequences cut from games, each
with members obs uint8 (32, 84, 84, 4) and actions (32,), where `actions[t]` was chosen on seeing `obs[t]` and nobody
knows what it brought. So a sequence becomes an episode of T = 31 steps, whose action is the expert's, without rewards,
and truncated; the last action, whose frame is missing, is left out. Its files keep their split.

import checkpoint reads DIR/vae/best.tar, DIR/mdrnn/best.tar and DIR/ctrl/best.tar. That project showed V the whole
96x96 observation, instrument panel included, so the imported run is one of the world gym:CarRacing-v3, whose frames are
made in this way.

export run writes every best.tar of a run with its weights in half precision: what drives, and dreams, without what
training resumes from; of its controllers all, or those of --controller.
"""

import argparse
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
import torch
from torch import Tensor

from dreamdrive.data.episode import Episode, episode_entry, unknown_action
from dreamdrive.data.manifest import MANIFEST, Manifest, ShardEntry, write_manifest
from dreamdrive.data.shards import write_shard
from dreamdrive.envs import make
from dreamdrive.envs.carracing import frame
from dreamdrive.models.catalogue import WITHOUT_LATENTS
from dreamdrive.models.controller import Controller, ControllerConfig
from dreamdrive.models.mdrnn import MDRNN, MDRNNConfig
from dreamdrive.models.vae import VAE, VAEConfig
from dreamdrive.utils import checkpoint, stages
from dreamdrive.utils.argument_types import controller, share
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder, raise_if_unreadable
from dreamdrive.utils.help_text import HelpFormatter
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import RunFolder, parser
from dreamdrive.utils.spaces import ActionSpace

CARRACING = {"type": "box", "low": [-1.0, 0.0, 0.0], "high": [1.0, 1.0, 1.0]}
MEMBERS = ("observations", "rewards", "actions", "terminals")
SHARD_EPISODES = 10
MAX_STEPS = 1000  # CarRacing's own limit: a rollout of this length was cut, not ended
DT = 1 / 50
NCPS = {"obs": (32, 84, 84, 4), "actions": (32,)}
NCPS_SHARD = 125  # sequences
LARGEST = 1 << 30  # bytes of a member of an .npz file, unpacked


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
    if make_folder(out).joinpath(MANIFEST).exists():
        raise UserError(f"{out} holds a dataset already: choose another --out")
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
    return write_episodes(manifest, out, len(files), NCPS_SHARD, lambda i: read_sequence(files[i], i, known))


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


def write_episodes(manifest: Manifest, out: Path, count: int, at_once: int, read: Callable[[int], Episode]) -> Manifest:
    """Write the dataset of `manifest`, of the `count` episodes that `read` gives by number, `at_once` to a shard;
    returns the whole manifest."""
    for first in Bar(range(0, count, at_once), desc="importing", unit="shard"):
        episodes = [read(i) for i in range(first, min(first + at_once, count))]
        entry = ShardEntry(**write_shard(out / f"shard_{first // at_once:05d}.h5", episodes))
        manifest = replace(
            manifest,
            shards=(*manifest.shards, entry),
            episodes=(*manifest.episodes, *(episode_entry(e, manifest) for e in episodes)),
        )
    write_manifest(out, manifest)
    return manifest


def read_archive(file: Path, members: tuple[str, ...], what: str) -> dict[str, np.ndarray]:
    """Some members of an .npz file, without running anything that is in it; UserError where it is not `what`."""
    try:
        with zipfile.ZipFile(file) as packed:
            sizes = [packed.getinfo(f"{name}.npy").file_size for name in members]
        if max(sizes) > LARGEST:
            raise ValueError(f"it unpacks to {max(sizes)} bytes")
        with np.load(file, allow_pickle=False) as archive:
            values = {name: archive[name] for name in members}
        # NumPy gives a member that is no array as bytes
        if not all(isinstance(value, np.ndarray) for value in values.values()):
            raise ValueError("a member is no array")
        return values
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        TypeError,
        AttributeError,
        MemoryError,
        NotImplementedError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
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
    if make_folder(out).joinpath(MANIFEST).exists():
        raise UserError(f"{out} holds a dataset already: choose another --out")
    manifest = Manifest(
        "carracing", (64, 64, 3), CARRACING, DT, MAX_STEPS, 0, "imported", 0.0, val_fraction, len(files), ("imported",)
    )
    return write_episodes(manifest, out, len(files), SHARD_EPISODES, lambda i: read_rollout(files[i], i))


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
    if not (np.isfinite(rewards).all() and np.isfinite(actions).all()):
        raise UserError(f"{file} holds rewards or actions that are not finite: move it away")
    ended = terminals[1:].astype(bool)
    if ended[:-1].any():
        raise UserError(f"{file} goes on after a terminal step: it must hold one rollout; move it away")
    obs = observations if shape == (64, 64, 3) else np.stack([frame(o) for o in observations])
    action = np.ascontiguousarray(actions[1:n], np.float32)
    cut = n >= MAX_STEPS
    return Episode(
        obs,
        action,
        np.stack([unknown_action(ActionSpace.from_dict(CARRACING))] * len(action)),
        rewards[1:].astype(np.float32),
        ended & (not cut),
        ended & cut,
        index,
        index,
        0,
    )


def import_checkpoint(source: Path, logdir: Path) -> list[str]:
    """Write what `source` holds of V, M and C as checkpoints of ours; returns the stages that were found."""
    found = {
        stage: source / stage / "best.tar"
        for stage in ("vae", "mdrnn", "ctrl")
        if (source / stage / "best.tar").exists()
    }
    if "vae" not in found:
        raise UserError(
            f"{source / 'vae' / 'best.tar'} is missing: give the folder that project was run with as --logdir"
        )
    if "ctrl" in found and "mdrnn" not in found:
        raise UserError(
            f"{source / 'mdrnn' / 'best.tar'} is missing, and the controller in {source / 'ctrl'} needs it: give the "
            "whole folder"
        )
    taken = [stage for stage in found if checkpoint.path(logdir, stage).exists()]
    if taken:
        raise UserError(f"{checkpoint.path(logdir, taken[0])} exists already: choose another --logdir")
    models: dict[str, Any] = {}
    for stage, file in found.items():
        models[stage] = CONVERTERS[stage](_state_dict(file), file, models)
    parents: dict[str, str] = {}
    extra: dict[str, dict] = {
        "vae": {
            "world": {
                "env": "gym:CarRacing-v3",
                "image_shape": [64, 64, 3],
                "action_space": CARRACING,
                "dt": DT,
                "max_steps": MAX_STEPS,
            },
            "datasets": [],
            "best": float("nan"),
            "epoch": 0,
        },
        "mdrnn": {"datasets": [], "starts": None, "best": float("nan"), "epoch": 0},
        "ctrl": {"settings": {}, "best": float("nan"), "generation": 0},
    }
    for stage, model in models.items():
        with checkpoint.stage_folder(logdir, stage) as folder:
            checkpoint.save(
                folder / "best.tar", stage, model.config_dict(), model.state_dict(), parents, **extra[stage]
            )
        parents = {**parents, stage: checkpoint.load_parent(logdir, stage)["digest"]}
    return list(found)


def export(logdir: Path, out: Path, chosen: Sequence[str] = ()) -> list[str]:
    """Write the run in `logdir` to `out` in half precision; returns the stages that were found. It is V, M and the
    controllers that were trained on them, or one that needs neither; of these all, or those that are `chosen`."""
    for one in chosen:
        checkpoint.require(logdir, one)
    found = [stage for stage in ("vae", "mdrnn") if checkpoint.path(logdir, stage).exists()]
    found += [stage for stage in stages.controllers(logdir) if stage in chosen or not chosen]
    if "vae" not in found and not (
        found and checkpoint.load_parent(logdir, found[0])["config"].get("features") in WITHOUT_LATENTS
    ):
        raise UserError(
            f"{checkpoint.path(logdir, 'vae')} is missing: give the --logdir of a run that has been trained"
        )
    taken = [stage for stage in stages.folders(out) if checkpoint.path(out, stage).exists()]
    if taken:
        raise UserError(f"{checkpoint.path(out, taken[0])} exists already: choose another --out")
    theirs: dict[str, dict] = {}
    ours: dict[str, str] = {}
    halves: dict[str, str] = {}  # their digests, by those of what they are halves of
    for stage in found:  # all of them are read before the first is written
        theirs[stage] = checkpoint.load_parent(logdir, stage)
        checkpoint.check_parents(
            theirs[stage],
            {name: theirs[name]["digest"] for name in theirs[stage]["parents"]},
            checkpoint.path(logdir, stage),
            stage,
        )
    for stage, saved in theirs.items():
        parents = {name: ours[name] for name in saved["parents"]}
        more = {
            name: _halved(value)
            for name, value in saved.items()
            if name not in ("stage", "schema", "config", "model", "parents", "digest")
        }
        if "init" in more:  # the clone that it began with
            more["init"] = halves.get(more["init"], more["init"])
        with checkpoint.stage_folder(out, stage) as folder:
            checkpoint.save(folder / "best.tar", stage, saved["config"], _halved(saved["model"]), parents, **more)
        ours[stage] = halves[saved["digest"]] = checkpoint.load_parent(out, stage)["digest"]
    return found


def _halved(value):
    """`value` with every float tensor in it in half precision."""
    if isinstance(value, dict):
        return {name: _halved(part) for name, part in value.items()}
    return value.half() if isinstance(value, Tensor) and value.is_floating_point() else value


def _state_dict(file: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint of that project; its best score, a NumPy scalar, is the only thing admitted beside
    tensors and plain values."""
    # NumPy moved its core; old files name the old place of the function that makes a scalar.
    scalar = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        type(np.dtype(np.float64)),
        type(np.dtype(np.float32)),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(file, map_location="cpu", weights_only=True)
        state = content["state_dict"]
        assert all(isinstance(value, Tensor) for value in state.values())
    except Exception as error:  # a damaged or hostile file can fail anywhere in torch
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{file} is not a checkpoint of ctallec/world-models that can be loaded safely ({reason}): get it again "
            "from where it was trained"
        ) from None
    return {name: value.float() for name, value in state.items()}


def _vae(state: dict[str, Tensor], file: Path, parents: dict[str, Any]) -> VAE:
    with _mismatch(file):
        model = VAE(VAEConfig(len(state["encoder.fc_mu.bias"]), state["encoder.conv1.weight"].shape[1]))
        # (1024, 128, 5, 5), a transposed convolution of a 1x1 input: ours is the same as a matrix
        first = state["decoder.deconv1.weight"]
        renamed = {
            **{
                f"encoder.{2 * i}.{part}": state[f"encoder.conv{i + 1}.{part}"]
                for i in range(4)
                for part in ("weight", "bias")
            },
            **{
                f"{ours}.{part}": state[f"{theirs}.{part}"]
                for part in ("weight", "bias")
                for ours, theirs in (
                    ("mu", "encoder.fc_mu"),
                    ("logsigma", "encoder.fc_logsigma"),
                    ("expand", "decoder.fc1"),
                )
            },
            "first.weight": first.permute(1, 2, 3, 0).reshape(-1, first.shape[0]),
            "first.bias": state["decoder.deconv1.bias"].repeat_interleave(25),
            **{
                f"decoder.{2 * i}.{part}": state[f"decoder.deconv{i + 2}.{part}"]
                for i in range(3)
                for part in ("weight", "bias")
            },
        }
        model.load_state_dict(renamed)
    return model


def _mdrnn(state: dict[str, Tensor], file: Path, parents: dict[str, Any]) -> MDRNN:
    with _mismatch(file):
        weight = state["rnn.weight_ih_l0"]
        hidden, outputs = weight.shape[0] // 4, len(state["gmm_linear.bias"])
        mixtures = 5  # that project's constant
        latent = ((outputs - 2) // mixtures - 1) // 2
        action, made = weight.shape[1] - latent, parents["vae"].config.latent
        if (latent, action) != (made, len(CARRACING["low"])):
            raise UserError(
                f"{file} takes {latent} latents and {action} numbers of an action, and V makes {made} latents and "
                f"CarRacing has {len(CARRACING['low'])}: give the folder of one run, whose M was trained with its V"
            )
        model = MDRNN(MDRNNConfig(latent, action, hidden, mixtures))
        renamed = {
            name.replace("rnn.", "lstm.").replace("gmm_linear.", "head."): value for name, value in state.items()
        }
        # theirs takes the action first
        renamed["lstm.weight_ih_l0"] = torch.cat([weight[:, action:], weight[:, :action]], 1)
        model.load_state_dict(renamed)
    return model


def _controller(state: dict[str, Tensor], file: Path, parents: dict[str, Any]) -> Controller:
    with _mismatch(file):
        m = parents["mdrnn"].config
        wanted = (len(CARRACING["low"]), m.latent + m.hidden)
        if state["fc.weight"].shape != wanted:
            raise UserError(
                f"{file} has weights {tuple(state['fc.weight'].shape)}, and for what V and M give it has {wanted}: "
                "give the folder of one run, whose controller was trained with its V and M"
            )
        model = Controller(ControllerConfig(m.latent, m.hidden, "zh", 0, CARRACING))
        model.load_state_dict({"layers.0.weight": state["fc.weight"], "layers.0.bias": state["fc.bias"]})
    return model


class _mismatch:
    """Turns what a state dict of another shape raises into a UserError."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, (KeyError, ValueError, RuntimeError, IndexError)):
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{self.file} has not the layers of ctallec/world-models ({reason}): only that project's own models "
                "can be imported"
            ) from None


CONVERTERS = {"vae": _vae, "mdrnn": _mdrnn, "ctrl": _controller}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = parser(__doc__)
    commands = p.add_subparsers(dest="command", required=True)
    for command, about in (("import", "what other projects made"), ("export", "what others can use")):
        one = commands.add_parser(command, help=about, formatter_class=HelpFormatter)
        kinds = one.add_subparsers(dest="kind", required=True)
        for name, exchange in EXCHANGES[command].items():
            words = kinds.add_parser(name, help=exchange.help, formatter_class=HelpFormatter)
            exchange.add_flags(words)
            words.set_defaults(call=exchange.call)
    return p.parse_args(spelt_out(sys.argv[1:] if argv is None else argv))


def spelt_out(words: list[str]) -> list[str]:
    """A command line in which import-npz, import-ncps, import-checkpoint and export alone, as they were once called,
    have their names of two words."""
    if words and words[0].startswith("import-"):
        return [*words[0].split("-", 1), *words[1:]]
    if words[:1] == ["export"] and words[1:] and words[1].startswith(("--logdir", "--out")):
        return ["export", "run", *words[1:]]
    return words


@dataclass(frozen=True)
class Exchange:
    """Something to import or to export.

    Fields:
        help: what becomes of what
        add_flags: adds its flags to a parser
        call: does it, and gives what is to be said of it
    """

    help: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    call: Callable[[argparse.Namespace], str]


def npz_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("dir", type=Path, help="folder that holds the rollouts, at any depth")
    p.add_argument("--out", type=Path, required=True, help="folder of the new dataset")
    p.add_argument("--val-fraction", type=share, default=0.1, help="share of the episodes kept for validation")


def call_npz(args: argparse.Namespace) -> str:
    manifest = import_npz(args.dir, args.out, args.val_fraction)
    return (
        f"{args.out}: {len(manifest.episodes)} episodes. The frame of the reset is missing there, so each episode "
        "begins one step later: its first action was dropped, and actions beyond the last frame were cut off."
    )


def ncps_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("dir", type=Path, help="folder that holds train_*.npz and val_*.npz")
    p.add_argument("--out", type=Path, required=True, help="folder of the new dataset")
    p.add_argument("--game", default="Breakout", help="that was played, spelt as in gymnasium")


def call_ncps(args: argparse.Namespace) -> str:
    manifest = import_ncps(args.dir, args.out, args.game)
    return (
        f"{args.out}: {len(manifest.episodes)} sequences of {manifest.env}, "
        f"{sum(e.split == 'val' for e in manifest.episodes)} of them for validation. "
        "They hold no rewards, and end where they were cut."
    )


def checkpoint_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("dir", type=Path, help="that project's --logdir")
    RunFolder.add_flags(p)


def call_checkpoint(args: argparse.Namespace) -> str:
    found = import_checkpoint(args.dir, args.logdir)
    return (
        f"{args.logdir}: imported {', '.join(found)} for gym:CarRacing-v3. Dreams need starting latents, which "
        "they do not hold: train M anew for those."
    )


def run_flags(p: argparse.ArgumentParser) -> None:
    RunFolder.add_flags(p)
    p.add_argument("--out", type=Path, required=True, help="folder of the new run")
    p.add_argument(
        "--controller",
        type=controller,
        nargs="+",
        default=(),
        help="those to be taken along, e.g. ctrl bc-NAME (default: all)",
    )


def call_run(args: argparse.Namespace) -> str:
    found = export(args.logdir, args.out, args.controller)
    size = sum(checkpoint.path(args.out, stage).stat().st_size for stage in found)
    return (
        f"{args.out}: {', '.join(found)} in half precision, {size / 1e6:.1f} MB; drive it with `python "
        f"test_controller.py --logdir {args.out}`"
    )


# By command and name. One of your own is a function that does it, one that adds its flags, and a line here.
EXCHANGES = {
    "import": {
        "npz": Exchange("rollouts to a dataset", npz_flags, call_npz),
        "ncps": Exchange("Atari demonstrations of ncps to a dataset", ncps_flags, call_ncps),
        "checkpoint": Exchange("trained models to a run", checkpoint_flags, call_checkpoint),
    },
    "export": {"run": Exchange("a run in half precision", run_flags, call_run)},
}


def main() -> None:
    args = parse_args()
    print(args.call(args))


if __name__ == "__main__":
    run(main)
