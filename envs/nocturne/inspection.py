"""What `dreamdrive scenes` does: draw a scene, or check a folder of them."""

import argparse
from collections import Counter
from typing import Any

import numpy as np
import torch

from dreamdrive.envs.catalogue import READING, VIEW_DIST
from dreamdrive.envs.nocturne.cone import render_cones
from dreamdrive.envs.nocturne.folder_index import scene_files
from dreamdrive.envs.nocturne.reading import Reading
from dreamdrive.envs.nocturne.scene import DT, OBJECTS, STEPS, Scene
from dreamdrive.envs.nocturne.simulator import Simulator
from dreamdrive.envs.nocturne.world import ANCHOR
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.video import VideoWriter, save_png, side_by_side, with_lines

SIDE = 512  # pixels of a picture
USUAL_STEP = 20  # that is shown
# of the table
COLUMNS = ("vehicles", "pedestrians", "cyclists", "moving", "egos", "road points", "lights", "stop signs")
AROUND = 80.0  # metres that the picture from above shows to each side


def act(args: argparse.Namespace) -> None:
    """What the command line asks for."""
    torch.set_num_threads(1)
    {"show": show, "check": check}[args.command](args)


def reading_of(args: argparse.Namespace) -> Reading:
    return Reading(**{name: getattr(args, name) for name in READING})


def panels(sim: Simulator, ego: int, style: str) -> np.ndarray:
    """The scene from above and the ego's cone, side by side; black where the ego is not there."""
    scene, t = sim.scenes[0], int(sim.time[0])
    who_text = f"{scene.name}   ego {scene.ids[ego]} ({OBJECTS[scene.type[ego]]})   t {t * DT:.1f} s"
    names = ["from above", "what the ego sees"]
    if not sim.there[0, ego]:
        black = np.zeros((SIDE, SIDE, 3), np.uint8)
        return with_lines(side_by_side([black, black], names, SIDE), [f"{who_text}   it is not there"])
    learner: dict[str, Any] = {
        "view_dist": VIEW_DIST,
        "goal": True,
        "speed": True,
        "anchor": ANCHOR,
    }  # as Nocturne's world has it
    who = [(0, ego)]
    above = render_cones(sim, who, SIDE, view_dist=AROUND, view_angle=2 * np.pi, goal=True, occlusion=False)[0].numpy()
    cone = render_cones(sim, who, SIDE, style=style, **learner if style == "legible" else {})[0].numpy()
    speed, goal = float(sim.local[0, ego, 3]), float(sim.goal_distance()[0, ego])
    text = f"{who_text}   speed {speed:.1f} m/s   goal in {goal:.1f} m"
    return with_lines(side_by_side([above, cone], names, SIDE), [text])


def choose_ego(scene: Scene, identity: int | None) -> int:
    """The place of object `identity`, or of the first vehicle that can be driven."""
    if identity is not None:
        return scene.index(identity)
    candidates = [*scene.egos.tolist(), *scene.ids[scene.moved].tolist(), *scene.ids.tolist()]
    return scene.index(candidates[0])


def show(args: argparse.Namespace) -> None:
    scene = reading_of(args).load(args.scene, args.piece)
    sim, ego = Simulator([scene]), choose_ego(scene, args.ego)
    if args.video:
        with VideoWriter(args.video, 1 / DT) as video:
            for t in Bar(range(scene.steps), desc=f"drawing {args.video}", unit="frame"):
                sim.reset(time=t)
                video.add(panels(sim, ego, args.style))
        print(f"{args.video}: {scene.steps} steps of {args.scene}, ego {scene.ids[ego]}")
        return
    there = np.flatnonzero(scene.valid[ego])
    t = int(there[np.abs(there - USUAL_STEP).argmin()]) if args.t is None else args.t
    if t not in there:
        raise UserError(
            f"object {scene.ids[ego]} is not in {args.scene} at step {t}: choose --t between {there[0]} and "
            f"{there[-1]}, or another --ego"
        )
    sim.reset(time=t)
    save_png(args.out, panels(sim, ego, args.style))
    print(f"{args.out}: step {t} of {args.scene}, ego {scene.ids[ego]}")


def facts(scene: Scene) -> dict[str, int]:
    """What the table of `check` says of a scene."""
    kinds = Counter(OBJECTS[kind] for kind in scene.type)
    counts = (
        kinds["vehicle"],
        kinds["pedestrian"],
        kinds["cyclist"],
        int(scene.moved.sum()),
        len(scene.egos),
        len(scene.road_points),
        len(scene.light_position),
        len(scene.stop_signs),
    )
    return dict(zip(COLUMNS, counts, strict=True))


def long_log(scene: Scene) -> list[str]:
    """A note on a log that is longer than a scene."""
    return [f"its log is longer: {STEPS} steps, or {scene.pieces} --long-logs pieces"] if scene.pieces > 1 else []


def check(args: argparse.Namespace) -> None:
    """Print a row a file, and what was left out of it; UserError if one of them is not a scene."""
    files, reading = scene_files(args.folder), reading_of(args)
    total: Counter[str] = Counter()
    width, wrong = max(len(path.name) for path in files), 0
    print("  ".join(["scene".ljust(width), *COLUMNS]))
    for path in files:
        try:
            scene = reading.load(path)
            row = facts(scene)
        except UserError as error:
            wrong += 1
            print(f"{path.name.ljust(width)}  error: {error}")
            continue
        total.update(row)
        print("  ".join([path.name.ljust(width), *(str(row[name]).rjust(len(name)) for name in COLUMNS)]))
        for note in (*scene.notes, *long_log(scene)):
            print(f"{' ' * width}  note: {note}")
    print("  ".join(["all".ljust(width), *(str(total[name]).rjust(len(name)) for name in COLUMNS)]))
    if wrong:
        raise UserError(
            f"{wrong} of the {len(files)} files in {args.folder} cannot be used: see above, and mend them or take them "
            "away"
        )
