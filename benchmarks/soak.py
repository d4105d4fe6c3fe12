"""Hours of the same: whether memory, open files or threads grow while scripts record, train, score, draw and teach.

Writes  docs/soak.md, docs/images/soak.png

    make soak                                   # half an hour each
    python -m benchmarks.soak --minutes 3 --loads cones lesson

Each load goes on until its time is over and then gets SIGTERM, to which its script ends with status 143. Numbers are
those of all its processes together, every second; what is counted twice because processes share it, as the code of a
library, is counted twice each time.
"""

import asyncio
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import aiohttp
import numpy as np

from dreamdrive.benchmarks.cones import replay
from dreamdrive.benchmarks.report import circumstances, table
from dreamdrive.benchmarks.signals import descendants
from dreamdrive.utils.argument_types import positive_float
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import write_atomically
from dreamdrive.utils.plots import curve_panel, figure
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

ROOT = Path(__file__).resolve().parent.parent
TELLING = 10  # minutes, from which on growth is told
WARM_UP = 0.25  # share of the time that growth is not counted in: caches fill, workers import
SAID = {"rss": "memory, MB", "files": "open files", "threads": "threads"}
RECORD = "data/generation_script.py --env gym:CartPole-v1 --threads 2 --val-fraction 0.2 --rootdir"
LOADS = {
    "recording": f"{RECORD} {{folder}}/much --rollouts 100000",
    "training": "trainvae.py --dataset {folder}/few --logdir {folder}/run --latent 8 --epochs 100000 --patience 100000 "
    "--device cpu",
    "scoring": "test_controller.py --env gym:CartPole-v1 --logdir {folder}/none --controller random --episodes 10000 "
    "--max-workers 2",
    "cones": "-m benchmarks.soak --draw {folder}/scenes",
    "lesson": "trainbc.py teach --env mountaincar --logdir {folder}/lesson --port {port} --countdown 0 --device cpu",
}
PREPARED = (f"{RECORD} {{folder}}/few --rollouts 16", "-m envs.nocturne.synthetic --scenes 12 --out {folder}/scenes")


@dataclass
class Soaked:
    """A load: when it was looked at, in minutes, and what there was then; how it ended."""

    minutes: list[float] = field(default_factory=list)
    seen: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SAID})
    status: int | None = None

    def look(self, pid: int, minutes: float) -> None:
        """Count what a process and all that it has started hold now."""
        total = dict.fromkeys(SAID, 0.0)
        for process in {pid, *descendants(pid)}:
            with contextlib.suppress(OSError):  # it has just ended
                place = Path(f"/proc/{process}")
                said = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines() if ":" in line)
                total["rss"] += int(said.get("VmRSS", "0").split()[0]) / 1024
                total["threads"] += int(said["Threads"])
                total["files"] += len(os.listdir(place / "fd"))
        self.minutes.append(minutes)
        for name, value in total.items():
            self.seen[name].append(value)

    def growth(self, name: str) -> tuple[float, float, float]:
        """Mean just after the warm-up and at the end, and what is added in an hour, by the straight line through all
        between."""
        at, values = np.array(self.minutes), np.array(self.seen[name])
        at, values = at[at >= WARM_UP * at[-1]], values[-int((at >= WARM_UP * at[-1]).sum()) :]
        part = max(1, len(values) // 10)
        return float(values[:part].mean()), float(values[-part:].mean()), float(np.polyfit(at, values, 1)[0] * 60)


def soak(name: str, folder: Path, seconds: float) -> Soaked:
    """Put a load on for so long."""
    port, found = 20_000 + os.getpid() % 20_000, Soaked()
    words = shlex.split(LOADS[name].format(folder=folder, port=port))
    process = begin(words, folder / f"{name}.log")
    teacher = None
    if name == "lesson":
        teacher = subprocess.Popen([sys.executable, "-m", "benchmarks.soak", "--teach", str(port)], cwd=ROOT)
    began = time.monotonic()
    try:
        while (since := time.monotonic() - began) < seconds:
            if process.poll() == 0:  # it is through: once more
                process = begin(words, folder / f"{name}.log")
            elif process.poll() is not None:
                raise UserError(f"{name} ended by itself: {(folder / f'{name}.log').read_text()[-1500:]}")
            found.look(process.pid, since / 60)
            time.sleep(1)
        process.send_signal(signal.SIGTERM)
        found.status = process.wait(30)
    finally:
        for one in (process, teacher):
            if one is not None:
                one.kill()
                one.wait()
    return found


def begin(words: list[str], log: Path) -> subprocess.Popen:
    with open(log, "w") as said:
        return subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=said, stderr=said)


def draw(scenes: Path) -> None:
    """Draw cone pictures of ever new scenes, both styles, for ever."""
    from dreamdrive.envs.nocturne.cone import STYLES, render_cones
    from dreamdrive.envs.nocturne.scene import load_scene

    rng = np.random.default_rng(0)
    while True:
        for path in sorted(scenes.glob("synthetic_*.json")):
            scene = load_scene(path)
            for t in rng.integers(0, scene.valid.shape[1], 4).tolist():
                egos = [(0, int(n)) for n in np.flatnonzero(scene.valid[:, t])]
                for style in STYLES:
                    render_cones(replay([scene], [t]), egos, 64, style=style)


def teach(port: int) -> None:
    """Hold a key like the page does, for as long as there is a lesson."""
    url = f"http://127.0.0.1:{port}"

    async def lesson() -> None:
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"{url}/ws", headers={"Origin": url}, max_msg_size=0) as socket:
                await socket.send_str(json.dumps({"type": "hello", "name": None}))
                for step in range(10**9):
                    held = ["right"] if step // 40 % 2 else ["left"]
                    await socket.send_str(json.dumps({"type": "keys", "held": held}))
                    with contextlib.suppress(TimeoutError):
                        while True:
                            message = await asyncio.wait_for(socket.receive(), 0.05)
                            if message.type is not aiohttp.WSMsgType.TEXT and not message.data:
                                return

    while True:
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            asyncio.run(lesson())
        time.sleep(0.5)


def report(found: dict[str, Soaked], minutes: float, picture: Path) -> str:
    """docs/soak.md."""
    rows = []
    for name, soaked in found.items():
        for what, said in SAID.items():
            first, last, hour = soaked.growth(what)
            more = f"{hour:+.1f}" if minutes >= TELLING else ""
            rows.append([name, said, f"{first:.0f}", f"{last:.0f}", more, str(soaked.status)])
    with figure(picture, 15, 3.4 * len(found)) as drawn:
        for row, (name, soaked) in enumerate(found.items()):
            for column, (what, said) in enumerate(SAID.items()):
                axes = drawn.add_subplot(len(found), 3, 3 * row + column + 1)
                curve_panel(axes, {f"{name}: {said}": (soaked.minutes, soaked.seen[what])}, "minutes")
                axes.set_ylim(bottom=0)
    head = ["load", "of all its processes", "after the warm-up", "at the end", "more in an hour", "status on SIGTERM"]
    return (
        "# Soak\n\n"
        f"`python -m benchmarks.soak --minutes {minutes:g}`: {minutes:g} min of each load, of which the first "
        f"{100 * WARM_UP:.0f} % are the warm-up;\n{textwrap.fill(circumstances(), 119)}.\n\n"
        f"{table(head, rows)}\n\n"
        "The straight line that the last column but one comes from goes through everything after the warm-up; of "
        f"runs of\nless than {TELLING:g} minutes it tells nothing, and is left out. A recording and a training keep a "
        "row of every episode and\nepoch, some hundred bytes each.\n\n"
        f"![memory, open files and threads over the minutes](images/{picture.name})\n"
    )


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--minutes", type=positive_float, default=30.0, help="of each load")
    p.add_argument("--loads", nargs="+", choices=list(LOADS), default=list(LOADS), help="which")
    p.add_argument(
        "--out", type=Path, default=Path("docs/soak.md"), help="the page; its picture goes to images beside it"
    )
    p.add_argument("--draw", type=Path, help="be the load that draws these scenes")
    p.add_argument("--teach", type=int, help="be the teacher of the lesson at this port")
    args = p.parse_args()
    if args.draw is not None:
        draw(args.draw)
    if args.teach is not None:
        teach(args.teach)
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        for command in PREPARED:
            words = shlex.split(command.format(folder=folder))
            subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        found = {}
        for load in args.loads:
            found[load] = soak(load, folder, 60 * args.minutes)
            rows = ", ".join(f"{said} {found[load].growth(what)[1]:.0f}" for what, said in SAID.items())
            print(f"{load}: {rows}; status {found[load].status}", flush=True)
        write_atomically(args.out, report(found, args.minutes, args.out.parent / "images" / "soak.png").encode())
    print(f"{args.out} written")


if __name__ == "__main__":
    run(main)
