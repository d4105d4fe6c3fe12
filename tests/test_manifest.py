"""A manifest is what was written, or refused; its numbers are possible before anything is counted by them."""

import json
import time
from dataclasses import replace

import pytest

from dreamdrive.data.ledger import Ledger
from dreamdrive.data.manifest import CHECKSUM, MANIFEST, read_manifest
from dreamdrive.data.shards import Dataset
from dreamdrive.tests.tiny_run import write_dataset
from dreamdrive.utils.errors import UserError

HUGE = 10**12


@pytest.fixture
def folder(tmp_path):
    return write_dataset(tmp_path / "data", [5, 6, 7], image=(8, 8, 3)).root


def edit(folder, change, checksum=False):
    """Change what is in a manifest; without its checksum unless that is to stay."""
    value = json.loads((folder / MANIFEST).read_text())
    if not checksum:
        del value[CHECKSUM]
    change(value)
    (folder / MANIFEST).write_text(json.dumps(value))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(env="gym:Made-ep"),
        lambda m: m.update(dt=0.025),
        lambda m: m.update(seed=1),
        lambda m: m.update(max_steps=1001),
        lambda m: m["episodes"][0].update(seed=5),
        lambda m: m["episodes"][0].update({"return": 11.0}),
        lambda m: m["options"].update(repeat=2),
    ],
)
def test_another_world_or_seed_is_refused_though_it_is_possible(change, folder):
    edit(folder, change, checksum=True)
    with pytest.raises(UserError, match=f'changed after it had been written.* takes the line "{CHECKSUM}" away'):
        read_manifest(folder)


def test_one_without_a_checksum_as_older_versions_wrote_it_is_read_and_has_the_same_digest(folder):
    before = Dataset.open(folder)
    edit(folder, lambda m: None)
    after = Dataset.open(folder)
    assert after.manifest == before.manifest and after.digest == before.digest


def test_what_lies_in_the_file_may_be_laid_out_anew(folder):
    value = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(dict(reversed(value.items())), indent=4))
    assert Dataset.open(folder).episode(1).index == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(rollouts=HUGE),
        lambda m: (m.update(rollouts=HUGE), m["shards"][-1].update(last=HUGE)),
        lambda m: m["shards"][-1].update(last=HUGE),
        lambda m: m.update(rollouts=True),
        lambda m: m.update(seed=-1),
        lambda m: m.update(seed=1 << 64),
        lambda m: m.update(dt=0),
        lambda m: m.update(dt="fast"),
        lambda m: m.update(val_fraction=2),
        lambda m: m.update(action_noise=-1),
        lambda m: m.update(max_steps=0),
        lambda m: m.update(env=None),
        lambda m: m.update(policies=["brown", "brown"]),
        lambda m: m.update(grown_from=[HUGE]),
        lambda m: m.update(options=[]),
        lambda m: m.update(by_place=1),
        lambda m: m["shards"][0].update(bytes=1 << 60),
        lambda m: m["shards"][0].update(sha256="x"),
        lambda m: m["episodes"][0].update(seed=1.5),
        lambda m: m["episodes"][0].update({"return": None}),
        lambda m: m.update(image_shape=[4096, 4096, 10**9]),
    ],
)
def test_numbers_that_are_not_possible_are_refused_at_once(change, folder):
    edit(folder, change)
    since = time.monotonic()
    with pytest.raises(UserError, match="is not a manifest that can be used"):
        read_manifest(folder)
    assert time.monotonic() - since < 2


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", "1" * 5000])
def test_what_is_no_number_is_refused(text, folder):
    path = folder / MANIFEST
    path.write_text(path.read_text().replace('"dt": 0.02', f'"dt": {text}'))
    with pytest.raises(UserError, match="is not a manifest that can be used"):
        read_manifest(folder)


def test_frames_that_no_file_of_that_size_holds_are_refused_before_it_is_read(folder):
    dataset = Dataset.open(folder)
    shard = replace(dataset.shards[0], frames=10**9 + 2, steps=10**9)
    episodes = tuple(replace(e, steps=s) for e, s in zip(dataset.episodes, (10**9 - 1, 1, 7), strict=True))
    listed = replace(dataset.manifest, shards=(shard, *dataset.shards[1:]), episodes=episodes)
    from dreamdrive.data.examination import examine

    with pytest.raises(ValueError, match="cannot be in the"):
        examine(folder / shard.file, listed, shard)


class Slow:
    """In the place of writing a manifest: takes a second of a clock that does not run otherwise."""

    def __init__(self, monkeypatch):
        self.now, self.written = 0.0, []
        monkeypatch.setattr("dreamdrive.data.ledger.time.monotonic", lambda: self.now)
        monkeypatch.setattr("dreamdrive.data.ledger.write_manifest", self.write)

    def write(self, folder, manifest):
        self.now += 1.0
        self.written.append((self.now, [shard.first for shard in manifest.shards], len(manifest.episodes)))


def test_what_comes_in_is_listed_in_a_tenth_of_the_time_and_all_of_it_in_the_end(monkeypatch, tmp_path):
    whole = write_dataset(tmp_path, [1] * 60, image=(8, 8, 3)).manifest  # two episodes a shard
    slow = Slow(monkeypatch)
    with pytest.raises(KeyboardInterrupt), Ledger(tmp_path, replace(whole, shards=(), episodes=())) as ledger:
        for k in reversed(range(30)):
            slow.now += 1.0
            ledger.add(whole.shards[k], whole.episodes[2 * k : 2 * k + 2])
        raise KeyboardInterrupt
    times, firsts, episodes = zip(*slow.written, strict=True)
    assert times == (2.0, 13.0, 24.0, 34.0), "at once, then ten seconds after the last one, and at the end"
    assert episodes == (2, 22, 42, 60) and all(list(found) == sorted(found) for found in firsts), "and in order"
    assert ledger.manifest == whole
