"""A run as one HTML file that needs no other: where it comes from, what it was told, how it learnt, what it dreams and
how it scores.

Reads   EXP_DIR/{vae,mdrnn,ctrl,bc}/    args.json, best.tar, metrics.csv, pictures, films; and so of controllers that
                                        have names, ctrl-NAME and bc-NAME
        EXP_DIR/scores/*.json           written by test_controller.py
        EXP_DIR/rounds/*.json           written by train.py, chosen.json among them
Writes  EXP_DIR/report.html             or --out; for a run that came with dreamdrive exp_dir/<name>/report.html

    dreamdrive report exp_dir/demo
    dreamdrive report carracing --out carracing.html

What is missing is left out; what is damaged is said in its place.
"""

from functools import partial
from pathlib import Path
from typing import Any

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np

from dreamdrive.pages import charts
from dreamdrive.pages.beside import beside, curves_section
from dreamdrive.pages.html import (
    Html,
    attempt,
    facts,
    film,
    folded,
    join,
    page,
    picture,
    problem,
    section,
    table,
    tag,
    write_page,
)
from dreamdrive.pages.run import STAGES, Run, Source, Stage, read_run, sources, stale
from dreamdrive.utils import runs
from dreamdrive.utils.intervals import METHOD, mean_interval
from dreamdrive.utils.scores import Score
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser, shown
from dreamdrive.utils.stages import is_controller
from dreamdrive.utils.words import counted, listed

CURVES = ("loss.png", "fitness.png")  # of stages: drawn anew from metrics.csv
SERIES = {"samples": "samples of V", "dreams": "dreams of M"}  # folders with a picture for each epoch
FILMS = ("*.mp4", "*/*.mp4", "media/*/*.mp4")
MOST_FILMS = 8
SHORT = 12  # letters of a digest


def report(name: Path, home: Path) -> bytes:
    """The page of the run called `name`, to be written into the folder `home`."""
    found = read_run(name)
    about = {
        "folder": tag("code", str(found.folder)),
        "world": found.world.get("env"),
        "options": ", ".join(f"{k} {shown(v)}" for k, v in options_of(found).items()) or None,
        "stages": ", ".join(stage.name for stage in found.stages),
    }
    title = found.folder.resolve().name
    sections: list[Any] = [
        section("Lineage", lineage(found)),
        scores(found),
        rounds(found),
        chosen(found),
        *(stage_section(stage) for stage in found.stages),
        *(
            curves_section(f"{STAGES[kind]}: {listed(own)}", own)
            for kind, own in beside([found], [title]).items()
            if own
        ),
        films(found, home),
    ]
    return page(
        f"dreamdrive: {title}",
        tag("h1", title),
        section("The run", facts({k: v for k, v in about.items() if v}), *map(problem, found.problems)),
        *sections,
    )


def options_of(found: Run) -> dict[str, Any]:
    """What the world was told."""
    options = found.world.get("options")
    return options if isinstance(options, dict) else {}


def lineage(found: Run) -> Html:
    """Datasets, V, M and C, each with its digest, in the order in which one came of the other."""
    now = {stage.name: stage.best["digest"] for stage in found.stages if stage.best}
    models = [stage_box(stage, now) for stage in found.stages if not is_controller(stage.name)]
    heads = [stage_box(stage, now) for stage in found.stages if is_controller(stage.name)]  # all of them come of M
    either = [part for box in heads for part in (tag("i", "or"), box)][1:]
    parts = [*models, *([tag("div", *either, class_="either")] if either else [])]
    arrows = [part for box in parts for part in (tag("i", "→", class_="arrow"), box)]
    return tag("div", dataset_box(found), *arrows, class_="line")


def dataset_box(found: Run) -> Html:
    """What the run learnt from: the datasets that its stages name."""
    there = sources(found)
    lines = [dataset_words(source) for source in there]
    changed = sum(bool(source.changed) for source in there)
    told = [
        tag("p", f"{len(there)} datasets"),
        tag("p", f"{changed} changed since", class_="problem") if changed else None,
    ]
    if not there:
        return tag("div", tag("b", "dataset"), tag("p", "no stage names one", class_="soft"))
    return tag(
        "div",
        tag("b", "dataset"),
        *(lines if len(lines) < 4 else [*told, folded("each of them", *lines)]),
        class_="other" if changed else None,
    )


def dataset_words(source: Source) -> Html:
    """What is known of a dataset: how much it holds now, its digest, and whether it has changed since."""
    digest = join([" ", digest_of(source.digest)]) if source.digest else None
    if source.dataset is None:
        gone = str(source.problem).endswith("is not here")
        said = f"{source.name}: not here any more" if gone else str(source.problem)
        return tag("p", tag("span", said, class_="soft"), digest)
    episodes = source.dataset.episodes
    changed = [
        tag("p", f"changed since {stage} was trained on it, as {source.digests[stage][:SHORT]}", class_="problem")
        for stage in source.changed
    ]
    steps = f"{len(episodes)} episodes, {sum(e.steps for e in episodes):,} steps"
    return join([tag("p", source.name, digest, tag("br"), steps), *changed])


def stage_box(stage: Stage, now: dict[str, str]) -> Html:
    """A stage in the lineage: its digest, and what it was trained on, which is told where it is not there any more."""
    title = tag("b", stage.title)
    if not stage.best:
        return tag("div", title, tag("p", "no best.tar that can be read", class_="soft"))
    others = [
        tag("p", f"trained on {parent} {digest[:SHORT]}, which is now {now[parent][:SHORT]}", class_="problem")
        for parent, digest in stage.best["parents"].items()
        if parent in now and now[parent] != digest
    ]
    parents = ", ".join(f"{parent} {digest[:SHORT]}" for parent, digest in stage.best["parents"].items())
    return tag(
        "div",
        title,
        tag("p", digest_of(stage.best["digest"])),
        tag("p", stage.best["kind"], class_="soft") if "kind" in stage.best else None,
        *(others or ([tag("p", f"of {parents}", class_="soft")] if parents else [])),
        tag("p", begun(stage.best["init"], now), class_="soft") if "init" in stage.best else None,
        class_="other" if others else None,
    )


def begun(init: str, now: dict[str, str]) -> str:
    """What a clone began with, in words."""
    name = next((name for name, digest in now.items() if digest == init), "a clone that is not here")
    return f"begun with {name} {init[:SHORT]}"


def digest_of(digest: str) -> Html:
    return tag("code", digest[:SHORT], title=f"sha256 {digest}")


def scores(found: Run) -> Html | None:
    """A table of all scores."""
    if not found.scores:
        return None
    rows = [score_row(score, stale(score, found.stages)) for score in found.scores]
    head = ["driver", "scored in", "mean return", "95 % interval", "std", "least", "most", "episodes", "besides"]
    width = len(head) if any(row[-1] for row in rows) else len(head) - 1
    commands = [tag("pre", score.command) for score in found.scores if score.command]
    return section(
        "Scores",
        table(head[:width], [row[:width] for row in rows]),
        tag("p", f"{METHOD}, of the returns of episodes on seeds that nothing was learnt from.", class_="soft"),
        folded("commands", *commands) if commands else None,
    )


def score_row(score: Score, old: bool) -> list[Any]:
    """A score in the table; `old` of a driver that has been trained on since."""
    values = np.array(list(score.returns.values()))
    of = mean_interval(values)
    earlier = tag("span", " (an earlier checkpoint)", class_="worse") if old else None
    return [
        join([score.controller, earlier]),
        score.place,
        f"{of.mean:.1f}",
        f"{of.low:.1f} to {of.high:.1f}" if of.known else "",
        f"{values.std():.1f}",
        f"{values.min():.1f}",
        f"{values.max():.1f}",
        of.count,
        ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in score.outcomes.items()),
    ]


def rounds(found: Run) -> Html | None:
    """What the driver of each round of train.py recorded, against frames of the simulator."""
    if not found.rounds:
        return None
    kinds = list(dict.fromkeys(kind for said in found.rounds for kind in said["recorded"]))
    groups = {
        kind: [(s["frames"], s["recorded"][kind]) for s in found.rounds if kind in s["recorded"]] for kind in kinds
    }
    means = [{kind: str(mean_interval(values)) for kind, values in s["recorded"].items()} for s in found.rounds]
    rows = [
        [said["round"], f"{said['frames']:,}", *(own.get(kind, "") for kind in kinds)]
        for said, own in zip(found.rounds, means, strict=True)
    ]
    return section(
        "Rounds",
        charts.intervals(groups, "frames of the simulator", "return of an episode"),
        tag("p", f"Episodes that each round's driver recorded, and their mean. {METHOD}.", class_="soft"),
        folded("table", table(["round", "frames", *kinds], rows)),
        folded("settings", facts({name: shown(value) for name, value in found.rounds[-1]["settings"].items()})),
    )


def chosen(found: Run) -> Html | None:
    """Which rounds train.py has compared, how each drove, and which it has chosen."""
    choice = found.choice
    if choice is None:
        return None
    frames = {said["round"]: f"{said['frames']:,}" for said in found.rounds}
    rows = [
        [
            join([number, tag("span", " chosen", class_="better") if number == choice.best else None]),
            frames.get(number, ""),
            str(mean_interval(values)),
            f"{np.std(values):.1f}",
            f"{min(values):.1f}",
            f"{max(values):.1f}",
            len(values),
        ]
        for number, values in choice.returns.items()
    ]
    drives = counted(len(choice.returns[choice.best]), "episode")
    return section(
        "The round that was chosen",
        table(["round", "frames", "mean return", "std", "least", "most", "episodes"], rows),
        tag(
            "p",
            f"Returns of the last round's driver, and of those that had recorded the best episodes, on the same "
            f"{drives} for choosing (--seed {choice.seed}), on which nothing was learnt: {choice.frames:,} frames. "
            f"The best is the run rounds/best. {METHOD}.",
            class_="soft",
        ),
    )


def stage_section(stage: Stage) -> Html | None:
    """A stage: its command, settings, curves and pictures; nothing where it has none of them."""
    told = {} if stage.settings is None else dict(stage.settings)
    command = told.pop("command", None)
    drawn = charts.curves(stage.rows, stage.counter, stage.columns) if stage.rows else []
    same = charts.constants(stage.rows, stage.columns)
    content = [
        *map(problem, stage.problems),
        tag("pre", command) if command else None,
        folded("settings", facts({name: shown(value) for name, value in told.items()})) if told else None,
        join([tag("h3", f"by {stage.counter}"), tag("div", *drawn, class_="charts")]) if drawn else None,
        tag("p", f"The same throughout: {', '.join(f'{k} {v:.4g}' for k, v in same.items())}.", class_="soft")
        if same
        else None,
        pictures(stage),
    ]
    return section(stage.title, *content) if any(content) else None


def pictures(stage: Stage) -> Html | None:
    """The pictures that the stage wrote."""
    found = [attempt(partial(picture, path, caption)) for path, caption in pictures_of(stage)]
    return tag("div", *found, class_="pictures") if found else None


def pictures_of(stage: Stage) -> list[tuple[Path, str]]:
    """The pictures of a stage to show, with what is said of each: of a series the first and the last."""
    found = []
    for folder, words in SERIES.items():
        series = sorted((stage.folder / folder).glob("*.png"))
        for path in dict.fromkeys((series[-1], series[0])) if series else ():
            found.append((path, f"{words}, {epoch_of(path)}"))
    single = [path for path in sorted(stage.folder.glob("*.png")) if path.name not in CURVES]
    return found + [(path, path.name) for path in single]


def epoch_of(path: Path) -> str:
    """epoch_007.png in words."""
    word, _, number = path.stem.partition("_")
    return f"{word} {int(number)}" if number.isdigit() else path.name


def films(found: Run, home: Path) -> Html | None:
    """The films of a run, the newest where there are many."""
    paths = [path for pattern in FILMS for path in sorted(found.folder.glob(pattern)) if not path.name.startswith(".")]
    shown_ones = sorted(paths, key=lambda path: path.stat().st_mtime)[-MOST_FILMS:]
    made = [partial(film, path, str(path.relative_to(found.folder)), home) for path in paths if path in shown_ones]
    left = len(paths) - len(shown_ones)
    return (
        section(
            "Films",
            tag("div", *map(attempt, made), class_="pictures"),
            tag("p", f"{left} older films are not shown.", class_="soft") if left else None,
        )
        if paths
        else None
    )


def main() -> None:
    p = parser(__doc__)
    p.add_argument("run", type=Path, metavar="EXP_DIR", help="folder of a run, or the name of one that is shipped")
    p.add_argument("--out", type=Path, metavar="FILE", help="the page, *.html; by default report.html in the run")
    args = p.parse_args()
    out = args.out or runs.results(args.run) / "report.html"
    write_page(out, report(args.run, out.parent))
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, open it in a browser")


if __name__ == "__main__":
    run(main)
