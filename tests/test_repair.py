"""A damaged dataset is whole again after `dreamdrive data verify --repair`, to the byte."""

import shutil

import pytest

from dreamdrive.data.manifest import read_manifest
from dreamdrive.tests.tiny_run import call, complaint, contents, write_dataset

RECORD = ("--env", "gym:CartPole-v1", "--rollouts", 6, "--max-steps", 30, "--threads", 1, "--val-fraction", 0.25)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repair") / "data"
    assert call("data.generation_script", *RECORD, "--rootdir", folder).returncode == 0
    assert len(read_manifest(folder).shards) == 6
    return folder


@pytest.fixture
def data(recorded, tmp_path):
    return shutil.copytree(recorded, tmp_path / "data")


def repaired(data, *more):
    return call("driving.repair", "--repair", data, "--threads", 1, *more)


def test_damaged_and_missing_shards_are_recorded_again_to_the_byte(data):
    before = contents(data)
    flipped = bytearray(before["shard_00001.h5"])
    flipped[len(flipped) // 2] ^= 1
    (data / "shard_00001.h5").write_bytes(flipped)
    (data / "shard_00002.h5").write_bytes(before["shard_00002.h5"][:100])
    (data / "shard_00004.h5").unlink()
    assert call("driving.repair", data).returncode == 1
    done = repaired(data)
    assert done.returncode == 0, done.stderr
    assert "3 shards recorded again, the same to the byte" in done.stdout
    assert "all 6 shards are as the manifest says" in done.stdout
    after = contents(data)
    assert after.pop("damaged/shard_00001.h5") == flipped
    assert after.pop("damaged/shard_00002.h5") == before["shard_00002.h5"][:100]
    assert after == before


def test_what_is_whole_stays_as_it_is(data):
    before = {path: path.stat().st_mtime_ns for path in data.iterdir()}
    assert repaired(data).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in data.iterdir()} == before


def test_a_dataset_that_cannot_be_recorded_again_stays_as_it_is(data, tmp_path):
    made = write_dataset(tmp_path / "made", [5, 6, 7], per_shard=3).root  # not as stage 1 cuts shards
    for folder, file in ((made, "shard_00000.h5"), (data, "manifest.json")):
        content = bytearray((folder / file).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / file).write_bytes(content)
        before = contents(folder)
        assert str(folder) in complaint(repaired(folder))
        assert contents(folder) == before


def test_where_recording_fails_what_was_damaged_is_put_back(data, monkeypatch):
    (data / "shard_00003.h5").write_bytes(b"x")
    before = contents(data)
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    monkeypatch.setattr("dreamdrive.driving.recording.check_space", full)
    assert "no room" in complaint(repaired(data))
    assert contents(data) == before


def full(*_):
    from dreamdrive.utils.errors import UserError

    raise UserError("there is no room")
