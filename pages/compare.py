"""Runs beside each other, or the controllers of one: scores paired by seed, curves over each other, and the flags that
differ.

Reads   of each RUN what `dreamdrive report` reads
Writes  --out FILE.html, if that is given

    dreamdrive compare exp_dir/a exp_dir/b
    dreamdrive compare exp_dir/demo exp_dir/demo-dream carracing --out compare.html
    dreamdrive compare exp_dir --out controllers.html

A driver is compared, on the seeds that both have driven, with the driver of the same name in the first run that was
scored in the same world; where that has none of the name, and where there is but one run, with the first driver there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.pages import charts
from dreamdrive.pages.beside import beside, curves_section
from dreamdrive.pages.html import Html, join, page, problem, section, table, tag, write_page
from dreamdrive.pages.run import STAGES, Run, Stage, read_run, stale
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.intervals import METHOD, Interval, mean_interval
from dreamdrive.utils.scores import Score
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser, shown
from dreamdrive.utils.stages import is_controller

NOT_COMPARED = ("command", "logdir", "name")  # of args.json: what differs from run to run and says nothing
WIDEST = 36  # letters of a flag's value in a table


@dataclass(frozen=True)
class Row:
    """A driver's score, beside the one that it is compared with.

    Fields:
        run, score: whose it is, and what
        own: its mean
        against: what it is compared with, in words; "" for nothing
        difference: of the returns on the seeds that both have driven; None where there are none
        old: whether it was taken before the run was trained on
    """

    run: str
    score: Score
    own: Interval
    against: str
    difference: Interval | None
    old: bool


def labels(found: Sequence[Run]) -> list[str]:
    """A short name for each run: its folder's, or where two have the same, all of it."""
    short = [one.folder.resolve().name for one in found]
    return [name if short.count(name) == 1 else one.name for name, one in zip(short, found, strict=True)]


def rows_of(found: Sequence[Run], names: Sequence[str]) -> dict[str, list[Row]]:
    """Every score, by the world that it was taken in; those of the first run come first."""
    places: dict[str, list[tuple[str, Score, bool]]] = {}
    for name, one in zip(names, found, strict=True):
        for score in one.scores:
            places.setdefault(score.place, []).append((name, score, stale(score, one.stages)))
    return {place: [row(own, scores, len(found) == 1) for own in scores] for place, scores in places.items()}


def row(own: tuple[str, Score, bool], scores: Sequence[tuple[str, Score, bool]], alone: bool) -> Row:
    """`own` among the scores of one world; `alone`: all of them are of one run."""
    name, score, old = own
    first = [other for other in scores if other[0] == scores[0][0]]
    like = [other for other in first if other[1].controller == score.controller and not alone]
    base = (like or first)[0]
    both = score.returns.keys() & base[1].returns.keys() if base is not own else set()
    difference = mean_interval([score.returns[s] - base[1].returns[s] for s in sorted(both)]) if both else None
    against = "" if base is own else f"{base[0]} {base[1].controller}"
    return Row(name, score, mean_interval(list(score.returns.values())), against, difference, old)


def differing(groups: Mapping[str, Mapping[str, Stage]]) -> dict[str, dict[str, list[str]]]:
    """Of each kind of which there are two stages or more beside each other, the flags that both have and whose values
    differ, a text for each stage."""
    differ: dict[str, dict[str, list[str]]] = {}
    for kind, stages in groups.items():
        told = [stage.settings for stage in stages.values()]
        if sum(one is not None for one in told) < 2:
            continue
        flags = dict.fromkeys(name for one in told if one for name in one if name not in NOT_COMPARED)
        values = {flag: [words(one[flag]) if one and flag in one else "" for one in told] for flag in flags}
        given = {flag: [i for i, one in enumerate(told) if one and flag in one] for flag in flags}
        different = {flag: texts for flag, texts in values.items() if len({texts[i] for i in given[flag]}) > 1}
        if different:
            differ[kind] = different
    return differ


def words(value: Any) -> str:
    """A flag's value."""
    return f"{value:.6g}" if isinstance(value, float) else shown(value)


def shortened(text: str) -> str:
    """Text of bearable width in a table."""
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def cells(one: Row) -> list[str]:
    """A row of the table of scores."""
    own, gap = one.own, one.difference
    return [
        f"{one.run} {one.score.controller}" + (" (an earlier checkpoint)" if one.old else ""),
        f"{own.mean:.1f}",
        f"{own.low:.1f} to {own.high:.1f}" if own.known else "",
        str(own.count),
        f"{gap.mean:+.1f}" if gap else "",
        f"{gap.low:+.1f} to {gap.high:+.1f}" if gap and gap.known else "",
        str(gap.count) if gap else "0" if one.against else "",
        one.against,
    ]


HEAD = ["driver", "mean", "95 % interval", "episodes", "difference", "95 % interval", "seeds", "to"]


def as_text(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    )


def told(found: Sequence[Run], names: Sequence[str]) -> str:
    """The comparison for the terminal."""
    parts = [f"{place}\n{as_text(HEAD, [cells(one) for one in rows])}" for place, rows in rows_of(found, names).items()]
    parts = [*parts, f"{METHOD}; a difference is of the returns on the same seeds."] if parts else ["no scores yet"]
    by_kind = recorded(found, names)
    parts += [f"rounds of train.py\n{as_text(ROUNDS_HEAD, last_rounds(by_kind))}"] if by_kind else []
    groups = beside(found, names)
    for kind, flags in differing(groups).items():
        lines = [[flag, *map(shortened, values)] for flag, values in flags.items()]
        parts.append(f"{STAGES[kind]} ({kind}): flags that differ\n{as_text(['', *groups[kind]], lines)}")
    wrong = [str(error) for one in found for error in all_problems(one)]
    return "\n\n".join([*parts, *wrong])


def recorded(found: Sequence[Run], names: Sequence[str]) -> dict[str, dict[str, list[tuple[int, list[float]]]]]:
    """What train.py recorded after its first round, by who drove: of each run frames and returns, round by round."""
    by_kind: dict[str, dict[str, list[tuple[int, list[float]]]]] = {}
    for name, one in zip(names, found, strict=True):
        for said in one.rounds:
            for kind, returns in said["recorded"].items() if said["round"] else ():
                by_kind.setdefault(kind, {}).setdefault(name, []).append((said["frames"], returns))
    return by_kind


def last_rounds(by_kind: dict[str, dict[str, list[tuple[int, list[float]]]]]) -> list[list[str]]:
    """Of each run the last round, for a table."""
    return [
        [f"{name} {kind}", str(len(rounds)), f"{rounds[-1][0]:,}", str(mean_interval(rounds[-1][1]))]
        for kind, by_run in by_kind.items()
        for name, rounds in by_run.items()
    ]


ROUNDS_HEAD = ["recorded by", "rounds", "frames", "mean in the last"]


def all_problems(found: Run) -> list[UserError]:
    """What of a run could not be read."""
    return [*found.problems, *(error for stage in found.stages for error in stage.problems)]


def compare(found: Sequence[Run], names: Sequence[str]) -> bytes:
    """The comparison as a page."""
    groups = beside(found, names)
    title = " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
    return page(
        f"dreamdrive: {title}",
        tag("h1", title),
        scores_section(rows_of(found, names)),
        rounds_section(recorded(found, names)),
        *(curves_section(f"{STAGES[kind]} ({kind})", stages) for kind, stages in groups.items()),
        flags_section(groups),
        *(problem(error) for one in found for error in all_problems(one)),
    )


def scores_section(places: dict[str, list[Row]]) -> Html:
    """A table for each world, a difference in colour where its interval does not have 0 in it."""
    if not places:
        return section("Scores", tag("p", "no run has been scored yet", class_="soft"))
    parts = [
        join([tag("h3", f"in {place}"), table(HEAD, [coloured(one) for one in rows])]) for place, rows in places.items()
    ]
    note = f"{METHOD}; a difference is of the returns on the same seeds, in colour where 0 is outside its interval."
    return section("Scores", *parts, tag("p", note, class_="soft"))


def coloured(one: Row) -> list[Any]:
    """`cells` for a page."""
    texts: list[Any] = cells(one)
    gap = one.difference
    if gap and gap.known and (gap.low > 0 or gap.high < 0):
        texts[4] = tag("span", texts[4], class_="better" if gap.low > 0 else "worse")
    return texts


def rounds_section(by_kind: dict[str, dict[str, list[tuple[int, list[float]]]]]) -> Html | None:
    """What train.py recorded, against frames of the simulator."""
    drawn = [
        join([tag("h3", kind), charts.intervals(by_run, "frames of the simulator", "return of an episode")])
        for kind, by_run in by_kind.items()
    ]
    note = tag("p", f"Episodes that each round's driver recorded, and their mean. {METHOD}.", class_="soft")
    return section("Rounds", *drawn, note, table(ROUNDS_HEAD, last_rounds(by_kind))) if drawn else None


def flags_section(groups: Mapping[str, Mapping[str, Stage]]) -> Html | None:
    """The flags that differ, kind by kind."""
    parts = [
        join(
            [
                tag("h3", f"{STAGES[kind]} ({kind})"),
                table(
                    ["flag", *groups[kind]],
                    [[flag, *(tag("span", shortened(v), title=v) for v in values)] for flag, values in flags.items()],
                    class_="words",
                ),
            ]
        )
        for kind, flags in differing(groups).items()
    ]
    return section("Flags that differ", *parts) if parts else None


def main() -> None:
    p = parser(__doc__)
    p.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="folders of runs, or names of shipped ones; of one its controllers",
    )
    p.add_argument("--out", type=Path, metavar="FILE", help="a page, *.html, with the curves as well")
    args = p.parse_args()
    if len(set(args.runs)) < len(args.runs):
        p.error("two runs or more are wanted, and not the same one")
    found = [read_run(name) for name in args.runs]
    if len(found) == 1 and sum(is_controller(stage.name) for stage in found[0].stages) < 2:
        p.error("two runs or more are wanted, or one that has several controllers")
    names = labels(found)
    if args.out:
        write_page(args.out, compare(found, names))
    print(told(found, names))
    if args.out:
        print(f"\n{args.out}: open it in a browser")


if __name__ == "__main__":
    run(main)
