"""trainvae.py begun with the V of another run, and what of it is frozen; what its loss is told."""

import pytest
import torch

from dreamdrive.models.world_model import build, load_vision
from dreamdrive.tests.test_kinds import SMALL
from dreamdrive.tests.tiny_run import TINY, TINY_TOKENS, call, complaint
from dreamdrive.utils import checkpoint

CPU = torch.device("cpu")


def learn(folder, data, *flags):
    done = call("trainvae", "--dataset", data, *TINY["trainvae"], "--logdir", folder, *flags)
    assert done.returncode == 0, done.stderr
    return load_vision(folder, CPU)[0].state_dict()


def test_a_v_begins_as_another_and_all_of_it_or_its_encoder_stays(trained, tmp_path):
    before = load_vision(trained.logdir, CPU)[0].state_dict()
    init = ("--init", trained.logdir)
    copied = learn(tmp_path / "copied", trained.data, *init, "--freeze", "all")
    assert all(torch.equal(value, before[name]) for name, value in copied.items())
    half = learn(tmp_path / "half", trained.data, *init, "--freeze", "encoder")
    moved = {name.split(".")[0] for name, value in half.items() if not torch.equal(value, before[name])}
    assert moved == {"expand", "first", "decoder"}
    whole = learn(tmp_path / "whole", trained.data, *init, "--epochs", 1)
    assert not any(torch.equal(value, before[name]) for name, value in whole.items() if name.endswith("weight"))
    checkpoints = [checkpoint.load_parent(tmp_path / name, "vae") for name in ("copied", "half")]
    assert [c["epoch"] for c in checkpoints] == [0, 2], "nothing is trained where all is frozen"
    again = call("trainvae", "--dataset", trained.data, "--logdir", tmp_path / "half", "--device", "cpu", "--epochs", 3)
    assert again.returncode == 0 and "freeze encoder" in again.stdout
    resumed = load_vision(tmp_path / "half", CPU)[0].state_dict()
    assert torch.equal(resumed["encoder.0.weight"], before["encoder.0.weight"])
    assert call("trainmdrnn", *TINY["trainmdrnn"], "--logdir", tmp_path / "copied").returncode == 0


@pytest.mark.parametrize("kind", ["gaussian", "fsq", "vq"])
def test_what_is_frozen_makes_the_same_latents_after_learning(kind):
    torch.manual_seed(0)
    vision = build("vae", SMALL["vae", kind], kind)
    frames = torch.randint(256, (8, 64, 64, 3), dtype=torch.uint8)
    vision.train()
    for _ in range(3):  # running means of batches, and a book that follows, are not as they were made
        vision(frames)
    vision.freeze()
    before = vision.eval().latents(frames)
    vision.train()
    optimizer = torch.optim.Adam(vision.parameters(), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        vision.loss(frames, vision(frames))["loss"].backward()
        optimizer.step()
    after = vision.eval().latents(frames)
    assert all(torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--freeze", "all"), "--freeze is for a V that begins as another, with --init: leave it away"),
        (("--loss", "perceptual"), "give the file of torchvision's weights to --vgg (nothing is downloaded)"),
        (("--vgg", "x.pth"), "--vgg is for --loss perceptual: leave it away"),
        (("--loss", "l3"), "invalid choice: 'l3'"),
        (("--kind", "fsq", "--free-bits", 1), "--free-bits is for --kind vae: leave it away"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, flags, said):
    assert said in complaint(call("trainvae", *flags, "--logdir", tmp_path))


def test_another_v_to_begin_with_is_refused(trained, tmp_path):
    flags = ("--dataset", trained.data, *TINY["trainvae"], "--init", trained.logdir, "--noreload")
    other = complaint(call("trainvae", *flags, "--logdir", tmp_path / "a", "--fine-shades"))
    assert "vae/best.tar has fine_shades False, not True: give the same to begin with it" in other
    told = ("--dataset", trained.data, *TINY_TOKENS, "--init", trained.logdir, "--noreload")
    other = complaint(call("trainvae", *told, "--logdir", tmp_path / "b", "--kind", "vq"))
    assert "vae/best.tar is of --kind vae, not vq: give the same" in other
    missing = complaint(call("trainvae", *flags, "--logdir", tmp_path / "c", "--init", tmp_path / "nowhere"))
    assert "nowhere" in missing and "\n" not in missing.strip()


def test_the_loss_is_what_it_was_told_and_stays_so(trained, tmp_path):
    learn(tmp_path / "run", trained.data, "--loss", "l1", "l2", "--free-bits", 0.1, "--epochs", 1)
    settings = checkpoint.load(tmp_path / "run/vae/checkpoint.tar", "vae")["settings"]
    assert settings["loss"] == ("l1", "l2") and settings["free_bits"] == 0.1
    flags = ("--dataset", trained.data, "--logdir", tmp_path / "run", "--device", "cpu", "--epochs", 2)
    refused = complaint(call("trainvae", *flags, "--loss", "l2"))
    assert "the run to resume has loss l1 l2, not l2: leave --loss away" in refused
    done = call("trainvae", *flags)
    assert done.returncode == 0 and "loss l1 l2" in done.stdout
