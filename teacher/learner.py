"""The clone that learns while it is taught: a gradient step for every new sample, in a thread of its own, and a
snapshot every so many steps."""

import math
import signal
import threading
import time
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch
from torch import nn

from dreamdrive.models.cloning import CLIP, CloneLoss, averaged
from dreamdrive.models.controller import Controller
from dreamdrive.models.policy import Policy
from dreamdrive.teacher.memory import FrameMemory, VectorMemory
from dreamdrive.utils import interrupts
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.resumed import load_optimizer, load_weights

SNAPSHOT = 100  # training steps
LEAST_SPREAD = 1e-4  # of observed numbers: less is taken for this
SMOOTH = 0.98  # of the loss that is shown
NICE = 0.002  # seconds a training step leaves to others, who have a picture to show


class Learner(threading.Thread):
    """Trains `model` on `memory`.

    Attributes:
        steps: of training so far        loss: of late, nan before the first
        newest: parameters (state_dict) of the last snapshot, which the next trial is driven by, and its number of steps
        failure: what ended it before its time
    """

    def __init__(
        self,
        model: Controller | Policy,
        memory: VectorMemory | FrameMemory,
        learning_rate: float,
        weight_decay: float,
        seed: int,
        batch: int,
        average: int,
        saved: dict | None,
        fresh: bool,
        keep: Callable[["Learner"], None],
    ) -> None:
        """`average`: training steps that the weights which drive are averaged over; `saved`: what `state` gave when it
            was kept; `fresh`: the model
        knows nothing, so its weights may as well be of scaled numbers, which are learnt from sooner; `keep` is called
        for every snapshot."""
        super().__init__(name="learner", daemon=True)
        self.model, self.memory, self._keep, self._batch, self._fresh = model, memory, keep, batch, fresh
        self._criterion = CloneLoss(model.space)
        self._optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay)
        self._scaled = isinstance(model, Controller) and model.config.features == "state"
        self._least = batch if self._scaled else 1  # samples to begin with
        numbers = model.width if isinstance(model, Controller) and self._scaled else 0
        self._mean, self._spread = torch.zeros(numbers), torch.ones(numbers)
        self.steps, self.loss, self._kept = 0, math.nan, bool(saved)
        self.failure: BaseException | None = None
        if saved:
            load_weights(model, saved["training"])
            load_optimizer(self._optimizer, saved["optimizer"])
            self.steps, self._mean, self._spread = saved["steps"], saved["mean"], saved["spread"]
        self._average = averaged(model, average)
        if saved and "average" in saved:
            load_weights(self._average, saved["average"])
        self._rng = np.random.default_rng([seed, self.steps])
        self.newest = (self.deployed().state_dict(), self.steps)
        self._news, self._ending = threading.Condition(), False

    def add(self, seen: np.ndarray, action: np.ndarray, learnt: bool, begins: bool) -> None:
        """A new sample, which must be on disk."""
        with self._news:
            self.memory.add(seen, action, learnt, begins)
            self._news.notify()

    @property
    def owed(self) -> int:
        """Training steps that samples have been given for and that are not done yet."""
        return len(self.memory) - self.steps if len(self.memory) >= self._least else 0

    def run(self) -> None:
        try:
            while True:
                with self._news:
                    self._news.wait_for(lambda: self._ending or self.owed > 0)
                    if self._ending:
                        return
                    if self._scaled and self._fresh and self.steps == 0:
                        self._mean, self._spread = self._measured()
                    batch = self.memory.batch(self._rng, self._batch)
                self._step(*batch)
                if self.steps % SNAPSHOT == 0:
                    self.snapshot()
                time.sleep(NICE)
        except BaseException as error:
            self.failure = error

    def finish(self, all_of_it: bool) -> None:
        """End the thread, after the training steps that are owed if `all_of_it` and nobody wants the machine back; then
        take a last snapshot."""
        while all_of_it and self.owed > 0 and self.is_alive() and interrupts.asked() in (None, signal.SIGINT):
            time.sleep(0.05)
        with self._news:
            self._ending = True
            self._news.notify()
        if self.is_alive():
            self.join()
        if self.failure is None and (not self._kept or self.newest[1] != self.steps):
            self.snapshot()

    def snapshot(self) -> None:
        """Make what has been learnt so far the newest, and have it kept. For numbers the scale is measured anew, so
        that training continues in units of their spread."""
        if self._scaled and len(self.memory):
            self._rescale()
        self.newest = (self.deployed().state_dict(), self.steps)
        self._keep(self)
        self._kept = True

    def state(self) -> dict:
        """All there is to resume from."""
        return {
            "training": self.model.state_dict(),
            "average": self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "steps": self.steps,
            "mean": self._mean,
            "spread": self._spread,
        }

    def deployed(self) -> Controller | Policy:
        """The average head, which acts on what it sees as it is: the scale has gone into its first layer."""
        plain = deepcopy(self._average.module)
        assert isinstance(plain, Controller | Policy), "it is the average of one"
        if self._scaled and isinstance(plain, Controller):
            first = plain.linears[0]
            weight = first.weight.data / self._spread
            first.bias.data -= weight @ self._mean
            first.weight.data = weight
        return plain

    def _rescale(self) -> None:
        """Measure mean and spread of all numbers seen; the heads still do the same."""
        mean, spread = self._mean, self._spread
        with self._news:
            self._mean, self._spread = self._measured()
        for head in (self.model, self._average.module):
            assert isinstance(head, Controller), "only these see numbers"
            layer = head.linears[0]
            raw = layer.weight.data / spread
            layer.bias.data += raw @ (self._mean - mean)
            layer.weight.data.copy_(raw * self._spread)

    def _measured(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and spread (S,) of all numbers seen."""
        assert isinstance(self.memory, VectorMemory), "of numbers"
        seen = torch.from_numpy(np.stack(self.memory.seen))
        return seen.mean(0), seen.std(0, unbiased=False).clamp_min(LEAST_SPREAD)

    def _step(self, *batch: torch.Tensor) -> None:
        self._criterion.train()
        if isinstance(self.model, Policy):
            frames, action, counts = batch
            outputs = self.model(frames, self.model.initial_state(len(frames)))[0][counts]
            action = action[counts]
        else:
            seen, action = batch
            seen = (seen - self._mean) / self._spread if self._scaled else seen
            outputs = self.model.outputs(
                *seen.split([self.model.config.latent, seen.shape[1] - self.model.config.latent], 1)
            )
        loss = self._criterion(outputs, action)
        if not math.isfinite(loss.item()):
            raise UserError(
                f"the loss became {loss.item()} at training step {self.steps}: lower --learning-rate and start again; "
                "all samples are kept"
            )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self._optimizer.step()
        self._average.update_parameters(self.model)
        self.steps += 1
        self.loss = loss.item() if math.isnan(self.loss) else SMOOTH * self.loss + (1 - SMOOTH) * loss.item()
