"""Files that were changed at random and on purpose are refused in a sentence, or read as they were. By a command tens
of thousands of them: see docs/reliability.md."""

from itertools import islice

import pytest

from dreamdrive.benchmarks import mutated_files
from dreamdrive.benchmarks.mutations import KINDS, tally
from dreamdrive.utils.errors import UserError

COUNTS = {"shards": 80, "manifests": 120, "latents": 60, "rollouts": 40, "demonstrations": 60, "models": 12}
COUNTS |= {"minari": 20, "scenes": 60}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_silent_and_nothing_ends_in_a_traceback(kind, tmp_path):
    found = tally(kind, COUNTS[kind], seed=1, kept=tmp_path)
    assert not found.faults, found.examples[:3]
    assert sum(found.found.values()) == COUNTS[kind] and found.seconds < 30


@pytest.mark.parametrize("kind", ["manifests", "latents"])
def test_no_bit_of_what_is_small_is_silent(kind, tmp_path):
    """Every 397th, which is none of the lengths that lie in it; by a command each."""
    subject = mutated_files.KINDS[kind](tmp_path)
    silent = []
    for bit, (way, content) in islice(enumerate(subject.bits()), 0, None, 397):
        subject.write(content)
        try:
            if subject.read(way) == "silent":
                silent.append(bit)
        except UserError:
            continue
    assert not silent
