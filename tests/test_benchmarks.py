"""The tables that benchmarks write."""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamdrive.benchmarks import (
    ablations,
    gpu,
    imitation,
    nocturne_models,
    report,
    results,
    shared,
    stages,
    synthetic,
    traffic,
)
from dreamdrive.benchmarks.report import write_section
from dreamdrive.data.loaders import open_datasets
from dreamdrive.data.manifest import split
from dreamdrive.envs.nocturne.scene import OBJECTS
from dreamdrive.envs.nocturne.synthetic.scenes import KINDS
from dreamdrive.learning.rounds_settings import RoundsSettings
from dreamdrive.tests.tiny_run import call
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.metrics import write_csv


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """A logdir in which every driver has been scored on 4 tracks, and the arguments to report on it."""
    logdir, page = tmp_path / "run", tmp_path / "results.md"
    for stage in ("vae", "latents", "mdrnn"):
        (logdir / stage).mkdir(parents=True)
    monkeypatch.setattr(
        "sys.argv",
        ["results", "--logdir", str(logdir), "--episodes", "4", "--out", str(page), "--dataset", "datasets/x"],
    )
    for number, row in enumerate(results.drivers(results.parse_args())):
        returns = np.array([100.0, 200.0, 300.0, 400.0]) + number
        score = {
            "mean": returns.mean(),
            "std": returns.std(),
            "min": returns.min(),
            "median": np.median(returns),
            "max": returns.max(),
            "episodes": 4,
            "returns": {str(2_000_000 + k): float(value) for k, value in enumerate(returns)},
            "checkpoints": {},
            "command": "x",
        }
        for world in ("simulator", *["dream"] * (row.temperature is not None)):
            file = row.logdir / "scores" / f"{row.controller}-{world}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(score))
        if row.controller == "ctrl":
            (row.logdir / "ctrl").mkdir()
            write_csv(row.logdir / "ctrl" / "metrics.csv", [{"generation": 1, "frames": 12345}])
            write_csv(
                row.logdir / "ctrl" / "clock.csv",
                [{"generation": 1, "seconds": 4000.0}, {"generation": 2, "seconds": 5000.0}],
            )
    return page


def test_the_score_table_has_a_row_for_every_driver_and_trains_none_that_is_scored(scored, monkeypatch):
    monkeypatch.setattr(results, "call", lambda command: pytest.fail(f"ran {command}"))
    scored.write_text("# Results\n")
    results.main()
    page = scored.read_text()
    assert page.startswith("# Results\n")
    assert "| random | 250.0 +- 111.8 | 140.4 to 359.6 | 100.0 | 250.0 | 400.0 | 4 | | | |" in re.sub(" +", " ", page)
    for name in (
        "cloned, z alone",
        "cloned, z and h of an untrained M",
        "evolved in the dream, temperature 1.15",
        "evolved in the simulator, 40 generations, z alone",
        "expert",
    ):
        assert page.count(f"| {name} ") == 1
    assert page.count("12,345 | ") == page.count(" 2.5 |") == 10
    each = json.loads(scored.with_suffix(".json").read_text())
    assert (
        len(each) == 15
        and each["random"]["returns"]["2000003"] == 400
        and each["evolved in the dream, temperature 0.5"]["dream"]["mean"] > 200
    )
    assert "python trainmdrnn.py" in page and "--epochs 0" in page


def test_a_driver_scored_on_another_number_of_tracks_is_scored_again(scored, monkeypatch):
    monkeypatch.setattr(
        "sys.argv",
        [
            "results",
            "--logdir",
            str(scored.parent / "run"),
            "--episodes",
            "5",
            "--out",
            str(scored),
            "--dataset",
            "datasets/x",
        ],
    )
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


def test_vehicles_survive_a_perfect_copy_and_none_an_empty_one():
    scenes = nocturne_models.scenes_of(None, 2)
    options = {"image_size": 64, "view_dist": 40.0, "goal": True, "speed": True}
    for scene in scenes:
        images, views = nocturne_models.cones(scene, options)
        drawn, close = nocturne_models.painted(images, images)
        assert drawn == close > 10 and nocturne_models.painted(np.zeros_like(images), images).tolist() == [drawn, 0]
        seen, kept = nocturne_models.survivors(images, images, views)["vehicle"]
        assert seen == kept > 10 and nocturne_models.survivors(images, np.zeros_like(images), views)[
            "vehicle"
        ].tolist() == [seen, 0]
        others = (views.type == OBJECTS.index("vehicle")) & ~views.is_ego
        assert seen < others.sum() and (nocturne_models.outlines(views)[others].sum((1, 2)) <= 100).all()
        (error, pixels), (_, drawn) = nocturne_models.squared_errors(images, images // 2)
        assert 0 < drawn < pixels == images.any(-1).sum() and error > 0


def test_the_traffic_table_has_a_row_for_every_run_that_is_given(tmp_path):
    args = argparse.Namespace(logdir=tmp_path, features=None, evolved=tmp_path / "e")
    assert [row.name for row in traffic.rows(args)] == [
        "random",
        "constant velocity",
        "cloned from cone images",
        "evolved",
        "the log's actions, each the nearest of 273, open loop",
        "expert, each action the nearest of 273",
        "expert",
    ]
    score = {"outcomes": {"1": {"goal_rate": 1.0}, "2": {"goal_rate": 0.0}}}
    assert traffic.measured(score, "goal_rate", 100.0) == "50.0 [0.0, 100.0]"


def test_a_synthetic_scene_is_counted():
    kind, counted, seconds = synthetic.look_at((0, 1))
    assert kind in KINDS and counted["scenes"] == 1 and counted["egos"] >= 2 and seconds > 0
    assert (
        counted["collide"] == counted["on an edge"] == counted["goal missed"] == 0
        and counted["must act"] >= counted["must yield"]
    )


@pytest.mark.parametrize("experts", [9, 10, 50, 200])
def test_clones_are_compared_at_just_so_many_episodes(experts):
    for validates in (lambda i: split(i, imitation.VAL_FRACTION) == "val", lambda i: i % 7 == 0):
        kept = [validates(i) for i in range(imitation.rollouts(experts, validates))]
        assert kept.count(False) == experts and any(kept)


def test_intervals_over_training_seeds_are_students():
    assert imitation.interval([5.0]) == 0 and imitation.interval([1.0, 2.0, 3.0]) == pytest.approx(2.484, abs=5e-3)
    assert imitation.cells([1.0, 2.0, 3.0]) == ("2.0 +- 2.5", "1.0, 2.0, 3.0") and imitation.cells([5.0]) == (
        "5.0",
        "5.0",
    )


@pytest.mark.parametrize(
    "flags",
    [["--seeds", "5", "3"], ["--seeds", "9"], ["--leave-out", "20, bc"], ["--experts", "10", "--leave-out", "50, bc"]],
)
def test_a_grid_of_clones_that_cannot_be_is_refused(flags, monkeypatch):
    monkeypatch.setattr("sys.argv", ["imitation", *flags])
    with pytest.raises(SystemExit, match="2"):
        imitation.parse_args()


def test_a_grid_of_clones_may_have_more_seeds_where_it_is_small(monkeypatch):
    monkeypatch.setattr("sys.argv", ["imitation", "--seeds", "5", "3", "3", "--leave-out", "200, ditto"])
    args = imitation.parse_args()
    assert (
        dict(zip(args.experts, args.seeds, strict=True)) == {10: 5, 50: 3, 200: 3}
        and imitation.row(200, "ditto") in args.leave_out
    )


def test_clones_made_with_other_flags_are_not_taken_for_those_wanted():
    made = "python trainbc.py --logdir a/10-bc-0 --epochs 30 --n-samples 16 --max-workers 1"
    imitation.require_same(
        "trainbc.py --logdir a/10-bc-0 --n-samples 16 --epochs 30 --max-workers 2", made, Path("a/10-bc-0")
    )
    for other in ("--epochs 30 --n-samples 8", "--epochs 30", "--epochs 30 --n-samples 16 --horizon 50"):
        with pytest.raises(UserError, match="a/10-bc-0 was made by `python trainbc.py"):
            imitation.require_same(f"trainbc.py --logdir a/10-bc-0 {other} --max-workers 1", made, Path("a/10-bc-0"))


def test_the_stage_benchmark_still_fits_the_training_loops_it_times(trained, tmp_path):
    dataset = open_datasets([trained.data])[0]
    assert stages.our_vae(dataset)(0.1) > 0
    assert stages.our_mdrnn(dataset, tmp_path)(0.1) > 0


def test_dreamt_steps_are_counted(tmp_path):
    done = call(
        "benchmarks.ditto",
        "--device",
        "cpu",
        "--seconds",
        0.1,
        "--repetitions",
        1,
        "--dreams",
        4,
        "--horizon",
        5,
        "--out",
        tmp_path / "speed.md",
    )
    assert done.returncode == 0, done.stderr
    rows = [
        line for line in (tmp_path / "speed.md").read_text().splitlines() if line.startswith("| 4 dreams of 5 steps")
    ]
    assert rows and all(int(row.split("|")[2].split("(")[0].replace(",", "")) > 20 for row in rows)


def test_every_ablation_is_a_run_that_train_py_knows(tmp_path):
    args = argparse.Namespace(folder=tmp_path, rounds=3, seeds=[4], only=None)
    whole, *others = ablations.chosen_changes(args)
    usual = RoundsSettings.parse(ablations.command(whole, 4, args)[2:], None).settings()
    for change in others:
        told = RoundsSettings.parse(ablations.command(change, 4, args)[2:], None)
        assert told.logdir == tmp_path / f"{change.name}-4" and told.rounds == (0 if change.alone else 3)
        differs = {name for name, value in told.settings().items() if value != usual[name]}
        assert len(differs) == sum(word.startswith("--") for word in change.flags), (change.name, differs)
    args.only = ["no-mirror", "nothing"]
    with pytest.raises(UserError, match="there is no change nothing: --only takes whole, "):
        ablations.chosen_changes(args)


def test_a_score_that_is_there_is_measured_again_for_another_driver_alone(tmp_path):
    path, measured = tmp_path / "score.json", []

    def measure() -> None:
        measured.append(len(measured))
        path.write_text(json.dumps({"episodes": 4, "checkpoints": {"ctrl": "b"}, "mean": measured[-1]}))

    for driver, wanted in ((None, 0), (None, 0), ("b", 0), ("c", 1)):
        assert report.scored(lambda: path, 4, measure, driver)["mean"] == wanted
    assert report.scored(lambda: path, 5, measure)["mean"] == 2 and len(measured) == 3


@pytest.mark.slow
def test_every_stage_is_measured_where_there_is_no_gpu_too(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    flags = ["--seconds", "0.05", "--repetitions", "1", "--rollouts", "2", "--out", str(page)]
    monkeypatch.setattr("sys.argv", ["gpu", *flags])
    gpu.main()
    rows = re.findall(r"^\| ([^|]+?) +\| +([\d,]+) \(", page.read_text(), re.M)
    assert len(rows) == 8 and all(float(rate.replace(",", "")) > 0 for _, rate in rows), rows
    assert "no GPU; " in page.read_text() or torch.cuda.is_available()


@pytest.mark.parametrize(
    ("used", "others", "fair"), [(1.0, 2, 2 / 3), (0.5, 2, 1.0), (2.0, 2, 0.5), (1.9, 0, 1.0), (2.0, 6, 0.25)]
)
def test_a_share_of_two_cores_is_fair_where_every_thread_gets_the_same(used, others, fair):
    """Of one thread beside two others two thirds of a core; of one that needs half a core all of it."""
    assert shared.fair_share(used, 2, others) == pytest.approx(fair)


def test_what_a_stage_got_of_its_share_is_the_median_of_its_turns():
    turns = [shared.Turn(100.0, beside, 2.0, 0.5) for beside in (30.0, 45.0, 50.0)]
    assert shared.row("V", turns) == ["V", "100", "2.0", "45", "0.50", "0.90 (0.60 to 1.00)", "yes"]
    assert shared.row("V", turns[:1])[-1] == "NO"
