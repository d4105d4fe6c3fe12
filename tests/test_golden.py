"""What every released version wrote is read by this one: tests/golden/<version>.tar.xz (benchmarks/golden.py makes
them)."""

import json
import math
import re
import tarfile
from pathlib import Path

import pytest
import torch

from dreamdrive.data.manifest import CHECKSUM, MANIFEST, read_manifest
from dreamdrive.data.shards import Dataset, verify
from dreamdrive.driving.agent import load_agent
from dreamdrive.tests.tiny_run import ROOT, call, complaint, contents
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError

GOLDEN = ROOT / "tests" / "golden"
ARCHIVES = sorted(GOLDEN.glob("*.tar.xz"))
STAGES = ("vae", "mdrnn", "ctrl", "bc")
LARGEST = 2_000_000  # bytes in all


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def golden(request, tmp_path_factory) -> Path:
    """The folder of a version's dataset, "data", and run, "run"."""
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(request.param) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_every_released_version_has_left_something_and_not_much():
    released = re.findall(r"^## (\d\S+) - ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert {path.name.removesuffix(".tar.xz") for path in ARCHIVES} >= set(released) and released
    assert sum(path.stat().st_size for path in ARCHIVES) < LARGEST


def test_its_dataset_is_whole_and_read(golden):
    assert verify(golden / "data") == []
    for episode in Dataset.open(golden / "data").read():
        episode.check()


def test_its_checkpoints_are_read_and_drive(golden):
    for stage in STAGES:
        for name in ("best.tar", "checkpoint.tar"):
            assert checkpoint.load(golden / "run" / stage / name, stage)["schema"] == 1
    for controller in ("ctrl", "bc"):
        agent = load_agent(golden / "run", controller)
        agent.reset(1)
        action = agent.act(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
        assert action.shape[0] == 1


def test_its_latents_are_those_of_its_frames(golden):
    """The V that was trained then encodes today as it did, and the cache is not made again."""
    before = contents(golden / "run" / "latents")
    done = call(
        *("trainmdrnn", "--logdir", golden / "run", "--dataset", golden / "data", "--device", "cpu"),
        *("--seq-len", 8, "--batch-size", 4, "--epochs", 2),
    )
    assert done.returncode == 0, done.stderr
    assert contents(golden / "run" / "latents") == before
    assert checkpoint.load(golden / "run" / "mdrnn" / "checkpoint.tar", "mdrnn")["epoch"] == 2


def test_a_newer_schema_is_refused_politely(golden):
    path = golden / "data" / MANIFEST
    old = path.read_bytes()
    value = json.loads(old)
    assert read_manifest(golden / "data").seed == value["seed"]
    try:
        path.write_text(json.dumps({**value, "schema": 9, CHECKSUM: "of another kind", "more": math.pi}))
        with pytest.raises(
            UserError, match=r"its schema is 9, and this version of dreamdrive reads 1\): use the version"
        ):
            read_manifest(golden / "data")
        assert "its schema is 9" in complaint(call("data.shards", "info", golden / "data"))
    finally:
        path.write_bytes(old)
