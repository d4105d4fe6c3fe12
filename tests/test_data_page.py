"""`dreamdrive data page`: a dataset as a folder of HTML, also in a browser."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dreamdrive.__main__ import COMMANDS
from dreamdrive.benchmarks.lesson import open_browser, wait
from dreamdrive.data.manifest import write_manifest
from dreamdrive.data.shards import Dataset
from dreamdrive.pages.dataset import actions_of, names_of, spread
from dreamdrive.tests.tiny_run import DISCRETE, call, complaint, contents, write_dataset

EVIL = "</script><script>alert(1)</script>"
LENGTHS = [9, 30, 12, 20, 15, 8, 25]


@pytest.fixture
def data(tmp_path) -> Path:
    return write_dataset(tmp_path / "data", LENGTHS, image=(16, 16, 3)).root


def page_of(data: Path, *options) -> Path:
    out = data.parent / "page"
    done = call("pages.dataset", data, "--out", out, *options)
    assert done.returncode == 0, done.stderr
    return out


def about(out: Path) -> dict:
    text = (out / "index.js").read_text()
    return json.loads(text.removeprefix("const about = ").removesuffix(";\n"))


def plotted(out: Path, i: int) -> dict:
    number, _, values = (out / "episodes" / f"{i:05d}.js").read_text().removeprefix("arrived(").partition(", ")
    assert int(number) == i
    return json.loads(values.removesuffix(");\n"))


def test_every_episode_has_its_plots_and_a_handful_has_films(data):
    before = contents(data)
    out = page_of(data, "--films", 3)
    assert contents(data) == before
    said = about(out)
    assert [e[4] for e in said["episodes"]] == LENGTHS and said["actions"] == ["number 1", "number 2"]
    assert said["films"] == [int(path.stem) for path in sorted((out / "films").iterdir())] and len(said["films"]) == 3
    episode = Dataset.open(data).episode(3)
    drawn = plotted(out, 3)
    assert np.allclose(drawn["reward"], episode.reward) and np.allclose(drawn["action"], episode.action.T, rtol=1e-3)
    text = (out / "index.html").read_text()
    assert "7, at most 1,000 steps each" in text and "brown" in text and text.count("<svg") >= 4
    assert set(re.findall(r'src="([^"]*)"', text)) == {"index.js", "contact.png"}


def test_films_are_of_the_worst_the_best_and_between(data):
    episodes = Dataset.open(data).episodes
    ranked = sorted(episodes, key=lambda e: e.score)
    assert {ranked[0].index, ranked[-1].index} < set(spread(episodes, 3)) and len(spread(episodes, 99)) == len(LENGTHS)
    assert spread(episodes, 0) == [] and spread([], 3) == []


def test_written_again_it_leaves_nothing_of_the_page_before(data):
    out = page_of(data, "--films", "all")
    assert len(list((out / "films").iterdir())) == len(LENGTHS)
    page_of(data, "--films", 0)
    assert not list((out / "films").iterdir()) and about(out)["films"] == []


def test_a_long_episode_is_plotted_in_pieces(data, monkeypatch):
    monkeypatch.setattr("dreamdrive.pages.dataset.MOST_POINTS", 10)
    drawn = plotted(page_of(data, "--films", 0), 1)
    assert drawn["every"] == 3 and len(drawn["reward"]) == len(drawn["action"][0]) == 10
    assert np.allclose(drawn["reward"][0], 1000 + 1001 + 1002, rtol=1e-3)


def test_choices_have_their_names(tmp_path):
    data = write_dataset(tmp_path / "data", [5, 6], image=(8,), space={"type": "discrete", "n": 2}, env="cartpole")
    out = page_of(data.root)
    assert about(out)["actions"] == ["push left", "push right"] and about(out)["choices"]
    text = (out / "index.html").read_text()
    assert "push left" in text and "contact.png" not in text and len(plotted(out, 0)["obs"]) == 8
    unknown = write_dataset(tmp_path / "other", [5], image=(8,), space=DISCRETE)
    assert names_of(actions_of(unknown.manifest)) == ["action 0", "action 1", "action 2"]


def test_a_damaged_shard_is_a_sentence_and_the_rest_is_there(data):
    path = data / "shard_00001.h5"
    path.write_bytes(path.read_bytes()[:-100])
    out = page_of(data)
    text = (out / "index.html").read_text()
    assert text.count('class="problem"') == 1 and "shard_00001.h5" in text
    assert about(out)["damaged"] == [2, 3] and not set(about(out)["films"]) & {2, 3}
    assert not (out / "episodes" / "00002.js").exists() and (out / "episodes" / "00004.js").exists()


def test_text_of_the_manifest_is_escaped(data):
    manifest = Dataset.open(data).manifest
    names = {"env": f"gym:{EVIL}", "policy": EVIL, "policies": (EVIL,), "options": {EVIL: EVIL}}
    write_manifest(data, replace(manifest, **names, episodes=tuple(replace(e, policy=EVIL) for e in manifest.episodes)))
    text = (page_of(data, "--films", 0) / "index.html").read_text()
    assert "alert(1)" in text and EVIL not in text and text.count("<script") == 2


def test_what_cannot_be_is_a_complaint_and_damages_nothing(data, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    before = contents(tmp_path)
    for out, words in ((data, "own folder"), (data / "page", "own folder"), (mine, "something other")):
        assert words in complaint(call("pages.dataset", data, "--out", out))
    assert "is a file" in complaint(call("pages.dataset", data, "--out", mine / "thesis.txt"))
    assert "manifest.json is missing" in complaint(call("pages.dataset", mine, "--out", tmp_path / "x"))
    (data / "manifest.json").write_text("{}")
    assert "not a manifest" in complaint(call("pages.dataset", data, "--out", tmp_path / "x"))
    shutil.rmtree(data)
    assert contents(tmp_path).keys() == {name for name in before if not name.startswith("data/")}


@pytest.mark.parametrize(("name", "value"), [("dt", "fast"), ("dt", 0), ("max_steps", "1"), ("options", [1])])
def test_a_manifest_with_other_kinds_of_values_is_a_complaint(data, name, value):
    path = data / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    assert name in complaint(call("pages.dataset", data, "--out", data.parent / "x"))
    assert not (data.parent / "x").exists()


def test_the_command_is_found_by_its_two_words():
    assert COMMANDS["data page"].module == "pages.dataset"


@pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("chromedriver")), reason="needs chromium: make test")
def test_a_thousand_episodes_open_at_once_and_one_is_loaded_when_it_is_chosen(tmp_path):
    pytest.importorskip("selenium.webdriver", reason="needs selenium: make setup")
    data = write_dataset(tmp_path / "data", [4] * 1000, per_shard=500, image=(8, 8, 3))
    out = page_of(data.root, "--films", 1)
    browser = open_browser()
    try:
        browser.get(f"file://{out}/index.html")
        spent = browser.execute_script("const [n] = performance.getEntriesByType('navigation'); return n.duration")
        wait(browser, "view.drawn !== null")
        loaded = browser.execute_script("return view.loaded")
        assert spent < 5000 and loaded == [about(out)["films"][0]], "milliseconds; one episode of a thousand"
        assert len(browser.find_elements("css selector", "#rows tr")) == 50
        browser.execute_script("view.first = 950; list(); choose(999)")
        wait(browser, "view.drawn === 999")
        assert browser.find_element("id", "range").text == "951 to 1000 of 1000"
        assert "Episode 999" in browser.find_element("id", "title").text
        assert (
            len(browser.find_elements("css selector", "#plots svg")) == 3 and "It was not filmed" in browser.page_source
        )
        browser.execute_script("document.getElementById('filmed').click(); choose(view.first = about.films[0])")
        wait(browser, "document.querySelector('video').readyState > 0")
        assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    finally:
        browser.quit()
