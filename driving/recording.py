"""A dataset that is recorded: which shards are missing, the workers that drive their episodes, and what is published.

Episode i depends on the seed and i alone: the same settings give the same bytes with any number of workers, also after
the recording was killed and resumed. With more rollouts it adds episodes to those that are there.
"""

import itertools
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dreamdrive import envs
from dreamdrive.data import shards
from dreamdrive.data.episode import Episode, episode_entry
from dreamdrive.data.ledger import Ledger
from dreamdrive.data.manifest import (
    MANIFEST,
    SHARD_NAME,
    EpisodeEntry,
    Manifest,
    ShardEntry,
    frame_bytes,
    least_share,
    read_manifest,
    split,
    write_manifest,
)
from dreamdrive.data.shard_layout import CHUNK
from dreamdrive.driving import policies
from dreamdrive.driving.agent import Head, load_agent
from dreamdrive.driving.catalogue import parse_mixture, trained
from dreamdrive.driving.driver import drive
from dreamdrive.driving.needed import needed
from dreamdrive.driving.recorder import Recipe, Recorder
from dreamdrive.driving.recording_settings import MOST_STEPS, ROLLOUTS, VAL_FRACTION, RecordingSettings
from dreamdrive.envs import World, WorldSpec, defaults, flags, official
from dreamdrive.envs.catalogue import ONE_INSTANCE
from dreamdrive.utils.cluster import Carried, Cluster
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.locks import workplace
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.seeds import recording_seed, require_seeds
from dreamdrive.utils.spaces import ActionSpace
from dreamdrive.utils.words import counted, quoted
from dreamdrive.utils.workers import WorkerPool

# of frames that are recorded as one batch: ten episodes of CarRacing
SHARD_BYTES, MOST_EPISODES_A_SHARD = 10_000 * 64 * 64 * 3, 125
SIZE_MARGIN = 1.2  # frames differ, and the disk holds other things
# may not differ when a dataset is resumed
MADE_TO_ORDER = ("env", "options", "max_steps", "seed", "policy", "action_noise", "give_up", "skip", "val_fraction")
# follow from those, and from what is installed
SEEN_TO = ("image_shape", "action_space", "dt", "policies", "controller", "by_place")


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


def made_here(manifest: Manifest) -> bool:
    """Whether the shards of a manifest are those that stage 1 plans."""
    return {(s.file, s.first, s.last) for s in manifest.shards} <= set(plan(manifest))


def wanted_manifest(args: RecordingSettings, spec: WorldSpec, mixture: dict[str, float], by_place: bool) -> Manifest:
    """The manifest of what `args` ask for, with nothing recorded yet."""
    if by_place and args.val_fraction is not None:
        raise UserError(
            f"--val-fraction {args.val_fraction:g} is not possible: the world keeps every tenth of its places for "
            "validation; leave it out"
        )
    assert args.max_steps and args.rollouts, "generate has filled them in"
    val_fraction = args.val_fraction
    if val_fraction is None:
        val_fraction = VAL_FRACTION if by_place or args.rollouts == 1 else max(VAL_FRACTION, least_share(args.rollouts))
    drove = {
        stage: digest
        for controller in sorted(filter(None, map(trained, mixture)), reverse=True)  # ctrl before bc
        for stage, digest in trained_on(args, controller, spec.options).parents.items()
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
        controller=drove,
        options=spec.options,
        by_place=by_place,
        give_up=args.give_up,
        skip=args.skip,
    )


def trained_on(args: RecordingSettings, controller: str, options: dict) -> Head:
    """The agent with this controller of the run in --logdir; UserError if it was trained for another world than --env
    with these `options`."""
    agent = load_agent(args.logdir, controller, name=args.checkpoint)
    if agent.world["env"] != official(args.env):
        raise UserError(
            f"{args.logdir} was trained for {agent.world['env']} and --env is {args.env}: choose another --logdir, or "
            f"--env {agent.world['env']}"
        )
    flags.check(args.logdir, agent.world, options, inherits=False)
    return agent


def continue_manifest(wanted: Manifest, folder: Path, split_given: bool) -> Manifest:
    """What the dataset in `folder` is to become: `wanted`, with what is there already; UserError if the two do not
    fit. A recording that holds no episode yet is begun anew. A split that was not given stays as it is."""
    if not (folder / MANIFEST).exists():
        if any(SHARD_NAME.fullmatch(path.name) for path in folder.iterdir()):
            raise UserError(
                f"{folder} holds shards but no {MANIFEST}: restore it, choose another --rootdir, or delete the folder"
            )
        return wanted
    there = read_manifest(folder)
    if not there.shards:
        return wanted
    if not split_given:
        wanted = replace(wanted, val_fraction=there.val_fraction)
    if ActionSpace.from_dict(there.action_space).same_actions(ActionSpace.from_dict(wanted.action_space)):
        wanted = replace(wanted, action_space=there.action_space)  # whatever units networks see them in
    own = defaults(wanted.env)  # a version before ours did not know of some
    if {**own, **there.options} == {**own, **wanted.options}:
        wanted = replace(wanted, options=there.options)
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


def look_at_world(recipe: Recipe) -> tuple[WorldSpec, float, int | None, bool]:
    """The world's spec, how many bytes a frame of it takes on disk, from a few frames driven at random, how many
    different episodes it has, if that is limited, and whether it keeps places apart for validation."""
    limit = {"max_steps": recipe.max_steps} if recipe.max_steps else {}
    world = recipe.make_world(recipe.env, num=1, restart=False, **limit, **recipe.options)
    seed, frames = recording_seed(recipe.seed, 0), []
    for moment in itertools.islice(
        drive(world, policies.make_policy("white", world), [seed], [np.random.default_rng(0)]), 2 * CHUNK
    ):
        frames.append(moment.obs[0].numpy().tobytes())
    world.close()
    frame_bytes = len(zlib.compress(b"".join(frames), 1)) / len(frames) + 64  # actions, rewards and the like take 64
    return world.spec, frame_bytes, world.episodes, world.held_out(recording_seed(recipe.seed, 0)) is not None


def check_space(folder: Path, episodes: int, max_steps: int, frame_bytes: float) -> None:
    """Print how much disk `episodes` more will take; UserError if there is not enough."""
    need = SIZE_MARGIN * episodes * (max_steps + 1) * frame_bytes
    free = shutil.disk_usage(folder).free
    if need > free:
        raise UserError(
            f"{counted(episodes, 'more episode')} take up to {need / 1e6:.1f} MB and the disk of {folder} has "
            f"{free / 1e6:.1f} MB free: free some space, choose another --rootdir, or fewer --rollouts"
        )
    print(
        f"{counted(episodes, 'episode')} to record into {folder}: up to {need / 1e6:.1f} MB on disk, "
        f"{free / 1e6:.0f} MB are free"
    )


def say_no_validation(manifest: Manifest, folder: Path) -> None:
    """Say so where no episode is for validation by its number, unless that was asked for."""
    fraction = manifest.val_fraction
    if manifest.by_place or not fraction or "val" in {split(i, fraction) for i in range(manifest.rollouts)}:
        return
    if manifest.rollouts == 1:
        print("the only episode will be for training, and V, M and clones need one for validation: record 2 or more")
        return
    print(
        f"none of the {manifest.rollouts} episodes will be for validation, and V, M and clones need one: give "
        f"--val-fraction {least_share(manifest.rollouts):g}, or change that later with `dreamdrive data split "
        f"{quoted(folder)} --val-fraction F`"
    )


@dataclass
class Count:
    """How much of some episodes is recorded: frames, episodes that are complete, and the steps of these."""

    frames: int = 0
    episodes: int = 0
    steps: int = 0

    def plus(self, frames: int, steps: int) -> "Count":
        """With so many frames more, and if `steps`, an episode of that many that is complete."""
        return Count(self.frames + frames, self.episodes + bool(steps), self.steps + steps)

    def change(self, before: "Count", after: "Count") -> None:
        """A part of this was counted as `before` and is `after` now."""
        self.frames += after.frames - before.frames
        self.episodes += after.episodes - before.episodes
        self.steps += after.steps - before.steps


def record_dataset(
    recipe: Recipe, manifest: Manifest, folder: Path, threads: int, cluster: Cluster | None = None
) -> Manifest:
    """Record the shards that are missing from `manifest`; returns it with all of them."""
    there = {s.file for s in manifest.shards}
    tasks = [task for task in plan(manifest) if task[0] not in there]
    episodes = sum(last - first for _, first, last in tasks)
    longest = recipe.max_steps or manifest.max_steps
    counts = [Count() for _ in tasks]
    total = Count()
    with (
        Bar(total=episodes * longest, unit="frame", unit_scale=True, disable=not tasks) as bar,
        Ledger(folder, manifest) as ledger,
    ):

        def progress(index: int, done: tuple[int, int] | None) -> None:
            new = Count() if done is None else counts[index].plus(*done)
            total.change(counts[index], new)
            counts[index] = new
            bar.total = (episodes - total.episodes) * longest + total.steps
            bar.set_postfix_str(f"{total.episodes} of {episodes} episodes", refresh=False)
            bar.update(total.frames - bar.n)

        def publish(index: int, result: tuple) -> None:
            temporary, entry, entries = result
            shards.publish_shard(temporary, folder / entry.file, entry.sha256)
            ledger.add(entry, entries, pool.crew.mixed)

        controllers = sorted(filter(None, map(trained, recipe.mixture)))
        run = recipe.logdir if controllers else None
        carried = Carried(needed(recipe.env, recipe.options, run, controllers, recipe.checkpoint), folder)
        workers = 1 if recipe.options.get(ONE_INSTANCE) else threads
        with WorkerPool(set_up, (recipe, manifest, folder), workers, cluster=cluster, carried=carried) as pool:
            pool.run(tasks, publish, progress)
    return ledger.manifest


def generate(args: RecordingSettings, make_world: Callable[..., World] = envs.make) -> Manifest:
    """Record what `args` ask for, or what is missing of it."""
    args.check()
    mixture = parse_mixture(args.policy)
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
        args.give_up,
        args.skip,
    )
    folder = args.rootdir
    with workplace(folder, args.busy()):
        spec, frame_bytes, there_are, by_place = look_at_world(recipe)
        max_steps, rollouts = args.max_steps or min(spec.max_steps, MOST_STEPS), args.rollouts or there_are or ROLLOUTS
        args, recipe = replace(args, max_steps=max_steps, rollouts=rollouts), replace(recipe, max_steps=max_steps)
        require_seeds(args.seed, args.skip + rollouts)
        wanted = wanted_manifest(args, spec, mixture, by_place)
        manifest = without_missing(continue_manifest(wanted, folder, args.val_fraction is not None), folder)
        if not manifest.complete:
            check_space(folder, manifest.rollouts - len(manifest.episodes), manifest.max_steps, frame_bytes)
            say_no_validation(manifest, folder)
        write_manifest(folder, manifest)
        args.write(folder)
        shards.remove_leftovers(folder, manifest)
        try:
            manifest = record_dataset(recipe, manifest, folder, args.threads, args.cluster)
        finally:
            shards.remove_leftovers(folder, read_manifest(folder))
    return manifest
