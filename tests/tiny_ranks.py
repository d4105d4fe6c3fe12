"""Ranks as torchrun starts them, but as forks of one process, which has loaded torch for all of them.

python -m dreamdrive.tests.tiny_ranks '[[2, "trainvae", "--epochs", "1"], ["4 1:USR1@3", "trainmdrnn"]]'

runs one command after another, each in so many ranks, of which one may be sent a signal before it looks for one at the
end of a batch, that of this number since it began. How each command ended is printed after it.
"""

import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import traceback
from datetime import timedelta

from dreamdrive.tests.tiny_run import ROOT, Done, variables
from dreamdrive.utils import interrupts

# what ranks would load each for itself; the last one is what DistributedDataParallel loads
LOADED = (
    "dreamdrive.trainvae",
    "dreamdrive.trainmdrnn",
    "dreamdrive.learning.vision",
    "dreamdrive.learning.memory",
    "dreamdrive.tests.one_step",
    "torch._dynamo",
)


def ranks(*commands: tuple, timeout: float = 600) -> Done:
    """Run commands, each of how many ranks there are, the script's name, and its options."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-m", "dreamdrive.tests.tiny_ranks", words],
        cwd=ROOT,
        env=variables(TORCH_CPP_LOG_LEVEL="ERROR"),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def be_rank(number: int, count: str, sent: str, port: int, restart: int, script: str, options: list[str]) -> None:
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
    from dreamdrive.utils import ranks
    from dreamdrive.utils.script import run

    ranks.BEAT, ranks.DEAF, ranks.FIRST_SAYS = 0.2, 1.5, 1.5  # who was lost is seen sooner
    sys.argv = [f"{script}.py", *options]
    if sent.startswith(f"{number}:"):
        signalled(*sent.partition(":")[2].split("@"))
    status = 1
    try:
        run(importlib.import_module(f"dreamdrive.{script}").main, in_ranks=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def signalled(name: str, at: str) -> None:
    """Have this process sent a signal in its batch number `at`."""
    hear, batches = interrupts.hear, itertools.count(1)

    def heard() -> None:
        if next(batches) == int(at):
            os.kill(os.getpid(), signal.Signals[f"SIG{name}"])
        hear()

    interrupts.hear = heard


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
    port = int(os.read(heard, 9))
    for restart, (who, script, *options) in enumerate(json.loads(sys.argv[1])):
        count, _, sent = who.partition(" ")
        children = []
        for number in range(int(count)):
            child = os.fork()
            if not child:
                be_rank(number, count, sent, port, restart, script, options)
            children.append(child)
        ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(f"{script} in {count} ranks: {ended}", flush=True)
    os.kill(keeper, signal.SIGKILL)


if __name__ == "__main__":
    main()
