"""V or M while it is fitted by Adam (trainvae.py, trainmdrnn.py): how far that has come, what is kept after each epoch,
and how it is resumed."""

import math
from collections.abc import Iterator
from pathlib import Path

import torch

from dreamdrive.models.world_model import Memory, Vision
from dreamdrive.utils import checkpoint
from dreamdrive.utils.metrics import line, write_csv


class Fit:
    """A model, and what trains it.

    Attributes:
        optimizer: Adam, whose learning rate is halved after some epochs without progress
        history: rows of metrics.csv
        best, best_epoch: lowest validation loss, and its epoch; 0 before there is one
    """

    def __init__(
        self,
        stage: str,
        folder: Path,
        model: Vision | Memory,
        learning_rate: float,
        halved_after: int,
        about: dict,
        datasets: list[str],
    ) -> None:
        """The model's weights are drawn here, as torch's seed says. `about`: what else its checkpoints say, before the
        epoch and the datasets."""
        self.stage, self.folder, self.model, self.about, self.datasets = stage, folder, model, about, datasets
        model.load_state_dict(model.from_config(model.config_dict()).state_dict())
        self.optimizer = torch.optim.Adam(model.parameters(), learning_rate, fused=True)
        self._scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, factor=0.5, patience=halved_after)
        self.history: list[dict] = []
        self.best, self.best_epoch = math.inf, 0

    def resume(self, state: dict) -> None:
        """Continue from the content of checkpoint.tar."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])
        self.history, self.best, self.best_epoch = state["history"], state["best"], state["best_epoch"]

    def epochs(self, last: int, patience: int) -> Iterator[int]:
        """The epochs up to the `last` that are left; they end after `patience` of them without progress."""
        for epoch in range(len(self.history) + 1, last + 1):
            if self.best_epoch and epoch - self.best_epoch > patience:
                print(f"no progress in {patience} epochs: stopped at epoch {epoch - 1}")
                return
            yield epoch

    def add(self, learnt: dict[str, float], measured: dict[str, float]) -> bool:
        """An epoch is over, with these losses in training and in validation; returns whether it is the best."""
        self._scheduler.step(measured["loss"])
        row = {"epoch": len(self.history) + 1, **learnt, **{f"val_{name}": loss for name, loss in measured.items()}}
        self.history.append({**row, "learning_rate": self.optimizer.param_groups[0]["lr"]})
        print(line(self.history[-1]))
        better = measured["loss"] < self.best
        if better:
            self.best, self.best_epoch = measured["loss"], len(self.history)
        return better

    def keep_best(self, **more) -> None:
        """Write best.tar, with `more` in it."""
        checkpoint.save(self.folder / "best.tar", self.stage, **self._common(), best=self.best, **more)

    def keep(self, **more) -> None:
        """Write checkpoint.tar, with `more` in it, and metrics.csv."""
        checkpoint.save(
            self.folder / "checkpoint.tar",
            self.stage,
            **self._common(),
            best=self.best,
            best_epoch=self.best_epoch,
            history=self.history,
            **more,
            optimizer=self.optimizer.state_dict(),
            scheduler=self._scheduler.state_dict(),
        )
        write_csv(self.folder / "metrics.csv", self.history)

    def _common(self) -> dict:
        return {
            "kind": self.model.kind,
            "config": self.model.config_dict(),
            "model": self.model.state_dict(),
            **self.about,
            "epoch": len(self.history),
            "datasets": self.datasets,
        }
