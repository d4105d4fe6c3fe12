"""Supervised cloning: the loss, and passes over what an expert did, for heads on latents or numbers and for policies on
frames."""

import math
from collections.abc import Iterable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dreamdrive.models.controller import Controller
from dreamdrive.models.policy import Policy
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.passes import Pass
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.spaces import ActionSpace

CLIP = 1.0  # of the norm of the gradient of a network that remembers
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class Glimpse(Protocol):
    """Some frames of several episodes side by side.

    Fields:
        frames: uint8 (B, T, H, W, C)
        action: (B, T, A) the expert's, as `ActionSpace.vector` has it; known: (B, T) whether there is one
        begins: whether nothing is remembered from before them
    """

    frames: Tensor
    action: Tensor
    known: Tensor
    begins: bool


class CloneLoss(nn.Module):
    """What a head's outputs (B, A) cost against the expert's actions (B, A) as `ActionSpace.vector` has them, a mean
    over the batch.

    discrete: cross-entropy, with `smoothing` the share of the label that goes to all alike (Szegedy et al. 2016,
        section 7)
    squared: squared error, summed over components
    gaussian: negative log-likelihood of a normal distribution around the outputs whose spread is learnt, one for each
        component, the same everywhere: a component that can be told well then counts for more

    In training, the expert's numbers get noise of spread `noise` each time they are seen; when measuring, neither that
    nor smoothing.
    """

    def __init__(self, space: ActionSpace, kind: str = "squared", smoothing: float = 0.0, noise: float = 0.0) -> None:
        super().__init__()
        self.space, self.smoothing, self.noise = space, smoothing, noise
        gaussian = kind == "gaussian" and not space.discrete
        self.log_spread = nn.Parameter(torch.zeros(space.size)) if gaussian else None

    def forward(self, outputs: Tensor, action: Tensor) -> Tensor:
        if self.space.discrete:
            return F.cross_entropy(outputs, action, label_smoothing=self.smoothing if self.training else 0.0)
        if self.noise and self.training:
            action = action + self.noise * torch.randn_like(action)
        if self.log_spread is None:
            return (outputs - action).square().sum(1).mean()
        return (
            ((outputs - action).square() * (-2 * self.log_spread).exp() / 2 + self.log_spread + HALF_LOG_TAU)
            .sum(1)
            .mean()
        )


def averaged(model: nn.Module, steps: int) -> AveragedModel:
    """What keeps an average of the model's weights over some `steps` of training, exponentially weighted (Polyak and
    Juditsky 1992): from one step to the next a clone's closed loop gets better and worse by chance, its average does
    not."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / steps))


def learn(loss: Tensor, optimizer: torch.optim.Optimizer | None, number: int, bar: Bar, clip: float = math.inf) -> None:
    """A step of the optimizer, if there is one, the gradient's norm at most `clip`; UserError for a loss that is not
    finite."""
    if not math.isfinite(loss.item()):
        raise UserError(
            f"the loss became {loss.item()} in batch {number} of {bar.desc.removesuffix(': ')}: lower --learning-rate "
            "and run again"
        )
    if optimizer:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clip < math.inf:
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], clip)
        optimizer.step()


def run_epoch(
    model: Controller,
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    criterion: CloneLoss,
    optimizer: torch.optim.Optimizer | None,
    bar: Bar,
    average: AveragedModel | None = None,
    begun: Pass | None = None,
) -> dict[str, float]:
    """One pass over `batches` of z, h and action; trains with an optimizer, and keeps an average, if there is one, else
    measures. Means of the loss and, of discrete actions, the accuracy. `begun`: the pass to go on with."""
    begun = begun or Pass()
    where, mean = next(model.parameters()).device, begun.mean
    bar.update(int(mean.weight))
    criterion.train(optimizer is not None)
    for number, (z, h, action) in begun.of(batches):
        action = action.to(where)
        with torch.set_grad_enabled(optimizer is not None):
            outputs = model.outputs(z.to(where), h.to(where))
            loss = criterion(outputs, action)
        learn(loss, optimizer, number, bar)
        if average:
            average.update_parameters(model)
        mean.add({"loss": loss, **accuracy(outputs, action, criterion.space.discrete)}, len(action))
        bar.update(len(action))
    return mean.result()


def run_sequences(
    model: Policy,
    batches: Iterable[Glimpse],
    criterion: CloneLoss,
    optimizer: torch.optim.Optimizer | None,
    bar: Bar,
    average: AveragedModel | None = None,
    begun: Pass | None = None,
) -> dict[str, float]:
    """`run_epoch` for a policy on frames, which remembers what came before a batch, but is not trained to look back
    through it."""
    begun = begun or Pass()
    where, mean = model.head.weight.device, begun.mean
    bar.update(int(mean.weight))
    criterion.train(optimizer is not None)
    for number, glimpse in begun.of(batches):
        state = model.initial_state(len(glimpse.frames))
        if not (glimpse.begins or begun.carried is None):
            state = begun.carried_on(state)
        with torch.set_grad_enabled(optimizer is not None):
            outputs, state = model(glimpse.frames.to(where), state)
            begun.carried = state.detach()
            if not glimpse.known.any():
                continue
            known = glimpse.known.to(where)
            outputs, action = outputs[known], glimpse.action.to(where)[known]
            loss = criterion(outputs, action)
        learn(loss, optimizer, number, bar, CLIP)
        if average:
            average.update_parameters(model)
        mean.add({"loss": loss, **accuracy(outputs, action, criterion.space.discrete)}, len(action))
        bar.update(len(action))
        bar.set_postfix_str(f"loss {mean.result()['loss']:.3f}", refresh=False)
    return mean.result()


def accuracy(outputs: Tensor, action: Tensor, discrete: bool) -> dict[str, Tensor]:
    """The share of discrete actions (B, n) that the largest output hits."""
    return {"accuracy": (outputs.argmax(-1) == action.argmax(-1)).float().mean()} if discrete else {}
