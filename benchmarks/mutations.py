"""Files changed at random and on purpose, and read: each is refused in a sentence, or read as it was.

    python -m benchmarks.mutations shards --count 10000
    python -m benchmarks.mutations manifests latents --every-bit
    python -m benchmarks.mutations rollouts demonstrations models minari scenes --count 500 --seed 7

What is counted, for each kind of file and each way of changing it:

    refused     a UserError, one sentence
    same        what was read is what was there before
    other       something else was read, which the file says whole and twice alike: its checksums were made to fit, or
                it has none
    silent      something else was read though a checksum says otherwise, or two readings differ
    tracebacks  any other exception; a crash ends this command by its signal

The files and who reads them: benchmarks/mutated_files.py and mutated_archives.py; how HDF5 is changed:
hdf5_mutations.py.
"""

import argparse
import collections
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np

from dreamdrive.benchmarks import mutated_archives, mutated_files
from dreamdrive.benchmarks.mutated_files import Outcome
from dreamdrive.utils import sandbox
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

KINDS = mutated_files.KINDS | mutated_archives.KINDS
OUTCOMES = ("refused", "same", "other", "silent", "tracebacks")


@dataclass
class Tally:
    """What became of the files of a kind.

    Fields:
        found: how many, by way of changing and outcome
        examples: what was said of the first of those that are faults
        seconds: of the slowest
    """

    found: collections.Counter = field(default_factory=collections.Counter)
    examples: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def faults(self) -> int:
        return sum(n for (_, outcome), n in self.found.items() if outcome in ("silent", "tracebacks"))

    def add(self, way: str, read: Callable[[], Outcome], keep: Callable[[], Path]) -> None:
        """Read a file, and count what becomes of it; one that is a fault is kept."""
        since = time.monotonic()
        try:
            outcome = read()
        except UserError:
            outcome = "refused"
        except Exception:
            outcome = "tracebacks"
            self.examples.append(f"{keep()}: {way}\n{traceback.format_exc(limit=-4)}")
        if outcome == "silent":
            self.examples.append(f"{keep()}: {way}: silent")
        self.found[way, outcome] += 1
        self.seconds = max(self.seconds, time.monotonic() - since)


def tally(kind: str, count: int | None, seed: int, kept: Path) -> Tally:
    """Change and read `count` files of a kind; without a count one for each bit of its file."""
    found = Tally()
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        subject = KINDS[kind](Path(folder))
        rng = np.random.default_rng(seed)
        changes: Iterator = subject.mutants(rng) if count is not None else subject.bits()
        for number, (way, content) in enumerate(Bar(changes, total=count or subject.bit_count, desc=kind, unit="file")):
            if number == count:
                break
            subject.write(content)

            def keep(number: int = number) -> Path:
                kept.mkdir(parents=True, exist_ok=True)
                return Path(shutil.copy(subject.path, kept / f"{kind}-{seed}-{number}{subject.path.suffix}"))

            found.add(way, partial(subject.read, way), keep)
    return found


def table(kind: str, found: Tally) -> list[str]:
    """Rows of Markdown."""
    ways = sorted({way for way, _ in found.found})
    return [
        f"| {kind} | {way} | {sum(found.found[way, o] for o in OUTCOMES)} | "
        + " | ".join(str(found.found[way, o]) for o in OUTCOMES)
        + " |"
        for way in ways
    ]


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("kinds", nargs="+", choices=list(KINDS), help="of files")
    p.add_argument("--count", type=int, default=1000, help="how many of each kind")
    p.add_argument("--every-bit", action="store_true", help="instead, each bit of a file by itself")
    p.add_argument("--seed", type=int, default=0, help="of what is changed")
    p.add_argument("--kept", type=Path, default=Path("build/mutations"), help="folder for files that are a fault")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    print("| kind | changed | files | " + " | ".join(OUTCOMES) + " |\n| --- | --- |" + " ---: |" * (1 + len(OUTCOMES)))
    faults = 0
    for kind in args.kinds:
        found = tally(kind, None if args.every_bit else args.count, args.seed, args.kept)
        print("\n".join(table(kind, found)), flush=True)
        sandbox.close()
        most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        print(f"\nslowest {found.seconds:.1f} s, most memory of a process {most / 1e3:.0f} MB\n", flush=True)
        for example in found.examples[:20]:
            print(example, file=sys.stderr)
        faults += found.faults
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    run(main)
