"""Whatever a user gets wrong: one sentence that says what to do, a failing status, and nothing damaged."""

import hashlib
import shutil
import subprocess
from dataclasses import replace

import pytest

from dreamdrive.data.manifest import read_manifest, write_manifest
from dreamdrive.learning.cloning_settings import CloneSettings
from dreamdrive.learning.vision_settings import VAESettings
from dreamdrive.tests.tiny_run import (
    ROOT,
    TINY,
    Done,
    budget,
    call,
    command,
    complaint,
    contents,
    copy_run,
    variables,
    write_dataset,
)

LENGTHS = [20, 30, 25, 22]
CARTPOLE = {"type": "discrete", "n": 2}
STAGES = {"trainvae": "vae", "trainmdrnn": "mdrnn", "traincontroller": "ctrl", "trainbc": "bc"}


def trained_part(logdir):
    """What must never be damaged; latents can be made again, and args.json tells the latest command."""
    found = contents(logdir)
    return {
        name: hashlib.sha256(content).hexdigest()
        for name, content in found.items()
        if not name.startswith("latents/") and not name.endswith("args.json")
    }


@pytest.fixture
def refused():
    """Run a script, and check that it refused in one sentence and left the run as it was."""

    def run(module, logdir, *options):
        before = trained_part(logdir) if logdir.is_dir() else None
        said = complaint(call(module, *budget(module, "--logdir", logdir, *options)))
        assert (trained_part(logdir) if logdir.is_dir() else None) == before
        return said

    return run


# Parents


@pytest.mark.parametrize(
    ("module", "options", "missing", "remedy"),
    [
        ("trainmdrnn", (), "vae", "trainvae.py"),
        ("traincontroller", (), "vae", "trainvae.py"),
        ("trainbc", (), "vae", "trainvae.py"),
        ("test_controller", (), "vae", "trainvae.py"),
        ("test_controller", ("--controller", "bc"), "vae", "trainvae.py"),
        ("traincontroller", (), "mdrnn", "trainmdrnn.py"),
        ("trainbc", (), "mdrnn", "trainmdrnn.py"),
        ("test_controller", (), "mdrnn", "trainmdrnn.py"),
        ("test_controller", ("--world", "dream", "--controller", "random"), "mdrnn", "trainmdrnn.py"),
        ("test_controller", (), "ctrl", "traincontroller.py"),
        ("test_controller", ("--controller", "bc"), "bc", "trainbc.py"),
    ],
)
def test_a_missing_parent_stage_names_the_command_that_makes_it(
    module, options, missing, remedy, trained, tmp_path, refused
):
    logdir = tmp_path / "run"
    for stage in STAGES.values():
        if stage == missing:
            break
        shutil.copytree(trained.logdir / stage, logdir / stage)
    there = f"; {logdir} has ctrl" if missing == "bc" else ""
    assert (
        refused(module, logdir, *options)
        == f"error: {logdir / missing / 'best.tar'} is missing: run `python {remedy} --logdir {logdir}` first{there}"
    )


def test_a_missing_dataset_or_an_unfinished_one_names_the_command_that_makes_it(tmp_path, refused):
    folder, logdir = tmp_path / "data", tmp_path / "run"
    assert f"record a dataset first with `python data/generation_script.py --rootdir {folder}`" in refused(
        "trainvae", logdir, "--dataset", folder
    )
    write_dataset(folder, LENGTHS)
    write_manifest(folder, replace(read_manifest(folder), rollouts=9))
    assert "holds 4 of 9 episodes: run the command that began it again, which records the rest" in refused(
        "trainvae", logdir, "--dataset", folder
    )
    assert not logdir.exists()


# Datasets


@pytest.mark.parametrize("module", ["trainvae", "trainmdrnn", "trainbc"])
@pytest.mark.parametrize(
    ("given", "said"), [({}, "has env gym:Made-up"), ({"env": "gym:CartPole-v1"}, "has action_space")]
)
def test_a_dataset_of_another_environment_than_the_logdirs_is_refused(module, given, said, trained, tmp_path, refused):
    run = copy_run(trained, tmp_path)
    write_dataset(tmp_path / "other", LENGTHS, **given)
    assert said in refused(module, run.logdir, "--dataset", tmp_path / "other")
    assert said in refused(module, run.logdir, "--dataset", run.data, tmp_path / "other")


def test_a_dataset_without_expert_actions_is_refused_for_cloning(trained, tmp_path, refused):
    run, recorded = copy_run(trained, tmp_path), trained.data.with_name("recorded")
    assert 'has no expert actions in its "train" split: record episodes with `--policy expert`' in refused(
        "trainbc", run.logdir, "--dataset", recorded
    )


def test_a_dataset_without_validation_episodes_is_refused(tmp_path, refused):
    write_dataset(tmp_path / "data", LENGTHS, val_fraction=0.0)
    assert 'no episode in its "val" split' in refused("trainvae", tmp_path / "run", "--dataset", tmp_path / "data")


@pytest.mark.parametrize("module", ["trainvae", "trainmdrnn"])
def test_a_damaged_shard_stops_the_run_and_names_the_file(module, trained, tmp_path, refused):
    run = copy_run(trained, tmp_path)
    victim = sorted(run.data.glob("*.h5"))[2]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 16
    victim.write_bytes(content)
    shutil.rmtree(run.logdir / "latents")
    longer = ("--epochs", 3, "--epoch-frames", 10_000) if module == "trainvae" else ("--epochs", 3)
    said = refused(module, run.logdir, "--dataset", run.data, *longer)
    assert str(victim) in said and f"`dreamdrive data verify {run.data}` says what is wrong" in said


# Numbers


@pytest.mark.parametrize(
    ("module", "options", "said"),
    [
        ("data.generation_script", ("--rollouts", 0), "argument --rollouts: 0 is not possible: it must be 1 or more"),
        ("data.generation_script", ("--threads", 0), "argument --threads/--max-workers: 0 is not possible: it must"),
        ("data.generation_script", ("--rollouts", "many"), "argument --rollouts: invalid positive value: 'many'"),
        ("trainvae", ("--batch-size", 0), "--batch-size: 0 is not possible"),
        ("trainvae", ("--learning-rate", "nan"), "--learning-rate: nan is not possible"),
        ("trainmdrnn", ("--temperature", "-1"), "--temperature: -1.0 is not possible"),
        ("trainmdrnn", ("--seed", "-1"), "--seed: -1 is not possible"),
        ("trainvae", ("--learning-rate", 2), "--learning-rate: 2.0 is not possible: it must be at most 1"),
        ("traincontroller", ("--pop-size", 1), "--pop-size 1 is not possible: CMA-ES compares at least 2 candidates"),
        ("traincontroller", ("--pop-size", 0), "--pop-size: 0 is not possible"),
        ("traincontroller", ("--max-workers", 0), "--max-workers/--threads: 0 is not possible"),
        ("traincontroller", ("--sigma", 0), "--sigma: 0.0 is not possible"),
        ("traincontroller", ("--world", "moon"), "--world: invalid choice: 'moon'"),
        ("traincontroller", ("--world", "simulator", "--horizon", 20), "--horizon is for --world dream: leave it away"),
        ("traincontroller", ("--world", "simulator", "--temperature", 1), "--temperature is for --world dream"),
        ("traincontroller", ("--give-up", 50), "--give-up is for --world simulator"),
        ("traincontroller", ("--most-samples", 4), "--most-samples is for --world simulator"),
        ("traincontroller", ("--selection-episodes", 4), "--selection-episodes is for --evaluate-every above 0"),
        ("traincontroller", ("--evolve", "last"), "--evolve is for --init"),
        ("data.generation_script", ("--logdir", "run"), "--logdir is for a --policy that has a controller or a clone"),
        ("trainbc", ("--dreams", 8), "--dreams is for --method ditto, or dagger in the dream"),
        ("trainbc", ("--model", "cfc", "--horizon", 8), "--horizon is for cloning without --model"),
        ("trainbc", ("--epochs", 0), "--epochs: 0 is not possible"),
        ("test_controller", ("--episodes", 0), "--episodes: 0 is not possible"),
        ("test_controller", ("--episodes", 20_000), "choose fewer --episodes"),
        ("test_controller", ("--controller", "expert", "--world", "dream"), "use --world simulator"),
        ("test_controller", ("--controller", "human"), "add --render"),
        ("test_controller", ("--env", "carracing"), "was trained on gym:CartPole-v1"),
        ("test_controller", ("--controller", "expert", "--episodes", 1), "has no expert of its own"),
        ("trainmdrnn", ("--device", "nonsense"), "--device nonsense is not available"),
        ("trainvae", ("--no-such-flag",), "unrecognized arguments"),
    ],
)
def test_an_impossible_number_or_choice_is_refused_in_one_sentence(module, options, said, trained, tmp_path):
    where = ("--rootdir", tmp_path / "data") if module == "data.generation_script" else ("--logdir", trained.logdir)
    before = trained_part(trained.logdir)
    assert said in complaint(call(module, *budget(module, *where, *options)))
    assert trained_part(trained.logdir) == before and not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("module", "options", "said"),
    [
        ("trainvae", ("--latent", 9), "has latent 8, not 9: leave --latent away"),
        ("trainmdrnn", ("--hidden", 17), "has hidden 16, not 17: leave --hidden away"),
        ("traincontroller", ("--pop-size", 5), "has pop_size 4, not 5: leave --pop-size away"),
        ("trainbc", ("--hidden", 5), "has hidden 0, not 5: leave --hidden away"),
        ("traincontroller", ("--seed", 1), "has seed 0, not 1: leave --seed away"),
        ("trainvae", ("--grid", "--latent", 64), "has latent 8, not 64"),
        ("trainvae", ("--grid",), "--grid takes --latent in multiples of 64, not 8"),
    ],
)
def test_other_sizes_than_those_of_the_run_to_go_on_with_are_refused(module, options, said, trained, tmp_path, refused):
    run = copy_run(trained, tmp_path)
    data = ("--dataset", trained.data) if module == "trainvae" else ()
    assert said in refused(module, run.logdir, *data, *options)


# Places


@pytest.mark.parametrize("place", ["the logdir", "the stage's folder"])
@pytest.mark.parametrize("module", STAGES)
def test_a_logdir_that_cannot_be_written_to_is_refused(module, place, trained, tmp_path, refused):
    """A file where a folder should be: it stops root, too."""
    run = copy_run(trained, tmp_path)
    blocked = run.logdir if place == "the logdir" else run.logdir / STAGES[module]
    shutil.rmtree(blocked)
    blocked.write_text("in the way")
    said = refused(module, run.logdir, *(("--dataset", trained.data) if module == "trainvae" else ()))
    assert str(blocked) in said and ("cannot be written to" in said or "cannot be read (Not a directory)" in said)
    assert blocked.read_text() == "in the way"


def test_a_rootdir_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for rootdir in (tmp_path / "file", tmp_path / "file" / "deeper", "/proc/nowhere"):
        assert f"{rootdir} cannot be written to" in complaint(
            call("data.generation_script", "--rootdir", rootdir, "--rollouts", 2, "--env", "gym:CartPole-v1")
        )
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_score_that_cannot_be_written_is_refused_before_anybody_drives(trained, tmp_path, refused, monkeypatch):
    run = copy_run(trained, tmp_path)
    shutil.rmtree(run.logdir / "scores", ignore_errors=True)  # other tests score the shared run
    (run.logdir / "scores").write_text("in the way")
    monkeypatch.setattr("dreamdrive.driving.scoring.score", lambda *_: pytest.fail("somebody drove"))
    assert "scores cannot be written to" in refused("test_controller", run.logdir, "--episodes", 2, "--max-workers", 1)


# Numbers that are none


@pytest.mark.parametrize("module", ["trainmdrnn", "trainvae", "trainbc"])
@pytest.mark.parametrize("fresh", [True, False])
def test_a_loss_that_is_not_finite_stops_the_run_naming_epoch_and_batch_and_never_reaches_a_checkpoint(
    module, fresh, trained, tmp_path, refused, monkeypatch
):
    """M meets a reward beyond float32's square root in the data; V and the clone a learning rate that leaves float32's
    range, let through for this."""
    monkeypatch.setitem(VAESettings.flags()["learning_rate"].metadata["flag"], "type", float)
    monkeypatch.setitem(CloneSettings.flags()["learning_rate"].metadata["flag"], "type", float)
    run, stage = copy_run(trained, tmp_path), STAGES[module]
    options = ["--epochs", 4]
    if fresh:
        shutil.rmtree(run.logdir / stage)
    if module == "trainmdrnn":
        spoilt = write_dataset(tmp_path / "spoilt", LENGTHS, space=CARTPOLE, env="gym:CartPole-v1", reward=1e30).root
        options += ["--dataset", spoilt]
    else:
        options += [
            "--learning-rate",
            3e37,
            "--noreload",
            *(("--dataset", trained.data) if module == "trainvae" else ()),
        ]
    if fresh:
        (run.logdir / stage).mkdir()
    before = {name: content for name, content in trained_part(run.logdir).items() if name.endswith(".tar")}
    said = complaint(call(module, "--logdir", run.logdir, *TINY[module], *options))
    assert "the loss became " in said and " in batch " in said and " of epoch " in said
    if module == "trainmdrnn":
        assert "epoch 1 of 4" in said if fresh else "epoch 3 of 4" in said
        assert f"{spoilt}/shard_0000" in said and ", episode " in said and "dreamdrive data verify" in said
    assert before == {name: content for name, content in trained_part(run.logdir).items() if name.endswith(".tar")}


# The display


def test_a_window_without_a_display_or_xvfb_says_what_to_install(trained):
    env = {
        name: value
        for name, value in variables(PATH="/nonexistent").items()
        if name not in ("DISPLAY", "WAYLAND_DISPLAY")
    }
    done = subprocess.run(
        command("test_controller.py", "--logdir", trained.logdir, "--render", "--episodes", 1),
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = complaint(Done(done.returncode, done.stdout, done.stderr))
    assert "there is no DISPLAY" in said and "apt-get install xvfb" in said
