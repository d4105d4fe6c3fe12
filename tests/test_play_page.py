"""play.py as people meet it: in a browser (headless Chromium) and over VNC."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreamdrive.benchmarks.lesson import start, visit, wait
from dreamdrive.tests.pages import PRESS, SIZES
from dreamdrive.tests.test_video import decode
from dreamdrive.tests.vnc import vnc_desktop, wait_for

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
needs_vnc = pytest.mark.skipif(
    shutil.which("Xtigervnc") is None, reason="Xtigervnc is missing: apt-get install tigervnc-standalone-server"
)


@pytest.fixture
def served(browser, tmp_path):
    """Starts play.py with some flags and opens its page; afterwards the page stops it."""
    started = []

    def serve(*flags):
        process, address = start(tmp_path, *flags, script=("play.py", "--browser"))
        started.append(process)
        visit(browser, address)
        wait(browser, "lesson.status.drivers")
        return browser

    yield serve
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    browser.get("about:blank")
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def text(browser, name: str) -> str:
    return browser.find_element("id", name).text


def picture(browser) -> str:
    return browser.execute_script("return document.getElementById('picture').toDataURL()")


def test_in_a_browser_one_watches_takes_over_records_and_stops(served, tmp_path):
    from selenium.webdriver.support.select import Select  # which may be missing

    page = served("--env", "mountaincar", "--controller", "random", "--countdown", 0)
    wait(page, "lesson.now.step > 3")
    before = picture(page)
    wait(page, "lesson.now.step > 10")
    assert picture(page) != before and text(page, "seat") == "you have the controls"
    assert page.execute_script("return getComputedStyle(document.querySelector('section.teach')).display") == "none"
    assert not page.find_element("id", "own").is_displayed(), "keys are for whoever drives"

    Select(page.find_element("id", "driver")).select_by_value("human")
    wait(page, "lesson.status.driver === 'human'")
    page.execute_script(PRESS, "ArrowRight")
    wait(page, "lesson.now.facts.action === 'accelerate right'")
    assert page.find_element("id", "own").is_displayed()

    page.find_element("id", "record").click()
    wait(page, "lesson.status.recording")
    step = page.execute_script("return lesson.now.step")
    wait(page, f"lesson.now.step > {step} + 5")
    page.find_element("id", "header").click()
    wait(page, "'reward' in lesson.now.facts")
    page.find_element("id", "pause").click()
    wait(page, "lesson.status.paused")
    step = page.execute_script("return lesson.now.step")
    page.find_element("id", "step").click()
    wait(page, f"lesson.now.step === {step} + 1")
    page.find_element("id", "stop").click()
    wait(page, "lesson.status.phase === 'done'")
    assert text(page, "over") == "over" and text(page, "seat") == "this is over"
    (film,) = (tmp_path / "media" / "recordings").glob("*.mp4")
    assert len(decode(film)[1]) > 5
    page.get(film.as_uri())  # a browser plays it
    wait(page, "document.querySelector('video').readyState > 2")
    page.execute_script("document.querySelector('video').play()")
    wait(page, "document.querySelector('video').currentTime > 0.1")
    assert page.execute_script("return document.querySelector('video').videoWidth") > 64


def test_what_is_to_be_kept_is_asked_in_the_page(served, tmp_path):
    page = served("--env", "cartpole", "--controller", "random", "-s")
    wait(page, "document.querySelector('#over button')")
    assert "keep this episode?" in text(page, "over")
    page.find_element("css selector", "#over button").click()
    wait(page, "lesson.status.number === 1")
    assert (tmp_path / "media/episodes/train/shard_00000.h5").exists()


@pytest.mark.parametrize("size", SIZES)
def test_the_page_fits_and_the_dream_is_beside_the_simulator(served, browser, size, tmp_path):
    browser.set_window_size(*SIZES[size])
    page = served("--logdir", "carracing-dream", "-a", "-H", "--env", "carracing-fast", "--seed", 3)
    wait(page, "lesson.now.step > 2", 90)
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    shot = tmp_path / f"{size}.png"
    page.save_screenshot(str(shot))
    colours = np.asarray(Image.open(shot).convert("RGB")).reshape(-1, 3)
    assert ((colours[:, 1] > colours[:, 0] + 40) & (colours[:, 1] > colours[:, 2] + 40)).mean() > 0.05, "grass is seen"
    assert {"value", "apart", "end probability"} <= set(page.execute_script("return lesson.now.facts"))


@needs_vnc
def test_over_vnc_the_driver_is_handed_on_and_the_window_closes(tmp_path):
    log = tmp_path / "log"
    with vnc_desktop() as desktop, open(log, "w") as out:
        command = [sys.executable, "play.py", "--env", "mountaincar", "--controller", "random", "--countdown", "0"]
        script = subprocess.Popen(
            [*command, "--logdir", str(tmp_path)],
            cwd=ROOT,
            env={**desktop.environment(), "OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:

            def lit() -> bool:
                return desktop.capture(tmp_path / "first.png")[:500, :1200].mean() > 60 or script.poll() is not None

            wait_for(lit, 90, "the window is there")
            assert script.poll() is None, log.read_text()
            first = desktop.capture(tmp_path / "one.png")
            time.sleep(1)
            assert (desktop.capture(tmp_path / "two.png") != first).any(), "frames change"
            desktop.do("key", "tab", "pause", "0.5", "key", "tab", "pause", "0.5", "key", ",", "pause", "2", "key", ",")
            wait_for(lambda: "recorded" in log.read_text(), 20, "the recording is finished")
            desktop.do("key", "q")
            assert script.wait(20) == 0, log.read_text()
        finally:
            script.kill()
            script.wait()
    (film,) = (tmp_path / "media" / "recordings").glob("*.mp4")
    frames = decode(film)[1]
    assert len(frames) > 5 and (frames[0] != frames[-1]).any()
