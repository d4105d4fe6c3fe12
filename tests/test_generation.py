"""Stage 1: the same command gives the same bytes whatever happens in between, and every wrong command one sentence."""

import dataclasses
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dreamdrive import envs
from dreamdrive.data import shards
from dreamdrive.data.manifest import read_manifest
from dreamdrive.data.shards import Dataset, open_shard
from dreamdrive.driving import recording
from dreamdrive.driving.recorder import Recipe, Recorder
from dreamdrive.tests.tiny_world import make, recorder, same
from dreamdrive.utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
MIXED = ("--policy", "brown=0.4,white=0.2,expert=0.4", "--action-noise", "0.5")


def settings(argv) -> recording.RecordingSettings:
    return recording.RecordingSettings.parse(argv, None)


def command(folder, *options, env="tiny", rollouts=6, threads=1):
    return [
        sys.executable,
        "-m",
        "dreamdrive.tests.tiny_world",
        "--env",
        env,
        "--rootdir",
        str(folder),
        "--rollouts",
        str(rollouts),
        "--threads",
        str(threads),
        *map(str, options),
    ]


def generate(folder, *options, variables=None, preexec_fn=None, **named):
    """Run the script as a user would, with the tiny world."""
    return subprocess.run(
        command(folder, *options, **named),
        cwd=ROOT,
        env={**os.environ, **(variables or {})},
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=preexec_fn,
    )


def record(folder, *options, **named):
    done = generate(folder, *options, **named)
    assert done.returncode == 0, done.stderr
    return done


def complaint(done):
    """The one sentence a failed command ends with."""
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    return last


def contents(folder):
    """What is compared: manifest and shards, byte by byte, and that nothing else is there."""
    files = {p.name: p.read_bytes() for p in Path(folder).iterdir()}
    assert files.pop(".lock") == b"" and files.pop("args.json")
    return files


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A dataset of 6 mixed episodes recorded by one worker without any trouble."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    record(folder, *MIXED)
    return folder


# The same bytes


def test_more_workers_record_the_same_bytes_and_every_shard_verifies(uninterrupted, tmp_path):
    said = record(tmp_path, *MIXED, threads=2).stdout
    assert contents(tmp_path) == contents(uninterrupted)
    assert shards.verify(tmp_path) == []
    dataset = Dataset.open(tmp_path)
    assert (
        f"{sum(s.frames for s in dataset.shards)} frames" in said
        and "6 episodes to record" in said
        and "expert" in said
    )


def test_running_again_changes_nothing(uninterrupted):
    before = {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in uninterrupted.glob("*.h5")}
    record(uninterrupted, *MIXED, threads=2)
    assert before == {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in uninterrupted.glob("*.h5")}


def test_an_episode_depends_on_seed_and_index_alone():
    mixture = {"brown": 0.4, "white": 0.2, "expert": 0.4}
    one = recorder(mixture=mixture, noise=0.5)
    in_a_row = [one.record([i])[0] for i in range(8)]
    for i in (7, 3, 0):
        assert same(recorder(mixture=mixture, noise=0.5).record([i])[0], in_a_row[i])
    assert all(
        same(*pair) for pair in zip(recorder(mixture=mixture, noise=0.5).record(range(8)), in_a_row, strict=True)
    ), "as one batch"
    assert not np.array_equal(recorder(mixture=mixture, noise=0.5, seed=1).record([3])[0].obs[0], in_a_row[3].obs[0])


@pytest.mark.parametrize("env", ["carracing", "carracing-fast"])
def test_a_carracing_episode_depends_on_seed_and_index_alone(env):
    recipe = Recipe(envs.make, env, 30, 0, {"expert": 0.5, "brown": 0.5}, 0.5, Path("nowhere"))
    one = Recorder(recipe)
    in_a_row = [one.record([i])[0] for i in range(3)]
    assert same(Recorder(recipe).record([2])[0], in_a_row[2])
    assert all(same(*pair) for pair in zip(Recorder(recipe).record(range(3)), in_a_row, strict=True)), "as one batch"
    assert in_a_row[0].obs.shape == (31, 64, 64, 3) and in_a_row[0].truncated.tolist() == [False] * 29 + [True]


def test_recorded_steps_replay_to_the_recorded_frames():
    """action[t] is chosen on obs[t] and produces reward[t] and obs[t + 1]."""
    episode = recorder().record([5])[0]
    world = make("tiny", max_steps=100, restart=False)
    np.testing.assert_array_equal(world.reset([episode.seed])[0], episode.obs[0])
    for t, action in enumerate(episode.action):
        step = world.step(torch.from_numpy(action[None]))
        np.testing.assert_array_equal(step.obs[0], episode.obs[t + 1])
        assert (step.reward[0], step.terminated[0]) == (episode.reward[t], episode.terminated[t])


def test_kills_at_every_kind_of_rename_leave_nothing_behind(uninterrupted, tmp_path):
    """The first manifest; before and after a shard gets its name; after the manifest lists it."""
    for rename in (2, 5, 6, 8):
        done = generate(tmp_path, *MIXED, variables={"KILL_AT": str(rename)})
        assert done.returncode == -signal.SIGKILL, done.stderr
    record(tmp_path, *MIXED)
    assert contents(tmp_path) == contents(uninterrupted)


@pytest.mark.slow
def test_ten_kills_at_random_moments_leave_nothing_behind(tmp_path_factory):
    """Each hits a live run; what its orphans do afterwards publishes nothing."""
    options = {"env": "tiny-slow", "rollouts": 64, "threads": 2}
    straight, killed = tmp_path_factory.mktemp("straight"), tmp_path_factory.mktemp("killed")
    record(straight, *MIXED, **options)
    rng = random.Random(0)
    for _ in range(10):
        run = subprocess.Popen(
            command(killed, *MIXED, **options), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        ready = len(list(killed.glob("shard_*.h5")))
        moment = rng.choice(["start", "recording"])
        deadline = time.monotonic() + 60
        while (
            moment == "recording"
            and len(list(killed.glob("shard_*.h5"))) <= ready
            and run.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.01)  # until the workers are up and publish
        time.sleep(rng.uniform(0, 2) if moment == "start" else rng.uniform(0, 0.3))
        assert run.poll() is None, "the kill came too late to hit a live run"
        run.kill()
        assert run.wait() == -signal.SIGKILL
        published = {p.name for p in killed.glob("shard_*.h5")}
        time.sleep(1)
        assert {p.name for p in killed.glob("shard_*.h5")} == published
    record(killed, *MIXED, **options)
    assert contents(killed) == contents(straight)


def test_ctrl_c_stops_quickly_without_a_traceback_and_leaves_a_sound_folder(tmp_path):
    run = subprocess.Popen(
        command(tmp_path, env="tiny-slow", rollouts=200, threads=2),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("shard_*.h5"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGINT)
    sent = time.monotonic()
    said = run.communicate(timeout=20)[1]
    assert time.monotonic() - sent < 4 and run.returncode == 130
    assert "Traceback" not in said and "run the same command again" in said
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))
    manifest = read_manifest(tmp_path)
    assert 0 < len(manifest.episodes) < 200 and {s.file for s in manifest.shards} == {
        p.name for p in tmp_path.glob("*.h5")
    }


def test_a_lost_shard_is_recorded_again(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    (tmp_path / "shard_00002.h5").unlink()
    (tmp_path / "shard_00004.h5").write_bytes(b"cut short")
    record(tmp_path, *MIXED)
    assert contents(tmp_path) == contents(uninterrupted)


# Growing


def test_a_larger_rollouts_appends_shards_and_changes_none(uninterrupted, tmp_path, tmp_path_factory):
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    killed = generate(tmp_path, *MIXED, rollouts=40, threads=2, variables={"KILL_AT": "9"})
    assert killed.returncode == -signal.SIGKILL
    record(tmp_path, *MIXED, rollouts=40, threads=2)
    before, after = read_manifest(uninterrupted), read_manifest(tmp_path)
    assert (
        after.episodes[:6] == before.episodes
        and after.shards[:6] == before.shards
        and after.complete
        and after.rollouts == 40
    )
    assert {s.last - s.first for s in after.shards[6:]} == {2}
    assert shards.verify(tmp_path) == []
    straight = tmp_path_factory.mktemp("grown")
    shutil.copytree(uninterrupted, straight, dirs_exist_ok=True)
    record(straight, *MIXED, rollouts=40)
    assert contents(straight) == contents(tmp_path)
    assert "40 episodes and --rollouts is 6: give 40 or more" in complaint(generate(tmp_path, *MIXED))


def test_shards_hold_a_number_of_episodes_that_follows_from_their_size_and_the_rollouts_alone(uninterrupted):
    head = dataclasses.replace(read_manifest(uninterrupted), image_shape=(64, 64, 3), max_steps=1000)

    def sizes(rollouts, grown_from=(), **other):
        planned = recording.plan(dataclasses.replace(head, rollouts=rollouts, grown_from=grown_from, **other))
        assert [first for _, first, _ in planned] == [0, *(last for _, _, last in planned[:-1])] and planned[-1][
            2
        ] == rollouts
        return [last - first for _, first, last in planned]

    assert sizes(1) == [1] and sizes(40) == [2] * 20 and sizes(1000) == [10] * 100
    assert sizes(100, (3, 50)) == [1] * 3 + [3] * 15 + [2] + [6] * 8 + [2]
    assert sizes(2500, max_steps=80) == [125] * 20 and sizes(62, max_steps=80, image_shape=(128, 128, 3)) == [
        3
    ] * 20 + [2]
    assert (
        sizes(1000, max_steps=80, image_shape=(13470,)) == [28] * 35 + [20] and sizes(100, max_steps=10**6) == [1] * 100
    )


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--seed", 1, "--seed 0, and now it is 1"),
        ("--max-steps", 50, "--max-steps 1000, and now it is 50"),
        ("--policy", "white", "--policy brown=0.4,white=0.2,expert=0.4, and now it is white"),
        ("--action-noise", 0.1, "--action-noise 0.5, and now it is 0.1"),
        ("--val-fraction", 0.2, "--val-fraction 0.167, and now it is 0.2"),
        ("--env", "tiny-discrete", "--env tiny, and now it is tiny-discrete"),
    ],
)
def test_other_parameters_than_the_manifests_are_refused_by_name(option, value, said, uninterrupted):
    before = contents(uninterrupted)
    args = settings(command(uninterrupted, *MIXED, option, value)[3:])
    with pytest.raises(UserError, match="choose another --rootdir") as error:
        recording.generate(args, make)
    assert said in str(error.value) and contents(uninterrupted) == before


# Trouble


@pytest.mark.parametrize(
    ("what", "reported"), [("kill", "killed by SIGKILL"), ("raise", "RuntimeError: the simulator broke down")]
)
def test_a_failing_worker_is_reported_and_its_episodes_are_redone(what, reported, tmp_path):
    (tmp_path / "sabotage").write_text(what)
    done = record(
        tmp_path / "data", env="tiny-sabotaged", rollouts=2, variables={"SABOTAGE": str(tmp_path / "sabotage")}
    )
    assert reported in done.stderr and "doing it again (1 of 2)" in done.stderr and not (tmp_path / "sabotage").exists()
    assert shards.verify(tmp_path / "data") == []


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("always raise", "failed 3 times, the last time so: RuntimeError: the simulator broke down"),
        ("user error", "error: the simulator is not installed: install it"),
    ],
)
def test_a_worker_that_cannot_do_it_stops_the_run(what, said, tmp_path):
    variables = {"SABOTAGE": str(tmp_path / "sabotage")}
    record(tmp_path / "data", env="tiny-sabotaged", rollouts=1, variables=variables)
    (tmp_path / "sabotage").write_text(what)
    assert said in complaint(generate(tmp_path / "data", env="tiny-sabotaged", rollouts=4, variables=variables))
    assert len(read_manifest(tmp_path / "data").episodes) == 1 and not list((tmp_path / "data").glob(".*.tmp"))


def test_a_disk_that_fills_up_stops_with_one_sentence_and_damages_nothing(uninterrupted, tmp_path):
    """A limit on the size of files stands for the disk: the manifest still fits, the shards do not."""
    size = max(p.stat().st_size for p in uninterrupted.glob("*.h5"))
    limit = (size - 1, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    done = generate(tmp_path, *MIXED, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert (
        "could not be written" in complaint(done)
        and "free some space" in complaint(done)
        and "Traceback" not in done.stderr
    )
    assert all(p.suffix == ".h5" or p.name in (".lock", "args.json", "manifest.json") for p in tmp_path.iterdir())
    record(tmp_path, *MIXED)
    assert contents(tmp_path) == contents(uninterrupted)


def test_a_dataset_that_the_disk_cannot_hold_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=5_000))
    with pytest.raises(UserError, match=r"6 more episodes take up to [\d.]+ MB and the disk of .* has 0.0 MB free"):
        recording.generate(settings(command(tmp_path)[3:]), make)
    assert not list(tmp_path.glob("*.h5")) and not (tmp_path / "manifest.json").exists()


def test_the_expected_size_is_an_upper_bound_and_not_absurd(tmp_path, capsys):
    spec, frame_bytes, *_ = recording.look_at_world(Recipe(envs.make, "carracing", 1000, 0, {"brown": 1}, 0, tmp_path))
    assert spec.image_shape == (64, 64, 3) and 1000 < frame_bytes < 4000
    recording.check_space(tmp_path, 1000, 1000, frame_bytes)
    assert "1000 episodes to record" in capsys.readouterr().out


def test_a_second_generator_in_the_same_folder_is_refused(tmp_path):
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another generator is recording into"):
            recording.generate(settings(command(tmp_path)[3:]), make)


def test_shards_without_a_manifest_are_not_touched(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(UserError, match="holds shards but no manifest.json"):
        recording.generate(settings(command(tmp_path, *MIXED)[3:]), make)
    assert len(list(tmp_path.glob("*.h5"))) == 6


@pytest.mark.parametrize(
    "options",
    [
        ("--rollouts", "0"),
        ("--threads", "0"),
        ("--seed", "-1"),
        ("--val-fraction", "1"),
        ("--action-noise", "nan"),
        ("--max-steps", "0"),
        ("--rollouts", "many"),
    ],
)
def test_an_impossible_number_is_refused_by_argparse(options, capsys):
    with pytest.raises(SystemExit) as stop:
        settings(options)
    assert stop.value.code == 2 and options[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--policy", "drunk"), '--policy "drunk" is not possible'),
        (("--rootdir", "/dev/null/x"), "cannot be written to"),
        (("--env", "nowhere"), 'there is no world "nowhere"'),
        (("--rollouts", "5000001"), "simulator seeds"),
        (("--policy", "controller", "--logdir", "/nowhere"), "/nowhere"),
    ],
)
def test_a_wrong_command_gets_one_sentence(options, said, tmp_path):
    args = settings(["--rootdir", str(tmp_path), "--rollouts", "2", *options])
    with pytest.raises(UserError) as error:
        recording.generate(args)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("start", [["data/generation_script.py"], ["-m", "dreamdrive.data.generation_script"]])
def test_the_script_runs_by_path_and_as_a_module(start, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            *start,
            "--rollouts",
            "1",
            "--max-steps",
            "20",
            "--threads",
            "1",
            "--rootdir",
            str(tmp_path / "x"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "1 of 1 episode of carracing" in done.stdout, done.stderr
    assert json.loads((tmp_path / "x" / "args.json").read_text())["rollouts"] == 1


# Episodes


@pytest.mark.parametrize("options, limit", [((), 200), (("--max-steps", "300"), 300), (("--max-steps", "50"), 50)])
def test_an_episode_is_as_long_as_the_world_has_it_unless_told_otherwise(tmp_path, options, limit):
    order = [
        "--env",
        "mountaincar",
        "--observation",
        "state",
        "--policy",
        "white",
        "--rollouts",
        "2",
        "--threads",
        "1",
        "--rootdir",
        str(tmp_path),
        *options,
    ]
    manifest = recording.generate(settings(order))
    assert manifest.max_steps == limit and {e.steps for e in manifest.episodes} == {limit}
    assert json.loads((tmp_path / "args.json").read_text())["max_steps"] == limit


def test_shards_of_several_episodes_keep_them_apart(tmp_path):
    record(tmp_path, rollouts=33, threads=2)
    dataset = Dataset.open(tmp_path)
    fresh = recorder(max_steps=1000)
    for entry in (dataset.shards[0], dataset.shards[7]):
        with open_shard(tmp_path / entry.file, dataset.manifest) as shard:
            assert len(shard.episode) == 2
            for j, i in enumerate(shard.episode):
                np.testing.assert_array_equal(shard.frames(*shard.frame_offsets[j : j + 2]), fresh.record([i])[0].obs)
