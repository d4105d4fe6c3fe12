"""Small checkpoints that are true: what the stages write, of models that nobody has trained."""

import hashlib
from collections.abc import Collection
from functools import cache
from pathlib import Path

import torch

from dreamdrive.benchmarks.every_kind import controlled, fitted, heads
from dreamdrive.models.catalogue import KINDS
from dreamdrive.utils import checkpoint, stages


@cache
def _content(kind: str) -> dict:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = fitted(kind, next(iter(KINDS[kind]))) if kind in KINDS else controlled("linear", heads()["linear"])
        return next(content for name, content in made if name == stages.BEST and content["stage"] == kind)


def world(**changes) -> dict:
    """The one that V and the clone are of, but for `changes`."""
    return {**_content("vae")["world"], **changes}


def write_checkpoint(logdir: Path, stage: str, without: Collection[str] = (), **changes) -> str:
    """best.tar of a stage, with `changes` and `without` what an older version did not write; gives its digest."""
    content = {**_content(stages.kind_of(stage)), **changes}
    left = {name: value for name, value in content.items() if name not in ("stage", "schema", *without)}
    target = logdir / stage / stages.BEST
    target.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(target, stage, **left)
    return hashlib.sha256(target.read_bytes()).hexdigest()
