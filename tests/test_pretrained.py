"""The runs in pretrained/ drive on a fresh clone."""

import json

import pytest

from tests.tiny_run import ROOT, call
from utils import checkpoint

RUNS = {name: ROOT / "pretrained" / name for name in ("carracing", "nocturne")}
STAGES = ("vae", "mdrnn", "ctrl", "bc")
MOST_BYTES = 12e6


@pytest.fixture(params=RUNS)
def logdir(request, tmp_path):
    """A run, with scores of its own."""
    for stage in STAGES:
        (tmp_path / stage).symlink_to(RUNS[request.param] / stage)
    return tmp_path


@pytest.mark.parametrize("name", RUNS)
def test_it_is_small_and_in_half_precision(name):
    files = [path for path in RUNS[name].rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    for stage in STAGES:
        assert {str(value.dtype) for value in checkpoint.load_parent(RUNS[name], stage)["model"].values()} == {"torch.float16"}


@pytest.mark.slow
@pytest.mark.parametrize("controller", ["ctrl", "bc"])
def test_it_drives_as_well_as_is_said(logdir, controller):
    world = checkpoint.load_parent(logdir, "vae")["world"]["env"]
    done = call("test_controller", "--logdir", logdir, "--controller", controller, "--episodes", {"carracing": 5, "nocturne": 60}[world], "--max-workers", 2)
    assert done.returncode == 0, done.stderr
    score = json.loads((logdir / "scores" / f"{controller}-simulator.json").read_text())
    if world == "carracing":
        assert score["mean"] >= 800
    else:
        assert score["goal_rate_position"] > 0.65 and score["collision_rate"] < 0.2 and score["goal_rate"] <= score["goal_rate_position"]
