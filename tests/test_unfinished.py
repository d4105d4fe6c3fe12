"""A signal in the middle of an epoch: what there is of it is kept, and the same command goes on to the same bytes."""

import os
import shutil
import signal

import pytest
import torch

from dreamdrive.driving.evaluation import Evaluator
from dreamdrive.learning import unfinished
from dreamdrive.tests.tiny_process import run_here
from dreamdrive.tests.tiny_run import IN_DREAMS, TINY, call, complaint
from dreamdrive.utils import checkpoint
from dreamdrive.utils.metrics import Mean
from dreamdrive.utils.workers import WorkerPool

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGUSR1: 138}
DITTO = ("--dream-epochs", 1, "--updates", 6, "--dreams", 4, "--horizon", 4)
# stage folder, script, flags; after which share of all batches the signal comes
STAGES = {
    "vae": ("vae", "trainvae", (*TINY["trainvae"], "--epoch-frames", 160, "--nosamples"), 0.3),
    "mdrnn": ("mdrnn", "trainmdrnn", (*TINY["trainmdrnn"], "--batch-size", 2), 0.4),
    "measured": ("mdrnn", "trainmdrnn", (*TINY["trainmdrnn"], "--batch-size", 2), 0.97),
    "bc": ("bc", "trainbc", (*TINY["trainbc"], "--batch-size", 16), 0.7),
    "ditto": ("bc", "trainbc", ("ditto", *TINY["trainbc"][2:], "--epochs", 1, *DITTO), 0.8),
    "actor": (
        "ctrl",
        "traincontroller",
        ("--method", "actor-critic", "--updates", 200, "--dreams", 4, "--horizon", 3, "--evaluate-every", 0)
        + ("--max-workers", 1, "--device", "cpu"),
        0.6,
    ),
}


class Batches:
    """Counts the batches of this process, and has it sent a signal when so many are done."""

    def __init__(self, patch: pytest.MonkeyPatch, last: int = 0, number: signal.Signals = signal.SIGTERM) -> None:
        self.done, add = 0, Mean.add

        def adding(mean: Mean, *values) -> None:
            add(mean, *values)
            self.done += 1
            if self.done == last:
                signal.raise_signal(number)

        patch.setattr(Mean, "add", adding)


def contents(folder) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("best.tar", "checkpoint.tar", "metrics.csv")}


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run, in which V and M may not be replaced."""
    return shutil.copytree(trained.logdir, tmp_path / "run", copy_function=os.link)


@pytest.fixture(autouse=True)
def at_home(monkeypatch) -> list[int]:
    """Workers' tasks are done in this process, which saves the start of others; how many there were in each run."""
    given = []

    def counted(self, tasks, on_result, on_progress=None) -> None:
        given.append(len(tasks))
        run_here(self, tasks, on_result)

    monkeypatch.setattr(WorkerPool, "run", counted)
    return given


@pytest.mark.parametrize("name", STAGES)
def test_the_same_command_goes_on_in_the_middle_of_an_epoch_to_the_same_bytes(name, trained, run, monkeypatch):
    stage, script, flags, share = STAGES[name]
    command = (script, *flags, "--logdir", run, "--dataset", trained.data)
    number = list(STATUS)[len(name) % 4]
    shutil.rmtree(run / stage)
    with monkeypatch.context() as patch:
        batches = Batches(patch)
        assert call(*command).returncode == 0
    wanted = contents(run / stage)
    shutil.rmtree(run / stage)
    with monkeypatch.context() as patch:
        Batches(patch, round(share * batches.done), number)
        done = call(*command)
    assert done.returncode == STATUS[number] and "Traceback" not in done.stderr, done.stderr
    assert (run / stage / unfinished.FILE).exists()
    done = call(*command)
    assert done.returncode == 0 and contents(run / stage) == wanted, done.stderr
    assert not (run / stage / unfinished.FILE).exists()


def test_episodes_that_were_driven_are_not_driven_again(trained, run, monkeypatch, at_home):
    flags = tuple(flag for flag in TINY["traincontroller"] if flag not in IN_DREAMS) + ("--world", "simulator")
    command = ("traincontroller", *flags, "--pop-size", 6, "--generations", 1, "--logdir", run, "--no-display")
    monkeypatch.setattr("dreamdrive.driving.evaluation.TOGETHER", 4)
    shutil.rmtree(run / "ctrl")
    assert call(*command).returncode == 0
    wanted = contents(run / "ctrl")
    shutil.rmtree(run / "ctrl")

    class Telling(dict):
        def __setitem__(self, name, value) -> None:
            super().__setitem__(name, value)
            if len(self) == 2:
                signal.raise_signal(signal.SIGHUP)

    begun = Evaluator.__init__

    def begin(self, *arguments) -> None:
        begun(self, *arguments)
        self.driven = Telling()

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "__init__", begin)
        assert call(*command).returncode == STATUS[signal.SIGHUP]
    assert len(checkpoint.load(run / "ctrl" / unfinished.FILE, "ctrl")["driven"]) == 2, "of three groups"
    at_home.clear()
    assert call(*command).returncode == 0 and contents(run / "ctrl") == wanted
    assert at_home[0] == 1


def test_what_is_not_of_this_epoch_is_left_alone_and_what_is_damaged_is_told(trained, tmp_path, monkeypatch):
    command = ("trainvae", *TINY["trainvae"], "--dataset", trained.data, "--logdir", tmp_path / "run")
    file = tmp_path / "run" / "vae" / unfinished.FILE
    with monkeypatch.context() as patch:
        Batches(patch, 1)
        assert call(*command).returncode == 143
    content = file.read_bytes()
    there = torch.load(file, weights_only=True)
    del there["pass"]["luck"]
    torch.save(there, file)
    done = call(*command)
    assert done.returncode == 1 and "delete it" in complaint(done)
    file.write_bytes(content[: len(content) // 2])
    done = call(*command)
    assert done.returncode == 1 and unfinished.FILE in complaint(done)
    file.write_bytes(content)
    assert call(*command, "--learning-rate", 0.01, "--nosamples", "--epochs", 1).returncode == 0 and not file.exists()
