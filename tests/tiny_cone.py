"""Made-up scenes that stand still, and pictures of them."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from dreamdrive.envs.nocturne import opengl
from dreamdrive.envs.nocturne.cone import render_cones
from dreamdrive.envs.nocturne.cone_legible import PALETTE
from dreamdrive.envs.nocturne.scene import ABSENT, LIGHTS, OBJECTS, ROADS, STEPS, Scene

ROOT = Path(__file__).resolve().parent.parent
VEHICLE, PEDESTRIAN, CYCLIST = (OBJECTS.index(name) for name in ("vehicle", "pedestrian", "cyclist"))


def make_scene(
    objects,
    roads=(("lane", [(0, -90), (0, 90)]), ("road_edge", [(-4, -90), (-4, 90)]), ("road_edge", [(4, -90), (4, 90)])),
    signs=(),
    lights=(),
):
    """A scene of standing objects (type, x, y, heading, length, width), roads (type, points), stop signs (x, y), lights
    (x, y, state)."""
    n = len(objects)
    kind, x, y, heading, length, width = (np.array(c) for c in zip(*objects, strict=True))
    position = np.repeat(np.stack([x, y], -1)[:, None], STEPS, 1).astype(np.float64)
    points = [np.array(p, np.float64) for _, p in roads]
    return Scene(
        name="made up",
        ids=np.arange(n),
        json_index=np.arange(n),
        type=kind.astype(np.int64),
        length=length.astype(np.float32),
        width=width.astype(np.float32),
        position=position,
        heading=np.repeat(heading[:, None], STEPS, 1).astype(np.float32),
        speed=np.zeros((n, STEPS), np.float32),
        valid=np.ones((n, STEPS), bool),
        goal=np.stack([x, y + 30.0], -1),
        road_points=np.concatenate([*points, np.empty((0, 2))]),
        road_type=np.array([ROADS.index(k) for k, _ in roads], np.int64),
        road_first=np.cumsum([0, *map(len, points)]),
        stop_signs=np.array(signs, np.float64).reshape(-1, 2),
        light_position=np.array([p[:2] for p in lights], np.float64).reshape(-1, 2),
        light_state=np.array([[LIGHTS.index(p[2])] * STEPS for p in lights], np.int64).reshape(-1, STEPS),
    )


def replay(scenes, times):
    """A stand-in for a simulator whose objects are where the log has them."""
    shape = len(scenes), max(len(s.ids) for s in scenes)
    sim = SimpleNamespace(
        scenes=list(scenes),
        state=torch.zeros(*shape, 4, dtype=torch.float64),
        present=torch.zeros(shape, dtype=torch.bool),
        there=torch.zeros(shape, dtype=torch.bool),
        length=torch.zeros(shape),
        width=torch.zeros(shape),
        type=torch.zeros(shape, dtype=torch.int64),
        time=torch.tensor(times),
    )
    sim.state[..., :2] = ABSENT
    for b, (scene, t) in enumerate(zip(scenes, times, strict=True)):
        n = len(scene.ids)
        sim.present[b, :n] = True
        for name in ("length", "width", "type"):
            getattr(sim, name)[b, :n] = torch.from_numpy(getattr(scene, name))
        there = torch.from_numpy(scene.valid[:, t])
        sim.there[b, :n] = there
        sim.state[b, :n, :2][there] = torch.from_numpy(scene.position[:, t])[there]
        sim.state[b, :n, 2], sim.state[b, :n, 3] = (
            torch.from_numpy(scene.heading[:, t]),
            torch.from_numpy(scene.speed[:, t]),
        )
    return sim


def car(x, y, heading=np.pi / 2, kind=VEHICLE, length=4.6, width=2.0):
    return kind, x, y, heading, length, width


def picture(objects, size=64, style="legible", **options):
    """What the first of `objects` sees in a made-up scene."""
    made = {key: options.pop(key) for key in ("roads", "signs", "lights") if key in options}
    return render_cones(replay([make_scene(objects, **made)], [0]), [(0, 0)], size, style=style, **options)[0].numpy()


def like(image, name, tolerance=60):
    """(h, w) bool: pixels whose colour is near that of a class."""
    return np.abs(image.astype(int) - PALETTE[name]).max(-1) <= tolerance


def street(seed=0, n=12):
    """A scene with random traffic on a curved road of many points."""
    rng = np.random.default_rng(seed)
    t = np.linspace(-80, 80, 321)
    roads = [
        (kind, np.stack([shift + 6 * np.sin(t / 40), t], -1))
        for kind, shift in (("lane", 0), ("road_line", 2), ("road_edge", 6), ("lane", 4), ("crosswalk", -5))
    ]
    objects = [
        (
            int(rng.integers(1, 4)),
            *rng.uniform(-40, 40, 2),
            rng.uniform(-3, 3),
            rng.uniform(1, 6),
            rng.uniform(0.5, 2.5),
        )
        for _ in range(n)
    ]
    return make_scene(objects, roads, signs=[(7, 20)], lights=[(3, 25, "stop"), (-3, 25, "go")])


def script(tests, text, timeout=120, **environment):
    """Run a script in the repository; its output. The functions of the module `tests` are there as `t`."""
    values = {**{k: v for k, v in os.environ.items() if k not in ("DISPLAY", opengl.FOUND)}, **environment}
    done = subprocess.run(
        [sys.executable, "-c", f"import {tests} as t\n{text}"],
        cwd=ROOT,
        env=values,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
