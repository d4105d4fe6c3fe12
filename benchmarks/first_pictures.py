"""How long after `git clone` there is a first picture of each kind.

Writes  docs/first-hour.md, its section "first pictures"

    python -m benchmarks.first_pictures                     # needs Chromium and chromedriver; half an hour
    python -m benchmarks.first_pictures --made ../demo  # `make demo` has been run there: its files' times are taken

The project is cloned into a temporary folder and set up there; then each command is typed once, on what `make setup`
made. Pages are opened in a headless Chromium that is running already.
"""

import argparse
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.benchmarks import lesson, web
from dreamdrive.benchmarks.lesson import ROOT, open_browser
from dreamdrive.benchmarks.report import circumstances, table, write_section
from dreamdrive.scripts.demo import DATA, LOGDIR
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

RECORDED = "datasets/first"
# What there is to see of a run that comes with the project: flags of play.py, and commands with the pages they make.
PLAYED = {"the clone drives, in the browser": "-r", "you drive in the dream, in the browser": "-w"}
TYPED = {
    "a run as a page": ("dreamdrive report carracing --out report.html", "report.html"),
    "its dream as a page that drives": ("dreamdrive export web --logdir carracing --out dream.html", "dream.html"),
    "ten episodes, recorded": (
        f"python data/generation_script.py --env carracing-fast --rollouts 10 --policy expert --rootdir {RECORDED}",
        None,
    ),
    "these as a page with films": (f"dreamdrive data page {RECORDED} --out pages/first", "pages/first/index.html"),
    "a score and a film of an official track": (
        "python test_controller.py --logdir carracing --episodes 1 --record drive.mp4",
        None,
    ),
}
# What `make demo` makes, in its order: what there is to see, and the file with whose time it is there.
DEMO = {
    "recorded episodes, for `play.py -e` and `dreamdrive data page`": DATA / "manifest.json",
    "what V makes of frames (`vae/samples`)": LOGDIR / "vae/samples/epoch_001.png",
    "what M dreams (`mdrnn/dreams`)": LOGDIR / "mdrnn/dreams/epoch_001.png",
    "a film of the clone in the dream (`bc/dream.mp4`)": LOGDIR / "bc/dream.mp4",
    "a score: random actions": LOGDIR / "scores/random-carracing-simulator.json",
    "a film of the clone in the simulator (`drive.mp4`)": LOGDIR / "drive.mp4",
    "the clone's score": LOGDIR / "scores/bc-carracing-simulator.json",
}
BEGUN = DATA / "args.json"  # the first file of a demo that stays as it is, some seconds after its begin

THEN = "What `make demo` made has the times of its files."
EARLIER = "What `make demo` made has the times of its files, since the first of them, in another clone at another time."


@dataclass(frozen=True)
class Seen:
    """What there is to see, by which command, and the seconds that took; before them others may have been needed."""

    title: str
    command: str
    seconds: float
    before: float = 0.0


class Clone:
    """A clone of the project that is set up.

    Attributes:
        folder: where it is        seconds: that each step took, in their order
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds = {
            "git clone": timed(partial(call, f"git clone -q {shlex.quote(str(ROOT))} {folder}", folder.parent)),
            "make setup": timed(partial(call, "make setup", folder)),
        }

    @property
    def python(self) -> str:
        return str(self.folder / ".venv/bin/python")

    def type(self, command: str) -> None:
        """A command as a user would type it, whose .venv is active."""
        call(f"{self.folder}/.venv/bin/{command}", self.folder)


def timed(act: Callable[[], Any]) -> float:
    """Seconds it takes."""
    began = time.monotonic()
    act()
    return time.monotonic() - began


def call(command: str, folder: Path) -> None:
    """UserError where it fails."""
    print(f"$ {command}", flush=True)
    done = subprocess.run(
        shlex.split(command), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise UserError(f"`{command}` ended with status {done.returncode}: {done.stderr.strip()[-500:]}")


def played(browser: Any, clone: Clone, *flags: str) -> float:
    """Seconds until `play.py --browser` shows a frame."""
    began = time.monotonic()
    process, address = lesson.start(
        Path("carracing"), *flags, script=("play.py", "--browser"), python=clone.python, project=clone.folder
    )
    try:
        lesson.visit(browser, address)
        return time.monotonic() - began
    finally:
        browser.get("about:blank")
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def shown(browser: Any, page: Path) -> None:
    """Open a page, and wait until its pictures are there; that of a dream, until it drives."""
    if page.name == "dream.html":
        web.visit(browser, page)
    else:
        browser.get(page.as_uri())


def of_shipped_run(browser: Any, clone: Clone) -> list[Seen]:
    """What there is to see without training."""
    rows = []
    for title, flag in PLAYED.items():
        command = f"python play.py --logdir carracing --browser {flag}"
        rows.append(Seen(title, command, played(browser, clone, flag)))
    for title, (command, page) in TYPED.items():
        needed = sum(row.seconds for row in rows if RECORDED in row.command and RECORDED in command)
        seconds = timed(partial(clone.type, command))
        if page:
            seconds += timed(partial(shown, browser, clone.folder / page))
        rows.append(Seen(title, command, seconds, needed))
    return rows


def began_at(made: Path) -> float:
    """When `make demo` began in a folder, by the first file that it leaves; UserError where that is not there."""
    if not (made / BEGUN).exists():
        raise UserError(f"{made} lacks {BEGUN}: run `make demo` there first")
    return (made / BEGUN).stat().st_mtime


def of_demo(made: Path, began: float) -> list[Seen]:
    """What `make demo`, begun at that time, has made in a folder."""
    missing = [str(path) for path in DEMO.values() if not (made / path).exists()]
    if missing:
        raise UserError(f"{made} lacks {', '.join(missing)}: run `make demo` there first")
    rows = [Seen(title, "make demo", (made / path).stat().st_mtime - began) for title, path in DEMO.items()]
    seconds = [row.seconds for row in rows]
    if seconds != sorted(seconds) or seconds[0] < 0:
        raise UserError(f"what `make demo` made in {made} is of several goes: run it in a fresh clone")
    return rows


def report(steps: dict[str, float], rows: Sequence[Seen], demo: str) -> str:
    """The section, of the seconds that clone and set-up took, of what there is to see then, and whence a demo's are."""
    ready = sum(steps.values())
    lines = [[f"`{name}`", f"{seconds:.0f}", ""] for name, seconds in steps.items()]
    for row in rows:
        since = ready + row.before + row.seconds
        lines.append([f"{row.title}: `{row.command}`", f"{row.seconds:.0f}", f"{since:.0f}"])
    head = ["what there is to see, and the command", "its seconds", "seconds since `git clone`"]
    return (
        f"{table(head, lines)}\n\nEach once, first after `make setup`; cloned from the same disk, packages from a "
        f"mirror near by, pages opened in a browser that was running. {demo} Measured by "
        f"`python -m benchmarks.first_pictures` on: {circumstances()}"
    )


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--made", type=Path, metavar="CLONE", help="where `make demo` has been run; else it is run")
    p.add_argument("--out", type=Path, default=Path("docs/first-hour.md"), help="document to write the section into")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    if args.made:
        of_demo(args.made, began_at(args.made))  # complains before anything is measured
    os.environ.pop("PYTHONPATH", None)  # by which a clone would import this project
    browser = open_browser()
    try:
        with tempfile.TemporaryDirectory() as folder:
            clone = Clone(Path(folder, "dreamdrive"))
            rows = of_shipped_run(browser, clone)
            began = began_at(args.made) if args.made else time.time()
            if not args.made:
                call("make demo", clone.folder)
            text = report(
                clone.seconds, rows + of_demo(args.made or clone.folder, began), EARLIER if args.made else THEN
            )
    finally:
        browser.quit()
    print(text)
    write_section(args.out, "first pictures", text)


if __name__ == "__main__":
    run(main)
