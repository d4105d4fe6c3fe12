"""Files of other projects and of strangers: what is in them is imported as it is, or refused in a sentence, before it
takes memory."""

import json
import os
import subprocess

import numpy as np
import pytest
import torch

from dreamdrive.benchmarks.mutated_archives import their_controller, their_memory, their_vae, traffic
from dreamdrive.data.foreign_run import import_checkpoint
from dreamdrive.data.npz import import_npz, read_rollout
from dreamdrive.data.shards import verify
from dreamdrive.envs.nocturne.scene import load_scene
from dreamdrive.tests.tiny_run import ROOT, command, variables
from dreamdrive.utils.errors import UserError

N = 5


def rollout(**changes):
    members = {
        "observations": np.zeros((N, 64, 64, 3), np.uint8),
        "rewards": np.ones(N),
        "actions": np.zeros((N, 3)),
        "terminals": np.zeros(N, bool),
    }
    return {name: value for name, value in {**members, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    "changes",
    [
        {"rewards": np.array(["a"] * N)},
        {"rewards": np.ones(N, complex)},
        {"rewards": np.full(N, 1e300)},
        {"rewards": np.zeros(N, "M8[s]")},
        {"rewards": np.float64(1)},
        {"actions": np.full((N, 3), -1e39)},
        {"actions": np.zeros((N, 3), [("x", "f4")])},
        {"terminals": np.array(["no"] * N)},
        {"terminals": np.full(N, np.nan)},
        {"observations": np.uint8(3)},
        {"observations": np.zeros((0, 64, 64, 3), np.uint8)},
        {"actions": None},
    ],
)
def test_a_rollout_of_other_values_is_named(changes, tmp_path):
    np.savez(tmp_path / "bad.npz", **rollout(**changes))
    with pytest.raises(UserError, match="bad.npz"):
        read_rollout(tmp_path / "bad.npz", 0)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda at: at.symlink_to("nowhere")])
def test_what_is_called_as_a_rollout_and_is_no_file_is_named(make, tmp_path):
    make(tmp_path / "bad.npz")
    with pytest.raises(UserError, match="bad.npz"):
        read_rollout(tmp_path / "bad.npz", 0)


def test_of_two_imports_into_one_folder_one_is_told_and_the_other_whole(tmp_path):
    for k in (1, 2):
        (tmp_path / f"in{k}").mkdir()
        for i in range(3):
            np.savez_compressed(tmp_path / f"in{k}" / f"{i}.npz", **rollout(rewards=np.full(N, float(k))))
    words = [("import-npz", tmp_path / f"in{k}", "--out", tmp_path / "out") for k in (1, 2)]
    both = [
        subprocess.Popen(command("data/exchange.py", *w), cwd=ROOT, env=variables(), stderr=subprocess.PIPE, text=True)
        for w in words
    ]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], said
    refused = said[0] if both[0].returncode else said[1]
    assert "is being written by another process (process " in refused or "holds a dataset already" in refused
    assert verify(tmp_path / "out") == []


def test_an_import_that_fails_leaves_nothing(tmp_path):
    np.savez(tmp_path / "a.npz", **rollout())
    np.savez(tmp_path / "b.npz", **rollout(rewards=np.full(N, 1e300)))
    with pytest.raises(UserError, match="b.npz"):
        import_npz(tmp_path, tmp_path / "out", 0.0)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def theirs(tmp_path):
    """A run of ctallec/world-models."""
    for stage, state in (("vae", their_vae()), ("mdrnn", their_memory()), ("ctrl", their_controller())):
        (tmp_path / "theirs" / stage).mkdir(parents=True)
        torch.save({"state_dict": state}, tmp_path / "theirs" / stage / "best.tar")
    return tmp_path / "theirs"


@pytest.mark.parametrize(
    "value",
    [
        torch.full((3, 288), torch.nan),
        torch.zeros(1).expand(3, 1 << 34),
        torch.zeros(3, 288, dtype=torch.complex64),
        torch.zeros(3, 288).to_sparse(),
        torch.zeros(3, 288, dtype=torch.int64),
        torch.tensor(1.0),
        3,
    ],
    ids=["not finite", "larger than the file", "complex", "sparse", "whole", "one number", "no tensor"],
)
def test_weights_that_are_none_are_named(value, theirs, tmp_path):
    torch.save({"state_dict": {**their_controller(), "fc.weight": value}}, theirs / "ctrl" / "best.tar")
    with pytest.raises(UserError, match="ctrl/best.tar"):
        import_checkpoint(theirs, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_bit_of_a_foreign_checkpoint_is_not_another_weight(theirs, tmp_path):
    path = theirs / "ctrl" / "best.tar"
    content = bytearray(path.read_bytes())
    at = content.index(their_controller()["fc.weight"].numpy().tobytes()[:64])
    content[at + 30] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="ctrl/best.tar .*does not match its checksum"):
        import_checkpoint(theirs, tmp_path / "ours")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s["objects"][0]["position"][3].update(x=1e300), "position holds a number"),
        (lambda s: s["objects"][0]["velocity"].__setitem__(4, {"x": 1e38, "y": 0}), "velocity holds a number"),
        (lambda s: s["objects"][0]["heading"].__setitem__(5, 1e30), "heading holds a number"),
        (lambda s: s["objects"][0].update(length=1e9), r"length is 1e\+09 where at most"),
        (lambda s: s["objects"][0]["goalPosition"].update(y=-1e20), "goalPosition holds a number"),
        (lambda s: s["roads"][0]["geometry"][0].update(x=1e6), "km from the traffic"),
        (
            lambda s: s["roads"][0]["geometry"].extend([{"x": 19_000, "y": 19_000}, {"x": 0, "y": 0}] * 9),
            "km from the traffic",
        ),
        (lambda s: s["tl_states"]["1"]["x"].__setitem__(0, 1e200), "holds a number"),
    ],
)
def test_scenes_that_would_drive_to_no_numbers_or_need_no_memory_has_are_refused(change, said, tmp_path):
    scene = traffic()
    (tmp_path / "scene.json").write_text(json.dumps(scene))
    assert len(load_scene(tmp_path / "scene.json").ids) == 2
    scene = json.loads(json.dumps(scene))  # nothing is in two places
    change(scene)
    (tmp_path / "scene.json").write_text(json.dumps(scene))
    with pytest.raises(UserError, match=said):
        load_scene(tmp_path / "scene.json")
