"""A run small enough to hand on: every best.tar with its weights in half precision, without what training resumes
from. It drives, and dreams."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from dreamdrive.models.catalogue import WITHOUT_LATENTS
from dreamdrive.utils import checkpoint, stages
from dreamdrive.utils.errors import UserError


def export(logdir: Path, out: Path, chosen: Sequence[str] = ()) -> list[str]:
    """Write the run in `logdir` to `out` in half precision; returns the stages that were found. It is V, M and the
    controllers that were trained on them, or one that needs neither; of these all, or those that are `chosen`."""
    for one in chosen:
        checkpoint.require(logdir, one)
    found = [stage for stage in ("vae", "mdrnn") if checkpoint.path(logdir, stage).exists()]
    found += [stage for stage in stages.controllers(logdir) if stage in chosen or not chosen]
    if "vae" not in found and not (
        found and checkpoint.load_parent(logdir, found[0])["config"].get("features") in WITHOUT_LATENTS
    ):
        raise UserError(
            f"{checkpoint.path(logdir, 'vae')} is missing: give the --logdir of a run that has been trained"
        )
    theirs: dict[str, dict] = {}
    contents: dict[str, bytes] = {}
    ours: dict[str, str] = {}  # digests
    halves: dict[str, str] = {}  # their digests, by those of what they are halves of
    for stage in found:
        theirs[stage] = checkpoint.load_parent(logdir, stage)
        checkpoint.check_parents(
            theirs[stage],
            {name: theirs[name]["digest"] for name in theirs[stage]["parents"]},
            checkpoint.path(logdir, stage),
            stage,
        )
    for stage, saved in theirs.items():
        parents = {name: ours[name] for name in saved["parents"]}
        more = {
            name: _halved(value)
            for name, value in saved.items()
            if name not in ("stage", "schema", "config", "model", "parents", "digest")
        }
        if "init" in more:  # the clone that it began with
            more["init"] = halves.get(more["init"], more["init"])
        target, model = checkpoint.path(out, stage), _halved(saved["model"])
        contents[stage] = checkpoint.packed(target, stage, saved["config"], model, parents, **more)
        ours[stage] = halves[saved["digest"]] = hashlib.sha256(contents[stage]).hexdigest()
    checkpoint.save_run(out, contents, "--out")
    return found


def _halved(value):
    """`value` with every float tensor in it in half precision."""
    if isinstance(value, dict):
        return {name: _halved(part) for name, part in value.items()}
    return value.half() if isinstance(value, Tensor) and value.is_floating_point() else value
