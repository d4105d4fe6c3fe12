"""Runs by name: a folder of the user's comes first, then the runs that came with dreamdrive, which are only read."""

import json

import pytest

from dreamdrive.tests.tiny_run import ROOT, call, complaint, contents
from dreamdrive.utils import checkpoint, runs
from dreamdrive.utils.errors import UserError


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["carracing", "pretrained/carracing"])
def test_a_name_is_the_folder_that_is_there_and_else_the_shipped_run(name, elsewhere):
    shipped = ROOT / "pretrained/carracing"
    assert runs.find(name) == shipped and checkpoint.path(name, "vae") == shipped / "vae/best.tar"
    assert runs.read_only(name) and runs.results(name) == runs.OUTPUTS / "carracing"
    (elsewhere / name).mkdir(parents=True)
    assert str(runs.find(name)) == name and not runs.read_only(name) and str(runs.results(name)) == name


def test_other_folders_are_what_they_are(elsewhere):
    for name in ("exp_dir", "exp_dir/carracing", "./new", "nowhere"):
        assert str(runs.results(name)) == str(runs.find(name)) == name.removeprefix("./")


def test_scores_of_a_shipped_run_leave_a_run_of_the_users_own_alone(elsewhere):
    (elsewhere / "exp_dir/breakout/scores").mkdir(parents=True)
    assert runs.results("breakout") == runs.OUTPUTS / "breakout"
    (elsewhere / "exp_dir/breakout/bc").mkdir()
    (elsewhere / "exp_dir/breakout/bc/best.tar").touch()
    assert runs.results("breakout") == runs.OUTPUTS / "pretrained-breakout"


def test_a_shipped_run_is_driven_by_name_and_nothing_is_written_beside_it(elsewhere):
    before = contents(ROOT / "pretrained")
    for logdir in ("nocturne", ROOT / "pretrained/nocturne"):
        done = call("test_controller", "--logdir", logdir, "--controller", "constant", "--episodes", 1, "--seed", 3)
        assert done.returncode == 0, done.stderr
        (score,) = (elsewhere / "exp_dir/nocturne/scores").iterdir()
        assert json.loads(score.read_text())["episodes"] == 1
        score.unlink()
    assert contents(ROOT / "pretrained") == before
    assert [path.name for path in elsewhere.iterdir()] == ["exp_dir"]


def test_a_stage_that_trains_refuses_a_shipped_run(elsewhere):
    for stage, logdir in (("traincontroller", "carracing"), ("trainmdrnn", ROOT / "pretrained/carracing")):
        said = complaint(call(stage, "--logdir", logdir))
        assert f"{logdir} is among the runs that came with dreamdrive" in said and "cp -r" in said
    with pytest.raises(UserError, match="only read"), checkpoint.stage_folder("breakout", "bc"):
        pass
    assert not list(elsewhere.iterdir())


def test_a_name_that_is_neither_is_told_with_those_there_are(elsewhere):
    said = complaint(call("test_controller", "--logdir", "carrcing"))
    assert "no folder carrcing" in said and "breakout, carracing, carracing-dream, nocturne" in said
    assert "came with" not in complaint(call("test_controller"))
