"""Checkpoints: where they live, what they hold, and how a stage finds its parents.

    exp_dir/<stage>/best.tar         for the next stage
    exp_dir/<stage>/checkpoint.tar   to resume from

A run is found by its folder, or by the name of one that came with dreamdrive: see utils/runs.py. A stage is called as
its folder is: "vae", "bc", "bc-dagger", see utils/stages.py; what it stores is of which kind it is, "bc" of the last.

A checkpoint is a dict of tensors and plain values: stage, schema, config (rebuilds the model), model (state dict),
parents (name -> digest), and whatever else the stage needs to resume. torch.save writes it, under a temporary name, and
it is renamed. It is read by utils/archive.py, which runs nothing and takes no more memory than the file has bytes;
before that, all that it describes is compared with what its config builds (SCHEMAS). Its digest is the sha256 of the
file; its checksum, which it holds itself (older ones do not), is of all that it says, so that nothing is read
otherwise than it was written.
"""

import contextlib
import hashlib
import io
import math
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from dreamdrive.utils import locks, ranks, runs, stages
from dreamdrive.utils.archive import Archive, Foreign, checksum
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import raise_if_unreadable, write_atomically
from dreamdrive.utils.locks import workplace
from dreamdrive.utils.words import did_you_mean, listed, quoted

SCHEMA = 1
# The module that knows what a checkpoint of each stage may hold, imported when the first one is read
SCHEMAS = "dreamdrive.data.stored"
CHECKSUM = "checksum"
SCRIPTS = {"vae": "trainvae.py", "mdrnn": "trainmdrnn.py", "ctrl": "traincontroller.py", "bc": "trainbc.py"}


def path(logdir: Path, stage: str, name: str = stages.BEST) -> Path:
    """Where a stage's checkpoint lives."""
    return runs.find(logdir) / stage / name


def save(target: Path, stage: str, config: dict, model: dict, parents: dict[str, str], **more) -> None:
    """Write a checkpoint of a stage; `more` holds tensors and plain values. UserError, and nothing written, where
    numbers in it are NaN or infinite."""
    write_atomically(target, packed(target, stage, config, model, parents, **more))


def packed(target: Path, stage: str, config: dict, model: dict, parents: dict[str, str], **more) -> bytes:
    """What `save` writes."""
    import torch

    about = {"stage": stages.kind_of(stage), "schema": SCHEMA, "config": config, "model": model, "parents": parents}
    content = _canonical({**about, **more})
    schemas = import_module(SCHEMAS)
    try:
        schemas.check_values(content)
    except schemas.Wrong as error:
        raise UserError(
            f"{target} was not written, it {error}: lower --learning-rate, or --sigma of a search, and run the same "
            "command again, which goes on from before"
        ) from None
    buffer = io.BytesIO()
    torch.save({**content, CHECKSUM: checksum(content)}, buffer)
    return buffer.getvalue()


def save_run(logdir: Path, contents: dict[str, bytes], flag: str) -> None:
    """Write best.tar of the stages of a new run. UserError, and nothing written, where one is there, unless it has the
    same content: of the same command, which was stopped. `flag` is the one that names `logdir`."""
    for stage in stages.folders(logdir):
        there = path(logdir, stage)
        if there.exists() and not (there.is_file() and there.read_bytes() == contents.get(stage)):
            raise UserError(f"{there} exists already: choose another {flag}")
    for stage, content in contents.items():
        with stage_folder(logdir, stage) as folder:
            write_atomically(folder / stages.BEST, content)


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
    return f"run `python {SCRIPTS[kind]} --logdir {quoted(source.parent.parent)}{flags}`"


def load(source: Path, stage: str) -> dict:
    """The checkpoint in `source`, its tensors on the CPU, with its "digest" added; UserError if it is missing, damaged,
    hostile or not what a checkpoint of `stage` is."""
    return _load(source, stage, (stages.kind_of(stage),))


def load_controller(source: Path) -> dict:
    """The same of a controller of either kind, which it says itself: "stage"."""
    folder = source.parent.name
    return _load(source, folder if stages.is_controller(folder) else "bc", stages.CONTROLLERS)


def _load(source: Path, stage: str, kinds: Sequence[str], resumed: bool = False) -> dict:
    """`resumed`: it must hold what a training goes on from."""
    make_it = remedy(source, stage)
    try:
        with open(source, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            try:
                return {**_read(Archive(file), kinds, resumed), "digest": digest}
            except _Other as error:
                raise UserError(f"{source} {error}: {make_it} --noreload, or {error.remedy}") from None
            except Foreign:
                raise UserError(
                    f"{source} holds objects other than tensors and plain values, so it was not loaded: "
                    f"get it from a source you trust, or {make_it} --noreload"
                ) from None
            except (UserError, MemoryError):
                raise
            except Exception as error:  # a damaged file can fail in any part of zipfile or of our reader
                raise_if_unreadable(source, error)
                reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
                raise UserError(f"{source} is damaged ({reason}): restore it, or {make_it} --noreload") from None
    except FileNotFoundError:
        raise missing(source, stage) from None
    except OSError as error:
        raise_if_unreadable(source, error)
        raise UserError(
            f"{source} cannot be read ({error.strerror}): mend its permissions, or {make_it} --noreload"
        ) from None


class _Other(Exception):
    """A file is sound, and not the checkpoint that is wanted."""

    def __init__(self, words: str, remedy: str) -> None:
        super().__init__(words)
        self.remedy = remedy


def _read(archive: Archive, kinds: Sequence[str], resumed: bool) -> dict[str, Any]:
    """The content of an archive that is a checkpoint of one of these kinds of stage."""
    content = archive.describe()
    found = content.get("stage") if isinstance(content, dict) else None
    if type(found) is not str or found not in kinds:
        wanted = listed((f'"{kind}"' for kind in kinds), "or")
        said = repr(found) if isinstance(found, (str, int, type(None))) else type(found).__name__
        raise _Other(
            f"is not a checkpoint of stage {wanted} (its stage is {said:.60})",
            "import it with `python -m data.exchange`",
        )
    if content.get("schema") != SCHEMA or type(content["schema"]) is not int:
        version = content.get("schema")
        said = repr(version) if isinstance(version, (str, int, type(None))) else type(version).__name__
        raise _Other(
            f"has schema version {said:.60}, this version of dreamdrive reads {SCHEMA}", "use the version that wrote it"
        )
    schemas = import_module(SCHEMAS)
    told = content.pop(CHECKSUM, None)
    try:
        schemas.check(content, found, resumed)
        values = archive.read(content)
        schemas.check_values(values)
    except schemas.Wrong as error:
        raise _Other(f'is not what a checkpoint of stage "{found}" is: it {error}', "get it again") from None
    if told is not None and told != checksum(values):
        raise ValueError("what it says does not match its checksum")
    return values


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
    checkpoint = _load(source, stage, (stages.kind_of(stage),), resumed=True)
    score = checkpoint.get("best")  # infinite before there is a best
    if score is not None and math.isfinite(score) and not best.exists():
        raise UserError(
            f"{best} is missing, the best that {source} came to: restore it, or {remedy(source, stage, ' --noreload')} "
            "to train it anew"
        )
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
    with workplace(folder, _busy(folder, stage)):
        for leftover in folder.rglob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        ranks.together()
        yield folder


def require_free(logdir: Path, stage: str) -> None:
    """UserError where another process is at work in the stage's folder; before anything that takes long. Of several
    ranks the first asks, which will be at work there itself."""
    if not ranks.first():
        return
    folder = Path(logdir) / stage
    locks.require_free(folder, _busy(folder, stage))


def _busy(folder: Path, stage: str) -> str:
    script = SCRIPTS[stages.kind_of(stage)]
    return f"another {script} is running in {folder}: wait for it, stop it, or use another --logdir"
