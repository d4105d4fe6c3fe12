"""The page of a dream in headless Chromium: pictures a second, and how far it is from Python's dream of the same run.

Writes  a section of docs/web.md, and docs/images/web.png

    python -m benchmarks.web                        # needs Chromium and chromedriver; a minute
    python -m benchmarks.web exp_dir/mine --seconds 5 --out exp_dir/web.md
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dreamdrive.benchmarks.lesson import open_browser
from dreamdrive.benchmarks.report import circumstances, table, write_section
from dreamdrive.driving.agent import load_agent
from dreamdrive.envs import dream
from dreamdrive.models.world_model import load_world_model
from dreamdrive.utils.argument_types import positive
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser
from dreamdrive.utils.spaces import ActionSpace
from dreamdrive.web import dream_page, export
from dreamdrive.web.settings import NOBODY

STEPS = 20
# All steps of a dream, and what it looked like after each
DREAM = """
const [start, actions, temperature, noise] = arguments;
page.paused = true;
dream.reset(start);
return actions.map((action, t) => {
  const agent = dream.told.agent && dream.agent();
  const next = dream.step(action, temperature, noise ? noise[t] : undefined);
  return { ...next, z: [...next.z], picture: [...dream.frame()], agent: agent?.length ? [...agent] : agent };
});
"""
# Steps, each with the agent's action and a picture, as many as a second takes
PACE = """
page.paused = true;
const began = performance.now();
let count = 0, now = began;
for (; now < began + 1000; now = performance.now(), count++) {
  if (dream.over) dream.reset(count % dream.starts);
  dream.step(dream.told.agent ? dream.agent() : dream.keys.letGo(null), 1);
  dream.frame();
}
return 1000 * count / (now - began);
"""


@dataclass
class Dreamt:
    """T steps of one dream.

    Fields:
        z: (T, Z)        reward, ending, ended: (T,)        pictures: (T, H, W, C) in [0, 1]
        agent: what the agent would do before each, (T, A) or (T,); None where there is none
    """

    z: np.ndarray
    reward: np.ndarray
    ending: np.ndarray
    ended: np.ndarray
    pictures: np.ndarray
    agent: np.ndarray | None

    def furthest(self, other: "Dreamt") -> dict[str, float]:
        """The largest difference, by what it is of."""
        names = ("z", "reward", "ending", "ended", "pictures", *(("agent",) if self.agent is not None else ()))
        return {name: float(np.abs(1.0 * getattr(self, name) - getattr(other, name)).max()) for name in names}


def given_actions(space: ActionSpace, steps: int, seed: int = 0) -> Tensor:
    """Actions (T, A) or (T,) drawn uniformly, each held for five steps."""
    rng = np.random.default_rng(seed)
    drawn = [space.uniform(rng) for _ in range(-(-steps // 5))]
    return torch.from_numpy(np.repeat(np.stack(drawn), 5, 0)[:steps])


@torch.inference_mode()
def in_python(
    logdir: Path, start: int, action: Tensor, temperature: float = 0.0, noise: list | None = None, controller: str = ""
) -> Dreamt:
    """The dream of a run from its start number `start`; `noise`: of each step the numbers (1, n) that `Memory.noise`
    takes."""
    model = load_world_model(logdir, torch.device("cpu"))
    assert model.starts, "the run says where dreams begin"
    head = load_agent(logdir, controller).controller if controller else None
    space = ActionSpace.from_dict(model.world["action_space"])
    now = dream.begin(model.starts, torch.tensor([start]), None)
    seen: dict[str, list] = {name: [] for name in ("z", "reward", "ending", "ended", "pictures", "agent")}
    for t in range(len(action)):
        seen["agent"].append(head(now.z, now.h)[0] if head else torch.zeros(()))
        drawn = model.memory.noise(*noise[t]) if noise else model.memory.drawn(1, torch.Generator())
        now, imagined = dream.imagine(model.memory, now, space.vector(action[t][None]), temperature, drawn)
        for name in ("z", "reward", "ending", "ended"):
            seen[name].append(getattr(imagined, name)[0])
        seen["pictures"].append(model.vision.frames(now.z)[0] / 255)
    values: dict[str, np.ndarray] = {name: torch.stack(parts).numpy() for name, parts in seen.items()}
    agent = values.pop("agent")
    return Dreamt(**values, agent=agent if head else None)


def in_page(
    browser: Any, start: int, action: Tensor, channels: int, temperature: float = 0.0, noise: list | None = None
) -> Dreamt:
    """The same in the page that the browser shows, from its own start number `start`."""
    numbers = [{"uniform": uniform[0].tolist(), "normal": normal[0].tolist()} for uniform, normal in noise or []]
    steps = browser.execute_script(DREAM, start, action.tolist(), temperature, numbers or None)
    side = round((len(steps[0]["picture"]) // 4) ** 0.5)
    pictures = np.array([step["picture"] for step in steps]).reshape(-1, side, side, 4) / 255
    agent = None if steps[0]["agent"] is None else np.array([step["agent"] for step in steps])
    values = {name: np.array([step[name] for step in steps]) for name in ("z", "reward", "ending", "ended")}
    return Dreamt(**values, pictures=pictures[..., :channels], agent=agent)


def visit(browser: Any, page: Path) -> None:
    """Open a page of a dream, and wait until it drives."""
    browser.get(page.resolve().as_uri())
    deadline = time.monotonic() + 30
    while not browser.execute_script("return Boolean(window.page && page.pictures)"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{page} shows nothing: {browser.get_log('browser')}")
        time.sleep(0.05)


def row(browser: Any, name: str, folder: Path, seconds: int) -> list[str]:
    """What is found of one run."""
    args = export.parse_args(["--logdir", name, "--out", str(folder / f"{Path(name).name}.html")])
    size = dream_page.write(args)
    visit(browser, args.out)
    pace = [browser.execute_script(PACE) for _ in range(seconds)]
    model = load_world_model(args.logdir, torch.device("cpu"))
    assert model.starts and args.controller, "they were exported"
    action = given_actions(ActionSpace.from_dict(model.world["action_space"]), STEPS)
    controller = "" if args.controller == NOBODY else args.controller
    apart: dict[str, float] = {}
    for number, start in enumerate(dream_page.chosen_starts(len(model.starts), args.starts).tolist()):
        shown = in_page(browser, number, action, model.world["image_shape"][-1])
        found = shown.furthest(in_python(args.logdir, start, action, controller=controller))
        apart = {name: max(value, apart.get(name, 0.0)) for name, value in found.items()}
    pictures = f"{255 * apart.pop('pictures'):.0f}"
    kinds = f"{model.vision.kind}, {model.memory.kind}"
    line = [f"`{args.logdir.name}`", kinds, f"{size / 1e6:.1f}", f"{np.median(pace):.0f}", f"{max(pace):.0f}"]
    line += [f"{1 / model.world['dt']:.0f}", f"{max(apart.values()):.1e}", pictures]
    print("  ".join(line), flush=True)
    return line


def photograph(browser: Any, page: Path, screenshot: Path) -> None:
    """A picture of the page in a while of driving."""
    size = {"width": 1280, "height": 720, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    visit(browser, page)
    time.sleep(5)
    make_folder(screenshot.parent)
    browser.save_screenshot(str(screenshot))
    Image.open(screenshot).convert("RGB").save(screenshot, optimize=True)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("runs", nargs="*", default=["carracing", "carracing-dream", "nocturne"], help="runs to export")
    p.add_argument("--seconds", type=positive, default=10, help="that the pace is measured for")
    p.add_argument("--out", type=Path, default=Path("docs/web.md"), help="document to write into")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    browser = open_browser()
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = [row(browser, name, Path(folder), args.seconds) for name in args.runs]
            first = Path(folder, f"{Path(args.runs[0]).name}.html")
            photograph(browser, first, args.out.parent / "images" / "web.png")
    finally:
        browser.quit()
    head = ["run", "V, M", "MB", "steps/s", "best second", "real time", "numbers apart", "pictures apart"]
    write_section(args.out, "web", f"{table(head, rows)}\n\n{circumstances()}\n\n```\npython -m benchmarks.web\n```\n")


if __name__ == "__main__":
    run(main)
