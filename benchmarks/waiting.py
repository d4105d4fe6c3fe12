"""How long idle threads should spin before they sleep, on a machine of one's own and on one that is shared.

Writes  docs/benchmarks.md, its section "waiting"

    python -m benchmarks.waiting

Each setting of the OpenMP runtime has a process of its own; they take turns. On a shared machine a busy process for
each core runs beside them. Leave the machine alone meanwhile.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dreamdrive.utils.idle_threads import SPINS, USERS

from dreamdrive.benchmarks.racing import Racer, race, spread
from dreamdrive.benchmarks.report import circumstances, table, write_section
from dreamdrive.utils.argument_types import positive, positive_float
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

USUAL = "as it comes"
SETTINGS = {
    USUAL: {},
    "GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}
# Programs that answer every line, a number of seconds, with units a second.
ANSWER = """
import sys, time
for line in sys.stdin:
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < float(line):
        done += once()
    print(done / (time.perf_counter() - start), flush=True)
"""
TASKS = {
    "frames of carracing-fast, 64 copies": """
import torch
from dreamdrive.envs import make
world, action = make("carracing-fast", num=64), torch.tensor([[0.0, 0.2, 0.0]]).expand(64, 3)
world.reset(0)
def once():
    world.step(action)
    return 64
""",
    "frames that a convolutional network is trained on, 32 at once": """
import torch
frames = torch.rand(32, 3, 64, 64)
layers = [torch.nn.Conv2d(a, b, 4, 2) for a, b in ((3, 32), (32, 64), (64, 128), (128, 256))]
network = torch.nn.Sequential(*[x for layer in layers for x in (layer, torch.nn.ReLU())])
optimizer = torch.optim.Adam(network.parameters())
def once():
    optimizer.zero_grad()
    network(frames).square().mean().backward()
    optimizer.step()
    return 32
""",
    "numbers of a head and M, step by step, 64 at once": """
import torch
cell, head, x = torch.nn.LSTMCell(35, 256), torch.nn.Linear(288, 3), torch.rand(64, 35)
state = (torch.zeros(64, 256), torch.zeros(64, 256))
@torch.inference_mode()
def once():
    global state
    state = cell(x, state)
    head(torch.cat([x[:, :32], state[0]], 1)).tanh()
    return 64
""",
}


@contextmanager
def racers(task: str) -> Iterator[dict[str, Racer]]:
    """A process for each of SETTINGS that does `task`."""
    plain = {name: value for name, value in os.environ.items() if name not in (*USERS, "OMP_NUM_THREADS")}
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", TASKS[task] + ANSWER],
            env={**plain, **setting},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, setting in SETTINGS.items()
    }

    def racer(process: subprocess.Popen[str]) -> Racer:
        def rate(seconds: float) -> float:
            assert process.stdin and process.stdout, "both were asked for"
            print(seconds, file=process.stdin, flush=True)
            return float(process.stdout.readline())

        return rate

    try:
        yield {name: racer(process) for name, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


@contextmanager
def company(busy: int) -> Iterator[None]:
    """So many processes that compute all the time."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measured(task: str, args: argparse.Namespace) -> list[list[str]]:
    """Rows of a table: what each setting does a second, alone and in company, and how many times what it does as it
    comes."""
    rates = {}
    with racers(task) as settings:
        for racer in settings.values():
            racer(0.1)  # imports, and the first call of anything
        for busy in (0, len(os.sched_getaffinity(0))):
            with company(busy):
                print(f"{task}, {busy} busy processes beside", flush=True)
                rates[busy] = race(settings, args)
    rows = []
    for name in SETTINGS:
        row = [name]
        for found in rates.values():
            ratios = [a / b for a, b in zip(found[name], found[USUAL], strict=True)]
            row += [f"{statistics.median(found[name]):,.0f}", spread(ratios, ".2f")]
        rows.append(row)
    return rows


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--seconds", type=positive_float, default=3.0, help="of a turn")
    p.add_argument("--repetitions", type=positive, default=5, help="turns")
    p.add_argument("--out", type=Path, default=Path("docs/benchmarks.md"), help="document to write the section into")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    head = ["idle threads", "alone, a second", "ratio", "beside busy processes, a second", "ratio"]
    tables = [f"{task[0].upper()}{task[1:]}:\n\n{table(head, measured(task, args))}" for task in TASKS]
    text = (
        f"`GOMP_SPINCOUNT={SPINS}` is what the scripts set, unless the user has set one (utils/idle_threads.py). "
        f"Ratios are to what torch does as it comes: median (lowest to highest) of {args.repetitions} turns of "
        f"{args.seconds:g} s. Beside: a busy process for each core.\n\n" + "\n\n".join(tables)
    )
    print(text)
    write_section(
        args.out,
        "waiting",
        f"{text}\n\nMeasured by `python -m benchmarks.waiting --seconds {args.seconds:g} "
        f"--repetitions {args.repetitions}` on: {circumstances()}",
    )
    print(f"written into {args.out}")


if __name__ == "__main__":
    run(main)
