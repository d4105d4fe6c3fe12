"""Heads of other kinds than ours: what one takes, and what is said where it is missing."""

import json
import subprocess

from dreamdrive.models.catalogue import HEADS
from dreamdrive.tests.tiny_run import ROOT, TINY, call, command, complaint, copy_run, variables
from dreamdrive.utils import checkpoint


def toy(*words) -> str:
    """What a script says that has the head of tests/toy_head.py in it."""
    done = subprocess.run(
        command("-m", "dreamdrive.tests.toy_head", *words),
        cwd=ROOT,
        env=variables(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_head_is_one_class_and_one_line(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(HEADS, "squares", ("dreamdrive.tests.toy_head", "Squares"))  # to read what its scripts write
    run = copy_run(trained, tmp_path)
    where = ("--logdir", run.logdir)
    toy("trainbc", *TINY["trainbc"], *where, "--noreload", "--features", "squares", "--hidden", 4)
    saved = checkpoint.load_parent(run.logdir, "bc")
    assert saved["config"]["features"] == "squares" and saved["model"]["layers.0.weight"].shape == (4, 2 * 8)
    clone = run.logdir / "bc" / "best.tar"
    toy("traincontroller", *TINY["traincontroller"], *where, "--noreload", "--features", "squares", "--init", clone)
    assert checkpoint.load_parent(run.logdir, "ctrl")["model"].keys() == saved["model"].keys()
    toy("test_controller", *where, "--controller", "bc", "--episodes", 2, "--max-workers", 1)
    toy("test_controller", *where, "--controller", "ctrl", "--world", "dream", "--horizon", 5, "--episodes", 2)
    for name in ("bc-gym:CartPole-v1-simulator", "ctrl-gym:CartPole-v1-dream"):
        assert json.loads((run.logdir / "scores" / f"{name}.json").read_text())["episodes"] == 2
    monkeypatch.delitem(HEADS, "squares")
    said = complaint(call("test_controller", *where, "--controller", "bc", "--episodes", 1))
    assert "it has a head that sees 'squares', of which there is none" in said
