"""Where a training can be shown: TensorBoard, MLflow, Weights & Biases. One is a class and a line in TRACKERS, and
`--track` then has its name.

A tracker works in the process that utils/follower.py describes; its package is imported there, when it is made.
"""

import os
import time
import uuid
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from dreamdrive.utils.locks import locked

PROJECT = "dreamdrive"


class Tracker(ABC):
    """What is shown of one stage. Whatever fails raises; it is then made anew, and gets what is missing.

    Attributes:
        REQUIREMENTS: file that installs what it imports
        place: where to look, or the command that shows it
    """

    REQUIREMENTS: ClassVar[str] = "requirements-extra.txt"
    place: str

    @abstractmethod
    def __init__(self, job: dict, kept: dict) -> None:
        """
        Args:
            job: what utils.tracking says of the training: logdir, stage, name, parameters, and the column `counter` of
                metrics.csv that numbers its rows
            kept: what is kept for the next command that resumes it, plain values, with the last `step` it was sent
        """

    @abstractmethod
    def log(self, step: int, values: dict[str, float]) -> None:
        """The numbers of one row of metrics.csv."""

    @abstractmethod
    def picture(self, name: str, path: Path, step: int) -> None:
        """A picture, e.g. `samples` or `pictures/loss`, which may have been shown at an earlier step."""

    @abstractmethod
    def film(self, name: str, path: Path, step: int) -> None:
        """A film, an mp4, e.g. `films/dream`, as it is at the end."""

    @abstractmethod
    def end(self, status: str, step: int) -> None:
        """Training has finished, failed, or was killed."""


class TensorBoard(Tracker):
    """Event files in exp_dir/tensorboard/<stage>; tags begin with the stage's name, which groups them on the page. What
    numbers the rows is the step of a chart, and has none of its own."""

    REQUIREMENTS = "requirements.txt"

    def __init__(self, job: dict, kept: dict) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = Path(job["logdir"], "tensorboard")
        # hides what an earlier run has shown beyond that
        self.writer = SummaryWriter(folder / job["stage"], purge_step=kept["step"] + 1)
        self.writer.add_text(
            "parameters",
            "\n".join(["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in job["parameters"].items())]),
            kept["step"],
        )
        self.writer.flush()
        self.stage, self.counter = job["stage"], job["counter"]
        self.place = f"tensorboard --logdir {folder}"

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            if name != self.counter:
                self.writer.add_scalar(f"{self.stage}/{name}", value, step)
        self.writer.flush()

    def picture(self, name: str, path: Path, step: int) -> None:
        import numpy as np
        from PIL import Image

        self.writer.add_image(
            f"{self.stage}/{name}", np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC"
        )

    def film(self, name: str, path: Path, step: int) -> None:
        """As a moving GIF among the pictures: the page plays no mp4."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        from dreamdrive.utils.video import as_gif

        gif = as_gif(path)
        image = Summary.Image(width=gif.width, height=gif.height, colorspace=3, encoded_image_string=gif.content)
        summary = Summary(value=[Summary.Value(tag=f"{self.stage}/{name}", image=image)])
        self.writer._get_file_writer().add_summary(summary, step)

    def end(self, status: str, step: int) -> None:
        self.writer.add_text("status", status, step)
        self.writer.close()


class MLflow(Tracker):
    """A run at MLFLOW_TRACKING_URI, else in an SQLite file in exp_dir/mlflow. What numbers the rows is the step of a
    chart; how far they go is a tag of the run, of the counter's name."""

    # of steps, in milliseconds: a row that is sent twice, for want of an answer, is one if its time is the same
    times: dict[int, int] = {}

    def __init__(self, job: dict, kept: dict) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag

        uri, local = os.environ.get("MLFLOW_TRACKING_URI"), Path(job["logdir"]).resolve() / "mlflow"
        self.client, self.metric, self.tag = MlflowClient(uri or local_store(local)), Metric, RunTag
        run = self._known(kept.get("run"))
        sent = kept["step"] if run else 0
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
        self.counter = job["counter"]
        # What it really has: an answer may have come too late for us to count it.
        kept["step"] = int(run.data.tags.get(self.counter, sent))
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
        metrics = [self.metric(name, value, moment, step) for name, value in values.items() if name != self.counter]
        self.client.log_batch(self.run, metrics=metrics, tags=[self.tag(self.counter, str(step))])

    def picture(self, name: str, path: Path, step: int) -> None:
        self.client.log_artifact(self.run, str(path), name.split("/")[0])

    def film(self, name: str, path: Path, step: int) -> None:
        self.picture(name, path, step)

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


class WandB(Tracker):
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
        # steps of its own cannot go back, as pictures of a resumed run would; that axis has no chart of its own
        self.run.define_metric("*", step_metric=self.counter)
        self.run.define_metric(self.counter, hidden=True)
        self.place = self.run.url or f"wandb sync {Path(self.run.dir).parent}"

    def log(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values)

    def picture(self, name: str, path: Path, step: int) -> None:
        self.run.log({name: self.image(str(path)), self.counter: step})

    def film(self, name: str, path: Path, step: int) -> None:
        from wandb import Video

        self.run.log({name: Video(str(path), format="mp4"), self.counter: step})

    def end(self, status: str, step: int) -> None:
        self.run.finish({"finished": 0, "failed": 1, "killed": 255}[status])


# the class of each, by its name for --track
TRACKERS = {
    "tensorboard": "dreamdrive.utils.trackers:TensorBoard",
    "mlflow": "dreamdrive.utils.trackers:MLflow",
    "wandb": "dreamdrive.utils.trackers:WandB",
}
