"""Waymo's Sim Agents measures (envs/nocturne/realism.py): how like its log a drive is."""

import math

import numpy as np
import pytest
import torch

from dreamdrive import envs
from dreamdrive.envs.nocturne.realism import LONGEST, MEASURES, NAMES, Measure, central, distance, likelihood
from dreamdrive.envs.nocturne.simulator import Boxes, overlap
from dreamdrive.tests.tiny_scene import car, road, scene_of, write


def boxes(rows) -> Boxes:
    """Of rows (x, y, heading, length, width)."""
    x, y, heading, length, width = torch.tensor(np.array(rows), dtype=torch.float64).unbind(-1)
    return Boxes.of(torch.stack([x, y, heading], -1), length, width)


def corners(row) -> np.ndarray:
    x, y, heading, length, width = row
    ahead, left = np.array([math.cos(heading), math.sin(heading)]), np.array([-math.sin(heading), math.cos(heading)])
    ends = ((1, 1), (-1, 1), (-1, -1), (1, -1))
    return np.array([(x, y) + a * ahead * length / 2 + b * left * width / 2 for a, b in ends])


def outline(row) -> np.ndarray:
    share = np.linspace(0, 1, 400, endpoint=False)[:, None]
    four = corners(row)
    return np.concatenate([a + share * (b - a) for a, b in zip(four, np.roll(four, -1, 0), strict=True)])


def test_the_distance_of_rectangles_is_that_of_their_outlines_and_below_0_where_they_overlap():
    rng = np.random.default_rng(0)
    one, two = rng.uniform([-5, -5, -3, 1, 1], [5, 5, 3, 5, 5], (2, 40, 5))
    found = distance(boxes(one), boxes(two))
    assert torch.equal(found < 0, overlap(boxes(one), boxes(two))) and 5 < (found < 0).sum() < 35
    assert torch.allclose(found, distance(boxes(two), boxes(one)), atol=1e-9)
    for a, b, apart in zip(one, two, found.tolist(), strict=True):
        nearest = np.linalg.norm(outline(a)[:, None] - outline(b)[None], axis=-1).min()
        if apart > 0:
            assert apart == pytest.approx(nearest, abs=0.02)
        else:  # moved apart by that much along some direction, they just touch
            ways = [(apart * np.cos(t), apart * np.sin(t)) for t in np.linspace(0, 2 * np.pi, 720)]
            moved = boxes([(a[0] + 1.001 * x, a[1] + 1.001 * y, *a[2:]) for x, y in ways])
            assert not overlap(moved, boxes([b] * len(ways))).all()


def test_the_likelihood_is_that_of_the_log_under_the_rollouts_histogram():
    driven, logged = np.array([[0.5, 0.6, 9.9, 3.0]]), np.array([[0.2, 12.0, np.nan, 9.5]])
    ones = np.ones((1, 4), bool)
    counts = np.array([2, 0, 0, 1, 0, 0, 0, 0, 0, 1]) + 0.1
    wanted = np.exp(np.log(counts[[0, 9, 9]] / counts.sum()).mean())  # 12 is beyond the last bin, and in it
    found = likelihood(Measure(1.0, 0.0, 10.0, 10), driven, logged, ones, ones)
    assert found == pytest.approx([wanted])
    few = np.array([[True, False, False, False]])
    assert likelihood(Measure(1.0, 0.0, 10.0, 10), driven, logged, few, few) == pytest.approx([1.1 / 2.0])


@pytest.mark.parametrize("driven, logged, wanted", [(True, True, 1.001), (False, False, 1.001), (True, False, 0.001)])
def test_what_happens_or_not_is_likely_if_it_happened_in_both(driven, logged, wanted):
    once = np.array([[False, True]])
    found = likelihood(Measure(1.0), once & driven, once & logged, np.ones((1, 2), bool), np.ones((1, 2), bool))
    assert found == pytest.approx([wanted / 1.002])


def test_angles_differ_by_the_smaller_way_round():
    assert central(np.array([[3.1, 0.0, -3.1]]), whole=2 * np.pi)[0, 1] == pytest.approx((2 * np.pi - 6.2) / 0.2)


@pytest.fixture
def world(tmp_path):
    def make(*objects, roads=(), **options):
        write(tmp_path, scene_of(objects, list(roads)))
        made = envs.make("nocturne", scenes=str(tmp_path), restart=False, drive_on=True, **options)
        made.look_away()
        made.reset([0])
        return made

    return make


def test_a_drive_that_is_its_log_is_as_likely_as_can_be_and_another_less(world):
    found = []
    for action in (lambda made: made.expert_action(), lambda made: torch.tensor([[-1.0, 0.02]])):
        made = world(car(speed=6.0), car(x=15.0, speed=6.0), car(y=6.0))
        for _ in range(80):
            made.step(action(made))
        found.append({name: float(value) for name, value in made.outcome().items() if name in (*NAMES, "realism")})
    log, other = found
    assert set(log) == {*NAMES, "realism"} and sum(m.weight for m in MEASURES.values()) == pytest.approx(0.9)
    assert min(log.values()) > 0.98, "at one speed everything is in one bin"
    assert other["likelihood_speed"] < 0.5 and other["realism"] < log["realism"]


def test_a_collision_and_an_edge_that_the_log_did_not_have_are_unlikely(world):
    made = world(car(), car(x=30.0, speed=0.0), car(y=8.0), roads=[road("road_edge", (12.0, 3.5), (40.0, 3.5))])
    for t in range(80):
        made.step(torch.tensor([[0.0, 0.05 if t < 40 else -0.05]]))
    outcome = made.outcome()
    assert outcome["likelihood_off_road"] < 0.01 and outcome["road_edge_rate"] == 1


def test_the_time_to_a_collision_is_the_gap_over_the_difference_in_speed(world):
    made = world(car(speed=10.0), car(x=24.0, speed=5.0), car(x=10.0, y=4.0, speed=0.0))
    soon = made._realism._noted[0][4, 0]  # at step 10: 19 m between the middles, 15 m between the boxes, 5 m/s
    assert soon == pytest.approx((24.0 - 5.0 - 4.0) / 5.0)
    assert world(car(speed=4.0), car(x=24.0, speed=5.0))._realism._noted[0][4, 0] == LONGEST


def test_worlds_that_are_not_scored_do_not_measure(tmp_path):
    write(tmp_path, scene_of([car()]))
    made = envs.make("nocturne", scenes=str(tmp_path), restart=False)
    made.look_away()
    made.reset([0])
    made.step(torch.zeros(1, 2))
    assert not set(NAMES) & set(made.outcome())
