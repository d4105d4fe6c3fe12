"""The table of times from a fresh clone to each first picture."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from dreamdrive.benchmarks import first_pictures
from dreamdrive.benchmarks.first_pictures import BEGUN, DEMO, TYPED, Seen, began_at, of_demo, of_shipped_run, report
from dreamdrive.scripts.demo import CARRACING
from dreamdrive.utils.errors import UserError


@pytest.fixture
def made(tmp_path):
    """What is left of a demo that began at 1,000: its files, one every ten seconds."""
    for number, path in enumerate((BEGUN, *DEMO.values())):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
        os.utime(tmp_path / path, (0, 1000 + 10 * number))
    return tmp_path


def test_pictures_of_a_demo_are_as_old_as_their_files(made):
    rows = of_demo(made, 1000.0)
    assert [row.title for row in rows] == list(DEMO) and [row.seconds for row in rows] == [
        10.0 * i for i in range(1, 8)
    ]


def test_a_demo_that_has_not_run_is_told(made):
    (made / "exp_dir/demo/drive.mp4").unlink()
    with pytest.raises(UserError, match="lacks exp_dir/demo/drive.mp4: run `make demo`"):
        of_demo(made, 1000.0)


def test_a_demo_that_was_run_again_tells_no_times(made):
    os.utime(made / BEGUN, (0, 1045))
    with pytest.raises(UserError, match="is of several goes: run it in a fresh clone"):
        of_demo(made, began_at(made))
    (made / BEGUN).unlink()
    with pytest.raises(UserError, match=f"lacks {BEGUN}"):
        began_at(made)


def test_the_demo_makes_what_is_asked_after():
    folders = {str(path.parent) for path in DEMO.values()}
    known = {str(CARRACING.logdir / name) for name in ("scores", "vae/samples", "mdrnn/dreams", "bc", ".")}
    assert folders - {str(Path(BEGUN).parent)} <= known


def test_each_command_is_typed_in_the_clone_and_pages_are_opened(monkeypatch, tmp_path):
    typed, seen = [], []
    monkeypatch.setattr(first_pictures, "played", lambda browser, clone, flag: 3.0)
    monkeypatch.setattr(first_pictures, "shown", lambda browser, page: seen.append(page))
    clone = SimpleNamespace(folder=tmp_path, type=typed.append)
    rows = of_shipped_run(None, clone)
    assert typed == [command for command, _ in TYPED.values()] and len(seen) == 3
    assert [row.title for row in rows if row.before] == ["these as a page with films"]


def test_the_table_counts_what_was_needed_before():
    rows = [Seen("a film", "a b", 3.0), Seen("a page", "c", 4.0, before=10.0)]
    text = report({"git clone": 1.0, "make setup": 80.0}, rows, "The demo's.")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert lines[3] == ["`make setup`", "80", ""] and lines[4] == ["a film: `a b`", "3", "84"]
    assert lines[5] == ["a page: `c`", "4", "95"] and "The demo's. Measured by" in text
