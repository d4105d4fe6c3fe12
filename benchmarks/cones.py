"""Cone pictures: how close style "nocturne" comes to Nocturne's own, and how many pictures are drawn in a second.

Reads   Nocturne's scenes and recorded pictures (--nocturne: a folder with scenes/ and oracle/)
Writes  docs/benchmarks.md, its section "cones", and docs/images/cones.png

    python -m benchmarks.cones

All objects are where the log has them. Leave the machine alone meanwhile; --sections figure alone needs no quiet.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
import torch

from dreamdrive.benchmarks.report import circumstances, table, write_section
from dreamdrive.envs.nocturne.cone import STYLES, framed, look, render_cones, renderer
from dreamdrive.envs.nocturne.cone_nocturne import BACKGROUND, ROAD_COLORS, lit
from dreamdrive.envs.nocturne.scene import ABSENT, OBJECTS, Scene, load_scene
from dreamdrive.utils.argument_types import positive, positive_float
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser
from dreamdrive.utils.video import save_png

COPIES, EGOS = 16, 4  # of a scene, at different steps; in each: 64 pictures
SIZES = (64, 128)
BATCHES = (1, 64)
GOALS = {"legible": 1500, "nocturne": 500}  # pictures a second of 128 pixels, 64 at once
NEAR = 8  # levels that count as the same
LEAST = {400: 97, 128: 88}  # per cent
PADDINGS = {"p0": lambda w: 0, "p50": lambda w: 50, "pEq": lambda w: w / 32}
RECORDED = ((400, "pEq"), (400, "p50"), (128, "p0"), (128, "pEq"), (64, "p0"), (64, "pEq"))
SHOWN = 20  # the step that the figure shows


def replay(scenes: list[Scene], times: list[int]) -> SimpleNamespace:
    """A stand-in for a simulator: scene b at the log's step times[b]."""
    n = max(len(s.ids) for s in scenes)

    def padded(rows: list[np.ndarray], fill: float) -> torch.Tensor:
        return torch.from_numpy(
            np.stack([np.concatenate([r, np.full((n - len(r), *r.shape[1:]), fill, r.dtype)]) for r in rows])
        )

    states = []
    for scene, t in zip(scenes, times, strict=True):
        at = np.where(scene.valid[:, t, None], scene.position[:, t], ABSENT)
        states.append(np.concatenate([at, np.stack([scene.heading[:, t], scene.speed[:, t]], -1)], 1))
    return SimpleNamespace(
        scenes=scenes,
        state=padded(states, ABSENT),
        present=padded([np.ones(len(s.ids), bool) for s in scenes], False),
        there=padded([s.valid[:, t] for s, t in zip(scenes, times, strict=True)], False),
        length=padded([s.length for s in scenes], 1),
        width=padded([s.width for s in scenes], 1),
        type=padded([s.type for s in scenes], 0),
        time=torch.tensor(times),
    )


# How close the pictures are


@dataclass
class Recorded:
    """What Nocturne drew of a scene: `colors` (N, 3) of its bodies, `info` of the recording."""

    scene: Scene
    colors: np.ndarray
    info: dict
    folder: Path

    def pictures(self, size: int, padding: str) -> tuple[np.ndarray, np.ndarray]:
        """Nocturne's and ours (E, h, w, 3)."""
        times, egos = self.info["times"], self.info["egos"]
        stored = np.load(self.folder / "cone" / f"W{size}_{padding}.npz")
        theirs = np.stack([stored[f"ego{ego}_t{t}"][..., :3] for t in times for ego in egos])
        sim = replay([self.scene] * len(times), times)
        wanted = [(b, self.scene.index(ego)) for b in range(len(times)) for ego in egos]
        colors = np.stack([self.colors] * len(times))
        return theirs, render_cones(
            sim,
            wanted,
            size,
            self.info["view_dist"],
            self.info["view_angle"],
            PADDINGS[padding](size),
            "nocturne",
            colors,
        ).numpy()


@lru_cache
def recorded(folder: Path) -> dict[str, Recorded]:
    if not (folder / "oracle").is_dir():
        raise UserError(
            f"{folder} has no oracle/: name the folder with Nocturne's scenes and recorded pictures (--nocturne)"
        )
    found = {}
    for place in sorted((folder / "oracle").iterdir()):
        scene = load_scene(folder / "scenes" / f"{place.name}.json", spawn_invalid=False)
        shades = {o["id"]: o["color"] for o in json.loads((place / "meta.json").read_text())["objects"]}
        info = json.loads((place / "cone" / "info.json").read_text())
        found[place.name] = Recorded(scene, np.array([shades[i] for i in scene.ids], np.uint8), info, place)
    return found


def classes(theirs: np.ndarray, colors: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
    """Which of Nocturne's pixels (E, h, w) are wholly of one class; "edges" are those of several; shadow: black where
    the cone is."""

    def of(*shades: np.ndarray | tuple) -> np.ndarray:
        return np.any([np.abs(theirs.astype(int) - shade).max(-1) <= 2 for shade in shades], 0)

    found = {
        "grey": of((BACKGROUND,) * 3),
        "shadow": of((0, 0, 0)) & kept,
        "arrow": of((255,) * 3),
        **{name: of(shade) for name, shade in ROAD_COLORS.items()},
    }
    roads = np.any(list(found.values()), 0)
    found["body"] = of(*colors) & ~roads
    found["edges"] = ~np.any([*found.values(), of((0, 0, 0))], 0)
    return found


def fidelity(args: argparse.Namespace) -> str:
    rows, by_class = [], []
    for size, padding in RECORDED:
        right: dict[str, int] = {}
        all_of: dict[str, int] = {}
        for name, log in recorded(args.nocturne).items():
            theirs, ours = log.pictures(size, padding)
            near = np.abs(theirs.astype(int) - ours).max(-1) <= NEAR
            either = (theirs.max(-1) > 0) | (ours.max(-1) > 0)
            shares = [100 * n[e].mean() for n, e in zip(near, either, strict=True)]
            rows.append(
                [
                    name,
                    str(size),
                    padding,
                    f"{np.mean(shares):.2f} %",
                    f"{min(shares):.2f} %",
                    f"{LEAST.get(size, 0)} %" if size in LEAST else "-",
                ]
            )
            frame = framed(size, log.info["view_dist"], log.info["view_angle"], 0.0, PADDINGS[padding](size))
            kept = np.asarray(lit(frame).all(-1))
            for kind, mask in classes(theirs, log.colors, kept).items():
                right[kind], all_of[kind] = (
                    right.get(kind, 0) + int(near[mask].sum()),
                    all_of.get(kind, 0) + int(mask.sum()),
                )
        by_class.append(
            [f"{size} {padding}", *(f"{100 * right[k] / all_of[k]:.2f}" if all_of[k] else "-" for k in all_of)]
        )
    return (
        f"Pixels of Nocturne's recorded pictures that style nocturne meets within {NEAR} levels in every channel, of "
        "those that are not black in both, over the "
        "twelve pictures of each scene (p0, p50, pEq: padding of 0, 50 and size / 32 pixels):\n\n"
        + table(["scene", "pixels", "padding", "mean", "worst picture", "wanted"], rows)
        + (
            "\n\nThe same in per cent by what Nocturne's pixel shows, all scenes together (edges: pixels that show "
            "more "
            "than one thing):\n\n"
        )
        + table(["size", *all_of], by_class)
    )


# How fast they are drawn


def crowd(scene: Scene) -> tuple[SimpleNamespace, list[tuple[int, int]]]:
    """COPIES of a scene at different steps, and EGOS vehicles in each."""
    rng = np.random.default_rng(0)
    times = [int(t) for t in np.linspace(0, 90, COPIES)]
    present = [np.flatnonzero(scene.valid[:, t] & (scene.type == OBJECTS.index("vehicle"))) for t in times]
    return replay([scene] * COPIES, times), [
        (b, int(n)) for b, there in enumerate(present) for n in rng.choice(there, EGOS)
    ]


def rates(draw: Callable[[], int], args: argparse.Namespace) -> tuple[float, float]:
    """Pictures per second, and per second of one processor: medians."""
    draw()
    wall, cpu = [], []
    for _ in range(args.repetitions):
        start, start_cpu, made = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < args.seconds:
            made += draw()
        wall.append(made / (time.perf_counter() - start))
        cpu.append(made / max(time.process_time() - start_cpu, 1e-9))
    return float(np.median(wall)), float(np.median(cpu))


def speed(args: argparse.Namespace) -> str:
    rows = []
    for name, log in recorded(args.nocturne).items():
        sim, egos = crowd(log.scene)
        counts = near_segments(log.scene, look(sim, egos, framed(64, 80.0, 2.0944, 0.0, 0.0)).position)
        for style in STYLES:
            for size in SIZES:
                cells = []
                for batch in BATCHES:
                    parts = [egos[i : i + batch] for i in range(0, len(egos), batch)]
                    turn = iter(range(10**9))

                    def draw(size=size, style=style, parts=parts, turn=turn, sim=sim) -> int:
                        return len(render_cones(sim, parts[next(turn) % len(parts)], size, style=style))

                    cells += [f"{rate:,.0f}" for rate in rates(draw, args)]
                wanted = f"{GOALS[style]:,}" if size == 128 else "-"
                rows.append([name, style, str(size), f"{counts:,.0f}", *cells, wanted])
    head = [
        "scene",
        "style",
        "pixels",
        "segments within 80 m",
        "1 at once",
        "per CPU-second",
        "64 at once",
        "per CPU-second",
        "wanted",
    ]
    return (
        f"Pictures per second, median of {args.repetitions} turns of {args.seconds:g} s; "
        f"{renderer().context.renderer}:\n\n"
    ) + table(head, rows)


def near_segments(scene: Scene, egos: np.ndarray, dist: float = 80.0) -> float:
    """The mean number of road points within `dist` of the egos."""
    return float(np.mean([(np.linalg.norm(scene.road_points - at, axis=1) < dist).sum() for at in egos]))


# What they look like


def enlarged(image: np.ndarray, side: int) -> np.ndarray:
    """To `side` pixels, each pixel a square, on black."""
    times = side // len(image)
    big = image.repeat(times, 0).repeat(times, 1)
    out = np.zeros((side, side, 3), np.uint8)
    at = (side - len(big)) // 2
    out[at : at + len(big), at : at + len(big)] = big
    return out


def figure(args: argparse.Namespace) -> str:
    """A row a scene: Nocturne's picture of 400 pixels, ours, their difference; legible at 64 and 128 pixels."""
    rows = []
    for log in recorded(args.nocturne).values():
        theirs, ours = log.pictures(400, "pEq")
        k = log.info["times"].index(SHOWN) * len(log.info["egos"]) + 1
        sim = replay([log.scene], [SHOWN])
        ego = [(0, log.scene.index(log.info["egos"][1]))]
        small = [render_cones(sim, ego, size, goal=True)[0].numpy() for size in SIZES]
        difference = np.abs(theirs[k].astype(int) - ours[k]).astype(np.uint8)
        cells = [theirs[k], ours[k], difference, *(enlarged(image, 400) for image in small)]
        gap = np.full((400, 8, 3), 128, np.uint8)
        rows += [np.concatenate([x for cell in cells for x in (cell, gap)][:-1], 1)[8:232]]
    gap = np.full((8, rows[0].shape[1], 3), 128, np.uint8)
    image = args.out.parent / "images" / "cones.png"
    make_folder(image.parent)
    save_png(image, np.concatenate([x for row in rows for x in (row, gap)][:-1]))
    return (
        f"![Nocturne's picture, ours, their difference, legible at 64 and at 128 pixels](images/{image.name})\n\nA row "
        "a scene, from the left: Nocturne's own "
        "picture of 400 pixels, style nocturne, their difference, style legible with 64 and 128 pixels, enlarged, with "
        "the goal. The black part below is cut off."
    )


SECTIONS = {"figure": figure, "fidelity": fidelity, "speed": speed}


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--nocturne", type=Path, default=Path("../shared/nocturne"), help="folder with scenes/ and oracle/")
    p.add_argument(
        "--sections",
        nargs="+",
        choices=SECTIONS,
        default=list(SECTIONS),
        help="what to do; unless it is all, it is printed and not written (images are)",
    )
    p.add_argument("--seconds", type=positive_float, default=2.0, help="of a turn")
    p.add_argument("--repetitions", type=positive, default=5, help="turns")
    p.add_argument(
        "--out",
        type=Path,
        default=Path("docs/benchmarks.md"),
        help="document to write the section into; images go beside it",
    )
    return p.parse_args()


def main() -> None:
    args = parse_args()
    text = "\n\n".join(SECTIONS[name](args) for name in args.sections)
    print(text)
    if set(args.sections) == set(SECTIONS):
        write_section(
            args.out,
            "cones",
            f"## Cone pictures\n\n{text}\n\nMeasured by `python -m benchmarks.cones --seconds {args.seconds:g}` on: "
            f"{circumstances()}",
        )
        print(f"written into {args.out}")


if __name__ == "__main__":
    run(main)
