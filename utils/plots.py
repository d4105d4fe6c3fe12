"""Figures as PNGs, or as SVG inside a page: no pyplot, so nothing is global and no display is asked for.

What all have in common is in `curve_panel`: whole numbers on axes that count, units, legends off the data, no two
quantities of different size on one axis, and a word where an axis is so narrow that noise looks like progress.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from dreamdrive.utils.files import make_folder, write_atomically
from dreamdrive.utils.metrics import unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = tuple[Sequence[float], Sequence[float]]  # x, and y
SIZES_APART = 20  # curves whose largest values differ by more than this factor have panels of their own
LARGEST = 1e100  # that is drawn
ACROSS = 3  # panels of `curves` in a row
NARROW = 0.01  # an axis that spans less than this share of its values says so
# of a legend, above its axes
OFF_THE_DATA: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "frameon": False, "borderaxespad": 0.2}
# matplotlib's colours -> those of a page, which are others in the dark
PAGE_COLOURS = {
    "#000000": "var(--soft)",
    "#b0b0b0": "var(--line)",
    "#1f77b4": "var(--blue)",
    "#ff7f0e": "var(--orange)",
    "#d62728": "var(--red)",
}


@contextmanager
def figure(path: Path, width: float, height: float) -> "Iterator[Figure]":
    """An empty figure of so many inches, which is written to `path` as it is when the block ends; after an exception
    nothing is."""
    drawn = empty_figure(width, height)
    yield drawn
    buffer = io.BytesIO()
    drawn.savefig(buffer, dpi=110, format="png")
    make_folder(path.parent)
    write_atomically(path, buffer.getvalue())


def empty_figure(width: float, height: float) -> "Figure":
    """A figure of so many inches that belongs to nobody."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn


def page_svg(drawn: "Figure") -> str:
    """A figure as an <svg> element to stand in a page: no background, in the page's colours, and as wide as it is
    let. All text in it is escaped."""
    import matplotlib

    drawn.patch.set_visible(False)
    for axes in drawn.axes:
        axes.patch.set_visible(False)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "page"}):
        drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'^<svg [^>]*(viewBox="[^"]*")[^>]*>', r"<svg \1>", text)  # no width or height, no namespaces
    text = text.replace("xlink:href", "href").replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")
    text = re.sub(r'(<text style=")', r"\1fill: var(--text); ", text)
    return re.sub("|".join(PAGE_COLOURS), lambda found: PAGE_COLOURS[found[0]], text)


def curves(path: Path, rows: Sequence[dict], x: str, panels: Sequence[Sequence[str]], title: str) -> None:
    """Panels, at most three in a row, each with the named columns of `rows` over column `x`; rows without a value are
    left out, and so are panels without any. Columns of different size that were to share a panel get one each."""
    shown = []
    for columns in panels:
        lines = {name: column(rows, x, name) for name in columns}
        shown += of_one_size({name: points for name, points in lines.items() if points[0]})
    down = -(-len(shown) // ACROSS) or 1
    across = -(-len(shown) // down) or 1
    with figure(path, 5 * across, 3.4 * down + 0.2) as drawn:
        drawn.suptitle(title)
        for i, lines in enumerate(shown):
            curve_panel(drawn.add_subplot(down, across, i + 1), lines, x)


def column(rows: Sequence[dict], x: str, name: str) -> Points:
    """A column of `rows` over column `x`, where it has a finite value."""
    points = [(row.get(x), row.get(name)) for row in rows]
    found = [(at, value) for at, value in points if drawable(at) and drawable(value)]
    return [point[0] for point in found], [point[1] for point in found]


def drawable(value: float | None) -> TypeGuard[float]:
    """Whether a value is there, finite, and not so large that an axis would overflow."""
    return value is not None and bool(np.isfinite(value)) and abs(value) < LARGEST


def of_one_size(lines: Mapping[str, Points]) -> list[dict[str, Points]]:
    """Curves by name, in groups whose values are of one size: those that may share an axis."""
    groups: list[tuple[float, dict[str, Points]]] = []
    for name, points in lines.items():
        size = float(np.quantile(np.abs(points[1]), 0.9))
        fitting = (own for largest, own in groups if max(largest, size) <= SIZES_APART * max(min(largest, size), 1e-9))
        group = next(fitting, None)
        if group is None:
            groups.append((size, {name: points}))
        else:
            group[name] = points
    return [own for _, own in groups]


def curve_panel(axes: "Axes", lines: Mapping[str, Points], x: str, y: str | None = None) -> None:
    """Curves by name over `x`, which may be the name of a column; `y` says what they are, by default the unit of the
    first one's column."""
    for name, (at, values) in lines.items():
        axes.plot(at, values, marker="." if len(at) < 40 else None, label=literal(name))
    name_curves(axes, list(lines), y)
    label_x(axes, x, [value for at, _ in lines.values() for value in at])
    axes.grid(alpha=0.3)
    say_narrow(axes)


def name_curves(axes: "Axes", names: Sequence[str], y: str | None = None) -> None:
    """One curve's name, or a legend for several, above the axes, and what they measure beside them."""
    if len(names) > 1:
        columns = min(len(names), 3)
        axes.legend(**OFF_THE_DATA, ncols=columns)
    elif names:
        axes.set_title(literal(names[0]), loc="left", fontsize="medium")
    axes.set_ylabel(unit(names[0]) if y is None and names else y or "")


def label_x(axes: "Axes", x: str, values: Sequence[float]) -> None:
    """The name of the axis; whole numbers on it where all `values` are."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    whole = all(float(value).is_integer() for value in values)
    axes.set_xlabel(literal(x))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=whole, min_n_ticks=1 if whole else 2))
    if whole:
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def say_narrow(axes: "Axes") -> None:
    """Say so beside axes that span little of what is drawn; the numbers on them are whole ones, not what is to be added
    to something at the axis's end."""
    from matplotlib.ticker import ScalarFormatter

    for axis, bounds in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        span = bounds[1] - bounds[0]
        if span < NARROW * max(map(abs, bounds)):
            words = f"{axis.get_label_text()}\n(all within {span:.2g})".lstrip()
            axis.set_label_text(words)
        formatter = axis.get_major_formatter()
        if isinstance(formatter, ScalarFormatter):
            formatter.set_useOffset(False)


def literal(text: Any) -> str:
    """Text that matplotlib shall show as it is."""
    return str(text).replace("$", r"\$")
