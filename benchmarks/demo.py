"""`make demo`: the five stages on CarRacing with small budgets, from nothing to a driving car and a table of scores.

Reads   nothing
Writes  datasets/demo/, exp_dir/demo/

    python -m benchmarks.demo

Every stage is the command a user would type, printed before it runs; a demo that was stopped goes on where it stopped.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from utils.cli import parser, run
from utils.errors import UserError

DATA, LOGDIR, EPISODES = Path("datasets/demo"), Path("exp_dir/demo"), 10
STAGES = [
    f"data/generation_script.py --env carracing-fast --rollouts 80 --max-steps 600 --policy expert=0.85,brown=0.15 --action-noise 0.6 --rootdir {DATA} --threads 2",
    f"trainvae.py --dataset {DATA} --logdir {LOGDIR} --epochs 3",
    f"trainmdrnn.py --logdir {LOGDIR} --epochs 30",
    f"traincontroller.py --logdir {LOGDIR} --world simulator --pop-size 16 --n-samples 2 --generations 10 --evaluate-every 5 --max-workers 2",
    f"trainbc.py --logdir {LOGDIR} --hidden 256 --epochs 30 --evaluate-every 10 --n-samples 16 --max-workers 2",
]
DRIVERS = {"random": "random driver", "ctrl": "evolved controller", "bc": "cloned controller", "expert": "expert"}
PICTURES = ["vae/samples", "mdrnn/dreams", "ctrl/fitness.png", "bc/dream.png", "bc/dream.mp4", "drive.mp4"]


def call(command: str) -> str:
    """Run one of our scripts as a user would; UserError if it fails (it has said why). Returns a line on its time and memory."""
    print(f"\n$ python {command}", flush=True)
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, *shlex.split(command)])
    try:
        _, status, usage = os.wait4(process.pid, 0)  # unlike wait, it tells the peak memory, of the workers too
    except KeyboardInterrupt:
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"`python {command}` ended with status {process.returncode}: see above, then run the same command again to go on")
    return f"  {command.split()[0]:28}{time.monotonic() - began:8.0f} s{usage.ru_maxrss / 1e6:8.1f} GB"


def table(scores: dict[str, dict]) -> str:
    """The scores as text."""
    rows = [f"{'CarRacing-v3, official':24}{'mean':>8} +- {'std':<8}{'episodes':>8}"]
    rows += [f"{DRIVERS[name]:24}{s['mean']:8.1f} +- {s['std']:<8.1f}{s['episodes']:8}" for name, s in scores.items()]
    return "\n".join(rows)


def main() -> None:
    parser(__doc__).parse_args()
    began = time.monotonic()
    costs = [call(command) for command in STAGES]
    for name in DRIVERS:
        video = f" --record {LOGDIR / 'drive.mp4'}" if name == "bc" else ""
        costs.append(call(f"test_controller.py --logdir {LOGDIR} --controller {name} --episodes {EPISODES} --max-workers 2{video}"))
    scores = {name: json.loads((LOGDIR / "scores" / f"{name}-simulator.json").read_text()) for name in DRIVERS}
    print(f"\n{table(scores)}\n\npictures and videos:")
    for picture in PICTURES:
        path = LOGDIR / picture
        print(f"  {max(path.glob('*.png')) if path.is_dir() else path}")
    print("\ntime and peak memory of a process:", *costs, sep="\n")
    print(f"{(time.monotonic() - began) / 60:.1f} minutes in all")


if __name__ == "__main__":
    run(main)
