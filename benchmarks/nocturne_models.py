"""Whether V keeps what a driver must see: cones of scenes it was not trained on, and what is left of the traffic in its
reconstructions.

Reads   a run with V (--logdir), and scenes: of a folder, or synthetic ones of the evaluation's seeds
Writes  its section of docs/results/nocturne.md, docs/results/images/nocturne-v<pixels>.png

    python -m benchmarks.nocturne_models --logdir exp_dir/nocturne

An object counts as visible if at least 6 pixels inside its outline have its class's colour (are nearer to it than to
any other of the palette); it has survived if more than half of these still have it in the reconstruction. That could be
had by painting vehicles everywhere, so what a reconstruction paints is counted too, and how much of it lies on a
vehicle or beside one. Intervals are 95 %, by bootstrap over scenes.
"""

import argparse
import shlex
import sys
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
import torch

from dreamdrive.benchmarks.models import Interval, bootstrap, mean, reconstruct
from dreamdrive.benchmarks.report import table, write_section
from dreamdrive.envs.nocturne.cone import Views, framed, look, render_cones
from dreamdrive.envs.nocturne.cone_legible import LEAST, PALETTE
from dreamdrive.envs.nocturne.pool import make_pool
from dreamdrive.envs.nocturne.scene import OBJECTS, Scene
from dreamdrive.envs.nocturne.simulator import Simulator
from dreamdrive.envs.nocturne.visibility import VIEW_ANGLE
from dreamdrive.envs.nocturne.world import ANCHOR
from dreamdrive.models.world_model import Vision, load_vision
from dreamdrive.utils.argument_types import positive
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.script import run
from dreamdrive.utils.seeds import evaluation_seeds
from dreamdrive.utils.settings import RunFolder, parser
from dreamdrive.utils.video import save_png, strip

TIMES = (15, 35, 55, 75)  # steps of the log that are looked at
LEAST_PIXELS = 6
KINDS = ("vehicle", "cyclist", "pedestrian")
COLOURS = {"hidden": (0, 0, 0), **PALETTE}
SHOWN = 10  # cones in the picture


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    RunFolder.add_flags(p)
    p.add_argument("--scenes", type=Path, help="folder of scenes (default: synthetic ones)")
    p.add_argument("--number", type=positive, default=100, help="of scenes, at most")
    p.add_argument(
        "--out", type=Path, default=Path("docs/results/nocturne.md"), help="document to write the section into"
    )
    p.add_argument("--name", help="of the section (default: nocturne-v<pixels>)")
    return p.parse_args()


def scenes_of(folder: Path | None, number: int) -> list[Scene]:
    """The scenes of the first evaluation seeds."""
    pool = make_pool(str(folder) if folder else None, warmup=0)
    found = {
        id(scene): scene
        for scene, _ in (pool.draw(seed) for seed in Bar(evaluation_seeds(0, number), desc="scenes", unit="scene"))
    }
    return list(found.values())


def cones(scene: Scene, options: dict) -> tuple[np.ndarray, Views]:
    """What every ego of a scene sees at TIMES, goals included: (E, size, size, 3) uint8; and where everything is in
    these pictures."""
    sim = Simulator([scene] * len(TIMES))
    for b, time in enumerate(TIMES):
        sim.reset([b], time=time)
    pairs = [(b, scene.index(ego)) for b in range(len(TIMES)) for ego in scene.egos if sim.there[b, scene.index(ego)]]
    size, dist = options["image_size"], options["view_dist"]
    images = render_cones(
        sim, pairs, size, view_dist=dist, goal=options["goal"], speed=options["speed"], anchor=ANCHOR
    ).numpy()
    return images, look(sim, pairs, framed(size, dist, VIEW_ANGLE, anchor=ANCHOR))


def nearest(images: np.ndarray) -> np.ndarray:
    """Which of COLOURS each pixel (..., 3) is nearest to, (...) int."""
    palette = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
    return (
        torch.cdist(torch.from_numpy(images.reshape(-1, 3)).float(), palette)
        .argmin(1)
        .numpy()
        .reshape(images.shape[:-1])
    )


def outlines(views: Views) -> np.ndarray:
    """(K, h, w) bool: the pixels whose middle is inside each object as it is drawn."""
    frame, scale = views.frame, views.frame.scale
    across, down = (
        (np.arange(n) + 0.5 - first - frame.side / 2) / scale
        for n, first in zip(frame.size[::-1], (frame.left, frame.top), strict=True)
    )
    u, v = across[None, None, :] - views.at[:, 0, None, None], -down[None, :, None] - views.at[:, 1, None, None]
    least = np.array([LEAST.get(OBJECTS[k], LEAST["vehicle"]) for k in views.type]) / scale / 2
    ahead, half = views.ahead[..., None, None], np.maximum(views.half, least)[..., None, None]
    along, aside = u * ahead[:, 0] + v * ahead[:, 1], u * ahead[:, 1] - v * ahead[:, 0]
    return (np.abs(along) <= half[:, 0]) & (np.abs(aside) <= half[:, 1])


def survivors(images: np.ndarray, copies: np.ndarray, views: Views) -> dict[str, np.ndarray]:
    """For each of KINDS (seen, survived) among what the cones show."""
    before, after = nearest(images)[views.cone], nearest(copies)[views.cone]
    inside, found = outlines(views) & ~views.is_ego[:, None, None], {}
    for kind in KINDS:
        colour = list(COLOURS).index(kind)
        own = inside & (before == colour) & (views.type == OBJECTS.index(kind))[:, None, None]
        pixels, kept = own.sum((1, 2)), (own & (after == colour)).sum((1, 2))
        seen = pixels >= LEAST_PIXELS
        found[kind] = np.array([seen.sum(), (seen & (2 * kept > pixels)).sum()])
    return found


def painted(images: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """(2,): of the reconstructions' pixels in the colour of vehicles, how many there are, and how many are at most one
    pixel from such a pixel of the cone."""
    before, after = (nearest(pictures) == list(COLOURS).index("vehicle") for pictures in (images, copies))
    close = torch.nn.functional.max_pool2d(torch.from_numpy(before).float(), 3, stride=1, padding=1).numpy() > 0
    return np.array([after.sum(), (after & close).sum()])


def squared_errors(images: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """(2, 2): sum and number of squared errors, of the pixels that are lit, and of those that show more than bare
    ground."""
    lit = images.any(-1)
    error = np.square(images.astype(np.float32) - copies.astype(np.float32)).mean(-1)
    return np.array(
        [
            [error[mask].sum(), mask.sum()]
            for mask in (lit, lit & (nearest(images) != list(COLOURS).index("background")))
        ]
    )


def psnr(sums: np.ndarray) -> Interval:
    """From (scenes, 2) sums and numbers of squared errors, dB."""
    return bootstrap(lambda e: float(10 * np.log10(255**2 * sums[e, 1].sum() / sums[e, 0].sum())), len(sums))


def measure(vision: Vision, scenes: list[Scene], options: dict) -> tuple[list[list[str]], np.ndarray]:
    """Rows of the report, and a picture."""
    seen: dict[str, list] = {kind: [] for kind in KINDS}
    drew, errors, dull, shown = [], [], [], []
    drawn = [cones(scene, options) for scene in Bar(scenes, desc="cones", unit="scene")]
    average = np.mean([images.mean(0) for images, _ in drawn if len(images)], 0).round().astype(np.uint8)
    for images, views in Bar(drawn, desc="reconstructions", unit="scene"):
        if not len(images):
            continue
        copies = reconstruct(vision, images)
        for kind, counts in survivors(images, copies, views).items():
            seen[kind].append(counts)
        drew.append(painted(images, copies))
        errors.append(squared_errors(images, copies))
        dull.append(squared_errors(images, np.broadcast_to(average, images.shape)))
        shown.append(max(zip(images, copies, strict=True), key=lambda pair: len(np.unique(nearest(pair[0])))))
    rows = []
    for kind in KINDS:
        counts = np.array(seen[kind], float)
        if not counts[:, 0].any():  # at 64 pixels none of the small ones has as many
            continue
        share = mean(100 * counts[:, 1], counts[:, 0]).text(1)
        rows.append(
            [f"{kind}s of at least {LEAST_PIXELS} pixels that survive, %", share, f"{counts[:, 0].sum():,.0f} seen"]
        )
    counts = np.array(drew, float)
    if counts[:, 0].any():
        rows.append(
            [
                "pixels painted as vehicles that are at most one off, %",
                mean(100 * counts[:, 1], counts[:, 0]).text(1),
                f"{counts[:, 0].sum():,.0f} painted",
            ]
        )
    for k, what in enumerate(("where anything is seen", "where more than bare ground is seen")):
        own, other = (psnr(np.array(e)[:, k]) for e in (errors, dull))
        rows.append([f"PSNR {what}", f"{own.text(1)} dB", f"average cone: {other.text(1)} dB"])
    some = shown[:: max(1, len(shown) // SHOWN)][:SHOWN]
    return rows, strip([("cone", [a for a, _ in some]), ("reconstruction", [b for _, b in some])], height=190)


def main() -> None:
    args = parse_args()
    vision, saved = load_vision(args.logdir, torch.device("cpu"))
    world = saved["world"]
    if world["env"] != "nocturne":
        raise UserError(f"{args.logdir} was trained on {world['env']}: give --logdir a run of nocturne")
    scenes = scenes_of(args.scenes, args.number)
    rows, picture = measure(vision, scenes, world["options"])
    name = args.name or f"nocturne-v{world['options']['image_size']}"
    image = make_folder(args.out.parent / "images") / f"{name}.png"
    save_png(image, picture)
    options = world["options"]
    listed, where = table(["", "V", ""], rows), f"scenes of {args.scenes}" if args.scenes else "unseen synthetic scenes"
    command = f"python -m benchmarks.nocturne_models {shlex.join(sys.argv[1:])}"
    text = (
        f"{options['image_size']} pixels, {options['view_dist']:g} m, Z = {vision.config.latent}; V "
        f"{saved['digest'][:12]}; every ego of {len(scenes)} {where}, at steps "
    )
    text += (
        f"{', '.join(map(str, TIMES))} of the log.\n\n{listed}\n\n![cones and "
        f"reconstructions](images/{image.name})\n\n```\n{command}\n```\n"
    )
    write_section(args.out, name, text)
    print(listed)


if __name__ == "__main__":
    run(main)
