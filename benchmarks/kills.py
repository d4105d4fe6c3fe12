"""kill -9 at random moments of every stage, and the same command again: the files end up as if nothing had happened.

Writes  docs/kills.md     a table: what was killed, how often, and whether the files are those of a run that was
                          left alone

    python -m benchmarks.kills --kills 10

Half of the kills come at a random moment of the run, the other half while a file is being published: as soon as its
temporary name is seen in the folder. Runs that were killed are resumed, and killed again, until one ends by
itself; then its files are compared, and the next run starts afresh. Every kill must hit a live process: one that ended
before its moment came is not counted.
"""

import argparse
import os
import platform
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import torch

from dreamdrive.data.manifest import ShardEntry, write_manifest
from dreamdrive.data.shards import Dataset, write_shard
from dreamdrive.utils.argument_types import natural, positive
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import write_atomically
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

ROOT = Path(__file__).resolve().parent.parent
# What a run draws, or notes about itself, is left out: pictures, args.json, locks.
COMPARED = ("*.h5", "manifest.json", "best.tar", "checkpoint.tar", "metrics.csv")
LONGEST = 600  # seconds a run may take
TRIES = 10  # runs that may end before their kill, for each kill


@dataclass(frozen=True)
class Stage:
    """One stage on a tiny budget; it runs in a folder that holds data/ and run/.

    Fields:
        number: as in DESIGN.md
        command: after `python`
        writes: the folders its files appear in
    """

    number: str
    command: str
    writes: tuple[str, ...]


STAGES = {
    "generation": Stage(
        "1",
        "data/generation_script.py --env gym:CartPole-v1 --rollouts 64 --rootdir {folder}/data --val-fraction 0.25 "
        "--max-steps 60 --threads 2",
        ("data",),
    ),
    "vae": Stage(
        "2",
        "trainvae.py --dataset {folder}/labelled --logdir {folder}/run --latent 8 --epochs 6 --device cpu",
        ("run/vae", "run/latents"),
    ),
    "mdrnn": Stage(
        "3",
        "trainmdrnn.py --logdir {folder}/run --hidden 64 --seq-len 16 --epochs 12 --device cpu",
        ("run/mdrnn", "run/latents"),
    ),
    "ctrl": Stage(
        "4a",
        "traincontroller.py --logdir {folder}/run --pop-size 16 --n-samples 16 --horizon 100 --generations 12 --device "
        "cpu",
        ("run/ctrl",),
    ),
    "bc": Stage(
        "4b",
        "trainbc.py --logdir {folder}/run --epochs 12 --evaluate-every 3 --n-samples 4 --max-workers 2 --device cpu",
        ("run/bc",),
    ),
}


@dataclass
class Tally:
    """What was done to a stage.

    Fields:
        seconds: of the run that was left alone
        moments: kills at a random moment        publications: kills on seeing a temporary name
        leftovers: kills after which a temporary file was still there, so that they surely hit a publication
        ended: runs that were compared; different: names of the files that differed in any of them
    """

    seconds: float
    moments: int = 0
    publications: int = 0
    leftovers: int = 0
    ended: int = 0
    different: set[str] = field(default_factory=set)


def own_actions_as_experts(source: Path, target: Path) -> None:
    """Copy a dataset, with the executed actions as the expert's: CartPole has no expert, and stage 4b needs one."""
    dataset, entries = Dataset.open(source), []
    target.mkdir(parents=True)
    for entry in dataset.shards:
        recorded = map(dataset.episode, range(entry.first, entry.last))
        entries.append(
            ShardEntry(**write_shard(target / entry.file, (replace(e, expert_action=e.action) for e in recorded)))
        )
    write_manifest(target, replace(dataset.manifest, shards=tuple(entries)))


def start(stage: Stage, folder: Path) -> subprocess.Popen:
    """Begin the stage's command in the background."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *shlex.split(stage.command.format(folder=shlex.quote(str(folder))))]
    with open(folder / "stderr.txt", "w") as errors:
        return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.DEVNULL, stderr=errors)


def finish(process: subprocess.Popen, folder: Path) -> None:
    """Wait for the end; UserError unless it is a good one."""
    if process.wait(LONGEST):
        raise UserError(f"a run ended with status {process.returncode}: {(folder / 'stderr.txt').read_text()[-2000:]}")


def digests(stage: Stage, folder: Path) -> dict[str, str]:
    """The files that are compared."""
    files = {path for where in stage.writes for pattern in COMPARED for path in (folder / where).glob(pattern)}
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def temporary_files(stage: Stage, folder: Path) -> list[str]:
    return [
        entry.name
        for where in stage.writes
        if (folder / where).is_dir()
        for entry in os.scandir(folder / where)
        if entry.name.endswith(".tmp")
    ]


def await_moment(process: subprocess.Popen, stage: Stage, folder: Path, seconds: float, publication: bool) -> bool:
    """Wait `seconds`, and with `publication` on until a temporary name appears; False if the process ended first."""
    moment, old = time.monotonic() + seconds, set(temporary_files(stage, folder))
    while process.poll() is None:
        if time.monotonic() < moment:
            time.sleep(0.01)
        elif not publication or set(temporary_files(stage, folder)) - old:
            return True
    return False


def torment(stage: Stage, live: Path, kills: int, seed: int) -> Tally:
    """Run the stage in the folder `live`, first undisturbed, then killed again and again; leaves the folder as the
    undisturbed run did.

    All runs use the same folder, since its name is part of what they write.
    """
    rng = random.Random(seed)
    before, straight = live.with_name("before"), live.with_name("straight")
    shutil.copytree(live, before)
    began = time.monotonic()
    finish(start(stage, live), live)
    tally, wanted = Tally(time.monotonic() - began), digests(stage, live)
    live.rename(straight)
    shutil.copytree(before, live)

    def compare() -> None:
        found = digests(stage, live)
        tally.ended += 1
        tally.different |= {name for name in {*wanted, *found} if wanted.get(name) != found.get(name)} | set(
            temporary_files(stage, live)
        )
        shutil.rmtree(live)

    for _ in range(TRIES * kills):
        if tally.moments + tally.publications == kills:
            break
        publication = tally.publications < tally.moments
        process = start(stage, live)
        if not await_moment(process, stage, live, rng.uniform(0.1, 0.95) * tally.seconds, publication):
            finish(process, live)
            compare()
            shutil.copytree(before, live)
            continue
        process.kill()
        if process.wait() != -signal.SIGKILL:  # it ended between the two lines above
            continue
        tally.publications += publication
        tally.moments += not publication
        tally.leftovers += bool(temporary_files(stage, live))
    else:
        raise UserError(
            f"{TRIES * kills} runs were not enough for {kills} kills of stage {stage.number}: run it again on a "
            "machine that is less busy"
        )
    finish(start(stage, live), live)
    compare()
    shutil.rmtree(before)
    straight.rename(live)
    return tally


def prepare(stage: str, folder: Path) -> None:
    """What stands between a stage's end and the next one's start."""
    if stage == "generation":
        own_actions_as_experts(folder / "data", folder / "labelled")


def report(tallies: dict[str, Tally], seed: int) -> str:
    """The table, as docs/kills.md."""
    lines = [
        "# Killed, and run again",
        "",
        f"`python -m benchmarks.kills --kills {max(t.moments + t.publications for t in tallies.values())} --seed "
        f"{seed}`, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}, on a CPU.",
        "",
        "Each kill is a SIGKILL to a process that was alive; the same command then resumed, and was killed again.",
        "Whenever a run came to its end, all of its files",
        f"{', '.join(f'`{name}`' for name in COMPARED)} were compared, byte by byte,",
        "with those of a run that was left alone.",
        "",
        "| stage | command | seconds undisturbed | kills at a random moment | kills during a publication | temporary "
        "files left by them | runs compared | outcome |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, tally in tallies.items():
        outcome = "identical" if not tally.different else f"**different: {', '.join(sorted(tally.different))}**"
        lines.append(
            f"| {STAGES[name].number} | `{STAGES[name].command.replace('{folder}/', '')}` | {tally.seconds:.0f} | "
            f"{tally.moments} | {tally.publications} | "
            f"{tally.leftovers} | {tally.ended} | {outcome} |"
        )
    return "\n".join(lines) + "\n"


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument(
        "--stage", choices=list(STAGES), nargs="+", default=list(STAGES), help="stages to kill; the others only run"
    )
    p.add_argument("--kills", type=positive, default=10, help="kills a stage")
    p.add_argument("--seed", type=natural, default=0, help="decides the moments")
    p.add_argument("--out", type=Path, default=Path("docs/kills.md"), help="the table")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    tallies = {}
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        live = Path(name) / "live"
        live.mkdir()
        for number, (name, stage) in enumerate(STAGES.items()):
            if name in args.stage:
                tallies[name] = torment(stage, live, args.kills, args.seed + 100 * number)
                print(f"stage {stage.number}: {tallies[name]}", flush=True)
            else:
                finish(start(stage, live), live)
            prepare(name, live)
    write_atomically(args.out, report(tallies, args.seed).encode())
    print(f"{args.out} written")
    if different := [name for name, tally in tallies.items() if tally.different]:
        raise UserError(f"killing changed what {', '.join(different)} wrote: see {args.out}")


if __name__ == "__main__":
    run(main)
