"""What a driver of CarRacing loses on its worst tracks: the longest time without a new piece of road, where that began,
how fast it was there, and what it saw before and after.

Reads   a run, and its score on the official CarRacing-v3 (`python test_controller.py --logdir exp_dir`)
Writes  a picture, a row a track: frames around that moment

    python -m benchmarks.lost --logdir exp_dir/dream/rounds/best --out docs/results/images/dream-lost.png
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
import torch

from dreamdrive.benchmarks.report import table
from dreamdrive.driving.agent import load_agent
from dreamdrive.driving.driver import drive
from dreamdrive.envs import make
from dreamdrive.envs.carracing import CarRacing
from dreamdrive.utils import runs
from dreamdrive.utils.argument_types import controller, positive
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.scores import score_file
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import RunFolder, parser
from dreamdrive.utils.video import save_png, strip

ENV = "carracing"
BEFORE, AFTER, EVERY = 0.8, 1.6, 0.08  # seconds that are shown, and between two frames


@dataclass(frozen=True)
class Lost:
    """A drive.

    Fields:
        seed: of the track        score: of the drive
        since: seconds after which the longest time without a new piece of road began        lasted: how long that was
        speed: of the car then, in the simulator's units a second
        steering: then, on average over half a second, -1 (left) to 1
        frames: around it, uint8 (H, W, 3) each
    """

    seed: int
    score: float
    since: float
    lasted: float
    speed: float
    steering: float
    frames: list[np.ndarray]


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    RunFolder.add_flags(p)
    p.add_argument("--controller", type=controller, default="ctrl", help="the driver: ctrl, bc or one with a name")
    p.add_argument("--tracks", type=positive, default=6, help="the worst ones, so many")
    p.add_argument("--out", type=Path, default=Path("lost.png"), help="picture to write")
    return p.parse_args()


def worst(args: argparse.Namespace) -> list[int]:
    """Seeds of the tracks with the lowest scores."""
    path = score_file(runs.results(args.logdir), args.controller, ENV, "simulator")
    if not path.exists():
        raise UserError(
            f"{path} is not there: run `python test_controller.py --logdir {args.logdir} --controller "
            f"{args.controller}` first"
        )
    returns = json.loads(path.read_text())["returns"]
    return sorted(map(int, returns), key=lambda seed: returns[str(seed)])[: args.tracks]


@torch.inference_mode()
def driven(args: argparse.Namespace, seed: int) -> Lost:
    """The drive on a track again, looked at."""
    agent = load_agent(args.logdir, args.controller)
    world = cast(CarRacing, make(ENV, 1, restart=False, **agent.world.get("options", {})))
    frames, rewards, speeds, steering = [], [], [], []
    for moment in drive(world, agent, [seed]):
        frames.append(moment.obs[0].numpy())
        if moment.step is not None:
            hull = world._environments[0].unwrapped.car.hull
            speeds.append(float(np.linalg.norm(hull.linearVelocity)))
            steering.append(float(moment.action[0, 0]))
            rewards.append(float(moment.step.reward[0]))
    dt, found = world.spec.dt, np.append(np.flatnonzero(np.array(rewards) > 0), len(rewards))
    longest = int(np.diff(found).argmax())
    last, gap = int(found[longest]), int(found[longest + 1] - found[longest])
    first, end, stride = last - round(BEFORE / dt), last + round(AFTER / dt), max(1, round(EVERY / dt))
    shown = [frames[min(max(0, i), len(frames) - 1)] for i in range(first, end, stride)]
    half = max(1, round(0.5 / dt))
    steered = float(np.mean(steering[max(0, last - half) : last + 1]))
    return Lost(seed, sum(rewards), last * dt, gap * dt, speeds[last], steered, shown)


def main() -> None:
    args = parse_args()
    found = [driven(args, seed) for seed in worst(args)]
    save_png(args.out, strip([(f"{one.seed}: {one.score:.0f}", one.frames) for one in found], height=64))
    head = ["track", "score", "no new road from", "for", "speed then", "steering then"]
    rows = [
        [
            str(one.seed),
            f"{one.score:.0f}",
            f"{one.since:.1f} s on",
            f"{one.lasted:.1f} s",
            f"{one.speed:.0f}",
            f"{one.steering:+.2f}",
        ]
        for one in found
    ]
    print(f"{table(head, rows)}\n{args.out}")


if __name__ == "__main__":
    run(main)
