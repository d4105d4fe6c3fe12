"""Stages of one kind beside each other: of several runs, or several controllers of one."""

from collections.abc import Mapping, Sequence

from dreamdrive.pages import charts
from dreamdrive.pages.html import Html, section, tag
from dreamdrive.pages.run import STAGES, Run, Stage
from dreamdrive.utils.metrics import unit
from dreamdrive.utils.plots import column
from dreamdrive.utils.stages import name_of


def beside(found: Sequence[Run], names: Sequence[str]) -> dict[str, dict[str, Stage]]:
    """Of each kind the stages of all runs, by what they are called: as their run is in `names`, with a controller's own
    name where it has one; of a single run as its stages are."""
    groups: dict[str, dict[str, Stage]] = {kind: {} for kind in STAGES}
    for name, one in zip(names, found, strict=True):
        for stage in one.stages:
            label = f"{name} {stage.name}" if name_of(stage.name) else name
            groups[stage.kind][stage.name if len(found) == 1 else label] = stage
    return groups


def curves_section(title: str, stages: Mapping[str, Stage]) -> Html | None:
    """The curves of stages of one kind over each other, where two or more have them."""
    learnt = {label: stage for label, stage in stages.items() if stage.rows}
    drawn = [chart for counter in counters(learnt) for chart in shared_curves(learnt, counter)]
    return section(title, tag("div", *drawn, class_="charts")) if drawn else None


def counters(stages: Mapping[str, Stage]) -> list[str]:
    """What numbers the rows of the stages: one, unless two methods were used."""
    return list(dict.fromkeys(stage.counter for stage in stages.values()))


def shared_curves(stages: Mapping[str, Stage], counter: str) -> list[Html]:
    """A chart for each column that two or more of the stages have, with a curve for each; those of validation where
    there is one, which tell more."""
    own = {label: stage for label, stage in stages.items() if stage.counter == counter}
    columns = dict.fromkeys(c for stage in own.values() for c in stage.columns if c not in charts.NOT_DRAWN)
    found = []
    for name in columns:
        if f"val_{name}" in columns:
            continue
        lines = {label: column(stage.rows, counter, name) for label, stage in own.items()}
        lines = {label: points for label, points in lines.items() if points[0]}
        if len(lines) > 1 and len({value for points in lines.values() for value in points[1]}) > 1:
            found.append(charts.over(lines, counter, unit(name), name))
    return found
