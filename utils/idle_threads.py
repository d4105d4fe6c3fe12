"""How long torch's threads that have nothing to do keep their cores busy before they sleep: briefly.

    import dreamdrive.utils.idle_threads  # noqa: F401  before torch

As it comes the OpenMP runtime lets them spin for milliseconds after each operation, in case another follows. Where a
core is shared with another process, the spinning takes the time that somebody needs, at worst the very thread that is
waited for: `python -m benchmarks.waiting` measures it. The runtime reads its settings when torch loads it, so every
script imports this before. Processes that a script starts inherit it. Whoever sets one of USERS himself keeps that.
"""

import os
import sys

SPINS = "1000"  # some 10 microseconds: the time between two operations that follow each other at once
SETTINGS = {"GOMP_SPINCOUNT": SPINS, "KMP_BLOCKTIME": "0"}  # of GNU's runtime, and of LLVM's and Intel's (milliseconds)
USERS = ("OMP_WAIT_POLICY", *SETTINGS)

if "torch" not in sys.modules and not any(name in os.environ for name in USERS):
    os.environ.update(SETTINGS)
