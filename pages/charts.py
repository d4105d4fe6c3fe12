"""The charts of pages, each an <svg>: curves of stages, scores with intervals, histograms."""

from collections.abc import Mapping, Sequence

import numpy as np

from dreamdrive.pages.html import Html, chart, tag
from dreamdrive.utils.intervals import mean_interval
from dreamdrive.utils.plots import (
    Points,
    column,
    curve_panel,
    empty_figure,
    label_x,
    literal,
    name_curves,
    of_one_size,
    page_svg,
)

SIZE = (4.6, 2.7)  # inches
TOGETHER = (("best", "mean", "rescored", "simulator"),)  # columns that share a chart, besides those of validation
NOT_DRAWN = {"frames", "seed", "samples", "steps", "training_steps", "snapshot", "return_std"}


def panels(columns: Sequence[str]) -> list[list[str]]:
    """Columns of metrics.csv in groups that are drawn over each other: one and its like on the validation split."""
    drawn = [name for name in columns if name not in NOT_DRAWN]
    groups: dict[str, list[str]] = {}
    for name in drawn:
        key = next((names[0] for names in TOGETHER if name in names), name.removeprefix("val_"))
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def curves(rows: Sequence[dict[str, float]], counter: str, columns: Sequence[str]) -> list[Html]:
    """Charts of columns of metrics.csv over the one that counts."""
    found, same = [], constants(rows, columns)
    for names in panels([name for name in columns if name not in same]):
        lines = {name: column(rows, counter, name) for name in names}
        for own in of_one_size({name: points for name, points in lines.items() if points[0]}):
            found.append(over(own, counter))
    return found


def constants(rows: Sequence[dict[str, float]], columns: Sequence[str]) -> dict[str, float]:
    """Columns that are not worth a chart, since every row has the same value; with that value."""
    found = {name: {row[name] for row in rows if name in row} for name in columns}
    return {name: values.pop() for name, values in found.items() if len(values) == 1 and len(rows) > 1}


def over(lines: Mapping[str, Points], x: str, y: str | None = None, title: str = "") -> Html:
    """Curves over each other."""
    drawn = empty_figure(*SIZE)
    if title:
        drawn.suptitle(literal(title), fontsize="medium", x=0.01, ha="left")
    curve_panel(drawn.add_subplot(), lines, x, y)
    return chart(page_svg(drawn))


def intervals(groups: Mapping[str, Sequence[tuple[float, Sequence[float]]]], x: str, y: str) -> Html:
    """Means with their 95 % intervals over `x`, a line for each group of (x, values)."""
    drawn = empty_figure(2 * SIZE[0], SIZE[1])
    axes = drawn.add_subplot()
    for name, points in groups.items():
        found = [mean_interval(values) for _, values in points]
        at = [place for place, _ in points]
        means = [one.mean for one in found]
        half = [one.high - one.mean for one in found]
        axes.errorbar(at, means, half, marker="o", markersize=4, capsize=3, linewidth=1.2, label=literal(name))
    name_curves(axes, list(groups), y)
    label_x(axes, x, [place for points in groups.values() for place, _ in points])
    axes.grid(alpha=0.3)
    return chart(page_svg(drawn), wide=True)


def histogram(groups: Mapping[str, Sequence[float]], x: str, y: str) -> Html:
    """How many of `y` have which value, groups on top of each other; a sentence where all have the same."""
    values = np.concatenate([np.asarray(own, np.float64) for own in groups.values()])
    if values.min() == values.max():
        return tag("p", f"{x}: {values[0]:g}, of all {len(values):,} {y}")
    drawn = empty_figure(*SIZE)
    axes = drawn.add_subplot()
    whole = bool(np.equal(np.mod(values, 1), 0).all())
    low, high = float(values.min()), float(values.max())
    if whole and high - low < 30:
        edges = np.arange(low - 0.5, high + 1)
    else:
        edges = np.linspace(low, high, 31)
    axes.hist([np.asarray(own) for own in groups.values()], list(edges), stacked=True, label=[*map(literal, groups)])
    name_curves(axes, list(groups) if len(groups) > 1 else [], y)
    label_x(axes, x, values.tolist() if whole else [0.5])
    counts(axes)
    return chart(page_svg(drawn))


def bars(values: Mapping[str, float], y: str) -> Html:
    """How often each of several things was, by their names."""
    drawn = empty_figure(SIZE[0], max(1.2, 0.5 + 0.24 * len(values)))
    axes = drawn.add_subplot()
    axes.barh([literal(name) for name in values], list(values.values()))
    axes.invert_yaxis()
    axes.set_xlabel(y)
    axes.set_xlim(left=0)
    return chart(page_svg(drawn))


def counts(axes) -> None:
    """Whole numbers up the side."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
