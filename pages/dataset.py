"""A dataset as a folder of HTML that opens from a file or any static host: what it is, its episodes with films and
plots, a contact sheet, and how returns, lengths and actions are spread.

Reads   DIR/manifest.json, DIR/shard_*.h5     written by data/generation_script.py
Writes  FOLDER/index.html                     to be opened
        FOLDER/index.js, episodes/*.js        the list of episodes, and what is plotted of each, loaded when chosen
        FOLDER/films/*.mp4, contact.png       frames; not of a world that is seen as numbers

    dreamdrive data page datasets/demo --out pages/demo
    dreamdrive data page datasets/demo --out pages/demo --films 20
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
from tqdm import tqdm

from dreamdrive.data.manifest import EpisodeEntry, Manifest
from dreamdrive.data.shards import Dataset
from dreamdrive.envs import named_actions
from dreamdrive.pages import charts
from dreamdrive.pages.html import GENERATOR, HERE, Html, facts, page, problem, section, table, tag, write_page
from dreamdrive.utils.argument_types import count_or_all
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder, write_atomically
from dreamdrive.utils.intervals import METHOD, mean_interval
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser, shown
from dreamdrive.utils.spaces import ActionSpace
from dreamdrive.utils.video import VideoWriter, save_png, strip

FILMS = 6
SIDE, FASTEST = 256, 60  # of a film: pixels of a side at least, frames a second at most
MOST_POINTS = 1000  # of a plot: longer episodes are drawn in pieces of so many steps that there are no more
MOST_NUMBERS = 8  # of what is seen as numbers, that are drawn
ROWS, FRAMES = 8, 12  # of the contact sheet
MADE = re.compile(r"\d{5,}\.(js|mp4)")


@dataclass
class Contents:
    """What was found in the shards.

    Fields:
        action: of all episodes, (N, A) or (N,) each
        damaged: episodes that cannot be read
        problems: why, a sentence for each shard
    """

    action: list[np.ndarray] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)
    problems: list[UserError] = field(default_factory=list)


def actions_of(manifest: Manifest) -> ActionSpace:
    """The action space of a dataset, with names where there are any."""
    return named_actions(manifest.env, ActionSpace.from_dict(manifest.action_space))


def names_of(space: ActionSpace) -> list[str]:
    """Of each choice, or of each number."""
    if space.discrete:
        return [space.words(choice) for choice in range(space.n)]
    return list(space.names) or [f"number {i + 1}" for i in range(space.size)]


def spread(episodes: Sequence[EpisodeEntry], count: int) -> list[int]:
    """Numbers of `count` episodes at most whose returns differ most: the worst, the best, and evenly between."""
    ranked = sorted(episodes, key=lambda e: e.score)
    places = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)
    return sorted({ranked[place].index for place in places})


def write_dataset_page(dataset: Dataset, out: Path, films: int) -> None:
    """The page of `dataset` in the folder `out`, with so many films at most."""
    prepare(dataset.root, out)
    space, found = actions_of(dataset.manifest), Contents()
    for entry in tqdm(dataset.shards, desc="reading", unit="shard"):
        episodes = range(entry.first, entry.last)
        try:
            read = {i: dataset.steps(i, ("action", "reward")) for i in episodes}
            content = {i: plotted(dataset, i, columns) for i, columns in read.items()}
        except UserError as error:
            found.problems.append(error)
            found.damaged += episodes
            continue
        for i, script in content.items():
            put(out / "episodes" / f"{i:05d}.js", script)
        found.action += [columns["action"] for columns in read.values()]
    sound = [e for e in dataset.episodes if e.index not in set(found.damaged)]
    pictures = len(dataset.manifest.image_shape) == 3
    filmed = spread(sound, films) if pictures else []
    kept = [i for i in tqdm(filmed, desc="filming", unit="film") if tried(found, partial(film, dataset, i, out))]
    sheet = bool(pictures and sound) and tried(found, partial(contact_sheet, dataset, sound, out / "contact.png"))
    write_atomically(out / "index.js", index(dataset, space, kept, found.damaged))
    write_page(out / "index.html", front(dataset, space, found, sheet))


def tried(found: Contents, make: Callable[[], None]) -> bool:
    """Whether `make` could; else why not is kept."""
    try:
        make()
    except UserError as error:
        found.problems.append(error)
        return False
    return True


def prepare(root: Path, out: Path) -> None:
    """The folder `out`, without what an earlier page of ours left there; UserError where it holds anything else."""
    if out.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{out} is in the dataset's own folder, which holds nothing else: choose another --out")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: choose a folder for --out")
    index = out / "index.html"
    ours = index.exists() and GENERATOR.split()[0] in index.read_text(errors="replace")[:600]
    if out.is_dir() and any(out.iterdir()) and not ours:
        raise UserError(f"{out} holds something other than a page of a dataset: choose another --out")
    for folder in ("episodes", "films"):
        for path in make_folder(out / folder).iterdir():
            if MADE.fullmatch(path.name):
                path.unlink()


def put(path: Path, content: bytes) -> None:
    """Write a file that can be made again at any time."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path} could not be written ({error.strerror}): free some space") from None


def plotted(dataset: Dataset, i: int, columns: dict[str, np.ndarray]) -> bytes:
    """What is plotted of an episode: a call of the page's `arrived`."""
    reward, action = columns["reward"], columns["action"]
    every = -(-len(reward) // MOST_POINTS)
    starts = np.arange(0, len(reward), every)
    values: dict[str, Any] = {
        "every": every,
        "reward": numbers(np.add.reduceat(reward.astype(np.float64), starts)),
        "action": [numbers(own) for own in action[starts].reshape(len(starts), -1).T],
    }
    if len(dataset.manifest.image_shape) == 1:
        values["obs"] = [numbers(own) for own in dataset.frames(i)[starts, :MOST_NUMBERS].T]
    return f"arrived({i}, {json.dumps(values, separators=(',', ':'))});\n".encode()


def numbers(values: np.ndarray) -> list[float | None]:
    """As JSON has them, to four digits."""
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values.tolist()]


def film(dataset: Dataset, i: int, out: Path) -> None:
    """All frames of an episode as a film."""
    frames, shape = dataset.frames(i), dataset.manifest.image_shape
    scale = max(1, -(-SIDE // max(shape[:2])))
    with VideoWriter(out / "films" / f"{i:05d}.mp4", min(FASTEST, 1 / dataset.manifest.dt), scale) as video:
        for frame in frames:
            video.add(in_colour(frame))


def in_colour(frame: np.ndarray) -> np.ndarray:
    """A frame (H, W, C) as (H, W, 3)."""
    return frame if frame.shape[2] == 3 else np.repeat(frame[:, :, :1], 3, 2)


def contact_sheet(dataset: Dataset, episodes: Sequence[EpisodeEntry], path: Path) -> None:
    """Frames of some episodes, a row for each, from its first to its last."""
    entries, rows = {e.index: e for e in episodes}, []
    for i in sorted(spread(episodes, ROWS), key=lambda i: -entries[i].score):
        entry = entries[i]
        times = np.linspace(0, entry.steps, FRAMES).round().astype(int).tolist()
        frames = [in_colour(dataset.frames(i, t, t + 1)[0]) for t in times]
        rows.append((f"episode {i}\n{entry.policy}\n{entry.score:.1f}", frames))
    save_png(path, strip(rows, height=80))


def index(dataset: Dataset, space: ActionSpace, films: Sequence[int], damaged: Sequence[int]) -> bytes:
    """What the page's script knows of all episodes."""
    manifest = dataset.manifest
    about = {
        "dt": manifest.dt,
        "pictures": len(manifest.image_shape) == 3,
        "choices": space.discrete,
        "actions": names_of(space),
        "bounds": list(zip(space.low, space.high, strict=True)),
        "films": list(films),
        "damaged": list(damaged),
        "episodes": [[e.index, e.policy, e.split, e.seed, e.steps, round(e.score, 4)] for e in manifest.episodes],
    }
    return f"const about = {json.dumps(about, separators=(',', ':'))};\n".encode()


def front(dataset: Dataset, space: ActionSpace, found: Contents, sheet: bool) -> bytes:
    """index.html."""
    title = dataset.root.resolve().name
    scripts = [tag("script", src="index.js"), tag("script", Html(HERE.joinpath("episodes.js").read_text()))]
    picture = tag("img", src="contact.png", alt="frames of episodes, from the worst to the best", loading="lazy")
    return page(
        f"dreamdrive: {title}",
        tag("h1", title),
        *map(problem, found.problems),
        section("The dataset", about(dataset, space)),
        section("Who drove", drivers(dataset.manifest)),
        section("Episodes", browser(), id="episodes"),
        section(
            "Contact sheet",
            picture,
            tag("p", "From each episode's first frame to its last; best return first.", class_="soft"),
        )
        if sheet
        else None,
        section("Spread", tag("div", *histograms(dataset, space, found), class_="charts")),
        *scripts,
    )


def about(dataset: Dataset, space: ActionSpace) -> Html:
    """What the manifest says."""
    m = dataset.manifest
    frames, steps, size = (sum(getattr(s, name) for s in m.shards) for name in ("frames", "steps", "bytes"))
    told = {
        "folder": tag("code", str(dataset.root)),
        "digest": tag("code", dataset.digest[:12], title=f"sha256 of the manifest's content: {dataset.digest}"),
        "world": m.env,
        "options": ", ".join(f"{name} {shown(value)}" for name, value in m.options.items()),
        "episodes": f"{len(m.episodes):,}, at most {m.max_steps:,} steps each",
        "steps": f"{steps:,} of {m.dt:.3g} s: {steps * m.dt / 3600:.2g} hours",
        "frames": f"{frames:,} of {' x '.join(map(str, m.image_shape))}, {size / 1e6:.1f} MB in {len(m.shards)} shards",
        "action": f"one of {space.n}" if space.discrete else ", ".join(names_of(space)),
        "driven by": f"{m.policy}, action noise {m.action_noise:g}, seed {m.seed}",
        "given up": f"after {m.give_up} steps without a reward" if m.give_up else "",
        "controller": ", ".join(f"{name} {str(digest)[:12]}" for name, digest in (m.controller or {}).items()),
    }
    return facts({name: value for name, value in told.items() if value})


def drivers(manifest: Manifest) -> Html:
    """A row for each driver, and one for all."""
    groups = {policy: [e for e in manifest.episodes if e.policy == policy] for policy in manifest.policies}
    groups = {policy: own for policy, own in groups.items() if own}
    rows = [driver_row(policy, own) for policy, own in groups.items()]
    rows += [driver_row("all", manifest.episodes)] if len(rows) > 1 else []
    head = ["driver", "episodes", "train", "validation", "steps", "mean return", "95 % interval", "least", "most"]
    return tag("div", table(head, rows), tag("p", f"{METHOD}.", class_="soft"))


def driver_row(name: str, episodes: Sequence[EpisodeEntry]) -> list[Any]:
    scores = [e.score for e in episodes]
    of, splits = mean_interval(scores), Counter(e.split for e in episodes)
    between = f"{of.low:.1f} to {of.high:.1f}" if of.known else ""
    counts = [of.count, splits["train"], splits["val"], f"{sum(e.steps for e in episodes):,}"]
    return [name, *counts, f"{of.mean:.1f}", between, f"{min(scores):.1f}", f"{max(scores):.1f}"]


def browser() -> Html:
    """What episodes.js fills."""
    everything = tag("option", "all", value="")
    tools = tag(
        "div",
        tag("label", "driver ", tag("select", everything, id="driver")),
        tag("label", "split ", tag("select", everything, id="split")),
        tag("label", tag("input", id="filmed", type="checkbox"), " filmed"),
        tag("button", "‹", id="before", aria_label="those before"),
        tag("span", id="range"),
        tag("button", "›", id="after", aria_label="those after"),
        id="tools",
    )
    rows = tag("table", tag("thead", tag("tr", id="head")), tag("tbody", id="rows"))
    chosen = tag("div", tag("h2", id="title"), tag("div", id="film"), tag("div", id="plots"), id="chosen")
    return tag("div", tag("div", tools, tag("div", rows, id="list")), chosen, id="browse")


def histograms(dataset: Dataset, space: ActionSpace, found: Contents) -> list[Html]:
    """Of returns and lengths by who drove, and of actions by their names."""
    episodes = dataset.episodes
    policies = list(dict.fromkeys(e.policy for e in episodes))
    drawn = []
    if episodes:
        returns = {name: [e.score for e in episodes if e.policy == name] for name in policies}
        lengths = {name: [float(e.steps) for e in episodes if e.policy == name] for name in policies}
        drawn = [
            charts.histogram(returns, "return of an episode", "episodes"),
            charts.histogram(lengths, "steps of an episode", "episodes"),
        ]
    if found.action:
        action, names = np.concatenate(found.action), names_of(space)
        if space.discrete:
            counts = np.bincount(action, minlength=space.n)[: space.n]
            drawn.append(charts.bars(dict(zip(names, counts.tolist(), strict=True)), "steps"))
        else:
            drawn += [charts.histogram({n: action[:, k].tolist()}, n, "steps") for k, n in enumerate(names)]
    return drawn


def main() -> None:
    p = parser(__doc__)
    p.add_argument("folder", type=Path, metavar="DIR", help="folder of a dataset")
    p.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the page, which is made")
    p.add_argument("--films", type=count_or_all, default=FILMS, metavar="N", help="episodes to film at most, or all")
    args = p.parse_args()
    write_dataset_page(Dataset.open(args.folder), args.out, args.films)
    print(f"{args.out / 'index.html'}: open it in a browser")


if __name__ == "__main__":
    run(main)
