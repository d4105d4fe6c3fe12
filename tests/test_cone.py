"""Properties of envs/nocturne/cone.py: agreement with Nocturne's own pictures, geometry, independence of the batch, processes and memory."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from envs.nocturne import cone, opengl
from envs.nocturne.cone import render_cones, to_grayscale
from envs.nocturne.cone_legible import PALETTE
from envs.nocturne.scene import ABSENT, LIGHTS, OBJECTS, ROADS, STEPS, Scene, load_scene
from utils import display
from utils.errors import UserError
from utils.workers import WorkerPool

ROOT = Path(__file__).resolve().parent.parent
ORACLE = next((p / "shared" / "nocturne" for p in ROOT.parents if (p / "shared" / "nocturne").is_dir()), None)
NAMES = sorted(p.name for p in (ORACLE / "oracle").iterdir()) if ORACLE else ["none"]
needs_oracle = pytest.mark.skipif(ORACLE is None, reason="Nocturne's recorded pictures (../shared/nocturne) are not here")
VEHICLE, PEDESTRIAN, CYCLIST = (OBJECTS.index(name) for name in ("vehicle", "pedestrian", "cyclist"))
PADDING = {"p0": lambda w: 0, "p50": lambda w: 50, "pEq": lambda w: w / 32}


def make_scene(objects, roads=(("lane", [(0, -90), (0, 90)]), ("road_edge", [(-4, -90), (-4, 90)]), ("road_edge", [(4, -90), (4, 90)])), signs=(), lights=()):
    """A scene of standing objects (type, x, y, heading, length, width), roads (type, points), stop signs (x, y), lights (x, y, state)."""
    n = len(objects)
    kind, x, y, heading, length, width = (np.array(c) for c in zip(*objects, strict=True))
    position = np.repeat(np.stack([x, y], -1)[:, None], STEPS, 1).astype(np.float64)
    points = [np.array(p, np.float64) for _, p in roads]
    return Scene(
        name="made up", ids=np.arange(n), json_index=np.arange(n), type=kind.astype(np.int64), length=length.astype(np.float32), width=width.astype(np.float32),
        position=position, heading=np.repeat(heading[:, None], STEPS, 1).astype(np.float32), speed=np.zeros((n, STEPS), np.float32),
        valid=np.ones((n, STEPS), bool), goal=np.stack([x, y + 30.0], -1), road_points=np.concatenate([*points, np.empty((0, 2))]),
        road_type=np.array([ROADS.index(k) for k, _ in roads], np.int64), road_first=np.cumsum([0, *map(len, points)]),
        stop_signs=np.array(signs, np.float64).reshape(-1, 2), light_position=np.array([p[:2] for p in lights], np.float64).reshape(-1, 2),
        light_state=np.array([[LIGHTS.index(p[2])] * STEPS for p in lights], np.int64).reshape(-1, STEPS))  # fmt: skip


def replay(scenes, times):
    """A stand-in for a simulator whose objects are where the log has them."""
    shape = len(scenes), max(len(s.ids) for s in scenes)
    sim = SimpleNamespace(scenes=list(scenes), state=torch.zeros(*shape, 4, dtype=torch.float64), present=torch.zeros(shape, dtype=torch.bool),
                          length=torch.zeros(shape), width=torch.zeros(shape), type=torch.zeros(shape, dtype=torch.int64), time=torch.tensor(times))  # fmt: skip
    sim.state[..., :2] = ABSENT
    for b, (scene, t) in enumerate(zip(scenes, times, strict=True)):
        n = len(scene.ids)
        sim.present[b, :n] = True
        for name in ("length", "width", "type"):
            getattr(sim, name)[b, :n] = torch.from_numpy(getattr(scene, name))
        there = torch.from_numpy(scene.valid[:, t])
        sim.state[b, :n, :2][there] = torch.from_numpy(scene.position[:, t])[there]
        sim.state[b, :n, 2], sim.state[b, :n, 3] = torch.from_numpy(scene.heading[:, t]), torch.from_numpy(scene.speed[:, t])
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
    roads = [(kind, np.stack([shift + 6 * np.sin(t / 40), t], -1)) for kind, shift in (("lane", 0), ("road_line", 2), ("road_edge", 6), ("lane", 4), ("crosswalk", -5))]
    objects = [(int(rng.integers(1, 4)), *rng.uniform(-40, 40, 2), rng.uniform(-3, 3), rng.uniform(1, 6), rng.uniform(0.5, 2.5)) for _ in range(n)]
    return make_scene(objects, roads, signs=[(7, 20)], lights=[(3, 25, "stop"), (-3, 25, "go")])


@lru_cache
def oracle(name):
    scene = load_scene(ORACLE / "scenes" / f"{name}.json")
    folder = ORACLE / "oracle" / name
    shades = {o["id"]: o["color"] for o in json.loads((folder / "meta.json").read_text())["objects"]}
    return scene, np.array([shades[i] for i in scene.ids], np.uint8), json.loads((folder / "cone" / "info.json").read_text()), folder


def agreement(ours, theirs):
    """Share of the pixels that are not black in both that are within 8 levels in every channel."""
    either = (ours.max(-1) > 0) | (theirs.max(-1) > 0)
    return (np.abs(ours.astype(int) - theirs).max(-1) <= 8)[either].mean()


# Against Nocturne


@needs_oracle
@pytest.mark.parametrize(("size", "padding", "least"), [(400, "pEq", 0.97), (400, "p50", 0.97), (128, "p0", 0.88), (128, "pEq", 0.88), (64, "pEq", 0.88)])
@pytest.mark.parametrize("name", NAMES)
def test_nocturnes_pictures_are_met(name, size, padding, least):
    scene, colors, info, folder = oracle(name)
    recorded = np.load(folder / "cone" / f"W{size}_{padding}.npz")
    sim = replay([scene] * len(info["times"]), info["times"])
    egos = [(b, e) for b in range(len(info["times"])) for e in info["egos"]]
    pairs, shades = [(b, scene.index(e)) for b, e in egos], np.stack([colors] * len(sim.scenes))
    ours = render_cones(sim, pairs, size, 80, info["view_angle"], PADDING[padding](size), "nocturne", shades)
    shares = {(b, e): agreement(image, recorded[f"ego{e}_t{info['times'][b]}"][..., :3]) for (b, e), image in zip(egos, ours.numpy(), strict=True)}
    assert min(shares.values()) >= least, shares


@needs_oracle
@pytest.mark.parametrize(("key", "size", "options"), [
    ("target", 400, {"goal": True}), ("head04", 400, {"head_angle": 0.4}), ("angle240", 400, {"view_angle": np.radians(240)}),
    ("full", 400, {"view_angle": 2 * np.pi}), ("dist30", 400, {"view_dist": 30.0}), ("rect300x200", (200, 300), {"padding": 10}),
])  # fmt: skip
@pytest.mark.parametrize("name", NAMES)
def test_nocturnes_pictures_are_met_with_other_settings(name, key, size, options):
    scene, colors, info, folder = oracle(name)
    sim = replay([scene], [info["extra_t"]])
    given = {"padding": 12.5, "view_angle": info["view_angle"], **options}
    ours = render_cones(sim, [(0, scene.index(info["extra_ego"]))], size, style="nocturne", colors=colors[None], **given)[0].numpy()
    assert agreement(ours, np.load(folder / "cone" / "extra.npz")[key][..., :3]) >= 0.97


@needs_oracle
def test_what_nocturne_calls_visible_is_seen_in_a_legible_picture_of_64_pixels():
    seen = []
    for name in NAMES:
        scene, _, _, folder = oracle(name)
        for case in json.loads((folder / "visibility.json").read_text()):
            t, n = case["t"], scene.index(case["ego"])
            if not case["key"].startswith("main") or not scene.valid[n, t]:
                continue
            sim = replay([scene], [t])
            image = render_cones(sim, [(0, n)], 64, 80, case["view_angle"])[0].numpy().astype(int)
            views = cone.look(sim, [(0, n)], cone.framed(64, 80, case["view_angle"]))
            for (u, v), place, ego in zip(views.at, views.place, views.is_ego, strict=True):
                if not ego and scene.type[place] == VEHICLE and scene.ids[place] in case["visible_ids"] and np.hypot(u, v) < 79 and abs(np.arctan2(u, v)) < 1.04:
                    x, y = int(32 + 0.4 * u), int(32 - 0.4 * v)
                    near = image[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
                    seen.append((near[..., 2] - near[..., 0]).max() > 80)
    assert len(seen) > 250 and np.mean(seen) > 0.97


# Geometry and content


@pytest.mark.parametrize("style", ["legible", "nocturne"])
def test_a_car_ahead_is_above_the_middle_and_one_to_the_left_on_the_left(style):
    colors = np.full((1, 2, 3), 255, np.uint8)
    shades = {"colors": colors * [0, 0, 1]} if style == "nocturne" else {}
    for heading in (0.0, 1.0, 3.0, -2.0):
        ahead, left = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
        for at, row, column in ((40 * ahead, 32, 64), (30 * ahead + 30 * left, 40, 40), (30 * ahead - 30 * left, 40, 88)):
            image = picture([car(0, 0, heading), car(*at, heading)], 128, style, roads=[], **shades).astype(int)
            blue = image[..., 2] - image[..., 0] > 100
            blue[56:72, 56:72] = False  # the ego
            rows, columns = np.nonzero(blue)
            assert abs(rows.mean() - row) < 1.5 and abs(columns.mean() - column) < 1.5, (heading, at)


@pytest.mark.parametrize("style", ["legible", "nocturne"])
def test_what_is_behind_another_object_is_hidden_and_what_is_beside_it_is_not(style):
    def blue(*others, size=128, **more):
        shades = {"colors": lambda b, n: (255, 0, 0) if n < 2 else (0, 0, 255)} if style == "nocturne" else {}
        truck = car(0, 15, 0.0, CYCLIST, 8.0, 2.5)  # across the view
        image = picture([car(0, 0), truck, *others], size, style, roads=[], **shades, **more).astype(int)
        blue = (image[..., 2] - image[..., 0] > 60) & (image[..., 2] - image[..., 1] > 60) & (image[..., 0] < 100)
        blue[60:68, 60:68] = False
        return blue.sum()

    assert blue(car(0, 40)) == 0 < blue(car(0, 40), occlusion=False)
    assert blue(car(20, 40)) > 0


def test_every_visible_car_pedestrian_and_cyclist_is_seen_in_64_pixels_in_its_colour():
    rng = np.random.default_rng(1)
    for kind, name in ((VEHICLE, "vehicle"), (PEDESTRIAN, "pedestrian"), (CYCLIST, "cyclist")):
        length, width = {"vehicle": (4.6, 2.0), "pedestrian": (0.6, 0.6), "cyclist": (1.8, 0.7)}[name]
        for _ in range(40):
            r, a = rng.uniform(8, 76), rng.uniform(-0.9, 0.9)
            u, v = r * np.sin(a), r * np.cos(a)
            image = picture([car(0, 0), car(u, v, rng.uniform(-3, 3), kind, length, width)])
            x, y = 32 + 0.4 * u, 32 - 0.4 * v
            assert like(image, name)[int(y - 1.5) : int(y + 2.5), int(x - 1.5) : int(x + 2.5)].any(), (name, u, v)


def test_classes_differ_in_colour():
    shades = np.array([PALETTE[name] for name in ("vehicle", "pedestrian", "cyclist", "ego", "goal", "light_stop", "light_caution", "light_go", "lane", "background")])
    apart = np.abs(shades[:, None].astype(int) - shades[None]).max(-1) + 1000 * np.eye(len(shades), dtype=int)
    assert apart[:8].min() >= 75


def test_road_lights_signs_and_goal_are_seen_in_64_pixels():
    image = picture([car(0, 0)], signs=[(15, 40)], lights=[(-15, 40, "stop"), (-8, 40, "go")], goal=True)
    assert like(image, "lane", 25)[8:28, 31:33].mean() > 0.5
    edge = image[8:28, 29:36].astype(int).max(1)  # brighter than the lane in every row
    assert (edge.max(-1) > PALETTE["lane"][0] + 8).all()
    for name, u, v in (("stop_sign", 15, 40), ("light_stop", -15, 40), ("light_go", -8, 40)):
        assert like(image, name)[int(32 - 0.4 * v) - 1 :][:3, int(32 + 0.4 * u) - 1 :][:, :3].any(), name
    assert like(image, "goal")[17:24, 29:36].any()


def test_a_goal_beyond_the_picture_or_behind_is_shown_at_the_rim():
    far = dataclasses.replace(make_scene([car(0, 0)]), goal=np.array([[0.0, -500.0]]))
    image = render_cones(replay([far], [0]), [(0, 0)], 64, goal=True)[0].numpy()
    rows, columns = np.nonzero(like(image, "goal", 90))
    assert rows.min() > 56 and abs(columns.mean() - 31.5) < 1


def test_padding_is_in_pixels_of_the_picture_and_stays_black():
    for style in ("legible", "nocturne"):
        whole, framed = (picture([car(0, 0), car(0, 20)], size, style, padding=padding) for size, padding in ((64, 0), (100, 18)))
        assert (framed[18:-18, 18:-18].astype(int) - whole).max() <= 1
        framed[18:-18, 18:-18] = 0
        assert framed.max() == 0
        assert picture([car(0, 0)], 64, style, padding=50).max() == 0


def test_outside_the_cone_it_is_black_and_head_angle_turns_the_cone_to_the_left():
    for style in ("legible", "nocturne"):
        y, x = np.mgrid[:128, :128] + 0.5 - 64
        angle, r = np.arctan2(-x, -y), np.hypot(x, y)
        for head in (0.0, 0.5, -2.5):
            lit = picture([car(0, 0)], 128, style, roads=[], head_angle=head).max(-1) > 0
            off = np.abs(np.remainder(angle - head + np.pi, 2 * np.pi) - np.pi)
            assert lit[(off < 1.0) & (r > 6) & (r < 62)].all()
            assert not lit[(off > 1.2) & (r > 6) & (r < 63)].any() and not lit[r > 65].any()  # Nocturne leaves dots along the circle


def test_a_picture_may_be_wider_than_high():
    for style in ("legible", "nocturne"):
        wide, square = picture([car(0, 0), car(3, 30)], (64, 100), style), picture([car(0, 0), car(3, 30)], 64, style)
        assert wide.shape == (64, 100, 3) and np.array_equal(wide[:, 18:82], square)


def test_grey_is_the_weighted_mean_and_does_not_wrap():
    image = torch.tensor([[[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [50, 50, 50]]], dtype=torch.uint8)
    assert to_grayscale(image).tolist() == [[255, 0, 76, 150, 29, 50]]
    assert np.array_equal(to_grayscale(image.numpy()), to_grayscale(image).numpy())
    with pytest.raises(UserError, match="3 channels last"):
        to_grayscale(image.permute(2, 0, 1))


# Batches, processes, contexts


@pytest.mark.parametrize("style", ["legible", "nocturne"])
@pytest.mark.parametrize("size", [64, 100])
def test_a_picture_does_not_depend_on_the_batch_nor_on_its_order_and_comes_out_the_same_twice(style, size):
    sim = replay([street(0), street(1, 5), street(0)], [0, 1, 2])
    egos = [(b, n) for b, count in ((0, 12), (1, 5), (2, 12)) for n in range(count)]
    together = render_cones(sim, egos, size, style=style, goal=True)
    assert torch.equal(together, render_cones(sim, torch.tensor(egos), size, style=style, goal=True))
    alone = torch.cat([render_cones(sim, [ego], size, style=style, goal=True) for ego in egos])
    order = np.random.default_rng(0).permutation(len(egos))
    shuffled = render_cones(sim, [egos[i] for i in order], size, style=style, goal=True)
    assert torch.equal(together, alone) and torch.equal(together[order], shuffled)
    assert len({image.numpy().tobytes() for image in together}) >= 15


@pytest.mark.parametrize("style", ["legible", "nocturne"])
def test_more_pictures_than_are_drawn_at_once_are_drawn_in_parts(style, monkeypatch):
    sim, egos = replay([street(2)], [0]), [(0, n) for n in range(12)]
    expected = render_cones(sim, egos, 48, style=style)
    painter = type(cone.renderer().styles[style])
    monkeypatch.setattr(painter, "capacity", lambda self, frame: 5)
    assert torch.equal(render_cones(sim, egos, 48, style=style), expected)


def test_no_pictures_are_an_empty_tensor():
    assert render_cones(replay([street()], [0]), [], 32).shape == (0, 32, 32, 3)


def test_what_cannot_be_drawn_is_refused_in_a_sentence():
    sim = replay([street(0), street(1, 5)], [0, 0])
    cases = [({"egos": [(1, 7)]}, "no object 7 in scene 1"), ({"egos": [(2, 0)]}, "scene 2 of 2"), ({"size": 0}, "0 x 0 pixels"), ({"style": "plain"}, '"plain"'),
             ({"view_dist": -1.0}, "view_dist is -1"), ({"view_angle": 0.0}, "view_angle"), ({"padding": float("nan")}, "padding"),
             ({"head_angle": float("inf")}, "head_angle")]  # fmt: skip
    for change, said in cases:
        with pytest.raises(UserError, match=said):
            render_cones(sim, **{"egos": [(0, 0)], "size": 32, **change})
    sim.state[0, 0, :2] = ABSENT
    with pytest.raises(UserError, match="object 0 of scene 0 has no place"):
        render_cones(sim, [(0, 0)], 32)


def digest():
    sim = replay([street(3)], [0])
    images = [render_cones(sim, [(0, n) for n in range(12)], 64, style=style).numpy() for style in cone.STYLES]
    return hashlib.sha256(b"".join(i.tobytes() for i in images)).hexdigest()


def painter_worker():
    return lambda task, report: (os.getpid(), digest())


def test_spawned_processes_draw_the_same_bytes():
    found = []
    with WorkerPool(painter_worker, (), 2) as pool:
        pool.run(range(4), lambda i, result: found.append(result))
    assert {d for _, d in found} == {digest()}
    assert os.getpid() not in {pid for pid, _ in found}


def script(text, timeout=120, **environment):
    """Run a script in the repository; its output. The tests' functions are there as `t`."""
    values = {**{k: v for k, v in os.environ.items() if k not in ("DISPLAY", opengl.FOUND)}, **environment}
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = [{str(ROOT)!r}]\nimport tests.test_cone as t\n{text}"], cwd=ROOT, env=values,
                          capture_output=True, text=True, timeout=timeout)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_child_forked_after_drawing_refuses_and_ends():
    out = script("""
import os
t.digest()
child = os.fork()
if child == 0:
    try:
        t.digest()
    except t.UserError as error:
        print(error, flush=True)
    sys.exit(0)
print(os.waitpid(child, 0)[1], flush=True)
t.digest()
""")
    said, status = out.strip().split("\n")
    assert "spawn" in said and status == "0"


def test_another_thread_is_refused():
    digest()
    caught = []

    def draw():
        try:
            digest()
        except UserError as error:
            caught.append(str(error))

    thread = threading.Thread(target=draw)
    thread.start()
    thread.join()
    assert len(caught) == 1 and "thread" in caught[0]


WINDOW = """
from utils.display import open_display
open_display()
import pyglet
window = pyglet.window.Window(64, 64)
first = t.digest()
window.clear()
window.flip()
window.close()
print(first, t.digest() == first, pyglet.options["headless"])
"""


def test_beside_a_window_of_this_process_the_same_is_drawn_and_the_window_stays_usable():
    assert script(WINDOW).split() == [digest(), "True", "False"]


def test_on_a_display_the_same_is_drawn_as_without():
    assert script("import os; os.environ['DREAMDRIVE_OPENGL'] = 'x'\nfrom utils.display import open_display\nopen_display()\nprint(t.digest())").strip() == digest()


def test_egl_is_tried_first_then_the_display_then_xvfb_and_the_answer_is_kept_for_children(monkeypatch):
    asked = []

    def probe(platform, works):
        asked.append(platform)
        return display.Probe(platform in works, "Invalid EGL device id: 1" if platform == "egl:1" else "it does not draw")

    all_three = ["egl:0", "egl:1", "x"]
    for works, given, expected, order in (({"egl:0"}, None, "egl:0", ["egl:0"]), ({"x"}, ":5", "x", all_three), ({"x"}, None, "x", all_three)):
        asked.clear()
        monkeypatch.setattr(display, "probe", lambda platform, works=works: probe(platform, works))
        monkeypatch.setattr(display, "start_xvfb", lambda: None)
        monkeypatch.setenv("DISPLAY", given) if given else monkeypatch.delenv("DISPLAY", raising=False)
        assert opengl.find_platform() == expected and asked == order
    assert script("import os; t.digest(); print(os.environ['DREAMDRIVE_OPENGL'])").startswith(("egl:", "x"))


def test_without_any_opengl_one_sentence_names_the_packages(monkeypatch):
    monkeypatch.setattr(display, "probe", lambda platform: display.Probe(False, "it crashed"))
    monkeypatch.setattr(opengl.shutil, "which", lambda name: None)
    monkeypatch.setenv("DISPLAY", ":77")
    with pytest.raises(UserError, match="apt-get install.*libegl1.*xvfb") as caught:
        opengl.find_platform()
    assert "\n" not in str(caught.value) and ":77" in str(caught.value)


def test_a_wrong_setting_of_the_environment_is_named():
    out = script("""
try:
    t.digest()
except t.UserError as error:
    print(error)
""", DREAMDRIVE_OPENGL="vulkan")
    assert "vulkan" in out and "egl:" in out


def test_drivers_without_layers_in_the_vertex_shader_or_indirect_drawing_draw_the_same():
    lacking = """
from envs.nocturne import cone
cone.renderer().context.extensions = set()
print(t.digest())
"""
    assert script(lacking).strip() == digest()


@needs_oracle
def test_another_driver_than_llvmpipe_drops_the_same_segments():
    out = script("""
from envs.nocturne import cone
cone.renderer().context.renderer = "another"
for name in t.NAMES:
    for size, padding in ((400, "pEq"), (128, "p0")):
        t.test_nocturnes_pictures_are_met(name, size, padding, {400: 0.97, 128: 0.95}[size])
print(cone.renderer().styles["nocturne"].roads > 0)
""")
    assert out.strip() == "True"


def test_a_window_after_pictures_without_a_display_is_refused_and_the_remedy_works():
    text = """
from utils.viewer import Viewer
t.digest()
try:
    with Viewer("title", ["one"]):
        print("opened")
except t.UserError as error:
    print(error)
"""
    with_x = "from utils.display import open_display\nopen_display()\n" + text
    assert "DREAMDRIVE_OPENGL=x" in script(text, DREAMDRIVE_OPENGL="egl:0") and script(with_x, DREAMDRIVE_OPENGL="x").strip() == "opened"


def test_the_cache_keeps_to_its_limit_and_forgets_scenes_that_are_gone(monkeypatch):
    cache = cone.renderer().cache
    scenes = [street(seed) for seed in range(6)]
    render_cones(replay(scenes[:1], [0]), [(0, 0)], 64)
    one = cache.get(scenes[0], ("road", 0.4), None).bytes
    monkeypatch.setattr(cone, "CACHE", int(2.5 * one))
    for scene in scenes:
        expected = render_cones(replay([scene], [0]), [(0, 0)], 64)
    render_cones(replay(scenes, [0] * 6), [(b, 0) for b in range(6)], 64)  # all at once need more than there is
    assert torch.equal(render_cones(replay(scenes[-1:], [0]), [(0, 0)], 64), expected)
    assert cache.bytes <= 2.5 * one
    del scene
    scenes.clear()
    cache.tidy()
    assert not cache.gone


def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])


@pytest.mark.slow
def test_two_thousand_pictures_of_ever_new_scenes_take_no_more_memory():
    sizes = []
    for turn in range(40):
        sim = replay([street(turn), street(turn + 100)], [0, 0])
        for style in cone.STYLES:
            render_cones(sim, [(b, n) for b in range(2) for n in range(12)] * 2, 64, style=style)
        sizes.append(resident())
    assert sizes[-1] < 1.05 * sizes[8], sizes


@pytest.mark.parametrize("size, goal", [(64, True), (128, False)])
def test_an_anchor_moves_the_car_down_and_makes_everything_larger(size, goal):
    scene = make_scene([car(0, 0), car(8, 20, 0.3), car(-3, 9, 0, PEDESTRIAN, 0.8, 0.8)])
    sim = replay([scene], [0])
    anchored = render_cones(sim, [(0, 0)], size, view_dist=40, goal=goal, anchor=0.75)[0]
    centred = render_cones(sim, [(0, 0)], size * 3 // 2, view_dist=40, goal=goal)[0]  # the same scale
    assert torch.equal(anchored, centred[:size, size // 4 : size // 4 + size]) and anchored.any()
    ego = (anchored == 255).all(-1).nonzero().float().mean(0)
    assert ego[0] == pytest.approx(0.75 * size - 0.5, abs=1.5) and ego[1] == pytest.approx(size / 2 - 0.5, abs=1)


@pytest.mark.parametrize("goal", [(0.0, -500.0), (300.0, -60.0), (-300.0, 300.0), (0.0, 500.0)])
def test_a_goal_that_is_out_of_an_anchored_picture_is_at_its_rim(goal):
    scene = dataclasses.replace(make_scene([car(0, 0)], roads=[("lane", [(0, -1), (0, 1)])]), goal=np.array([goal]))
    other = dataclasses.replace(scene, goal=np.array([[0.0, 10.0]]))
    pictures = render_cones(replay([other, scene, other], [0, 0, 0]), [(0, 0), (1, 0), (2, 0)], 64, view_dist=40, goal=True, anchor=0.75)
    pink = (pictures.float() - torch.tensor(PALETTE["goal"])).norm(dim=-1) < 60
    at = pink[1].nonzero().float()
    assert len(at) >= 6 and torch.equal(pictures[0], pictures[2])  # the whole ring is inside, and nobody else's picture
    down, right = (at.mean(0) + 0.5 - torch.tensor([48.0, 32.0])).round().tolist()
    assert (np.sign(right), np.sign(-down)) == tuple(np.sign(goal))
    assert at.min() <= 2 or at.max() >= 61


def test_an_anchor_is_for_legible_pictures_without_padding():
    sim = replay([make_scene([car(0, 0)])], [0])
    refused = [({"anchor": 0.4}, "from 0.5 to 1"), ({"anchor": 0.7, "padding": 3}, "without padding"), ({"anchor": 0.7, "style": "nocturne"}, "style legible")]
    for more, complaint in refused:
        with pytest.raises(UserError, match=complaint):
            render_cones(sim, [(0, 0)], 64, **more)


def test_the_tail_is_as_long_as_the_way_of_half_a_second():
    sim = replay([make_scene([car(0, 0)])] * 4, [0] * 4)
    sim.state[:, 0, 3] = torch.tensor([0.0, 4.0, 12.0, -4.0])  # 1.2 pixels a metre
    pictures = render_cones(sim, [(b, 0) for b in range(4)], 64, view_dist=40, speed=True, anchor=0.75)
    rows = (pictures[:, 51:, :, 2] > 60).any(2).sum(1).tolist()  # the car ends at row 50.8
    assert rows[0] == 0 and abs(rows[1] - 2.4) < 1 and abs(rows[2] - 7.2) < 1 and rows[3] == rows[1]
    assert torch.equal(pictures[0, :50], pictures[2, :50])
    with pytest.raises(UserError, match="the speed is for style legible"):
        render_cones(sim, [(0, 0)], 64, style="nocturne", speed=True)


def test_the_bars_show_the_speed_at_the_goal_and_the_one_that_leads_there_in_time():
    """Lengths in pixels: half a second's way, 1.2 pixels a metre."""
    scene = make_scene([car(0, 0)])
    scene = dataclasses.replace(scene, speed=np.full_like(scene.speed, 10.0))  # the goal is 30 m ahead
    pictures = render_cones(replay([scene] * 3, [0, 60, 87]), [(b, 0) for b in range(3)], 64, view_dist=40, goal=True, speed=True, anchor=0.75)
    lit = (pictures[:, 51:, :, 0] > 60).int().sum(1)  # (3, 64): of a column
    left, right = lit[:, 27:30].amax(1).tolist(), lit[:, 34:38].amax(1).tolist()
    assert all(abs(n - 6) <= 1 for n in left)
    assert [abs(n - wanted) <= 1 for n, wanted in zip(right, (2.0, 6.0, 14.0), strict=True)] == [True] * 3  # 3.3 and 10 m/s, and no more than 24
