"""A dataset that grows by one episode at a time, each a shard of its own, as what people drive does."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dreamdrive.data.episode import Episode, episode_entry
from dreamdrive.data.manifest import MANIFEST, EpisodeEntry, Manifest, ShardEntry, read_manifest, write_manifest
from dreamdrive.data.shards import Dataset, remove_leftovers, write_shard
from dreamdrive.envs import World
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.seeds import recording_seed

VAL_FRACTION = 0.2  # of the episodes, for those who train on them afterwards
SAME = ("env", "image_shape", "action_space", "dt", "max_steps", "seed", "policy", "options")


def manifest_of(world: World, seed: int, policies: tuple[str, ...]) -> Manifest:
    """What a dataset of episodes in `world` is before there is one; `policies`: who may drive them."""
    spec = world.spec
    return Manifest(
        spec.name,
        tuple(spec.image_shape),
        spec.plain_action_space,
        float(spec.dt),
        spec.max_steps,
        seed,
        ",".join(policies),
        0.0,
        VAL_FRACTION,
        0,
        policies,
        options=spec.options,
        by_place=world.held_out(recording_seed(seed, 0)) is not None,
    )


class Growing:
    """The dataset in a folder, and what is added to it.

    Attributes:
        folder: where it is        manifest: what it holds so far
    """

    def __init__(self, folder: Path, wanted: Manifest) -> None:
        """What is in `folder` is gone on with; UserError if it is of another world, seed or drivers than `wanted`."""
        self.folder = make_folder(folder)
        there = (self.folder / MANIFEST).exists()
        self.manifest = read_manifest(self.folder) if there else wanted
        for name in SAME:
            if getattr(self.manifest, name) != getattr(wanted, name):
                raise UserError(
                    f"{self.folder} was recorded with {name} {getattr(self.manifest, name)}, and now it is "
                    f"{getattr(wanted, name)}: give the same as then, or use another folder"
                )
        remove_leftovers(self.folder, self.manifest)

    def __len__(self) -> int:
        return len(self.manifest.episodes)

    def episodes(self) -> Iterator[Episode]:
        """All of them."""
        if self.manifest.episodes:
            yield from Dataset.open(self.folder).read()

    def policy(self, name: str) -> int:
        """The number of a driver among the manifest's, to which it is added if need be."""
        if name not in self.manifest.policies:
            self.manifest = replace(self.manifest, policies=(*self.manifest.policies, name))
        return self.manifest.policies.index(name)

    def add(self, episode: Episode) -> None:
        """Append an episode, whose index is the number of those before; it is on the disk when this returns."""
        entry = write_shard(self.folder / f"shard_{episode.index:05d}.h5", [episode])
        listed: EpisodeEntry = episode_entry(episode, self.manifest)
        self.manifest = replace(
            self.manifest,
            shards=(*self.manifest.shards, ShardEntry(**entry)),
            episodes=(*self.manifest.episodes, listed),
            rollouts=episode.index + 1,
        )
        write_manifest(self.folder, self.manifest)
