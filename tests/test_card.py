"""The model card of `export run --card`: what it says is in the run's files, and what it tells to do works."""

import contextlib
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from dreamdrive.pages.card import CARD, PICTURE, fenced, words
from dreamdrive.tests.test_docs import helped, main_of
from dreamdrive.tests.tiny_run import ROOT, call, complaint, contents
from dreamdrive.utils import checkpoint
from dreamdrive.utils.intervals import mean_interval
from dreamdrive.utils.video import save_png

RETURNS = [910.0, 890.5, 933.25]
EVIL = "python x.py\n```\n<script>alert('x')</script> | [a](javascript:b)"


def write_score(run, controller, returns, digests, world="simulator", env="carracing"):
    said = {
        "env": env,
        "returns": {str(2_000_000 + i): value for i, value in enumerate(returns)},
        "command": f"python test_controller.py --logdir exp_dir/mine --controller {controller}",
        "checkpoints": digests,
    }
    (run / "scores").mkdir(exist_ok=True)
    (run / "scores" / f"{controller}-{env}-{world}.json").write_text(json.dumps(said))


@pytest.fixture
def run(tmp_path):
    """A run with scores: of its evolved driver, also in our fast world and in the dream, of an earlier clone, and of
    the expert."""
    run = shutil.copytree(ROOT / "pretrained" / "carracing", tmp_path / "run")
    digests = {stage: checkpoint.load_parent(run, stage)["digest"] for stage in ("vae", "mdrnn", "ctrl")}
    write_score(run, "ctrl", RETURNS, digests)
    write_score(run, "ctrl", [1.0, 2.0], digests, "dream")
    write_score(run, "ctrl", [901.0, 902.0], digests, env="carracing-fast")
    write_score(run, "bc", [777.0], {**digests, "bc": "0" * 64})
    write_score(run, "expert", [999.0, 998.0], {})
    (run / "vae" / "args.json").write_text(json.dumps({"command": "python trainvae.py --seed 0", "latent": 32}))
    return run


def export(run, out, *flags):
    return call("data.exchange", "export", "run", "--logdir", run, "--out", out, "--card", *flags)


def card_of(run, out, *flags) -> str:
    done = export(run, out, *flags)
    assert done.returncode == 0, done.stderr
    return (out / CARD).read_text()


def blocks(card: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)\n```", card, re.S)


def test_the_hub_reads_the_scores_of_the_runs_own_drivers_as_they_are_now(run, tmp_path):
    yaml = pytest.importorskip("yaml")
    card = card_of(run, tmp_path / "mine", "--license", "cc-by-4.0")
    _, front, _ = card.split("---\n", 2)
    said = yaml.safe_load(front)
    assert said["license"] == "cc-by-4.0" and said["library_name"] == "dreamdrive" and "carracing" in said["tags"]
    [model] = said["model-index"]
    [result] = model["results"]
    [metric] = result["metrics"]
    assert (model["name"], result["dataset"]["type"], metric["name"]) == ("mine", "carracing", "mean return of ctrl")
    assert metric["value"] == f"{np.mean(RETURNS):.2f} +/- {np.std(RETURNS):.2f}" and said["metrics"] == ["mean_reward"]


def test_all_scores_are_told_with_interval_seeds_count_and_command(run, tmp_path):
    card = card_of(run, tmp_path / "mine")
    rows = {line.split(" | ")[0].strip("| "): line for line in card.splitlines() if line.startswith("| ")}
    of = mean_interval(RETURNS)
    assert f"{of.low:.1f} to {of.high:.1f} | 3 | 2000000 to 2000002" in card
    assert "bc (an earlier checkpoint)" in rows and "777.0" in rows["bc (an earlier checkpoint)"]
    assert "999" not in card.split("---\n")[1] and "carracing-fast" in card and "the dream of carracing" in card
    assert "python test_controller.py --logdir exp_dir/mine --controller ctrl" in blocks(card, "bash")[0]
    assert "python trainvae.py --seed 0" in card and '"latent": 32' in blocks(card, "json")[0]


def test_without_scores_there_are_none(run, tmp_path):
    shutil.rmtree(run / "scores")
    card = card_of(run, tmp_path / "mine")
    assert "mean_reward" not in card and "## Scores" not in card and "scores were taken" not in card


def test_lineage_is_by_digests_of_the_run_and_of_what_is_handed_on(run, tmp_path):
    card = card_of(run, tmp_path / "mine")
    for folder in (run, tmp_path / "mine"):
        for stage in ("vae", "mdrnn", "ctrl", "bc"):
            assert checkpoint.load_parent(folder, stage)["digest"][:12] in card
    assert "datasets/carracing |  |  |  |  | not here any more" in card


@pytest.mark.parametrize("name, python", [("carracing", 2), ("breakout", 1)])
def test_what_the_card_tells_to_do_works(name, python, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # away from scores of it in exp_dir
    card = card_of(name, tmp_path / "mine")
    [commands] = blocks(card, "bash")
    for line in commands.splitlines():
        given = line.partition("#")[0].split()
        module, words_ = main_of(given)
        known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", helped(module, tuple(words_))))
        assert {word for word in given if word.startswith("-")} <= known, line
    [code] = blocks(card, "python")
    assert len(code.splitlines()) <= 10
    monkeypatch.chdir(tmp_path / "mine")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, CARD, "exec"), {})
    lines = said.getvalue().splitlines()
    assert lines[0].startswith("return of 100 steps: ") and len(lines) == python
    assert python == 1 or lines[1].startswith("torch.Size([4, 51, 64, 64, 3])")


def test_the_picture_is_the_newest_of_v_or_else_a_dream(run, tmp_path):
    card = card_of(run, tmp_path / "dream")
    with Image.open(tmp_path / "dream" / PICTURE) as drawn:
        assert drawn.width > 600 and np.asarray(drawn).std() > 20
    assert f"]({PICTURE})\n\nDreams, in which the driver of the run drives; time to the right" in card
    (run / "vae" / "samples").mkdir()
    for epoch in (1, 2):
        save_png(run / "vae" / "samples" / f"epoch_{epoch:03d}.png", np.full((8, 8, 3), epoch, np.uint8))
    card = card_of(run, tmp_path / "samples")
    assert f"![Frames, and what V makes of them.]({PICTURE})" in card
    assert (tmp_path / "samples" / PICTURE).read_bytes() == (run / "vae" / "samples" / "epoch_002.png").read_bytes()


def test_a_run_without_v_and_m_has_a_card_without_a_picture(tmp_path):
    card = card_of("breakout", tmp_path / "mine")
    assert "![" not in card and not (tmp_path / "mine" / PICTURE).exists() and "-w" not in card


def test_text_from_files_is_text(run, tmp_path):
    (run / "vae" / "args.json").write_text(json.dumps({"command": EVIL}))
    card = card_of(run, tmp_path / "mine")
    assert f"````bash\n{EVIL}\n````" in card
    assert words(EVIL).count("<") == words(EVIL).count("\n") == 0 and r"\| \[a\](javascript" in words(EVIL)
    assert fenced("a\n````b").startswith("`````\n")


@pytest.mark.parametrize(
    "name, content",
    [
        ("scores/ctrl-carracing-simulator.json", '{"env": "carracing", "returns": {"1": NaN}}'),
        ("vae/args.json", "["),
        ("vae/samples/epoch_001.png", "no picture"),
        ("bc/best.tar", "PK"),
    ],
)
def test_nothing_is_exported_where_a_file_is_damaged(name, content, run, tmp_path):
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text(content)
    assert str(run / name) in complaint(export(run, tmp_path / "mine")) and not (tmp_path / "mine").exists()


def test_a_card_that_is_there_is_not_replaced(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / CARD).write_text("my own")
    before = contents(tmp_path)
    assert "README.md exists already: choose another --out" in complaint(export(run, tmp_path / "mine"))
    done = call("data.exchange", "export", "run", "--logdir", run, "--out", tmp_path / "x", "--license", "mit")
    assert "give --card, too" in complaint(done) and contents(tmp_path) == before
