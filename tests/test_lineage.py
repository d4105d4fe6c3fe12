"""Where a run comes from, as its checkpoints say and its page tells: datasets as they were when a stage was trained on
them, and the round that was chosen."""

import json

import pytest

from dreamdrive.data.shards import Dataset
from dreamdrive.pages.run import read_run, sources
from dreamdrive.tests.tiny_checkpoint import write_checkpoint
from dreamdrive.tests.tiny_run import call, write_dataset
from dreamdrive.utils import checkpoint


def trained_on(logdir, stage, datasets, digests=None):
    """A checkpoint of a stage that names these datasets."""
    without = ("dataset_digests",) if digests is None else ()
    said = {"datasets": [str(d) for d in datasets], "dataset_digests": digests}
    write_checkpoint(logdir, stage, without, **said)


def page(logdir) -> str:
    done = call("pages.report", logdir)
    assert done.returncode == 0, done.stderr
    return (logdir / "report.html").read_text()


def test_a_dataset_that_has_changed_since_is_told(tmp_path):
    data = write_dataset(tmp_path / "data", [5] * 8)
    trained_on(tmp_path / "run", "vae", [data.root], [data.digest])
    trained_on(tmp_path / "run", "mdrnn", [data.root], [data.digest])
    assert data.digest[:12] in page(tmp_path / "run") and "changed since" not in page(tmp_path / "run")
    call("data.shards", "split", data.root, "--val-fraction", 0.5)
    now = Dataset.open(data.root).digest
    trained_on(tmp_path / "run", "mdrnn", [data.root], [now])
    said = page(tmp_path / "run")
    assert f"changed since vae was trained on it, as {data.digest[:12]}" in said and now[:12] in said
    assert "changed since mdrnn" not in said


def test_of_a_dataset_that_is_gone_the_digest_stays(tmp_path):
    trained_on(tmp_path / "run", "vae", ["datasets/gone"], ["ab" * 32])
    said = page(tmp_path / "run")
    assert "datasets/gone: not here any more" in said and "abababababab" in said and "changed since" not in said


@pytest.mark.parametrize("digests", [None, [], ["x", "y"]])
def test_checkpoints_of_older_versions_and_odd_ones_have_a_page(digests, tmp_path):
    data = write_dataset(tmp_path / "data", [5] * 4)
    trained_on(tmp_path / "run", "vae", [data.root], digests)
    assert data.digest[:12] in page(tmp_path / "run")


@pytest.mark.parametrize("digests", ["text", [7]])
def test_damaged_ones_have_a_page_that_says_so_in_their_place(digests, tmp_path):
    data = write_dataset(tmp_path / "data", [5] * 4)
    trained_on(tmp_path / "run", "vae", [data.root], digests)
    trained_on(tmp_path / "run", "mdrnn", [data.root], [data.digest])
    said = page(tmp_path / "run")
    assert said.count('class="problem"') == 1 and "as dataset_digests" in said and data.digest[:12] in said


def test_of_many_datasets_it_is_told_how_many_have_changed(tmp_path):
    data = [write_dataset(tmp_path / f"data-{i}", [5, 6]) for i in range(5)]
    trained_on(tmp_path / "run", "vae", [d.root for d in data], [*(d.digest for d in data[:3]), "ab", "cd"])
    assert "5 datasets</p>" in page(tmp_path / "run") and "2 changed since</p>" in page(tmp_path / "run")


@pytest.mark.slow
def test_every_stage_that_learns_from_datasets_says_which_they_were(trained):
    digest = Dataset.open(trained.data).digest
    for stage in ("vae", "mdrnn", "bc"):
        for name in ("best.tar", "checkpoint.tar"):
            saved = checkpoint.load(trained.logdir / stage / name, stage)
            assert (saved["datasets"], saved["dataset_digests"]) == ([str(trained.data)], [digest])
    [source] = sources(read_run(trained.logdir))
    assert source.digests == dict.fromkeys(("vae", "mdrnn", "bc"), digest) and not source.changed


def rounds(logdir, **change):
    """A run of train.py that has chosen round 2."""
    trained_on(logdir, "vae", [])
    (logdir / "rounds").mkdir()
    for number in range(4):
        said = {"round": number, "frames": 1000 * number, "recorded": {"clean": [1.0, 2.0]}, "settings": {}}
        (logdir / "rounds" / f"{number:02d}.json").write_text(json.dumps(said))
    returns = {"1": [1.0, 2.0, 3.0], "2": [10.0, 20.0, 33.0], "3": [5.0, 6.0, 7.0]}
    said = {"seed": 4, "episodes": 3, "rounds": [1, 2, 3], "returns": returns, "frames": 9999, "best": 2}
    (logdir / "rounds" / "chosen.json").write_text(json.dumps(said | change))
    return logdir


def test_the_round_that_was_chosen_is_told_with_those_it_was_compared_with(tmp_path):
    said = page(rounds(tmp_path / "run"))
    rows = said.partition("The round that was chosen")[2].partition("</table>")[0].split("<tr>")[2:]
    assert [row.count("chosen") for row in rows] == [0, 1, 0]
    for words in ("21.0 [-7.6, 49.6]", "2,000", "10.0", "33.0"):
        assert words in rows[1]
    assert "--seed 4" in said and "9,999 frames" in said


@pytest.mark.parametrize(
    "change",
    [{"best": 7}, {"returns": {"2": []}}, {"returns": {"2": [float("nan")]}}, {"returns": 3}, {"frames": "<b>many"}],
)
def test_a_choice_that_is_damaged_is_one_sentence_in_its_place(change, tmp_path):
    said = page(rounds(tmp_path / "run", **change))
    assert "chosen.json is not what train.py says of its choice" in said
    assert "The round that was chosen" not in said and "<b>many" not in said
