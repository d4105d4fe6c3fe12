"""The runs in pretrained/ drive on a fresh clone."""

import json

import pytest

from dreamdrive.tests.tiny_run import ROOT, call
from dreamdrive.utils import checkpoint

WHOLE = ("vae", "mdrnn", "ctrl", "bc")
DREAMT = ("vae", "mdrnn", "ctrl")
STAGES = {"carracing": WHOLE, "carracing-dream": DREAMT, "nocturne": WHOLE, "breakout": ("bc",)}
RUNS = {name: ROOT / "pretrained" / name for name in STAGES}
MOST_BYTES = 12e6


def borrowed(name, tmp_path):
    """A run, with scores of its own."""
    for stage in STAGES[name]:
        (tmp_path / stage).symlink_to(RUNS[name] / stage)
    return tmp_path


@pytest.fixture(params=["carracing", "nocturne"])
def logdir(request, tmp_path):
    return borrowed(request.param, tmp_path)


@pytest.mark.parametrize("name", RUNS)
def test_it_is_small_and_in_half_precision(name):
    files = [path for path in RUNS[name].rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    for stage in STAGES[name]:
        assert {str(value.dtype) for value in checkpoint.load_parent(RUNS[name], stage)["model"].values()} == {
            "torch.float16"
        }


@pytest.mark.slow
@pytest.mark.parametrize("controller", ["ctrl", "bc"])
def test_it_drives_as_well_as_is_said(logdir, controller):
    world = checkpoint.load_parent(logdir, "vae")["world"]["env"]
    done = call(
        "test_controller",
        "--logdir",
        logdir,
        "--controller",
        controller,
        "--episodes",
        {"carracing": 5, "nocturne": 60}[world],
        "--max-workers",
        2,
    )
    assert done.returncode == 0, done.stderr
    score = json.loads((logdir / "scores" / f"{controller}-{world}-simulator.json").read_text())
    if world == "carracing":
        assert score["mean"] >= 800
    else:
        assert (
            score["goal_rate_position"] > 0.65
            and score["collision_rate"] < 0.2
            and score["goal_rate"] <= score["goal_rate_position"]
        )


@pytest.mark.slow
def test_what_learnt_in_the_dream_alone_drives(tmp_path):
    logdir = borrowed("carracing-dream", tmp_path)
    done = call("test_controller", "--logdir", logdir, "--episodes", 8, "--max-workers", 2)
    assert done.returncode == 0, done.stderr
    assert json.loads((logdir / "scores" / "ctrl-carracing-simulator.json").read_text())["mean"] >= 850


@pytest.mark.slow
def test_it_plays_breakout_from_pixels(tmp_path):
    done = call(
        "test_controller", "--logdir", borrowed("breakout", tmp_path), "--episodes", 5, "--seed", 1, "--max-workers", 2
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "scores" / "bc-atari:Breakout-simulator.json").read_text())["mean"] >= 150
