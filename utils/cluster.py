"""Workers on other machines: which Ray cluster they are on, and what of this machine's files they need.

Nothing of Ray is imported here: utils/ray_workers.py does that, in a process of its own, when a cluster is asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from dreamdrive.utils.errors import UserError

VERSION = "2.60.0"  # of Ray, whose nodes all must have the same
ALL = 1_000_000  # workers: as many as a cluster has cores


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this machine is a node of.

    Fields:
        address: "HOST:PORT" of its head, or "auto" for the one that this machine is in
        mixed: whether its nodes may differ in the last bit of what they compute
        gpu: share of a GPU that each worker asks for
    """

    address: str
    mixed: bool = False
    gpu: float = 0.0


@dataclass(frozen=True)
class Read:
    """Files that workers read: `files`, relative to `folder`, which arguments of their set-up call `name`."""

    name: str | Path
    folder: Path
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Carried:
    """What travels to workers on other machines and back.

    Fields:
        reads: what they read
        writes: the folder, an argument of their set-up, in which the files are that they write and return the paths of
    """

    reads: tuple[Read, ...] = ()
    writes: Path | None = None


def require_ray() -> None:
    """UserError unless Ray is installed, in the version that is tested; it is not imported."""
    from importlib import metadata  # takes a while, and few need it

    try:
        found = metadata.version("ray")
    except metadata.PackageNotFoundError:
        raise UserError(
            f"--ray needs the package ray {VERSION}, which is not installed: `pip install 'dreamdrive[ray]'` (or "
            f"`pip install ray=={VERSION}`), on every node"
        ) from None
    if found != VERSION:
        raise UserError(
            f"--ray needs ray {VERSION}, and {found} is installed: `pip install ray=={VERSION}`, on every node"
        )


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with `change` called on all that is in its tuples, lists, dicts and dataclasses."""
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        return type(value)(mapped(part, change) for part in value)
    if type(value) is dict:
        return {key: mapped(part, change) for key, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        parts = {
            f.name: (getattr(value, f.name), mapped(getattr(value, f.name), change)) for f in fields(value) if f.init
        }
        changed = {name: after for name, (before, after) in parts.items() if after is not before}
        return replace(value, **changed) if changed else value
    return change(value)
