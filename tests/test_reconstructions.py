"""The film of a held-out episode beside what V makes of it, which stage 2 leaves in media/reconstructions."""

import numpy as np
import pytest
import torch

from dreamdrive.learning.vision import FILMED, RECONSTRUCTION, film
from dreamdrive.tests.test_video import decode
from dreamdrive.tests.tiny_run import write_dataset


class Flat:
    """A V that sees the first value of a frame, and makes grey frames of it."""

    def parameters(self):
        return iter([torch.zeros(1)])

    def latents(self, frames):
        assert frames.dtype == torch.uint8
        return {"mu": frames[:, :1, 0, 0]}

    def z(self, latents):
        return latents["mu"]

    def frames(self, z):
        return z[:, :, None, None].expand(-1, 64, 64, 3)


@pytest.mark.parametrize("steps", [7, FILMED + 9])
def test_it_shows_an_episode_that_is_held_out_and_what_v_makes_of_it(steps, tmp_path):
    lengths = [5, 5, 5, 5]
    held_out = next(e.index for e in write_dataset(tmp_path / "a", lengths).episodes if e.split == "val")
    lengths[held_out] = steps
    dataset = write_dataset(tmp_path / "b", lengths)
    film(Flat(), [dataset], tmp_path / RECONSTRUCTION)
    said, frames = decode(tmp_path / RECONSTRUCTION)
    assert "h264" in said and len(frames) == min(steps, FILMED) + 1
    width = frames.shape[2]
    recorded, made = frames[:, 100:200, 20 : width // 2 - 20], frames[:, 100:200, width // 2 + 20 : width - 20]
    assert recorded.std() > 20, "noise, as was recorded"
    assert np.abs(made.astype(int) - dataset.frames(held_out)[0, 0, 0, 0]).max() < 12


def test_of_several_datasets_the_first_that_has_such_an_episode_is_taken(tmp_path):
    none = write_dataset(tmp_path / "none", [5, 5], val_fraction=0.0)
    some = write_dataset(tmp_path / "some", [6] * 4)
    film(Flat(), [none, some], tmp_path / "film.mp4")
    assert len(decode(tmp_path / "film.mp4")[1]) == 7


@pytest.mark.slow
def test_a_run_has_it(trained):
    assert len(decode(trained.logdir / RECONSTRUCTION)[1]) > 5
