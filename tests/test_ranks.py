"""Several ranks learn what one does; they stop together, go on in another number, and end together."""

import csv
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch

from dreamdrive.tests.tiny_ranks import ranks
from dreamdrive.tests.tiny_run import ROOT, call, complaint, contents, variables, write_dataset
from dreamdrive.utils import split_batch

FP32 = ("--device", "cpu", "--precision", "fp32", "--epochs", 3)
V = ("trainvae", *FP32, "--batch-size", 24, "--nosamples")
M = ("trainmdrnn", *FP32, "--batch-size", 5, "--seq-len", 8, "--hidden", 16)
GAUSSIAN = ("--latent", 8, "--returns", 1, "--moving-balance", 0.5, "--augment")
KINDS = {"gaussian": GAUSSIAN, "fsq": ("--kind", "fsq"), "vq": ("--kind", "vq")}


def rows(folder):
    with open(folder / "metrics.csv") as file:
        return list(csv.DictReader(file))


def assert_alike(folder, other):
    """Losses agree to rounding."""
    for row, also in zip(rows(folder), rows(other), strict=True):
        for name, value in row.items():
            assert float(also[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-5), (folder, other, name)


def dataset(folder):
    """Its last batch has fewer frames than there are ranks."""
    data = write_dataset(folder / "data", [12, 14, 11, 13, 12, 15, 13, 12, 14])
    assert 0 < sum(e.steps + 1 for e in data.episodes if e.split == "train") % 24 < 4
    return "--dataset", data.root


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of runs KIND-N, trained by N ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    data = dataset(folder)
    counts = {kind: (1, 2, 4) if kind == "gaussian" else (1, 4) for kind in KINDS}
    commands = [
        (count, *V, *options, *data, "--logdir", folder / f"{kind}-{count}")
        for kind, options in KINDS.items()
        for count in counts[kind]
    ]
    commands += [(count, *M, "--logdir", folder / f"gaussian-{count}") for count in (1, 2, 4)]
    done = ranks(*commands)
    assert ended(done) == [[0] * command[0] for command in commands], done.stderr
    assert not done.stderr.replace("\r", "").strip() or "Error" not in done.stderr
    return folder


def ended(done):
    """The statuses of each command's ranks."""
    return [json.loads(found) for found in re.findall(r"^train\w+ in \d+ ranks: (.*)$", done.stdout, re.M)]


@pytest.mark.parametrize("kind, counts", [("gaussian", (2, 4)), ("fsq", (4,)), ("vq", (4,))])
def test_losses_of_v_are_those_of_one_rank(kind, counts, runs):
    for count in counts:
        assert_alike(runs / f"{kind}-1" / "vae", runs / f"{kind}-{count}" / "vae")


@pytest.mark.parametrize("count", [2, 4])
def test_losses_of_m_are_those_of_one_rank(count, runs):
    assert_alike(runs / "gaussian-1" / "mdrnn", runs / f"gaussian-{count}" / "mdrnn")


def test_what_ends_early_is_gone_on_from_and_said_once(runs, tmp_path):
    """Asked by a signal that comes to one rank, and gone on with in another number of ranks; ranks that are lost; what
    none of them can do."""
    data = ("--dataset", runs / "data")
    asked, lost = tmp_path / "asked", tmp_path / "lost"
    shutil.copytree(runs / "gaussian-1", asked, ignore=shutil.ignore_patterns("vae", "mdrnn", "latents"))
    shutil.copytree(runs / "gaussian-1" / "vae", asked / "vae")
    done = ranks(
        ("2 1:USR1@9", *V, *GAUSSIAN, *data, "--logdir", lost),
        (3, *V, "--logdir", lost, *data),
        ("3 2:KILL@2", *V, *GAUSSIAN, *data, "--logdir", tmp_path / "killed"),
        (2, *M, "--logdir", asked),
        (2, *V, *data, "--logdir", tmp_path / "narrow", "--batch-size", 1),
        (2, *V, "--logdir", tmp_path / "nothing", "--dataset", tmp_path / "nowhere"),
    )
    assert ended(done) == [[138, 138], [0, 0, 0], [1, 1, -9], [0, 0], [1, 1], [1, 1]], done.stderr
    assert_alike(runs / "gaussian-1" / "vae", lost / "vae")
    assert "stopped.tar: what there is of this epoch" in done.stdout and not (lost / "vae" / "stopped.tar").exists()
    assert contents(asked / "latents") == contents(runs / "gaussian-1" / "latents"), "each rank has made its shards"
    said = [line for line in done.stderr.splitlines() if re.search("stopped|error", line)]
    assert re.fullmatch(
        "stopped by SIGUSR1; run the same command again to resume\n"
        "error: rank 2 of 3 was lost: .* with as many ranks as there are\n"
        "error: --batch-size 1 cannot be shared by 2 ranks: .*\n"
        f"error: {tmp_path / 'nowhere'} .*",
        "\n".join(said),
    ), done.stderr


def test_a_stage_that_is_not_made_for_ranks_refuses_them(monkeypatch, tmp_path):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    said = complaint(call("traincontroller", "--logdir", tmp_path))
    assert said.startswith("traincontroller.py is not made for torchrun, trainvae.py and trainmdrnn.py are")


def test_alone_nothing_is_shared():
    rows = torch.randn(3, 2, requires_grad=True)
    with split_batch.split(3):
        assert split_batch.own(rows) is split_batch.whole(rows) is split_batch.total(rows) is rows
    losses = {"loss": rows.sum()}
    objective, found, weight = split_batch.shared(losses, 3)
    assert objective is losses["loss"] and float(found["loss"]) == float(objective) and weight == 3
    code = "import sys, dreamdrive.trainvae; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=variables()).returncode == 0
