"""A signal in the middle of an epoch: what there is of it is kept, and the same command goes on to the same bytes."""

import copy
import os
import shutil
import signal
import zipfile

import pytest
import torch

from dreamdrive.driving.evaluation import Evaluator
from dreamdrive.learning import unfinished
from dreamdrive.tests.tiny_process import run_here
from dreamdrive.tests.tiny_run import IN_DREAMS, TINY, call, complaint
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError
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


@pytest.fixture(scope="module")
def stopped(trained, tmp_path_factory):
    """The command of a V whose epoch was stopped, its file, and what that holds."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    command = ("trainvae", *TINY["trainvae"], "--nosamples", "--dataset", trained.data, "--logdir", folder)
    with pytest.MonkeyPatch.context() as patch:
        Batches(patch, 1)
        assert call(*command).returncode == 143
    file = folder / "vae" / unfinished.FILE
    content = torch.load(file, weights_only=True)
    del content[checkpoint.CHECKSUM]  # whoever changes a file on purpose can make one that fits
    return command, file, content, file.read_bytes()


def moment(content) -> dict:
    return content["learnt"]["optimizer"]["state"][0]


HOSTILE = {  # what is done to the content, what is said
    "small moments": (
        lambda c: moment(c).update(exp_avg=torch.zeros(3), exp_avg_sq=torch.zeros(3)),
        "moments of shape",
    ),
    "moments of nobody": (lambda c: c["learnt"]["optimizer"]["state"].update({999: moment(c)}), "of parameter 999"),
    "no moments": (lambda c: moment(c).pop("exp_avg"), "other moments"),
    "a rate": (lambda c: c["learnt"]["optimizer"]["param_groups"][0].update(lr="x"), "as optimizer.lr"),
    "betas": (lambda c: c["learnt"]["optimizer"]["param_groups"][0].update(betas=(2.0, 3.0)), "optimizer.betas"),
    "another model": (lambda c: c["learnt"]["model"].popitem(), "other weights as model"),
    "a huge model": (lambda c: c["learnt"].update(config={**c["config"], "latent": 1 << 30}), "has latent 1073741824"),
    "no numbers": (lambda c: next(iter(c["learnt"]["model"].values())).fill_(torch.nan), "NaN or infinity in"),
    "no dict": (lambda c: c.update(learnt=[1]), "as learnt, not a dict"),
    "done": (lambda c: c["pass"].update(done=-1), "has -1 as pass.done"),
    "without luck": (lambda c: c["pass"].pop("luck"), "luck more or less"),
    "carried": (lambda c: c["pass"].update(carried="x"), "no tensor as pass.carried"),
    "over": (lambda c: c["pass"].update(over=True, total={}), "no loss in pass"),
    "sums": (lambda c: c["pass"]["total"].update(loss="x"), "as pass.total.loss"),
    "episodes": (lambda c: c.update(driven={"x": [[["x", {}, ""]], 1]}), "as driven, score"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_stopped_epoch_that_was_made_up_is_refused(name, stopped):
    _, file, content, _ = stopped
    change, words = HOSTILE[name]
    made_up = copy.deepcopy(content)
    change(made_up)
    torch.save(made_up, file)
    with pytest.raises(UserError) as error:
        checkpoint.load(file, "vae")
    assert words in str(error.value) and "\n" not in str(error.value)


def luck_of(content) -> dict:
    return content["pass"]["luck"]


UNUSABLE = {
    "torch": lambda c: luck_of(c).update(torch=torch.zeros(7, dtype=torch.uint8)),
    "numpy": lambda c: luck_of(c).update(numpy=["MT19937", torch.zeros(3, dtype=torch.int64), 1, 0, 0.0]),
    "python": lambda c: luck_of(c)["python"].__setitem__(1, [1, 2]),
    "sources": lambda c: luck_of(c).update(sources=[{"bit_generator": "PCG64"}]),
    "nothing": lambda c: luck_of(c).clear(),
    "too far": lambda c: c["pass"].update(done=10**6),
    "too much": lambda c: c["learnt"].update(world=c["world"]),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_stopped_epoch_that_cannot_be_gone_on_with_is_told_and_stays(name, stopped):
    command, file, content, _ = stopped
    made_up = copy.deepcopy(content)
    UNUSABLE[name](made_up)
    torch.save(made_up, file)
    before = file.read_bytes()
    said = complaint(call(*command))
    assert f"{file} cannot be gone on from (" in said and "delete it" in said and file.read_bytes() == before


class Commands:
    """A pickle of it runs a command."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_stopped_epoch_runs_nothing_and_unpacks_nothing(stopped, tmp_path):
    command, file, content, sound = stopped
    torch.save({**content, "driven": Commands(tmp_path / "ran")}, file)
    assert "holds objects other than" in complaint(call(*command)) and not (tmp_path / "ran").exists()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("stopped/data.pkl", bytes(1 << 26))
    assert "is compressed" in complaint(call(*command))
    file.write_bytes(sound)
    assert call(*command, "--epochs", 1).returncode == 0 and not file.exists()


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
