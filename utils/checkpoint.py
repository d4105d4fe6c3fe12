"""Checkpoints: where they live, what they hold, and how a stage finds its parents.

    exp_dir/<stage>/best.tar         for the next stage
    exp_dir/<stage>/checkpoint.tar   to resume from

A run is found by its folder, or by the name of one that came with dreamdrive: see utils/runs.py. A stage is called as
its folder is: "vae", "bc", "bc-dagger", see utils/stages.py; what it stores is of which kind it is, "bc" of the last.

A checkpoint is a dict of tensors and plain values: stage, schema, config (rebuilds the model), model (state dict),
parents (name -> digest), and whatever else the stage needs to resume. It is loaded with `weights_only=True` and nothing
else, so a hostile file cannot run code, and written under a temporary name and renamed. Its digest is the sha256 of the
file.
"""

import contextlib
import hashlib
import io
import pickle
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from dreamdrive.utils import ranks, runs, stages
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import raise_if_unreadable, write_atomically
from dreamdrive.utils.locks import workplace
from dreamdrive.utils.words import did_you_mean, listed

SCHEMA = 1
SCRIPTS = {"vae": "trainvae.py", "mdrnn": "trainmdrnn.py", "ctrl": "traincontroller.py", "bc": "trainbc.py"}


def path(logdir: Path, stage: str, name: str = stages.BEST) -> Path:
    """Where a stage's checkpoint lives."""
    return runs.find(logdir) / stage / name


def save(target: Path, stage: str, config: dict, model: dict, parents: dict[str, str], **more) -> None:
    """Write a checkpoint of a stage; `more` holds tensors and plain values."""
    import torch

    buffer = io.BytesIO()
    torch.save(
        _canonical(
            {
                "stage": stages.kind_of(stage),
                "schema": SCHEMA,
                "config": config,
                "model": model,
                "parents": parents,
                **more,
            }
        ),
        buffer,
    )
    write_atomically(target, buffer.getvalue())


def _canonical(value):
    """`value` with every container built anew and equal strings made one: pickle writes an object it has met before as
    a reference, so that without this the bytes (and the digest) would tell a resumed run from an uninterrupted one."""
    if isinstance(value, dict):
        return {_canonical(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_canonical(v) for v in value)
    return sys.intern(value) if type(value) is str else value


def require(logdir: Path, *wanted: str, name: str = stages.BEST) -> None:
    """UserError where one of the stages has no checkpoint of that name yet; nothing is read."""
    for stage in wanted:
        require_file(path(logdir, stage, name), stage)


def require_file(source: Path, stage: str) -> None:
    """UserError where a checkpoint of this stage, or of one of its kind, is not there; nothing is read."""
    try:
        source.stat()
    except FileNotFoundError:
        raise missing(source, stage) from None
    except OSError:  # `load` says what is wrong
        return


def missing(source: Path, stage: str) -> UserError:
    """What is said of a checkpoint that is not there."""
    run = source.parent.parent
    there = stages.controllers(run) if stages.is_controller(stage) else []
    beside = f"; {run} has {listed(there)}{did_you_mean(source.parent.name, there)}" if there else ""
    return UserError(f"{source} is missing: {remedy(source, stage)} first{beside}{runs.unknown(run)}")


def remedy(source: Path, stage: str, more: str = "") -> str:
    """What makes a checkpoint, with `more` flags. `stage` may be its kind alone: its folder says the rest."""
    kind, folder = stages.kind_of(stage), source.parent.name
    name = stages.name_of(folder if stages.kind_of(folder) == kind else stage)
    flags = (f" --name {name}" if name else "") + more
    return f"run `python {SCRIPTS[kind]} --logdir {source.parent.parent}{flags}`"


def load(source: Path, stage: str) -> dict:
    """The checkpoint in `source`, its tensors on the CPU, with its "digest" added; UserError if it is missing, damaged,
    hostile or of another kind than `stage`."""
    return _load(source, stage, (stages.kind_of(stage),))


def load_controller(source: Path) -> dict:
    """The same of a controller of either kind, which it says itself: "stage"."""
    folder = source.parent.name
    return _load(source, folder if stages.is_controller(folder) else "bc", stages.CONTROLLERS)


def _load(source: Path, stage: str, kinds: Sequence[str]) -> dict:
    make_it = remedy(source, stage)
    try:
        content = source.read_bytes()
    except FileNotFoundError:
        raise missing(source, stage) from None
    except OSError as error:
        raise_if_unreadable(source, error)
        raise UserError(
            f"{source} cannot be read ({error.strerror}): mend its permissions, or {make_it} --noreload"
        ) from None
    import torch  # whose import takes longer than to see that a file is missing

    try:
        # torch.load does not compare the archive's checksums with its content, so flipped bits would be loaded
        # silently.
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(f"{damaged} does not match its checksum")
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{source} holds objects other than tensors and plain values, so it was not loaded: "
            f"get it from a source you trust, or {make_it} --noreload"
        ) from None
    except Exception as error:  # a damaged file can fail in any part of zipfile or torch
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{source} is damaged ({reason}): restore it, or {make_it} --noreload") from None
    found = checkpoint.get("stage") if isinstance(checkpoint, dict) else None
    if found not in kinds:
        wanted = listed((f'"{kind}"' for kind in kinds), "or")
        raise UserError(
            f"{source} is not a checkpoint of stage {wanted} (its stage is {found!r}): "
            f"{make_it} --noreload, or import it with `python -m data.exchange`"
        )
    if checkpoint.get("schema") != SCHEMA:
        raise UserError(
            f"{source} has schema version {checkpoint.get('schema')!r}, this version of dreamdrive reads {SCHEMA}: "
            f"{make_it} --noreload, or use the version that wrote it"
        )
    return {**checkpoint, "digest": hashlib.sha256(content).hexdigest()}


def load_parent(logdir: Path, stage: str) -> dict:
    """best.tar of an earlier stage."""
    return load(path(logdir, stage), stage)


def resume(logdir: Path, stage: str, parents: dict[str, str], noreload: bool, adopt: bool = False) -> dict | None:
    """checkpoint.tar of this stage to resume from, or None for a fresh start; UserError if it was trained on other
    parents, unless it is to `adopt` those that are there now, or where a fresh start would replace a best.tar that
    there is no checkpoint.tar of.

    A fresh start by --noreload removes nothing until the first new checkpoint replaces the old one.
    """
    source, best = path(logdir, stage, "checkpoint.tar"), path(logdir, stage)
    if noreload:
        return None
    if not source.exists():
        # a run that was stopped within its first epoch has written down its command, and no metrics yet
        stopped = best.with_name("args.json").exists() and not best.with_name("metrics.csv").exists()
        if best.exists() and not stopped:
            raise UserError(
                f"{best} is there, and no checkpoint.tar to resume its training from: use another --logdir, or "
                "--noreload to replace it"
            )
        return None
    checkpoint = load(source, stage)
    if not adopt:
        check_parents(checkpoint, parents, source, stage)
    return checkpoint


def check_parents(child: dict, parents: dict[str, str], source: Path, stage: str) -> None:
    """UserError unless `child` was trained on just these parents."""
    for name, digest in parents.items():
        if child["parents"].get(name) != digest:
            raise UserError(
                f"{source} was trained on {name} {child['parents'].get(name, 'none')[:12]}, "
                f"but {source.parent.parent / name / 'best.tar'} is now {digest[:12]}: "
                f"{remedy(source, stage, ' --noreload')} to train it anew"
            )


def check_config(checkpoint: dict, config: dict, flags: dict[str, str]) -> None:
    """UserError if a resumed run was started with other sizes; `flags` maps a config field to its flag."""
    for name, flag in flags.items():
        there = checkpoint["config"].get(name, config.get(name))  # a version before ours may not have had it
        if name in config and there != config[name]:
            raise UserError(
                f"the run to resume has {name} {there}, not {config.get(name)}: "
                f"leave {flag} away, or start afresh with --noreload"
            )


@contextlib.contextmanager
def stage_folder(logdir: Path, stage: str) -> Iterator[Path]:
    """The stage's folder, made if need be and locked, so that two runs never write to it at once; the lock goes with
    the process, however it ends. The first rank locks it for all. UserError for a run that came with dreamdrive."""
    runs.require_own(logdir)
    folder = Path(logdir) / stage
    if not ranks.first():
        ranks.together()
        yield folder
        return
    with workplace(
        folder,
        f"another {SCRIPTS[stages.kind_of(stage)]} is running in {folder}: wait for it, stop it, or use another "
        "--logdir",
    ):
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        ranks.together()
        yield folder
