"""What a GPU makes of the work of every stage, the processor beside it, in one run of a few minutes.

Reads   nothing; episodes are recorded into a temporary folder
Writes  docs/benchmarks.md        its section "gpu"

    python -m benchmarks.gpu

Everything is measured on the processor and on --device, taking turns; without a GPU the processor alone. Cones are
drawn by OpenGL, which has a device of its own: it is named in the table.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
import torch

from dreamdrive.benchmarks import ditto
from dreamdrive.benchmarks.racing import Racer, spread
from dreamdrive.benchmarks.reference import timed
from dreamdrive.benchmarks.report import circumstances, table, write_section
from dreamdrive.benchmarks.stages import CPU, DIGEST, dreamers, our_dream, our_mdrnn, our_vae
from dreamdrive.data.latents import cache_latents
from dreamdrive.data.shards import Dataset
from dreamdrive.driving.policies import Brown
from dreamdrive.driving.recording import generate
from dreamdrive.driving.recording_settings import RecordingSettings
from dreamdrive.envs import make
from dreamdrive.envs.catalogue import WARMUP
from dreamdrive.envs.nocturne import Scene, Simulator, load_scene
from dreamdrive.envs.nocturne.cone import render_cones, renderer
from dreamdrive.envs.nocturne.synthetic import write_scenes
from dreamdrive.models.vae import VAE, VAEConfig
from dreamdrive.utils.argument_types import positive, positive_float
from dreamdrive.utils.cores import usable
from dreamdrive.utils.device import device
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

ROOT = Path(__file__).resolve().parent.parent
WARM = 0.2  # seconds before the first turn, in which kernels are chosen and made
COPIES, EGOS, PIXELS = 64, 64, 128  # cars; cones drawn at once, and their side
RECORDED = RecordingSettings(env="carracing-fast", policy="brown", rollouts=16, max_steps=250, val_fraction=0.2)
DRIVEN = 40  # steps of a turn with Nocturne's simulator


def add_flags(p: argparse.ArgumentParser, seconds: float) -> None:
    """Of who measures the work of all stages, for so many seconds at a time unless told otherwise."""
    p.add_argument("--seconds", type=positive_float, default=seconds, help="of one measurement")
    p.add_argument("--repetitions", type=positive, default=3, help="measurements of each, taking turns")
    p.add_argument("--rollouts", type=positive, default=RECORDED.rollouts, help="episodes to measure with")
    p.add_argument("--logdir", type=Path, default=ROOT / "pretrained" / "carracing", help="V and M of the actor-critic")
    p.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.md", help="document to write into")


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N: what is measured beside the processor")
    add_flags(p, seconds=5.0)
    return p.parse_args()


def finished(where: torch.device, work: Callable[[], int]) -> Callable[[], int]:
    """`work`, and what it has left to a GPU, too."""

    def done() -> int:
        count = work()
        if where.type == "cuda":
            torch.cuda.synchronize(where)
        return count

    return done


def encoding(dataset: Dataset, where: torch.device) -> Racer:
    """V reads frames, and keeps their latents."""
    vision = VAE(VAEConfig()).eval().to(where)

    def work() -> int:
        with tempfile.TemporaryDirectory() as folder:
            cache_latents(Path(folder), vision, DIGEST, [dataset], where)
        return sum(e.steps + 1 for e in dataset.episodes)

    return lambda seconds: timed(finished(where, work), seconds)


def acting(args: argparse.Namespace, where: torch.device, folder: Path) -> Racer:
    """Actor and critic learn in M's dreams, as `trainbc.py --method ditto` has them."""
    told = argparse.Namespace(logdir=args.logdir, device=str(where), horizon=24, dreams=[256], hidden=256)
    learners = ditto.prepare(told, folder)[256]
    return lambda seconds: ditto.rate(*learners, seconds)


def driving(where: torch.device) -> Racer:
    """Cars on tracks of their own, seen."""
    world = make("carracing-fast", num=COPIES, device=where)
    brown, seeds = Brown(world.spec.space), list(range(COPIES))
    world.reset(seeds)
    brown.reset(COPIES, [np.random.default_rng([seed, 0]) for seed in seeds])

    def work() -> int:
        world.step(brown.choose().to(where))
        return COPIES

    return lambda seconds: timed(finished(where, work), seconds)


def scene_of(folder: Path) -> Scene:
    """A made-up one, with somebody in it who can be driven."""
    found = (load_scene(path) for path in write_scenes(folder, 8, 0) if path)
    return next(scene for scene in found if len(scene.egos))


def traffic(scene: Scene, where: torch.device) -> Racer:
    """Copies of a scene, of which everybody but one ego follows the log."""
    sim = Simulator([scene] * COPIES * 4, str(where))
    zero, logged = torch.zeros(sim.present.shape, device=sim.device), torch.ones_like(sim.present)
    logged[:, scene.index(int(scene.egos[0]))] = False

    def work() -> int:
        sim.reset()
        for _ in range(DRIVEN):
            sim.step(zero, zero, logged)
        return len(logged) * DRIVEN

    return lambda seconds: timed(finished(where, work), seconds)


def cones(scene: Scene) -> Racer:
    """Pictures of what egos see; OpenGL decides where."""
    sim = Simulator([scene] * EGOS)
    sim.reset(time=WARMUP)
    egos = [(copy, scene.index(int(scene.egos[copy % len(scene.egos)]))) for copy in range(EGOS)]
    return lambda seconds: timed(lambda: len(render_cones(sim, egos, PIXELS)), seconds)


def racers(args: argparse.Namespace, dataset: Dataset, folder: Path) -> dict[str, dict[str, Racer]]:
    """What is measured, a line of the table each: by where, what makes it."""
    places = list(dict.fromkeys([CPU, device(args.device)]))
    scene = scene_of(make_folder(folder / "scenes"))

    def everywhere(made: Callable[[torch.device, Path], Racer]) -> dict[str, Racer]:
        return {place.type: made(place, make_folder(folder / f"{made.__name__}-{place.type}")) for place in places}

    def dream(where: torch.device, _: Path) -> Racer:
        return our_dream(*dreamers(dataset.manifest.action_space, where))

    def actor(where: torch.device, own: Path) -> Racer:
        return acting(args, where, own)

    def memory(where: torch.device, own: Path) -> Racer:
        return our_mdrnn(dataset, own, where)

    return {
        "V: frames trained on": everywhere(lambda where, _: our_vae(dataset, where)),
        "V: frames read, latents kept": everywhere(lambda where, _: encoding(dataset, where)),
        "M: frames trained on": everywhere(memory),
        "dreamt steps, 64 candidates x 16 dreams": everywhere(dream),
        "dreamt steps, actor and critic learning, 256 dreams": everywhere(actor),
        f"carracing-fast: frames, {COPIES} cars": everywhere(lambda where, _: driving(where)),
        f"Nocturne: steps, {4 * COPIES} copies of a scene": everywhere(lambda where, _: traffic(scene, where)),
        f"cones of {PIXELS} pixels, {EGOS} at once": {"OpenGL": cones(scene)},
    }


def measured(work: dict[str, Racer], args: argparse.Namespace) -> dict[str, list[float]]:
    """Units a second of each, in every turn."""
    for racer in work.values():
        racer(min(WARM, args.seconds))
    rates: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(args.repetitions):
        for name, racer in work.items():
            rates[name].append(racer(args.seconds))
    return rates


def row(name: str, rates: dict[str, list[float]]) -> list[str]:
    """Of the table."""
    first = next(iter(rates.values()))
    other = rates.get("cuda", [])
    ratios = [b / a for a, b in zip(first, other, strict=False)]
    return [name, spread(first, ",.0f"), spread(other, ",.0f") if other else "", spread(ratios, ".1f") if other else ""]


def main() -> None:
    args, began = parse_args(), time.perf_counter()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(replace(RECORDED, rootdir=folder / "data", rollouts=args.rollouts, threads=usable()))
        for what, work in racers(args, Dataset.open(folder / "data"), folder).items():
            rates = measured(work, args)
            rows.append(row(what, rates))
            said = ", ".join(f"{where} {statistics.median(found):,.0f}" for where, found in rates.items())
            print(f"{what}: {said} a second", flush=True)
    text = table(["a second", "the processor", "the GPU", "ratio"], rows)
    on = f"{torch.cuda.get_device_name()}; " if torch.cuda.is_available() else "no GPU; "
    write_section(
        args.out,
        "gpu",
        f"Median (lowest to highest) of {args.repetitions} turns of {args.seconds:g} s each; "
        f"{time.perf_counter() - began:.0f} s in all. Cones are drawn by {renderer().context.renderer}, whatever "
        f"column they stand in.\n\n{text}\n\n{on}{circumstances()}",
    )
    print(f"{args.out}: gpu")


if __name__ == "__main__":
    run(main)
