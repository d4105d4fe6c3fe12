"""Properties of utils/viewer.py. A window is opened in a process of its own, since a process can draw in one way
only."""

import multiprocessing
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageGrab

from dreamdrive.tests.vnc import vnc_desktop, wait_for
from dreamdrive.utils.keys import usual_keys
from dreamdrive.utils.spaces import ActionSpace
from dreamdrive.utils.viewer import Viewer, key_name, values_line

ROOT = Path(__file__).parent.parent
RED, GREEN, BLUE = (220, 30, 30), (40, 200, 60), (30, 60, 210)
CARRACING = ActionSpace(low=(-1, 0, 0), high=(1, 1, 1))


def plain(colour, h=64, w=64):
    return np.full((h, w, 3), colour, np.uint8)


def in_a_window(function, monkeypatch):
    """Run `function` of this file in a fresh process that has no DISPLAY."""
    from dreamdrive.tests import test_viewer  # by pytest it is named after the checkout: no new process finds that

    monkeypatch.delenv("DISPLAY", raising=False)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(getattr(test_viewer, function.__name__)).result(timeout=90)


def boxes(screen):
    """(top, left, height, width) of what has exactly the panels' colours."""
    found = [np.argwhere((screen == colour).all(2)) for colour in (RED, GREEN, BLUE)]
    assert all(len(f) for f in found), "a panel is missing"
    return [(*f.min(0), *(f.max(0) - f.min(0) + 1)) for f in found]


def check_panels(screen):
    """Three square panels, equal and large, from left to right, captions above, text below."""
    (top, left, h, w), *others = panels = boxes(screen)
    assert h == w and h > 300
    assert all(p[0] == top and p[2:] == (h, w) for p in others)
    assert panels[0][1] + w <= panels[1][1] and panels[1][1] + w <= panels[2][1]
    assert (screen[top - 28 : top - 2, left : left + w] > 150).any() and (
        screen[top + h + 4 : top + h + 50, left : left + w] > 150
    ).any()


def grab():
    return np.asarray(ImageGrab.grab(xdisplay="").convert("RGB"))


def draws():
    with Viewer("test", ["one", "two", "three"]) as viewer:
        for _ in range(2):
            viewer.show([plain(RED), plain(GREEN), plain(BLUE)], [values_line({"return": 12.5, "action": np.zeros(3)})])
            viewer.events()
        check_panels(grab())
        viewer.show([plain(RED), plain(GREEN, 400, 600), plain(BLUE, 96, 96)], ["a line", "another"])
        heights = {h for _, _, h, _ in boxes(grab())}
        assert len(heights) == 1
        viewer.window.set_size(640, 300)
        time.sleep(0.2)
        viewer.events()
        assert viewer.picture.shape[1] <= 640 and viewer.picture.shape[0] <= 300
        boxes(grab()[:300, :640])


def answers_keys():
    def happens(event, *values):
        viewer.window.dispatch_event(event, *values)  # queues it
        viewer.events()

    def press(symbol):
        happens("on_key_press", symbol, 0)

    with Viewer("test", ["one"], {"space": "pause", "q": "stop"}) as viewer:
        from pyglet.window import key  # needs a display to be imported

        viewer.show([plain(RED)])
        press(key.SPACE)
        press(key.LEFT)
        press(key._2)
        assert list(viewer.orders) == ["pause"] and viewer.held == {"left", "2"}, "an order's key is not held"
        happens("on_key_release", key.LEFT, 0)
        assert viewer.held == {"2"}
        happens("on_deactivate")
        assert viewer.held == set(), "keys held when the focus goes are let go"
        press(key.ESCAPE)
        assert viewer.held == {"escape"} and not viewer.window.has_exit, "no key closes it by itself"
        happens("on_close")
        assert list(viewer.orders) == ["pause", "stop"]


@pytest.mark.parametrize("function", [draws, answers_keys])
def test_a_window(function, monkeypatch):
    in_a_window(function, monkeypatch)


SCRIPT = """
import time
import numpy as np
from dreamdrive.utils.viewer import Viewer, values_line

def plain(*colour):
    return np.full((64, 64, 3), colour, np.uint8)

orders = {"space": "pause", "q": "stop"}
with Viewer("dreamdrive", ["simulator", "what V reconstructs", "what M expected"], orders) as viewer:
    steps, seen = 0, None
    while "stop" not in viewer.orders:
        steps += 1
        pictures = [plain(220, 30, 30), plain(40, 200, 60), plain(30, 60, 210)]
        viewer.show(pictures, [values_line({"return": 1.5 * steps, "action": np.array([-0.25, 1, 0])})])
        viewer.events()
        if (list(viewer.orders), viewer.held) != seen:
            seen = list(viewer.orders), set(viewer.held)
            print(*seen, flush=True)
        time.sleep(0.02)
print("quit", flush=True)
"""


@pytest.mark.slow
def test_in_tigervnc_the_panels_are_seen_and_the_keys_arrive(tmp_path):
    log = tmp_path / "log"
    with vnc_desktop() as desktop, open(log, "w") as out:
        script = subprocess.Popen(
            [sys.executable, "-c", SCRIPT], cwd=ROOT, env=desktop.environment(), stdout=out, stderr=subprocess.STDOUT
        )
        try:
            wait_for(lambda: "[]" in log.read_text() or script.poll() is not None, 60, "the window is there")
            check_panels(desktop.capture(tmp_path / "vnc.png"))
            desktop.do("keydown", "left", "keydown", "up", "pause", "1", "keyup", "left", "keyup", "up")
            wait_for(lambda: "'up'" in log.read_text() and "'left'" in log.read_text(), 10, "held keys arrive")
            for name, answer in (("space", "['pause'] set()"), ("q", "quit")):
                desktop.do("key", name)
                wait_for(lambda answer=answer: answer in log.read_text(), 10, f"{name} is answered")
            assert script.wait(20) == 0, log.read_text()
        finally:
            script.kill()
            script.wait()


def test_the_script_works_under_xvfb_run():
    one_frame = SCRIPT.replace("not in viewer.orders", "not in viewer.orders and steps < 5")
    command = ["xvfb-run", "-a", "-s", "-screen 0 1400x900x24", sys.executable, "-c", one_frame]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0 and done.stdout.endswith("quit\n"), done.stderr


def test_nothing_of_pyglet_is_imported_before_a_window_is_wanted():
    check = (
        "import sys; import dreamdrive.utils.viewer, dreamdrive.utils.display, dreamdrive.utils.video, "
        "dreamdrive.utils.doctor; sys.exit('pyglet' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, timeout=60).returncode == 0


def keyboard_action(held, space, previous=None):
    """What a person does who drives by the keys that a space suggests."""
    keys = usual_keys(space)
    action = keys.action(held, previous)
    return keys.let_go(previous) if action is None else action


def test_steering_is_smooth_and_returns_faster_than_it_turns():
    action, seen = None, []
    for _ in range(12):
        action = keyboard_action({"right", "up"}, CARRACING, action)
        seen.append(action[0])
    assert action.dtype == np.float32 and action.tolist() == [1, 1, 0]
    np.testing.assert_allclose(seen[:10], np.arange(1, 11) / 10, rtol=1e-5)
    assert keyboard_action(set(), CARRACING, action).tolist() == pytest.approx([0.8, 0, 0])
    assert keyboard_action({"left"}, CARRACING, action).tolist() == pytest.approx([0.9, 0, 0])
    assert keyboard_action({"down"}, CARRACING).tolist() == pytest.approx([0, 0, 0.8])
    assert keyboard_action({"left", "right"}, CARRACING).tolist() == [0, 0, 0]


def test_every_action_lies_within_its_space():
    spaces = [CARRACING, ActionSpace(low=(-2.0,), high=(2.0,)), ActionSpace(low=(0.5, -3.0), high=(1.0, -1.0))]
    rng = np.random.default_rng(0)
    for space in spaces:
        action = None
        for _ in range(200):
            held = {k for k in ("left", "right", "up", "down", "x") if rng.random() < 0.5}
            action = keyboard_action(held, space, action)
            assert (action >= np.float32(space.low)).all() and (action <= np.float32(space.high)).all()


def test_discrete_actions_by_arrows_and_digits():
    def act(n, *held, previous=None):
        return keyboard_action(set(held), ActionSpace(n), previous)

    assert [act(2, "left"), act(2, "right"), act(2, previous=1), act(2)] == [0, 1, 1, 0]
    assert [act(3), act(3, "left"), act(3, "right")] == [1, 0, 2]
    assert [act(5), act(5, "right"), act(5, "left"), act(5, "up"), act(5, "down")] == [0, 1, 2, 3, 4]
    assert [act(4, "3"), act(4, "9"), act(4)] == [3, 0, 0]


def test_names_and_text():
    assert [key_name(s) for s in ("LEFT", "_1", "NUM_7", "SPACE", "A", "NUM_ENTER")] == [
        "left",
        "1",
        "7",
        "space",
        "a",
        "num_enter",
    ]
    said = values_line({"return": 3.14159, "steps": 7, "action": np.array([0.5, -1])})
    assert said == "return 3.1    steps 7    action +0.50 -1.00" and values_line({}) == ""
