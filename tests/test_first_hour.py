"""What a newcomer meets first: a command without arguments, few episodes, a split to be changed, spellings of flags,
and numbers in sentences."""

import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from dreamdrive.data.manifest import MANIFEST, read_manifest, split, write_manifest
from dreamdrive.data.shards import Dataset
from dreamdrive.driving.recording_settings import RecordingSettings
from dreamdrive.driving.scoring_settings import EvaluationSettings
from dreamdrive.envs.synthetic_scenes import SyntheticSettings
from dreamdrive.learning.actor_settings import ActorSettings
from dreamdrive.learning.cloning_settings import CloneSettings, DaggerSettings, DittoSettings
from dreamdrive.learning.control import Clock
from dreamdrive.learning.evolution_settings import EvolutionSettings
from dreamdrive.learning.memory_settings import MDRNNSettings
from dreamdrive.learning.rounds_settings import RoundsSettings
from dreamdrive.learning.vision_settings import VAESettings
from dreamdrive.playing.settings import PlaySettings
from dreamdrive.teacher.lesson_settings import TeachSettings
from dreamdrive.tests.tiny_run import ROOT, TINY, call, complaint, contents, copy_run, variables, write_dataset
from dreamdrive.utils.help_text import fitted
from dreamdrive.utils.settings import next_command
from dreamdrive.utils.words import counted, duration, mean_and_spread
from dreamdrive.web.settings import WebSettings

QUICK = ("--env", "cartpole", "--observation", "state", "--threads", 1)
ALL = (
    RecordingSettings,
    VAESettings,
    MDRNNSettings,
    EvolutionSettings,
    ActorSettings,
    CloneSettings,
    DaggerSettings,
    DittoSettings,
    RoundsSettings,
    EvaluationSettings,
    TeachSettings,
    PlaySettings,
    SyntheticSettings,
    WebSettings,
)
DRIVE = ALL[: ALL.index(TeachSettings)]  # in worker processes, but for V and M
DRIVE = [settings for settings in DRIVE if settings not in (VAESettings, MDRNNSettings)]


def record(folder, *options):
    return call("data.generation_script", *QUICK, "--rootdir", folder, *options)


# Stage 1


def test_without_arguments_stage_1_says_what_it_would_do_and_does_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("data.generation_script")
    assert done.returncode == 2 and not done.stdout and not list(tmp_path.iterdir())
    assert "would record 1000 episodes of carracing" in done.stderr and "--rollouts N" in done.stderr


def test_an_interrupted_recording_without_an_episode_can_be_begun_anew_with_other_flags(tmp_path):
    code = (
        "import sys; from dreamdrive.driving import recording; from dreamdrive.utils.script import run\n"
        "def stop(*_): raise KeyboardInterrupt\n"
        "recording.WorkerPool.run = stop\n"
        "from dreamdrive.data.generation_script import main; run(main)"
    )
    words = [*map(str, QUICK), "--rollouts", "4", "--rootdir", str(tmp_path / "data")]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, env=variables(), timeout=120)
    assert done.returncode == 128 + signal.SIGINT and read_manifest(tmp_path / "data").seed == 0
    assert record(tmp_path / "data", "--rollouts", 3, "--seed", 7).returncode == 0
    assert read_manifest(tmp_path / "data").seed == 7 and len(Dataset.open(tmp_path / "data").episodes) == 3
    said = complaint(record(tmp_path / "data", "--rollouts", 3, "--seed", 8))
    assert "was recorded with --seed 7, and now it is 8" in said


def test_what_failed_at_once_leaves_no_folder(tmp_path):
    (tmp_path / "mine").mkdir()
    for folder in ("new/data", "mine"):
        where = ("--env", "gym:NoSuch-v0", "--rollouts", 2, "--rootdir", tmp_path / folder)
        assert "NoSuch" in complaint(call("data.generation_script", *where))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"], "a folder that was there before stays"


@pytest.mark.slow
def test_a_stage_that_refuses_at_once_leaves_no_folder(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    before = {path for path in run.logdir.iterdir() if path.name != "ctrl"}
    for path in (run.logdir / "ctrl").iterdir():
        path.unlink()
    (run.logdir / "ctrl").rmdir()
    said = complaint(call("traincontroller", *TINY["traincontroller"], "--logdir", run.logdir, "--init", "nowhere.tar"))
    assert "nowhere.tar is missing" in said and set(run.logdir.iterdir()) == before


# The split


@pytest.mark.parametrize("rollouts", range(2, 13))
def test_a_recording_has_an_episode_for_validation(rollouts, tmp_path, monkeypatch):
    monkeypatch.setattr("dreamdrive.driving.recording.record_dataset", lambda recipe, manifest, *_: manifest)
    done = record(tmp_path / "data", "--rollouts", rollouts)
    parts = [split(i, read_manifest(tmp_path / "data").val_fraction) for i in range(rollouts)]
    assert parts.count("val") == 1 and "for validation, and" not in done.stdout


@pytest.mark.parametrize(
    "options, said",
    [
        (("--rollouts", 1), "the only episode will be for training, and V, M and clones need one"),
        (("--rollouts", 3, "--val-fraction", 0.1), "none of the 3 episodes will be for validation, and V, M"),
        (("--rollouts", 3, "--val-fraction", 0), None),
    ],
)
def test_a_recording_without_one_says_so_unless_that_was_asked_for(options, said, tmp_path):
    done = record(tmp_path / "data", *options)
    assert done.returncode == 0 and "none of them for validation" in done.stdout
    assert said in done.stdout if said else "need one" not in done.stdout


def test_the_split_is_changed_in_the_manifest_alone(tmp_path):
    dataset = write_dataset(tmp_path / "data", [5] * 8)
    before = contents(dataset.root)
    done = call("data.shards", "split", dataset.root, "--val-fraction", 0.5)
    after = contents(dataset.root)
    assert done.returncode == 0 and "4 of 8 episodes for validation now; 2 changed sides" in done.stdout
    assert "--noreload" in done.stdout and "cached latents stay" in done.stdout
    assert {name for name in before if before[name] != after[name]} == {MANIFEST}
    assert call("data.shards", "verify", dataset.root).returncode == 0
    splits = [e.split for e in Dataset.open(dataset.root).episodes]
    assert splits == [split(i, 0.5) for i in range(8)] and read_manifest(dataset.root).val_fraction == 0.5
    assert "0 changed sides" in call("data.shards", "split", dataset.root, "--val-fraction", 0.5).stdout


def test_a_recording_that_grows_keeps_the_split_it_was_given_afterwards(tmp_path):
    record(tmp_path / "data", "--rollouts", 4)
    call("data.shards", "split", tmp_path / "data", "--val-fraction", 0.5)
    assert record(tmp_path / "data", "--rollouts", 6).returncode == 0
    assert [e.split for e in read_manifest(tmp_path / "data").episodes] == ["train", "val"] * 3


@pytest.mark.parametrize(
    "words, said",
    [
        (("split", "--val-fraction", 0.1), "none of its 4 episodes would be for validation by a share of 0.1: give"),
        (("split", "--val-fraction", 1), "must be 0 or more and less than 1, not 1"),
        (("split",), "split takes --val-fraction F, and nothing else does"),
        (("info", "--val-fraction", 0.5), "split takes --val-fraction F, and nothing else does"),
    ],
)
def test_a_split_that_cannot_be_is_refused_and_nothing_is_changed(words, said, tmp_path):
    root = write_dataset(tmp_path / "data", [5] * 4).root
    before = contents(root)
    assert said in complaint(call("data.shards", words[0], root, *words[1:]))
    assert contents(root) == before


def test_a_split_by_places_stays(tmp_path):
    root = write_dataset(tmp_path / "data", [5] * 4).root
    write_manifest(root, replace(read_manifest(root), by_place=True))
    said = complaint(call("data.shards", "split", root, "--val-fraction", 0.5))
    assert said.startswith(f"error: {root}: its split into training and validation is by places")


@pytest.mark.slow
def test_a_run_that_is_resumed_after_the_split_was_changed_says_so(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    options = (*TINY["trainvae"], "--dataset", trained.data, "--logdir", run.logdir, "--epochs", 3)
    manifest = (trained.data / MANIFEST).read_bytes()
    try:
        call("data.shards", "split", trained.data, "--val-fraction", 0.5)
        done = call("trainvae", *options)
    finally:
        (trained.data / MANIFEST).write_bytes(manifest)
    assert done.returncode == 0 and f"the split of {trained.data} has been changed" in done.stdout


# Flags


@pytest.mark.parametrize("settings", DRIVE)
def test_threads_and_max_workers_mean_the_same(settings):
    found = [settings.parse([word, "3"], None) for word in ("--threads", "--max-workers")]
    assert found[0].fixed() == found[1].fixed()
    assert {getattr(args, "threads", 0) or args.max_workers for args in found} == {3}


def test_the_reward_has_both_spellings():
    said = [MDRNNSettings.parse([word], None).include_reward for word in ("--no-include-reward", "--no-include_reward")]
    assert said == [False, False]


@pytest.mark.parametrize("settings", ALL)
def test_every_flag_has_a_heading_and_help_fits_a_terminal(settings, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert set(settings.headings()) == set(settings.flags())
    module = sys.modules[settings.__module__]
    with pytest.raises(SystemExit):
        settings.parse(["--help"], module.__doc__)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize(
    "name",
    ["data.generation_script", "trainvae", "trainmdrnn", "traincontroller", "trainbc", "train", "test_controller"],
)
def test_the_docstring_of_a_script_fits_too(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    said = call(name, "--help").stdout
    assert said.startswith("usage: ") and max(map(len, said.splitlines())) <= 80


def test_a_docstring_is_filled_its_tables_and_commands_are_kept():
    text = (
        "Prose that is broken\nby hand, and too early.\n\n"
        "Reads   exp_dir/vae     what was written there before, which is more than fits here\n"
        "                        and goes on\n"
        "        exp_dir/mdrnn   this\n\n"
        "    python trainvae.py --dataset datasets/carracing --epochs 20 --logdir exp_dir"
    )
    assert list(fitted(text, 60)) == [
        "Prose that is broken by hand, and too early.",
        "",
        "Reads   exp_dir/vae     what was written there before, which",
        "                        is more than fits here and goes on",
        "        exp_dir/mdrnn   this",
        "",
        "    python trainvae.py --dataset datasets/carracing \\",
        "        --epochs 20 --logdir exp_dir",
    ]


# Sentences


def test_one_is_not_several_and_has_no_spread():
    assert (counted(1, "episode"), counted(0, "episode"), counted(12, "episode")) == (
        "1 episode",
        "0 episodes",
        "12 episodes",
    )
    values = np.random.default_rng(0).normal(size=9)
    assert mean_and_spread(list(values)) == f"{values.mean():.1f} +- {values.std():.1f}"
    assert mean_and_spread([3.25]) == "3.2"
    said = [duration(seconds) for seconds in (0.4, 99.4, 99.6, 3000, 5969, 5971, 9000)]
    assert said == ["0 s", "99 s", "2 min", "50 min", "99 min", "1.7 h", "2.5 h"]


def test_what_is_left_counts_what_is_still_to_be_driven():
    assert Clock([10.0, 20.0], []).left(0, 0) == ""
    assert Clock([10.0, 20.0], []).left(4, 1) == "  60 s and 1 drive in the simulator left"
    assert Clock([10.0, 20.0], [100.0]).left(4, 1) == "  3 min left"


def test_the_next_command_is_spelled_as_this_one_was(monkeypatch):
    for called, said in (("trainvae.py", "python trainmdrnn.py"), ("dreamdrive vae", "dreamdrive mdrnn")):
        monkeypatch.setattr(sys, "argv", [called, "--epochs", "3"])
        assert next_command("trainmdrnn.py", "--logdir", "my run") == f"{said} --logdir 'my run'"


def test_a_score_of_one_episode_reads_as_one(tmp_path):
    how = ("--env", "cartpole", "--observation", "state", "--controller", "expert", "--max-workers", 1)
    done = call("test_controller", *how, "--episodes", 1, "--logdir", tmp_path)
    assert done.stdout.startswith("expert in the simulator: 500.0 over 1 episode; ") and "+-" not in done.stdout


@pytest.mark.slow
def test_cloning_is_suggested_where_there_is_an_expert_alone(trained, tmp_path):
    write_dataset(tmp_path / "data", [20] * 4, expert=False)
    said = []
    for data in (trained.data, tmp_path / "data"):
        logdir = tmp_path / f"run-{len(said)}"
        assert call("trainvae", *TINY["trainvae"], "--dataset", data, "--logdir", logdir, "--epochs", 1).returncode == 0
        said.append(call("trainmdrnn", *TINY["trainmdrnn"], "--logdir", logdir, "--epochs", 1).stdout)
    assert [text.count("python trainbc.py") for text in said] == [1, 0]
    assert all("next: python traincontroller.py --logdir" in text for text in said)
