"""`dreamdrive report`: one file of a run, that says what is missing or damaged in its place."""

import base64
import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from dreamdrive.pages.html import Html, join, tag
from dreamdrive.tests.tiny_checkpoint import world, write_checkpoint
from dreamdrive.tests.tiny_run import call, complaint, contents
from dreamdrive.utils import checkpoint
from dreamdrive.utils.intervals import mean_interval, t_quantile
from dreamdrive.utils.video import VideoWriter, save_png

EVIL = "<script>alert('x')</script>"


def stage(logdir: Path, name: str, parents: dict[str, str], rows: list[dict], **settings) -> str:
    """A stage as a command would leave it; gives its digest."""
    folder = logdir / name
    cartpole = world(env="cartpole", options={"repeat": 2})
    about = {"epoch": len(rows), "datasets": ["datasets/gone"]}
    digest = write_checkpoint(logdir, name, parents=parents, world=cartpole, **about)
    (folder / "args.json").write_text(json.dumps({"command": f"python {name}.py --seed 0", "seed": 0, **settings}))
    with open(folder / "metrics.csv", "w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return digest


def score(logdir: Path, controller: str, returns: list[float], digests: dict[str, str]) -> Path:
    """A score file as test_controller.py leaves it."""
    path = logdir / "scores" / f"{controller}-cartpole-simulator.json"
    path.parent.mkdir(exist_ok=True)
    said = {"env": "cartpole", "returns": {str(2_000_000 + i): value for i, value in enumerate(returns)}}
    path.write_text(json.dumps({**said, "command": "python test_controller.py", "checkpoints": digests}))
    return path


def make_run(logdir: Path, shift: float = 0.0) -> Path:
    """A run of V and a clone, with a picture, a film, a score and a round."""
    rows = [{"epoch": e, "loss": 3 / e, "val_loss": 4 / e, "val_kept": 0.5, "method": ""} for e in range(1, 4)]
    vae = stage(logdir, "vae", {}, rows, latent=8, learning_rate=0.001 + shift)
    bc = stage(logdir, "bc", {"vae": vae}, [{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 0.5}])
    (logdir / "vae" / "samples").mkdir()
    save_png(logdir / "vae" / "samples" / "epoch_003.png", np.full((8, 8, 3), 99, np.uint8))
    with VideoWriter(logdir / "drive.mp4", 10) as video:
        video.add(np.zeros((16, 16, 3), np.uint8))
    score(logdir, "bc", [10.0 + shift, 20.0 + shift, 33.0 + shift], {"vae": vae, "bc": bc})
    (logdir / "rounds").mkdir()
    said = {"round": 0, "frames": 1000, "recorded": {"random": [1.0, 2.0]}, "settings": {"env": "cartpole"}}
    (logdir / "rounds" / "00.json").write_text(json.dumps(said))
    return logdir


def written(logdir: Path) -> str:
    done = call("pages.report", logdir)
    assert done.returncode == 0 and "report.html" in done.stdout, done.stderr
    return (logdir / "report.html").read_text()


@pytest.fixture
def logdir(tmp_path) -> Path:
    return make_run(tmp_path / "mine")


def test_a_run_is_one_file_with_everything_in_it(logdir):
    before = contents(logdir)
    text = written(logdir)
    assert {name: content for name, content in contents(logdir).items() if name != "report.html"} == before
    digest = checkpoint.load(logdir / "vae" / "best.tar", "vae")["digest"][:12]
    for wanted in (
        digest,
        "python vae.py --seed 0",
        "latent",
        "repeat 2",
        "Scores",
        "Rounds",
        "datasets/gone: not here",
    ):
        assert wanted in text
    assert text.count(digest) > 1, "V's own digest, and the clone's parent"
    assert re.search(r">21\.0</td><td>-?[\d.]+ to [\d.]+</td>", text), "mean and interval"
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(source.startswith(("data:", "#")) for source in sources) and "http" not in re.sub(
        r"data:[^\"]*", "", text
    )
    kinds = [source.partition(";")[0] for source in sources if source.startswith("data:") and ";" in source]
    assert sorted(kinds) == ["data:image/png", "data:video/mp4"]
    film = next(source for source in sources if "video" in source)
    assert base64.b64decode(film.partition(",")[2]) == (logdir / "drive.mp4").read_bytes()


def test_curves_have_whole_epochs(logdir):
    text = written(logdir)
    ticks = re.findall(r"<text[^>]*>([\d.,]+)</text>", text[text.index("by epoch") :])
    assert {"1", "2", "3"} <= set(ticks) and not {"1.5", "2.5"} & set(ticks[:3])


def test_a_column_that_stays_the_same_is_a_number_and_a_text_column_is_nothing(logdir):
    text = written(logdir)
    assert "val_kept 0.5" in text and ">method<" not in text


def test_a_missing_stage_is_absent(logdir):
    shutil.rmtree(logdir / "bc")
    for gone in ("vae/args.json", "vae/metrics.csv"):
        (logdir / gone).unlink()
    text = written(logdir)
    assert "V (vae)" in text and "cloned" not in text and 'class="problem"' not in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vae/args.json", b"[1]"),
        ("vae/args.json", b"\xff{"),
        ("vae/metrics.csv", b"epoch,loss\n1,2,3\n"),
        ("vae/metrics.csv", b"a,b\n1,2\n"),
        ("vae/metrics.csv", b"epoch,loss\n\xff,1\n"),
        ("vae/metrics.csv", b"epoch,loss\nx,1\n"),
        ("vae/best.tar", b"PK\x03\x04nothing"),
        ("vae/samples/epoch_003.png", b"\x89PNG\r\n\x1a\n broken"),
        ("drive.mp4", b"no film"),
        ("scores/bc-cartpole-simulator.json", b'{"env": "cartpole", "returns": {"1": NaN}}'),
        ("scores/bc-cartpole-simulator.json", b'{"env": "cartpole", "returns": [1]}'),
        ("scores/bc-cartpole-simulator.json", b"[" * 100_000),
        ("scores/bc-cartpole-simulator.json", b'{"env": "cartpole", "returns": {"1": 1' + b"0" * 400 + b"}}"),
        ("rounds/00.json", b'{"round": 0}'),
        ("rounds/00.json", b'{"round": 0, "frames": Infinity, "recorded": {}}'),
        ("rounds/00.json", b'{"round": 0, "frames": 1, "recorded": {"a": [NaN]}}'),
        ("rounds/00.json", b'{"round": 0, "frames": 1, "recorded": {"a": "b"}}'),
    ],
)
def test_a_damaged_file_is_one_sentence_in_its_place(logdir, name, content):
    (logdir / name).write_bytes(content)
    text = written(logdir)
    assert text.count('class="problem"') == 1 and Path(name).name in text.split('class="problem">')[1].split("<")[0]


def test_numbers_beyond_all_bounds_are_left_out(logdir):
    (logdir / "vae" / "metrics.csv").write_text(
        "epoch,loss,kl\n1,1e308,1\n,3,2\nnan,3,2\ninf,3,2\n2,-1e308,inf\n3,1,4\n"
    )
    assert 'class="problem"' not in written(logdir)


def test_text_from_files_is_escaped(logdir):
    said = {"command": EVIL, "seed": EVIL, EVIL: 1}
    (logdir / "vae" / "args.json").write_text(json.dumps(said))
    (logdir / "vae" / "metrics.csv").write_text(f'epoch,loss,"{EVIL}",$x^$\n1,2,3,4\n')
    (logdir / "rounds" / "00.json").write_text(
        json.dumps({"round": 0, "frames": 1, "recorded": {"$\\frac" + EVIL: [1]}})
    )
    (logdir / EVIL.replace("/", "-")).with_suffix(".mp4").write_bytes(b"\0\0\0\x20ftypisom")
    text = written(logdir)
    assert "<script" not in text and text.count("&lt;script&gt;") > 3
    assert tag("p", EVIL, title='"') == '<p title="&quot;">&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;</p>'
    assert join([Html("<b>"), "<b>", None]) == "<b>&lt;b&gt;"


def test_a_score_of_an_earlier_checkpoint_and_a_foreign_parent_are_told(logdir):
    shutil.rmtree(logdir / "vae")
    stage(logdir, "vae", {}, [{"epoch": 1, "loss": 1.0}])
    text = written(logdir)
    assert "an earlier checkpoint" in text and "trained on vae" in text


def test_a_large_film_stays_beside_the_page(logdir, monkeypatch):
    monkeypatch.setattr("dreamdrive.pages.html.LARGEST_FILM", 10)
    text = written(logdir)
    assert 'src="drive.mp4"' in text and "not in this file" in text


def test_no_run_and_a_page_of_another_name_are_complaints(logdir, tmp_path):
    before = contents(logdir)
    assert "holds no stage of a run" in complaint(call("pages.report", tmp_path / "nothing"))
    assert "ends in .html" in complaint(call("pages.report", logdir, "--out", logdir / "vae" / "best.tar"))
    assert contents(logdir) == before


def test_intervals_are_those_of_student():
    assert [round(t_quantile(n), 3) for n in (1, 2, 5, 9, 30)] == [12.706, 4.303, 2.571, 2.262, 2.042]
    found = mean_interval([1.0, 2.0, 3.0, 4.0])
    assert found.mean == 2.5 and round(found.high - found.mean, 3) == round(3.182446 * 1.2909944 / 2, 3)
    assert not mean_interval([7.0]).known and mean_interval([7.0]).low == 7.0
