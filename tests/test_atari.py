"""Atari games as worlds: what is seen of them, against ale-py's own preprocessing; seeds, lives and FIRE; the Breakout
driver; recording; bad input."""

import sys

import numpy as np
import pytest
import torch

from dreamdrive.data.loaders import FrameStream, open_datasets
from dreamdrive.data.shards import Dataset
from dreamdrive.envs import breakout, make
from dreamdrive.envs.atari import FRAMES
from dreamdrive.envs.gym_adapter import area_resize
from dreamdrive.tests.tiny_run import call, complaint
from dreamdrive.utils.errors import UserError

FIRE = 1


def game(**options):
    """One game of Breakout that begins with no idle frame and leaves FIRE to the player, unless `options` say
    otherwise."""
    return make("atari:Breakout", **{"num": 1, "restart": False, "noops": 0, "fire": False, **options})


def press(world, key):
    return world.step(torch.full((world.num,), key))


def keys(count, seed=0):
    return np.random.default_rng(seed).integers(0, 4, count).tolist()


def play(world, seed, steps):
    """Frames (steps + 1, B, ...) and rewards (steps, B) of a player who presses keys at random."""
    frames, rewards = [world.reset(seed)], []
    for key in keys(steps):
        step = press(world, key)
        frames.append(step.obs)
        rewards.append(step.reward)
    return torch.stack(frames), torch.stack(rewards)


def test_what_is_seen_is_what_ale_pys_own_preprocessing_shows():
    """The same frames, points and ends; OpenCV, which that uses, rounds some halves down: one grey level in a few
    pixels of 10,000."""
    from ale_py.vector_env import AtariVectorEnv

    theirs = AtariVectorEnv("breakout", 1, num_threads=1, noop_max=0, use_fire_reset=False, reward_clipping=False)
    ours = game()
    ours.reset(0)
    theirs.reset(seed=np.array([0]))
    points, differ, compared = 0.0, 0, 0
    for t, key in enumerate([FIRE, *keys(300)]):
        step = press(ours, key)
        obs, reward, terminated, _, info = theirs.step(np.array([key]))
        assert (
            float(step.reward) == reward[0]
            and bool(step.terminated) == terminated[0]
            and int(ours.lives) == info["lives"][0]
        )
        if terminated[0]:
            break  # of a step that is cut short they show older frames
        points += reward[0]
        if t >= 3:  # before, theirs are black
            apart = np.abs(step.obs[0].permute(2, 0, 1).numpy().astype(int) - obs[0])
            assert apart.max() <= 1
            differ, compared = differ + (apart > 0).sum(), compared + apart.size
    assert terminated[0] and points >= 1 and t > 100 and differ < 1e-3 * compared
    theirs.close()


def test_the_first_frame_fills_the_stack_and_the_newest_is_the_last():
    world = game()
    first = world.reset(0)
    assert first.shape == (1, 84, 84, 4) and (first == first[..., :1]).all() and first.float().std() > 10
    seen = [first[..., -1]]
    for key in (FIRE, 2, 2, 2, 2):
        seen.append(press(world, key).obs[..., -1])
    assert torch.equal(press(world, 0).obs[..., :-1], torch.stack(seen[-3:], -1))
    assert not torch.equal(seen[-1], seen[-2])


def test_a_picture_is_the_screen_in_colour():
    world = game(observation="picture")
    world.reset(0)
    step = press(world, FIRE)
    screen = world.render()
    assert screen.shape == (210, 160, 3) and step.obs.shape == (1, 64, 64, 3)
    apart = np.abs(area_resize(screen, 64, 64).astype(int) - step.obs[0].numpy())
    assert apart.mean() < 0.5  # but for the ball, which is where it was in the last frame but one, too
    assert len(np.unique(step.obs[0].numpy().reshape(-1, 3), axis=0)) > 30


def test_the_world_presses_fire_when_a_life_begins():
    ours, plain = game(fire=True), game()
    start = ours.reset(0)
    plain.reset(0)
    assert torch.equal(start[..., -1], press(plain, FIRE).obs[..., -1])
    lost = 0
    for key in keys(400):
        before = plain.lives
        mine, theirs = press(ours, key), press(plain, key)
        if plain.lives < before and not theirs.terminated:
            theirs, lost = press(plain, FIRE), lost + 1
        if lost:
            assert torch.equal(mine.obs, theirs.obs)
        assert torch.equal(mine.terminated, theirs.terminated)
        if mine.terminated:
            break
    assert lost == 4 and mine.terminated


def test_an_episode_is_a_game_or_its_first_life():
    lengths = {}
    for one_life in (False, True):
        world = game(fire=True, one_life=one_life)
        world.reset(0)
        steps, over = 0, False
        while not over:
            over, steps = bool(press(world, 0).terminated), steps + 1
            assert steps < 1000
        lengths[one_life] = (steps, int(world.lives))
    assert lengths[True][1] == 4 and lengths[False][1] == 0 and lengths[True][0] < lengths[False][0] / 3


def test_a_seed_decides_the_game_and_nobody_beside_it_matters():
    options = {"restart": False, "sticky": 0.25}
    together = play(make("atari:Breakout", num=2, **options), [5, 9], 40)
    again = play(make("atari:Breakout", num=2, **options), [5, 9], 40)
    alone = play(make("atari:Breakout", num=1, **options), [9], 40)
    other = play(make("atari:Breakout", num=1, **options), [10], 40)
    for a, b, c in zip(together, again, alone, strict=True):
        assert torch.equal(a, b) and torch.equal(a[:, 1], c[:, 0])
    assert not torch.equal(alone[0], other[0])


def test_keys_stick_only_where_they_are_told_to():
    free, sticky = play(game(), 3, 30)[0], play(game(sticky=0.9), 3, 30)[0]
    # without sticking and idle frames all games are one
    assert not torch.equal(free, sticky) and torch.equal(free, play(game(), 4, 30)[0])


def test_idle_frames_are_from_1_to_30():
    world = game(noops=30)
    found = set()
    for seed in range(25):
        world.reset(seed)
        found.add(world._environments[0].unwrapped.ale.getEpisodeFrameNumber())
    assert found <= set(range(1, 31)) and len(found) > 10


def test_a_world_nobody_looks_at_plays_the_same():
    seen, unseen = game(noops=30), game(noops=30)
    unseen.look_away()
    assert torch.equal(play(seen, 1, 60)[1], play(unseen, 1, 60)[1]) and seen.lives == unseen.lives


def test_the_driver_knows_how_ball_and_paddle_move():
    """Every frame of a minute of play in which the ball meets nothing, and all of the paddle's."""
    world = game()
    world.reset(0)
    press(world, FIRE)
    emulator = world._environments[0].unwrapped.ale
    known = world._environments[0].unwrapped.keys
    before, free, moved = emulator.getRAM(), 0, 0
    for key in np.repeat(keys(150, 1), FRAMES):
        emulator.act(known[key])
        now = emulator.getRAM()
        x, y, speed_x, speed_y = breakout.ball(before)
        if 100 < y < breakout.TOP - 6 and breakout.WALLS[0] + 3 < x < breakout.WALLS[1] - 3:
            assert breakout.ball(now) == (x + speed_x, y + speed_y, speed_x, speed_y)
            free += 1
        end = np.ceil((int(before[breakout.PADDLE]) + breakout.KNOB - int(before[breakout.KNOB_AT])) / 2)
        assert abs(np.clip(end, breakout.LEFTMOST, breakout.RIGHTMOST) - int(now[breakout.PADDLE])) <= 1
        moved += before[breakout.PADDLE] != now[breakout.PADDLE]
        before = now
    assert free > 50 and moved > 50


def test_asking_the_driver_twice_changes_nothing():
    once, twice = game(fire=True), game(fire=True)
    once.reset(0)
    twice.reset(0)
    for _ in range(120):
        action = once.expert_action()
        assert torch.equal(twice.expert_action(), action) and torch.equal(twice.expert_action(), action)
        once.step(action)
        twice.step(action)


def expert_points(seeds, steps, **options):
    world = make("atari:Breakout", num=len(seeds), restart=False, **options)
    world.look_away()
    world.reset(seeds)
    total = torch.zeros(len(seeds))
    for _ in range(steps):
        step = world.step(world.expert_action())
        total += step.reward
        if (step.terminated | step.truncated).all():
            break
    return total, world.lives


def test_the_driver_keeps_the_ball_in_play():
    points, lives = expert_points([2_000_000, 2_000_001], 500)
    assert (points >= 15).all() and (lives >= 4).all()


@pytest.mark.slow
def test_the_driver_makes_hundreds_of_points_on_unseen_seeds():
    points, _ = expert_points([2_000_000 + k for k in range(4)], 3000)
    assert points.mean() > 300
    points, _ = expert_points([2_000_000 + k for k in range(4)], 3000, sticky=0.25)
    assert points.mean() > 200


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Four short games of the disturbed expert."""
    folder = tmp_path_factory.mktemp("atari") / "data"
    done = call("data.generation_script", *RECORDING, "--rootdir", folder)
    assert done.returncode == 0, done.stderr
    return folder


RECORDING = (
    "--env",
    "atari:Breakout",
    "--policy",
    "expert",
    "--action-noise",
    0.9,
    "--rollouts",
    4,
    "--max-steps",
    120,
    "--val-fraction",
    0.25,
    "--threads",
    1,
)


def test_recorded_games_are_verified_and_streamed(recorded):
    dataset = Dataset.open(recorded)
    assert call("data.shards", "verify", recorded).returncode == 0
    assert (
        dataset.manifest.image_shape == (84, 84, 4) and dataset.manifest.options == make("atari:Breakout").spec.options
    )
    with dataset.open_shard(dataset.shards[0]) as shard:
        action, label = shard.column("action"), shard.column("expert_action")
        frames = shard.frames(0, int(shard.length[0]) + 1)
    # disturbed in bursts; the labels are the expert's own
    assert label.min() >= 0 and 0.02 < (action != label).mean() < 0.5
    assert np.array_equal(frames[1:, ..., :3], frames[:-1, ..., 1:])  # one frame a step
    (batch, *_) = FrameStream(open_datasets([recorded]), "train", 8, 0).epoch(0, 8)
    assert batch.shape == (8, 84, 84, 4) and batch.dtype == torch.uint8


def test_worlds_with_other_options_do_not_mix(recorded, tmp_path):
    done = call("data.generation_script", *RECORDING, "--rootdir", recorded, "--sticky", 0.25)
    assert "was recorded with --options" in complaint(done)
    done = call("data.generation_script", *RECORDING, "--rootdir", tmp_path / "sticky", "--sticky", 0.25)
    assert done.returncode == 0, done.stderr
    with pytest.raises(UserError, match="has options"):
        open_datasets([recorded, tmp_path / "sticky"])


def test_v_says_what_it_takes(recorded, tmp_path):
    done = call("trainvae", "--dataset", recorded, "--logdir", tmp_path / "run")
    assert "has frames of 84x84 pixels" in complaint(done)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("atari:Brekout", {}, 'no Atari game "Brekout".*e.g. atari:Breakout'),
        ("atari:breakout", {}, "e.g. atari:Breakout"),
        ("atari:", {}, 'no Atari game ""'),
        ("atari:../etc", {}, "no Atari game"),
        ("atari:Breakout", {"observation": "state"}, "choose stack or picture"),
        ("atari:Breakout", {"sticky": 1.0}, "probability 1"),
        ("atari:Breakout", {"sticky": float("nan")}, "probability nan"),
        ("atari:Breakout", {"noops": -1}, "up to -1 idle"),
        ("atari:Breakout", {"num": 0}, "num is 0"),
        ("atari:Breakout", {"scenes": "x"}, "no option scenes: only nocturne does"),
        ("carracing", {"sticky": 0.1}, "no option sticky: only atari does"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_sentence(name, options, words):
    with pytest.raises(UserError, match=words) as error:
        make(name, **options)
    assert "\n" not in str(error.value)


def test_an_unknown_game_is_one_sentence_and_a_failing_status(tmp_path):
    said = complaint(
        call("data.generation_script", "--env", "atari:MsPacmann", "--rollouts", 1, "--rootdir", tmp_path / "data")
    )
    assert (
        'there is no Atari game "MsPacmann"' in said
        and "e.g. atari:MsPacman" in said
        and not list((tmp_path / "data").glob("*.h5"))
    )


def test_without_ale_py_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(UserError, match="need the package ale-py.*pip install -r requirements.txt"):
        make("atari:Breakout")


def test_a_game_without_a_driver_of_ours_is_played_by_others():
    world = make("atari:Pong", restart=False)
    obs = world.reset(0)
    assert obs.float().std() > 5 and press(world, 2).obs.shape == (1, 84, 84, 4)
    with pytest.raises(UserError, match="atari:Pong has no expert of its own"):
        world.expert_action()
