"""A run of all stages that takes a minute, datasets made up on the spot, and the scripts called as a user would, or
within this process."""

import contextlib
import importlib
import io
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dreamdrive.data.episode import Episode
from dreamdrive.data.manifest import EpisodeEntry, Manifest, ShardEntry, split, write_manifest
from dreamdrive.data.shards import Dataset, write_shard
from dreamdrive.utils.script import run

ROOT = Path(__file__).resolve().parent.parent
BOX = {"type": "box", "low": [-1.0, 0.0], "high": [1.0, 1.0]}
DISCRETE = {"type": "discrete", "n": 3}
IN_DREAMS = ("--horizon", 20)  # first in the budget of evolution: in the simulator it is refused
# Flags of a tiny budget; tests add what they are about.
TINY = {
    "trainvae": ("--latent", 8, "--batch-size", 32, "--epoch-frames", 96, "--epochs", 2, "--device", "cpu"),
    "trainmdrnn": ("--hidden", 16, "--seq-len", 16, "--batch-size", 8, "--epochs", 2, "--device", "cpu"),
    "traincontroller": (
        *IN_DREAMS,
        "--pop-size",
        4,
        "--n-samples",
        2,
        "--generations",
        2,
        "--evaluate-every",
        0,
        "--max-workers",
        1,
        "--device",
        "cpu",
    ),
    "trainbc": ("--epochs", 2, "--evaluate-every", 1, "--n-samples", 1, "--max-workers", 1, "--device", "cpu"),
}
TINY_TOKENS = TINY["trainvae"][2:]  # of a V of tokens, which is not told how many numbers


@dataclass(frozen=True)
class Done:
    """How a script ended and what it said."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class TinyRun:
    """Paths of a trained run: its dataset, recorded from CartPole with the executed actions as the expert's, and its
    logdir."""

    data: Path
    logdir: Path


def command(script: str, *options) -> list[str]:
    return [sys.executable, script, *map(str, options)]


def variables(**more: str) -> dict[str, str]:
    """The environment of a subprocess: one thread, so that tests side by side do not wait for each other."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def user(script: str, *options, env: dict | None = None, timeout: float = 240) -> Done:
    """Run a script as a user would; it must succeed."""
    done = subprocess.run(
        command(script, *options), cwd=ROOT, env=env or variables(), capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"{script} {options}\n{done.stderr}"
    return Done(done.returncode, done.stdout, done.stderr)


def call(module: str, *options) -> Done:
    """Run a script within this process, which saves the seconds its imports take."""
    out, err, before, status = io.StringIO(), io.StringIO(), sys.argv, 0
    sys.argv = [f"{module}.py", *map(str, options)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run(importlib.import_module(f"dreamdrive.{module}").main)
    except SystemExit as stop:
        status = stop.code
    finally:
        sys.argv = before
    return Done(status, out.getvalue(), err.getvalue())


def budget(module: str, *options) -> tuple:
    """`options` after the stage's tiny budget, less what means nothing beside them."""
    simulated = module == "traincontroller" and "simulator" in options
    return *TINY.get(module, ())[len(IN_DREAMS) if simulated else 0 :], *options


def tiny(module: str, *options) -> Done:
    """`call` with the stage's tiny budget, which `options` may override; it must succeed."""
    done = call(module, *budget(module, *options))
    assert done.returncode == 0, done.stderr
    return done


def record_nocturne(folder: Path, *options) -> None:
    """Record the scenes in `folder`/scenes as `folder`/data; `options` say who drives, and what is seen."""
    place = ("--scenes", folder / "scenes", "--rootdir", folder / "data")
    done = call("data.generation_script", "--env", "nocturne", *place, "--action-noise", 0.1, "--threads", 1, *options)
    assert done.returncode == 0, done.stderr


def complaint(done: Done) -> str:
    """The one sentence a script refused with: beside progress bars nothing else is on stderr, no traceback either, and
    the status says failure."""
    said = [
        text.strip()
        for text in re.split(r"[\r\n]", done.stderr)
        if text.strip() and not re.search(r"\d %, [\d,]+ of [\d,]+ |[\d,]+ a second", text)
    ]
    assert done.returncode in (1, 2) and len(said) == 1 and said[0].startswith("error: "), (
        done.returncode,
        done.stderr,
    )
    return said[0]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` but locks, to see that nothing was damaged."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(Path(folder).rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


def copy_run(run: TinyRun, folder: Path) -> TinyRun:
    """A copy that a test may damage; the checkpoints still name the original dataset.

    The files of the logdir are links, which saves copying 70 MB: replace them, as all stages do, but never write into
    them.
    """
    return TinyRun(
        shutil.copytree(run.data, folder / "data"), shutil.copytree(run.logdir, folder / "run", copy_function=os.link)
    )


def write_dataset(
    folder: Path,
    lengths: list[int],
    first: int = 0,
    per_shard: int = 2,
    image: tuple = (64, 64, 3),
    space: dict = BOX,
    env: str = "gym:Made-up",
    val_fraction: float = 0.25,
    reward: float | None = None,
    expert: bool = True,
) -> Dataset:
    """A dataset of noise in which every value says where it belongs.

    Episode e has lengths[e] steps. obs[t, 0, 0] is (e, t // 256, t % 256), or obs[t, :2] is (e, t) where `image` is
    (S,); action[t] is (e / 100, t / 1000) or (e + t) % n; reward[t] is 1000 e + t, unless `reward` is given;
    expert_action is -action, or n - 1 - action. Episodes below `first` are taken to be there already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    episodes = [_episode(e, steps, image, space, reward, expert) for e, steps in enumerate(lengths)]
    manifest = Manifest(env, image, space, 0.02, 1000, 0, "brown", 0.0, val_fraction, len(lengths), ("brown",))
    if first:
        manifest = replace(Dataset.open(folder).manifest, rollouts=len(lengths))
    shards, entries = list(manifest.shards), list(manifest.episodes)
    for start in range(first, len(lengths), per_shard):
        chosen = episodes[start : start + per_shard]
        shards.append(ShardEntry(**write_shard(folder / f"shard_{len(shards):05d}.h5", chosen)))
        entries += [
            EpisodeEntry(
                e.index,
                e.seed,
                "brown",
                len(e.action),
                float(e.reward.sum(dtype=np.float64)),
                split(e.index, val_fraction),
            )
            for e in chosen
        ]
    write_manifest(folder, replace(manifest, shards=tuple(shards), episodes=tuple(entries)))
    return Dataset.open(folder)


def _episode(e: int, steps: int, image: tuple, space: dict, reward: float | None, expert: bool) -> Episode:
    rng, t = np.random.default_rng(e), np.arange(steps + 1)
    if len(image) == 1:
        obs = rng.standard_normal((steps + 1, *image), np.float32)
        obs[:, :2] = np.stack([np.full_like(t, e), t], 1)
    else:
        obs = rng.integers(0, 256, (steps + 1, *image), dtype=np.uint8)
        obs[:, 0, 0] = np.stack([np.full_like(t, e), t // 256, t % 256], 1)
    t = t[:-1]
    if space["type"] == "discrete":
        action = ((e + t) % space["n"]).astype(np.int64)
        label = space["n"] - 1 - action if expert else np.full_like(action, -1)
    else:
        action = np.stack([np.full(steps, e / 100), t / 1000], 1).astype(np.float32)
        label = -action if expert else np.full_like(action, np.nan)
    rewards = (1000 * e + t if reward is None else np.full(steps, reward)).astype(np.float32)
    return Episode(obs, action, label, rewards, t == steps - 1, np.zeros(steps, bool), e, e, 0)
