"""A model card of a run that is handed on, in the form that Hugging Face's Hub knows: README.md, which begins with
YAML, and one picture beside it.

Everything in it comes from the run's files: a score that was not taken is not there. Text from files is escaped, and
brings no elements of its own.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamdrive import __version__
from dreamdrive.driving.agent import load_agent
from dreamdrive.driving.catalogue import known_controller
from dreamdrive.driving.driver import drive
from dreamdrive.envs.catalogue import official, without_places
from dreamdrive.envs.dream import DreamWorld
from dreamdrive.pages.html import LARGEST_PICTURE, picture, read
from dreamdrive.pages.run import Run, Source, Stage, read_run, sources, stale
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import write_atomically
from dreamdrive.utils.intervals import METHOD, mean_interval
from dreamdrive.utils.scores import Score
from dreamdrive.utils.settings import shown
from dreamdrive.utils.video import save_png, strip
from dreamdrive.utils.words import counted, mean_and_spread

CARD, PICTURE = "README.md", "card.png"
# pictures of a stage that show what it makes of frames, the first there is, and what is said of it
SHOWN = {"vae/samples": "Frames, and what V makes of them.", "mdrnn/dreams": "What M dreams, beside what was."}
DREAMS, FRAMES, EVERY = 3, 10, 6  # of a picture that is drawn where there is none: rows, columns, steps between two
MOST_DATASETS = 12  # told one by one
SHORT = 12  # letters of a digest
DIGESTS = "There: of the run's own best.tar, which scores name; here: of the file in this folder, in half precision."
SPECIAL = re.compile(r"([\\`*_\[\]|~#])")  # in Markdown


def read_whole(logdir: Path, out: Path) -> Run:
    """The run of which a card is to be written to `out`; UserError where a file of it is damaged, or where there is a
    card already."""
    for name in (CARD, PICTURE):
        if (out / name).exists():
            raise UserError(f"{out / name} exists already: choose another --out")
    found = read_run(logdir)
    for problem in [*found.problems, *(problem for stage in found.stages for problem in stage.problems)]:
        raise problem
    left_picture(found)
    return found


def write_card(found: Run, out: Path, license: str) -> None:
    """Write the card of a run whose checkpoints have been exported to `out`."""
    name, dreams = out.resolve().name, dreams_of(out)
    caption = draw(found, out, dreams)
    parts = [
        front_matter(found, name, license),
        f"# {words(name)}",
        about(found, out),
        f"![{caption}]({PICTURE})\n\n{caption}" if caption else "",
        scores(found),
        usage(found, out, dreams is not None),
        training(found, out),
    ]
    write_atomically(out / CARD, ("\n\n".join(part for part in parts if part) + "\n").encode())


# What the Hub reads


def front_matter(found: Run, name: str, license: str) -> str:
    """YAML, in which a text in JSON's quotes is a text."""
    tags = ("world-model", "reinforcement-learning", str(found.world.get("env")))
    lines = [
        "---",
        f"license: {json.dumps(license)}",
        "library_name: dreamdrive",
        "pipeline_tag: reinforcement-learning",
        "tags:",
        *(f"- {json.dumps(tag)}" for tag in tags),
    ]
    own = [score for score in found.scores if counts(found, score)]
    if own:
        lines += ["metrics:", "- mean_reward", "model-index:", f"- name: {json.dumps(name)}", "  results:"]
    for score in own:
        values = np.array(list(score.returns.values()))
        lines += [
            "  - task:",
            "      type: reinforcement-learning",
            "    dataset:",
            f"      name: {json.dumps(score.place)}",
            f"      type: {json.dumps(score.env)}",
            "    metrics:",
            "    - type: mean_reward",
            f"      name: {json.dumps(f'mean return of {score.controller}')}",
            f"      value: {json.dumps(f'{values.mean():.2f} +/- {values.std():.2f}')}",
            "      verified: false",
        ]
    return "\n".join([*lines, "---"])


def counts(found: Run, score: Score) -> bool:
    """Whether a score is that of a driver of the run, as it is now, in the official simulator, as that is."""
    drivers = {stage.name for stage in found.stages}
    there = score.world == "simulator" and not score.trial and official(score.env) == score.env
    return there and score.controller in drivers and not stale(score, found.stages)


# What people read


def words(text: Any) -> str:
    """Text from a file, as a part of a line of Markdown that means what it says."""
    plain = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return SPECIAL.sub(r"\\\1", plain)


def fenced(text: str, kind: str = "") -> str:
    """A block of code, which no text in it ends."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{kind}\n{text}\n{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [list(head), ["---"] * len(head), *([words(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def about(found: Run, out: Path) -> str:
    """What it is."""
    env, options = str(found.world.get("env")), found.world.get("options")
    own = without_places(env, options) if isinstance(options, dict) else {}
    told = ", ".join(f"{k} {shown(v)}" for k, v in own.items())
    kinds = {"vae": "V, which compresses frames", "mdrnn": "M, which dreams on from there"}
    parts = [kinds.get(stage.name, f"a driver ({stage.name})") for stage in exported(found, out)]
    paper = "Ha & Schmidhuber's [*World Models*](https://worldmodels.github.io) (2018)"
    halved = "Weights are in half precision" + ("; scores were taken before they were" if found.scores else "")
    where = f"{words(env)}{f' ({words(told)})' if told else ''}"
    return f"A run of dreamdrive {__version__} in {where}, in the style of {paper}: {', '.join(parts)}. {halved}."


def exported(found: Run, out: Path) -> list[Stage]:
    """The stages that are in `out`."""
    return [stage for stage in found.stages if checkpoint.path(out, stage.name).exists()]


def scores(found: Run) -> str:
    """All scores of the run, by seeds that nothing was learnt from."""
    if not found.scores:
        return ""
    rows = []
    for score in found.scores:
        values, seeds = list(score.returns.values()), sorted(score.returns)
        of = mean_interval(values)
        old = " (an earlier checkpoint)" if stale(score, found.stages) else ""
        whole = seeds == list(range(seeds[0], seeds[-1] + 1))
        rows.append(
            [
                score.controller + old,
                score.place,
                mean_and_spread(values),
                f"{of.low:.1f} to {of.high:.1f}" if of.known else "",
                len(values),
                f"{seeds[0]} to {seeds[-1]}" if whole and len(seeds) > 1 else ", ".join(map(str, seeds)),
            ]
        )
    head = ["driver", "scored in", "mean return +- std", "95 % interval of the mean", "episodes", "seeds"]
    commands = "\n".join(dict.fromkeys(score.command for score in found.scores if score.command))
    parts = ["## Scores", table(head, rows), f"{METHOD}. Nothing was learnt from episodes on these seeds."]
    return "\n\n".join(parts + ([fenced(commands, "bash")] if commands else []))


def usage(found: Run, out: Path, dreams: bool) -> str:
    """Commands and ten lines of Python, all of which run in the folder of the card."""
    who = known_controller(out) or ""
    commands = [
        *([f"dreamdrive test --logdir . --controller {who} --episodes 10"] if who else []),
        *([f"dreamdrive play --logdir . --controller {who}"] if who else []),
        *(["dreamdrive play --logdir . -w    # you drive in its dream"] if dreams else []),
    ]
    python = ["import dreamdrive", "", 'run = dreamdrive.load_run(".")  # the folder of this file']
    if who:
        python += [
            f'world, agent, total = run.simulator(max_steps=100), run.agent("{who}"), 0.0',
            "for moment in dreamdrive.drive(world, agent, seeds=[2_000_000]):",
            "    if moment.step is not None:",
            "        total += moment.step.reward.item()",
            'print(f"return of 100 steps: {total:.1f}")',
        ]
    if dreams:
        python += [
            "dreamt = run.dream(run.space.zeros(4, 50), temperature=1.0, seed=0)  # 4 dreams of 50 steps",
            "print(dreamt.frames.shape, dreamt.reward.sum(1))",
        ]
    if not commands:
        return ""
    said = "With dreamdrive installed, in the folder of this file:"
    return "\n\n".join(
        ["## How to use it", said, fenced("\n".join(commands), "bash"), fenced("\n".join(python), "python")]
    )


def training(found: Run, out: Path) -> str:
    """How it was trained: what came of what, by digest, the commands, and all settings."""
    rows = []
    for stage in exported(found, out):
        here, best = checkpoint.load_parent(out, stage.name), stage.best
        assert best is not None, "it has been exported"
        size = sum(value.numel() for value in here["model"].values() if isinstance(value, torch.Tensor))
        plain = {k: v for k, v in here["config"].items() if isinstance(v, (bool, int, float, str))}
        what = [here.get("kind", ""), *(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in plain.items())]
        parents = ", ".join(f"{parent} {digest[:SHORT]}" for parent, digest in best["parents"].items())
        rows.append(
            [
                stage.title,
                ", ".join(filter(None, what)),
                f"{size:,}",
                parents,
                best["digest"][:SHORT],
                here["digest"][:SHORT],
            ]
        )
    head = ["stage", "what it is", "parameters", "trained on", "sha256 there", "sha256 here"]
    told = {stage.name: dict(stage.settings) for stage in exported(found, out) if stage.settings}
    commands = "\n".join(dict.fromkeys(str(said.pop("command")) for said in told.values() if "command" in said))
    parts = ["## How it was trained", table(head, rows), DIGESTS, datasets(sources(found))]
    if commands:
        parts += [fenced(commands, "bash")]
    if told:
        parts += ["<details><summary>all settings</summary>", fenced(json.dumps(told, indent=1), "json"), "</details>"]
    return "\n\n".join(filter(None, parts))


def datasets(found: Sequence[Source]) -> str:
    """What it has learnt from: how much, who drove, and the digest."""
    rows = [dataset_row(source) for source in found[:MOST_DATASETS]]
    if not rows:
        return ""
    left = len(found) - len(rows)
    more = f"\n\nAnd {counted(left, 'dataset')} more." if left else ""
    return table(["dataset", "episodes", "steps", "who drove", "sha256", ""], rows) + more


def dataset_row(source: Source) -> list[Any]:
    digest = (next(iter(source.digests.values()), None) or source.digest or "")[:SHORT]
    if source.dataset is None:
        return [source.name, "", "", "", digest, "not here any more"]
    episodes = source.dataset.episodes
    drove = ", ".join(f"{name} {count}" for name, count in Counter(e.policy for e in episodes).items())
    changed = "changed since" if source.changed else ""
    return [source.name, len(episodes), f"{sum(e.steps for e in episodes):,}", drove, digest, changed]


# The picture


def dreams_of(out: Path) -> DreamWorld | None:
    """The dream of a run; None where it has none."""
    try:
        return DreamWorld(out, DREAMS, restart=False, horizon=EVERY * FRAMES)
    except UserError:
        return None


def left_picture(found: Run) -> tuple[Path, str] | None:
    """The newest picture that a stage has left of what it makes of frames, and what is said of it; UserError where it
    is damaged."""
    for place, caption in SHOWN.items():
        series = sorted((found.folder / place).glob("*.png"))
        if series:
            picture(series[-1], caption)  # which sees that it is one
            return series[-1], caption
    return None


def draw(found: Run, out: Path, dreams: DreamWorld | None) -> str:
    """Put a picture of the run beside the card, one that its stages have left or else one of its dream; returns what is
    said of it, nothing where there is none."""
    left = left_picture(found)
    if left:
        write_atomically(out / PICTURE, read(left[0], LARGEST_PICTURE))
        return left[1]
    who = known_controller(out)
    if dreams is None or not who:
        return ""
    driver = load_agent(out, who)
    seen = [moment.obs.cpu().numpy() for moment in drive(dreams, driver, range(DREAMS), together=True)]
    rows = [(f"dream {k + 1}", [frames[k] for frames in seen[::EVERY]]) for k in range(DREAMS)]
    save_png(out / PICTURE, strip(rows))
    return "Dreams, in which the driver of the run drives; time to the right; one that has ended stays as it is."
