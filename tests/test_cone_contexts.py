"""Cone images do not depend on the batch; they are drawn in spawned processes, beside windows, on any driver, and take
no more memory with time."""

import hashlib
import os
import threading

import numpy as np
import pytest
import torch

from dreamdrive.envs.nocturne import cone, opengl
from dreamdrive.envs.nocturne.cone import render_cones
from dreamdrive.tests import tiny_cone
from dreamdrive.tests.tiny_cone import replay, street
from dreamdrive.utils import display
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.workers import WorkerPool


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
    cases = [
        ({"egos": [(1, 7)]}, "no object 7 in scene 1"),
        ({"egos": [(2, 0)]}, "scene 2 of 2"),
        ({"size": 0}, "0 x 0 pixels"),
        ({"style": "plain"}, '"plain"'),
        ({"view_dist": -1.0}, "view_dist is -1"),
        ({"view_angle": 0.0}, "view_angle"),
        ({"padding": float("nan")}, "padding"),
        ({"head_angle": float("inf")}, "head_angle"),
    ]
    for change, said in cases:
        with pytest.raises(UserError, match=said):
            render_cones(sim, **{"egos": [(0, 0)], "size": 32, **change})
    sim.there[0, 0] = False
    with pytest.raises(UserError, match="object 0 of scene 0 has no place"):
        render_cones(sim, [(0, 0)], 32)


def script(text, **options):
    return tiny_cone.script("dreamdrive.tests.test_cone_contexts", text, **options)


def digest():
    sim = replay([street(3)], [0])
    images = [render_cones(sim, [(0, n) for n in range(12)], 64, style=style).numpy() for style in cone.STYLES]
    return hashlib.sha256(b"".join(i.tobytes() for i in images)).hexdigest()


def painter_worker():
    return lambda task, report: (os.getpid(), digest())


def test_spawned_processes_draw_the_same_bytes():
    from dreamdrive.tests import (
        test_cone_contexts,
    )  # by pytest it is named after the checkout: no new process finds that

    found = []
    with WorkerPool(test_cone_contexts.painter_worker, (), 2) as pool:
        pool.run(range(4), lambda i, result: found.append(result))
    assert {d for _, d in found} == {digest()}
    assert os.getpid() not in {pid for pid, _ in found}


def test_a_child_forked_after_drawing_refuses_and_ends():
    out = script("""
import os, sys
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
from dreamdrive.utils.display import open_display
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
    assert (
        script(
            "import os; os.environ['DREAMDRIVE_OPENGL'] = 'x'\nfrom dreamdrive.utils.display import "
            "open_display\nopen_display()\nprint(t.digest())"
        ).strip()
        == digest()
    )


def test_egl_is_tried_first_then_the_display_then_xvfb_and_the_answer_is_kept_for_children(monkeypatch):
    asked = []

    def probe(platform, works):
        asked.append(platform)
        return display.Probe(
            platform in works, "Invalid EGL device id: 1" if platform == "egl:1" else "it does not draw"
        )

    all_three = ["egl:0", "egl:1", "x"]
    for works, given, expected, order in (
        ({"egl:0"}, None, "egl:0", ["egl:0"]),
        ({"x"}, ":5", "x", all_three),
        ({"x"}, None, "x", all_three),
    ):
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
    out = script(
        """
try:
    t.digest()
except t.UserError as error:
    print(error)
""",
        DREAMDRIVE_OPENGL="vulkan",
    )
    assert "vulkan" in out and "egl:" in out


def test_drivers_without_layers_in_the_vertex_shader_or_indirect_drawing_draw_the_same():
    lacking = """
from dreamdrive.envs.nocturne import cone
cone.renderer().context.extensions = set()
print(t.digest())
"""
    assert script(lacking).strip() == digest()


def test_a_window_after_pictures_without_a_display_is_refused_and_the_remedy_works():
    text = """
from dreamdrive.utils.viewer import Viewer
t.digest()
try:
    with Viewer("title", ["one"]):
        print("opened")
except t.UserError as error:
    print(error)
"""
    with_x = "from dreamdrive.utils.display import open_display\nopen_display()\n" + text
    assert (
        "DREAMDRIVE_OPENGL=x" in script(text, DREAMDRIVE_OPENGL="egl:0")
        and script(with_x, DREAMDRIVE_OPENGL="x").strip() == "opened"
    )


def test_the_cache_keeps_to_its_limit_and_forgets_scenes_that_are_gone(monkeypatch):
    cache = cone.renderer().cache
    scenes = [street(seed) for seed in range(6)]
    render_cones(replay(scenes[:1], [0]), [(0, 0)], 64)
    one = cache.get(scenes[0], ("road", 0.4, 80.0), None).bytes
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
