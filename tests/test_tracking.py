"""--track: what trackers are shown, in a real MLflow server, TensorBoard's files and W&B's; and training that none of
them can stop or delay."""

import csv
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dreamdrive.tests.tiny_run import ROOT, TINY, call, complaint, copy_run, tiny, user, variables
from dreamdrive.utils import tracking
from dreamdrive.utils.follower import without_secrets
from dreamdrive.utils.metrics import write_csv
from dreamdrive.utils.settings import Training
from dreamdrive.utils.trackers import TRACKERS
from dreamdrive.utils.tracking import track
from dreamdrive.utils.video import VideoWriter

PATIENCE = 240  # seconds that a loaded machine is given
# Runs the command it is given, and kills it with all it has started as soon as whoever started this one is gone,
# however that came.
LEASH = (
    "import os, signal, subprocess, sys; subprocess.Popen(sys.argv[1:]); sys.stdin.read(); os.killpg(0, signal.SIGKILL)"
)
PNG = ROOT / "docs" / "images" / "vae.png"


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Nobody's settings, and time enough for what is not about time."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW", "WANDB"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(tracking, "GRACE", PATIENCE)
    monkeypatch.setattr(tracking, "RETRY", 1)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_until(true, what: str):
    end = time.monotonic() + PATIENCE
    while not (found := true()):
        assert time.monotonic() < end, what
        time.sleep(0.1)
    return found


def group(pid: int) -> int | None:
    """Its process group; None if it has ended."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


class Server:
    """A real MLflow server, asked through its REST API."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.address = folder, f"http://127.0.0.1:{port}"
        self.command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
            "--backend-store-uri",
            f"sqlite:///{folder}/server.db",
            "--artifacts-destination",
            str(folder / "artifacts"),
        ]

    @contextmanager
    def running(self):
        with open(self.folder / "server.log", "a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LEASH, *self.command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
                env=variables(
                    MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"
                ),
            )
        try:
            wait_until(self.healthy, f"the server does not answer: {self.folder}/server.log")
            yield self
        finally:
            self.process.stdin.close()
            self.process.wait(30)

    @contextmanager
    def hanging(self):
        """Connections are accepted and nothing is answered."""
        pids = [
            int(p.name) for p in Path("/proc").glob("[0-9]*") if group(int(p.name)) == self.process.pid != int(p.name)
        ]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def get(self, endpoint: str, **query) -> bytes:
        with urllib.request.urlopen(f"{self.address}/{endpoint}?{urllib.parse.urlencode(query)}", timeout=60) as answer:
            return answer.read()

    def api(self, path: str, **query) -> dict:
        return json.loads(self.get(f"api/2.0/mlflow/{path}", **query))

    def healthy(self) -> bool:
        try:
            return self.get("health") == b"OK"
        except OSError:
            return False

    def runs(self, experiment: str) -> list[dict]:
        """The oldest first; none if the experiment is unknown."""
        try:
            found = self.api("experiments/get-by-name", experiment_name=experiment)["experiment"]["experiment_id"]
        except urllib.error.HTTPError:
            return []
        body = json.dumps({"experiment_ids": [found], "order_by": ["attributes.start_time ASC"]}).encode()
        asked = urllib.request.Request(
            f"{self.address}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.loads(answer.read()).get("runs", [])

    def history(self, run: dict, metric: str) -> list[tuple[int, float]]:
        """(step, value) of all that was ever logged."""
        return [
            (int(m.get("step", 0)), m["value"])
            for m in self.api("metrics/get-history", run_id=run["info"]["run_id"], metric_key=metric).get("metrics", [])
        ]

    def picture(self, run: dict, name: str) -> bytes:
        return self.get("get-artifact", run_id=run["info"]["run_id"], path=name)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("mlflow"), free_port()).running() as server:
        yield server


@pytest.fixture
def mlflow(server, monkeypatch, request):
    """The server, which --track mlflow uses, with an experiment of its own for each test."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    server.experiment = request.node.name
    return server


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    epochs: int = 2


def options(tracker: str, logdir: Path, **more) -> Settings:
    return Settings(track=tracker, logdir=logdir, **more)


def rows(first: int, last: int) -> list[dict]:
    return [
        {"epoch": epoch, "method": "bc", "loss": 1 / epoch, "return_mean": None, "reward": float("nan")}
        for epoch in range(first, last + 1)
    ]


def training(args: Settings, last: int, meanwhile=lambda: None, filmed: bool = False) -> Path:
    """What a stage does up to epoch `last`, without the learning; returns its folder."""
    folder = args.logdir / "bc"
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    with track(args, folder, films=[folder / "dream.mp4", folder / "never.mp4"]):
        for epoch in range(1, last + 1):
            shutil.copy(PNG, folder / "samples" / f"epoch_{epoch:03d}.png")
            (folder / "checkpoint.tar").touch()
            write_csv(folder / "metrics.csv", rows(1, epoch))
        shutil.copy(PNG, folder / "loss.png")
        if filmed:
            with VideoWriter(folder / "dream.mp4", 10) as video:
                for level in (0, 120, 240):
                    video.add(np.full((32, 48, 3), level, np.uint8))
        meanwhile()
    return folder


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv") as file:
        return list(csv.DictReader(file))


# What they are shown


@pytest.mark.slow
def test_mlflow_has_parameters_metrics_and_pictures_of_a_stage_and_one_run_however_often_it_goes_on(
    mlflow, trained, tmp_path
):
    run = copy_run(trained, tmp_path)
    folder, command = run.logdir / "mdrnn", ("trainmdrnn", "--logdir", run.logdir, "--track", "mlflow")
    done = tiny(*command, "--epochs", 1, "--noreload")
    (shown,) = mlflow.runs(mlflow.experiment)
    assert shown["info"]["status"] == "FINISHED" and [step for step, _ in mlflow.history(shown, "loss")] == [1]
    assert done.stderr.count("tracking: ") == 1 and f"see it with {mlflow.address}" in done.stderr
    parameters = {p["key"]: p["value"] for p in shown["data"]["params"]}
    written = json.loads((folder / "args.json").read_text())
    assert written.pop("source") and parameters == {name: str(value) for name, value in written.items()}
    tiny(*command, "--epochs", 3)
    (shown,) = mlflow.runs(mlflow.experiment)
    assert shown["info"]["status"] == "FINISHED"
    assert mlflow.history(shown, "epoch") == [] and {"key": "epoch", "value": "3"} in shown["data"]["tags"]
    for name in set(table(folder)[0]) - {"epoch"}:
        assert mlflow.history(shown, name) == [(epoch, float(row[name])) for epoch, row in enumerate(table(folder), 1)]
    for name, path in {
        "pictures/loss.png": "loss.png",
        "dreams/epoch_001.png": "dreams/epoch_001.png",
        "dreams/epoch_003.png": "dreams/epoch_003.png",
    }.items():
        assert mlflow.picture(shown, name) == (folder / path).read_bytes()
    tiny(*command, "--epochs", 1, "--noreload")
    before, after = mlflow.runs(mlflow.experiment)
    assert len(mlflow.history(before, "loss")) == 3 and len(mlflow.history(after, "loss")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "module, stage, picture",
    [
        ("trainvae", "vae", "samples/epoch_002.png"),
        ("traincontroller", "ctrl", "pictures/fitness.png"),
        ("trainbc", "bc", "pictures/dream.png"),
    ],
)
def test_every_stage_is_shown(module, stage, picture, mlflow, trained, tmp_path):
    run = copy_run(trained, tmp_path)
    tiny(
        module,
        "--logdir",
        run.logdir,
        "--track",
        "mlflow",
        "--noreload",
        *(("--dataset", run.data) if module == "trainvae" else ()),
    )
    (shown,) = mlflow.runs(mlflow.experiment)
    counter = "generation" if stage == "ctrl" else "epoch"
    assert shown["info"]["status"] == "FINISHED" and shown["info"]["run_name"] == f"run/{stage}"
    assert {"key": counter, "value": "2"} in shown["data"]["tags"] and mlflow.history(shown, counter) == []
    assert mlflow.picture(shown, picture) == (run.logdir / stage / picture.removeprefix("pictures/")).read_bytes()


def raises(error: BaseException):
    def happen(*_, **__):
        raise error

    return happen


def test_how_a_training_ended_is_shown_until_it_goes_on(mlflow, tmp_path):
    for last, (error, status) in enumerate(
        [(ValueError("a bug"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (None, "FINISHED")], 1
    ):
        with pytest.raises(type(error)) if error else nullcontext():
            training(options("mlflow", tmp_path), last, raises(error) if error else lambda: None)
        (shown,) = mlflow.runs(mlflow.experiment)
        assert shown["info"]["status"] == status and mlflow.history(shown, "loss") == [
            (epoch, 1 / epoch) for epoch in range(1, last + 1)
        ]
        assert mlflow.picture(shown, "pictures/loss.png") == PNG.read_bytes()
    assert {m["key"] for m in shown["data"]["metrics"]} == {"loss"}  # what is not a finite number is left out


def test_a_training_that_was_killed_is_shown_so_though_it_could_not_say_it(mlflow, tmp_path):
    code = (
        "import sys; from dreamdrive.tests.test_tracking import *; tracking.GRACE = PATIENCE; "
        "training(options('mlflow', Path(sys.argv[1])), 2, lambda: os.kill(os.getpid(), 9))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, env=variables(), stdin=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL
    wait_until(
        lambda: [shown["info"]["status"] for shown in mlflow.runs(mlflow.experiment)] == ["KILLED"],
        "the run is marked as killed",
    )
    assert mlflow.history(mlflow.runs(mlflow.experiment)[0], "loss") == [(1, 1.0), (2, 0.5)]


def test_a_run_begun_without_a_tracker_is_shown_from_its_beginning(mlflow, tmp_path):
    training(options("none", tmp_path), 2)
    training(options("mlflow", tmp_path), 3)
    (shown,) = mlflow.runs(mlflow.experiment)
    assert [step for step, _ in mlflow.history(shown, "loss")] == [1, 2, 3] and mlflow.picture(
        shown, "samples/epoch_001.png"
    )


def test_a_run_that_the_server_no_longer_has_is_shown_anew(mlflow, tmp_path):
    kept = training(options("none", tmp_path), 1) / "tracking" / "mlflow.json"
    kept.parent.mkdir()
    kept.write_text(json.dumps({"step": 1, "run": "0" * 32}))
    training(options("mlflow", tmp_path), 2)
    assert [len(mlflow.history(shown, "loss")) for shown in mlflow.runs(mlflow.experiment)] == [2]


def test_mlflow_without_an_address_writes_below_the_logdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    training(options("mlflow", tmp_path / "run"), 1)
    assert (tmp_path / "run" / "mlflow" / "mlflow.db").exists() and list(
        (tmp_path / "run" / "mlflow" / "artifacts").glob("*/artifacts/samples/epoch_001.png")
    )
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def events(logdir: Path) -> EventAccumulator:
    return EventAccumulator(
        str(logdir / "tensorboard" / "bc"), size_guidance={"scalars": 0, "images": 0, "tensors": 0}
    ).Reload()


def test_tensorboard_has_every_step_once_however_often_training_goes_on(tmp_path):
    for last in (2, 3):
        training(options("tensorboard", tmp_path), last, filmed=True)
        found = events(tmp_path)
        assert [(event.step, event.value) for event in found.Scalars("bc/loss")] == [
            (row["epoch"], pytest.approx(row["loss"])) for row in rows(1, last)
        ]
        assert found.Tags()["scalars"] == ["bc/loss"], "grouped by stage, and no chart of the epoch's number"
        assert [event.step for event in found.Images("bc/samples")] == list(range(1, last + 1)) and found.Images(
            "bc/pictures/loss"
        )[0].width > 100
        (film,) = found.Images("bc/films/dream")[-1:]
        gif = Image.open(io.BytesIO(film.encoded_image_string))
        assert (gif.format, gif.size, gif.n_frames) == ("GIF", (48, 32), 3) == ("GIF", (film.width, film.height), 3)
        assert "bc/films/never" not in found.Tags()["images"]
        assert b"finished" in found.Tensors("status/text_summary")[-1].tensor_proto.string_val[0]
        assert b"| epochs | 2 |" in found.Tensors("parameters/text_summary")[0].tensor_proto.string_val[0]
    training(options("tensorboard", tmp_path, noreload=True), 1)
    assert [event.step for event in events(tmp_path).Scalars("bc/loss")] == [1]


def test_a_score_is_a_step_of_its_own_chart_with_its_film(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    name = "scores/bc-gym:CartPole-v1-simulator"
    command = ("test_controller", "--logdir", run.logdir, "--controller", "bc", "--max-workers", 1)
    means = []
    for seed in (0, 1):
        done = call(*command, "--episodes", 2, "--seed", seed, "--track", "tensorboard", "--record", tmp_path / "a.mp4")
        assert done.returncode == 0 and f"see it with tensorboard --logdir {run.logdir}/tensorboard\n" in done.stderr
        means.append(json.loads((run.logdir / f"{name}.json").read_text())["mean"])
    assert [float(row["mean"]) for row in table(run.logdir / name)] == means
    found = EventAccumulator(str(run.logdir / "tensorboard" / name)).Reload()
    assert [(event.step, event.value) for event in found.Scalars(f"{name}/mean")] == [
        (step, pytest.approx(mean)) for step, mean in enumerate(means, 1)
    ]
    assert f"{name}/films/a" in found.Tags()["images"]
    assert b"--controller bc" in found.Tensors("parameters/text_summary")[0].tensor_proto.string_val[0]
    done = call(*command, "--episodes", 2, "--track", "tensorboard", "--record", "worst")
    assert done.returncode == 0, done.stderr
    found = EventAccumulator(str(run.logdir / "tensorboard" / name)).Reload()
    assert {f"{name}/films/{Path(name).name}-worst-{place}" for place in (1, 2)} <= set(found.Tags()["images"])
    assert "--track is for scores" in complaint(call(*command, "--render", "--track", "tensorboard"))


def records(file: Path):
    """W&B's records in a file of its own (chunks as in LevelDB's log, in blocks of 32 KB after a header of 7 bytes)."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, whole = file.read_bytes(), 7, b""
    while at < len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        whole += content[at + 7 : at + 7 + length]
        assert int.from_bytes(content[at : at + 4], "little") == zlib.crc32(content[at + 6 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):
            yield Record.FromString(whole)
            whole = b""


def test_wandb_offline_has_parameters_metrics_pictures_and_how_it_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(ValueError):
        training(options("wandb", tmp_path), 2, raises(ValueError("a bug")), filmed=True)
    training(options("wandb", tmp_path), 3, filmed=True)
    parts = [
        list(records(file))
        for file in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    ]
    for part in parts:
        defined = {m.name or m.glob_name: m for record in part if record.HasField("metric") for m in [record.metric]}
        assert defined["*"].step_metric == "epoch", "the epoch is the axis of all charts"
        assert defined["epoch"].options.hidden, "and has none of its own"
    assert len({record.run.run_id for part in parts for record in part if record.HasField("run")}) == 1
    assert [record.exit.exit_code for part in parts for record in part if record.HasField("exit")] == [1, 0]
    logged = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for part in parts
        for record in part
        if record.HasField("history")
    ]
    assert [(row["epoch"], row["loss"]) for row in logged if "loss" in row] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert [row["epoch"] for row in logged if "samples" in row] == [1, 2, 3]
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/images/samples_*.png"))) == 3
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/videos/films/dream_*.mp4"))) == 2


# What they cannot do


def said(capfd) -> list[str]:
    return [text for text in capfd.readouterr().err.splitlines() if text.startswith("tracking: ")]


@pytest.mark.slow
def test_a_stage_whose_server_is_down_trains_the_same_and_says_so_once(trained, tmp_path, monkeypatch):
    run = copy_run(trained, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:se-cret@127.0.0.1:{free_port()}")
    done = tiny("trainmdrnn", "--logdir", run.logdir, "--track", "mlflow", "--noreload")
    sentences = [text for text in done.stderr.splitlines() if "tracking: " in text]
    assert (
        len(sentences) == 1
        and "MLflow failed" in sentences[0]
        and "refused" in sentences[0]
        and "se-cret" not in done.stdout + done.stderr
    )
    for name in ("metrics.csv", "best.tar", "checkpoint.tar"):
        assert (run.logdir / "mdrnn" / name).read_bytes() == (trained.logdir / "mdrnn" / name).read_bytes()


def test_a_server_that_never_answers_delays_the_end_by_its_grace_and_nothing_else(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tracking, "GRACE", 2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        took = []
        began = time.monotonic()
        folder = training(options("mlflow", tmp_path), 20, lambda: took.append(time.monotonic() - began))
        assert took[0] < 5 and time.monotonic() - began - took[0] < 2 + 4
    (sentence,) = said(capfd)
    assert "MLflow failed" in sentence and len(table(folder)) == 20


def test_a_server_that_never_answered_is_not_waited_for_at_the_end(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tracking, "RETRY", 600)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    sentences, took = [], []

    def until_it_is_said():
        wait_until(lambda: sentences.extend(said(capfd)) or sentences, "the complaint")
        took.append(time.monotonic())

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        training(options("mlflow", tmp_path), 2, until_it_is_said)
    assert time.monotonic() - took[0] < 4 and len(sentences) == 1 and "timed out" in sentences[0] and said(capfd) == []


def test_a_server_that_hangs_for_a_while_gets_what_it_missed_and_nothing_twice(mlflow, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    sentences = []

    def shown() -> list[int]:
        return [step for run in mlflow.runs(mlflow.experiment) for step, _ in mlflow.history(run, "loss")]

    def meanwhile():
        wait_until(lambda: shown() == [1, 2], "what there is")
        said(capfd)
        with mlflow.hanging():
            write_csv(tmp_path / "bc" / "metrics.csv", rows(1, 5))
            wait_until(lambda: sentences.extend(said(capfd)) or sentences, "the complaint")
            time.sleep(3)  # and another attempt
        wait_until(lambda: shown() == [1, 2, 3, 4, 5], "what was missing")

    training(options("mlflow", tmp_path), 2, meanwhile)
    assert shown() == [1, 2, 3, 4, 5] and mlflow.runs(mlflow.experiment)[0]["info"]["status"] == "FINISHED"
    assert len(sentences) == 1 and "timed out" in sentences[0] and said(capfd) == []


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Puts a package made up by a test before the one installed."""

    def write(name: str, code: str):
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "__init__.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))

    return write


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_missing_package_is_named_with_what_installs_it(tracker, package, tmp_path, capfd):
    package(tracker, f"raise ModuleNotFoundError('No module named {tracker}', name='{tracker}')")
    folder = training(options(tracker, tmp_path), 2)
    (sentence,) = said(capfd)
    file = "requirements.txt" if tracker == "tensorboard" else "requirements-extra.txt"
    assert (
        tracker in sentence
        and f"pip install -r {file}" in sentence
        and tracker in (ROOT / file).read_text()
        and len(table(folder)) == 2
    )


SLOW = """
import time
class Settings(dict): pass
class Image(str): pass
class Run:
    url, config = "somewhere", {}
    def define_metric(self, *_, **__): pass
    def log(self, values):
        time.sleep(0.02)
        with open(FILE, "a") as file: print(values.get("loss"), file=file)
    def finish(self, code): pass
def init(**_): return Run()
"""


def test_a_tracker_slower_than_training_does_not_slow_it_and_gets_all_in_order(package, tmp_path):
    package("wandb", SLOW.replace("FILE", repr(str(tmp_path / "logged"))))
    began, took = time.monotonic(), []
    training(options("wandb", tmp_path), 100, lambda: took.append(time.monotonic() - began))
    logged = [
        float(text) for text in (tmp_path / "logged").read_text().split() if text != "None" and not text.startswith("/")
    ]
    assert logged == [row["loss"] for row in rows(1, 100)] and took[0] < time.monotonic() - began - 1


def test_a_tracker_that_is_still_behind_after_the_grace_goes_on_with_the_next_command(
    package, tmp_path, monkeypatch, capfd
):
    package("wandb", SLOW.replace("FILE", repr(str(tmp_path / "logged"))))
    monkeypatch.setattr(tracking, "GRACE", 1)
    training(options("wandb", tmp_path), 100)
    assert "no answer within 1 second" in said(capfd)[-1]
    monkeypatch.setattr(tracking, "GRACE", PATIENCE)
    training(options("wandb", tmp_path), 100)
    logged = [float(text) for text in (tmp_path / "logged").read_text().split() if text not in ("None",)]
    # one may have been under way
    assert sorted(set(logged), reverse=True) == [row["loss"] for row in rows(1, 100)] and len(logged) <= 101


def test_a_package_that_takes_its_process_down_is_reported(package, tmp_path, capfd):
    package("wandb", "import os; os.abort()")
    folder = training(options("wandb", tmp_path), 2)
    (sentence,) = said(capfd)
    assert "crashed" in sentence and len(table(folder)) == 2


def test_a_stage_imports_no_tracker():
    code = (
        "import sys, trainvae, trainmdrnn, traincontroller, trainbc; print({'mlflow', 'wandb', 'tensorboard'} & "
        "set(sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=variables(), capture_output=True, text=True).stdout
        == "set()\n"
    )


def test_without_a_tracker_nothing_of_one_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "start", raises(AssertionError("a process was started")))
    assert not (training(options("none", tmp_path), 1) / "tracking").exists()


def test_a_process_that_cannot_be_started_is_reported(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(subprocess, "Popen", raises(OSError(12, "Cannot allocate memory")))
    training(options("tensorboard", tmp_path), 1)
    assert said(capfd) == [
        "tracking: its process cannot be started (Cannot allocate memory); training continues without it"
    ]


def test_secrets_are_not_printed(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    assert (
        without_secrets("http://me:pa/ss@host:1/a?sig=abc refused t0ken, twice")
        == "http://host:1/a? refused ***, twice"
    )


def test_a_tracker_is_one_class_and_one_line(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    command = ("-m", "dreamdrive.tests.toy_tracker", "trainmdrnn", *TINY["trainmdrnn"], "--track", "lines")
    first = user(*command, "--logdir", run.logdir, "--epochs", 1, "--noreload")
    assert f"tracking: see it with cat {run.logdir}/lines.txt" in first.stderr
    user(*command, "--logdir", run.logdir, "--epochs", 2)
    losses = [float(row["loss"]) for row in table(run.logdir / "mdrnn")]
    said = (run.logdir / "lines.txt").read_text().splitlines()
    kept = [line for line in said if "bytes" not in line]
    assert kept == [
        "begins after step 0, epochs 1",
        f"1: loss {losses[0]:g}",
        "1: finished",
        "begins after step 1, epochs 2",
        f"2: loss {losses[1]:g}",
        "2: finished",
    ]
    assert any(line.startswith("2: pictures/loss, ") for line in said)
    assert "choose from none, tensorboard, mlflow, wandb" in complaint(
        call("trainmdrnn", "--logdir", run.logdir, "--track", "lines")
    ).replace("'", "")


def test_a_tracker_that_cannot_be_loaded_is_reported(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(TRACKERS, "gone", "dreamdrive.tests.no_such_file:Gone")
    folder = training(options("gone", tmp_path), 2)
    (sentence,) = said(capfd)
    assert "Gone cannot be used (ModuleNotFoundError" in sentence and len(table(folder)) == 2


@pytest.mark.slow
def test_as_a_user_would(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    done = user(
        "trainmdrnn.py",
        "--hidden",
        16,
        "--epochs",
        3,
        "--device",
        "cpu",
        "--seq-len",
        16,
        "--batch-size",
        8,
        "--logdir",
        run.logdir,
        "--track",
        "tensorboard",
    )
    assert f"tracking: see it with tensorboard --logdir {run.logdir}/tensorboard" in done.stderr
    found = EventAccumulator(str(run.logdir / "tensorboard" / "mdrnn")).Reload()
    assert [event.step for event in found.Scalars("mdrnn/val_loss")] == [1, 2, 3]
