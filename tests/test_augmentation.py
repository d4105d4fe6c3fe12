"""Frames that are changed at random while V is trained (learning/augmentation.py, trainvae.py --augment)."""

import pytest
import torch

from dreamdrive.benchmarks.distilled import divergence
from dreamdrive.benchmarks.perturbed import moved
from dreamdrive.learning import augmentation, vision
from dreamdrive.learning.augmentation import changed
from dreamdrive.models.vae import VAE, Posterior, VAEConfig
from dreamdrive.tests.test_resume import of_stage
from dreamdrive.tests.tiny_run import call, complaint, copy_run, tiny
from dreamdrive.utils import checkpoint
from dreamdrive.utils.progress import Bar

SIZE = 64


@pytest.fixture
def pixels():
    """400 frames in [0, 1], the left half grey, the right half green."""
    frames = torch.full((400, SIZE, SIZE, 3), 0.4)
    frames[:, :, SIZE // 2 :, 1] = 0.8
    return frames


def test_changes_follow_from_the_seed_and_leave_some_frames_as_they_were(pixels):
    frames = (pixels * 255).round().to(torch.uint8)
    before = frames.clone()
    torch.manual_seed(1)
    first, second = changed(frames), changed(frames)
    torch.manual_seed(1)
    assert torch.equal(changed(frames), first) and not torch.equal(first, second) and torch.equal(frames, before)
    assert first.dtype == torch.uint8 and first.shape == frames.shape
    same = (first == frames).flatten(1).all(1).float().mean()
    assert 0.1 < same < 0.27  # (1 - SHARE) ** 4


def test_things_of_two_colours_are_given_two_others(pixels):
    moved = augmentation.colour(pixels) - pixels
    grey, green = moved[:, 0, 0], moved[:, 0, -1]
    assert torch.allclose(moved[:, :, : SIZE // 2], grey[:, None, None]) and grey.std() > 0.05
    assert (grey - green).abs().amax(1).min() > 0 and (grey[:1] != grey[1:]).all()


def test_bars_are_at_two_opposite_sides_and_a_blob_is_a_rectangle_of_one_colour(pixels):
    blank = torch.full_like(pixels, 0.5)
    for change, most in ((augmentation.bars, 0.3), (augmentation.blob, 0.1)):
        seen = change(blank)
        hidden = (seen != blank).any(-1)
        rows, columns = hidden.any(2), hidden.any(1)
        assert torch.equal(hidden, rows[:, :, None] & columns[:, None, :])
        assert hidden.float().mean((1, 2)).max() < most and hidden.any()
        shade = seen.flatten(1, 2).gather(1, hidden.flatten(1).int().argmax(1)[:, None, None].expand(-1, 1, 3))
        assert torch.equal(torch.where(hidden[..., None], shade[:, None], blank), seen)
        if change is augmentation.bars:
            assert not hidden[:, SIZE // 8 : -SIZE // 8, SIZE // 8 : -SIZE // 8].any()


def test_noise_has_a_spread_of_its_own_in_every_frame(pixels):
    spread = (augmentation.noise(pixels) - pixels).flatten(1).std(1)
    assert spread.min() < 0.02 and 0.1 < spread.max() <= 0.13


def test_frames_of_one_and_of_four_channels_and_batches_of_one_are_changed_too():
    for shape in ((1, 64, 64, 1), (3, 128, 128, 4)):
        for seed in range(8):
            torch.manual_seed(seed)
            assert changed(torch.full(shape, 128, dtype=torch.uint8)).shape == shape


def test_v_sees_the_changed_frame_and_is_to_make_the_one_that_it_was(monkeypatch):
    frames = torch.full((4, 64, 64, 3), 100, dtype=torch.uint8)
    monkeypatch.setattr(vision, "changed", lambda batch: batch + 50)
    model, bar = VAE(VAEConfig(latent=4)), Bar(disable=True)
    seen, compared = [], []
    forward, loss = model.forward, model.loss
    monkeypatch.setattr(model, "forward", lambda batch: seen.append(batch) or forward(batch))
    monkeypatch.setattr(model, "loss", lambda batch, output, _: compared.append(batch) or loss(batch, output))
    for augment in (True, False):
        vision.run_epoch(model, [frames], None, "fp32", bar, augment)
    assert [int(batch[0, 0, 0, 0]) for batch in seen] == [150, 100]
    assert all(torch.equal(batch, frames) for batch in compared)


def test_how_far_latents_move_and_what_pulls_them_back():
    found, wanted = (Posterior(torch.randn(5, 4), torch.randn(5, 4) / 2) for _ in range(2))
    normal = [torch.distributions.Normal(p.mu, p.logsigma.exp()) for p in (found, wanted)]
    expected = torch.distributions.kl_divergence(*normal).sum(1).mean()
    assert torch.allclose(divergence(found, wanted), expected) and divergence(found, found).abs() < 1e-6
    frames = torch.randint(0, 256, (300, 64, 64, 3), dtype=torch.uint8)
    model = VAE(VAEConfig(latent=4))
    assert moved(model, frames, frames) == 0 and 1.3 < moved(model, frames, frames.roll(1, 0)) < 1.5


def test_an_augmented_v_is_resumed_as_it_began(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    options = ("--logdir", run.logdir, "--dataset", trained.data)
    tiny("trainvae", *options, "--noreload", "--augment")
    straight = of_stage(run, "trainvae")
    assert straight["best.tar"] != of_stage(trained, "trainvae")["best.tar"]
    tiny("trainvae", *options, "--noreload", "--augment", "--epochs", 1)
    tiny("trainvae", *options)
    assert of_stage(run, "trainvae") == straight
    assert checkpoint.load(checkpoint.path(run.logdir, "vae", "checkpoint.tar"), "vae")["settings"]["augment"] is True


def test_a_v_that_guesses_returns_and_sees_fine_shades_is_resumed_as_it_began(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    options = ("--logdir", run.logdir, "--dataset", trained.data)
    told = ("--returns", 4, "--fine-shades", "--anneal", "--keep", "last")
    tiny("trainvae", *options, "--noreload", *told)
    straight = of_stage(run, "trainvae")
    saved = checkpoint.load(checkpoint.path(run.logdir, "vae", "checkpoint.tar"), "vae")
    assert saved["settings"]["returns"] == 4 and saved["config"]["guesses"] and saved["config"]["fine_shades"]
    assert all(row["returns"] >= 0 and row["val_returns"] >= 0 for row in saved["history"])
    said = complaint(call("trainvae", *options, "--returns", 2))
    assert said == (
        "error: the run to resume has returns 4.0, not 2.0: leave --returns away, or start afresh with --noreload"
    )
    tiny("trainvae", *options)
    assert of_stage(run, "trainvae") == straight
    tiny("trainmdrnn", "--logdir", run.logdir, "--noreload")


def test_a_v_that_began_without_is_not_augmented_later(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    said = complaint(call("trainvae", "--logdir", run.logdir, "--dataset", trained.data, "--augment"))
    assert said == (
        "error: the run to resume has augment False, not True: leave --augment away, or start afresh with --noreload"
    )
