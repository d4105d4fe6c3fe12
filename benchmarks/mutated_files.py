"""The kinds of files that benchmarks/mutations.py changes: how one is made, changed, and read."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dreamdrive.benchmarks import hdf5_mutations
from dreamdrive.data import shards
from dreamdrive.data.episode import Episode, episode_entry
from dreamdrive.data.latents_file import read_latents, write_latents
from dreamdrive.data.manifest import CHECKSUM, MANIFEST, Manifest, digest_of, read_manifest, write_manifest
from dreamdrive.data.shards import Dataset, pieces, write_dataset

Outcome = Literal["refused", "same", "other", "silent", "tracebacks"]
BY_ITSELF = "at random"  # a change after which no checksum is made to fit
HEAD = Manifest(
    "gym:Made-up",
    (8, 8, 3),
    {"type": "box", "low": [-1.0, 0.0], "high": [1.0, 1.0]},
    0.02,
    100,
    0,
    "brown",
    0.0,
    0.25,
    6,
    ("brown",),
)


def episode(i: int) -> Episode:
    """Of noise, of 20 steps and more."""
    rng, steps = np.random.default_rng(i), 20 + 7 * i
    action = rng.random((steps, 2), np.float32)
    ended = np.arange(steps) == steps - 1
    return Episode(
        rng.integers(0, 256, (steps + 1, 8, 8, 3), dtype=np.uint8),
        action,
        -action,
        rng.random(steps, np.float32),
        ended,
        np.zeros(steps, bool),
        i,
        i,
        0,
    )


class Subject(ABC):
    """A file, and who reads it.

    Attributes:
        path: where it is        content: what it holds unchanged
    """

    path: Path
    content: bytes

    @abstractmethod
    def __init__(self, folder: Path) -> None:
        """One that is made in `folder`."""

    @abstractmethod
    def mutants(self, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
        """Without end: how, and what the file has become."""

    @abstractmethod
    def read(self, way: str) -> Outcome:
        """Read the file, changed in this way, as whoever uses it does."""

    def write(self, content: bytes) -> None:
        self.path.write_bytes(content)

    def bits(self) -> Iterator[tuple[str, bytes]]:
        """The file with each of its bits changed by itself."""
        for bit in range(self.bit_count):
            changed = bytearray(self.content)
            changed[bit // 8] ^= 1 << bit % 8
            yield BY_ITSELF, bytes(changed)

    @property
    def bit_count(self) -> int:
        return 8 * len(self.content)


class ShardFile(Subject):
    """A shard; unless it was changed by itself, the manifest lists it as it has become."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "data"
        self._manifest = write_dataset(self._folder, HEAD, pieces(6, 3), episode)
        self.path = self._folder / self._manifest.shards[0].file
        self.content = self.path.read_bytes()
        self._before = self._everything(self._manifest)

    def mutants(self, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
        return hdf5_mutations.mutants(self.content, rng)

    def read(self, way: str) -> Outcome:
        manifest = self._manifest
        if way != BY_ITSELF:
            content = self.path.read_bytes()
            entry = replace(manifest.shards[0], bytes=len(content), sha256=sha256(content).hexdigest())
            manifest = replace(manifest, shards=(entry, *manifest.shards[1:]))
        found = self._everything(manifest)
        if alike(found, self._before):
            return "same"
        return "silent" if way == BY_ITSELF or not alike(found, self._everything(manifest)) else "other"

    def _everything(self, manifest: Manifest) -> dict[str, np.ndarray]:
        with shards.open_shard(self.path, manifest) as shard:
            names = (*shard.step_columns, "length", "episode", "seed", "policy")
            return {"obs": shard.frames(0, int(shard.frame_offsets[-1])), **{n: shard.column(n) for n in names}}


class LatentsFile(Subject):
    """Latents of a shard, which are made again where they are none."""

    VAE, SHARD = "a" * 64, "b" * 64

    def __init__(self, folder: Path) -> None:
        self.path = folder / "latents.h5"
        rng = np.random.default_rng(0)
        self._before = {name: rng.standard_normal((24, 2)).astype(np.float32) for name in ("mu", "logsigma")}
        write_latents(self.path, self._before, self.VAE, self.SHARD)
        self.content = self.path.read_bytes()

    def mutants(self, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
        return hdf5_mutations.mutants(self.content, rng)

    def read(self, way: str) -> Outcome:
        found = read_latents(self.path, self.VAE, self.SHARD)
        if found is None:
            return "refused"
        if alike(found, self._before):
            return "same"
        again = read_latents(self.path, self.VAE, self.SHARD)
        return "other" if way != BY_ITSELF and again is not None and alike(found, again) else "silent"


class ManifestFile(Subject):
    """A manifest; where it was changed on purpose, its checksum is made to fit, or taken away."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "data"
        write_dataset(self._folder, HEAD, pieces(6, 3), episode)
        self.path = self._folder / MANIFEST
        self.content = self.path.read_bytes()
        self._before = read_manifest(self._folder)

    def mutants(self, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
        while True:
            yield BY_ITSELF, hdf5_mutations.changed(self.content, rng)
            value = json.loads(self.content)
            change_value(value, rng)
            for name in [CHECKSUM] if rng.random() < 0.7 else []:
                value.pop(name, None)
                value[name] = digest_of(value) if rng.random() < 0.5 else None
                value = {k: v for k, v in value.items() if v is not None or k != name}
            yield "values", json.dumps(value).encode()

    def read(self, way: str) -> Outcome:
        found = read_manifest(self._folder)
        if found == self._before:
            return "same"
        if way == BY_ITSELF:
            return "silent"
        wrong = shards.verify(self._folder)
        write_manifest(self._folder, found)
        if found.complete:
            try_all(Dataset.open(self._folder), wrong)
        return "other"


def try_all(dataset: Dataset, wrong: list[str]) -> None:
    """Read all episodes of a dataset; RuntimeError where one cannot be read though nothing is wrong."""
    for e in dataset.read():
        e.check()
        if not wrong and episode_entry(e, dataset.manifest) != dataset.episodes[e.index]:
            raise RuntimeError(f"episode {e.index} is not the one that is listed")


WORST: tuple[Any, ...] = (
    *(0, -1, 1, 2, 10**6, 10**12, 2**63, 2**64, 10**40, -(2**63), 1.5, -0.0, 1e308, 1e-320, 3.5e38, 1e20),
    *(float("nan"), float("inf"), None, True, False, "", "x", "\u0000", "../../etc/passwd", "gym:os:x", [], {}, [[]]),
)


def change_value(value: Any, rng: np.random.Generator) -> None:
    """Replace, remove, add or repeat something somewhere in a plain value."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            value.update({"x": 1}) if isinstance(value, dict) else value.append(WORST[rng.integers(len(WORST))])
            return
        key = keys[rng.integers(len(keys))]
        if isinstance(value[key], dict | list) and rng.random() < 0.85:
            value = value[key]
            continue
        way = rng.random()
        if way < 0.1:
            del value[key]
        elif way < 0.15 and isinstance(value, list):
            value.append(value[key])
        elif way < 0.3 and isinstance(value[key], int | float) and not isinstance(value[key], bool):
            value[key] += int(rng.choice([-1, 1]))
        else:
            value[key] = WORST[rng.integers(len(WORST))]
        return


def alike(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and a[name].shape == b[name].shape and a[name].tobytes() == b[name].tobytes()
        for name in a
    )


KINDS: dict[str, type[Subject]] = {"shards": ShardFile, "manifests": ManifestFile, "latents": LatentsFile}
