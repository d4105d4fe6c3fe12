"""Figures as PNGs: no pyplot, so nothing is global and no display is asked for."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dreamdrive.utils.files import make_folder, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def figure(path: Path, width: float, height: float) -> "Iterator[Figure]":
    """An empty figure of so many inches, which is written to `path` as it is when the block ends; after an exception
    nothing is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawn)
    yield drawn
    buffer = io.BytesIO()
    drawn.savefig(buffer, dpi=110, format="png")
    make_folder(path.parent)
    write_atomically(path, buffer.getvalue())


def curves(path: Path, rows: Sequence[dict], x: str, panels: Sequence[Sequence[str]], title: str) -> None:
    """One panel beside another, each with the named columns of `rows` over column `x`; rows without a value are left
    out."""
    with figure(path, 5 * len(panels), 3.6) as drawn:
        drawn.suptitle(title)
        for i, columns in enumerate(panels):
            axes = drawn.add_subplot(1, len(panels), i + 1)
            for name in columns:
                points = [(row[x], row[name]) for row in rows if row.get(name) is not None]
                axes.plot(
                    *zip(*points, strict=True), marker="." if len(points) < 40 else None, label=name
                ) if points else None
            axes.set_xlabel(x)
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend()
