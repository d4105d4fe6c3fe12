"""A lesson through the browser: how soon a scripted teacher has taught MountainCar from nothing, and whether the page
keeps its pace while the clone learns.

Writes  sections of docs/results/classic.md and docs/benchmarks.md; docs/results/images/lesson.png and
        docs/images/teacher.png

    python -m benchmarks.lesson                     # needs Chromium and chromedriver, as `make test` installs them; \
        some 15 minutes
    python -m benchmarks.lesson --seeds 1 --seconds 30 --out exp_dir/lesson.md --pace-out exp_dir/pace.md

The teacher is the quickest driver (value iteration): it presses a key where the clone would do something else, and
misses a tenth of these presses.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
from PIL import Image

from dreamdrive.benchmarks.report import circumstances, table, write_section
from dreamdrive.envs.classic import quickest_action
from dreamdrive.utils.argument_types import positive
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.metrics import read_csv
from dreamdrive.utils.plots import figure
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

ROOT = Path(__file__).resolve().parent.parent
ARROWS, NAMES = ("ArrowLeft", "ArrowDown", "ArrowRight"), ("accelerate left", "do not accelerate", "accelerate right")
MISSED = 0.1  # of the presses
TRIALS, EPISODES = 15, 50
# A step with a key held, or with none: pressed, and released when the next step is shown, with the page's own button
# for a single step.
STEP = """
const [key, done] = arguments, at = () => [lesson.status.trial, lesson.now.step].join(), before = at();
if (key) dispatchEvent(new KeyboardEvent("keydown", { key }));
document.getElementById("step").click();
const wait = () => {
  const running = lesson.status.phase === "running" && lesson.now.clone;
  if (lesson.status.phase !== "done" && (at() === before || !running)) return setTimeout(wait, 1);
  if (key) dispatchEvent(new KeyboardEvent("keyup", { key }));
  done([lesson.now, lesson.status]);
};
setTimeout(wait, 1);
"""


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--seeds", type=positive, default=3, help="lessons, each with a --seed of its own")
    p.add_argument("--seconds", type=positive, default=300, help="that the pace is measured for, in each world")
    p.add_argument(
        "--out", type=Path, default=Path("docs/results/classic.md"), help="document to write what was learnt into"
    )
    p.add_argument("--pace-out", type=Path, default=Path("docs/benchmarks.md"), help="document to write the pace into")
    return p.parse_args()


def open_browser() -> Any:
    """Headless Chromium; UserError where there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
    except ImportError as error:
        raise UserError(f"the package selenium cannot be imported ({error}): run `make setup`") from None
    if not (chromium and driver):
        raise UserError("there is no chromium with its chromedriver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--mute-audio",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_script_timeout(60)
    return browser


def start(
    logdir: Path,
    *options,
    script: tuple[str, ...] = ("trainbc.py", "--teacher"),
    python: str = sys.executable,
    project: Path = ROOT,
) -> tuple[subprocess.Popen, str]:
    """A lesson as a user would start it, or what another script serves, and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python, *script, "--port", str(port), "--logdir", str(logdir), *map(str, options)]
    lesson = subprocess.Popen(
        command,
        cwd=project,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert lesson.stdout and lesson.stderr, "both were asked for"
    address = re.search(r"http://\S+", said := lesson.stdout.readline())
    if not address:
        raise UserError(f"the lesson did not start: {said}{lesson.stderr.read()}")
    return lesson, address[0]


def visit(browser: Any, address: str) -> None:
    """Open the page, and wait until it shows something."""
    browser.get(address)
    wait(browser, "lesson.frames > 0 && lesson.status.seat")


def wait(browser: Any, condition: str, seconds: float = 30) -> None:
    """Until it holds of the page."""
    deadline = time.monotonic() + seconds
    while not browser.execute_script(f"return Boolean({condition})"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition}: {browser.execute_script('return [lesson.status, lesson.now]')}")
        time.sleep(0.02)


def teach(browser: Any, rng: np.random.Generator) -> None:
    """Be the scripted teacher until the lesson is over."""
    browser.find_element("id", "pause").click()
    now, status = browser.execute_async_script(STEP, None)
    while status["phase"] != "done":
        wanted = int(quickest_action(np.array([now["numbers"]]))[0])
        differs = NAMES[wanted] != now["clone"]
        now, status = browser.execute_async_script(STEP, ARROWS[wanted] if differs and rng.random() > MISSED else None)


def end(lesson: subprocess.Popen) -> str:
    """What a lesson said at its end, which a Ctrl-C brings about unless it has come."""
    if lesson.poll() is None:
        lesson.send_signal(signal.SIGINT)
    out, err = lesson.communicate(timeout=120)
    if lesson.returncode:
        raise UserError(f"the lesson failed: {err}")
    return out


def learning(browser: Any, folder: Path, seeds: int, picture: Path, screenshot: Path) -> str:
    """What was learnt, as a table; the curve, and a picture of the page late in the last lesson."""
    rows, shares = [], []
    for seed in range(seeds):
        lesson, address = start(
            folder / str(seed), "--env", "mountaincar", "--countdown", 0, "--trials", TRIALS, "--seed", seed
        )
        visit(browser, address)
        teach(browser, np.random.default_rng(seed))
        lesson.communicate(timeout=120)
        trials = read_csv(folder / str(seed) / "bc" / "metrics.csv")
        shares.append([100 * float(row["overridden"]) for row in trials])
        done = subprocess.run(
            [
                sys.executable,
                "test_controller.py",
                "--logdir",
                folder / str(seed),
                "--controller",
                "bc",
                "--episodes",
                str(EPISODES),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        score = re.findall(r"simulator: (\S+ \+- \S+)", done.stdout)[0]
        rows.append(
            [str(seed), trials[-1]["samples"], f"{shares[-1][0]:.0f}", f"{np.mean(shares[-1][-3:]):.0f}", score]
        )
        print("  ".join(rows[-1]), flush=True)
    draw_shares(shares, picture)
    photograph(browser, folder / str(seeds - 1), seeds - 1, screenshot)
    head = [
        "seed",
        "samples",
        "overridden in trial 1, %",
        f"in trials {TRIALS - 2} to {TRIALS}, %",
        f"the clone alone, {EPISODES} episodes",
    ]
    return table(head, rows)


def draw_shares(shares: list[list[float]], picture: Path) -> None:
    """A curve a seed: per cent of a trial's steps that the teacher took over."""
    with figure(picture, 6, 3.6) as drawn:
        axes = drawn.add_subplot()
        for seed, values in enumerate(shares):
            axes.plot(range(1, len(values) + 1), values, marker=".", label=f"seed {seed}")
        axes.set(xlabel="trial", ylabel="steps overridden, %", ylim=(0, 100), title="MountainCar, taught from nothing")
        axes.grid(alpha=0.3)
        axes.legend()


def photograph(browser: Any, logdir: Path, seed: int, screenshot: Path) -> None:
    """A picture of the page when teacher and clone differ."""
    lesson, address = start(logdir, "--env", "mountaincar", "--countdown", 0, "--seed", seed)
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 1280, "height": 720, "deviceScaleFactor": 1, "mobile": False}
    )
    visit(browser, address)
    wait(browser, "lesson.now.step > 25")
    browser.execute_script("dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft' }))")
    wait(browser, "lesson.now.differs")
    make_folder(screenshot.parent)
    browser.save_screenshot(str(screenshot))
    Image.open(screenshot).convert("RGB").quantize(128).save(screenshot, optimize=True)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get("about:blank")
    end(lesson)


PACED = {  # world and clone -> flags
    "MountainCar, its numbers": ("--env", "mountaincar"),
    "CarRacing, frames (`--model cfc`)": ("--env", "carracing", "--model", "cfc"),
}


def pace(browser: Any, folder: Path, seconds: int) -> str:
    """How steadily pictures come, measured in the browser."""
    rows = []
    for name, options in PACED.items():
        lesson, address = start(folder / re.sub(r"\W+", "-", name), *options, "--countdown", 1)
        visit(browser, address)
        wait(browser, "lesson.now.training > 0", 60)
        browser.execute_script("lesson.arrivals.length = 0")
        time.sleep(seconds)
        gaps = np.diff(browser.execute_script("return lesson.arrivals"))
        training = browser.execute_script("return lesson.now.training")
        browser.get("about:blank")
        end(lesson)
        rows.append(
            [
                name,
                f"{1000 / gaps.mean():.1f}",
                *(f"{np.percentile(gaps, q):.0f} ms" for q in (50, 99)),
                f"{gaps.max():.0f} ms",
                f"{training:,}",
            ]
        )
        print("  ".join(rows[-1]), flush=True)
    return table(
        [
            "world and clone",
            "pictures a second",
            "gap, median",
            "99th percentile",
            "longest",
            "training steps beside it",
        ],
        rows,
    )


def main() -> None:
    args = parse_args()
    command = "```\npython -m benchmarks.lesson\n```\n"
    browser = open_browser()
    try:
        with tempfile.TemporaryDirectory() as folder:
            curve, screenshot = (out.parent / "images" for out in (args.out, args.pace_out))
            learnt = learning(
                browser, Path(folder, "learning"), args.seeds, curve / "lesson.png", screenshot / "teacher.png"
            )
            paced = pace(browser, Path(folder, "pace"), args.seconds)
    finally:
        browser.quit()
    write_section(
        args.out,
        "lesson",
        f"{learnt}\n\n![steps overridden, by trial](images/lesson.png)\n\n{circumstances()}\n\n{command}",
    )
    about = (
        f"{args.seconds} seconds each, gaps between pictures as they come to a headless Chromium on the same machine."
    )
    write_section(args.pace_out, "lesson", f"{paced}\n\n{about}\n\n{circumstances()}\n\n{command}")
    print(learnt, paced, sep="\n\n")


if __name__ == "__main__":
    run(main)
