"""What workers of a Ray cluster cost, on two nodes of this computer with a core each, against workers of this computer.

Writes  docs/scale.md, its section "ray"

    python -m benchmarks.cluster

Recording: whole commands take turns, and their datasets are compared. A task: the time from one to the next, where
there is nothing to do. Many: actors that sleep, whose tasks last as long as they say; what that takes longer is the
dispatcher's part. Leave the machine alone meanwhile.
"""

import argparse
import hashlib
import pickle
import random
import resource
import subprocess
import sys
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
from dreamdrive.data.manifest import EpisodeEntry, Manifest, ShardEntry, read_manifest, split, write_manifest
from dreamdrive.driving.evaluation import Driven
from dreamdrive.utils.argument_types import positive
from dreamdrive.utils.cluster import ALL, Carried, Cluster
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.ray_workers import Broker
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser
from dreamdrive.utils.workers import WorkerPool

ROOT = Path(__file__).resolve().parent.parent
RECORDING = ("--env", "carracing-fast", "--policy", "brown", "--max-steps", "500", "--quiet")
SHARD = 10_000_000  # bytes of a shard of CarRacing, ten episodes
STARTED = 600.0  # seconds that sleeping actors may take to be there
WEIGHTS = 867  # of the linear controller of z and h, of 32 and 256 numbers, for 3 of an action


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--turns", type=positive, default=3, help="recordings of each kind")
    p.add_argument("--episodes", type=positive, default=48, help="of a recording")
    p.add_argument("--tasks", type=positive, default=1000, help="of the measurement of a task")
    p.add_argument("--actors", type=positive, default=200, help="that sleep")
    return p.parse_args()


def recorded(folder: Path, episodes: int, session: int, *how: str) -> tuple[float, float]:
    """Frames a second of a whole command of stage 1, and frames a second that it and what is of `session` computed."""
    words = [str(ROOT / "data" / "generation_script.py"), *RECORDING, "--rollouts", str(episodes)]
    began, used = time.monotonic(), used_by(session)
    command = [sys.executable, *words, "--rootdir", str(folder), *how]
    # a session by itself, as the nodes are: on a busy machine each gets its share of the cores
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder.parent, start_new_session=True)
    frames = sum(shard.frames for shard in read_manifest(folder).shards)
    return frames / (time.monotonic() - began), frames / (used_by(session) - used)


def used_by(session: int) -> float:
    """Seconds that the commands so far, and what is of a session, have computed."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime + computed(session)


def race_recordings(args: argparse.Namespace, address: str, session: int) -> list[list[str]]:
    """Rows: frames by two workers of the cluster, by two here, and the ratio; UserError where the datasets differ.
    What is of the cluster is of a `session`."""
    here, there = [], []
    with tempfile.TemporaryDirectory() as place:
        for turn in range(args.turns):
            folders = [Path(place, f"{name}-{turn}") for name in ("here", "there")]
            here.append(recorded(folders[0], args.episodes, session, "--threads", "2"))
            there.append(recorded(folders[1], args.episodes, session, "--ray", address))
            print(
                f"  turn {turn + 1}: {there[-1]} frames a second, and of computing, on Ray, {here[-1]} here", flush=True
            )
            files = [{p.name: p.read_bytes() for p in f.iterdir() if p.name != "args.json"} for f in folders]
            if files[0] != files[1]:
                raise UserError(f"the datasets of {address} and of this machine differ")
    rows = []
    for k, name in enumerate(("frames recorded a second, whole commands", "the same, a second of computing")):
        pair = [[rates[k] for rates in kind] for kind in (there, here)]
        ratios = [a / b for a, b in zip(*pair, strict=True)]
        rows.append([name, *(spread(rates, ",.0f") for rates in pair), spread(ratios, ".2f")])
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
                used, since, began = crew.computed(), time.process_time(), time.monotonic()
                pool.run(tasks, lambda *result: None)
                took = time.monotonic() - began
                best = sum(nap for nap, _ in tasks) / there
                cpu = (crew.computed() - used, time.process_time() - since)
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
            manifest, took = dataset_of(episodes), []
            for k in range(5):
                temporary = folder / f".shard_{k}"
                temporary.write_bytes(b"")
                began = time.monotonic()
                shards.publish_shard(temporary, folder / f"shard_0000{k}.h5", "0" * 64)
                write_manifest(folder, manifest)
                took.append(1000 * (time.monotonic() - began))
            size = f"in a dataset of {episodes:,} episodes"
            lines.append(f"to publish a shard {size} takes {spread(took, '.0f')} ms of the command")
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
    population, samples = 64, 16
    group = [np.zeros(WEIGHTS, np.float32)] * 64
    task = len(pickle.dumps(([vector.copy() for vector in group], list(range(64)), 60)))
    result = len(pickle.dumps(([Driven(0.5, {}, "") for _ in range(64)], 64_000)))
    groups = population * samples // 64
    return (
        f"a generation of {population} candidates of {WEIGHTS} weights, {samples} episodes each, is {groups} tasks of "
        f"64 episodes: {groups * task / 1e6:.1f} MB to the workers, {groups * result / 1e3:.0f} kB back"
    )


def main() -> None:
    args = parse_args()
    with nodes_beside() as (address, session):
        rows = [*race_recordings(args, address, session), *cost_of_tasks(args, address)]
    head = ["two workers", "on two Ray nodes of one core", "here", "ratio, or difference"]
    lines = [*cost_of_shards(), *many(args), moved()]
    text = "\n\n".join([f"{circumstances()}.", table(head, rows), "\n".join(f"- {line}" for line in lines)])
    write_section(ROOT / "docs" / "scale.md", "ray", text)


if __name__ == "__main__":
    run(main)
