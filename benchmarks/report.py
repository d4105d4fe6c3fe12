"""What the benchmarks have in common when they report: the machine, tables, and sections of a document that several
scripts write."""

import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from dreamdrive.utils.files import make_folder, write_atomically

PACKAGES = ("torch", "numpy", "gymnasium", "h5py")


def processor() -> str:
    """Its name, as the system gives it, and how many cores this process may use."""
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        names = []
    return f"{names[0] if names else platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def circumstances() -> str:
    """A line for a report: processor, its instructions as torch uses them, versions, load, and what the environment
    says of threads."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    settings = "".join(
        f"; {name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(("OMP_", "GOMP_", "MKL_"))
    )
    return (
        f"{processor()} ({torch.backends.cpu.get_cpu_capability()}); Python {platform.python_version()}, {versions}; "
        f"load average of the last five minutes {os.getloadavg()[1]:.1f}{settings}"
    )


def interval(mean: float, std: float, count: int) -> str:
    """The 95 % interval of a mean over so many episodes, by the normal distribution, in whole points."""
    half = 1.96 * std / count**0.5
    return f"{mean - half:.0f} to {mean + half:.0f}"


def scored(find: Callable[[], Path], episodes: int, measure: Callable[[], object], driver: str | None = None) -> dict:
    """What the score file that `find` finds says: as it is there, if it is of so many episodes, and of the controller
    with the digest `driver`, if that is given; else after `measure`."""
    said: dict = json.loads(find().read_text()) if find().exists() else {}
    if said.get("episodes") != episodes or (driver and said["checkpoints"].get("ctrl") != driver):
        measure()
        said = json.loads(find().read_text())
    return said


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it can be read as text, too; the first column to the left, the others to the
    right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        return (
            "| "
            + " | ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            + " |"
        )

    rule = "| " + " | ".join("-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)) + " |"
    return "\n".join([line(head), rule, *map(line, rows)])


def write_section(path: Path, name: str, text: str) -> None:
    """Put `text` between the markers of section `name` in the document, which is made, or added to, where it lacks
    them; the rest stays as it is."""
    first, last = f"<!-- begin {name}: written by a script, changes will be lost -->", f"<!-- end {name} -->"
    section = f"{first}\n{text.strip()}\n{last}"
    make_folder(path.parent)
    old = path.read_text() if path.exists() else f"# {path.stem.capitalize()}\n"
    if first in old and last in old:
        new = old[: old.index(first)] + section + old[old.index(last) + len(last) :]
    else:
        new = f"{old.rstrip()}\n\n{section}\n"
    write_atomically(path, new.encode())
