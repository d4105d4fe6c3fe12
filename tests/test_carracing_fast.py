"""carracing-fast against the official simulator: the same physics to the last digit, and frames within a few grey
levels."""

import numpy as np
import pytest
import torch

from dreamdrive.benchmarks.carracing import LIMITS, STATES, frame_pairs, masks, side_by_side
from dreamdrive.envs import make
from dreamdrive.envs.carracing_picture import car_sprites, numbers, shades
from dreamdrive.utils.errors import UserError


def pose(world):
    hull = world._environments[0].unwrapped.car.hull
    return (*hull.position, hull.angle)


def test_physics_rewards_and_ends_are_the_official_ones_exactly():
    def off_the_field(world, t):
        return torch.tensor([[0.0, 0.3, 0.0]])

    for expected, got, *worlds in side_by_side(3, 700, off_the_field):
        assert pose(worlds[0]) == pose(worlds[1]) and torch.equal(expected.reward, got.reward)
        assert torch.equal(expected.terminated, got.terminated) and torch.equal(expected.truncated, got.truncated)
        if got.terminated:
            break
    assert got.terminated and got.reward == -100  # it left the playfield


@pytest.fixture(scope="module")
def pairs():
    return frame_pairs()


@pytest.mark.parametrize("region", LIMITS)
def test_frames_are_close_to_the_official_ones(region, pairs):
    official, fast = pairs
    assert len(official) == STATES
    mask = masks(official)[region]
    assert mask.any() and np.abs(official.astype(int) - fast)[mask].mean() < LIMITS[region]


def test_a_picture_without_its_car_would_be_noticed(pairs):
    official, fast = pairs
    bare = fast.copy()
    bare[:, 48:62, 28:36] = bare[:, 48:62, 20:28]
    assert np.abs(official.astype(int) - bare)[masks(official)["car"]].mean() > LIMITS["car"]


def test_copies_with_one_seed_share_a_texture_and_a_texture_nobody_needs_is_replaced():
    world = make("carracing-fast", num=4, max_steps=2)
    world.reset([5, 5, 6, 5])
    assert len(world._slot) == 2
    shown = world.step(torch.zeros(4, 3)).obs
    assert torch.equal(shown[0], shown[1]) and torch.equal(shown[0], shown[3]) and not torch.equal(shown[0], shown[2])
    for _ in range(8):
        last = world.step(torch.zeros(4, 3))
    assert len(world._textures) <= 4 and set(world._slot) >= set(world._track)
    alone = make("carracing-fast")
    alone.reset([world._track[2]])
    fresh = make("carracing-fast", num=1)
    assert torch.equal(fresh.reset([world._track[2]])[0], alone.reset([world._track[2]])[0]) and last.obs.any()


def test_nobody_looking_costs_no_texture_and_changes_no_reward():
    seen, unseen = make("carracing-fast"), make("carracing-fast")
    unseen.look_away()
    seen.reset(4)
    unseen.reset(4)
    for _ in range(20):
        a, b = (world.step(torch.tensor([[0.1, 0.5, 0.0]])) for world in (seen, unseen))
        assert torch.equal(a.reward, b.reward) and not b.obs.any()
    assert not len(unseen._textures)


def test_shades_and_sprites_are_what_they_say():
    assert (
        shades()[0] == 0
        and (np.diff(shades().astype(int)) >= 0).all()
        and abs(shades().astype(int) - np.arange(256)).max() <= 3
    )
    sprites = car_sprites()
    share = sprites[..., 3]
    assert 0 <= share.min() and share.max() == 1 and (sprites[..., :3].amax(-1) <= 255 * share + 1e-3).all()


def test_road_that_was_driven_on_changes_its_colour_as_officially_in_each_copy():
    def ahead(world, t):
        return torch.tensor([[0.0, 0.1, 0.0]])

    before = make("carracing-fast", num=2, restart=False)
    before.reset([3, 3])
    for _ in range(60):
        before.step(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.1, 0.0]]))
    *_, (expected, got, _, world) = side_by_side(3, 60, ahead)
    driven, new = (slice(62, 64), slice(28, 35)), (slice(20, 44), slice(28, 35))
    for part in (driven, new):
        error = np.abs(expected.obs[0].numpy().astype(int) - got.obs[0].numpy())[part]
        assert error.mean() < 0.7, error
    assert torch.equal(before._frames[1], got.obs[0])  # whoever else drives on the same texture
    assert got.obs[0][driven].float().mean() < got.obs[0][new].float().mean() - 1
    assert any(tile.road_visited for tile in world._environments[0].unwrapped.road)


def test_every_piece_of_road_has_a_number_of_its_own():
    found = numbers(500)
    assert len(set(found.tolist())) == 500 and (found & 255).all() and found.max() < 512
    with pytest.raises(UserError, match="up to 510 pieces of road, not 511"):
        numbers(511)
