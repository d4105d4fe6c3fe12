"""What V keeps of what moves (learning/moving.py): the measure, its picture, and what trainvae.py says of it."""

import csv
import math

import pytest
import torch

from dreamdrive.data.loaders import open_datasets
from dreamdrive.learning.moving import PAIRS, Pairs
from dreamdrive.models.world_model import Vision, load_vision
from dreamdrive.tests.tiny_run import TINY, call, copy_run, write_dataset


class Copying(torch.nn.Module):
    """A V that gives back what it sees, but for pixels where `lost` (H, W) is True, which it gives as they are in
    every frame."""

    def __init__(self, lost: torch.Tensor) -> None:
        super().__init__()
        self.lost, self.weight = lost, torch.nn.Parameter(torch.zeros(1))

    def latents(self, frames):
        return {"frame": frames}

    def z(self, latents, normal=None):
        return latents["frame"].flatten(1).float()

    def usage(self, latents):
        return {"of": len(latents["frame"])}

    def frames(self, z):
        frames = z.unflatten(1, (64, 64, 3)).to(torch.uint8)
        return torch.where(self.lost[..., None], torch.tensor(90, dtype=torch.uint8), frames)


def moving(count: int = 8) -> Pairs:
    """Grey frames with a square that moves to the right by its own width, 4 by 4 pixels, in the middle row."""
    before, after = (torch.full((count, 64, 64, 3), 100, dtype=torch.uint8) for _ in range(2))
    for i in range(count):
        before[i, 30:34, 4 * i : 4 * i + 4] = 250
        after[i, 30:34, 4 * i + 4 : 4 * i + 8] = 250
    return Pairs(before, after)


def vision(lost: torch.Tensor) -> Vision:
    return Copying(lost)  # type: ignore[return-value]  # it has what is asked of it here


def test_a_v_keeps_all_half_or_nothing_of_what_moves():
    nothing = torch.zeros(64, 64, dtype=torch.bool)
    upper, all_of_it, elsewhere = nothing.clone(), ~nothing, nothing.clone()
    upper[:32], elsewhere[40:] = True, True
    for lost, share in ((nothing, 1.0), (upper, 0.5), (all_of_it, 0.0), (elsewhere, 1.0)):
        kept = moving().kept(vision(lost))
        assert kept.share == pytest.approx(share) and kept.usage == {"of": 16}


def test_what_moves_otherwise_than_it_should_is_worth_less_than_what_stands_still():
    class Backwards(Copying):
        def frames(self, z):
            return 255 - super().frames(z)

    assert moving().kept(Backwards(torch.zeros(64, 64, dtype=torch.bool))).share == pytest.approx(-3.0)


def test_flicker_is_no_change_and_where_nothing_changes_no_share_is_said():
    still = Pairs(
        torch.full((3, 64, 64, 3), 100, dtype=torch.uint8), torch.full((3, 64, 64, 3), 110, dtype=torch.uint8)
    )
    kept = still.kept(vision(torch.ones(64, 64, dtype=torch.bool)))
    assert math.isnan(kept.share) and not kept.lost.any()


def test_pairs_are_a_step_apart_within_episodes_of_the_split(tmp_path):
    dataset = write_dataset(tmp_path / "data", [9, 300, 7, 200, 5, 6])
    pairs = Pairs.of([dataset])
    first, second = pairs.before[:, 0, 0].int(), pairs.after[:, 0, 0].int()  # episode, step // 256, step % 256
    held_out = {e for e, episode in enumerate(dataset.episodes) if episode.split == "val"}
    assert set(first[:, 0].tolist()) == held_out and torch.equal(first[:, 0], second[:, 0])
    assert torch.equal(256 * second[:, 1] + second[:, 2], 256 * first[:, 1] + first[:, 2] + 1)
    total = sum(dataset.episodes[e].steps for e in held_out)
    assert len(pairs.before) == min(total, PAIRS)


def test_the_stage_says_what_v_keeps_and_what_helps(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    flags = (*TINY["trainvae"], "--dataset", run.data, "--noreload")
    done = call("trainvae", *flags, "--logdir", tmp_path / "plain")
    assert done.returncode == 0, done.stderr
    assert "of what changes from a step to the next" in done.stdout
    advice = "try --beta 0.05, --moving-balance 0.5, --colour-balance 0.6, or more --epochs"
    assert f"that is little, and M and controllers see no more than V: {advice}" in done.stdout
    rows = list(csv.DictReader((tmp_path / "plain/vae/metrics.csv").open()))
    assert all(float(row["val_kept"]) < 1 and 0 <= int(row["val_live"]) <= 8 for row in rows)
    assert (tmp_path / "plain/vae/lost.png").stat().st_size > 5000
    helped = ("--beta", 0.05, "--moving-balance", 0.5, "--colour-balance", 0.6)
    done = call("trainvae", *flags, "--logdir", tmp_path / "told", *helped)
    assert done.returncode == 0 and "that is little" not in done.stdout


def test_a_trained_v_is_measured_as_it_is_by_hand(trained):
    model, _ = load_vision(trained.logdir, torch.device("cpu"))
    pairs = Pairs.of(open_datasets([trained.data]))
    kept = pairs.kept(model)
    x, y = (model.frames(model.z(model.latents(part))).double() / 255 for part in (pairs.before, pairs.after))
    real = pairs.after.double() / 255 - pairs.before.double() / 255
    where = (real.abs() > 0.1).any(-1)
    by_hand = 1 - ((y - x - real)[where] ** 2).sum() / (real[where] ** 2).sum()
    assert kept.share == pytest.approx(float(by_hand), abs=1e-4)
