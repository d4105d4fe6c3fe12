"""Several controllers in one run, by `--name`: what they may be called, who is taken where nobody is named, what they
begin with, and that none of them writes over another."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import dreamdrive
from dreamdrive.data.growing import Growing, manifest_of
from dreamdrive.data.shards import Dataset
from dreamdrive.driving.catalogue import check_driver, known_controller, parse_mixture, usual_controller
from dreamdrive.driving.catalogue import trained as drives
from dreamdrive.envs import make
from dreamdrive.pages.beside import beside
from dreamdrive.pages.compare import rows_of
from dreamdrive.pages.run import read_run
from dreamdrive.teacher.lesson import TeachSettings, initial
from dreamdrive.tests.test_report import make_run, score, stage
from dreamdrive.tests.tiny_run import TINY, call, complaint, contents, copy_run, tiny, write_dataset
from dreamdrive.utils import checkpoint, stages
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.metrics import read_csv
from dreamdrive.utils.scores import read_score

LATER = TINY["trainbc"][2:]  # of what begins with a clone, which takes no --epochs
WRONG = ("", "a/b", "..", "a..b", ".hidden", "-x", "a b", "ä", "a\n", "x" * 61)


def made_up(run: Path, *names: str) -> Path:
    """A run of V, M and controllers of which nothing but the names is right."""
    for name in ("vae", "mdrnn", *names):
        (run / name).mkdir(parents=True)
        (run / name / "best.tar").touch()
    return run


@pytest.mark.parametrize("name", WRONG)
def test_a_bad_name_is_refused_in_a_sentence(name, tmp_path):
    for module in ("trainbc", "traincontroller"):
        said = complaint(call(module, "--logdir", tmp_path / "run", f"--name={name}"))
        assert "is no name for a controller: give letters" in said
    assert not (tmp_path / "run").exists()
    assert stages.kind_of(f"bc-{name}") == "" and stages.wrong_name(name)
    with pytest.raises(UserError, match="no name for a controller"):
        stages.stage_named("bc", name)


@pytest.mark.parametrize("name", ["dagger", "v1.2", "A_b-c", "7", "_"])
def test_a_name_says_the_folder_and_the_folder_what_it_holds(name):
    for kind in ("ctrl", "bc"):
        folder = stages.stage_named(kind, name)
        assert (folder, stages.kind_of(folder), stages.name_of(folder)) == (f"{kind}-{name}", kind, name)
    assert stages.stage_named("bc", None) == "bc" and stages.name_of("bc") is None
    assert stages.kind_of(f"vae-{name}") == stages.kind_of(f"BC-{name}") == "", (
        "there is one V; letters are as they are"
    )


def test_controllers_are_those_that_were_trained_the_plain_ones_first(tmp_path):
    run = made_up(tmp_path / "run", "bc-b", "ctrl-z", "bc", "bc-a", "scores", "bc-b c", "rounds")
    (run / "ctrl-begun").mkdir()
    assert stages.controllers(run) == ["bc", "ctrl-z", "bc-a", "bc-b"]
    assert stages.folders(run) == ["vae", "mdrnn", "bc", "ctrl-begun", "ctrl-z", "bc-a", "bc-b"]
    assert stages.controllers(tmp_path / "nothing") == []


@pytest.mark.parametrize(
    "there, taken",
    [
        ((), "ctrl"),
        (("bc", "ctrl", "bc-a"), "ctrl"),
        (("bc", "ctrl-a", "bc-b"), "bc"),
        (("bc-a",), "bc-a"),
        (("bc-a", "ctrl-b"), "the controllers ctrl-b and bc-a: say which"),
    ],
)
def test_who_is_taken_where_nobody_is_named(there, taken, tmp_path):
    run = made_up(tmp_path / "run", *there)
    if " " not in taken:
        assert usual_controller(run) == taken
        return
    with pytest.raises(UserError, match=taken):
        usual_controller(run)
    assert taken in complaint(call("test_controller", "--logdir", run))
    assert known_controller(run) is None, "whoever drives by hand is asked nothing"


def test_an_unknown_controller_is_refused_with_those_there_are(tmp_path):
    run = made_up(tmp_path / "run", "ctrl", "bc", "bc-dagger")
    before = contents(run)
    for module in ("test_controller", "play"):
        said = complaint(call(module, "--logdir", run, "--controller", "bc-dager"))
        assert f"run `python trainbc.py --logdir {run} --name dager` first" in said
        assert "has ctrl, bc and bc-dagger (did you mean bc-dagger?)" in said
        said = complaint(call(module, "--logdir", run, "--controller", "dagger"))
        assert 'there is no driver "dagger" (did you mean bc-dagger?): choose ctrl, bc, bc-dagger' in said
    said = complaint(call("trainbc", "ditto", "--logdir", run, "--name", "x", "--init", run / "bc-dager" / "best.tar"))
    assert "did you mean bc-dagger?" in said
    assert contents(run) == before, "no folder is left of what was refused"
    with pytest.raises(UserError, match="choose ctrl, bc, bc-dagger or expert"):
        check_driver("expret", run, ("expert",))


def test_policies_are_called_as_controllers_are():
    assert parse_mixture("bc-dagger=0.5,expert=0.5") == {"bc-dagger": 0.5, "expert": 0.5}
    assert [drives(name) for name in ("clone", "controller", "bc-x", "expert", "bc-")] == [
        "bc",
        "ctrl",
        "bc-x",
        None,
        None,
    ]
    with pytest.raises(UserError, match="bc-NAME"):
        parse_mixture("vae")


@pytest.fixture(scope="module")
def named(trained, tmp_path_factory):
    """The run with a clone that dagger made better and one that ditto did, both begun with exp_dir/bc; and what was
    there before."""
    run = copy_run(trained, tmp_path_factory.mktemp("named"))
    before = contents(run.logdir)
    init = ("--logdir", run.logdir, "--init", run.logdir / "bc" / "best.tar", *LATER, "--dreams", 8, "--horizon", 6)
    for method, more in (("dagger", ("--passes", 1)), ("ditto", ("--updates", 2))):
        done = call("trainbc", method, "--name", method, "--dream-epochs", 2, *more, *init)
        assert done.returncode == 0 and f"--controller bc-{method}" in done.stdout, done.stderr
    return run, before


def test_methods_stand_beside_each_other_and_begin_with_the_clone_that_is_there(named):
    run, before = named
    after = contents(run.logdir)
    assert {name: after[name] for name in before if name != "source.zip"} == {
        name: content for name, content in before.items() if name != "source.zip"
    }
    clone = checkpoint.load(run.logdir / "bc" / "best.tar", "bc")
    for method in ("dagger", "ditto"):
        folder = run.logdir / f"bc-{method}"
        assert [row["method"] for row in read_csv(folder / "metrics.csv")] == [method] * 2
        best, last = (checkpoint.load(folder / name, "bc") for name in ("best.tar", "checkpoint.tar"))
        assert best["stage"] == "bc" and best["init"] == clone["digest"] and best["parents"] == clone["parents"]
        weights = last["cloned"]["model"]
        assert all(weights[name].equal(clone["model"][name]) for name in weights), "it begins where cloning ended"
        assert best["best"] >= last["cloned"]["score"], "the clone that it began with counts"
        assert (folder / "dream.mp4").exists() and json.loads((folder / "args.json").read_text())["name"] == method


def test_lineage_says_what_a_clone_began_with(named, tmp_path):
    run = named[0]
    assert call("pages.report", run.logdir, "--out", tmp_path / "page.html").returncode == 0
    digest = checkpoint.load(run.logdir / "bc" / "best.tar", "bc")["digest"]
    assert (tmp_path / "page.html").read_text().count(f"begun with bc {digest[:12]}") == 2


def test_it_resumes_as_if_never_stopped_and_only_with_its_own_clone(named, tmp_path):
    run = copy_run(named[0], tmp_path)
    words = ("dagger", "--logdir", run.logdir, *LATER, "--dreams", 8, "--horizon", 6, "--passes", 1)
    init = ("--init", run.logdir / "bc" / "best.tar")
    shutil.copytree(run.logdir / "bc-dagger", run.logdir / "bc-whole", copy_function=os.link)
    for name, epochs in (("dagger", 3), ("straight", 3)):
        assert call("trainbc", *words, *init, "--name", name, "--dream-epochs", epochs).returncode == 0
    resumed, straight = (
        checkpoint.load(run.logdir / f"bc-{name}" / "checkpoint.tar", "bc") for name in ("dagger", "straight")
    )
    assert resumed["digest"] == straight["digest"]
    before = contents(run.logdir)
    refusals = {
        "began with a clone of --init: give that": ("--name", "whole"),
        "did not begin with --init": ("--init", run.logdir / "bc-straight" / "best.tar"),
        "began with another clone": ("--name", "whole", "--init", run.logdir / "bc-straight" / "best.tar"),
        "would be written over": init,
        "leave one of the two away": (*init, "--name", "whole", "--epochs", 3),
        "has hidden 0, not 7: leave --hidden away": (*init, "--name", "other", "--hidden", 7),
        'is not a checkpoint of stage "bc"': ("--name", "other", "--init", run.logdir / "ctrl" / "best.tar"),
        "was trained on vae": ("--name", "other", "--init", foreign(run.logdir, tmp_path)),
    }
    for said, more in refusals.items():
        assert said in complaint(call("trainbc", *words, *more)), said
    assert contents(run.logdir) == before


def foreign(logdir: Path, folder: Path) -> Path:
    """A clone of another V."""
    saved = checkpoint.load(logdir / "bc" / "best.tar", "bc")
    path = folder / "foreign.tar"
    checkpoint.save(path, "bc", saved["config"], saved["model"], {**saved["parents"], "vae": "0" * 64})
    return path


def test_evolution_begins_with_a_clone_of_any_name_and_has_a_name_itself(named, tmp_path):
    run = copy_run(named[0], tmp_path)
    before = contents(run.logdir / "ctrl")
    done = tiny(
        "traincontroller", "--logdir", run.logdir, "--name", "v2", "--init", run.logdir / "bc-ditto" / "best.tar"
    )
    assert "ctrl-v2/best.tar" in done.stdout and "--controller ctrl-v2" in done.stdout
    assert contents(run.logdir / "ctrl") == before and stages.controllers(run.logdir)[-3:] == [
        "ctrl-v2",
        "bc-dagger",
        "bc-ditto",
    ]
    other = "is of --method cma: give that, use another --name or --logdir"
    assert other in complaint(
        call("traincontroller", "--method", "actor-critic", "--logdir", run.logdir, "--name", "v2")
    )


def test_what_a_lesson_begins_with_says_itself_what_it_is(named, tmp_path):
    """Whatever its folder is called."""
    run, _ = named
    saved = checkpoint.load(run.logdir / "ctrl" / "best.tar", "ctrl")
    (tmp_path / "bc-kept").mkdir()
    shutil.copy(run.logdir / "ctrl" / "best.tar", tmp_path / "bc-kept" / "best.tar")
    args = TeachSettings(logdir=run.logdir, name="mine", init=tmp_path / "bc-kept" / "best.tar")
    head = initial(args, dreamdrive.load_run(run.logdir).agent("bc-dagger").controller.config, saved["parents"])
    assert all(head.state_dict()[name].equal(saved["model"][name]) for name in saved["model"])
    assert args.stage == "bc-mine"
    with pytest.raises(UserError, match='not a checkpoint of stage "ctrl" or "bc"'):
        initial(TeachSettings(init=run.logdir / "vae" / "best.tar"), head.config, {})


def test_scores_recordings_and_exports_are_each_controllers_own(named, tmp_path):
    run = copy_run(named[0], tmp_path)
    for controller in ("bc", "bc-dagger"):
        done = call("test_controller", "--logdir", run.logdir, "--controller", controller, "--episodes", 2)
        assert done.returncode == 0, done.stderr
    found = {score.controller: score for score in map(read_score, sorted((run.logdir / "scores").glob("*.json")))}
    assert set(found) == {"bc", "bc-dagger"} and all(one.place == "gym:CartPole-v1" for one in found.values())
    assert {"vae", "mdrnn", "bc-dagger"} == set(found["bc-dagger"].checkpoints)

    place = ("--rootdir", tmp_path / "recorded", "--threads", 1, "--rollouts", 2, "--logdir", run.logdir)
    done = call("data.generation_script", "--env", "gym:CartPole-v1", "--policy", "bc-dagger", *place)
    manifest = Dataset.open(tmp_path / "recorded").manifest if done.returncode == 0 else None
    assert manifest and manifest.policies == ("bc-dagger",) and "bc-dagger" in manifest.controller, done.stderr

    words = ("export", "run", "--logdir", run.logdir)
    assert call("data.exchange", *words, "--out", tmp_path / "all").returncode == 0
    assert stages.controllers(tmp_path / "all") == ["ctrl", "bc", "bc-dagger", "bc-ditto"]
    halves = {name: checkpoint.load_parent(tmp_path / "all", name) for name in ("bc", "bc-ditto")}
    assert halves["bc-ditto"]["init"] == halves["bc"]["digest"]
    assert call("data.exchange", *words, "--out", tmp_path / "one", "--controller", "bc-ditto").returncode == 0
    assert stages.controllers(tmp_path / "one") == ["bc-ditto"] == [usual_controller(tmp_path / "one")]
    said = complaint(call("data.exchange", *words, "--out", tmp_path / "none", "--controller", "bc-ditt"))
    assert "did you mean bc-ditto?" in said and not (tmp_path / "none").exists()


def test_what_is_kept_of_a_drive_says_which_controller_drove(tmp_path):
    world = make("cartpole", restart=False)
    wanted = manifest_of(world, 0, ("bc", "human"))
    kept = Growing(tmp_path / "kept", wanted)
    assert kept.policy("human") == 1 and kept.policy("bc-dagger") == kept.policy("bc-dagger") == 2
    made = write_dataset(tmp_path / "made", [5], image=wanted.image_shape, space=wanted.action_space)
    kept.add(replace(next(made.read()), policy=2))
    assert Dataset.open(tmp_path / "kept").episodes[0].policy == "bc-dagger"
    assert Growing(tmp_path / "kept", wanted).policy("bc-dagger") == 2, "it is gone on with, whoever drives"


def test_other_code_asks_for_them_by_name(named):
    run = dreamdrive.load_run(named[0].logdir)
    assert run.controllers == ["ctrl", "bc", "bc-dagger", "bc-ditto"]
    assert set(run.agent("bc-ditto").parents) == {"vae", "mdrnn", "bc-ditto"} and "ctrl" in run.agent().parents
    for wrong in ("bc-dito", "dito"):
        with pytest.raises(UserError, match="did you mean bc-ditto"):
            run.agent(wrong)


def test_a_score_is_of_its_controller_whatever_that_is_called(tmp_path):
    """A name may hold the world's."""
    (tmp_path / "scores").mkdir()
    path = tmp_path / "scores" / "bc-cartpole-2-cartpole-bars-simulator.json"
    said = {"env": "cartpole", "returns": {"1": 2.0}}
    path.write_text(json.dumps({**said, "controller": "bc-cartpole-2"}))
    found = read_score(path)
    assert (found.controller, found.trial, found.place) == ("bc-cartpole-2", "bars", "cartpole (bars)")
    path.rename(path.with_name("bc-cartpole-bars-simulator.json"))
    path.with_name("bc-cartpole-bars-simulator.json").write_text(json.dumps(said))
    found = read_score(path.with_name("bc-cartpole-bars-simulator.json"))
    assert (found.controller, found.trial) == ("bc", "bars"), "of a version that had no names"


@pytest.fixture
def several(tmp_path) -> Path:
    """A run of three clones, as its files tell it, the second begun with the first, each with a score."""
    run = make_run(tmp_path / "mine")
    digests = {name: checkpoint.load(run / name / "best.tar", name)["digest"] for name in ("vae", "bc")}
    for name, gain in (("bc-dagger", 5.0), ("bc-a", -5.0)):
        rows = [{"epoch": 1, "loss": 0.9 + gain / 10}, {"epoch": 2, "loss": 0.4}]
        digest = stage(run, name, {"vae": digests["vae"]}, rows, epochs=gain)
        path = score(run, name, [10.0 + gain, 20.0 + gain, 33.0 + gain], {"vae": digests["vae"], name: digest})
        path.write_text(json.dumps({**json.loads(path.read_text()), "controller": name}))
    return run


def test_a_run_s_controllers_are_compared_with_its_plain_one(several):
    rows = {row.score.controller: row for row in rows_of([read_run(several)], ["mine"])["cartpole"]}
    assert list(rows) == ["bc", "bc-a", "bc-dagger"] and rows["bc"].against == ""
    assert rows["bc-dagger"].against == "mine bc" and rows["bc-dagger"].difference.mean == 5.0
    assert not rows["bc-dagger"].old
    done = call("pages.compare", several, "--out", several / "compare.html")
    assert done.returncode == 0 and re.search(r"mine bc-dagger +26\.0 .* \+5\.0 .* 3 +mine bc", done.stdout)
    assert re.search(r"\n +bc +bc-a +bc-dagger\nepochs +-5 +5\n", done.stdout) and "\nname" not in done.stdout
    assert "C, cloned (bc)" in (several / "compare.html").read_text()


def test_controllers_of_several_runs_go_by_both_names(several, tmp_path):
    other = make_run(tmp_path / "other")
    groups = beside([read_run(run) for run in (several, other)], ["mine", "other"])
    assert list(groups["bc"]) == ["mine", "mine bc-a", "mine bc-dagger", "other"]


def test_a_report_has_all_of_them(several):
    assert call("pages.report", several).returncode == 0
    text = (several / "report.html").read_text()
    line = text[text.index('class="line"') : text.index("</section>", text.index('class="line"'))]
    assert [name for name in ("bc", "bc-a", "bc-dagger") if f"C, cloned ({name})" in line] == [
        "bc",
        "bc-a",
        "bc-dagger",
    ]
    assert line.count("<i>or</i>") == 2 and line.count("→") == 2
    assert "C, cloned: bc, bc-a and bc-dagger" in text and "<td>bc-dagger</td>" in text
