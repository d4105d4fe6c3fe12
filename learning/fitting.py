"""V or M while it is fitted by Adam (trainvae.py, trainmdrnn.py): how far that has come, what is kept after each epoch,
and how it is resumed."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from dreamdrive.data.loaders import origin_of, splits_of
from dreamdrive.data.shards import Dataset
from dreamdrive.models.world_model import Memory, Vision
from dreamdrive.utils import checkpoint, ranks
from dreamdrive.utils.metrics import line, write_csv
from dreamdrive.utils.plots import curves
from dreamdrive.utils.resumed import load_optimizer, load_scheduler, load_weights

ANNEALED_TO = 0.1  # of the learning rate


class Fit:
    """A model, and what trains it.

    Attributes:
        optimizer: Adam, whose learning rate is halved after some epochs without progress, unless it is annealed
        learner: what works out losses that the model learns by
        history: rows of metrics.csv
        best, best_epoch: lowest validation loss, and its epoch; 0 before there is one on the datasets of now
        began: the epochs that were over when training on the datasets and parents of now began
    """

    def __init__(
        self,
        stage: str,
        folder: Path,
        model: Vision | Memory,
        learning_rate: float,
        halved_after: int,
        about: dict,
        datasets: Sequence[Dataset],
        last: bool = False,
        decay: float = 0.0,
        panels: tuple[Sequence[tuple[str, ...]], str] = ((("loss", "val_loss"),), ""),
    ) -> None:
        """The model's weights are drawn here, as torch's seed says. `about`: what else its checkpoints say, before the
        epoch and the datasets. `last`: the last epoch is what is kept, not the best. `decay`: of the weights of layers
        (AdamW, Loshchilov & Hutter 2019, arXiv 1711.05101). `panels`: columns that are drawn beside each other, and
        what of."""
        self.last, self.annealed, self.panels = last, False, panels
        self.stage, self.folder, self.model, self.about = stage, folder, model, about
        self.origin, self.splits = origin_of(datasets), splits_of(datasets)
        self.datasets = self.origin["datasets"]
        model.load_state_dict(model.from_config(model.config_dict()).state_dict())
        self.optimizer = adam(model, learning_rate, decay)
        self.learner = Learner(model)
        self._scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, factor=0.5, patience=halved_after)
        self.history: list[dict] = []
        self.best, self.best_epoch, self.began = math.inf, 0, 0

    def resume(self, state: dict) -> None:
        """Continue from the content of checkpoint.tar."""
        load_weights(self.model, state["model"])
        load_optimizer(self.optimizer, state["optimizer"])
        load_scheduler(self._scheduler, state["scheduler"])
        self.history = state["history"]
        same_split = state.get("splits", self.splits) == self.splits
        if "dataset_digests" in state:  # wherever they are
            same_data = state["dataset_digests"] == self.origin["dataset_digests"]
        else:
            same_data = same_split and state["datasets"] == self.datasets
        if not same_split and state["datasets"] == self.datasets:
            print(
                f"the split of {', '.join(self.datasets)} has been changed: some of what this run has learnt from is "
                "for validation now, and its losses there flatter it; --noreload trains it afresh"
            )
        if same_data and state["parents"] == self.about["parents"]:
            self.best, self.best_epoch, self.began = state["best"], state["best_epoch"], state.get("began", 0)
        else:  # losses are of other data, or of fewer
            self.began = len(self.history)
        self.show()

    def described(self) -> dict:
        return self._common()

    def learnt(self) -> dict:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def learn_on(self, learnt: dict) -> None:
        load_weights(self.model, learnt["model"])
        load_optimizer(self.optimizer, learnt["optimizer"])

    def anneal(self, rate: float, epoch: int, last: int) -> None:
        """Set the learning rate of an epoch: `rate` in the first one on the datasets of now, and evenly less in each
        one after it, to ANNEALED_TO of that."""
        self.annealed = True
        gone = (epoch - 1 - self.began) / (last - self.began)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * (1 - (1 - ANNEALED_TO) * gone)

    def epochs(self, last: int, patience: int) -> Iterator[int]:
        """The epochs up to the `last` that are left; they end after `patience` of them without progress."""
        for epoch in range(len(self.history) + 1, last + 1):
            if self.best_epoch and epoch - self.best_epoch > patience and not self.annealed:
                print(f"no progress in {patience} epochs: stopped at epoch {epoch - 1}")
                return
            yield epoch

    def add(self, learnt: dict[str, float], measured: dict[str, float]) -> bool:
        """An epoch is over, with these losses in training and in validation; returns whether it is to be kept."""
        if not self.annealed:
            self._scheduler.step(measured["loss"])
        row = {"epoch": len(self.history) + 1, **learnt, **{f"val_{name}": loss for name, loss in measured.items()}}
        self.history.append({**row, "learning_rate": self.optimizer.param_groups[0]["lr"]})
        print(line(self.history[-1]))
        better = self.last or measured["loss"] < self.best
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
            began=self.began,
            splits=self.splits,
            history=self.history,
            **more,
            optimizer=self.optimizer.state_dict(),
            scheduler=self._scheduler.state_dict(),
        )
        self.show()

    def show(self) -> None:
        """Write metrics.csv and draw loss.png, also of what a killed process had no time left to show."""
        if ranks.first():
            write_csv(self.folder / "metrics.csv", self.history)
            if self.history:
                curves(self.folder / "loss.png", self.history, "epoch", *self.panels)

    def _common(self) -> dict:
        return {
            "kind": self.model.kind,
            "config": self.model.config_dict(),
            "model": self.model.state_dict(),
            **self.about,
            "epoch": len(self.history),
            **self.origin,
        }


def adam(model: torch.nn.Module, rate: float, decay: float) -> torch.optim.Adam:
    """Adam, with `decay` of the weights of layers: biases, normalisation and what is looked up keep their sizes."""
    if not decay:
        return torch.optim.Adam(model.parameters(), rate, fused=True)
    layers = {id(layer.weight) for layer in model.modules() if isinstance(layer, torch.nn.Linear)}
    decayed = [weight for weight in model.parameters() if id(weight) in layers]
    others = [weight for weight in model.parameters() if id(weight) not in layers]
    groups: list[dict] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, rate, weight_decay=decay, fused=True)


class Learner:
    """Calls what works out losses of a model; after `backward` the gradients are then, where there are ranks, the mean
    over all of them."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._parallel: torch.nn.Module | None = None

    def __call__(self, work: Callable[..., dict[str, Tensor]], *given: Any) -> dict[str, Tensor]:
        """What `work` gives of what it is given."""
        if not ranks.several():
            return work(*given)
        if self._parallel is None:
            # With it, gradients stay in the same order as in the first batch, and what is resumed has the same bytes.
            self._parallel = DistributedDataParallel(Working(self._model), find_unused_parameters=True)
        return self._parallel(work, *given)


class Working(torch.nn.Module):
    """What calls a function as if it were the model."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[..., dict[str, Tensor]], *given: Any) -> dict[str, Tensor]:
        return work(*given)
