"""What synthetic scenes are worth: that nobody in them collides or leaves the road, that everybody gets where they go,
and how often an ego must mind the others.

Reads   nothing
Writes  docs/benchmarks.md, its section "synthetic"

    python -m benchmarks.synthetic --scenes 500

Each scene is written as JSON, read again as anybody's scenes are, and its log replayed in the simulator. From step 10
on an ego is then asked, everybody else replaying: does it fail (hit something, or miss its goal by more than a metre)
if it keeps its velocity; does it hit somebody if it drives its own path as on an empty road?
"""

import argparse
import json
import multiprocessing
import time
from collections import Counter
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
import torch

from dreamdrive.benchmarks.report import circumstances, table, write_section
from dreamdrive.envs.nocturne.scene import STEPS, Scene, load_scene
from dreamdrive.envs.nocturne.simulator import GOAL_DISTANCE, ROAD_EDGE, VEHICLE, Simulator
from dreamdrive.envs.nocturne.synthetic import scene_bytes
from dreamdrive.envs.nocturne.synthetic.scenes import KINDS, draw
from dreamdrive.envs.nocturne.synthetic.statistics import interactions_of
from dreamdrive.utils.argument_types import natural, positive
from dreamdrive.utils.cores import usable
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

COUNTED = ("scenes", "objects", "egos", "collide", "on an edge", "goal missed", "must act", "must react", "must yield")


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--scenes", type=positive, default=500, help="how many")
    p.add_argument("--seed", type=natural, default=0, help="of the scenes")
    p.add_argument("--max-workers", type=positive, default=usable(), help="processes")
    p.add_argument("--out", type=Path, default=Path("docs/benchmarks.md"), help="document to write the section into")
    return p.parse_args()


def replayed(scene: Scene) -> tuple[int, int, int]:
    """Objects that touch another one, vehicles that touch a road edge, and egos that never come within a metre of their
    goal, when all replay their log."""
    sim = Simulator([scene], collisions="all")
    none, everybody = torch.full_like(sim.length, torch.nan), torch.ones_like(sim.present)
    touched, left, nearest = (
        torch.zeros_like(everybody),
        torch.zeros_like(everybody),
        torch.full_like(sim.length, torch.inf),
    )
    for t in range(STEPS):
        if t:
            sim.step(none, none, everybody)
        touched |= (sim.collision == VEHICLE) & sim.there
        left |= (sim.collision == ROAD_EDGE) & sim.there
        nearest = torch.minimum(nearest, sim.goal_distance().masked_fill(~sim.there, torch.inf))
    egos = [scene.index(ego) for ego in scene.egos]
    return int(touched.sum()), int(left[0, egos].sum()), int((nearest[0, egos] >= GOAL_DISTANCE).sum())


def look_at(task: tuple[int, int]) -> tuple[str, Counter, float]:
    """The kind of a scene, what is counted of it, and the seconds it took to make."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    drawn = draw(*task)
    content = json.loads(scene_bytes(drawn.scene))
    seconds = time.perf_counter() - began
    scene, found = (
        load_scene(f"{task[1]}.json", "nocturne", spawn_invalid=True, content=content),
        interactions_of(drawn),
    )
    collide, left, missed = replayed(scene)
    values = (
        1,
        len(scene.ids),
        len(scene.egos),
        collide,
        left,
        missed,
        found.must_act,
        found.must_react,
        found.must_yield,
    )
    return drawn.kind, Counter(dict(zip(COUNTED, values, strict=True))), seconds


def row(name: str, counted: Counter) -> list[str]:
    """Of a kind of scenes."""
    shares = [f"{100 * counted[what] / max(counted['egos'], 1):.1f} %" for what in COUNTED[-3:]]
    return [name, *(f"{counted[what]:,}" for what in COUNTED[:-3]), *shares]


def main() -> None:
    args = parse_args()
    by_kind: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    seconds = []
    with multiprocessing.get_context("spawn").Pool(args.max_workers) as pool:
        for kind, counted, took in Bar(
            pool.imap(look_at, [(args.seed, k) for k in range(args.scenes)]),
            total=args.scenes,
            desc="scenes",
            unit="scene",
        ):
            by_kind[kind] += counted
            seconds.append(took)
    listed = table(
        ["", *COUNTED],
        [*(row(kind, counted) for kind, counted in by_kind.items()), row("all", sum(by_kind.values(), Counter()))],
    )
    text = (
        f"{listed}\n\nA scene takes {np.median(seconds):.2f} s to make (median of {args.scenes}). {circumstances()}\n\n"
    )
    command = f"python -m benchmarks.synthetic --scenes {args.scenes} --seed {args.seed}"
    write_section(args.out, "synthetic", f"{text}```\n{command}\n```\n")
    print(listed)


if __name__ == "__main__":
    run(main)
