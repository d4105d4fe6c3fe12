"""A run as its files tell it, for pages: what each stage was told, measured, came from, and how it scored.

Whatever is missing is None or empty; whatever is damaged is a UserError, kept beside the rest to be said in its place.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dreamdrive.data.shards import Dataset
from dreamdrive.utils import checkpoint, runs
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.metrics import read_csv
from dreamdrive.utils.scores import FOLDER, Score, read_score
from dreamdrive.utils.stages import folders, is_controller, kind_of, name_of

STAGES = {"vae": "V", "mdrnn": "M", "ctrl": "C", "bc": "C, cloned"}  # by kind
COUNTERS = ("epoch", "generation", "updates", "trial")  # the column of metrics.csv that numbers its rows
LONGEST_NAME = 40  # of a column that is drawn
Found = TypeVar("Found")


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Fields:
        name: its folder's name
        folder: where it is
        settings: of args.json, with the command; None where there is no such file
        best: of best.tar its digest, parents, world, what numbers its best epoch, and its datasets: the digest that
            each had then by its path, None in files of older versions; None where there is no best.tar
        counter, rows: of metrics.csv: the column that numbers rows, and the numbers of each
        problems: what could not be read
    """

    name: str
    folder: Path
    settings: dict[str, Any] | None
    best: dict[str, Any] | None
    counter: str
    rows: list[dict[str, float]]
    problems: list[UserError]

    @property
    def kind(self) -> str:
        """Of which of STAGES it is: "bc" of "bc-dagger"."""
        return kind_of(self.name)

    @property
    def title(self) -> str:
        return f"{STAGES[self.kind]} ({self.name})"

    @property
    def columns(self) -> list[str]:
        """Columns that have numbers, but the one that counts."""
        return [name for name in dict.fromkeys(key for row in self.rows for key in row) if name != self.counter]


@dataclass(frozen=True)
class Choice:
    """Which round of train.py is the best.

    Fields:
        best: its number
        returns: of each round that was compared, by its number, the returns of its driver on the same tracks
        seed: of the run, from which the tracks follow
        frames: that were driven to choose
    """

    best: int
    returns: dict[int, list[float]]
    seed: int
    frames: int


@dataclass(frozen=True)
class Run:
    """All that pages tell of a run.

    Fields:
        name: as it was given
        folder: where it is
        stages: those that are there, in their order
        scores: those that could be read, by their files' names, after others those of controllers with names
        rounds: of train.py: what each said, in their order
        choice: which of them was chosen, and how; None where that is not done
        problems: what could not be read, but of stages
    """

    name: str
    folder: Path
    stages: list[Stage]
    scores: list[Score]
    rounds: list[dict[str, Any]]
    choice: "Choice | None"
    problems: list[UserError]

    @property
    def world(self) -> dict[str, Any]:
        """What the world is, as the first checkpoint that knows says."""
        return next((s.best["world"] for s in self.stages if s.best and s.best.get("world")), {})


def read_run(name: Path) -> Run:
    """The run called `name`; UserError where there is none."""
    folder = runs.find(name)
    stages = [read_stage(folder / stage, stage) for stage in folders(folder)]
    if not stages:
        raise UserError(
            f"{folder} holds no stage of a run (none of {', '.join(STAGES)}): name a run's folder, as --logdir does"
            f"{runs.unknown(Path(name))}"
        )
    problems: list[UserError] = []
    files = sorted((folder / FOLDER).glob("*.json"))
    results = runs.results(name)
    if results != folder:
        files += sorted((results / FOLDER).glob("*.json"))
    scores = [score for path in files if (score := kept(problems, read_score, path))]
    scores.sort(key=lambda score: is_controller(score.controller) and name_of(score.controller) is not None)
    rounds = [kept(problems, read_round, path) for path in sorted((folder / "rounds").glob("[0-9]*.json"))]
    choice = kept(problems, read_choice, folder / "rounds" / "chosen.json")
    told = [said for said in rounds if said is not None]
    return Run(str(name), folder, stages, scores, told, choice, problems)


def read_stage(folder: Path, name: str) -> Stage:
    """The stage in `folder`."""
    problems: list[UserError] = []
    settings = kept(problems, read_settings, folder / "args.json")
    best = kept(problems, lambda path: read_best(path, name), folder / "best.tar")
    counter, rows = kept(problems, read_metrics, folder / "metrics.csv") or ("", [])
    return Stage(name, folder, settings, best, counter, rows, problems)


def kept(problems: list[UserError], reader: Callable[[Path], Found], path: Path) -> Found | None:
    """What `reader` makes of a file; None where it is missing, or a UserError was added to `problems`."""
    try:
        return reader(path) if path.exists() else None
    except UserError as error:
        problems.append(error)
        return None


def read_settings(path: Path) -> dict[str, Any]:
    """args.json."""
    try:
        said = json.loads(path.read_bytes())
        if not isinstance(said, dict):
            raise ValueError(f"it holds a {type(said).__name__}, wanted a dict")
        return said
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not the record of a command ({str(error)[:200]}): run the command again to write it"
        ) from None


def read_best(path: Path, stage: str) -> dict[str, Any]:
    """Of a checkpoint what pages tell."""
    found = checkpoint.load(path, stage)
    plain = ("digest", "kind", "best", "epoch", "generation", "updates", "init")
    said = {name: found[name] for name in plain if isinstance(found.get(name), (str, int, float))}
    parents, datasets, digests, world = (
        found.get(name) for name in ("parents", "datasets", "dataset_digests", "world")
    )
    names = list(map(str, datasets)) if isinstance(datasets, (list, tuple)) else []
    known = digests if isinstance(digests, (list, tuple)) and len(digests) == len(names) else [None] * len(names)
    return {
        **said,
        "parents": {str(k): str(v) for k, v in parents.items()} if isinstance(parents, dict) else {},
        "datasets": {name: digest and str(digest) for name, digest in zip(names, known, strict=True)},
        "world": world if isinstance(world, dict) else None,
    }


def read_metrics(path: Path) -> tuple[str, list[dict[str, float]]]:
    """The column that numbers the rows of metrics.csv, and of each row what is a number."""
    try:
        rows = read_csv(path)
        counter = next((name for name in COUNTERS if rows and name in rows[0]), "")
        if rows and not counter:
            raise ValueError(f"it has none of the columns {', '.join(COUNTERS)}")
        if not all(len(row) == len(rows[0]) and None not in row for row in rows):
            raise ValueError("its rows are not of one length")
        names = [n for n in (rows[0] if rows else ()) if n.isidentifier() and len(n) <= LONGEST_NAME]
        numbers = [n for n in names if n == counter or all(is_number(row[n]) for row in rows if row[n])]
        return counter, [{name: float(row[name]) for name in numbers if row[name]} for row in rows]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is not what a stage writes ({str(error)[:200]}): run the stage's command again to write it"
        ) from None


def is_number(text: str) -> bool:
    try:
        float(text)
    except (ValueError, TypeError):
        return False
    return True


def read_round(path: Path) -> dict[str, Any]:
    """A round of train.py: its number, frames so far, and the returns of what was recorded by who drove."""
    try:
        said = json.loads(path.read_bytes())
        recorded = {str(kind): [float(x) for x in values] for kind, values in said["recorded"].items() if values}
        if not all(np.isfinite(values).all() for values in recorded.values()):
            raise ValueError("its returns are not finite")
        settings = said.get("settings", {})
        return {
            "round": int(said["round"]),
            "frames": int(said["frames"]),
            "recorded": recorded,
            "settings": settings if isinstance(settings, dict) else {},
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(
            f"{path} is not what train.py says of a round ({type(error).__name__}: {str(error)[:200]}): restore it"
        ) from None


def read_choice(path: Path) -> Choice:
    """What train.py says of the rounds that it has compared."""
    try:
        said = json.loads(path.read_bytes())
        returns = {int(number): [float(x) for x in values] for number, values in said["returns"].items()}
        if not all(values and np.isfinite(values).all() for values in returns.values()):
            raise ValueError("a round has no returns, or some that are not finite")
        choice = Choice(int(said["best"]), returns, int(said["seed"]), int(said["frames"]))
        if choice.best not in returns:
            raise ValueError(f"round {choice.best} is chosen, which has no returns")
        return choice
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(
            f"{path} is not what train.py says of its choice ({type(error).__name__}: {str(error)[:200]}): delete it, "
            "and run the train.py command again, which chooses again"
        ) from None


def find_dataset(run: Run, said: str) -> Dataset:
    """The dataset that a checkpoint knows by the path `said`, which may have been relative to another folder; UserError
    where it is not there any more, or not usable."""
    path = Path(said)
    places = [path] if path.is_absolute() else [path, *(above / path for above in run.folder.resolve().parents)]
    place = next((p for p in places if (p / "manifest.json").exists()), None)
    if place is None:
        raise UserError(f"{said} is not here")
    return Dataset.open(place)


@dataclass(frozen=True)
class Source:
    """A dataset that a run has learnt from.

    Fields:
        name: its path, as checkpoints have it
        digests: that it had when stages were trained on it, by stage; older versions did not say
        dataset: as it is now; None where it cannot be read, which `problem` says
        problem: None where it can
    """

    name: str
    digests: dict[str, str]
    dataset: Dataset | None
    problem: UserError | None

    @property
    def digest(self) -> str | None:
        """The digest to tell: of now, or else the one that stages were trained on."""
        return self.dataset.digest if self.dataset else next(iter(self.digests.values()), None)

    @property
    def changed(self) -> list[str]:
        """Stages that were trained on it before it was what it is now."""
        return [stage for stage, digest in self.digests.items() if self.dataset and digest != self.dataset.digest]


def sources(run: Run) -> list[Source]:
    """The datasets that its stages name."""
    told: dict[str, dict[str, str]] = {}
    for stage in run.stages:
        for name, digest in (stage.best or {}).get("datasets", {}).items():
            own = told.setdefault(name, {})
            if digest:
                own[stage.name] = digest
    found = []
    for name, digests in told.items():
        try:
            found.append(Source(name, digests, find_dataset(run, name), None))
        except UserError as error:
            found.append(Source(name, digests, None, error))
    return found


def stale(score: Score, stages: Sequence[Stage]) -> bool:
    """Whether a stage has been trained on since a score was taken."""
    now = {stage.name: stage.best["digest"] for stage in stages if stage.best}
    return any(now.get(name, digest) != digest for name, digest in score.checkpoints.items())
