"""carracing-fast: how close its frames come to the official ones, how fast it is, and how fast the controller stage is
with it.

Reads   a run with V, M and an evolved controller (--logdir)
Writes  docs/benchmarks.md, its section "carracing", and docs/images/carracing-fast.png

    python -m benchmarks.carracing --logdir pretrained/carracing --envpool-python /path/to/python

envpool is compared with if an interpreter is named that has it (`python3.11 -m venv v && v/bin/pip install
envpool==1.2.5`). Whole episodes are driven, their resets and tracks included. What is compared takes turns; leave the
machine alone meanwhile.
"""

import argparse
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import gymnasium
import numpy as np
import torch

from dreamdrive.benchmarks import reference
from dreamdrive.benchmarks.models import regions
from dreamdrive.benchmarks.racing import HEAD, THREADS, Racer, Result, fastest, race, setting_name, spread, with_threads
from dreamdrive.benchmarks.report import circumstances, table, write_section
from dreamdrive.driving.agent import load_agent
from dreamdrive.driving.evaluation import DriverSpec, Evaluator
from dreamdrive.driving.policies import Brown
from dreamdrive.envs import Step, World, make
from dreamdrive.models.controller import parameter_vector
from dreamdrive.models.vae import VAE, to_float
from dreamdrive.models.world_model import load_vision
from dreamdrive.utils.argument_types import positive, positive_float
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.script import run
from dreamdrive.utils.seeds import recording_seed
from dreamdrive.utils.settings import RunFolder, parser
from dreamdrive.utils.spaces import ActionSpace
from dreamdrive.utils.video import save_png
from dreamdrive.utils.workers import WorkerPool

COPIES = 64
CANDIDATES, TRACKS, SIGMA = 64, 4, 0.1  # of a generation
STATES = 50  # at which frames are compared
# mean absolute error in grey levels, per channel
LIMITS = {"the whole frame": 1.0, "road, kerbs and edges": 4.0, "car": 12.0, "grass": 2.0}
MATRIX = 2048  # side of those whose product gives the peak
ENVPOOL = """
import sys, time, envpool, numpy as np
env = envpool.make("CarRacing-v3", env_type="gymnasium", num_envs=1, num_threads=1, seed=int(sys.argv[2]))
rng, frames, start = np.random.default_rng(0), 0, time.perf_counter()
while time.perf_counter() - start < float(sys.argv[1]):
    env.reset()
    action, over = np.array([[0.0, 0.5, 0.5]], np.float32), False
    while not over:
        action = np.clip(action + np.sqrt(1 / 50) * rng.standard_normal((1, 3)), [-1, 0, 0], 1).astype(np.float32)
        _, _, terminated, truncated, _ = env.step(action)
        over, frames = bool(terminated[0] or truncated[0]), frames + 1
print(frames / (time.perf_counter() - start))
"""


# How close the frames are


def side_by_side(
    seed: int, steps: int, choose: Callable[[World, int], torch.Tensor]
) -> Iterator[tuple[Step, Step, World, World]]:
    """Drive the official world and the fast one with the same actions; yields (official step, fast step, official
    world, fast world)."""
    official, fast = make("carracing", restart=False), make("carracing-fast", restart=False)
    official.reset([seed])
    fast.reset([seed])
    for t in range(steps):
        action = choose(official, t)
        yield official.step(action), fast.step(action), official, fast


def frame_pairs() -> tuple[np.ndarray, np.ndarray]:
    """STATES frames (N, 64, 64, 3) of the official world and of the fast one: expert, off the road at full gas, brown;
    three of ten in the first second."""
    rng, found = np.random.default_rng(0), []
    for seed in range(5):
        brown = Brown(make("carracing").spec.space)
        brown.reset(1, [rng])
        drivers = {0: lambda world, t: world.expert_action(), 1: lambda world, t: torch.tensor([[0.3, 0.6, 0.0]])}
        drive = drivers.get(seed % 3, lambda world, t, brown=brown: brown.choose())
        shown = set(rng.choice(np.arange(50, 300), STATES // 5 - 3, replace=False)) | {2, 20, 40}
        found += [(e.obs[0], g.obs[0]) for t, (e, g, *_) in enumerate(side_by_side(seed, 300, drive)) if t in shown]
    official, fast = (torch.stack(frames).numpy() for frames in zip(*found, strict=True))
    return official, fast


def masks(official: np.ndarray) -> dict[str, np.ndarray]:
    """The regions of LIMITS in official frames (N, 64, 64, 3): (N, 64, 64) bool."""
    found = regions(official)
    return {
        "the whole frame": np.ones(official.shape[:3], bool),
        "road, kerbs and edges": found["road"] | found["kerbs and edges"],
        "car": found["car"],
        "grass": found["grass"],
    }


def fidelity(args: argparse.Namespace) -> str:
    """The table of errors; the pairs that were compared go into images/carracing-fast.png beside --out, ten a row:
    official above, fast below."""
    image = args.out.parent / "images" / "carracing-fast.png"
    official, fast = frame_pairs()
    error = np.abs(official.astype(int) - fast)
    rows = [
        [
            name,
            f"{100 * mask.mean():.1f} %",
            f"{error[mask].mean():.2f}",
            f"{LIMITS[name]:g}",
            "yes" if error[mask].mean() < LIMITS[name] else "NO",
        ]
        for name, mask in masks(official).items()
    ]
    stripes = [np.concatenate(frames[i : i + 10], 1) for i in range(0, STATES, 10) for frames in (official, fast)]
    make_folder(image.parent)
    save_png(image, np.concatenate(stripes).repeat(2, 0).repeat(2, 1))
    return (
        f"Mean absolute error of carracing-fast's frames in grey levels (0 to 255) per channel, in {STATES} states: "
        "expert, brown and off the road, the first "
        "second included. Physics, rewards and ends are the official object's own, and so exact "
        "(tests/test_carracing_fast.py).\n\n"
        + table(["pixels", "share", "error", "wanted below", "reached"], rows)
        + f"\n\n![official frames above those of carracing-fast](images/{image.name})"
    )


# How fast the world is


def simulator() -> Callable:
    """Set up a worker: COPIES cars, and the function that drives them for whole episodes on tracks of their own and
    returns the frames made."""
    world = make("carracing-fast", num=COPIES, restart=False)
    brown = Brown(world.spec.space)

    def simulate(turn: int, report: Callable) -> int:
        seeds = [recording_seed(0, turn * COPIES + b) for b in range(COPIES)]
        world.reset(seeds)
        brown.reset(COPIES, [np.random.default_rng([seed, 0]) for seed in seeds])
        frames, going = 0, torch.ones(COPIES, dtype=torch.bool)
        while going.any():
            frames += int(going.sum())
            step = world.step(brown.choose())
            going = ~(step.terminated | step.truncated)
        return frames

    return simulate


def fast_racer(pool: WorkerPool, processes: int) -> Racer:
    turns = iter(range(10**6))

    def racer(seconds: float) -> float:
        frames, start = [0], time.perf_counter()
        while time.perf_counter() - start < seconds:
            turn = next(turns)
            pool.run([processes * turn + k for k in range(processes)], lambda index, made: frames.append(made))
        return sum(frames) / (time.perf_counter() - start)

    return racer


def gymnasium_racer() -> Racer:
    episodes = iter(range(10**6))

    def racer(seconds: float) -> float:
        env = gymnasium.make("CarRacing-v3")
        brown, frames, start = Brown(ActionSpace.from_gym(env.action_space)), 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            seed = recording_seed(0, next(episodes))
            env.reset(seed=seed)
            brown.reset(1, [np.random.default_rng([seed, 0])])
            over = False
            while not over and time.perf_counter() - start < seconds:
                _, _, terminated, truncated, _ = env.step(brown.choose()[0].numpy())
                over, frames = terminated or truncated, frames + 1
        return frames / (time.perf_counter() - start)

    return racer


def envpool_racer(python: Path) -> Racer:
    turns = iter(range(10**6))

    def racer(seconds: float) -> float:
        done = subprocess.run(
            [python, "-W", "ignore", "-c", ENVPOOL, str(seconds), str(next(turns))], capture_output=True, text=True
        )
        if done.returncode:
            raise UserError(
                f"{python} cannot run envpool ({done.stderr.strip().splitlines()[-1]}): name another --envpool-python, "
                "or none"
            )
        return float(done.stdout)

    return racer


def world_speed(args: argparse.Namespace) -> list[Result]:
    with WorkerPool(simulator, (), 1) as one, WorkerPool(simulator, (), 2) as two:
        racers = {"one": fast_racer(one, 1), "two": fast_racer(two, 2), "gymnasium": gymnasium_racer()}
        for racer in racers.values():
            racer(0.1)  # workers start, and make what they make once
        if args.envpool_python:
            racers["envpool"] = envpool_racer(args.envpool_python)
        rates = race(racers, args)
    ours = f"carracing-fast, one process, {COPIES} copies"
    against = {
        "gymnasium": ("gymnasium's CarRacing-v3, one process", 30),
        "envpool": ("envpool's CarRacing-v3, one thread each", 3),
    }
    results = [
        Result("", "frames", ours, *(against[name][0], rates["one"], rates[name], against[name][1]))
        for name in against
        if name in rates
    ]
    return [*results, Result("", "frames", "the same in two processes", "one", rates["two"], rates["one"], 1.7)]


# How fast the controller stage is


def controller_speed(args: argparse.Namespace) -> list[Result]:
    agent = load_agent(args.logdir)
    mean = parameter_vector(agent.controller)
    candidates = mean + SIGMA * torch.randn(CANDIDATES, len(mean), generator=torch.Generator().manual_seed(0))
    turns = iter(range(10**6))

    def ours(seconds: float) -> float:
        turn, before, start = next(turns), evaluator.steps, time.perf_counter()
        with Bar(total=CANDIDATES * TRACKS, desc="a generation", unit="episode", leave=False) as bar:
            evaluator.returns(
                [(p, recording_seed(1, turn * TRACKS + k)) for k in range(TRACKS) for p in candidates], bar
            )
        return (evaluator.steps - before) / (time.perf_counter() - start)

    with Evaluator("carracing-fast", DriverSpec("agent", args.logdir, agent.controller.config_dict()), 2) as evaluator:
        evaluator.returns([(mean, recording_seed(1, 0))] * 4)  # workers start
        settings = {setting_name(threads): with_threads(threads, reference.control) for threads in sorted({1, THREADS})}
        setting, plain = fastest(settings, args.seconds / 2)
        rates = race({"ours": ours, setting: plain}, args)
    return [
        Result(
            "",
            "frames",
            f"traincontroller.py's evaluation, {CANDIDATES} candidates x {TRACKS} tracks, two workers",
            f"one car at a time, as the reference design rolls out ({setting})",
            rates["ours"],
            rates[setting],
            40,
        )
    ]


def roofline(args: argparse.Namespace) -> str:
    """A sentence: what share of the matrix product's peak V's encoder reaches, one thread alone and all threads."""
    vae = load_vision(args.logdir, torch.device("cpu"))[0]
    assert isinstance(vae, VAE), "the layers of that kind are counted"
    frames = torch.randint(256, (COPIES, 64, 64, 3), dtype=torch.uint8)
    a = torch.randn(MATRIX, MATRIX)
    gflop, size = 0.0, 64
    for layer in (layer for layer in vae.encoder.children() if isinstance(layer, torch.nn.Conv2d)):
        size = (size - layer.kernel_size[0]) // 2 + 1
        gflop += 2 * size**2 * layer.weight.numel() / 1e9
    gflop += 2 * (vae.mu.weight.numel() + vae.logsigma.weight.numel()) / 1e9
    parts = []
    with torch.inference_mode():
        for threads in sorted({1, THREADS}):
            peak = with_threads(threads, lambda seconds: reference.timed(lambda: int((a @ a).numel() > 0), seconds))
            encode = with_threads(
                threads, lambda seconds: reference.timed(lambda: len(vae.encode(to_float(frames)).mu), seconds)
            )
            rates = race({"product": peak, "encoder": encode}, args)
            share = [
                100 * gflop * e / (2 * MATRIX**3 / 1e9 * p)
                for e, p in zip(rates["encoder"], rates["product"], strict=True)
            ]
            parts.append(
                f"{setting_name(threads)}: {spread([2 * MATRIX**3 / 1e9 * p for p in rates['product']], ',.0f')} "
                "GFLOP/s peak, "
                f"{spread(rates['encoder'], ',.0f')} frames/s encoded, {spread(share, '.0f')} % of the peak"
            )
    return (
        (
            f"V's encoder costs {gflop:.4f} GFLOP a frame ({COPIES} at once, from uint8, fp32). The peak is that of "
            "fp32 "
            f"products of {MATRIX} x {MATRIX}. "
        )
        + "; ".join(parts)
        + "."
    )


SECTIONS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "fidelity": fidelity,
    "world": world_speed,
    "controller": controller_speed,
    "roofline": roofline,
}


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    RunFolder.add_flags(p)
    p.add_argument(
        "--sections",
        nargs="+",
        choices=SECTIONS,
        default=list(SECTIONS),
        help="what to measure; one alone is printed and not written",
    )
    p.add_argument("--envpool-python", type=Path, help="an interpreter that has envpool, to compare with it")
    p.add_argument(
        "--seconds",
        type=positive_float,
        default=20.0,
        help="that a racer gets in one turn, at least: episodes are finished",
    )
    p.add_argument("--repetitions", type=positive, default=5, help="turns")
    p.add_argument("--out", type=Path, default=Path("docs/benchmarks.md"), help="document to write the section into")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    found = {name: SECTIONS[name](args) for name in args.sections}
    speeds = [result.row() for name in ("world", "controller") for result in found.get(name, [])]
    parts = [
        found.get("fidelity", ""),
        f"Median (lowest to highest) of {args.repetitions} turns of {args.seconds:g} s or more each.",
        table(HEAD, speeds) if speeds else "",
        found.get("roofline", ""),
    ]
    text = "\n\n".join(filter(None, parts))
    print(text)
    if set(args.sections) == set(SECTIONS):
        write_section(args.out, "carracing", f"## carracing-fast\n\n{text}\n\nMeasured on: {circumstances()}")
        print(f"written into {args.out}")


if __name__ == "__main__":
    run(main)
