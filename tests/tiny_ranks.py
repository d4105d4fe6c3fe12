"""Ranks as torchrun starts them, but as forks of one process, which has loaded torch for all of them.

python -m dreamdrive.tests.tiny_ranks '[[2, "trainvae", "--epochs", "1"], [4, "trainmdrnn"]]'

runs one command after another, each in so many ranks, and ends with the highest status. What ranks say is what they
print; `ranks` says it to a test.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from datetime import timedelta

from dreamdrive.tests.tiny_run import ROOT, Done, variables

# what ranks would load each for itself; the last one is what DistributedDataParallel loads
LOADED = (
    "dreamdrive.trainvae",
    "dreamdrive.trainmdrnn",
    "dreamdrive.learning.vision",
    "dreamdrive.learning.memory",
    "torch._dynamo",
)


def ranks(*commands: tuple, timeout: float = 240) -> Done:
    """Commands, each of how many ranks there are, the script's name, and its options."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-m", "dreamdrive.tests.tiny_ranks", words],
        cwd=ROOT,
        env=variables(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def be_rank(number: int, count: str, port: int, restart: int, script: str, options: list[str]) -> None:
    """A rank's whole life."""
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "tiny",
        "TORCHELASTIC_RESTART_COUNT": str(restart),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": count,
        "RANK": str(number),
        "LOCAL_RANK": str(number),
    }
    from dreamdrive.utils.script import run

    sys.argv = [script, *options]
    status = 1
    try:
        run(importlib.import_module(f"dreamdrive.{script}").main, in_ranks=script in ("trainvae", "trainmdrnn"))
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def keep_store(told: int) -> None:
    """A process of its own, whose threads nobody forks, keeps the store as torchrun does."""
    from torch.distributed import TCPStore

    store = TCPStore("localhost", 0, None, True, timedelta(seconds=60), wait_for_workers=False)
    os.write(told, str(store.port).encode())
    signal.pause()


def main() -> None:
    for name in LOADED:
        importlib.import_module(name)
    heard, told = os.pipe()
    keeper = os.fork()
    if not keeper:
        keep_store(told)
    port, worst = int(os.read(heard, 9)), 0
    for restart, (count, script, *options) in enumerate(json.loads(sys.argv[1])):
        children = []
        for number in range(int(count)):
            child = os.fork()
            if not child:
                be_rank(number, count, port, restart, script, options)
            children.append(child)
        worst = max(worst, *(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
    os.kill(keeper, signal.SIGKILL)
    sys.exit(worst)


if __name__ == "__main__":
    main()
