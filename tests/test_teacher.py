"""Lessons without a browser: a script stands in for the page, and presses keys as it is told what the clone sees and
would do."""

import json
import os
import random
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch

from dreamdrive.data.shards import Dataset, verify
from dreamdrive.envs import make
from dreamdrive.envs.classic import MountainCar, quickest_action
from dreamdrive.teacher import book, server
from dreamdrive.teacher.memory import WINDOW, FrameMemory
from dreamdrive.teacher.session import Held
from dreamdrive.tests.tiny_run import DISCRETE, ROOT, call, command, complaint, contents, variables, write_dataset
from dreamdrive.utils import checkpoint
from dreamdrive.utils.keys import ChoiceKeys
from dreamdrive.utils.metrics import read_csv

MOUNTAIN = ("--teacher", "--env", "mountaincar", "--countdown", 0, "--device", "cpu")
ARROWS = {0: "left", 1: "down", 2: "right"}
NAMES = ["accelerate left", "do not accelerate", "accelerate right"]


class Script:
    """In place of teacher.server.Server: goes through the trials by single steps, as fast as they come. `press(now)`
    gives the keys to hold for a step."""

    def __init__(self, host: str, port: int, about: dict) -> None:
        self.about, self.session, self.told = json.loads(json.dumps(about)), None, []

    def start(self) -> None:
        self.session.paused = True
        self.session.present.set()

    def stop(self) -> None:
        pass

    def tell(self, status: dict) -> None:
        self.told.append(status)

    def show(self, picture: np.ndarray, now: dict) -> None:
        json.dumps(now)
        if now["clone"] is not None:
            self.session.held.hold(frozenset(self.press(now)))
            self.session.orders.put(("step", None))

    def press(self, now: dict) -> set[str]:
        return set()


def expert(now: dict) -> int:
    return int(quickest_action(np.array([now["numbers"]]))[0])


class Approving(Script):
    """Lets everything pass."""


class Demonstrating(Script):
    """Holds a key all the time."""

    def press(self, now: dict) -> set[str]:
        return {self.about_keys[0]}

    @property
    def about_keys(self) -> list[str]:
        return list(self.about["keys"])


class Watchful(Script):
    """Presses what the quickest driver would do where the clone would do something else, but for a tenth of the
    presses, which are missed."""

    rng = np.random.default_rng(0)

    def press(self, now: dict) -> set[str]:
        return {ARROWS[expert(now)]} if NAMES[expert(now)] != now["clone"] and self.rng.random() > 0.1 else set()


@pytest.fixture
def script(monkeypatch):
    """Lessons are taught by the class that is given to it."""
    return lambda kind: monkeypatch.setattr(server, "Server", kind)


def taught(folder, clone="bc"):
    """Columns of all trials, joined, and the manifest."""
    dataset = Dataset.open(folder / clone / "taught")
    shards = [dataset.open_shard(entry) for entry in dataset.shards]
    names = ("action", "clone_action", "expert_action", "demonstration", "reward", "terminated", "truncated")
    return {name: np.concatenate([shard.column(name) for shard in shards]) for name in names}, dataset.manifest


# What is learnt


@pytest.mark.slow
def test_a_clone_is_taught_from_nothing_in_fifteen_trials(script, tmp_path):
    script(Watchful)
    done = call("trainbc", *MOUNTAIN, "--logdir", tmp_path, "--trials", 15)
    assert done.returncode == 0, done.stderr
    rows = read_csv(tmp_path / "bc" / "metrics.csv")
    assert len(rows) == 15 and np.mean([float(row["overridden"]) for row in rows[-3:]]) < 0.2, rows
    done = call("test_controller", "--logdir", tmp_path, "--controller", "bc", "--episodes", 50, "--max-workers", 1)
    assert json.loads((tmp_path / "scores" / "bc-mountaincar-simulator.json").read_text())["mean"] >= -110, done.stdout
    columns, _ = taught(tmp_path)
    assert 0 < columns["demonstration"].mean() < 0.5  # the work gets lighter


def test_what_was_taught_is_an_ordinary_dataset_and_an_ordinary_clone(script, tmp_path):
    script(Watchful)
    assert call("trainbc", *MOUNTAIN, "--logdir", tmp_path, "--trials", 6).returncode == 0
    folder = tmp_path / "bc"
    assert verify(folder / "taught") == []
    columns, manifest = taught(tmp_path)
    assert (
        manifest.env == "mountaincar"
        and manifest.policies == ("teacher",)
        and {e.split for e in manifest.episodes} == {"train", "val"}
    )
    let, shown = columns["demonstration"] == 0, columns["demonstration"] == 1
    assert (columns["action"][let] == columns["clone_action"][let]).all() and (
        columns["action"][shown] != columns["clone_action"][shown]
    ).all()
    assert (columns["expert_action"] == columns["action"]).all() and (
        columns["terminated"] | columns["truncated"]
    ).sum() == 6
    names = sorted(path.name for path in (folder / "snapshots").iterdir())
    newest = checkpoint.load_parent(tmp_path, "bc")
    assert names[:2] == ["000100.tar", "000200.tar"] and newest["epoch"] == len(columns["action"]) == newest[
        "samples"
    ] == int(names[-1][:6])
    assert torch.equal(
        newest["model"]["layers.0.weight"],
        checkpoint.load(folder / "snapshots" / names[-1], "bc")["model"]["layers.0.weight"],
    )
    assert (folder / "lesson.png").stat().st_size > 5000
    done = call(
        "trainbc",
        "--dataset",
        folder / "taught",
        "--logdir",
        tmp_path / "again",
        "--epochs",
        1,
        "--n-samples",
        1,
        "--max-workers",
        1,
        "--hidden",
        16,
    )
    assert done.returncode == 0, done.stderr


def test_a_lesson_goes_on_where_the_one_before_ended(script, tmp_path):
    script(Approving)
    for trials in (1, 2):
        done = call("trainbc", *MOUNTAIN, "--logdir", tmp_path, "--trials", trials)
        assert done.returncode == 0, done.stderr
        assert (
            f"{trials} trials, {200 * trials} samples, 0 of them demonstrations" in done.stdout
            and f"{200 * trials} training steps" in done.stdout
        )
    rows = read_csv(tmp_path / "bc" / "metrics.csv")
    assert (
        [row["seed"] for row in rows] == ["0", "1"]
        and all(float(row["loss"]) > 0 for row in rows)
        and rows[1]["snapshot"] == "200"
    )
    before = contents(tmp_path)
    refused = (
        (("--seed", 1), "was recorded with seed 0, and now it is 1"),
        (("--hidden", 8), "has hidden 128, not 8"),
        (("--noreload",), "are never deleted"),
        (("--observation", "picture", "--model", "cfc"), "has features state, not frames"),
    )
    for options, reason in refused:
        assert (
            reason in complaint(call("trainbc", *MOUNTAIN, "--logdir", tmp_path, "--trials", 9, *options))
            and contents(tmp_path) == before
        )
    write_dataset(tmp_path / "numbers", [5] * 8, image=(2,), space=DISCRETE, env="mountaincar")
    assert "resume with --teacher" in complaint(
        call("trainbc", "--dataset", tmp_path / "numbers", "--logdir", tmp_path, "--hidden", 128)
    )


def test_only_demonstrations_are_learnt_from_if_so_asked(script, tmp_path):
    script(Approving)
    done = call("trainbc", *MOUNTAIN, "--logdir", tmp_path / "none", "--trials", 1, "--train-only-from-demonstration")
    assert (
        done.returncode == 0
        and "0 training steps" in done.stdout
        and checkpoint.load_parent(tmp_path / "none", "bc")["samples"] == 200
    )
    script(Demonstrating)
    done = call("trainbc", *MOUNTAIN, "--logdir", tmp_path / "all", "--trials", 1, "--train-only-from-demonstration")
    assert done.returncode == 0 and "200 of them demonstrations" in done.stdout and "200 training steps" in done.stdout
    columns, _ = taught(tmp_path / "all")
    assert (columns["action"] == 0).all() and {"000100.tar", "000200.tar"} <= {
        p.name for p in (tmp_path / "all" / "bc" / "snapshots").iterdir()
    }


# Worlds and clones


@pytest.mark.parametrize(
    "options",
    [
        ("--env", "cartpole", "--observation", "picture", "--model", "mlp"),
        ("--env", "cartpole", "--observation", "picture", "--model", "gru"),
        ("--env", "atari:Breakout", "--model", "mlp", "--one-life"),
        ("--env", "gym:Pendulum-v1"),
        ("--env", "nocturne", "--model", "mlp"),
    ],
)
def test_other_worlds_are_taught_too(script, tmp_path, options):
    class Half(Demonstrating):
        def press(self, now: dict) -> set[str]:
            if now["step"] == 30:
                self.session.orders.put(("stop", None))
            return super().press(now) if now["step"] % 2 else set()

    script(Half)
    small = ("--width", 4, "--units", 8) if "--model" in options else ()
    for trial, sizes in ((1, small), (2, ())):  # once begun, a lesson knows its clone's sizes
        done = call(
            "trainbc",
            "--teacher",
            *options,
            *sizes,
            "--countdown",
            0,
            "--logdir",
            tmp_path,
            "--trials",
            trial,
            "--device",
            "cpu",
        )
        assert done.returncode == 0, done.stderr
    columns, _ = taught(tmp_path)
    assert (
        0 < columns["demonstration"].sum() < len(columns["action"])
        and (columns["action"] != columns["clone_action"]).any()
    )
    done = call("test_controller", "--logdir", tmp_path, "--controller", "bc", "--episodes", 1, "--max-workers", 1)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("options", [(), ("--world", "dream", "--horizon", 40), ("--init", "ctrl")])
def test_a_clone_on_latents_is_taught_in_the_simulator_and_in_the_dream(script, trained, tmp_path, options):
    for stage in ("vae", "mdrnn", "ctrl"):
        shutil.copytree(trained.logdir / stage, tmp_path / stage, copy_function=os.link)
    script(Demonstrating)
    clone, name = ("bc-hand", ("--name", "hand")) if "--init" in options else ("bc", ())
    options = [tmp_path / "ctrl" / "best.tar" if option == "ctrl" else option for option in options]
    for trial in (1, 2):
        done = call(
            "trainbc",
            "--teacher",
            "--logdir",
            tmp_path,
            "--countdown",
            0,
            "--trials",
            trial,
            "--device",
            "cpu",
            *name,
            *options,
        )
        options = options if "dream" in options else []  # what a lesson began with it knows
        assert done.returncode == 0, done.stderr
    columns, manifest = taught(tmp_path, clone)
    assert columns["demonstration"].all() and manifest.env == (
        "dream of gym:CartPole-v1" if "dream" in options else "gym:CartPole-v1"
    )
    assert (
        call(
            "test_controller", "--logdir", tmp_path, "--controller", clone, "--episodes", 1, "--max-workers", 1
        ).returncode
        == 0
    )


def test_what_is_remembered_of_recorded_trials_is_what_was_seen_then(script, trained, tmp_path):
    """The latents a lesson resumes from are those it had, but for the last digits."""
    from dreamdrive.teacher import lesson

    for stage in ("vae", "mdrnn"):
        shutil.copytree(trained.logdir / stage, tmp_path / stage, copy_function=os.link)
    script(Approving)
    memories, before = [], lesson.remembered

    def remembered(*args):
        memories.append(before(*args))
        return memories[-1]

    lesson.remembered = remembered
    try:
        for trial in (1, 2):
            assert (
                call(
                    "trainbc", "--teacher", "--logdir", tmp_path, "--countdown", 0, "--trials", trial, "--device", "cpu"
                ).returncode
                == 0
            )
    finally:
        lesson.remembered = before
    first, again = memories[0].seen, memories[1].seen[: len(memories[0].seen)]
    assert len(first) > 5
    np.testing.assert_allclose(np.stack(again), np.stack(first), atol=1e-5)


@pytest.mark.parametrize(
    "options, reason",
    [
        ((), "--teacher needs a world"),
        (("--env", "carracing"), "carracing is seen as pictures"),
        (("--env", "mountaincar", "--world", "dream"), "no V and M to dream with"),
        (("--env", "mountaincar", "--features", "z"), "leave --features away"),
        (("--env", "nosuch"), "there is no world"),
        (("--env", "mountaincar", "--port", 99999), "a port is 1 to"),
        (("--env", "cartpole", "--observation", "state", "--model", "cfc"), "leave --model away"),
    ],
)
def test_what_cannot_be_taught_is_refused_in_one_sentence(tmp_path, options, reason):
    assert reason in complaint(call("trainbc", "--teacher", "--logdir", tmp_path, *options))


def test_a_clone_that_was_not_taught_is_not_replaced_unasked(trained):
    before = contents(trained.logdir)
    assert (
        "to begin a lesson from it give --init" in complaint(call("trainbc", "--teacher", "--logdir", trained.logdir))
        and contents(trained.logdir) == before
    )


# Keys


def test_keys_mean_what_is_listed():
    keys = make("mountaincar", observation="state").keyboard()
    assert list(keys.listed.items()) == [
        ("left", "accelerate left"),
        ("down", "do not accelerate"),
        ("right", "accelerate right"),
    ]
    assert (
        keys.action(set(), None) is None
        and keys.action({"x"}, None) is None
        and [keys.action({key}, 0) for key in keys.listed] == [0, 1, 2]
    )
    atari = make("atari:Pong").keyboard()
    names = make("atari:Pong").action_names()
    for held, name in (
        ({"right", "space"}, "RIGHTFIRE"),
        ({"left"}, "LEFT"),
        ({"left", "right"}, "NOOP"),
        ({"n"}, "NOOP"),
        ({"space"}, "FIRE"),
        ({"up"}, None),
    ):
        assert atari.action(held, 0) == (None if name is None else names.index(name))
    every = make("atari:Boxing").keyboard()
    assert make("atari:Boxing").action_names()[every.action({"up", "right", "space"}, 0)] == "UPRIGHTFIRE"
    driving = make("carracing").keyboard()
    traffic = make("nocturne").keyboard()
    assert (
        traffic.listed["up"] == "accelerate" and traffic.action({"up"}, None)[0] > 0 > traffic.action({"down"}, None)[0]
    )
    # headings grow to the left
    assert (
        traffic.listed["left"] == "steer left"
        and traffic.action({"left"}, None)[1] > 0 > traffic.action({"right"}, None)[1]
    )
    assert traffic.words(np.array([1.0, -0.5])) == "accelerate +1.00, steer -0.50"
    assert (
        driving.action({"up"}, None).tolist() == [0, 1, 0]
        and driving.action({"n"}, None).tolist() == [0, 0, 0]
        and driving.action({"left"}, None)[0] < 0
    )


def test_a_lesson_has_the_keys_that_the_world_declares(script, tmp_path, monkeypatch):
    class Pressing(Script):
        def press(self, now: dict) -> set[str]:
            assert self.about["keys"] == {"j": NAMES[0], "k": NAMES[1], "l": NAMES[2]}
            return {"l"}

    script(Pressing)
    own = classmethod(lambda cls, space: ChoiceKeys(space, {"j": 0, "k": 1, "l": 2}))
    monkeypatch.setattr(MountainCar, "keys", own)
    done = call("trainbc", *MOUNTAIN, "--logdir", tmp_path, "--trials", 1)
    assert done.returncode == 0, done.stderr
    columns, _ = taught(tmp_path)
    assert (columns["action"] == 2).all() and columns["demonstration"].all()


def test_what_is_ordered_is_done_also_where_every_step_is_late(script, tmp_path):
    """Where no step is in time, a pause is a pause and a stop a stop."""

    class Hurried(Approving):
        def start(self) -> None:
            self.session.speed = 8.0
            self.session.present.set()

        def show(self, picture, now: dict) -> None:
            time.sleep(0.05)  # later than any step is due
            if now["step"] in (10, 11):
                self.session.orders.put(("pause", None) if now["step"] == 10 else ("go", None))
                self.session.orders.put(("stop", None))

    script(Hurried)
    done = call("trainbc", *MOUNTAIN, "--logdir", tmp_path, "--trials", 1)
    assert done.returncode == 0, done.stderr
    assert read_csv(tmp_path / "bc" / "metrics.csv")[0]["steps"] in ("10", "11")


def test_a_lesson_that_has_its_trials_says_so(script, tmp_path):
    script(Approving)
    call("trainbc", *MOUNTAIN, "--logdir", tmp_path, "--trials", 1)
    before = contents(tmp_path)
    done = call("trainbc", *MOUNTAIN, "--logdir", tmp_path, "--trials", 1)
    assert done.returncode == 0 and "has 1 trials already" in done.stdout and contents(tmp_path) == before


def test_held_keys_are_let_go_of_unless_they_are_confirmed():
    held = Held()
    held.hold(frozenset({"left"}))
    assert held.now() == {"left"}
    time.sleep(1.2 * Held.EXPIRY)
    assert held.now() == frozenset() and Held.EXPIRY <= 0.2


# What is remembered


@pytest.mark.parametrize("window", [1, WINDOW])
def test_windows_of_frames_end_with_samples_and_stay_within_their_episodes(window):
    memory, rng = FrameMemory((4, 4, 1), window), np.random.default_rng(0)
    for episode in range(3):
        for t in range(5 + episode):
            value = 10 * episode + t
            memory.add(np.full((4, 4, 1), value, np.uint8), np.array([value], np.float32), t != 1, t == 0)
    assert len(memory) == 15
    for _ in range(50):
        frames, action, counts = memory.batch(rng, 32)
        assert frames.shape[:2] == counts.shape == (32 // window, window)
        for row in range(len(frames)):
            values = frames[row, :, 0, 0, 0][counts[row]].tolist()
            assert (
                values == action[row, :, 0][counts[row]].tolist()
                and len({value // 10 for value in values}) == 1
                and all(value % 10 != 1 for value in values)
            )


# Kills


KILLS = int(os.environ.get("KILLS", 5))  # each takes the seconds that Python needs to start
LESSON = """
from dreamdrive.tests import test_teacher
from dreamdrive.teacher import server
from dreamdrive.utils.script import run
server.Server = test_teacher.Watchful
from dreamdrive import trainbc
run(trainbc.main)
"""


def journal(folder) -> tuple[list[bytes], float]:
    """The records of the trial that is on, none between two trials, and when the last was written."""
    file = folder / "bc" / book.JOURNAL
    try:
        return list(book.whole_records(file)), file.stat().st_mtime
    except FileNotFoundError:
        return [], 0.0


@pytest.mark.slow
def test_killed_at_any_moment_nothing_recorded_is_lost_and_the_lesson_goes_on(tmp_path):
    """Time and again, kill -9 at a random moment; what the journal held then is in the dataset afterwards, and all that
    was there before is as it was."""
    rng, steps, killed = random.Random(0), [], 0.0
    options = command("trainbc.py", *MOUNTAIN, "--logdir", tmp_path, "--trials", 1000)[2:]
    for _ in range(KILLS):
        lesson = subprocess.Popen(
            [command("trainbc.py")[0], "-c", LESSON, *options],
            cwd=ROOT,
            env=variables(),
            start_new_session=True,
            stderr=subprocess.PIPE,
        )
        deadline = time.monotonic() + 60
        while not (len(journal(tmp_path)[0]) > 1 and journal(tmp_path)[1] > killed):
            assert lesson.poll() is None and time.monotonic() < deadline, lesson.stderr.read().decode()
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 2))
        os.killpg(lesson.pid, signal.SIGKILL)
        lesson.wait()
        lesson.stderr.close()
        killed = time.time()
        manifest = tmp_path / "bc" / "taught" / "manifest.json"
        over = json.loads(manifest.read_text())["episodes"] if manifest.exists() else []
        records = journal(tmp_path)[0]
        # else it is a shard already
        unfinished = (
            len(records) - 1 if records and book.FIRST.unpack(records[0][: book.FIRST.size])[0] == len(over) else 0
        )
        steps.append(sum(episode["steps"] for episode in over) + unfinished)
    assert steps == sorted(steps)
    total = steps[-1]
    done = subprocess.run(
        [
            command("trainbc.py")[0],
            "-c",
            LESSON,
            *command("trainbc.py", *MOUNTAIN, "--logdir", tmp_path, "--trials", 1)[2:],
        ],
        cwd=ROOT,
        env=variables(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    columns, manifest = taught(tmp_path)
    assert (
        len(columns["action"]) == total
        and verify(tmp_path / "bc" / "taught") == []
        and f"{total} training steps" in done.stdout
    )


def test_a_journal_that_was_cut_off_or_spoilt_is_kept_up_to_there(script, tmp_path):
    before = {}

    class Copying(Approving):
        def press(self, now: dict) -> set[str]:
            if now["step"] == 50:
                before["journal"] = (tmp_path / "bc" / book.JOURNAL).read_bytes()
            return set()

    script(Copying)
    assert call("trainbc", *MOUNTAIN, "--logdir", tmp_path, "--trials", 1).returncode == 0
    script(Approving)
    whole, ends = before["journal"], [0]
    while ends[-1] < len(whole):
        ends.append(ends[-1] + book.HEADER.size + book.HEADER.unpack_from(whole, ends[-1])[0])
    assert len(ends) == 52
    spoilt = bytearray(whole)
    spoilt[ends[31] + 12] ^= 1
    for content, steps in (
        (whole, 50),
        (whole[: ends[21] + 5], 20),
        (bytes(spoilt), 30),
        (b"", 0),
        (whole[: ends[1]], 0),
        (b"x" * 100, 0),
    ):
        folder = tmp_path / f"run-{steps}-{len(content)}"
        (folder / "bc").mkdir(parents=True)
        (folder / "bc" / book.JOURNAL).write_bytes(content)
        done = call("trainbc", *MOUNTAIN, "--logdir", folder, "--trials", 1)
        assert done.returncode == 0, done.stderr
        assert taught(folder)[1].episodes[0].steps == (steps or 200)


def test_trials_of_another_world_are_not_gone_on_with(tmp_path, script):
    write_dataset(tmp_path / "bc" / "taught", [5, 4])
    script(Approving)
    before = contents(tmp_path)
    assert "was recorded with env" in complaint(call("trainbc", *MOUNTAIN, "--logdir", tmp_path, "--trials", 1))
    assert {name: content for name, content in contents(tmp_path).items() if name.startswith("bc/taught")} == before
