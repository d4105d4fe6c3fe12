"""The slider of a window (utils/slider.py), without a window."""

import numpy as np
import pytest

from dreamdrive.utils.slider import HEIGHT, Slider, ends
from dreamdrive.utils.video import FOREGROUND


def placed(width: int = 500, left: int = 40, bottom: int = 90) -> Slider:
    slider = Slider()
    slider.place(left, bottom, width)
    return slider


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_who_presses_the_knob_says_what_is_shown(share):
    slider = placed()
    picture = slider.picture(500, share)
    assert picture.shape == (HEIGHT, 500, 3) and picture.dtype == np.uint8
    knob = round(np.argwhere((picture == FOREGROUND).all(2))[:, 1].mean())
    slider.on_mouse_press(40 + knob, 90 + HEIGHT // 2, 1, 0)
    assert slider.take() == pytest.approx(share, abs=0.003)
    assert slider.take() is None, "it is taken once"


def test_a_drag_goes_on_beyond_the_slider_until_the_button_is_let_go():
    slider = placed()
    first, last = ends(500)
    slider.on_mouse_press(40 + first, 95, 1, 0)
    slider.on_mouse_drag(40 + (first + last) // 2, 300, 0, 0, 1, 0)
    assert slider.take() == pytest.approx(0.5, abs=0.01), "of several places the last counts"
    slider.on_mouse_drag(5000, 95, 0, 0, 1, 0)
    assert slider.take() == 1.0
    slider.on_mouse_drag(-5000, 95, 0, 0, 1, 0)
    assert slider.take() == 0.0
    slider.on_mouse_release(0, 95, 1, 0)
    slider.on_mouse_drag(200, 95, 0, 0, 1, 0)
    assert slider.take() is None


@pytest.mark.parametrize(("x", "y"), [(39, 95), (540, 95), (100, 89), (100, 90 + HEIGHT)])
def test_a_press_beside_it_is_none(x, y):
    slider = placed()
    slider.on_mouse_press(x, y, 1, 0)
    slider.on_mouse_drag(100, 95, 0, 0, 1, 0)
    assert slider.take() is None


def test_where_there_is_none_nothing_is_pressed():
    slider = placed(width=0)
    slider.on_mouse_press(40, 90, 1, 0)
    assert slider.take() is None


def test_a_narrow_one_is_drawn_and_pressed():
    slider = placed(width=10)
    assert slider.picture(10, 0.5).shape == (HEIGHT, 10, 3)
    slider.on_mouse_press(45, 95, 1, 0)
    assert slider.take() in (0.0, 1.0)
