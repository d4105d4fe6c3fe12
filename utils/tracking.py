"""Shows a training in TensorBoard, MLflow or Weights & Biases, see docs/tracking.md: its parameters, metrics and
pictures, and how it ended."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from dreamdrive.utils import interrupts, ranks, runs
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.settings import Tracked, Training
from dreamdrive.utils.trackers import TRACKERS

GRACE = 20  # seconds that the end of a training waits at most
RETRY = 30  # seconds until a tracker that failed is tried again


@contextlib.contextmanager
def track(args: Tracked, folder: Path, counter: str = "epoch", films: Sequence[Path] = ()) -> Iterator[None]:
    """While the block trains a stage in its `folder`, --track is shown what it writes there, by a process that training
    never waits for (utils.follower).

    Only at its end it waits for that process to send the rest and how it ended: finished, failed or killed. `counter`
    is the column of metrics.csv that numbers its rows, from 1. `films` are files, mp4, that are shown at the end where
    the block has made them.
    """
    if args.track == "none" or not ranks.first():
        yield
        return
    try:
        process, repeater = start(args, folder, counter, films)
    except OSError as error:
        print(
            f"tracking: its process cannot be started ({error.strerror}); training continues without it",
            file=sys.stderr,
        )
        yield
        return
    status = "failed"
    try:
        yield
        status = "finished"
    except KeyboardInterrupt:
        status = "killed"
        raise
    finally:
        end(process, repeater, status)


def start(
    args: Tracked, folder: Path, counter: str, films: Sequence[Path]
) -> tuple[subprocess.Popen, threading.Thread]:
    """The process, and the thread that repeats what it says."""
    (folder / "tracking").mkdir(exist_ok=True)
    marker = folder / "tracking" / ".lock"
    marker.touch()
    logdir = runs.results(args.logdir)
    stage = folder.relative_to(logdir).as_posix()
    # what does not train adds to what is there
    resumed = not isinstance(args, Training) or not args.noreload and (folder / "checkpoint.tar").exists()
    job = {
        "tracker": args.track,
        "class": TRACKERS[args.track],
        "folder": str(folder),
        "films": [str(path) for path in films],
        "logdir": str(logdir),
        "stage": stage,
        "name": f"{logdir.resolve().name}/{stage}",
        "counter": counter,
        "parameters": args.recorded(),
        "grace": GRACE,
        "retry": RETRY,
        "began": marker.stat().st_mtime_ns,  # by the clock of the filesystem
        "resumed": resumed,
    }
    with interrupts.shielded():  # Ctrl-C is not for it
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dreamdrive.utils.follower", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
    repeater = threading.Thread(target=repeat, args=(process,), daemon=True)
    repeater.start()
    return process, repeater


def repeat(process: subprocess.Popen) -> None:
    """Print what the process says, above progress bars."""
    assert process.stdout is not None, "it was asked for"
    for sentence in process.stdout:
        Bar.write(sentence.decode().rstrip(), file=sys.stderr)


def end(process: subprocess.Popen, repeater: threading.Thread, status: str) -> None:
    """Tell the process how training ended and wait until it has sent that, for GRACE seconds at most."""
    assert process.stdin is not None, "it was asked for"
    with contextlib.suppress(BrokenPipeError):  # it has given up before
        process.stdin.write(status.encode())
    process.stdin.close()
    try:
        process.wait(GRACE + 1)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    repeater.join(1)
    if process.returncode not in (0, 1):
        print(
            f"tracking: the process that does it crashed (status {process.returncode}): run the same command again to "
            "send what is missing",
            file=sys.stderr,
        )
