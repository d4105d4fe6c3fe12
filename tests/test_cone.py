"""What is in a cone image, and where."""

import dataclasses

import numpy as np
import pytest
import torch

from dreamdrive.envs.nocturne.cone import render_cones
from dreamdrive.envs.nocturne.cone_legible import PALETTE
from dreamdrive.tests.tiny_cone import CYCLIST, PEDESTRIAN, VEHICLE, car, like, make_scene, picture, replay
from dreamdrive.utils.errors import UserError


@pytest.mark.parametrize("style", ["legible", "nocturne"])
def test_a_car_ahead_is_above_the_middle_and_one_to_the_left_on_the_left(style):
    colors = np.full((1, 2, 3), 255, np.uint8)
    shades = {"colors": colors * [0, 0, 1]} if style == "nocturne" else {}
    for heading in (0.0, 1.0, 3.0, -2.0):
        ahead, left = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
        for at, row, column in (
            (40 * ahead, 32, 64),
            (30 * ahead + 30 * left, 40, 40),
            (30 * ahead - 30 * left, 40, 88),
        ):
            image = picture([car(0, 0, heading), car(*at, heading)], 128, style, roads=[], **shades).astype(int)
            blue = image[..., 2] - image[..., 0] > 100
            blue[56:72, 56:72] = False  # the ego
            rows, columns = np.nonzero(blue)
            assert abs(rows.mean() - row) < 1.5 and abs(columns.mean() - column) < 1.5, (heading, at)


@pytest.mark.parametrize("style", ["legible", "nocturne"])
def test_what_is_behind_another_object_is_hidden_and_what_is_beside_it_is_not(style):
    def blue(*others, size=128, **more):
        shades = {"colors": lambda b, n: (255, 0, 0) if n < 2 else (0, 0, 255)} if style == "nocturne" else {}
        truck = car(0, 15, 0.0, CYCLIST, 8.0, 2.5)  # across the view
        image = picture([car(0, 0), truck, *others], size, style, roads=[], **shades, **more).astype(int)
        blue = (image[..., 2] - image[..., 0] > 60) & (image[..., 2] - image[..., 1] > 60) & (image[..., 0] < 100)
        blue[60:68, 60:68] = False
        return blue.sum()

    assert blue(car(0, 40)) == 0 < blue(car(0, 40), occlusion=False)
    assert blue(car(20, 40)) > 0


def test_every_visible_car_pedestrian_and_cyclist_is_seen_in_64_pixels_in_its_colour():
    rng = np.random.default_rng(1)
    for kind, name in ((VEHICLE, "vehicle"), (PEDESTRIAN, "pedestrian"), (CYCLIST, "cyclist")):
        length, width = {"vehicle": (4.6, 2.0), "pedestrian": (0.6, 0.6), "cyclist": (1.8, 0.7)}[name]
        for _ in range(40):
            r, a = rng.uniform(8, 76), rng.uniform(-0.9, 0.9)
            u, v = r * np.sin(a), r * np.cos(a)
            image = picture([car(0, 0), car(u, v, rng.uniform(-3, 3), kind, length, width)])
            x, y = 32 + 0.4 * u, 32 - 0.4 * v
            assert like(image, name)[int(y - 1.5) : int(y + 2.5), int(x - 1.5) : int(x + 2.5)].any(), (name, u, v)


def test_classes_differ_in_colour():
    shades = np.array(
        [
            PALETTE[name]
            for name in (
                "vehicle",
                "pedestrian",
                "cyclist",
                "ego",
                "goal",
                "light_stop",
                "light_caution",
                "light_go",
                "lane",
                "background",
            )
        ]
    )
    apart = np.abs(shades[:, None].astype(int) - shades[None]).max(-1) + 1000 * np.eye(len(shades), dtype=int)
    assert apart[:8].min() >= 75


def test_road_lights_signs_and_goal_are_seen_in_64_pixels():
    image = picture([car(0, 0)], signs=[(15, 40)], lights=[(-15, 40, "stop"), (-8, 40, "go")], goal=True)
    assert like(image, "lane", 25)[8:28, 31:33].mean() > 0.5
    edge = image[8:28, 29:36].astype(int).max(1)  # brighter than the lane in every row
    assert (edge.max(-1) > PALETTE["lane"][0] + 8).all()
    for name, u, v in (("stop_sign", 15, 40), ("light_stop", -15, 40), ("light_go", -8, 40)):
        assert like(image, name)[int(32 - 0.4 * v) - 1 :][:3, int(32 + 0.4 * u) - 1 :][:, :3].any(), name
    assert like(image, "goal")[17:24, 29:36].any()


def test_a_goal_beyond_the_picture_or_behind_is_shown_at_the_rim():
    far = dataclasses.replace(make_scene([car(0, 0)]), goal=np.array([[0.0, -500.0]]))
    image = render_cones(replay([far], [0]), [(0, 0)], 64, goal=True)[0].numpy()
    rows, columns = np.nonzero(like(image, "goal", 90))
    assert rows.min() > 56 and abs(columns.mean() - 31.5) < 1


def test_padding_is_in_pixels_of_the_picture_and_stays_black():
    for style in ("legible", "nocturne"):
        whole, framed = (
            picture([car(0, 0), car(0, 20)], size, style, padding=padding) for size, padding in ((64, 0), (100, 18))
        )
        assert (framed[18:-18, 18:-18].astype(int) - whole).max() <= 1
        framed[18:-18, 18:-18] = 0
        assert framed.max() == 0
        assert picture([car(0, 0)], 64, style, padding=50).max() == 0


def test_outside_the_cone_it_is_black_and_head_angle_turns_the_cone_to_the_left():
    for style in ("legible", "nocturne"):
        y, x = np.mgrid[:128, :128] + 0.5 - 64
        angle, r = np.arctan2(-x, -y), np.hypot(x, y)
        for head in (0.0, 0.5, -2.5):
            lit = picture([car(0, 0)], 128, style, roads=[], head_angle=head).max(-1) > 0
            off = np.abs(np.remainder(angle - head + np.pi, 2 * np.pi) - np.pi)
            assert lit[(off < 1.0) & (r > 6) & (r < 62)].all()
            # Nocturne leaves dots along the circle
            assert not lit[(off > 1.2) & (r > 6) & (r < 63)].any() and not lit[r > 65].any()


def test_a_picture_may_be_wider_than_high():
    for style in ("legible", "nocturne"):
        wide, square = picture([car(0, 0), car(3, 30)], (64, 100), style), picture([car(0, 0), car(3, 30)], 64, style)
        assert wide.shape == (64, 100, 3) and np.array_equal(wide[:, 18:82], square)


@pytest.mark.parametrize("size, goal", [(64, True), (128, False)])
def test_an_anchor_moves_the_car_down_and_makes_everything_larger(size, goal):
    scene = make_scene([car(0, 0), car(8, 20, 0.3), car(-3, 9, 0, PEDESTRIAN, 0.8, 0.8)])
    sim = replay([scene], [0])
    anchored = render_cones(sim, [(0, 0)], size, view_dist=40, goal=goal, anchor=0.75)[0]
    centred = render_cones(sim, [(0, 0)], size * 3 // 2, view_dist=40, goal=goal)[0]  # the same scale
    assert torch.equal(anchored, centred[:size, size // 4 : size // 4 + size]) and anchored.any()
    ego = (anchored == 255).all(-1).nonzero().float().mean(0)
    assert ego[0] == pytest.approx(0.75 * size - 0.5, abs=1.5) and ego[1] == pytest.approx(size / 2 - 0.5, abs=1)


@pytest.mark.parametrize("goal", [(0.0, -500.0), (300.0, -60.0), (-300.0, 300.0), (0.0, 500.0)])
def test_a_goal_that_is_out_of_an_anchored_picture_is_at_its_rim(goal):
    scene = dataclasses.replace(make_scene([car(0, 0)], roads=[("lane", [(0, -1), (0, 1)])]), goal=np.array([goal]))
    other = dataclasses.replace(scene, goal=np.array([[0.0, 10.0]]))
    pictures = render_cones(
        replay([other, scene, other], [0, 0, 0]), [(0, 0), (1, 0), (2, 0)], 64, view_dist=40, goal=True, anchor=0.75
    )
    pink = (pictures.float() - torch.tensor(PALETTE["goal"])).norm(dim=-1) < 60
    at = pink[1].nonzero().float()
    assert len(at) >= 6 and torch.equal(pictures[0], pictures[2])  # the whole ring is inside, and nobody else's picture
    down, right = (at.mean(0) + 0.5 - torch.tensor([48.0, 32.0])).round().tolist()
    assert (np.sign(right), np.sign(-down)) == tuple(np.sign(goal))
    assert at.min() <= 2 or at.max() >= 61


def test_an_anchor_is_for_legible_pictures_without_padding():
    sim = replay([make_scene([car(0, 0)])], [0])
    refused = [
        ({"anchor": 0.4}, "from 0.5 to 1"),
        ({"anchor": 0.7, "padding": 3}, "without padding"),
        ({"anchor": 0.7, "style": "nocturne"}, "style legible"),
    ]
    for more, complaint in refused:
        with pytest.raises(UserError, match=complaint):
            render_cones(sim, [(0, 0)], 64, **more)


def test_the_tail_is_as_long_as_the_way_of_half_a_second():
    sim = replay([make_scene([car(0, 0)])] * 4, [0] * 4)
    sim.state[:, 0, 3] = torch.tensor([0.0, 4.0, 12.0, -4.0])  # 1.2 pixels a metre
    pictures = render_cones(sim, [(b, 0) for b in range(4)], 64, view_dist=40, speed=True, anchor=0.75)
    rows = (pictures[:, 51:, :, 2] > 60).any(2).sum(1).tolist()  # the car ends at row 50.8
    assert rows[0] == 0 and abs(rows[1] - 2.4) < 1 and abs(rows[2] - 7.2) < 1 and rows[3] == rows[1]
    assert torch.equal(pictures[0, :50], pictures[2, :50])
    with pytest.raises(UserError, match="the speed is for style legible"):
        render_cones(sim, [(0, 0)], 64, style="nocturne", speed=True)


def test_the_bars_show_the_speed_at_the_goal_and_the_one_that_leads_there_in_time():
    """Lengths in pixels: half a second's way, 1.2 pixels a metre."""
    scene = make_scene([car(0, 0)])
    scene = dataclasses.replace(scene, speed=np.full_like(scene.speed, 10.0))  # the goal is 30 m ahead
    pictures = render_cones(
        replay([scene] * 3, [0, 60, 87]),
        [(b, 0) for b in range(3)],
        64,
        view_dist=40,
        goal=True,
        speed=True,
        anchor=0.75,
    )
    lit = (pictures[:, 51:, :, 0] > 60).int().sum(1)  # (3, 64): of a column
    left, right = lit[:, 27:30].amax(1).tolist(), lit[:, 34:38].amax(1).tolist()
    assert all(abs(n - 6) <= 1 for n in left)
    # 3.3 and 10 m/s, and no more than 24
    assert [abs(n - wanted) <= 1 for n, wanted in zip(right, (2.0, 6.0, 14.0), strict=True)] == [True] * 3
