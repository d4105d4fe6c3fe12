"""Files of HDF5 are looked through in a process of their own before they are read here; whatever they do there is one
sentence, and no file is looked through twice."""

import os
import resource
import shutil
import threading
import time
import zlib
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import h5py
import pytest

from dreamdrive.benchmarks.hdf5_mutations import edited, fletcher32
from dreamdrive.data import examination, trust
from dreamdrive.data.manifest import EpisodeEntry, Manifest, ShardEntry, write_manifest
from dreamdrive.data.shards import Dataset, verify
from dreamdrive.tests.tiny_hostile import dies, len_of
from dreamdrive.tests.tiny_run import ROOT, write_dataset
from dreamdrive.utils import sandbox
from dreamdrive.utils.errors import UserError

BROUGHT = ROOT.parent / "shared" / "cases" / "trust"
CASES = sorted(BROUGHT.glob("rel_h5_*.h5"))
needs_cases = pytest.mark.skipif(not CASES, reason=f"needs {BROUGHT}/rel_h5_*.h5")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("SIGSEGV", "crash, by SIGSEGV"),
        ("SIGABRT", "crash, by SIGABRT"),
        ("SIGKILL", "crash, by SIGKILL"),
        ("memory", "more than 67 MB"),
        ("a little memory after the other", "more than 67 MB"),
        ("time", "more than 0.2 s of a processor"),
        ("a status", "ends, with status 3"),
        ("an exception", "there is nothing"),
    ],
)
def test_however_a_reader_ends_it_is_a_sentence_and_the_next_one_reads(how, said):
    with pytest.raises(ValueError, match=said):
        sandbox.call(dies, (how,), 64 << 20, 0.2)
    assert sandbox.call(len_of, ([1, 2],), 64 << 20, 1.0) == 2


def test_sentences_and_what_the_system_says_come_through_as_they_are(tmp_path):
    with pytest.raises(UserError, match="do something else"):
        sandbox.call(dies, ("a sentence",), 64 << 20, 1.0)
    with pytest.raises(OSError, match="File too large|signal") as error:
        sandbox.call(dies, (f"a write to {tmp_path / 'written'}",), 64 << 20, 1.0)
    assert not isinstance(error.value, UserError)
    assert not (tmp_path / "written").exists() or not (tmp_path / "written").read_bytes()


def test_threads_ask_one_after_another():
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(sandbox.call(len_of, ([0] * n,), 64 << 20, 1.0)))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(8))


def listed_as_it_is(folder: Path, content: bytes) -> Dataset:
    """The dataset in `folder`, its first shard replaced, and listed so by whoever sends it."""
    dataset = Dataset.open(folder)
    entry = dataset.shards[0]
    (folder / entry.file).write_bytes(content)
    entry = replace(entry, bytes=len(content), sha256=sha256(content).hexdigest())
    write_manifest(folder, replace(dataset.manifest, shards=(entry, *dataset.shards[1:])))
    return Dataset.open(folder)


@needs_cases
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_shards_that_were_brought_are_refused_in_a_second_of_a_processor(path, tmp_path):
    content = path.read_bytes()
    entry = ShardEntry("shard_00000.h5", sha256(content).hexdigest(), len(content), 0, 1, 61, 60)
    (tmp_path / entry.file).write_bytes(content)
    episode = EpisodeEntry(0, 0, "brown", 60, 60.0, "train")
    head = Manifest("gym:X", (64, 64, 3), {"type": "discrete", "n": 2}, 0.02, 500, 0, "brown", 0.0, 0.0, 1, ("brown",))
    write_manifest(tmp_path, replace(head, shards=(entry,), episodes=(episode,)))
    with pytest.raises(UserError, match="shard_00000.h5 cannot be used .* --repair"):
        Dataset.open(tmp_path).episode(0)
    assert len(verify(tmp_path)) == 1


CHUNKS = {
    "a byte": (lambda raw: b"x", 0),
    "nothing but a checksum": (lambda raw: raw[-4:], 0),
    "half of what it should unpack to": (lambda raw: packed(8 * 8 * 8 * 3), 0),
    "more than it should unpack to": (lambda raw: packed(17 * 8 * 8 * 3), 0),
    "64 MB, unpacked": (lambda raw: packed(64 << 20), 0),
    "no filter": (lambda raw: raw[:-1], 3),
    "no checksum": (lambda raw: raw[:-4], 2),
}


def packed(size: int) -> bytes:
    content = zlib.compress(bytes(size), 9)
    return content + fletcher32(content)


@pytest.mark.parametrize("name", CHUNKS)
def test_a_chunk_is_as_long_as_it_must_be_before_anybody_reads_it(name, tmp_path):
    """HDF5 gives a short one with what lies behind it in memory."""
    dataset = write_dataset(tmp_path / "data", [30, 20], image=(8, 8, 3))
    change, mask = CHUNKS[name]
    with edited((dataset.root / "shard_00000.h5").read_bytes()) as (file, done):
        raw = bytes(file["obs"].id.read_direct_chunk((16, 0, 0, 0))[1])
        file["obs"].id.write_direct_chunk((16, 0, 0, 0), change(raw), mask)
        content = done()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    hostile = listed_as_it_is(dataset.root, content)
    with pytest.raises(UserError, match="shard_00000.h5 cannot be used"):
        hostile.episode(0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32_000  # kB


@pytest.fixture
def looked_through(monkeypatch):
    """Shards that were looked through, by name."""
    names: list[str] = []
    examine = examination.examine
    monkeypatch.setattr(examination, "examine", lambda *args: names.append(args[0].name) or examine(*args))
    return names


@pytest.fixture
def newcomer(monkeypatch, tmp_path):
    """A process that has met no file yet, on an installation that has not either; called again, another process."""

    def forget() -> None:
        monkeypatch.setattr(trust, "_digests", {})
        monkeypatch.setattr(trust, "_sound", set())

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()
    return forget


def test_what_was_written_here_is_never_looked_through(newcomer, looked_through, tmp_path):
    dataset = write_dataset(tmp_path / "data", [5, 6, 7], image=(8, 8, 3))
    newcomer()
    assert len(list(dataset.read())) == 3 and looked_through == []


def test_a_copy_is_looked_through_once_and_what_has_been_changed_again(newcomer, looked_through, tmp_path, monkeypatch):
    dataset = write_dataset(tmp_path / "data", [5, 6, 7], image=(8, 8, 3))
    shutil.rmtree(tmp_path / "cache")
    newcomer()
    assert len(list(dataset.read())) == 3 and looked_through == ["shard_00000.h5", "shard_00001.h5"]
    newcomer()
    monkeypatch.setattr(trust, "digest_of", lambda path: pytest.fail("it was hashed again"))
    assert len(list(Dataset.open(dataset.root).read())) == 3 and len(looked_through) == 2
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    content = bytearray((dataset.root / "shard_00001.h5").read_bytes())
    content[-1] ^= 1
    (dataset.root / "shard_00001.h5").write_bytes(content)
    with pytest.raises(UserError, match="shard_00001.h5 cannot be used .its sha256 is not the manifest's"):
        Dataset.open(dataset.root).episode(2)


def test_a_file_is_trusted_by_its_content_wherever_it_lies(newcomer, looked_through, tmp_path):
    dataset = write_dataset(tmp_path / "data", [5, 6], image=(8, 8, 3))
    shutil.copytree(dataset.root, tmp_path / "copy")
    newcomer()
    assert len(list(Dataset.open(tmp_path / "copy").read())) == 2 and looked_through == []


def test_without_a_place_to_write_it_down_each_process_looks_once(newcomer, looked_through, tmp_path, monkeypatch):
    dataset = write_dataset(tmp_path / "data", [5, 6], image=(8, 8, 3))
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for times in (1, 2):
        newcomer()
        for _ in range(2):
            assert len(list(Dataset.open(dataset.root).read())) == 2 and len(looked_through) == times


def test_looking_at_what_is_known_costs_next_to_nothing(tmp_path):
    dataset = write_dataset(tmp_path / "data", [5, 6], image=(8, 8, 3))
    path, digest = dataset.root / "shard_00000.h5", dataset.shards[0].sha256
    since = time.perf_counter()
    for _ in range(200):
        trust.require_sound(path, digest, lambda: pytest.fail("it was looked through"))
    assert (time.perf_counter() - since) / 200 < 0.002


@pytest.mark.parametrize("name", ["manifest.json", "shard_00000.h5"])
def test_a_pipe_is_no_file_and_nobody_waits_for_it(name, tmp_path):
    dataset = write_dataset(tmp_path / "data", [5, 6], image=(8, 8, 3))
    (dataset.root / name).unlink()
    os.mkfifo(dataset.root / name)
    with pytest.raises(UserError, match=name):
        Dataset.open(dataset.root).episode(0)


def test_values_that_no_world_gives_are_named(tmp_path):
    for member, value, said in (
        ("terminated", 7, "flags that are neither 0 nor 1"),
        ("reward", float("nan"), "must be finite"),
        ("policy", -1, "policy that is none"),
        ("episode", 5, "not those the manifest lists"),
    ):
        dataset = write_dataset(tmp_path / member, [5, 6], image=(8, 8, 3))
        with edited((dataset.root / "shard_00000.h5").read_bytes()) as (file, done):
            values = file[member][()]
            values[-1] = value
            file[member][()] = values
            content = done()
        with pytest.raises(UserError, match=said):
            listed_as_it_is(dataset.root, content).episode(0)


def test_the_process_ends_when_it_has_nothing_to_do_and_comes_again(monkeypatch):
    sandbox.close()
    soon = sandbox.BEGIN.replace("import serve; serve()", "import serve; serve(0.1)")
    monkeypatch.setattr(sandbox, "BEGIN", soon)
    for _ in range(2):
        assert sandbox.call(len_of, ([1],), 64 << 20, 1.0) == 1
        process = sandbox._process()._process
        assert process is not None and process.wait(10) == 0
    sandbox.close()


def test_examined_shards_are_read_by_hdf5_as_by_nobody_else(tmp_path):
    dataset = write_dataset(tmp_path / "data", [40, 20], image=(8, 8, 3))
    path = dataset.root / "shard_00000.h5"
    with h5py.File(path) as file:
        examination.check_chunks(file, path)
