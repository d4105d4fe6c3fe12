"""The manifest of a dataset that grows."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from dreamdrive.data.manifest import EpisodeEntry, Manifest, ShardEntry, write_manifest

SHARE = 0.1  # of the time since the last one that a manifest may take to write: it names every episode there is


class Ledger:
    """Shards that are added to a dataset, in any order; a context manager that leaves all of them in the manifest.

    A manifest takes the longer to write the more episodes there are, so it is not written for each shard. What a kill
    takes with it are the shards of the last moments, which are recorded again as any others that are missing.

    Attributes:
        manifest: as it was written last
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._shards, self._episodes, self._mixed = list(manifest.shards), list(manifest.episodes), False
        self._behind = False  # whether there are shards that it does not name
        self._written, self._took = time.monotonic(), 0.0

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._behind:
            self._write()

    def add(self, shard: ShardEntry, episodes: Sequence[EpisodeEntry], mixed_nodes: bool = False) -> None:
        """A shard that has been published, and who computed it (`Manifest.mixed_nodes`)."""
        self._shards.append(shard)
        self._episodes += episodes
        self._mixed |= mixed_nodes
        self._behind = True
        if time.monotonic() - self._written >= self._took / SHARE:
            self._write()

    def _write(self) -> None:
        begun = time.monotonic()
        self.manifest = replace(
            self.manifest,
            shards=tuple(sorted(self._shards, key=lambda shard: shard.first)),
            episodes=tuple(sorted(self._episodes, key=lambda episode: episode.index)),
            mixed_nodes=self.manifest.mixed_nodes or self._mixed,
        )
        write_manifest(self.folder, self.manifest)
        self._behind, self._written = False, time.monotonic()
        self._took = self._written - begun
