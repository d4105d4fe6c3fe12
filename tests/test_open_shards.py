"""Episodes are read one by one, from any thread, with few files open; and what keeps a file from being read is told
apart from damage."""

import errno
import os
import resource
import subprocess
import threading

import h5py
import numpy as np
import pytest

from dreamdrive.data import open_shards
from dreamdrive.data.loaders import FrameStream, open_datasets
from dreamdrive.data.open_shards import Shard, most_open
from dreamdrive.data.sequences import FrameSequences
from dreamdrive.data.shards import Dataset
from dreamdrive.tests.tiny_run import ROOT, TINY, call, command, complaint, variables, write_dataset
from dreamdrive.utils.errors import UserError

LENGTHS = [5, 40, 1, 17, 33, 2, 16, 20]  # episodes 3 and 7 are for validation
SMALL = (8, 8, 3)


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "data", LENGTHS, per_shard=3, image=SMALL)


@pytest.fixture
def few_files():
    """This process may have 64 files open, as after `ulimit -n 64`."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def files_open(dataset):
    """Names of the shards of a dataset that this process has open."""
    opened = (os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))
    return {path for path in opened if path.startswith(os.path.realpath(dataset.root))}


def test_an_episode_is_read_as_it_was_written(dataset):
    for i, steps in enumerate(LENGTHS):
        episode = dataset.episode(i)
        episode.check()
        t = np.arange(steps)
        assert (episode.index, episode.seed, episode.policy, len(episode.obs)) == (i, i, 0, steps + 1)
        assert (
            episode.obs[:, 0, 0, 0].tolist() == [i] * (steps + 1) and episode.obs[:-1, 0, 0, 2].tolist() == t.tolist()
        )
        np.testing.assert_allclose(episode.action, np.stack([np.full(steps, i / 100), t / 1000], 1), rtol=1e-6)
        np.testing.assert_array_equal(episode.expert_action, -episode.action)
        assert episode.reward.tolist() == (1000 * i + t).tolist() and episode.terminated.tolist() == [0] * (
            steps - 1
        ) + [1]
        np.testing.assert_array_equal(dataset.frames(i), episode.obs)
        np.testing.assert_array_equal(dataset.frames(i, steps // 2, steps), episode.obs[steps // 2 : steps])


def test_all_episodes_come_in_order_or_those_of_one_split(dataset):
    assert [e.index for e in dataset.read()] == list(range(len(LENGTHS)))
    assert [e.index for e in dataset.read("val")] == [3, 7]
    assert [e.index for e in dataset.read("train")] == [0, 1, 2, 4, 5, 6]


@pytest.mark.parametrize("i", [-1, len(LENGTHS)])
def test_an_episode_that_is_not_there_is_an_error(i, dataset):
    with pytest.raises(IndexError, match=f"episode {i} is outside the 8"):
        dataset.episode(i)


@pytest.mark.parametrize(("first", "end"), [(-1, 2), (3, 2), (0, 19)])
def test_frames_that_an_episode_does_not_have_are_an_error(first, end, dataset):
    with pytest.raises(IndexError, match="outside the episode's 18"):
        dataset.frames(3, first, end)


def test_only_the_rows_of_an_episode_are_read(dataset, monkeypatch):
    asked, read = [], Shard.frames
    monkeypatch.setattr(Shard, "frames", lambda self, first, end: asked.append((first, end)) or read(self, first, end))
    dataset.episode(4)
    assert asked == [(18, 52)]


@pytest.mark.parametrize(
    ("limit", "wanted"), [(64, 16), (3, 1), (256, 64), (1 << 20, 64), (resource.RLIM_INFINITY, 64)]
)
def test_shards_take_a_quarter_of_the_files_a_process_may_have_open_and_no_more_than_64(limit, wanted, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert most_open() == wanted


def test_those_read_longest_ago_are_closed_and_datasets_of_a_run_share_what_may_be_open(tmp_path, monkeypatch):
    folders = [write_dataset(tmp_path / name, [3] * 4, per_shard=1, image=SMALL).root for name in ("a", "b")]
    monkeypatch.setattr(open_shards, "MOST_OPEN", 3)
    a, b = open_datasets(folders)
    for i in (0, 1, 0, 2, 0):
        a.episode(i)
    b.episode(3)
    assert [os.path.basename(path) for path in sorted(files_open(a) | files_open(b))] == [
        "shard_00000.h5",
        "shard_00002.h5",
        "shard_00003.h5",
    ]
    del a, b
    assert not files_open(Dataset.open(folders[0]))


def test_threads_may_read_at_once_with_one_file_open(dataset, monkeypatch):
    monkeypatch.setattr(open_shards, "MOST_OPEN", 1)
    wrong = []

    def read(seed):
        try:
            for i in np.random.default_rng(seed).integers(len(LENGTHS), size=40).tolist():
                if dataset.frames(i)[:, 0, 0, 0].tolist() != [i] * (LENGTHS[i] + 1):
                    wrong.append(i)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(files_open(dataset)) == 1


def test_a_hundred_shards_are_trained_on_with_64_files(tmp_path):
    space = {"type": "discrete", "n": 2}
    data = write_dataset(tmp_path / "data", [6] * 100, per_shard=1, space=space, env="gym:CartPole-v1")
    assert sum(len(batch) for batch in FrameStream([data], "train", 16, 0).epoch(0, 10**9)) == 75 * 7
    assert len(FrameSequences([data], "val", 4, 2)) == 25 * 6
    options = ("--model", "mlp", "--dataset", data.root, "--logdir", tmp_path / "run", "--epochs", 1, "--width", 2)
    words = command("trainbc.py", *TINY["trainbc"], *options, "--units", 4, "--sequence", 6)
    # in a process of its own: what other tests have left open would count here
    limited = ["bash", "-c", 'ulimit -n 64; exec "$@"', "-", *words]
    done = subprocess.run(limited, cwd=ROOT, env=variables(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (
            errno.EMFILE,
            "(Too many open files): a process may have 64 files open here; allow more with `ulimit -n 1024`",
        ),
        (errno.EACCES, "(Permission denied): mend its permissions"),
        (errno.EIO, "(Input/output error): see that its disk, or the network it is on, is there"),
    ],
)
def test_what_keeps_a_shard_from_being_read_is_named_and_nobody_is_told_to_delete_it(
    number, remedy, dataset, monkeypatch, few_files
):
    def fail(*_, **__):
        raise OSError(number, f"Unable to synchronously open file (errno = {number})")

    monkeypatch.setattr(h5py, "File", fail)
    with pytest.raises(UserError) as error:
        dataset.episode(0)
    said = str(error.value)
    assert f"shard_00000.h5 cannot be read {remedy}" in said and "delete" not in said and "damage" not in said


def test_files_that_really_run_out_are_not_taken_for_damage(tmp_path, few_files):
    data = write_dataset(tmp_path / "data", [3, 3], image=SMALL)
    held = []
    try:
        while len(held) < 64:
            held.append(open(tmp_path / "data" / "manifest.json"))
    except OSError:
        held.pop().close()  # what HDF5 itself needs before it opens the file
    with pytest.raises(UserError, match="Too many open files.*allow more with `ulimit -n"):
        held.append(open(tmp_path / "data" / "manifest.json"))
        data.episode(0)
    for file in held:
        file.close()
    assert data.episode(0).index == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_shard_without_read_permission_is_not_damaged(tmp_path):
    data = write_dataset(tmp_path / "data", [3, 3], image=SMALL)
    (data.root / "shard_00000.h5").chmod(0)
    said = complaint(call("trainvae", *TINY["trainvae"], "--dataset", data.root, "--logdir", tmp_path / "run"))
    assert "Permission denied" in said and "delete" not in said
