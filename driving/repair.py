"""Whether a dataset is as it was written, and with --repair what is damaged of it recorded again.

    dreamdrive data verify datasets/carracing             read every byte; say what is wrong, file by file
    dreamdrive data verify --repair datasets/carracing    and record damaged and missing shards again

Episode i depends on the seed and i alone, so that a shard that is recorded again is the same to the byte; where it is
not, because it was recorded by other versions of what drives or draws it, that is said. What was damaged is kept in
DIR/damaged. Reads exp_dir where a trained run drove, as stage 1 did: --logdir says where that is now. What was imported
is not recorded again, but imported.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.data.manifest import DAMAGED, Manifest, read_manifest, write_manifest
from dreamdrive.driving.catalogue import parse_mixture, trained
from dreamdrive.driving.recording_settings import RecordingSettings
from dreamdrive.utils.argument_types import positive
from dreamdrive.utils.cores import usable
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import fsync_folder, write_atomically
from dreamdrive.utils.locks import locked
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import WORKERS, parser
from dreamdrive.utils.words import counted

ARGS = "args.json"


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("folder", type=Path, help="folder of a dataset")
    p.add_argument("--repair", action="store_true", help="record again what is damaged or missing")
    p.add_argument(*WORKERS[::-1], type=positive, default=usable(), help="processes that drive the simulator")
    p.add_argument("--logdir", type=Path, help="run that drove (default: where it was then)")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    from dreamdrive.data.shards import say_verified  # brings HDF5, which --help does without

    if args.repair:
        print("\n".join(repair(args.folder, args.threads, args.logdir)))
    sys.exit(say_verified(args.folder))


def repair(folder: Path, threads: int, logdir: Path | None) -> list[str]:
    """Set damaged shards aside and record them and missing ones again; what was done, a line each. UserError where that
    cannot be, and the dataset is as it was."""
    from dreamdrive.data.shards import damaged_shards

    before = read_manifest(folder)
    damaged = damaged_shards(folder, before)
    if not damaged and before.complete:
        return []
    settings = settings_of(folder, before, threads, logdir)
    from dreamdrive.driving.recording import generate, made_here  # bring torch, after what was wrong has been told

    if not made_here(before):
        raise UserError(f"{folder} has other shards than stage 1 records: {how_else(before)}")
    command = _read(folder / ARGS)
    with locked(folder, settings.busy()):
        aside = set_aside(folder, [name for name in damaged if (folder / name).exists()])
    try:
        after = generate(settings)
    except UserError:
        with locked(folder, settings.busy()):
            put_back(folder, before, aside)
        raise
    finally:
        if command:
            write_atomically(folder / ARGS, command)
    return said(folder, before, after, damaged, aside)


def settings_of(folder: Path, manifest: Manifest, threads: int, logdir: Path | None) -> RecordingSettings:
    """What stage 1 was told when it recorded the dataset; UserError where it did not."""
    told: dict[str, Any] = {}
    try:
        found = json.loads(_read(folder / ARGS) or b"{}")
        told = {name: found[name] for name in ("logdir", "checkpoint") if isinstance(found.get(name), str)}
    except (ValueError, RecursionError, AttributeError):  # it is for people; where nobody trained drove nothing is lost
        pass
    try:
        drivers = parse_mixture(manifest.policy)
    except UserError:
        raise UserError(f"{folder} was not recorded by stage 1 alone: {how_else(manifest)}") from None
    if manifest.env.count(":") > 1:
        raise UserError(
            f"{folder} is of {manifest.env}, whose module no file may choose: move the shards away that `dreamdrive "
            "data verify` names, and run the command that recorded it again"
        )
    driven: dict[str, Any] = (
        {"logdir": logdir or Path(told.get("logdir", "exp_dir"))} if any(map(trained, drivers)) else {}
    )
    if driven and "checkpoint" in told:
        driven["checkpoint"] = told["checkpoint"]
    return RecordingSettings(
        env=manifest.env,
        options=manifest.options,
        rollouts=manifest.rollouts,
        rootdir=folder,
        threads=threads,
        policy=manifest.policy,
        action_noise=manifest.action_noise,
        seed=manifest.seed,
        max_steps=manifest.max_steps,
        give_up=manifest.give_up,
        skip=manifest.skip,
        **driven,
    )


def how_else(manifest: Manifest) -> str:
    if manifest.policy == "imported":
        return "import it again, into another folder"
    return "restore what is damaged from a copy; what people or learners drove cannot be driven again"


def set_aside(folder: Path, names: list[str]) -> dict[str, Path]:
    """Move shards to where damaged ones are kept; where each is now."""
    aside: dict[str, Path] = {}
    for name in names:
        place = folder / DAMAGED
        place.mkdir(exist_ok=True)
        free = (place / f"{name}{f'.{k}' if k else ''}" for k in range(1 << 20))
        aside[name] = next(path for path in free if not path.exists())
        os.rename(folder / name, aside[name])
        fsync_folder(place)
    fsync_folder(folder)
    return aside


def put_back(folder: Path, manifest: Manifest, aside: dict[str, Path]) -> None:
    """The dataset as it was."""
    for name, path in aside.items():
        if not (folder / name).exists():
            os.rename(path, folder / name)
    if aside and not any((folder / DAMAGED).iterdir()):
        (folder / DAMAGED).rmdir()
    write_manifest(folder, manifest)


def said(folder: Path, before: Manifest, after: Manifest, damaged: list[str], aside: dict[str, Path]) -> list[str]:
    """What was done, for people."""
    digests = {shard.file: shard.sha256 for shard in before.shards}
    others = [s.file for s in after.shards if s.file in damaged and s.sha256 != digests[s.file]]
    more = len(after.shards) - len(before.shards)
    lines = []
    if damaged:
        same = "" if others else ", the same to the byte"
        kept = f"; what was damaged is in {folder / DAMAGED}" if aside else ""
        lines.append(f"{folder}: {counted(len(damaged), 'shard')} recorded again{same}{kept}")
    if more > 0:
        lines.append(f"{folder}: {counted(more, 'shard')} recorded that had not been")
    if others:
        lines.append(
            f"  {', '.join(others[:5])} not the same to the byte: recorded by other versions, or on another machine; "
            "runs that were trained on the dataset will say that it has changed"
        )
    return lines


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    run(main)
