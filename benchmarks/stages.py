"""How fast the stages are, each measured side by side with a plain reference (benchmarks/reference.py) in one run.

Reads   datasets/<name>/          with --dataset; without, a small one is recorded into a temporary folder
Writes  docs/benchmarks.md        its section "stages"

    python -m benchmarks.stages

What is compared takes turns (A B A B ...), because a machine's speed drifts; a ratio is the median of the ratios of the
turns. Each reference has the thread count, and number of loader processes, that it is fastest with here, tried out
before. Leave the machine alone meanwhile.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dreamdrive.benchmarks import reference
from dreamdrive.benchmarks.racing import HEAD, THREADS, Racer, Result, fastest, race, setting_name, with_threads
from dreamdrive.benchmarks.report import circumstances, table, write_section
from dreamdrive.data.latents import cache_latents, load_sequences
from dreamdrive.data.loaders import FrameStream
from dreamdrive.data.shards import Dataset
from dreamdrive.learning import memory, vision
from dreamdrive.learning.evolution import dream_fitness
from dreamdrive.learning.memory_settings import MDRNNSettings
from dreamdrive.models.controller import Controller, ControllerConfig
from dreamdrive.models.mdrnn import MDRNN, MDRNNConfig
from dreamdrive.models.vae import VAE, VAEConfig
from dreamdrive.models.world_model import Starts
from dreamdrive.utils.argument_types import positive, positive_float
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.precision import channels_last
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser
from dreamdrive.utils.spaces import ActionSpace

ROOT = Path(__file__).resolve().parent.parent
EPISODE = 250  # steps of a recorded episode
POPULATION, SAMPLES = 64, 16
DIGEST = "0" * 64  # of a V that is nowhere saved
CPU = torch.device("cpu")

# Stage 1


def generation(args: Namespace) -> list[Result]:
    """The whole command with two workers; and the same less the time it takes to record next to nothing, which a long
    recording does not notice."""
    probe = time.perf_counter()
    frames = reference.drive(1, EPISODE)
    rate = frames / (time.perf_counter() - probe)
    one, two = max(1, round(args.seconds * rate / EPISODE)), 2 * max(1, round(args.seconds * rate / EPISODE))
    whole, running, plain = [], [], []
    for turn in range(args.repetitions):
        start = time.perf_counter()
        plain.append(reference.drive(one, EPISODE) / (time.perf_counter() - start))
        starting, took = command_seconds(2, 1), command_seconds(two, EPISODE)
        whole.append(two * EPISODE / took)
        running.append(two * EPISODE / (took - starting))
        print(
            f"  turn {turn + 1}: loop {plain[-1]:.1f}, command {whole[-1]:.1f}, less its start {running[-1]:.1f} a "
            "second",
            flush=True,
        )
    against = "one gymnasium loop"
    return [
        Result("1", "frames", "generation_script.py --threads 2, whole command", against, whole, plain, 1.6),
        Result("1", "frames", f"the same, less the {starting:.1f} s it takes to start", against, running, plain, 0),
    ]


def command_seconds(rollouts: int, steps: int) -> float:
    """Seconds that recording so many episodes takes, from start to end of the command."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "data/generation_script.py",
            "--rollouts",
            str(rollouts),
            "--max-steps",
            str(steps),
            "--threads",
            "2",
            "--rootdir",
            f"{folder}/data",
            "--policy",
            "brown",
        ]
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - start


# Stage 2


def vae(args: Namespace) -> list[Result]:
    dataset, rollouts = args.data
    frames = reference.Frames(rollouts)
    settings = {
        setting_name(threads, workers): with_threads(threads, plain_vae(frames, workers))
        for threads in sorted({1, THREADS})
        for workers in (0, 1, 2)
    }
    setting, plain = fastest(settings, args.seconds / 2)
    memory = next(iter(DataLoader(frames, batch_size=32, shuffle=True)))
    train = reference.vae_trainer()
    rates = race(
        {
            "ours": our_vae(dataset),
            setting: plain,
            "model alone": lambda seconds: reference.timed(lambda: train(memory), seconds),
        },
        args,
    )
    ours = "trainvae.run_epoch on shards"
    return [
        Result("2", "frames", ours, f"plain model, PIL loader ({setting})", rates["ours"], rates[setting], 2),
        Result("2", "frames", ours, "plain model alone, one batch in memory", rates["ours"], rates["model alone"], 0),
    ]


def plain_vae(frames: reference.Frames, workers: int) -> Racer:
    train = reference.vae_trainer()

    def racer(seconds: float) -> float:
        batches = reference.forever(
            DataLoader(frames, batch_size=32, shuffle=True, num_workers=workers, drop_last=True)
        )
        return reference.timed(lambda: train(next(batches)), seconds)

    return racer


def our_vae(dataset: Dataset, where: torch.device = CPU) -> Racer:
    """Model and optimizer as trainvae.main makes them; opening the files and filling the buffer count."""
    model = channels_last(VAE(VAEConfig())).to(where)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def racer(seconds: float) -> float:
        start = time.perf_counter()
        stream = FrameStream([dataset], "train", 64, 0)
        epochs = itertools.chain.from_iterable(stream.epoch(e, stream.frames) for e in itertools.count(1))
        with Bar(disable=True) as bar:
            counted = Counted(epochs, start + seconds)
            vision.run_epoch(model, counted, optimizer, "auto", bar)
        return counted.frames / (time.perf_counter() - start)

    return racer


class Counted:
    """Passes batches on until `deadline`, and counts their frames."""

    def __init__(self, batches: Iterator[Tensor], deadline: float) -> None:
        self.batches, self.deadline, self.frames = batches, deadline, 0

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.batches:
            self.frames += len(batch)
            yield batch
            if time.perf_counter() > self.deadline:
                return


# Stage 3


def mdrnn(args: Namespace) -> list[Result]:
    dataset, rollouts = args.data
    windows, action = reference.Windows(rollouts), ActionSpace.from_dict(dataset.manifest.action_space).size

    def best(decode: bool) -> tuple[str, Racer]:
        settings = {
            setting_name(threads, workers): with_threads(threads, plain_mdrnn(windows, workers, decode, action))
            for threads in sorted({1, THREADS})
            for workers in (0, 1)
        }
        return fastest(settings, args.seconds / 2)

    (setting, original), (lean_setting, lean) = best(True), best(False)
    with tempfile.TemporaryDirectory() as folder:
        rates = race({"ours": our_mdrnn(dataset, Path(folder)), "V whole": original, "V's encoder": lean}, args)
    ours = "trainmdrnn.run_epoch on cached latents"
    return [
        Result(
            "3",
            "frames",
            ours,
            f"encoding each batch with the whole of V, as ctallec does ({setting})",
            rates["ours"],
            rates["V whole"],
            40,
        ),
        Result(
            "3",
            "frames",
            ours,
            f"encoding each batch with V's encoder alone ({lean_setting})",
            rates["ours"],
            rates["V's encoder"],
            0,
        ),
    ]


def plain_mdrnn(windows: reference.Windows, workers: int, decode: bool, action: int) -> Racer:
    train = reference.mdrnn_trainer(decode, action)

    def racer(seconds: float) -> float:
        batches = reference.forever(
            DataLoader(windows, batch_size=16, shuffle=True, num_workers=workers, drop_last=True)
        )
        return reference.timed(lambda: train(next(batches)), seconds)

    return racer


def our_mdrnn(dataset: Dataset, folder: Path, where: torch.device = CPU) -> Racer:
    """Model, optimizer and sizes as trainmdrnn.main's defaults."""
    vision = VAE(VAEConfig()).eval()
    cache_latents(folder, vision, DIGEST, [dataset], CPU)
    data = load_sequences(folder, vision, DIGEST, [dataset])
    model = MDRNN(MDRNNConfig(vision.config.latent, data.action.shape[1])).to(where)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    settings = MDRNNSettings(batch_size=32, seq_len=64, precision="auto")
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)

    def racer(seconds: float) -> float:
        with Bar(disable=True) as bar:
            steps, start = 0, time.perf_counter()
            while time.perf_counter() - start < seconds:
                memory.run_epoch(
                    model, data, data.cut("train", settings.seq_len, rng), settings, generator, optimizer, bar
                )
                steps += int(data.steps[data.train].sum())
        return steps / (time.perf_counter() - start)

    return racer


# Stage 4a


def dreamers(space: dict, where: torch.device = CPU) -> tuple[MDRNN, Controller, Starts]:
    """An M whose dreams never end, so that every step counted is a step dreamt, a controller and where dreams begin;
    all untrained, of the usual sizes."""
    model = MDRNN(MDRNNConfig(32, ActionSpace.from_dict(space).size)).eval().requires_grad_(False).to(where)
    model.head.bias[-1] = -100.0
    controller = Controller(ControllerConfig(32, model.config.hidden, "zh", 0, space)).requires_grad_(False).to(where)
    latents = {"mu": torch.randn(1024, 32, device=where), "logsigma": torch.full((1024, 32), -1.0, device=where)}
    return model, controller, Starts(VAE(VAEConfig()).to(where), latents, model.initial(1024))


def our_dream(model: MDRNN, controller: Controller, starts: Starts, horizon: int = 100) -> Racer:
    """A whole population's dreams at once."""
    where = next(model.parameters()).device
    candidates = 0.1 * torch.randn(POPULATION, sum(p.numel() for p in controller.parameters()), device=where)
    generator = torch.Generator(where).manual_seed(0)

    def batched() -> int:
        dream_fitness(model, controller, candidates, starts, SAMPLES, horizon, 1.0, generator)
        return POPULATION * SAMPLES * horizon

    return lambda seconds: reference.timed(batched, seconds)


def dream(args: Namespace) -> list[Result]:
    dataset, _ = args.data
    model, controller, starts = dreamers(dataset.manifest.action_space)
    generator = torch.Generator().manual_seed(0)

    def alone(horizon: int = 100) -> int:
        reference.dream_alone(model, controller, starts, horizon, generator)
        return horizon

    settings = {
        setting_name(threads): with_threads(threads, lambda seconds: reference.timed(alone, seconds))
        for threads in sorted({1, THREADS})
    }
    setting, one = fastest(settings, args.seconds / 2)
    rates = race({"ours": our_dream(model, controller, starts), setting: one}, args)
    return [
        Result(
            "4a",
            "dream steps",
            f"learning.evolution.dream_fitness, {POPULATION} candidates x {SAMPLES} dreams",
            f"the same models, one dream at a time ({setting})",
            rates["ours"],
            rates[setting],
            30,
            100_000,
        )
    ]


SECTIONS = {"generation": generation, "vae": vae, "mdrnn": mdrnn, "dream": dream}


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="what to measure")
    p.add_argument(
        "--seconds",
        type=positive_float,
        default=40.0,
        help="that one racer gets in one turn; stage 2 spends the first of them filling its buffer",
    )
    p.add_argument("--repetitions", type=positive, default=5, help="turns")
    p.add_argument(
        "--dataset",
        type=Path,
        help="folder written by stage 1, of 64x64 frames (default: 24 episodes are recorded for the purpose)",
    )
    p.add_argument("--out", type=Path, default=Path("docs/benchmarks.md"), help="document to write the section into")
    return p.parse_args()


def record(folder: Path) -> Path:
    """A small dataset to measure with."""
    print("recording a dataset to measure with", flush=True)
    command = [
        sys.executable,
        "data/generation_script.py",
        "--rollouts",
        "24",
        "--max-steps",
        str(EPISODE),
        "--rootdir",
        str(folder),
    ]
    if status := subprocess.run(command, cwd=ROOT).returncode:
        raise UserError(f"recording a dataset ended with status {status}: see above, or give one with --dataset")
    return folder


def main() -> None:
    args = parse_args()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        if set(args.sections) - {"generation"}:
            dataset = Dataset.open(args.dataset or record(Path(folder) / "dataset"))
            (Path(folder) / "rollouts").mkdir()
            reference.write_rollouts(dataset, Path(folder) / "rollouts")
            args.data = dataset, reference.read_rollouts(Path(folder) / "rollouts")
        for name in args.sections:
            print(name, flush=True)
            results += SECTIONS[name](args)
    text = table(HEAD, [result.row() for result in results])
    print(text)
    write_section(
        args.out,
        "stages",
        f"## Speed of the stages\n\nMedian (lowest to highest) of {args.repetitions} turns of {args.seconds:g} s "
        "each.\n\n"
        f"{text}\n\nMeasured on: {circumstances()}",
    )
    print(f"written into {args.out}")


if __name__ == "__main__":
    run(main)
