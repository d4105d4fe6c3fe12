"""Signals that ask a script to end: what it ends with, how soon, what it leaves, and whether the same command goes on
to the bytes of a run that was left alone.

    python -m benchmarks.signals

Every stage of benchmarks/kills.py gets each signal at a random moment, and runs again to its end. What has no end of
its own, the viewer, the teacher's page, a video, gets each once, and Ctrl-C twice. The table is printed.
"""

import argparse
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.benchmarks.kills import ROOT, STAGES, Stage, digests, finish, prepare, start
from dreamdrive.utils.argument_types import natural
from dreamdrive.utils.interrupts import ENDING
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

RUN = "pretrained/carracing"
# what is looked at: a command, and what it says once it is under way; "" where it then has started other programs
WATCHED = {
    "video": ("test_controller.py --env carracing-fast --logdir {folder}/none --controller random --episodes 1 "
              "--max-workers 1 --record {folder}/out.mp4", ""),
    "scoring": ("test_controller.py --env gym:CartPole-v1 --logdir {folder}/none --controller random --episodes 2000 "
                "--max-workers 2", ""),
    "--render": (f"test_controller.py --logdir {RUN} --render", "viewer"),
    "viewer": (f"play.py --logdir {RUN}", "viewer"),
    "viewer in a browser": (f"play.py --logdir {RUN} --browser --port {{port}}", "play at"),
    "teacher": ("trainbc.py teach --env mountaincar --logdir {folder}/lesson --port {port} --device cpu", "teach at"),
}  # fmt: skip
LONGEST = 120  # seconds until a script is under way


@dataclass
class Ended:
    """How a script ended.

    Fields:
        status, seconds: what it returned, and how long after the signal
        left: processes and temporary files        traceback: whether it showed one
    """

    status: int | None
    seconds: float
    left: list[str] = field(default_factory=list)
    traceback: bool = False

    def __str__(self) -> str:
        more = ["traceback"] if self.traceback else []
        return ", ".join([f"{self.status} in {self.seconds:.1f} s", *self.left, *more])


def descendants(pid: int) -> set[int]:
    """Processes that a process has started, and those that these have."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    found, fresh = set(), {pid}
    while fresh:
        found |= fresh
        fresh = {child for child, parent in parents.items() if parent in found} - found
    return found - {pid}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def end(process: subprocess.Popen, signals: list[signal.Signals], folder: Path, log: Path) -> Ended:
    """Send signals to a script, the second soon after the first, and look at how it ends."""
    family, since = descendants(process.pid), time.monotonic()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.1)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
    seconds = time.monotonic() - since
    time.sleep(1.5)
    left = [f"process {pid} lives" for pid in family if is_alive(pid)]
    left += [str(path.name) for path in folder.rglob("*.tmp")]
    return Ended(process.poll(), seconds, left, "Traceback" in log.read_text(errors="replace"))


def disturbed(
    stage: Stage, live: Path, seconds: float, number: signal.Signals, rng: random.Random
) -> tuple[Ended, str]:
    """A stage that gets a signal at a random moment after it has written down its settings, and then runs to its end;
    and what it wrote after the signal."""
    begun = live / stage.writes[0] / "args.json"
    for _ in range(20):
        process = start(stage, live)
        while process.poll() is None and not begun.exists():
            time.sleep(0.05)
        time.sleep(seconds * rng.uniform(0.05, 0.5))
        if process.poll() is None:
            break
        for where in stage.writes:
            shutil.rmtree(live / where, ignore_errors=True)
    since = time.time()
    ended = end(process, [number], live, live / "stderr.txt")
    fresh = [
        path.name for where in stage.writes for path in (live / where).glob("*.tar") if path.stat().st_mtime > since
    ]
    finish(start(stage, live), live)
    return ended, ", ".join(sorted(fresh))


def stages(live: Path, seed: int, chosen: list[str]) -> None:
    """The stages one after another."""
    rng = random.Random(seed)
    for name, stage in STAGES.items():
        before = live.with_name("before")
        shutil.copytree(live, before)
        began = time.monotonic()
        finish(start(stage, live), live)
        seconds, wanted = time.monotonic() - began, digests(stage, live)
        for number in ENDING if name in chosen else ():
            shutil.rmtree(live)
            shutil.copytree(before, live)
            ended, fresh = disturbed(stage, live, seconds, number, rng)
            same = "the same bytes" if digests(stage, live) == wanted else "OTHER BYTES"
            print(f"| {stage.number} {name} | {number.name} | {ended} | {fresh or '-'} | {same} |", flush=True)
        shutil.rmtree(before)
        prepare(name, live)


def watched(name: str, folder: Path, signals: list[signal.Signals]) -> Ended:
    """What is looked at, ended once it is under way."""
    command, sign = WATCHED[name]
    log, port = folder / "log", 20_000 + os.getpid() % 20_000
    words = shlex.split(command.format(folder=folder, port=port))
    variables = {k: v for k, v in os.environ.items() if k != "DISPLAY"}
    with open(log, "w") as out:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=variables, stdout=out, stderr=out, start_new_session=True
        )
    since = time.monotonic()
    while process.poll() is None and not (
        sign in log.read_text(errors="replace") if sign else descendants(process.pid)
    ):
        if time.monotonic() - since > LONGEST:
            break
        time.sleep(0.1)
    time.sleep(3)
    return end(process, signals, folder, log)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--seed", type=natural, default=0, help="decides the moments")
    p.add_argument("--stages", nargs="*", choices=list(STAGES), default=list(STAGES), help="stages; none for none")
    p.add_argument(
        "--watched", nargs="*", choices=list(WATCHED), default=list(WATCHED), help="what else; none for none"
    )
    args: argparse.Namespace = p.parse_args()
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job has it ignored, and its children
    with tempfile.TemporaryDirectory(prefix="signals-") as name:
        live = Path(name) / "live"
        live.mkdir()
        if args.stages:
            stages(live, args.seed, args.stages)
        for what in args.watched:
            for signals in [*([number] for number in ENDING), [signal.SIGINT] * 2]:
                named = " ".join(number.name for number in signals)
                print(f"| {what} | {named} | {watched(what, live, signals)} |", flush=True)


if __name__ == "__main__":
    run(main)
