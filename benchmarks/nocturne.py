"""Nocturne's simulator: how far it agrees with Nocturne itself, and how fast it is.

Reads   scenes (--scenes), and Nocturne's own results for them (--oracle), where there are any
Writes  docs/benchmarks.md, its section "nocturne"

    python -m benchmarks.nocturne --scenes ../shared/nocturne/scenes --oracle ../shared/nocturne/oracle

Leave the machine alone meanwhile.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
import torch
from torch import Tensor

from dreamdrive.benchmarks.report import circumstances, table, write_section
from dreamdrive.envs.nocturne import Scene, Simulator, features, load_scene, visible
from dreamdrive.envs.nocturne.folder_index import scene_files
from dreamdrive.envs.nocturne.scene import OBJECTS, STEPS
from dreamdrive.envs.nocturne.simulator import wrap
from dreamdrive.utils.argument_types import positive
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

COPIES = 256
VIEWS = 64  # egos asked for at once
LIMITS = {"position, m a step": 1e-3, "heading, rad": 1e-5, "speed, m/s": 1e-5}


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--scenes", type=Path, default=Path("../shared/nocturne/scenes"), help="folder of scenes")
    p.add_argument(
        "--oracle",
        type=Path,
        default=Path("../shared/nocturne/oracle"),
        help="folder of Nocturne's results, one folder a scene; left out if it is not there",
    )
    p.add_argument("--repetitions", type=positive, default=5, help="of each measurement; the median counts")
    p.add_argument("--device", default="cpu", help="cpu or cuda")
    p.add_argument("--out", type=Path, default=Path("docs/benchmarks.md"), help="document to write the section into")
    return p.parse_args()


# Agreement


def replayed(scene: Scene, replay: dict, mode: str) -> tuple[np.ndarray, int, int]:
    """Largest errors of position, heading and speed over one replayed log, collision flags that differ, and how many
    were compared."""
    sim = Simulator([scene], collisions="all")
    expert = torch.ones_like(sim.present) if mode == "all" else sim.type == OBJECTS.index("vehicle")
    none, worst, different, compared = torch.full_like(sim.length, torch.nan), np.zeros(3), 0, 0
    for t in range(STEPS):
        if t:
            sim.step(none, none, expert)
        wanted, there = torch.from_numpy(replay[f"{mode}_state"][t]), sim.there[0]
        worst = np.maximum(worst, errors(sim.state[0][there], wanted[there]))
        flags = np.where(replay[f"{mode}_collided"][t], replay[f"{mode}_collision_type"][t], 0)
        different, compared = (
            different + int((sim.collision[0].numpy() != flags)[there].sum()),
            compared + int(there.sum()),
        )
        # gliding objects gather Nocturne's rounding
        sim.local[0, ~expert[0]] = (wanted.double() - torch.tensor([*scene.origin, 0, 0])).float()[~expert[0]]
    return worst, different, compared


def driven(scene: Scene, dynamics: dict) -> np.ndarray:
    """Largest errors of position, heading and speed after one step, over all steps of all recorded rollouts."""
    worst, who = np.zeros(3), np.searchsorted(scene.ids, dynamics["ids"])
    for kind in ("random", "wild", "dt005"):
        states, actions = torch.from_numpy(dynamics[f"{kind}_states"]), torch.from_numpy(dynamics[f"{kind}_actions"])
        sim = Simulator([scene] * actions.shape[1])  # a copy a step
        sim.local[:, who] = (states[:, :-1].double() - torch.tensor([*scene.origin, 0, 0])).float().transpose(0, 1)
        inputs = torch.zeros(*sim.length.shape, 2)
        inputs[:, who] = actions.transpose(0, 1)
        sim.step(inputs[..., 0], inputs[..., 1], torch.zeros_like(sim.present), float(dynamics[f"{kind}_dt"]))
        worst = np.maximum(worst, errors(sim.state[:, who].transpose(0, 1), states[:, 1:]))
    return worst


def errors(ours: Tensor, wanted: Tensor) -> np.ndarray:
    """Largest differences (3,) of position, heading and speed between states (..., 4)."""
    error = (ours - wanted).abs().reshape(-1, 4)
    return np.array([error[:, :2].max(), wrap(error[:, 2]).abs().max(), error[:, 3].max()])


def seen(scene: Scene, views: list[dict]) -> tuple[int, int]:
    """Visible objects that only one of the two sees, and how many Nocturne sees."""
    different = total = 0
    sim = Simulator([scene])
    for view in views:
        sim.reset(time=view["t"])
        ours = (
            visible(sim, [(0, scene.index(view["ego"]))], view["view_dist"], view["view_angle"], view["head_angle"])
            .objects[0]
            .numpy()
        )
        different, total = (
            different + len(set(scene.ids[ours].tolist()) ^ set(view["visible_ids"])),
            total + len(view["visible_ids"]),
        )
    return different, total


def agreement(scenes: dict[str, Scene], oracle: Path) -> str:
    """A table with a row a scene."""
    rows = []
    for name, scene in scenes.items():
        folder = oracle / name
        if not folder.exists():
            continue
        dynamics, replay, expert = (np.load(folder / f"{kind}.npz") for kind in ("dynamics", "replay", "expert"))
        worst, flags, compared = driven(scene, dynamics), 0, 0
        for mode in ("all", "vehicles"):
            error, different, count = replayed(scene, replay, mode)
            worst, flags, compared = np.maximum(worst, error), flags + different, compared + count
        wanted = expert["action"][:, : STEPS - 1, :2].copy()
        wanted[expert["action_is_none"][:, : STEPS - 1]] = np.nan
        undefined = int((np.isnan(wanted) != np.isnan(scene.expert_action)).sum())
        action = np.nanmax(np.abs(wanted - scene.expert_action), axis=(0, 1))
        apart, total = seen(scene, json.loads((folder / "visibility.json").read_text()))
        rows.append(
            [
                name,
                *(f"{w:.1e}" for w in worst),
                f"{action[0]:.1e}",
                f"{action[1]:.1e}",
                str(undefined),
                f"{flags} of {compared:,}",
                f"{apart} of {total}",
            ]
        )
    head = [
        "scene",
        *LIMITS,
        "expert acceleration",
        "expert steering",
        "defined by one only",
        "collision flags that differ",
        "visible ids that differ",
    ]
    return table(head, rows)


# Speed


def rate(work: Callable[[], int], repetitions: int) -> str:
    """Median and spread of what `work` does a second (it returns how much it did)."""
    work()
    found = []
    for _ in range(repetitions):
        start = time.perf_counter()
        done = work()
        found.append(done / (time.perf_counter() - start))
    return f"{statistics.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f})"


def speeds(name: str, scene: Scene, repetitions: int, device: str) -> list[str]:
    """A row of the table of speeds."""
    sim = Simulator([scene] * COPIES, device)
    vehicles, ego = sim.type == OBJECTS.index("vehicle"), scene.index(int(scene.egos[0]))
    zero = torch.zeros(sim.present.shape, device=sim.device)
    alone = torch.ones_like(sim.present)
    alone[:, ego] = False

    def steps(expert: Tensor, count: int) -> int:
        sim.reset()
        for _ in range(count):
            sim.step(zero, zero, expert)
        if sim.device.type == "cuda":
            torch.cuda.synchronize()
        return COPIES * count

    egos = [(b, ego) for b in range(VIEWS)]
    return [
        name,
        str(len(scene.ids)),
        str(int(vehicles[0].sum())),
        rate(lambda: steps(alone, STEPS - 1), repetitions),
        rate(lambda: steps(~vehicles, 20), repetitions),
        rate(lambda: len(visible(sim, egos).objects), repetitions),
        rate(lambda: len(features(sim, egos).ego), repetitions),
    ]


def main() -> None:
    args = parse_args()
    scenes = {path.stem: load_scene(path, spawn_invalid=False) for path in scene_files(args.scenes)}
    parts = []
    if args.oracle.is_dir():
        parts.append(
            "How far it agrees with Nocturne: largest differences from Nocturne's own results, on every scene there "
            "are any for. Allowed: positions "
            f"{LIMITS['position, m a step']:g} m, headings {LIMITS['heading, rad']:g} rad, no flag, 1 % of the "
            f"ids.\n\n{agreement(scenes, args.oracle)}"
        )
    head = [
        "scene",
        "objects",
        "vehicles",
        "steps/s, one ego driven",
        "steps/s, all vehicles driven",
        f"visible/s, {VIEWS} egos at once",
        "features/s",
    ]
    rows = [speeds(name, scene, args.repetitions, args.device) for name, scene in scenes.items() if len(scene.egos)]
    parts.append(
        f"How fast it is: {COPIES} copies of a scene on {args.device}, a step of all of them counting {COPIES} times; "
        f"median of {args.repetitions} (range). "
        "Nocturne's own figures on such a machine, one process: 19,000 to 45,000 expert steps/s, 24,000 to 70,000 "
        "dynamics steps/s, 6,000 to 19,000 visible "
        f"states/s.\n\n{table(head, rows)}"
    )
    text = "\n\n".join(
        [
            "## Nocturne's simulator",
            *parts,
            f"Measured by `python -m benchmarks.nocturne --repetitions {args.repetitions}` on: {circumstances()}",
        ]
    )
    write_section(args.out, "nocturne", text)
    print(text)


if __name__ == "__main__":
    run(main)
