"""Stage 1: record episodes of a world as a dataset.

Writes  datasets/<name>/manifest.json       what was recorded, and the split into training and validation
        datasets/<name>/shard_00000.h5 ...  the episodes (format: data/shard_layout.py)
        datasets/<name>/args.json           the command
Reads   exp_dir/                            a trained run, where --policy has a controller or a clone in it

    python data/generation_script.py --env carracing --rollouts 1000 --rootdir datasets/carracing --threads 8

Episode i depends on --seed and i alone: the same command gives the same bytes with any --threads, also after it was
killed and run again. Run again with a larger --rollouts, it adds episodes to those that are there.
"""

import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
import torch
from tqdm import tqdm

from dreamdrive import envs
from dreamdrive.data import shards
from dreamdrive.data.episode import Episode, episode_entry
from dreamdrive.data.manifest import (
    MANIFEST,
    SHARD_NAME,
    EpisodeEntry,
    Manifest,
    ShardEntry,
    frame_bytes,
    read_manifest,
    write_manifest,
)
from dreamdrive.data.shard_layout import CHUNK
from dreamdrive.driving import policies
from dreamdrive.envs import World, WorldSpec, flags, official
from dreamdrive.utils.argument_types import natural, natural_float, positive, share
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.locks import locked
from dreamdrive.utils.script import run
from dreamdrive.utils.seeds import recording_seed, require_seeds
from dreamdrive.utils.settings import flag
from dreamdrive.utils.spaces import ActionSpace
from dreamdrive.utils.workers import run_tasks

if TYPE_CHECKING:
    from dreamdrive.models.agent import Agent

# of frames that are recorded as one batch: ten episodes of CarRacing
SHARD_BYTES, MOST_EPISODES_A_SHARD = 10_000 * 64 * 64 * 3, 125
REPORT_EVERY = 25  # frames
ROLLOUTS = 1000  # where a world has no number of its own
SIZE_MARGIN = 1.2  # frames differ, and the disk holds other things
VAL_FRACTION = 0.1
MOST_STEPS = 1000  # of an episode, unless told otherwise: a game may go on for hours
# may not differ when a dataset is gone on with
MADE_TO_ORDER = ("env", "options", "max_steps", "seed", "policy", "action_noise", "val_fraction")
# follow from those, and from what is installed
SEEN_TO = ("image_shape", "action_space", "dt", "policies", "controller", "by_place")
# what alone --checkpoint is for
TRAINED = (
    "a --policy that has a controller or a clone in it",
    lambda args: bool(set(policies.parse_mixture(args.policy)) & set(policies.TRAINED)),
)


@dataclass(frozen=True, kw_only=True)
class RecordingSettings(flags.WorldSettings):
    """What stage 1 can be told."""

    env: str = flag(
        "carracing",
        help="world to record: carracing, carracing-fast (almost the same frames, sooner), nocturne, "
        "atari:<Game>, cartpole, mountaincar or gym:<id>",
    )
    rollouts: int | None = flag(
        None,
        positive,
        f"episodes the dataset shall hold (default: {ROLLOUTS}; with --scenes, one for every vehicle worth it)",
    )
    rootdir: Path = flag(Path("datasets/carracing"), Path, "folder of the dataset")
    threads: int = flag(os.cpu_count(), positive, "worker processes")
    policy: str = flag(
        "brown",
        help="who drives: brown, white, expert, controller (evolved), clone, or shares such as brown=0.5,expert=0.5",
    )
    action_noise: float = flag(
        0.0,
        natural_float,
        "spread of the bursts that disturb expert, controller and clone, in an action's typical size (half its "
        "range where none is known); 0: none",
    )
    seed: int = flag(0, natural, "decides every episode")
    max_steps: int | None = flag(
        None, positive, f"steps after which an episode is cut (default: the world's own limit, at most {MOST_STEPS})"
    )
    val_fraction: float | None = flag(
        None,
        share,
        f"share of the episodes kept for validation (default: {VAL_FRACTION}; with --scenes, every tenth scene)",
    )
    logdir: Path = flag(
        Path("exp_dir"), Path, "trained run that drives where --policy has a controller or a clone in it"
    )
    checkpoint: str = flag("best.tar", help="file in its folder ctrl or bc that drives", where=TRAINED)

    def check(self) -> None:
        super().check()
        require_seeds(self.seed, self.rollouts or 1)


# A few episodes


@dataclass(frozen=True)
class Recipe:
    """What a worker needs to record; `make_world` is called as `envs.make` is. Without `max_steps` it may be looked at,
    but not be recorded."""

    make_world: Callable[..., World]
    env: str
    max_steps: int | None
    seed: int
    mixture: dict[str, float]
    action_noise: float
    logdir: Path
    options: dict = field(default_factory=dict)
    checkpoint: str = "best.tar"


class Recorder:
    """Records episodes of one recipe, several as one batch."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self._worlds: dict[int, World] = {}  # by number of copies
        self.space = self._world(1).spec.space
        self._policies = {
            name: policies.make_policy(name, self._world(1).spec, recipe.logdir, recipe.checkpoint)
            for name in recipe.mixture
        }

    def record(self, indices: Sequence[int], report: Callable[[int], None] = lambda frames: None) -> list[Episode]:
        """The episodes `indices`; the simulator seed, driver and every draw of episode i follow from (seed, i), whoever
        is recorded beside it."""
        recipe, world, copies = self.recipe, self._world(len(indices)), range(len(indices))
        names = [policies.draw_policy(recipe.mixture, recipe.seed, i) for i in indices]
        seeds = [recording_seed(recipe.seed, i) for i in indices]
        disturb = [
            policies.Disturbance(
                recipe.action_noise if name in ("expert", *policies.TRAINED) else 0,
                world.spec,
                np.random.default_rng([recipe.seed, i, 1]),
            )
            for name, i in zip(names, indices, strict=True)
        ]
        obs = world.reset(seeds)
        for name in set(names):  # each acts in all copies, and is listened to in its own
            self._policies[name].reset([np.random.default_rng([recipe.seed, i, 0]) for i in indices], world)
        frames, rows = [[obs[b].numpy().copy()] for b in copies], [[] for _ in copies]
        action = self.space.zeros(len(indices)).numpy()
        going, unreported = list(copies), 0
        while going:
            driving = {names[b] for b in going}
            chosen = {name: self._policies[name].act(obs).numpy() for name in driving}
            opinions = self._opinions(world) if driving & set(policies.TRAINED) else None
            labels = {}
            for b in going:
                choice = self.space.clip(chosen[names[b]][b])
                asked = names[b] in policies.TRAINED and opinions is not None
                opinion = self.space.clip(opinions[b]) if asked else self._unknown()
                labels[b] = choice if names[b] == "expert" else opinion
                action[b] = disturb[b](choice)
            taken = torch.from_numpy(action)
            for name in driving:
                self._policies[name].follow(taken)
            step = world.step(taken)
            obs = step.obs
            for b in going:
                frames[b].append(obs[b].numpy().copy())
                rows[b].append(
                    (
                        action[b].copy(),
                        labels[b],
                        float(step.reward[b]),
                        bool(step.terminated[b]),
                        bool(step.truncated[b]),
                    )
                )
            unreported += len(going)
            going = [b for b in going if not (rows[b][-1][3] or rows[b][-1][4])]
            if unreported >= REPORT_EVERY or not going:
                report(unreported)
                unreported = 0
        return [self._episode(frames[b], rows[b], i, seeds[b], names[b]) for b, i in enumerate(indices)]

    def _world(self, num: int) -> World:
        if num not in self._worlds:
            self._worlds[num] = self.recipe.make_world(
                self.recipe.env, num=num, max_steps=self.recipe.max_steps, restart=False, **self.recipe.options
            )
        return self._worlds[num]

    def _episode(self, frames: list[np.ndarray], rows: list[tuple], i: int, seed: int, name: str) -> Episode:
        action, label, reward, terminated, truncated = (np.array(column) for column in zip(*rows, strict=True))
        return Episode(
            np.stack(frames),
            action,
            label,
            reward.astype(np.float32),
            terminated,
            truncated,
            i,
            seed,
            list(self.recipe.mixture).index(name),
            self._world(1).held_out(seed),
        )

    def _opinions(self, world: World) -> np.ndarray | None:
        """What the expert would do in the place of a controller or a clone (B, ...), as DAgger wants it; None if the
        world has no expert."""
        try:
            return world.expert_action().numpy()
        except UserError:
            return None

    def _unknown(self) -> np.ndarray:
        """The label of a frame where nobody knows what the expert would do."""
        return np.int64(-1) if self.space.discrete else np.full(self.space.shape, np.nan, np.float32)


# One shard, in a worker


def set_up(recipe: Recipe, manifest: Manifest, folder: Path) -> Callable:
    """What a worker does with a task (first, last): record these episodes and stage their shard; gives (temporary file,
    its entry, its episodes)."""
    recorder = Recorder(recipe)

    def do(task: tuple[str, int, int], report: Callable) -> tuple[Path, ShardEntry, list[EpisodeEntry]]:
        file, first, last = task
        entries = []

        def record() -> Iterator[Episode]:
            for episode in recorder.record(range(first, last), lambda frames: report((frames, 0))):
                entries.append(episode_entry(episode, manifest))
                report((0, len(episode.action)))
                yield episode

        temporary, entry = shards.stage_shard(folder / file, record())
        return temporary, ShardEntry(**entry), entries

    return do


# The dataset


def plan(manifest: Manifest) -> list[tuple[str, int, int]]:
    """(file, first, last) of every shard; follows from the numbers of rollouts wanted, now and before."""
    bounds = []
    most = min(max(SHARD_BYTES // (manifest.max_steps * frame_bytes(manifest.image_shape)), 1), MOST_EPISODES_A_SHARD)
    for first, last in zip((0, *manifest.grown_from), (*manifest.grown_from, manifest.rollouts), strict=True):
        size = min(max(last // 16, 1), most)
        bounds += [(start, min(start + size, last)) for start in range(first, last, size)]
    return [(f"shard_{k:05d}.h5", first, last) for k, (first, last) in enumerate(bounds)]


def wanted_manifest(args: RecordingSettings, spec: WorldSpec, mixture: dict[str, float], by_place: bool) -> Manifest:
    """The manifest of what `args` ask for, with nothing recorded yet."""
    if by_place and args.val_fraction is not None:
        raise UserError(
            f"--val-fraction {args.val_fraction:g} is not possible: the world keeps every tenth of its places for "
            "validation; leave it out"
        )
    val_fraction = VAL_FRACTION if args.val_fraction is None else args.val_fraction
    trained = {
        stage: digest
        for name in policies.TRAINED
        if name in mixture
        for stage, digest in trained_on(args, name, spec.options).parents.items()
    } or None
    return Manifest(
        args.env,
        tuple(spec.image_shape),
        spec.plain_action_space,
        float(spec.dt),
        min(args.max_steps, spec.max_steps),
        args.seed,
        args.policy,
        args.action_noise,
        val_fraction,
        args.rollouts,
        tuple(mixture),
        controller=trained,
        options=spec.options,
        by_place=by_place,
    )


def trained_on(args: RecordingSettings, policy: str, options: dict) -> "Agent":
    """The agent called `policy` of the run in --logdir; UserError if it was trained for another world than --env with
    these `options`."""
    from dreamdrive.models.agent import load_agent

    agent = load_agent(args.logdir, policies.TRAINED[policy], name=args.checkpoint)
    if agent.world["env"] != official(args.env):
        raise UserError(
            f"{args.logdir} was trained for {agent.world['env']} and --env is {args.env}: choose another --logdir, or "
            f"--env {agent.world['env']}"
        )
    flags.check(args.logdir, agent.world, options, inherits=False)
    return agent


def continue_manifest(wanted: Manifest, folder: Path) -> Manifest:
    """What the dataset in `folder` is to become: `wanted`, with what is there already; UserError if the two do not
    fit."""
    if not (folder / MANIFEST).exists():
        if any(SHARD_NAME.fullmatch(path.name) for path in folder.iterdir()):
            raise UserError(
                f"{folder} holds shards but no {MANIFEST}: restore it, choose another --rootdir, or delete the folder"
            )
        return wanted
    there = read_manifest(folder)
    if ActionSpace.from_dict(there.action_space).same_actions(ActionSpace.from_dict(wanted.action_space)):
        wanted = replace(wanted, action_space=there.action_space)  # whatever units networks see them in
    for name in MADE_TO_ORDER + SEEN_TO:
        if getattr(there, name) != getattr(wanted, name):
            flag = f"--{name.replace('_', '-')}" if name in MADE_TO_ORDER else name
            raise UserError(
                f"{folder} was recorded with {flag} {getattr(there, name)}, and now it is {getattr(wanted, name)}: "
                "choose another --rootdir, or delete the folder to record it afresh"
            )
    if wanted.rollouts < there.rollouts:
        raise UserError(
            f"{folder} is a dataset of {there.rollouts} episodes and --rollouts is {wanted.rollouts}: "
            f"give {there.rollouts} or more, choose another --rootdir, or delete the folder"
        )
    if wanted.rollouts > there.rollouts:
        return replace(there, rollouts=wanted.rollouts, grown_from=(*there.grown_from, there.rollouts))
    return there


def without_missing(manifest: Manifest, folder: Path) -> Manifest:
    """`manifest` less the shards that are gone or have another size, so that they are recorded again."""
    kept = tuple(
        s for s in manifest.shards if (folder / s.file).is_file() and (folder / s.file).stat().st_size == s.bytes
    )
    return replace(
        manifest,
        shards=kept,
        episodes=tuple(e for e in manifest.episodes if any(s.first <= e.index < s.last for s in kept)),
    )


def with_shard(manifest: Manifest, entry: ShardEntry, episodes: list[EpisodeEntry]) -> Manifest:
    return replace(
        manifest,
        shards=tuple(sorted((*manifest.shards, entry), key=lambda s: s.first)),
        episodes=tuple(sorted((*manifest.episodes, *episodes), key=lambda e: e.index)),
    )


def look_at_world(recipe: Recipe) -> tuple[WorldSpec, float, int | None, bool]:
    """The world's spec, how many bytes a frame of it takes on disk, from a few frames driven at random, how many
    different episodes it has, if that is limited, and whether it keeps places apart for validation."""
    limit = {"max_steps": recipe.max_steps} if recipe.max_steps else {}
    world = recipe.make_world(recipe.env, num=1, restart=False, **limit, **recipe.options)
    policy = policies.make_policy("white", world.spec)
    obs = world.reset([recording_seed(recipe.seed, 0)])
    policy.reset([np.random.default_rng(0)], world)
    frames = []
    for _ in range(2 * CHUNK):
        frames.append(obs[0].numpy().tobytes())
        obs = world.step(policy.act(obs)).obs
    world.close()
    frame_bytes = len(zlib.compress(b"".join(frames), 1)) / len(frames) + 64  # actions, rewards and the like take 64
    return world.spec, frame_bytes, world.episodes, world.held_out(recording_seed(recipe.seed, 0)) is not None


def check_space(folder: Path, episodes: int, max_steps: int, frame_bytes: float) -> None:
    """Print how much disk `episodes` more will take; UserError if there is not enough."""
    need = SIZE_MARGIN * episodes * (max_steps + 1) * frame_bytes
    free = shutil.disk_usage(folder).free
    if need > free:
        raise UserError(
            f"{episodes} more episodes take up to {need / 1e6:.1f} MB and the disk of {folder} has {free / 1e6:.1f} MB "
            "free: "
            "free some space, choose another --rootdir, or fewer --rollouts"
        )
    print(
        f"{episodes} episodes to record into {folder}: up to {need / 1e6:.1f} MB on disk, {free / 1e6:.0f} MB are free"
    )


def record_dataset(recipe: Recipe, manifest: Manifest, folder: Path, threads: int) -> Manifest:
    """Record the shards that are missing from `manifest`; returns it with all of them."""
    there = {s.file for s in manifest.shards}
    tasks = [task for task in plan(manifest) if task[0] not in there]
    episodes = sum(last - first for _, first, last in tasks)
    # recorded so far, and steps of each episode that is complete
    frames, lengths = [0] * len(tasks), [[] for _ in tasks]
    with tqdm(
        total=episodes * recipe.max_steps, unit="frame", unit_scale=True, dynamic_ncols=True, disable=not tasks
    ) as bar:

        def progress(index: int, done: tuple[int, int] | None) -> None:
            if done is None:
                frames[index], lengths[index] = 0, []
            else:
                frames[index] += done[0]
                lengths[index] += [done[1]] * bool(done[1])
            complete = [steps for task in lengths for steps in task]
            bar.total = (episodes - len(complete)) * recipe.max_steps + sum(complete)
            bar.set_postfix_str(f"{len(complete)} of {episodes} episodes", refresh=False)
            bar.update(sum(frames) - bar.n)

        def publish(index: int, result: tuple) -> None:
            nonlocal manifest
            temporary, entry, entries = result
            shards.publish_shard(temporary, folder / entry.file)
            manifest = with_shard(manifest, entry, entries)
            write_manifest(folder, manifest)

        run_tasks(set_up, (recipe, manifest, folder), tasks, threads, publish, progress)
    return manifest


def generate(args: RecordingSettings, make_world: Callable[..., World] = envs.make) -> Manifest:
    """Record what `args` ask for, or what is missing of it."""
    args.check()
    mixture = policies.parse_mixture(args.policy)
    recipe = Recipe(
        make_world,
        args.env,
        args.max_steps,
        args.seed,
        mixture,
        args.action_noise,
        args.logdir,
        args.options,
        args.checkpoint,
    )
    folder = make_folder(args.rootdir)
    with locked(
        folder, f"another generator is recording into {folder}: wait until it is done, or choose another --rootdir"
    ):
        spec, frame_bytes, there_are, by_place = look_at_world(recipe)
        args = replace(
            args,
            max_steps=args.max_steps or min(spec.max_steps, MOST_STEPS),
            rollouts=args.rollouts or there_are or ROLLOUTS,
        )
        recipe = replace(recipe, max_steps=args.max_steps)
        require_seeds(args.seed, args.rollouts)
        manifest = without_missing(continue_manifest(wanted_manifest(args, spec, mixture, by_place), folder), folder)
        if not manifest.complete:
            check_space(folder, manifest.rollouts - len(manifest.episodes), manifest.max_steps, frame_bytes)
        write_manifest(folder, manifest)
        args.write(folder)
        shards.remove_leftovers(folder, manifest)
        try:
            manifest = record_dataset(recipe, manifest, folder, args.threads)
        finally:
            shards.remove_leftovers(folder, read_manifest(folder))
    return manifest


def main(argv: list[str] | None = None, make_world: Callable[..., World] = envs.make) -> None:
    args = RecordingSettings.parse(argv, __doc__)
    print(shards.summary(generate(args, make_world), args.rootdir))


if __name__ == "__main__":
    run(main)
