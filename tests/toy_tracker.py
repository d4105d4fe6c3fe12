"""What a new tracker takes: this file, and one line in utils/trackers.py. It writes lines.txt into the run's folder.

python -m dreamdrive.tests.toy_tracker trainvae --track lines ...        a script with this tracker in it
"""

import importlib
import sys
from pathlib import Path

from dreamdrive.utils.trackers import TRACKERS, Tracker


class Lines(Tracker):
    def __init__(self, job, kept):
        self.file = Path(job["logdir"], "lines.txt")
        self.write(f"begins after step {kept['step']}, epochs {job['parameters']['epochs']}")
        self.place = f"cat {self.file}"

    def write(self, line):
        with open(self.file, "a") as file:
            file.write(line + "\n")

    def log(self, step, values):
        self.write(f"{step}: loss {values['loss']:g}")

    def picture(self, name, path, step):
        self.write(f"{step}: {name}, {path.stat().st_size} bytes")

    def film(self, name, path, step):
        self.picture(name, path, step)

    def end(self, status, step):
        self.write(f"{step}: {status}")


TRACKERS["lines"] = "dreamdrive.tests.toy_tracker:Lines"  # the one line

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    main = importlib.import_module(f"dreamdrive.{sys.argv[0]}").main
    importlib.import_module("dreamdrive.utils.script").run(main)  # settings know the trackers of when they are imported
