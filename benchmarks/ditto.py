"""How many latent steps a second `trainbc.py --method ditto` dreams, the training of actor and critic included.

Reads   pretrained/carracing, or another run with V and M (--logdir)
Writes  docs/benchmarks.md, its section "ditto"

    python -m benchmarks.ditto

A few expert episodes are recorded into a temporary folder for dreams to begin in. Leave the machine alone meanwhile.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel

from dreamdrive.benchmarks.racing import setting_name, spread
from dreamdrive.benchmarks.report import circumstances, table, write_section
from dreamdrive.data.loaders import open_datasets, world_of
from dreamdrive.driving.recording import generate
from dreamdrive.driving.recording_settings import RecordingSettings
from dreamdrive.envs import fast
from dreamdrive.learning.cloning_settings import AVERAGE
from dreamdrive.learning.ditto import Ditto
from dreamdrive.learning.imagination import Dreams, Setting
from dreamdrive.models.cloning import averaged
from dreamdrive.models.controller import Controller, ControllerConfig
from dreamdrive.models.world_model import load_world_model
from dreamdrive.utils.argument_types import positive, positive_float
from dreamdrive.utils.device import device
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

ROOT = Path(__file__).resolve().parent.parent
EPISODES = RecordingSettings(rollouts=12, max_steps=200, val_fraction=0.2, policy="expert", threads=2)
GOAL = 20_000  # steps a second, on two cores


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--logdir", type=Path, default=ROOT / "pretrained" / "carracing", help="a run with V and M")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    p.add_argument("--horizon", type=positive, default=50, help="steps of a dream")
    p.add_argument("--dreams", type=positive, nargs="+", default=[256], help="at once")
    p.add_argument("--hidden", type=positive, default=256, help="width of the actor")
    p.add_argument("--seconds", type=positive_float, default=10.0, help="of one measurement")
    p.add_argument("--repetitions", type=positive, default=5, help="measurements of each setting, taking turns")
    p.add_argument("--out", type=Path, default=Path("docs/benchmarks.md"), help="document to write the section into")
    return p.parse_args()


def prepare(args: argparse.Namespace, folder: Path) -> dict[int, tuple[Dreams, Ditto, AveragedModel]]:
    """A run with V and M alone, a few expert episodes, and for each of --dreams dreams, learners and the actor's
    average."""
    for stage in ("vae", "mdrnn"):
        shutil.copytree(args.logdir / stage, make_folder(folder / "run") / stage)
    where = device(args.device)
    model = load_world_model(folder / "run", where)
    sizes = model.memory.config
    generate(replace(EPISODES, env=fast(model.world["env"]), rootdir=folder / "data"))
    datasets, found = open_datasets([folder / "data"]), {}
    world = world_of(datasets[0])
    for dreams in args.dreams:
        torch.manual_seed(0)
        head = Controller(ControllerConfig(sizes.latent, sizes.hidden, "zh", args.hidden, world["action_space"])).to(
            where
        )
        found[dreams] = (
            Dreams(folder / "run", model, datasets, Setting(args.horizon, dreams, 1.0, 0)),
            Ditto(head, sizes.latent, sizes.hidden, 1e-4, 0.2, world["dt"], 100.0),
            averaged(head, AVERAGE["ditto"]),
        )
    return found


def rate(dreams: Dreams, ditto: Ditto, average: AveragedModel, seconds: float) -> float:
    """Dreamt steps a second."""
    rng, start, updates = np.random.default_rng(0), time.perf_counter(), 0
    with Bar(disable=True) as bar:
        while (took := time.perf_counter() - start) < seconds:
            dreams.imitate(ditto, 1, rng, bar, average)
            updates += 1
        if dreams.where.type == "cuda":
            torch.cuda.synchronize()
            took = time.perf_counter() - start
    return updates * dreams.setting.num * dreams.setting.horizon / took


def main() -> None:
    args = parse_args()
    most = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        learners = prepare(args, Path(folder))
        gpu = next(iter(learners.values()))[0].where.type == "cuda"
        settings = [(threads, dreams) for dreams in args.dreams for threads in ([most] if gpu else sorted({1, most}))]
        rates: dict[tuple[int, int], list[float]] = {setting: [] for setting in settings}
        for turn in range(-1, args.repetitions):  # the first turn warms up
            for threads, dreams in settings:
                torch.set_num_threads(threads)
                found = rate(*learners[dreams], args.seconds if turn >= 0 else 1.0)
                if turn >= 0:
                    rates[threads, dreams].append(found)
                    print(
                        f"  turn {turn + 1}: {found:10,.0f} steps a second  {dreams} dreams, {setting_name(threads)}",
                        flush=True,
                    )
    on = torch.cuda.get_device_name() if gpu else ""
    rows = [
        [
            f"{dreams} dreams of {args.horizon} steps, {on or setting_name(threads)}",
            spread(values, ",.0f"),
            "" if threads < most else "yes" if statistics.median(values) >= GOAL else "NO",
        ]
        for (threads, dreams), values in rates.items()
    ]
    text = table(["actor and critic trained on", "dreamt steps a second", f"{GOAL:,} reached"], rows)
    print(text)
    about = (
        f"Median (lowest to highest) of {args.repetitions} measurements of {args.seconds:g} s, taking turns; V and M "
        f"of {args.logdir.name}, "
        f"an actor of {args.hidden} units."
    )
    write_section(args.out, "ditto-gpu" if gpu else "ditto", f"{about}\n\n{text}\n\n{circumstances()}\n")


if __name__ == "__main__":
    run(main)
