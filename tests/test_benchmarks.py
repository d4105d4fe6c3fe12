"""The tables that benchmarks write."""

import json
import re

import numpy as np
import pytest

from benchmarks import results
from benchmarks.report import write_section
from utils.errors import UserError
from utils.metrics import write_csv


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """A logdir in which every driver has been scored on 4 tracks, and the arguments to report on it."""
    logdir, page = tmp_path / "run", tmp_path / "results.md"
    for stage in ("vae", "latents", "mdrnn"):
        (logdir / stage).mkdir(parents=True)
    monkeypatch.setattr("sys.argv", ["results", "--logdir", str(logdir), "--episodes", "4", "--out", str(page), "--dataset", "datasets/x"])
    for number, row in enumerate(results.drivers(results.parse_args())):
        returns = np.array([100.0, 200.0, 300.0, 400.0]) + number
        score = {"mean": returns.mean(), "std": returns.std(), "min": returns.min(), "median": np.median(returns), "max": returns.max(), "episodes": 4,
                 "returns": {str(2_000_000 + k): float(value) for k, value in enumerate(returns)}, "checkpoints": {}, "command": "x"}
        for world in ("simulator", *["dream"] * (row.temperature is not None)):
            file = row.logdir / "scores" / f"{row.controller}-{world}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(score))
        if row.controller == "ctrl":
            (row.logdir / "ctrl").mkdir()
            write_csv(row.logdir / "ctrl" / "metrics.csv", [{"generation": 1, "frames": 12345}])
            write_csv(row.logdir / "ctrl" / "clock.csv", [{"generation": 1, "seconds": 4000.0}, {"generation": 2, "seconds": 5000.0}])
    return page


def test_the_score_table_has_a_row_for_every_driver_and_trains_none_that_is_scored(scored, monkeypatch):
    monkeypatch.setattr(results, "call", lambda command: pytest.fail(f"ran {command}"))
    scored.write_text("# Results\n")
    results.main()
    page = scored.read_text()
    assert page.startswith("# Results\n")
    assert "| random | 250.0 +- 111.8 | 140.4 to 359.6 | 100.0 | 250.0 | 400.0 | 4 | | | |" in re.sub(" +", " ", page)
    for name in ("cloned, z alone", "cloned, z and h of an untrained M", "evolved in the dream, temperature 1.15", "evolved in the simulator, z alone", "expert"):
        assert page.count(f"| {name} ") == 1
    assert page.count("12,345 | ") == page.count(" 2.5 |") == 9
    each = json.loads(scored.with_suffix(".json").read_text())
    assert len(each) == 14 and each["random"]["returns"]["2000003"] == 400 and each["evolved in the dream, temperature 0.5"]["dream"]["mean"] > 200
    assert "python trainmdrnn.py" in page and "--epochs 0" in page


def test_a_driver_scored_on_another_number_of_tracks_is_scored_again(scored, monkeypatch):
    monkeypatch.setattr("sys.argv", ["results", "--logdir", str(scored.parent / "run"), "--episodes", "5", "--out", str(scored), "--dataset", "datasets/x"])
    monkeypatch.setattr(results, "call", lambda command: (_ for _ in ()).throw(UserError(command)))
    with pytest.raises(UserError, match="test_controller.py --logdir .* --controller random --episodes 5"):
        results.main()


def test_a_section_is_replaced_and_the_rest_of_the_page_stays(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\nby hand\n")
    write_section(page, "a", "first")
    write_section(page, "b", "other")
    write_section(page, "a", "second")
    text = page.read_text()
    assert "by hand" in text and "second" in text and "other" in text and "first" not in text
