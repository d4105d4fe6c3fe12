"""Every frame and every step is met just once an epoch, in its own split, and lined up with what belongs to it."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from dreamdrive.data import loaders, open_shards
from dreamdrive.data.loaders import (
    FrameStream,
    ReturnStream,
    Sequences,
    future_returns,
    open_datasets,
    require_validation,
    world_of,
)
from dreamdrive.data.open_shards import Shard
from dreamdrive.models.vae import VAE, VAEConfig
from dreamdrive.tests.tiny_run import DISCRETE, write_dataset
from dreamdrive.utils.errors import UserError

LENGTHS = [5, 40, 1, 17, 33, 2, 16, 20, 15, 64]  # episodes 3 and 7 are for validation
SMALL = (8, 8, 3)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    return [
        write_dataset(folder / "one", LENGTHS, per_shard=3, image=SMALL),
        write_dataset(folder / "two", [9, 3, 30, 31], per_shard=2, image=SMALL),
    ]


def frames_of(datasets, split):
    """(episode, t) of every frame of a split, as often as it is there."""
    return Counter((e.index, t) for d in datasets for e in d.episodes if e.split == split for t in range(e.steps + 1))


def seen(batches):
    """(episode, t) of the frames in `batches`, in order."""
    return [(int(e), 256 * int(high) + int(low)) for batch in batches for e, high, low in batch[:, 0, 0]]


@pytest.mark.parametrize("batch_size", [1, 7, 64, 10_000])
@pytest.mark.parametrize("split", ["train", "val"])
def test_an_epoch_of_full_size_visits_every_frame_of_its_split_once_and_none_of_the_other(split, batch_size, datasets):
    stream = FrameStream(datasets, split, batch_size, seed=3)
    batches = list(stream.epoch(2, 10**9))
    assert Counter(seen(batches)) == frames_of(datasets, split) and stream.frames == len(seen(batches))
    assert {len(b) for b in batches[:-1]} <= {batch_size} and 1 <= len(batches[-1]) <= batch_size
    assert batches[0].dtype == torch.uint8 and batches[0].shape[1:] == SMALL


def test_an_epoch_depends_on_seed_and_number_alone(datasets):
    used = FrameStream(datasets, "train", 16, seed=3)
    for epoch in (5, 1):
        next(used.epoch(epoch, 100))
    order = seen(used.epoch(4, 100))
    assert order == seen(FrameStream(datasets, "train", 16, seed=3).epoch(4, 100))
    assert order != seen(FrameStream(datasets, "train", 16, seed=3).epoch(5, 100))
    assert order != seen(FrameStream(datasets, "train", 16, seed=4).epoch(4, 100))


def test_shorter_epochs_go_on_where_the_last_stopped(datasets):
    """No frame comes twice before all have come once, and an epoch is about as long as was asked for."""
    stream, met = FrameStream(datasets, "train", 16, seed=0), []
    blocks = len(stream.blocks)
    count = -(-50 * blocks // stream.frames)
    for epoch in range(-(-blocks // count)):
        part = seen(stream.epoch(epoch, 50))
        assert 20 <= len(part) <= 80
        met += part
        if (epoch + 1) * count <= blocks:
            assert len(set(met)) == sum(frames_of(datasets, "train")[f] > 0 for f in set(met)) and not Counter(
                met
            ) - frames_of(datasets, "train")
    assert not frames_of(datasets, "train") - Counter(met)


def test_memory_does_not_grow_with_the_dataset_and_neither_buffer_nor_open_files_decide_what_is_read(
    datasets, monkeypatch
):
    whole = seen(FrameStream(datasets, "train", 8, seed=1).epoch(0, 10**9))
    monkeypatch.setattr(open_shards, "MOST_OPEN", 1)
    assert seen(FrameStream(datasets, "train", 8, seed=1).epoch(0, 10**9)) == whole
    asked, read = [], Shard.frames
    monkeypatch.setattr(
        Shard, "frames", lambda self, start, stop: asked.append(stop - start) or read(self, start, stop)
    )
    monkeypatch.setattr(loaders, "GROUP_BYTES", 3 * 16 * math.prod(SMALL))
    batches = FrameStream(datasets, "train", 8, seed=1).epoch(0, 10**9)
    first = next(batches)
    assert len(asked) <= 2 * 3 and max(asked) <= 16
    assert Counter(seen([first, *batches])) == Counter(whole) and len(asked) > 6


def test_a_batch_mixes_frames_from_all_over(datasets):
    batch = seen(FrameStream(datasets, "train", 64, seed=0).epoch(0, 10**9))[:64]
    neighbours = sum(abs(a[1] - b[1]) == 1 and a[0] == b[0] for a, b in zip(batch, batch[1:], strict=False))
    assert len({e for e, _ in batch}) >= 5 and neighbours <= 6


def test_what_comes_of_a_frame_is_the_discounted_reward_of_the_eight_steps_after_it():
    reward = np.arange(1, 12, dtype=np.float32)
    wanted = [sum(0.9**i * reward[t + i] for i in range(8) if t + i < 11) for t in range(12)]
    assert future_returns(reward, True) == pytest.approx(np.array(wanted), rel=1e-6)
    cut_short = future_returns(reward, False)
    assert cut_short[:4] == pytest.approx(np.array(wanted[:4]), rel=1e-6) and np.isnan(cut_short[4:]).all()
    assert np.isnan(future_returns(reward[:7], False)).all() and len(future_returns(reward[:7], False)) == 8


@pytest.mark.parametrize("split", ["train", "val"])
def test_frames_come_with_what_came_of_them(split, datasets):
    stream = ReturnStream(datasets, split, 16, seed=3)
    pairs = list(stream.epoch(2, 10**9))
    assert seen(frames for frames, _ in pairs) == seen(FrameStream(datasets, split, 16, seed=3).epoch(2, 10**9))
    every = torch.cat([returns for _, returns in pairs])
    assert every.dtype == torch.float32 and every.nanmean().abs() < 1e-4
    assert every[~every.isnan()].std(correction=0).item() == pytest.approx(1, rel=1e-3)
    wanted = [
        (e.index, t, value)
        for dataset in datasets
        for e in dataset.episodes
        if e.split == split
        for t, value in enumerate(np.nan_to_num(future_returns(*dataset.rewards(e.index)), nan=-1e6))
    ]
    found = [
        (*place, value)
        for frames, returns in pairs
        for place, value in zip(
            seen([frames]), (returns * stream.spread + stream.mean).nan_to_num(-1e6).tolist(), strict=True
        )
    ]
    assert np.array(sorted(found)) == pytest.approx(np.array(sorted(wanted)), rel=1e-4, abs=1e-3)


def test_datasets_of_two_environments_or_with_a_split_left_empty_are_refused(datasets, tmp_path):
    write_dataset(tmp_path / "other", [3, 3], image=SMALL, env="gym:Another")
    write_dataset(tmp_path / "no split", [3, 3], image=SMALL, val_fraction=0.0)
    write_dataset(tmp_path / "discrete", [3, 3], image=SMALL, space=DISCRETE)
    with pytest.raises(UserError, match="has env gym:Another, but .* has gym:Made-up"):
        open_datasets([datasets[0].root, tmp_path / "other"])
    with pytest.raises(UserError, match="has action_space"):
        open_datasets([datasets[0].root, tmp_path / "discrete"])
    with pytest.raises(UserError, match='has no episode in its "val" split'):
        require_validation(open_datasets([tmp_path / "no split"]))
    require_validation(open_datasets([tmp_path / "no split", datasets[0].root]))


# Windows of latents


def test_recordings_of_the_official_simulator_and_of_its_fast_world_go_together(tmp_path):
    folders = [
        write_dataset(tmp_path / env, [3, 3], image=SMALL, env=env).root for env in ("carracing-fast", "carracing")
    ]
    found = open_datasets(folders)
    assert [d.manifest.env for d in found] == ["carracing-fast", "carracing"] and [
        world_of(d)["env"] for d in found
    ] == ["carracing"] * 2


def sequences(steps, train=None):
    """Episodes whose values say where they belong: mu = (episode, t), action = (episode, t), reward = 1000 episode + t,
    terminal at the last step."""
    steps = np.array(steps)
    frames = torch.tensor([(e, t) for e, n in enumerate(steps) for t in range(n + 1)], dtype=torch.float32)
    taken = torch.tensor([(e, t) for e, n in enumerate(steps) for t in range(n)], dtype=torch.float32)
    terminal = torch.tensor([float(t == n - 1) for n in steps for t in range(n)])
    step_offset = np.concatenate([[0], np.cumsum(steps)[:-1]])
    return Sequences(
        VAE(VAEConfig(latent=2)),
        {"mu": frames, "logsigma": torch.full_like(frames, -20.0)},
        taken,
        taken,
        torch.ones(len(taken), dtype=torch.bool),
        taken[:, 0] * 1000 + taken[:, 1],
        terminal,
        steps,
        step_offset + np.arange(len(steps)),
        step_offset,
        np.arange(len(steps)),
        np.ones(len(steps), bool) if train is None else np.array(train),
        [f"episode {e}" for e in range(len(steps))],
    )


@pytest.mark.parametrize("length", [1, 2, 7, 64, 200])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_windows_cover_every_step_of_the_split_once_whatever_their_length(length, seed):
    train = [True, False, True, True, False]
    data = sequences([1, 2, 13, 64, 200], train)
    for split in ("train", "val"):
        cuts = data.cut(split, length, None if seed is None else np.random.default_rng(seed))
        batch = data.windows(cuts, length)
        inside = batch.mask.bool()
        met = Counter(tuple(int(x) for x in row) for row in batch.action[inside])
        assert met == Counter((e, t) for e in range(5) if train[e] == (split == "train") for t in range(data.steps[e]))


@pytest.mark.parametrize(("length", "batch"), [(1, 1), (1, 5), (9, 1), (9, 4), (70, 2)])
def test_windows_stay_inside_an_episode_and_keep_alignment(length, batch):
    """action[t] is chosen on seeing obs[t] and produces reward[t], terminated[t] and obs[t + 1] (data/episode.py)."""
    data = sequences([1, 3, 20, 64, 8])
    cuts = data.cut("train", length, np.random.default_rng(0))
    for first in range(0, len(cuts), batch):
        chosen = cuts[first : first + batch]
        w = data.windows(chosen, length)
        assert w.z.shape == w.z_next.shape == (
            len(chosen),
            length,
            2,
        ) and w.mask.shape == w.reward.shape == w.terminal.shape == (len(chosen), length)
        episode, t = w.action.unbind(-1)
        assert (episode == torch.from_numpy(chosen[:, :1])).all(), "of another episode, even where it is masked"
        inside = w.mask.bool()
        assert inside.any(1).all()
        assert torch.equal(w.z[inside], w.action[inside])
        assert torch.equal(w.z_next[inside], w.action[inside] + torch.tensor([0.0, 1.0]))
        assert torch.equal(w.reward[inside], (1000 * episode + t)[inside])
        assert torch.equal(w.terminal[inside], (t == torch.from_numpy(data.steps)[episode.long()] - 1).float()[inside])
        assert (w.z_next[..., 0] == episode).all()


def test_a_window_longer_than_its_episode_ends_with_its_last_frame_and_a_mask():
    w = sequences([3, 5]).windows(np.array([[0, 0]]), 6)
    assert w.mask.tolist() == [[1, 1, 1, 0, 0, 0]]
    assert w.z[0, :, 1].tolist() == [0, 1, 2, 3, 3, 3] and w.z_next[0, :, 1].tolist() == [1, 2, 3, 3, 3, 3]
    assert w.terminal[0, 2] == 1 and w.reward[0, 2] == 2


def test_the_cuts_move_from_epoch_to_epoch_and_stay_where_they_are_without_a_generator():
    data, rng = sequences([100, 100]), np.random.default_rng(0)
    first, second = (data.cut("train", 10, rng) for _ in range(2))
    assert set(map(tuple, first)) != set(map(tuple, second))
    assert data.cut("train", 10, None).tolist() == [[e, t] for e in (0, 1) for t in range(0, 100, 10)]


def test_z_is_the_posteriors_mean_or_drawn_from_it_and_the_next_window_step_is_the_same_draw():
    data = sequences([50] * 40)
    data.latents["logsigma"].fill_(0.5).log_()
    cuts = data.cut("train", 50, None)
    w = data.windows(cuts, 50, torch.Generator().manual_seed(0))
    noise = w.z - data.windows(cuts, 50).z
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 0.5) < 0.05
    assert torch.equal(w.z[:, 1:], w.z_next[:, :-1])
    assert not torch.equal(w.z, data.windows(cuts, 50, torch.Generator().manual_seed(1)).z)
