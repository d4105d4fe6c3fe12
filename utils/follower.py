"""The process beside a training that shows it in a tracker (utils/trackers.py); started by utils.tracking.

It follows the files that training writes anyway, metrics.csv and the pictures, so nothing queues up and nothing gets
lost: what a tracker has missed while it was slow or down is sent later, also by a later run of the same command. Being
a process, it keeps from training whatever a tracker's package does: imports of seconds, threads, handlers of exits and
signals, servers that hang. It also outlives a training that is killed, for as long as it takes to say so.

    exp_dir/<stage>/tracking/<tracker>.json    the tracker's run that the next command resumes, and the last step
    it has been sent
"""

import contextlib
import csv
import importlib
import json
import math
import os
import re
import sys
import threading
import time
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.utils.locks import locked
from dreamdrive.utils.trackers import Tracker

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


class Follower:
    """Keeps a tracker up to date with a stage's folder, until training says how it ended, or has ended without a
    word."""

    def __init__(self, job: dict, out: int) -> None:
        self.job, self.out, self.folder = job, out, Path(job["folder"])
        self.module, self.name = job["class"].split(":")
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
        try:
            self.kind: type[Tracker] = getattr(importlib.import_module(self.module), self.name)
        except (ImportError, AttributeError) as error:
            self.say(f"{self.name} cannot be used ({reason(error)}); training continues without it")
            return 1
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
                self.say(
                    f"{self.name} cannot be used ({missing}): `pip install -r {self.kind.REQUIREMENTS}`; training "
                    "continues without it"
                )
                return 1
            except Exception as error:
                self.tracker, failed_at = None, time.monotonic()
                self.fail(reason(error))
        return 0 if failed_at == -math.inf else 1

    def bring_up_to_date(self, ended: bool) -> None:
        if self.tracker is None:
            self.tracker = self.kind(self.job, self.kept)
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
            for path in map(Path, self.job["films"]):
                if self.of_now(path):
                    tracker.film(f"films/{path.stem}", path, self.kept["step"])
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
        if older or self.of_now(path):
            tracker.picture(name, path, step)

    def of_now(self, path: Path) -> bool:
        """Whether a file is there and was made since the training began."""
        return path.exists() and path.stat().st_mtime_ns >= self.job["began"]

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
