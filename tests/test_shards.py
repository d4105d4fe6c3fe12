"""The dataset's files: what is written is what is read, and nothing damaged, foreign or hostile passes for data."""

import dataclasses
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from dreamdrive.data import shards
from dreamdrive.data.episode import EPISODE_COLUMNS, STEP_COLUMNS, TAUGHT_COLUMNS, Episode, episode_entry
from dreamdrive.data.manifest import EpisodeEntry, Manifest, ShardEntry, split, write_manifest
from dreamdrive.data.shard_layout import check_members, check_sizes, chunks_of
from dreamdrive.data.shards import Dataset
from dreamdrive.utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
HEAD = Manifest(
    "tiny",
    (8, 8, 3),
    {"type": "box", "low": [-1.0, 0.0], "high": [1.0, 1.0]},
    0.02,
    100,
    0,
    "brown=0.5,expert=0.5",
    0.0,
    0.25,
    4,
    ("brown", "expert"),
)


def episode(index=0, steps=20, **changes):
    rng = np.random.default_rng(index)
    ended = np.arange(steps) == steps - 1
    action = rng.random((steps, 2), np.float32)
    return dataclasses.replace(
        Episode(
            rng.integers(0, 40, (steps + 1, 8, 8, 3)).astype(np.uint8),
            action,
            np.full_like(action, np.nan),
            rng.random(steps, np.float32),
            ended,
            ~ended & False,
            index,
            100 + index,
            index % 2,
        ),
        **changes,
    )


def write_dataset(folder, lengths=((20, 33), (1, 17)), head=HEAD):
    """A dataset with a shard for each tuple of lengths."""
    entries, listed, index = [], [], 0
    for k, steps in enumerate(lengths):
        episodes = [episode(index + j, t) for j, t in enumerate(steps)]
        index += len(steps)
        entries.append(ShardEntry(**shards.write_shard(folder / f"shard_{k:05d}.h5", episodes)))
        listed += [episode_entry(e, head) for e in episodes]
    write_manifest(folder, dataclasses.replace(head, rollouts=index, shards=tuple(entries), episodes=tuple(listed)))
    return Dataset.open(folder)


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path)


def listing(folder, manifest):
    """`manifest` with the first shard as it lies in `folder` now, as somebody would list it who made it."""
    entry = manifest.shards[0]
    content = (folder / entry.file).read_bytes()
    entry = dataclasses.replace(entry, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return dataclasses.replace(manifest, shards=(entry, *manifest.shards[1:]))


def read_everything(path, manifest):
    with shards.open_shard(path, manifest) as shard:
        columns = {name: shard.column(name) for name in STEP_COLUMNS + EPISODE_COLUMNS}
        return {"obs": shard.frames(0, shard.frame_offsets[-1]), "offsets": shard.frame_offsets, **columns}


# What is written is what is read


def test_a_shard_gives_back_every_episode_at_its_offsets(dataset):
    assert [(s.first, s.last, s.steps, s.frames) for s in dataset.shards] == [(0, 2, 53, 55), (2, 4, 18, 20)]
    for entry in dataset.shards:
        with dataset.open_shard(entry) as shard:
            for j, index in enumerate(shard.episode):
                written = episode(index, shard.length[j])
                frames, steps = slice(*shard.frame_offsets[j : j + 2]), slice(*shard.step_offsets[j : j + 2])
                np.testing.assert_array_equal(shard.frames(frames.start, frames.stop), written.obs)
                for name in STEP_COLUMNS:
                    np.testing.assert_array_equal(shard.column(name)[steps], getattr(written, name))
                assert (shard.column("seed")[j], shard.column("policy")[j]) == (written.seed, written.policy)


def taught(index, steps):
    """An episode with a teacher in it."""
    plain = episode(index, steps)
    return dataclasses.replace(plain, clone_action=-plain.action, demonstration=np.arange(steps) % 3 == 0)


def test_what_a_teacher_taught_has_two_columns_more(tmp_path):
    entry = ShardEntry(**shards.write_shard(tmp_path / "shard_00000.h5", [taught(0, 20), taught(1, 7)]))
    listed = tuple(episode_entry(taught(*e), HEAD) for e in ((0, 20), (1, 7)))
    manifest = dataclasses.replace(HEAD, rollouts=2, shards=(entry,), episodes=listed)
    write_manifest(tmp_path, manifest)
    with shards.open_shard(tmp_path / entry.file, manifest) as shard:
        assert shard.step_columns == STEP_COLUMNS + TAUGHT_COLUMNS and shard.column("demonstration").dtype == np.uint8
        np.testing.assert_array_equal(
            shard.column("demonstration"), np.concatenate([np.arange(20) % 3 == 0, np.arange(7) % 3 == 0])
        )
        np.testing.assert_array_equal(shard.column("clone_action"), -shard.column("action"))
    assert shards.verify(tmp_path) == []
    with h5py.File(tmp_path / entry.file, "r+") as file:
        del file["clone_action"]
    with pytest.raises(UserError, match="exactly the members"):
        shards.open_shard(tmp_path / entry.file, listing(tmp_path, manifest))


@pytest.mark.parametrize(
    "episodes",
    [
        lambda: [taught(0, 5), episode(1, 5)],
        lambda: [episode(0, 5), taught(1, 5)],
        lambda: [dataclasses.replace(taught(0, 5), demonstration=np.zeros(4))],
        lambda: [dataclasses.replace(taught(0, 5), clone_action=np.zeros((5, 7), np.float32))],
    ],
)
def test_a_shard_was_taught_as_a_whole_or_not_at_all(episodes, tmp_path):
    with pytest.raises(ValueError, match="either all were taught|demonstration must have|clone_action must be"):
        shards.write_shard(tmp_path / "shard_00000.h5", episodes())
    assert list(tmp_path.iterdir()) == []


def test_reading_outside_a_shard_is_an_error_and_not_an_empty_array(dataset):
    with dataset.open_shard(dataset.shards[0]) as shard, pytest.raises(IndexError):
        shard.frames(50, 56)


def test_the_same_episodes_give_the_same_bytes_at_any_time_and_by_any_name(tmp_path):
    shards.write_shard(tmp_path / "shard_00000.h5", [episode(0), episode(1)])
    time.sleep(1.1)  # HDF5 records times in seconds, if it does
    shards.write_shard(tmp_path / "shard_00001.h5", iter([episode(0), episode(1)]))
    assert (tmp_path / "shard_00000.h5").read_bytes() == (tmp_path / "shard_00001.h5").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"shard_00000.h5", "shard_00001.h5"}


def test_a_manifest_survives_the_way_to_json_and_back_and_its_digest_tells_datasets_apart(dataset, tmp_path_factory):
    assert Manifest.from_json(json.loads(json.dumps(dataset.manifest.to_json()))) == dataset.manifest
    assert Dataset.open(dataset.root).digest == dataset.digest
    assert write_dataset(tmp_path_factory.mktemp("other"), ((20, 33), (1, 18))).digest != dataset.digest


def test_discrete_actions_are_int64(tmp_path):
    action = np.arange(5)
    head = dataclasses.replace(HEAD, action_space={"type": "discrete", "n": 6}, rollouts=1)
    e = episode(0, 5, action=action, expert_action=np.full(5, -1))
    entry = ShardEntry(**shards.write_shard(tmp_path / "shard_00000.h5", [e]))
    manifest = dataclasses.replace(head, shards=(entry,), episodes=(episode_entry(e, head),))
    with shards.open_shard(tmp_path / "shard_00000.h5", manifest) as shard:
        assert shard.column("action").dtype == np.int64 and shard.column("action").tolist() == [0, 1, 2, 3, 4]
        assert shard.column("expert_action").tolist() == [-1] * 5


# The split


@pytest.mark.parametrize("fraction", [0, 0.07, 0.1, 0.25, 0.29, 1 / 3, 0.5, 0.9])
def test_the_split_is_an_exact_share_of_whole_episodes_spread_evenly(fraction):
    marks = np.array([split(i, fraction) == "val" for i in range(1000)])
    for n in (10, 100, 700, 1000):
        assert abs(marks[:n].sum() - n * fraction) < 1 + 1e-6
    assert marks.sum() == int(1000 * fraction + 1e-6)
    assert [split(i, 0.1) for i in (8, 9, 10, 19)] == ["train", "val", "train", "val"]


# Misaligned episodes


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"obs": np.zeros((20, 8, 8, 3), np.uint8)}, r"one frame more than action: 20 != 20 \+ 1"),
        ({"obs": np.zeros((21, 8, 8, 3), np.float32)}, "obs must be uint8"),
        ({"action": np.zeros((20, 2))}, "action must be float32"),
        ({"reward": np.zeros(21, np.float32)}, "reward must have one value a step"),
        ({"reward": np.full(20, np.nan, np.float32)}, "must be finite"),
        ({"expert_action": np.zeros((20, 3), np.float32)}, "expert_action must be like action"),
        ({"terminated": np.ones(20, bool)}, "goes on after it"),
    ],
)
def test_an_episode_out_of_step_is_not_written(changes, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):
        shards.write_shard(tmp_path / "shard_00000.h5", [episode(0, 20, **changes)])
    assert not list(tmp_path.iterdir())


def test_a_shard_must_hold_consecutive_episodes_and_at_least_one(tmp_path):
    for episodes in ([], [episode(0), episode(2)]):
        with pytest.raises(ValueError, match="episode"):
            shards.write_shard(tmp_path / "shard_00000.h5", episodes)


# Damage


def damage_never_passes(dataset, damaged_copies):
    """Count how many copies were refused; every other one must read as the original does."""
    path = dataset.root / dataset.shards[0].file
    truth = read_everything(path, dataset.manifest)
    refused = 0
    for content in damaged_copies(path.read_bytes()):
        path.write_bytes(content)
        try:
            found = read_everything(path, dataset.manifest)
        except UserError as error:
            assert str(path) in str(error) and "dreamdrive data verify" in str(error)
            refused += 1
        else:
            for name, values in truth.items():
                np.testing.assert_array_equal(found[name], values, err_msg=name)
        assert len(shards.verify(dataset.root)) == 1 if refused % 50 == 1 else True
    return refused


def test_hundreds_of_flipped_bytes_never_give_wrong_data(dataset):
    rng = np.random.default_rng(0)

    def flips(content):
        for _ in range(800):
            damaged = bytearray(content)
            damaged[rng.integers(len(content))] ^= int(rng.integers(1, 256))
            yield bytes(damaged)

    assert damage_never_passes(dataset, flips) > 500


def test_a_truncated_or_lengthened_file_is_refused_always(dataset):
    def cuts(content):
        for length in np.linspace(0, len(content) - 1, 150).astype(int):
            yield content[:length]
            # as a crashed file system leaves it: the right size, the end empty
            yield content[:length] + bytes(len(content) - length)
        yield content + b"x"

    assert damage_never_passes(dataset, cuts) > 295


def test_a_missing_or_unlisted_shard_is_named(dataset):
    (dataset.root / "shard_00001.h5").rename(dataset.root / "shard_00007.h5")
    with pytest.raises(UserError, match="shard_00001.h5 is missing"):
        dataset.open_shard(dataset.shards[1])
    with pytest.raises(UserError, match="shard_00007.h5 is not listed"):
        shards.open_shard(dataset.root / "shard_00007.h5", dataset.manifest)


# Foreign and hostile files


def rebuilt(path, change):
    """Copy the shard at `path` member by member into a file that `change(file, members, options)` may spoil, in its
    place."""
    with h5py.File(path) as file:
        members = {name: file[name][:] for name in file}
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs.create("schema", 1, dtype=np.int64)
        options = {
            name: {
                "data": values,
                "maxshape": (None, *values.shape[1:]),
                "chunks": chunks_of(name, values.shape[1:]),
                "compression": "gzip",
                "compression_opts": 1,
                "fletcher32": True,
            }
            for name, values in members.items()
        }
        change(file, members, options)
        for name, option in options.items():
            file.create_dataset(name, **option)


def external_link(file, members, options):
    del options["reward"]
    file["reward"] = h5py.ExternalLink("/etc/passwd", "reward")


def soft_link(file, members, options):
    del options["reward"]
    file["reward"] = h5py.SoftLink("/action")


def virtual(file, members, options):
    del options["reward"]
    layout = h5py.VirtualLayout(members["reward"].shape, np.float32, maxshape=(None,))
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "reward", members["reward"].shape)
    file.create_virtual_dataset("reward", layout)


def external_storage(file, members, options):
    options["reward"] = {
        "shape": members["reward"].shape,
        "dtype": np.float32,
        "external": [("/etc/passwd", 0, 4 * len(members["reward"]))],
    }


def object_type(file, members, options):
    options["reward"] |= {
        "data": None,
        "shape": members["reward"].shape,
        "dtype": h5py.string_dtype(),
        "fletcher32": False,
    }


def reference_type(file, members, options):
    options["reward"] |= {"data": None, "shape": members["reward"].shape, "dtype": h5py.ref_dtype, "fletcher32": False}


def group(file, members, options):
    del options["reward"]
    file.create_group("reward")


def other_filter(file, members, options):
    options["obs"] |= {"compression": "lzf", "compression_opts": None}


def unknown_filter(file, members, options):
    del options["obs"]
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((16, 8, 8, 3))
    # zstd, which is not installed: optional, so that it can be written at all
    creation.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (1,))
    space = h5py.h5s.create_simple(members["obs"].shape, (h5py.h5s.UNLIMITED, 8, 8, 3))
    h5py.h5d.create(file.id, b"obs", h5py.h5t.STD_U8LE, space, creation)


def no_checksums(file, members, options):
    options["obs"]["fletcher32"] = False


def one_big_chunk(file, members, options):
    options["obs"]["chunks"] = (1 << 20, 8, 8, 3)


def absurd_shape(file, members, options):
    options["obs"] |= {"data": None, "shape": (1 << 45, 8, 8, 3), "dtype": np.uint8}


def extra_member(file, members, options):
    file["extra"] = 1


def missing_member(file, members, options):
    del options["seed"]


def other_schema(file, members, options):
    file.attrs.modify("schema", 2)


def odd_schema(file, members, options):
    del file.attrs["schema"]
    file.attrs["schema"] = "1"


def attributes(file, members, options):
    file.attrs["more"] = "x"


def other_type(file, members, options):
    options["reward"] |= {"data": members["reward"].astype(np.float64)}


def other_image(file, members, options):
    options["obs"] |= {"data": members["obs"][:, :4], "maxshape": (None, 4, 8, 3), "chunks": (16, 4, 8, 3)}


def other_lengths(file, members, options):
    options["length"] |= {"data": members["length"][::-1]}


def negative_lengths(file, members, options):
    options["length"] |= {"data": np.array([-1, 54])}


HOSTILE = [
    external_link,
    soft_link,
    virtual,
    external_storage,
    object_type,
    reference_type,
    group,
    other_filter,
    unknown_filter,
    no_checksums,
    one_big_chunk,
    absurd_shape,
    extra_member,
    missing_member,
    other_schema,
    odd_schema,
    attributes,
    other_type,
    other_image,
    other_lengths,
    negative_lengths,
]


@pytest.mark.parametrize("spoil", [lambda *_: None, *HOSTILE], ids=["untouched", *(f.__name__ for f in HOSTILE)])
def test_whatever_is_not_in_the_schema_is_refused_before_data_is_read(spoil, dataset, monkeypatch):
    path = dataset.root / dataset.shards[0].file
    rebuilt(path, spoil)
    manifest = listing(dataset.root, dataset.manifest)
    if spoil not in HOSTILE:
        read_everything(path, manifest)  # the copy itself is fine: what is refused below is the spoiling
        return
    with pytest.raises(UserError, match="shard_00000.h5 cannot be used"):
        shards.open_shard(path, manifest)
    if spoil not in (other_lengths, negative_lengths):
        monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda *_: pytest.fail("data was read"))
        with h5py.File(path) as file, pytest.raises(ValueError, match=r"\w"):
            check_members(file)
            check_sizes(file, manifest, manifest.shards[0])


def test_a_file_that_is_no_hdf5_is_refused(dataset):
    path = dataset.root / dataset.shards[0].file
    path.write_bytes(b"\x89HDF\r\n\x1a\n".ljust(path.stat().st_size, b"\xff"))
    with pytest.raises(UserError, match="cannot be used"):
        shards.open_shard(path, dataset.manifest)


# The manifest


def spoil_manifest(folder, change):
    value = json.loads((folder / "manifest.json").read_text())
    change(value)
    (folder / "manifest.json").write_text(json.dumps(value))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(schema=2),
        lambda m: m.pop("seed"),
        lambda m: m.update(extra=1),
        lambda m: m["shards"].pop(),
        lambda m: m["shards"][0].update(file="../../etc/passwd"),
        lambda m: m["shards"][0].update(first=1),
        lambda m: m["shards"][0].update(steps=54),
        lambda m: m["episodes"][0].update(split="val"),
        lambda m: m["episodes"][0].update(policy="nobody"),
        lambda m: m["episodes"][0].update(steps="x"),
        lambda m: m["episodes"].append(m["episodes"][0]),
        lambda m: m.update(image_shape=[8, 8]),
        lambda m: m.update(action_space={"type": "dict"}),
        lambda m: m.update(shards=3),
        lambda m: m["episodes"][0].update({"return": float("nan")}),
    ],
)
def test_a_manifest_that_does_not_agree_with_itself_is_refused(change, dataset):
    spoil_manifest(dataset.root, change)
    with pytest.raises(UserError, match="is not a manifest that can be used"):
        Dataset.open(dataset.root)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_no_json_is_refused(content, dataset):
    (dataset.root / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match="is not a manifest that can be used"):
        Dataset.open(dataset.root)


def test_a_missing_or_unfinished_dataset_says_what_to_run(dataset, tmp_path):
    with pytest.raises(UserError, match="is missing: record a dataset first"):
        Dataset.open(tmp_path / "nowhere")
    write_manifest(dataset.root, dataclasses.replace(dataset.manifest, rollouts=9))
    with pytest.raises(UserError, match="holds 4 of 9 episodes"):
        Dataset.open(dataset.root)


# The command line


def command(*args):
    return subprocess.run(
        [sys.executable, "-m", "data.shards", *map(str, args)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_info_says_what_the_dataset_is_and_verify_that_it_is_whole(dataset):
    told = command("info", dataset.root).stdout
    assert "4 of 4 episodes of tiny, 1 of them for validation" in told and "expert" in told
    checked = command("verify", dataset.root)
    assert checked.returncode == 0 and "all 2 shards" in checked.stdout


def test_verify_names_every_file_that_is_wrong(dataset):
    write_dataset(dataset.root, ((20, 33), (1, 17), (5,), (6,)))
    content = bytearray((dataset.root / "shard_00000.h5").read_bytes())
    content[len(content) // 2] ^= 1
    (dataset.root / "shard_00000.h5").write_bytes(content)
    (dataset.root / "shard_00001.h5").unlink()
    shards.write_shard(dataset.root / "shard_00003.h5", [episode(5, 6, seed=77)])
    (dataset.root / ".shard_00009.h5.123.tmp").touch()
    checked = command("verify", dataset.root)
    lines = checked.stdout.splitlines()
    assert checked.returncode == 1 and checked.stderr == ""
    assert [line.split(":")[0] for line in lines] == [
        "shard_00000.h5",
        "shard_00001.h5",
        "shard_00003.h5",
        ".shard_00009.h5.123.tmp",
    ]
    assert "is missing" in lines[1]


def test_verify_compares_contents_with_the_manifest(dataset):
    e = dataset.episodes[0]
    worse = (EpisodeEntry(e.index, e.seed + 1, e.policy, e.steps, e.score, e.split), *dataset.episodes[1:])
    write_manifest(dataset.root, dataclasses.replace(dataset.manifest, episodes=worse))
    assert len(shards.verify(dataset.root)) == 1
    better = (EpisodeEntry(e.index, e.seed, e.policy, e.steps, e.score + 1, e.split), *dataset.episodes[1:])
    write_manifest(dataset.root, dataclasses.replace(dataset.manifest, episodes=better))
    assert "return of episode 0" in shards.verify(dataset.root)[0]
