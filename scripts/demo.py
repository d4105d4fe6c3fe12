"""`make demo`, `make demo-nocturne`: all stages with small budgets, from nothing to a driver that drives and a table of
scores.

Reads   nothing
Writes  datasets/demo*/, exp_dir/demo*/

    python -m scripts.demo carracing

Every stage is the command a user would type, printed before it runs; a demo that was stopped is resumed by the same
command. What needs nothing of the others runs beside them, on half of the cores, and writes into a log: small networks
gain little by a second thread.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.utils import interrupts
from dreamdrive.utils.cores import usable
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.scores import score_file
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser


@dataclass(frozen=True)
class Shown:
    """A driver that is scored.

    Fields:
        controller: as --controller has it        title: what the table calls it        logdir: the run it is of
    """

    controller: str
    title: str
    logdir: Path


@dataclass(frozen=True)
class Demo:
    """What is shown of a world.

    Fields:
        title: of the table of scores
        logdir: the run
        stages: commands, in order        beside: one that runs beside them
        drivers: who is scored
        scoring: more options of test_controller.py
        columns: of the table: title and what stands there, from a score's JSON
        pictures: that are worth looking at; of a folder of them the last
    """

    title: str
    logdir: Path
    beside: str
    stages: tuple[str, ...]
    drivers: tuple[Shown, ...]
    scoring: str
    columns: dict[str, Callable[[dict], str]]
    pictures: tuple[Path, ...]


GLANCE = 0.5  # seconds between two looks at a log
THREADS = "OMP_NUM_THREADS"


def rate(name: str) -> Callable[[dict], str]:
    """A column of percents."""
    return lambda score: f"{100 * score[name]:.0f} %"


PICTURES = ("vae/samples", "mdrnn/dreams", "bc/dream.png", "bc/dream.mp4", "drive.mp4")  # of a run
DATA, LOGDIR, DREAM = Path("datasets/demo"), Path("exp_dir/demo"), Path("exp_dir/demo-dream")
CARRACING = Demo(
    "CarRacing-v3, official",
    LOGDIR,
    f"train.py --logdir {DREAM} --env carracing --repeat 4 --random 32 --rounds 4 --vision-every 0 "
    "--vision-updates 0 --returns 0 --no-fine-shades "
    "--memory-updates 6000 --memory-more 2000 --actor-more 300 --actor-settles 0 --candidates 2 "
    "--selection-episodes 8 --max-workers 1",
    (
        "data/generation_script.py --env carracing-fast --rollouts 80 --max-steps 600 --policy expert=0.85,brown=0.15 "
        f"--action-noise 0.6 --rootdir {DATA} --threads 2",
        f"trainvae.py --dataset {DATA} --logdir {LOGDIR} --epochs 3",
        f"trainmdrnn.py --logdir {LOGDIR} --epochs 30",
        f"trainbc.py --logdir {LOGDIR} --hidden 256 --epochs 30 --evaluate-every 10 --n-samples 16 --max-workers 1",
    ),
    (
        Shown("random", "random driver", LOGDIR),
        Shown("ctrl", "learnt in the dream, no expert", DREAM / "rounds" / "best"),
        Shown("bc", "cloned controller", LOGDIR),
        Shown("expert", "expert", LOGDIR),
    ),
    "--episodes 10",
    {
        "mean +- std": lambda score: f"{score['mean']:.1f} +- {score['std']:.1f}",
        "episodes": lambda score: str(score["episodes"]),
    },
    (*(LOGDIR / name for name in PICTURES), DREAM / "rounds" / "curve.png"),
)
SCENES, TEST, TRAFFIC, TRAFFIC_LOGDIR = (
    Path(p)
    for p in ("datasets/demo-scenes", "datasets/demo-scenes-unseen", "datasets/demo-nocturne", "exp_dir/demo-nocturne")
)
NOCTURNE = Demo(
    "Nocturne, unseen synthetic scenes",
    TRAFFIC_LOGDIR,
    "",
    (
        f"-m envs.nocturne.synthetic --scenes 60 --out {SCENES} --seed 0",
        f"-m envs.nocturne.synthetic --scenes 40 --out {TEST} --seed 1",
        f"data/generation_script.py --env nocturne --scenes {SCENES} --policy expert --action-noise 1 --rootdir "
        f"{TRAFFIC} --threads 2",
        f"trainvae.py --dataset {TRAFFIC} --logdir {TRAFFIC_LOGDIR} --grid --latent 128 --colour-balance 0.6 --beta "
        "0.05 --batch-size 32 --epoch-frames 40000 --epochs 2",
        f"trainmdrnn.py --logdir {TRAFFIC_LOGDIR} --epochs 12",
        f"trainbc.py --logdir {TRAFFIC_LOGDIR} --hidden 256 --epochs 20 --evaluate-every 5 --n-samples 48 "
        "--max-workers 2",
    ),
    (
        Shown("random", "random driver", TRAFFIC_LOGDIR),
        Shown("constant", "constant velocity", TRAFFIC_LOGDIR),
        Shown("bc", "cloned controller", TRAFFIC_LOGDIR),
        Shown("expert", "expert", TRAFFIC_LOGDIR),
    ),
    f"--env nocturne --scenes {TEST} --episodes 80",
    {
        "goals": rate("goal_rate"),
        "within 1 m": rate("goal_rate_position"),
        "collisions": rate("collision_rate"),
        "ADE": lambda score: f"{score['ade']:.1f} m",
        "episodes": lambda score: str(score["episodes"]),
    },
    tuple(TRAFFIC_LOGDIR / name for name in PICTURES),
)
DEMOS = {"carracing": CARRACING, "nocturne": NOCTURNE}


class Running:
    """One of our scripts as a user would start it, printed.

    Attributes:
        log: the file that it writes into, if that is not the terminal
    """

    def __init__(self, command: str, log: Path | None = None) -> None:
        self.command, self.log = command, log
        print(f"\n$ python {command}{f' > {log} 2>&1 &' if log else ''}", flush=True)
        self._began = time.monotonic()
        with open(log, "ab") if log else contextlib.nullcontext() as output:
            self._process = subprocess.Popen([sys.executable, *shlex.split(command)], stdout=output, stderr=output)

    def ended(self) -> str:
        """Wait for its end; UserError if it failed (it has said why). A line on its time and memory."""
        try:
            _, status, usage = os.wait4(self._process.pid, 0)  # unlike wait, it tells the peak memory, of workers too
        except KeyboardInterrupt:
            self.stop()
            raise
        self._process.returncode = code = os.waitstatus_to_exitcode(status)
        if code:
            raise UserError(
                f"`python {self.command}` ended with status {code}: see {self.log or 'above'}, then run the same "
                "command again to resume"
            )
        name = self.command.removeprefix("-m ").split()[0]
        return f"  {name:28}{time.monotonic() - self._began:8.0f} s{usage.ru_maxrss / 1e6:8.1f} GB"

    def followed(self) -> str:
        """`ended`, and what it has still to write into its log."""
        assert self.log is not None, "what has none is seen anyway"
        with open(self.log, "rb") as log:
            log.seek(0, os.SEEK_END)
            print(f"\n{self.log} goes on:", flush=True)
            while os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                time.sleep(GLANCE)
                print(log.read().decode(errors="replace"), end="", flush=True)
        return self.ended()

    def stop(self) -> None:
        """Have it end as this script was told to, and wait for that."""
        if self._process.returncode is not None:
            return
        asked = interrupts.asked()
        # a terminal sends SIGINT to both, and a second one would mean haste; SIGTERM after it means nothing new
        self._process.send_signal(signal.SIGTERM if asked in (None, signal.SIGINT) else asked)
        self._process.wait()


def call(command: str) -> str:
    """Run one of our scripts as a user would, to its end; see `Running.ended`."""
    return Running(command).ended()


def trained(demo: Demo) -> list[str]:
    """Run all stages; a line of each on its time and memory."""
    if not demo.beside:
        return [call(command) for command in demo.stages]
    before, half = os.environ.get(THREADS), str(max(1, usable() // 2))
    print(f"$ export {THREADS}={half}")
    os.environ[THREADS] = half
    log = demo.logdir.with_name(f"{demo.logdir.name}-beside.log")
    aside = Running(demo.beside, make_folder(log.parent) / log.name)
    try:
        return [*(call(command) for command in demo.stages), aside.followed()]
    finally:
        aside.stop()
        os.environ.pop(THREADS) if before is None else os.environ.update({THREADS: before})


def table(demo: Demo, scores: list[dict]) -> str:
    """The scores of its drivers as text."""
    rows = [
        [demo.title, *demo.columns],
        *(
            [driver.title, *(column(score) for column in demo.columns.values())]
            for driver, score in zip(demo.drivers, scores, strict=True)
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )


def main() -> None:
    p = parser(__doc__)
    p.add_argument("world", choices=DEMOS, nargs="?", default="carracing", help="what to show")
    world = p.parse_args().world
    demo = DEMOS[world]
    began = time.monotonic()
    costs = trained(demo)
    scores = []
    for driver in demo.drivers:
        who = f"--logdir {driver.logdir} --controller {driver.controller}"
        video = f" --record {demo.logdir / 'drive.mp4'}" if driver.controller == "bc" else ""
        costs.append(call(f"test_controller.py {who} {demo.scoring} --max-workers 2{video}"))
        scores.append(json.loads(score_file(driver.logdir, driver.controller, world, "simulator").read_text()))
    print(f"\n{table(demo, scores)}\n\npictures and videos:")
    for path in demo.pictures:
        print(f"  {max(path.glob('*.png')) if path.is_dir() else path}")
    print("\ntime and peak memory of a process:", *costs, sep="\n")
    print(f"{(time.monotonic() - began) / 60:.1f} minutes in all")


if __name__ == "__main__":
    run(main)
