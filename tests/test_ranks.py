"""Several ranks learn what one does; they stop together, go on in another number, and end together."""

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamdrive.tests import tiny_run
from dreamdrive.tests.tiny_ranks import ranks
from dreamdrive.tests.tiny_run import ROOT, call, complaint, contents, variables, write_dataset
from dreamdrive.utils import split_batch

FP32 = ("--device", "cpu", "--precision", "fp32", "--epochs", 3)
V = ("trainvae", *FP32, "--batch-size", 24, "--nosamples", "--latent", 8)
V = (*V, "--returns", 1, "--moving-balance", 0.5, "--augment")
M = ("trainmdrnn", *FP32, "--batch-size", 5, "--seq-len", 8, "--hidden", 16)
KINDS = ("gaussian", "fsq", "vq")


def rows(folder):
    with open(folder / "metrics.csv") as file:
        return list(csv.DictReader(file))


def assert_alike(folder, other):
    """Losses agree to rounding."""
    for row, also in zip(rows(folder), rows(other), strict=True):
        for name, value in row.items():
            if name.endswith(("loss", "reconstruction", "returns", "nll", "mse", "bce", "rate")):
                assert float(also[name]) == pytest.approx(float(value), rel=1e-4), (folder, other, name)


def dataset(folder):
    """Frames of 4x4 blocks, so that places differ; the last batch has fewer than there are ranks."""

    def blocks(e, *sizes):
        episode = noise(e, *sizes)
        coarse = np.random.default_rng(e).integers(0, 256, (len(episode.obs), 4, 4, 3), np.uint8)
        return replace(episode, obs=coarse.repeat(16, 1).repeat(16, 2))

    noise = tiny_run._episode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_run, "_episode", blocks)
        data = write_dataset(folder / "data", [12, 14, 11, 13, 12, 15, 13, 12, 14])
    assert 0 < sum(e.steps + 1 for e in data.episodes if e.split == "train") % 24 < 4
    return "--dataset", data.root


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of runs "N", trained by N ranks, M on V and latents of one; and of what three make of each kind of V."""
    folder = tmp_path_factory.mktemp("ranks")
    data = dataset(folder)
    commands = [(count, *V, *data, "--logdir", folder / str(count)) for count in (1, 2, 4)]
    commands += [(count, "tests.one_step", kind, folder / f"{kind}-{count}") for kind in KINDS for count in (1, 3)]
    commands.append((1, *M, "--logdir", folder / "1"))
    done = ranks(*commands)
    assert ended(done) == [[0] * command[0] for command in commands], done.stderr
    return folder


@pytest.fixture(scope="module")
def early(runs):
    """What ends early, and M: how it ended."""
    for count in (2, 4):
        shutil.copytree(runs / "1" / "vae", runs / f"M-{count}" / "vae")
    data = ("--dataset", runs / "data")
    done = ranks(
        ("2 1:USR1@9", *V, *data, "--logdir", runs / "asked"),
        (3, *V, *data, "--logdir", runs / "asked"),
        ("3 2:KILL@2", *V, *data, "--logdir", runs / "killed"),
        *((count, *M, "--logdir", runs / f"M-{count}") for count in (2, 4)),
        (2, *V, *data, "--logdir", runs / "narrow", "--batch-size", 1),
        (2, *V, "--logdir", runs / "nothing", "--dataset", runs / "nowhere"),
    )
    expected = [[138] * 2, [0] * 3, [1, 1, -9], [0] * 2, [0] * 4, [1] * 2, [1] * 2]
    assert ended(done) == expected, done.stderr
    return done


def ended(done):
    """The statuses of each command's ranks."""
    return [json.loads(found) for found in re.findall(r"^[\w.]+ in \d+ ranks: (.*)$", done.stdout, re.M)]


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_three_ranks_are_those_of_one(kind, runs):
    """To the last digits of double precision: those of normalisations, averages and revivals over a batch, too."""
    one, three = (torch.load(runs / f"{kind}-{count}") for count in (1, 3))
    for ours, theirs in zip(one["losses"], three["losses"], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-9)
    for name, value in one["model"].items():
        torch.testing.assert_close(three["model"][name], value, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("count", [2, 4])
def test_losses_are_those_of_one_rank(count, runs, early):
    assert_alike(runs / "1" / "vae", runs / str(count) / "vae")
    assert_alike(runs / "1" / "mdrnn", runs / f"M-{count}" / "mdrnn")
    assert contents(runs / f"M-{count}" / "latents") == contents(runs / "1" / "latents"), "each made its shards"


def test_asked_by_a_signal_to_one_rank_all_stop_and_another_number_goes_on(runs, early):
    assert "stopped.tar: what there is of this epoch" in early.stdout
    assert_alike(runs / "1" / "vae", runs / "asked" / "vae")
    assert not (runs / "asked" / "vae" / "stopped.tar").exists()


def test_one_rank_says_in_one_sentence_why_all_end(runs, early):
    said = [line for line in early.stderr.splitlines() if re.search("stopped|rror|Trace", line)]
    assert len(said) == 4, early.stderr
    for line, start in zip(
        said,
        (
            "stopped by SIGUSR1; run the same command again to resume",
            "error: rank 2 of 3 was lost: ",
            "error: --batch-size 1 cannot be shared by 2 ranks: ",
            f"error: {runs / 'nowhere'}",
        ),
        strict=True,
    ):
        assert line.startswith(start)


def test_a_stage_that_is_not_made_for_ranks_refuses_them(monkeypatch, tmp_path):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    said = complaint(call("traincontroller", "--logdir", tmp_path))
    assert "traincontroller.py is not made for torchrun, trainvae.py and trainmdrnn.py are" in said


def test_alone_nothing_is_shared():
    rows = torch.randn(3, 2, requires_grad=True)
    with split_batch.split(3):
        assert split_batch.own(rows) is split_batch.whole(rows) is split_batch.total(rows) is rows
    losses = {"loss": rows.sum()}
    objective, found, weight = split_batch.shared(losses, 3)
    assert objective is losses["loss"] and float(found["loss"]) == objective.item() and weight == 3
    code = "import sys, dreamdrive.trainvae; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=variables()).returncode == 0
