"""Supervised cloning: the loss, and passes over what an expert did, for heads on latents or numbers and for policies on frames."""

import math
from collections.abc import Iterable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from models.controller import Controller
from models.policy import Policy
from utils.errors import UserError
from utils.metrics import Mean

CLIP = 1.0  # of the norm of the gradient of a network that remembers


class Glimpse(Protocol):
    """Some frames of several episodes side by side.

    Fields:
        frames: uint8 (B, T, H, W, C)
        action: (B, T, A) the expert's, as `action_vector` has it; known: (B, T) whether there is one
        begins: whether nothing is remembered from before them
    """

    frames: Tensor
    action: Tensor
    known: Tensor
    begins: bool


def clone_loss(outputs: Tensor, action: Tensor, discrete: bool, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of a one-hot action (B, n), or squared error summed over a box's components (B, A); a mean over the batch."""
    if discrete:
        return F.cross_entropy(outputs, action, label_smoothing=smoothing)
    return (outputs - action).square().sum(1).mean()


def learn(loss: Tensor, optimizer: torch.optim.Optimizer | None, number: int, bar: tqdm, clip: float = math.inf) -> None:
    """A step of the optimizer, if there is one, the gradient's norm at most `clip`; UserError for a loss that is not finite."""
    if not math.isfinite(loss.item()):
        raise UserError(f"the loss became {loss.item()} in batch {number} of {bar.desc}: lower --learning-rate and run again")
    if optimizer:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clip < math.inf:
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], clip)
        optimizer.step()


def run_epoch(model: Controller, batches: Iterable[tuple[Tensor, Tensor, Tensor]], optimizer: torch.optim.Optimizer | None, bar: tqdm,
              smoothing: float = 0.0) -> dict[str, float]:
    """One pass over `batches` of z, h and action; trains with an optimizer, else measures. Means of the loss and, of discrete actions, the accuracy."""
    where, mean = next(model.parameters()).device, Mean()
    discrete = model.config.action_space["type"] == "discrete"
    for number, (z, h, action) in enumerate(batches):
        action = action.to(where)
        with torch.set_grad_enabled(optimizer is not None):
            outputs = model.outputs(z.to(where), h.to(where))
            loss = clone_loss(outputs, action, discrete, smoothing if optimizer else 0.0)
        learn(loss, optimizer, number, bar)
        mean.add({"loss": loss, **accuracy(outputs, action, discrete)}, len(action))
        bar.update(len(action))
    return mean.result()


def run_sequences(model: Policy, batches: Iterable[Glimpse], optimizer: torch.optim.Optimizer | None, bar: tqdm, smoothing: float = 0.0) -> dict[str, float]:
    """`run_epoch` for a policy on frames, which remembers what came before a batch, but is not trained to look back through it."""
    where, mean, state = model.head.weight.device, Mean(), None
    discrete = model.config.action_space["type"] == "discrete"
    for number, glimpse in enumerate(batches):
        state = model.initial_state(len(glimpse.frames)) if glimpse.begins else state.detach()
        if not glimpse.known.any():
            continue
        with torch.set_grad_enabled(optimizer is not None):
            outputs, state = model(glimpse.frames.to(where), state)
            known = glimpse.known.to(where)
            outputs, action = outputs[known], glimpse.action.to(where)[known]
            loss = clone_loss(outputs, action, discrete, smoothing if optimizer else 0.0)
        learn(loss, optimizer, number, bar, CLIP)
        mean.add({"loss": loss, **accuracy(outputs, action, discrete)}, len(action))
        bar.update(len(action))
        bar.set_postfix_str(f"loss {mean.result()['loss']:.3f}", refresh=False)
    return mean.result()


def accuracy(outputs: Tensor, action: Tensor, discrete: bool) -> dict[str, Tensor]:
    """The share of discrete actions (B, n) that the largest output hits."""
    return {"accuracy": (outputs.argmax(-1) == action.argmax(-1)).float().mean()} if discrete else {}
