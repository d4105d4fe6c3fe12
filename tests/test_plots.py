"""Figures: whole numbers on axes that count, units, legends off the data, one size on an axis, narrow axes said."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from dreamdrive.envs import named_actions
from dreamdrive.learning.dream_report import with_actions
from dreamdrive.utils.metrics import unit
from dreamdrive.utils.plots import curve_panel, curves, empty_figure, of_one_size, page_svg
from dreamdrive.utils.spaces import ActionSpace
from dreamdrive.utils.video import representatives


def panel(lines, x="epoch"):
    drawn = empty_figure(4, 3)
    axes = drawn.add_subplot()
    curve_panel(axes, lines, x)
    drawn.canvas.draw()
    return axes


def test_an_axis_that_counts_has_whole_numbers():
    for last in (1, 2, 3, 7, 40):
        axes = panel({"loss": (range(1, last + 1), np.arange(last))})
        assert all(float(tick).is_integer() for tick in axes.get_xticks()), last
    assert {text.get_text() for text in panel({"clean": ([0, 150_000], [1, 2])}, "frames").get_xticklabels()} >= {
        "150,000"
    }


def test_curves_have_units_and_a_legend_that_covers_none_of_them():
    axes = panel({"kl": ([1, 2], [9.0, 10.0]), "val_kl": ([1, 2], [9.5, 10.0])})
    assert axes.get_ylabel() == "nats per frame" == unit("kl")
    box, data = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert box.y0 >= data.y1 - 1
    assert panel({"kl": ([1], [9.0])}).get_legend() is None


def test_an_axis_that_is_narrow_says_so_and_hides_nothing_in_an_offset():
    axes = panel({"likeness": ([1, 2], [0.7101, 0.7102])})
    assert "all within 0.00" in axes.get_ylabel() and not axes.yaxis.get_offset_text().get_text()
    assert "all within" not in panel({"loss": ([1, 2], [0.5, 0.7])}).get_ylabel()


def test_no_two_quantities_of_different_size_share_an_axis():
    lines = {"a": ([1, 2], [900.0, 800.0]), "b": ([1, 2], [0.1, 0.2]), "c": ([1, 2], [-500.0, 700.0])}
    assert [list(group) for group in of_one_size(lines)] == [["a", "c"], ["b"]]


@pytest.mark.parametrize(("count", "shape"), [(0, (1, 1)), (1, (1, 1)), (3, (3, 1)), (4, (2, 2)), (5, (3, 2))])
def test_panels_stand_in_rows_and_empty_ones_are_left_out(tmp_path, count, shape):
    rows = [
        {"epoch": e, "gone": None, "nan": float("nan"), **{f"c{k}": float(k) for k in range(count)}} for e in (1, 2)
    ]
    panels = [("gone", "nan"), *([f"c{k}"] for k in range(count))]
    curves(tmp_path / "loss.png", rows, "epoch", panels, "V")
    assert Image.open(tmp_path / "loss.png").size == (550 * shape[0], round((3.4 * shape[1] + 0.2) * 110))


def test_a_figure_in_a_page_has_the_pages_colours_and_escaped_text():
    drawn = empty_figure(3, 2)
    curve_panel(drawn.add_subplot(), {"<b>$x$": ([1, 2], [0.5, 0.5001]), "val_loss": ([1, 2], [0.5, 0.5])}, "epoch")
    text = page_svg(drawn)
    assert "var(--blue)" in text and "#ffffff" not in text and "&lt;b&gt;$x$" in text and "<b>" not in text
    assert io.StringIO(text).readline().startswith("<svg viewBox")


def test_samples_differ_and_stand_for_all_frames():
    frames = np.array([[0], [1], [2]] * 20 + [[100], [101], [102]] * 20 + [[255]], np.uint8)
    assert {frames[k, 0] // 50 for k in representatives(frames, 2)} == {0, 2}, "both crowds, and not what is rare"
    assert sorted(representatives(frames[58:], 99)) == list(range(63)) and representatives(frames, 0) == []


def test_actions_of_a_dream_have_their_names():
    space = named_actions("carracing", ActionSpace(0, (-1.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    assert space.names == ("steer", "gas", "brake")
    frames, actions, known = [np.zeros((8, 8, 3), np.uint8)] * 30, torch.zeros(29, 3), torch.arange(29) < 20
    heights = {len(picture) for picture in with_actions(frames, actions, known, space)}
    assert len(heights) == 1, "also where nobody knows the action"
    choices = named_actions("cartpole", ActionSpace(2))
    assert choices.names == ("push left", "push right")
    assert len(with_actions(frames, torch.eye(2)[[0] * 29], known, choices)[0]) < heights.pop(), (
        "a choice takes one line"
    )


def test_nothing_is_imported_for_the_names_of_actions():
    assert named_actions("gym:nobody.knows:this-v0", ActionSpace(3)).names == ()
    assert named_actions("atari:NoSuchGame", ActionSpace(3)).names == ()
    assert named_actions("cartpole", ActionSpace(3)).names == (), "a world with other choices"
