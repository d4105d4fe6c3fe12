"""A command that is killed at any moment can be given again, and then has made what it makes undisturbed, and nothing
else. Later stages are in test_resume.py and test_unfinished.py; all of them together in test_state_machine.py."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamdrive.benchmarks.mutated_archives import their_controller, their_memory, their_vae
from dreamdrive.data.foreign_run import import_checkpoint
from dreamdrive.data.minari_export import export_minari
from dreamdrive.tests.tiny_process import Strike, go
from dreamdrive.tests.tiny_run import complaint, contents, write_dataset

EVERY = int(os.environ.get("STRUCK_EVERY", 5))  # of the moments
RECORD = ("--env", "gym:CartPole-v1", "--max-steps", 9, "--rollouts", 3, "--threads", 1, "--val-fraction", 0.5)
V = ("--kind", "fsq", "--batch-size", 16, "--epochs", 1, "--nosamples", "--device", "cpu")
COMMANDS = {  # what is made, and the words that make it
    "data": ("data.generation_script", *RECORD, "--rootdir", "data"),
    "there-v0": ("data.exchange", "export", "minari", "data", "--out", "there-v0"),
    "back": ("data.exchange", "import", "minari", "there-v0", "--out", "back"),
    "pairs.npz": ("data.exchange", "export", "pairs", "data", "--out", "pairs.npz"),
    "imported": ("data.exchange", "import", "npz", "rollouts", "--out", "imported"),
    "run": ("data.exchange", "import", "checkpoint", "theirs", "--logdir", "run"),
    "v": ("trainvae", *V, "--dataset", "data", "--logdir", "v"),
    "half": ("data.exchange", "export", "run", "--logdir", "run", "--out", "half"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder in which each of the commands can be given."""
    folder = tmp_path_factory.mktemp("made")
    write_dataset(folder / "data", [5, 9, 3, 7])
    export_minari(folder / "data", folder / "there-v0")
    (folder / "rollouts").mkdir()
    for k in range(3):
        frames = np.full((9, 64, 64, 3), k, np.uint8)
        numbers = {"actions": np.zeros((9, 3)), "rewards": np.ones(9), "terminals": np.arange(9) == 8}
        np.savez(folder / "rollouts" / f"{k}.npz", observations=frames, **numbers)
    for stage, state in (("vae", their_vae()), ("mdrnn", their_memory()), ("ctrl", their_controller())):
        (folder / "theirs" / stage).mkdir(parents=True)
        torch.save({"state_dict": state}, folder / "theirs" / stage / "best.tar")
    import_checkpoint(folder / "theirs", folder / "run")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_killed_anywhere_can_be_done_again(name, made, tmp_path):
    folder = Path(shutil.copytree(made, tmp_path / "here"))
    moment, wanted, struck = 0, None, True
    while struck:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        (folder / name).unlink(missing_ok=True)
        done = go(folder, *COMMANDS[name], strike=Strike(moment) if moment else None)
        struck = done.returncode == -9 or wanted is None
        if done.returncode == -9:
            done = go(folder, *COMMANDS[name])
        if done.returncode and name == "pairs.npz":  # it has its name when it is whole, and is not replaced
            assert "pairs.npz is there already" in complaint(done), moment
        else:
            assert done.returncode == 0, (moment, done)
        found = contents(folder)
        wanted = wanted or found
        assert found.keys() == wanted.keys(), moment
        assert [n for n in found if found[n] != wanted[n] and not n.endswith("args.json")] == [], moment
        moment += EVERY
    assert moment > 2 * EVERY, "it was struck at all"
