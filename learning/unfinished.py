"""An epoch, or a generation, that a signal stopped: what there was of it is kept beside checkpoint.tar, and the same
command goes on in the middle of it, to the same bytes.

exp_dir/<stage>/stopped.tar   removed when the epoch is over; left alone where settings, data or the epochs before it
                              are others: the epoch then begins again
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from dreamdrive.driving.evaluation import Evaluator
from dreamdrive.utils import checkpoint, interrupts, ranks
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.passes import WRONG, Pass, Useless
from dreamdrive.utils.settings import Training

FILE = "stopped.tar"
# settings that no epoch depends on
APART = {
    *("command", "logdir", "name", "dataset", "noreload", "adopt", "track", "patience", "max_workers", "display"),
    *("nosamples", "ray", "mixed_nodes", "gpu_share"),
}


class Learning(Protocol):
    """What learns in a stage.

    Attributes:
        folder: the stage's        history: rows of the epochs that are over        best: score or loss of best.tar
    """

    folder: Path
    history: list[dict]

    @property
    def best(self) -> float: ...

    def described(self) -> dict:
        """What its checkpoints say: config, model, parents, and of what data it is."""

    def learnt(self) -> dict:
        """All that an epoch changes: tensors and plain values."""

    def learn_on(self, learnt: dict) -> None:
        """Continue from there."""


class Unfinished:
    """The epoch of a stage that is not over, and its file."""

    def __init__(self, kind: str, learning: Learning, args: Training, evaluator: Evaluator | None = None) -> None:
        """`kind`: of the stage. `evaluator`: what drives in its epochs, whose episodes are kept, too."""
        self._kind, self._learning, self._evaluator = kind, learning, evaluator
        self._path = learning.folder / FILE
        self._settings = {name: value for name, value in args.recorded().items() if name not in APART}
        if args.noreload and ranks.first():
            self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def epoch(self) -> Iterator[Pass]:
        """The epoch after those of the history: the pass to go on with. A signal waits until a batch is over; where
        others work it does not."""
        number, begun = len(self._learning.history), self._resumed()
        if self._evaluator is not None:
            self._evaluator.driven.clear()
        try:
            with interrupts.put_off():
                yield begun
        except Useless as error:
            raise self._useless(error) from None
        except KeyboardInterrupt as stop:
            whole = begun.used and (begun.over or isinstance(stop, interrupts.Stopped))
            if len(self._learning.history) == number and (whole or self._driven()):
                self._keep(begun if whole else None)
            raise
        if ranks.first():
            self._path.unlink(missing_ok=True)

    def _driven(self) -> dict[str, Any]:
        return self._evaluator.driven if self._evaluator is not None else {}

    def _about(self) -> str:
        """What must be the same to go on."""
        said = self._learning.described()
        same = {name: said.get(name) for name in ("config", "parents", "dataset_digests")}
        return json.dumps([self._settings, same, self._learning.history], sort_keys=True, default=str)

    def _keep(self, begun: Pass | None) -> None:
        if not ranks.first():
            ranks.together()
            return
        learnt = {"learnt": self._learning.learnt(), "pass": begun.state()} if begun else {}
        said = {**self._learning.described(), "history": self._learning.history, "best": self._learning.best}
        checkpoint.save(self._path, self._kind, **said, about=self._about(), driven=self._driven(), **learnt)
        print(f"{self._path}: what there is of this epoch", flush=True)
        ranks.together()

    def _resumed(self) -> Pass:
        """The pass to go on with, and what is learnt where it stands; a new one where there is none."""
        there = ranks.of_first(self._there)
        if there is None:
            return Pass()
        try:
            if there.get("about") != self._about():
                return Pass()
            if self._evaluator is not None:
                self._evaluator.known.update(there["driven"])
            if "pass" not in there:
                return Pass()
            require_alike(there["learnt"], self._learning.learnt())
            self._learning.learn_on(there["learnt"])
            return Pass(there["pass"])
        except WRONG as error:
            raise self._useless(error) from None

    def _there(self) -> dict | None:
        """What the file holds."""
        try:
            return checkpoint.load(self._path, self._kind) if self._path.exists() else None
        except UserError as error:
            raise self._useless(error) from None

    def _useless(self, error: Exception) -> UserError:
        return UserError(
            f"{self._path} cannot be gone on from ({(str(error) or type(error).__name__).splitlines()[0]}): delete it, "
            "and the epoch that was stopped begins again"
        )


def require_alike(saved: Any, ours: Any, where: str = "learnt") -> None:
    """ValueError unless what was `saved` has the parts, shapes and kinds that `ours` has; but for the state of an
    optimizer that has done nothing yet."""
    if isinstance(ours, torch.Tensor):
        if not isinstance(saved, torch.Tensor) or (saved.shape, saved.dtype) != (ours.shape, ours.dtype):
            raise ValueError(f"{where} has another shape than now")
    elif isinstance(ours, dict):
        if not isinstance(saved, dict) or (set(saved) != set(ours) and where.rpartition(".")[2] != "state"):
            raise ValueError(f"{where} has other parts than now")
        for name in ours.keys() & saved.keys():
            require_alike(saved[name], ours[name], f"{where}.{name}")
    elif isinstance(ours, (list, tuple)) and (not isinstance(saved, type(ours)) or len(saved) != len(ours)):
        raise ValueError(f"{where} has another length than now")
