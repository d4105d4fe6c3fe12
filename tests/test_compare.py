"""`dreamdrive compare`: scores paired by seed, curves over each other, flags that differ."""

import json
import re

import numpy as np
import pytest

from dreamdrive.pages.beside import beside
from dreamdrive.pages.compare import differing, labels, rows_of
from dreamdrive.pages.run import read_run
from dreamdrive.tests.test_report import EVIL, make_run, score
from dreamdrive.tests.tiny_run import call, complaint, contents
from dreamdrive.utils.intervals import mean_interval


@pytest.fixture
def pair(tmp_path):
    """Two runs that differ by a constant on every seed."""
    return make_run(tmp_path / "one"), make_run(tmp_path / "two", shift=5.0)


def compared(*runs):
    found = [read_run(run) for run in runs]
    return rows_of(found, labels(found))


def test_scores_are_paired_by_seed(pair):
    """On seeds that vary a lot, a driver that is always 5 points better is told apart by pairs alone."""
    first, second = compared(*pair)["cartpole"]
    assert (first.run, second.run) == ("one", "two") and first.difference is None
    gap = second.difference
    assert (gap.mean, gap.low, gap.high, gap.count) == (5.0, 5.0, 5.0, 3) and second.own.low < first.own.high


def test_only_seeds_that_both_have_driven_count(pair):
    path = score(pair[1], "bc", [10.0, 21.0, 0.0, 7.0], {})
    said = json.loads(path.read_text())
    said["returns"] = {seed: value for seed, value in said["returns"].items() if not seed.endswith("2")}
    path.write_text(json.dumps(said))
    gap = compared(*pair)["cartpole"][1].difference
    assert gap == mean_interval([0.0, 1.0])


def test_a_driver_is_compared_with_its_like_or_else_with_the_first(pair):
    score(pair[0], "expert", [50.0, 50.0, 50.0], {})
    score(pair[1], "expert", [51.0, 52.0, 53.0], {})
    score(pair[1], "ctrl", [0.0, 0.0, 0.0], {})
    rows = {(row.run, row.score.controller): row for row in compared(*pair)["cartpole"]}
    assert rows["two", "expert"].against == "one expert" and rows["two", "expert"].difference.mean == 2.0
    assert rows["two", "ctrl"].against == "one bc" and rows["two", "ctrl"].difference.mean == -21.0
    assert rows["one", "expert"].against == "", "a run is not compared with itself"


def test_another_world_is_another_table(pair):
    path = score(pair[1], "bc", [1.0], {})
    said = json.loads(path.read_text())
    path.unlink()
    path.with_name("bc-cartpole-bars-simulator.json").write_text(json.dumps(said))
    path.with_name("bc-cartpole-dream.json").write_text(json.dumps(said))
    assert set(compared(*pair)) == {"cartpole", "cartpole (bars)", "the dream of cartpole"}


def test_flags_that_differ_are_told_and_no_others(pair):
    found = [read_run(run) for run in pair]
    assert differing(beside(found, labels(found))) == {"vae": {"learning_rate": ["0.001", "5.001"]}}


def test_the_terminal_has_it_as_text_and_the_page_has_curves(pair, tmp_path):
    before = [contents(run) for run in pair]
    done = call("pages.compare", *pair, "--out", tmp_path / "page.html")
    assert done.returncode == 0 and not done.stderr
    assert re.search(r"two bc +26\.0 .* \+5\.0 +\+5\.0 to \+5\.0 +3 +one bc", done.stdout)
    assert "learning_rate  0.001  5.001" in done.stdout and "Student's t" in done.stdout
    text = (tmp_path / "page.html").read_text()
    assert "<h1>one and two</h1>" in text and text.count("<svg") == 2, "val_loss of V, loss of the clone"
    assert '<span class="better">+5.0</span>' in text and ">5.001<" in text
    assert [contents(run) for run in pair] == before


def test_rounds_are_drawn_over_each_other(pair, tmp_path):
    for run, mean in zip(pair, (10.0, 20.0), strict=True):
        for k in (1, 2):
            said = {"round": k, "frames": 1000 * k, "recorded": {"clean": [mean + k, mean - k]}}
            (run / "rounds" / f"0{k}.json").write_text(json.dumps(said))
    done = call("pages.compare", *pair, "--out", tmp_path / "page.html")
    assert re.search(r"one clean +2 +2,000 +10\.0 \[", done.stdout) and "random" not in done.stdout
    text = (tmp_path / "page.html").read_text()
    assert text.count("<svg") == 3 and "frames of the simulator" in text


def test_two_runs_of_one_name_are_told_apart(tmp_path):
    runs = [make_run(tmp_path / folder / "run") for folder in ("a", "b")]
    assert labels([read_run(run) for run in runs]) == [str(run) for run in runs]


def test_damage_is_said_and_text_is_escaped(pair, tmp_path):
    (pair[1] / "vae" / "best.tar").write_bytes(b"nothing")
    (pair[1] / "bc" / "args.json").write_text(json.dumps({"seed": EVIL}))
    done = call("pages.compare", *pair, "--out", tmp_path / "page.html")
    assert done.returncode == 0 and "best.tar is damaged" in done.stdout
    text = (tmp_path / "page.html").read_text()
    assert 'class="problem"' in text and "<script" not in text and "&lt;script&gt;" in text


def test_one_run_or_none_is_a_complaint(pair, tmp_path):
    assert "two runs or more" in complaint(call("pages.compare", pair[0]))
    assert "two runs or more" in complaint(call("pages.compare", pair[0], pair[0]))
    assert "holds no stage" in complaint(call("pages.compare", pair[0], tmp_path / "nothing"))


def test_a_difference_without_spread_in_the_seeds_has_no_width():
    assert np.allclose([mean_interval([2.0, 2.0]).low, mean_interval([2.0, 2.0]).high], 2.0)
