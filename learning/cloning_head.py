"""The head that trainbc.py trains, with its loss, its optimizer and the average of its weights."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from dreamdrive.learning.cloning_settings import CloneSettings
from dreamdrive.models.cloning import CloneLoss, averaged, run_epoch, run_sequences
from dreamdrive.models.heads import make_head
from dreamdrive.models.policy import Policy
from dreamdrive.utils.device import device
from dreamdrive.utils.passes import Pass
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.resumed import load_optimizer, load_weights


class HeadTraining:
    """A head, and what trains it once that has begun, or been loaded.

    Attributes:
        model: the head, a Policy where it sees frames, else a Controller
        criterion: its loss
        optimizer: of both
        average: of the model's weights over some training steps; None where the last ones are what drives
    """

    def __init__(self, config: dict, args: CloneSettings, begun: dict | None = None) -> None:
        """`config`: the head's sizes, as checkpoints have them; its weights are drawn here, or are those of
        `begun`, the content of a checkpoint."""
        where = device(args.device)
        self._args = args
        self.model: Any = make_head(config).to(where)
        if begun:
            load_weights(self.model, begun["model"])
        self.criterion = CloneLoss(self.model.space, args.loss, args.label_smoothing, args.action_noise).to(where)
        self._run_epoch: Any = run_sequences if isinstance(self.model, Policy) else run_epoch

    def begin(self, averaged_steps: int) -> None:
        """Optimizer and average begin anew, at the weights that the model has. `averaged_steps`: training steps over
        which the weights that drive are averaged, 1 for the last ones as they are."""
        groups: list[dict[str, Any]] = [
            {"params": list(self.model.parameters())},
            {"params": list(self.criterion.parameters()), "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, self._args.learning_rate, weight_decay=self._args.weight_decay)
        self.average: AveragedModel | None = averaged(self.model, averaged_steps) if averaged_steps > 1 else None

    @property
    def driving(self) -> Any:
        """The head that drives: what is trained, or the average of its weights."""
        return self.average.module if self.average else self.model

    def set_rate(self, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:  # a resumed optimizer brings the rate of its last epoch
            group["lr"] = learning_rate

    def fit(self, batches: Iterable, bar: Bar, begun: Pass | None = None) -> dict[str, float]:
        """One pass of training over `batches`; means of loss and accuracy. `begun`: the pass to go on with."""
        return self._run_epoch(self.model, batches, self.criterion, self.optimizer, bar, self.average, begun)

    def measure(self, batches: Iterable, bar: Bar) -> dict[str, float]:
        """The same of the head that drives, which learns nothing."""
        return self._run_epoch(self.driving, batches, self.criterion, None, bar)

    def state_dict(self) -> dict:
        return {
            "model": self.model.state_dict(),
            "average": self.average and self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "criterion": self.criterion.state_dict(),
        }

    def load_state_dict(self, state: dict, averaged_steps: int) -> None:
        """Resume from the content of checkpoint.tar, but for the weight decay, which is that of the settings."""
        load_weights(self.model, state["model"])
        load_weights(self.criterion, state["criterion"])
        self.begin(averaged_steps)
        load_optimizer(self.optimizer, state["optimizer"])
        self.optimizer.param_groups[0]["weight_decay"] = self._args.weight_decay
        if self.average and state.get("average"):
            load_weights(self.average, state["average"])
