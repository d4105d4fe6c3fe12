"""Frames a second of stage 1 with two workers, against one plain gymnasium loop on the same machine; must be at least 1.6 times.

    python -m benchmarks.generation [--frames 3000] [--rounds 3]

Both drive CarRacing-v3 with the same Brownian actions. The loop only steps the simulator; the generator also crops, resizes, compresses, writes,
verifies and publishes. Rounds alternate, because a machine's speed drifts. The generator is timed as a user would, from start to end of the
command, and once more without the seconds it takes to start (imports in three processes), which a long recording does not notice.
"""

import re
import subprocess
import sys
import tempfile
import time

import gymnasium
import numpy as np

from data.policies import Brown
from utils.cli import parser, positive, run

EPISODE = 500  # steps


def loop(frames: int) -> float:
    """Frames a second of `env.step` alone."""
    env = gymnasium.make("CarRacing-v3", render_mode="rgb_array", max_episode_steps=-1, disable_env_checker=True)
    policy = Brown(env.action_space)
    start = time.perf_counter()
    for episode in range(frames // EPISODE):
        env.reset(seed=episode)
        policy.reset([np.random.default_rng(episode)], None)
        for _ in range(EPISODE):
            env.step(policy.act(None)[0].numpy())
    return frames / (time.perf_counter() - start)


def generator(frames: int, threads: int) -> tuple[float, float]:
    """Frames a second of the whole command, and of it from the first frames on."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "data/generation_script.py", "--rollouts", str(frames // EPISODE), "--max-steps", str(EPISODE),
                   "--threads", str(threads), "--rootdir", f"{folder}/data"]
        start = time.perf_counter()
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0)
        first = None
        for said in iter(lambda: process.stderr.read(4096), b""):
            done = re.findall(rb"([1-9]\d*)[\d.k]*/[\d.k]+ \[", said)
            first = first or (done and time.perf_counter())
        process.wait(600)
        end = time.perf_counter()
    return frames / (end - start), frames / (end - first)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--frames", type=positive, default=3000, help=f"frames in each measurement, a multiple of {EPISODE}")
    p.add_argument("--rounds", type=positive, default=3, help="measurements of each")
    p.add_argument("--threads", type=positive, default=2, help="workers of the generator")
    args = p.parse_args()
    results = [(loop(args.frames), *generator(args.frames, args.threads)) for _ in range(args.rounds)]
    for one, whole, running in results:
        print(f"gymnasium loop {one:6.1f}   generator, whole command {whole:6.1f} ({whole / one:.2f} x)   once running {running:6.1f} ({running / one:.2f} x)")


if __name__ == "__main__":
    run(main)
