"""The run in pretrained/carracing drives on a fresh clone."""

import json

import pytest

from tests.tiny_run import ROOT, call
from utils import checkpoint

PRETRAINED = ROOT / "pretrained" / "carracing"
STAGES = ("vae", "mdrnn", "ctrl", "bc")
MOST_BYTES = 12e6

pytestmark = pytest.mark.skipif(not PRETRAINED.exists(), reason="pretrained/carracing is not in the repository yet")


def test_it_is_small_and_in_half_precision():
    files = [path for path in PRETRAINED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    for stage in STAGES:
        assert {str(value.dtype) for value in checkpoint.load_parent(PRETRAINED, stage)["model"].values()} == {"torch.float16"}


@pytest.mark.slow
@pytest.mark.parametrize("controller", ["ctrl", "bc"])
def test_it_drives_the_official_tracks(controller, tmp_path):
    logdir = tmp_path / "run"
    logdir.mkdir()
    for stage in STAGES:
        (logdir / stage).symlink_to(PRETRAINED / stage)
    done = call("test_controller", "--logdir", logdir, "--controller", controller, "--episodes", 5, "--max-workers", 2)
    assert done.returncode == 0, done.stderr
    assert json.loads((logdir / "scores" / f"{controller}-simulator.json").read_text())["mean"] >= 800
