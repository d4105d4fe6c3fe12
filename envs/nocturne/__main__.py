"""`python -m envs.nocturne` is `dreamdrive scenes`, see envs/scenes.py."""

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.envs.scenes import main
from dreamdrive.utils.script import run

if __name__ == "__main__":
    run(main)
