"""A dataset's steps as pairs, in each format as others read it, and what is refused."""

import json
import sys

import numpy as np
import pytest

from dreamdrive.data import pairs
from dreamdrive.data.minari_file import FOLDER, MAIN
from dreamdrive.data.pairs import export_pairs
from dreamdrive.tests.tiny_run import DISCRETE, call, complaint
from dreamdrive.tests.tiny_run import write_dataset as made_up
from dreamdrive.utils.errors import UserError

DATASETS = {
    "pictures": lambda folder: made_up(folder, [5, 9, 3]),
    "pictures and choices": lambda folder: made_up(folder, [5, 9, 3], space=DISCRETE, per_shard=1),
    "numbers": lambda folder: made_up(folder, [5, 9, 3], image=(4,), expert=False),
}


def wanted(dataset) -> dict[str, np.ndarray]:
    """Every column, put together from whole episodes."""
    episodes = list(dataset.read())
    columns = {
        "observation": [e.obs[:-1] for e in episodes],
        "action": [e.action for e in episodes],
        "next_observation": [e.obs[1:] for e in episodes],
        **{name: [getattr(e, name) for e in episodes] for name in ("reward", "terminated", "truncated")},
        "episode": [np.full(len(e.action), e.index) for e in episodes],
        "step": [np.arange(len(e.action)) for e in episodes],
        "validation": [
            np.full(len(e.action), entry.split == "val") for e, entry in zip(episodes, dataset.episodes, strict=True)
        ],
    }
    return {name: np.concatenate(parts) for name, parts in columns.items()}


@pytest.mark.parametrize("kind", DATASETS)
def test_numpy_reads_the_pairs_without_pickles(kind, tmp_path):
    dataset = DATASETS[kind](tmp_path / "data")
    assert export_pairs(tmp_path / "data", tmp_path / "deep" / "x.npz") == 17
    with np.load(tmp_path / "deep" / "x.npz", allow_pickle=False) as found:
        expected = wanted(dataset)
        assert set(found.files) == set(expected)
        for name, values in expected.items():
            assert np.array_equal(found[name], values), name
            assert found[name].dtype == (bool if name in ("terminated", "truncated") else values.dtype), name
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.npz"]


@pytest.mark.parametrize("kind", DATASETS)
def test_pyarrow_reads_the_pairs(kind, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    monkeypatch.setattr(pairs, "BATCH", 4)
    dataset = DATASETS[kind](tmp_path / "data")
    assert export_pairs(tmp_path / "data", tmp_path / "x.parquet") == 17
    table = parquet.read_table(tmp_path / "x.parquet")
    told = json.loads(table.schema.metadata[b"dreamdrive"])
    assert told["env"] == dataset.manifest.env and told["action_space"] == dataset.manifest.action_space
    for name, values in wanted(dataset).items():
        found = np.array(table[name].to_pylist()).reshape(-1, *told["shapes"][name])
        assert np.allclose(found, values, atol=0), name


def test_minari_gets_episodes(tmp_path):
    DATASETS["pictures"](tmp_path / "data")
    done = call("data.exchange", "export", "pairs", tmp_path / "data", "--out", tmp_path / "x-v0")
    assert done.returncode == 0 and "17 steps" in done.stdout, done.stderr
    assert (tmp_path / "x-v0" / FOLDER / MAIN).exists()


@pytest.mark.parametrize("name", ["x", "x.csv", "x.npz.gz", ".npz"])
def test_a_name_that_says_no_format_is_refused(name, tmp_path):
    DATASETS["numbers"](tmp_path / "data")
    with pytest.raises(UserError, match=r"ends in \.npz, \.parquet, or in -v0"):
        export_pairs(tmp_path / "data", tmp_path / name)


def test_nothing_is_replaced_and_nothing_left_behind(tmp_path, monkeypatch):
    DATASETS["numbers"](tmp_path / "data")
    (tmp_path / "x.npz").write_text("mine")
    with pytest.raises(UserError, match="there already: choose another --out"):
        export_pairs(tmp_path / "data", tmp_path / "x.npz")
    assert (tmp_path / "x.npz").read_text() == "mine"
    (tmp_path / "x.npz").unlink()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pairs, "column", full)
    with pytest.raises(UserError, match="No space left on device.*free some space"):
        export_pairs(tmp_path / "data", tmp_path / "x.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_is_no_dataset_or_has_no_pyarrow_is_one_sentence(tmp_path, monkeypatch):
    done = call("data.exchange", "export", "pairs", tmp_path / "none", "--out", tmp_path / "x.npz")
    assert complaint(done) and not (tmp_path / "x.npz").exists()
    DATASETS["numbers"](tmp_path / "data")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="needs the package pyarrow"):
        export_pairs(tmp_path / "data", tmp_path / "x.parquet")
