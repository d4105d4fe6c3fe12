"""What workers of a Ray cluster cost, on two nodes of this computer with a core each, against workers of this computer.

Writes  docs/scale.md, its section "ray"

    python -m benchmarks.cluster

Recording: workers of both kinds take turns, and their shards are compared. A task: the time from one to the next, where
there is nothing to do. Many: actors that sleep, whose tasks last as long as they say; what that takes longer is the
dispatcher's part. Leave the machine alone meanwhile.
"""

import argparse
import hashlib
import pickle
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np

from dreamdrive.benchmarks.racing import spread
from dreamdrive.benchmarks.ray_nodes import Nodes, Sleepers, computed, nodes_beside, sleeper
from dreamdrive.benchmarks.report import circumstances, table, write_section
from dreamdrive.data import shards
from dreamdrive.data.ledger import Ledger
from dreamdrive.data.manifest import EpisodeEntry, Manifest, ShardEntry, split
from dreamdrive.driving.evaluation import Driven
from dreamdrive.driving.recorder import Recipe
from dreamdrive.driving.recording import set_up
from dreamdrive.envs import make
from dreamdrive.utils.argument_types import positive
from dreamdrive.utils.cluster import ALL, Carried, Cluster
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.ray_workers import Broker
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser
from dreamdrive.utils.workers import WorkerPool

ROOT = Path(__file__).resolve().parent.parent
EPISODES, STEPS = 5, 300  # of a shard, and of an episode
SHARDS: dict[str, set[str]] = {}  # digests by name
SHARD = 10_000_000  # bytes of a shard of CarRacing, ten episodes
PUBLISHED = 200  # shards, one after another
STARTED = 600.0  # seconds that sleeping actors may take to be there
WEIGHTS = 867  # of the linear controller of z and h, of 32 and 256 numbers, for 3 of an action


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--turns", type=positive, default=5, help="recordings of each kind")
    p.add_argument("--shards", type=positive, default=4, help="that each worker records in a turn")
    p.add_argument("--tasks", type=positive, default=1000, help="of the measurement of a task")
    p.add_argument("--actors", type=positive, default=200, help="that sleep")
    return p.parse_args()


def recorded(pool: WorkerPool, first: int, shards_each: int) -> tuple[float, float]:
    """Frames a second that a pool records, and frames a second that its workers compute."""
    tasks = [(f"shard_{k:05d}.h5", k * EPISODES, (k + 1) * EPISODES) for k in range(first, first + 2 * shards_each)]
    frames = 0
    used, began = cpu_of(pool), time.monotonic()

    def add(index: int, result: tuple[Path, ShardEntry, list]) -> None:
        nonlocal frames
        frames += result[1].frames
        SHARDS.setdefault(tasks[index][0], set()).add(hashlib.sha256(result[0].read_bytes()).hexdigest())
        result[0].unlink()

    pool.run(tasks, add)
    return frames / (time.monotonic() - began), frames / (cpu_of(pool) - used)


def cpu_of(pool: WorkerPool) -> float:
    return sum(computed(worker.pid) for worker in pool.workers if worker is not None)


def race_recordings(args: argparse.Namespace, address: str) -> list[list[str]]:
    """Rows: frames by two workers of the cluster, by two here, and the ratio; UserError where shards differ."""
    recipe = Recipe(make, "carracing-fast", STEPS, 0, {"brown": 1.0}, 0.0, Path("none"))
    rates: dict[str, list[tuple[float, float]]] = {"there": [], "here": []}
    with tempfile.TemporaryDirectory() as place:
        setup = (recipe, dataset_of(0), Path(place))
        carried = Carried(writes=Path(place))
        with (
            WorkerPool(set_up, setup, 2, cluster=Cluster(address), carried=carried) as there,
            WorkerPool(set_up, setup, 2) as here,
        ):
            for turn in range(args.turns + 1):
                for name, pool in (("there", there), ("here", here)):
                    found = recorded(pool, 2 * args.shards * turn, args.shards)
                    if turn:  # everybody has been there once
                        rates[name].append(found)
                        print(
                            f"  turn {turn}: {found[0]:.0f} frames a second, {found[1]:.0f} of computing, {name}",
                            flush=True,
                        )
    if any(len(found) != 1 for found in SHARDS.values()):
        raise UserError(f"shards of {address} and of this machine differ")
    rows = []
    for k, name in enumerate(("frames recorded a second", "frames a second that workers compute")):
        pair = [[found[k] for found in rates[kind]] for kind in ("there", "here")]
        ratios = [a / b for a, b in zip(*pair, strict=True)]
        rows.append([name, *(spread(found, ",.0f") for found in pair), spread(ratios, ".2f")])
    return rows


def per_task(pool: WorkerPool, tasks: Sequence) -> float:
    """Milliseconds from one task to the next."""
    pool.run(tasks[:10], lambda *result: None)  # everybody is there
    began = time.monotonic()
    pool.run(tasks, lambda *result: None)
    return 1000 * (time.monotonic() - began) / len(tasks)


def cost_of_tasks(args: argparse.Namespace, address: str) -> list[list[str]]:
    """Rows: milliseconds a task, by one worker of the cluster and by one here."""
    rows = []
    for what, answer in (("nothing", 0), ("an answer of 1 MB", 1_000_000)):
        tasks = [(0.0, answer)] * (args.tasks if not answer else args.tasks // 10)
        took = []
        for cluster in (Cluster(address), None):
            with WorkerPool(sleeper, (), 1, cluster=cluster) as pool:
                took.append(per_task(pool, tasks))
        rows.append([f"ms a task, {what}", *(f"{ms:.2f}" for ms in took), f"{took[0] - took[1]:.2f} more"])
        print(f"  {rows[-1]}", flush=True)
    return rows


def many(args: argparse.Namespace) -> list[str]:
    """What a dispatcher does with many actors that sleep."""
    drawn = random.Random(0)
    lines = []
    with Nodes(1, cores=args.actors) as nodes:
        pool = WorkerPool(sleeper, (), ALL, cluster=Cluster(nodes.address))
        crew = pool.crew = Sleepers(ALL, Cluster(nodes.address), Carried())
        with pool:
            began, there = time.monotonic(), 0
            while there < args.actors and time.monotonic() - began < STARTED:
                pool.run([(5.0, 0)] * args.actors, lambda *result: None)
                there = sum(worker is not None and worker.placed for worker in pool.workers)
            print(f"  {there} actors after {time.monotonic() - began:.0f} s", flush=True)
            for seconds, rounds in ((5.0, 4), (1.0, 10)):
                tasks = [(seconds * drawn.uniform(0.9, 1.1), 2000) for _ in range(rounds * args.actors)]
                used, since, began = computed(crew.broker), time.process_time(), time.monotonic()
                pool.run(tasks, lambda *result: None)
                took = time.monotonic() - began
                best = sum(nap for nap, _ in tasks) / there
                cpu = (computed(crew.broker) - used, time.process_time() - since)
                lines.append(
                    f"{there} actors, {len(tasks)} tasks of {seconds:g} s: {took:.1f} s where {best:.1f} would be the "
                    f"least, {best / took:.0%}; a task takes {1000 * cpu[0] / len(tasks):.1f} ms of the broker's core "
                    f"and {1000 * cpu[1] / len(tasks):.1f} ms of the command's"
                )
                print(f"  {lines[-1]}", flush=True)
    return lines


def cost_of_shards() -> list[str]:
    """Rows: what a shard of SHARD bytes takes of the broker, and of the command in datasets of different sizes."""
    lines = []
    with tempfile.TemporaryDirectory(dir=ROOT) as place:  # a disk, where /tmp may be memory
        folder, content = Path(place), np.random.default_rng(0).bytes(SHARD)
        own = object.__new__(Broker)  # of which only this is wanted
        own._writes, own._coming = folder, {}
        digest = hashlib.sha256(content).hexdigest()
        took = []
        for k in range(20):
            began = time.monotonic()
            assert own._part(0, f"part-{k}", content) is None and own._whole(0, f"part-{k}", digest) is None
            took.append(1000 * (time.monotonic() - began))
        lines.append(f"a shard of {SHARD / 1e6:g} MB takes {spread(took, '.0f')} ms of the broker")
        for episodes in (1_000, 10_000, 100_000):
            whole = dataset_of(episodes + 10 * PUBLISHED)
            there = replace(whole, shards=whole.shards[:-PUBLISHED], episodes=whole.episodes[:episodes])
            with Ledger(folder, there) as ledger:
                began = time.monotonic()
                for entry in whole.shards[-PUBLISHED:]:
                    temporary = folder / ".shard"
                    temporary.write_bytes(b"")
                    shards.publish_shard(temporary, folder / entry.file, entry.sha256)
                    ledger.add(entry, whole.episodes[entry.first : entry.last])
            each = 1000 * (time.monotonic() - began) / PUBLISHED
            size = f"in a dataset of {episodes:,} episodes"
            lines.append(f"to publish a shard {size} takes {each:.0f} ms of the command")
    for line in lines:
        print(f"  {line}", flush=True)
    return lines


def dataset_of(episodes: int) -> Manifest:
    """A manifest of so many episodes, ten in a shard."""
    action = {"type": "box", "low": [-1.0, 0.0, 0.0], "high": [1.0, 1.0, 1.0]}
    whole = Manifest("carracing", (64, 64, 3), action, 0.02, 1000, 0, "brown", 0.0, 0.1, episodes, ("brown",))
    files = []
    for k in range(episodes // 10):
        files.append(ShardEntry(f"shard_{k:05d}.h5", "0" * 64, SHARD, 10 * k, 10 * k + 10, 10_010, 10_000))
    entries = (EpisodeEntry(i, i, "brown", 1000, 512.3456789, split(i, 0.1)) for i in range(episodes))
    return replace(whole, shards=tuple(files), episodes=tuple(entries))


def moved() -> str:
    """Bytes of a generation of evolution in the simulator."""
    population, samples, together = 64, 16, 16
    weights = [np.zeros(WEIGHTS, np.float32) for _ in range(together)]
    task = len(pickle.dumps((weights, list(range(together)), 60)))
    result = len(pickle.dumps(([Driven(0.5, {}, "") for _ in range(together)], 1000 * together)))
    groups = population * samples // together
    return (
        f"a generation of {population} candidates of {WEIGHTS} weights, {samples} episodes each, is {groups} tasks of "
        f"{together} episodes: {groups * task / 1e6:.1f} MB to the workers, {groups * result / 1e3:.0f} kB back"
    )


def main() -> None:
    args = parse_args()
    with nodes_beside() as address:
        rows = [*race_recordings(args, address), *cost_of_tasks(args, address)]
    head = ["two workers", "on two Ray nodes of one core", "here", "ratio, or difference"]
    lines = [*cost_of_shards(), *many(args), moved()]
    text = "\n\n".join([f"{circumstances()}.", table(head, rows), "\n".join(f"- {line}" for line in lines)])
    write_section(ROOT / "docs" / "scale.md", "ray", text)


if __name__ == "__main__":
    run(main)
