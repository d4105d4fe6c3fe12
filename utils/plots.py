"""Curves of a run as PNGs."""

import io
from collections.abc import Sequence
from pathlib import Path

from utils.cli import write_atomically


def curves(path: Path, rows: Sequence[dict], x: str, panels: Sequence[Sequence[str]], title: str) -> None:
    """One panel beside another, each with the named columns of `rows` over column `x`; rows without a value are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no pyplot: nothing global, no display asked for
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for i, columns in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        for name in columns:
            points = [(row[x], row[name]) for row in rows if row.get(name) is not None]
            axes.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None, label=name) if points else None
        axes.set_xlabel(x)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    write_atomically(path, buffer.getvalue())
