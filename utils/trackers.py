"""The process beside a training that shows it in TensorBoard, MLflow or Weights & Biases; started by utils.tracking.

It follows the files that training writes anyway, metrics.csv and the pictures, so nothing queues up and nothing gets
lost: what a tracker has missed while it was slow or down is sent later, also by a later run of the same command. Being
a process, it keeps from training whatever a tracker's package does: imports of seconds, threads, handlers of exits and
signals, servers that hang. It also outlives a training that is killed, for as long as it takes to say so.

    exp_dir/<stage>/tracking/<tracker>.json    the tracker's run that the next command resumes, and the last step
    it has been sent
"""

import contextlib
import csv
import json
import math
import os
import re
import sys
import threading
import time
import uuid
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.utils.locks import locked

PROJECT = "dreamdrive"
GLANCE = 0.5  # seconds between two looks at the files
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "OMP_NUM_THREADS": "1",
}
# MLflow's own add up to many minutes
DEFAULTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class TensorBoard:
    """Event files in exp_dir/tensorboard/<stage>. `kept` is this tracker's <tracker>.json; `place` says where to
    look."""

    def __init__(self, job: dict, kept: dict) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = Path(job["logdir"], "tensorboard", job["stage"])
        # hides what an earlier run has shown beyond that
        self.writer = SummaryWriter(folder, purge_step=kept["step"] + 1)
        self.writer.add_text(
            "parameters",
            "\n".join(["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in job["parameters"].items())]),
            kept["step"],
        )
        self.writer.flush()
        self.place = f"tensorboard --logdir {folder.parent}"

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, name: str, path: Path, step: int) -> None:
        import numpy as np
        from PIL import Image

        self.writer.add_image(name, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")

    def end(self, status: str, step: int) -> None:
        self.writer.add_text("status", status, step)
        self.writer.close()


class MLflow:
    """A run at MLFLOW_TRACKING_URI, else in an SQLite file in exp_dir/mlflow."""

    # of steps, in milliseconds: a row that is sent twice, for want of an answer, is one if its time is the same
    times: dict[int, int] = {}

    def __init__(self, job: dict, kept: dict) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        uri, local = os.environ.get("MLFLOW_TRACKING_URI"), Path(job["logdir"]).resolve() / "mlflow"
        self.client, self.metric = MlflowClient(uri or local_store(local)), Metric
        run = self._known(kept.get("run"))
        if run:
            self.client.update_run(run.info.run_id, status="RUNNING")
        else:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self.client.get_experiment_by_name(name)
            experiment = (
                found.experiment_id
                if found
                else self.client.create_experiment(name, None if uri else (local / "artifacts").as_uri())
            )
            run = self.client.create_run(
                experiment, tags={"stage": job["stage"], "logdir": job["logdir"]}, run_name=job["name"]
            )
        self.run = kept["run"] = run.info.run_id
        if not run.data.params:
            self.client.log_batch(
                self.run, params=[Param(name, str(value)) for name, value in job["parameters"].items()]
            )
        # What it really has: an answer may have come too late for us to count it.
        kept["step"] = int(run.data.metrics.get(job["counter"], 0))
        self.place = (
            f"{uri.rstrip('/')}/#/experiments/{run.info.experiment_id}/runs/{self.run}"
            if uri
            else f"mlflow ui --backend-store-uri sqlite:///{local}/mlflow.db"
        )

    def _known(self, run_id: str | None):
        """The run, unless this server does not have it (any more)."""
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id) if run_id else None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run and run.info.lifecycle_stage == "active" else None

    def log(self, step: int, values: dict[str, float]) -> None:
        moment = self.times.setdefault(step, int(time.time() * 1000))
        self.client.log_batch(
            self.run, metrics=[self.metric(name, value, moment, step) for name, value in values.items()]
        )

    def picture(self, name: str, path: Path, step: int) -> None:
        self.client.log_artifact(self.run, str(path), name.split("/")[0])

    def end(self, status: str, step: int) -> None:
        self.client.set_terminated(self.run, status.upper())


def local_store(folder: Path) -> str:
    """The address of an SQLite file in `folder`. MLflow takes seconds to make one, and cannot mend one half made: it
    gets its name when it is whole."""
    from mlflow import MlflowClient

    folder.mkdir(exist_ok=True)
    store, new = folder / "mlflow.db", folder / "new.db"
    with locked(folder, None):
        if not store.exists():
            new.unlink(missing_ok=True)
            MlflowClient(f"sqlite:///{new}").search_experiments()
            os.replace(new, store)
    return f"sqlite:///{store}"


class WandB:
    """A run at Weights & Biases, with its own settings and log-in; without a network by WANDB_MODE=offline, in
    exp_dir/wandb."""

    def __init__(self, job: dict, kept: dict) -> None:
        import wandb

        kept.setdefault("run", uuid.uuid4().hex[:8])
        quiet = wandb.Settings(
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            init_timeout=10,
            finish_timeout=10,
        )
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=kept["run"],
            resume="allow",
            name=job["name"],
            job_type=job["stage"],
            dir=os.environ.get("WANDB_DIR", job["logdir"]),
            settings=quiet,
        )
        self.run.config.update(job["parameters"], allow_val_change=True)
        self.counter, self.image = job["counter"], wandb.Image
        # steps of its own cannot go back, as pictures of a resumed run would
        self.run.define_metric("*", step_metric=self.counter)
        self.place = self.run.url or f"wandb sync {Path(self.run.dir).parent}"

    def log(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values)

    def picture(self, name: str, path: Path, step: int) -> None:
        self.run.log({name: self.image(str(path)), self.counter: step})

    def end(self, status: str, step: int) -> None:
        self.run.finish({"finished": 0, "failed": 1, "killed": 255}[status])


Tracker = TensorBoard | MLflow | WandB
TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}


class Follower:
    """Keeps a tracker up to date with a stage's folder, until training says how it ended, or has ended without a
    word."""

    def __init__(self, job: dict, out: int) -> None:
        self.job, self.out, self.folder = job, out, Path(job["folder"])
        self.name = TRACKERS[job["tracker"]].__name__
        self.file = self.folder / "tracking" / f"{job['tracker']}.json"
        self.kept = json.loads(self.file.read_text()) if job["resumed"] and self.file.exists() else {"step": 0}
        self.tracker: Tracker | None = None
        self.failed, self.read = False, 0
        self.status, self.ended = "killed", threading.Event()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        """Wait until training says how it ended, or ends without a word; from then on the tracker has so much time."""
        self.status = os.read(0, 20).decode() or self.status
        self.ended.set()
        time.sleep(self.job["grace"])
        self.fail(f"no answer within {self.job['grace']} seconds of the end")
        os._exit(1)

    def run(self) -> int:
        """The exit status: 0 if the tracker has everything."""
        ended, failed_at = False, -math.inf
        while not ended:
            ended = self.ended.wait(GLANCE)
            if time.monotonic() - failed_at < self.job["retry"]:
                continue
            try:
                self.bring_up_to_date(ended)
                failed_at = -math.inf
            except ImportError as error:
                missing = f"the package {error.name} is missing" if error.name else str(error)
                file = "requirements.txt" if self.job["tracker"] == "tensorboard" else "requirements-extra.txt"
                self.say(
                    f"{self.name} cannot be used ({missing}): `pip install -r {file}`; training continues without it"
                )
                return 1
            except Exception as error:
                self.tracker, failed_at = None, time.monotonic()
                self.fail(reason(error))
        return 0 if failed_at == -math.inf else 1

    def bring_up_to_date(self, ended: bool) -> None:
        if self.tracker is None:
            self.tracker = TRACKERS[self.job["tracker"]](self.job, self.kept)
            self.keep()
            self.read = 0
            if not self.failed:
                self.say(f"see it with {self.tracker.place}")
        tracker = self.tracker
        for row in self.rows():
            step = int(row[self.job["counter"]])
            if step > self.kept["step"]:
                for path in sorted(self.folder.glob(f"*/epoch_{step:03d}.png")):
                    self.picture(tracker, path.parent.name, path, step, self.job["resumed"])
                tracker.log(step, numbers(row))
                self.kept["step"] = step
                self.keep()
        if ended:
            for path in sorted(self.folder.glob("*.png")):  # these are drawn anew in every epoch, or when all is done
                self.picture(tracker, f"pictures/{path.stem}", path, self.kept["step"], False)
            tracker.end(self.status, self.kept["step"])

    def rows(self) -> list[dict[str, str]]:
        """Those of metrics.csv, if it has changed since it was read last, and is not of a run before --noreload."""
        path = self.folder / "metrics.csv"
        changed = path.stat().st_mtime_ns if path.exists() else 0
        if changed == self.read or changed < self.job["began"] and not self.job["resumed"]:
            return []
        rows = list(csv.DictReader(path.read_text().splitlines()))
        self.read = changed
        return rows

    def picture(self, tracker: Tracker, name: str, path: Path, step: int, older: bool) -> None:
        """Show a picture; one from before this training began only if `older` ones count."""
        if older or path.stat().st_mtime_ns >= self.job["began"]:
            tracker.picture(name, path, step)

    def keep(self) -> None:
        temporary = self.file.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.kept) + "\n")
        os.replace(temporary, self.file)

    def fail(self, why: str) -> None:
        """Say once what is wrong."""
        if not self.failed:
            self.failed = True
            self.say(
                f"{self.name} failed ({why}); training continues, and what is missing there follows when it works, or "
                "when the same "
                "command is run again"
            )

    def say(self, sentence: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody is left to hear it
            os.write(self.out, f"tracking: {without_secrets(sentence)}\n".encode())


def reason(error: BaseException) -> str:
    """What failed and, where it was raised because of another error, the first of these."""
    first = error
    while before := first.__cause__ or first.__context__:
        first = before
    said = dict.fromkeys((error, first)) if str(first) else [error]
    texts = [f"{type(e).__name__}: {without_secrets(' '.join(str(e).split()))}" for e in said]
    return ", because of ".join(text if len(text) < 160 else f"{text[:160]} ..." for text in texts)


def numbers(row: dict[str, str]) -> dict[str, float]:
    """The finite numbers of a row."""
    found = {}
    for name, text in row.items():
        try:
            value = float(text)
        except ValueError:
            continue
        if math.isfinite(value):
            found[name] = value
    return found


def without_secrets(text: str) -> str:
    """`text` without the passwords of addresses, what follows their question marks, and the values of variables that
    hold tokens, keys or passwords."""
    text = re.sub(r"(://)\S*@|(\?)\S*=\S*", r"\1\2", text)
    for name, value in os.environ.items():
        if len(value) > 3 and re.search("TOKEN|KEY|PASSWORD|SECRET", name):
            text = text.replace(value, "***")
    return text


def main() -> int:
    job = json.loads(sys.argv[1])
    out = os.dup(1)
    os.dup2(2, 1)  # packages print what they like; 2 is /dev/null
    os.environ.update({**DEFAULTS, **os.environ, **SETTINGS})
    # of a training that was killed, the follower may still be there
    with locked(Path(job["folder"], "tracking"), None):
        return Follower(job, out).run()


if __name__ == "__main__":
    sys.exit(main())
