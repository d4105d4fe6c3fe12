"""`python -m envs.nocturne.synthetic` is `dreamdrive scenes synthetic`, see envs/synthetic_scenes.py."""

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.envs.synthetic_scenes import main
from dreamdrive.utils.script import run

if __name__ == "__main__":
    run(main)
