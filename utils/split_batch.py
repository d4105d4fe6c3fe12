"""Batches that ranks (utils/ranks.py) share: each has its rows, one after another, so that N of them see in a batch of
B what one would. What is taken over a batch, as means and spreads of a normalisation, is taken over all rows; random
numbers are drawn for all of them by every rank, so that these stay the same whoever goes on.

    with split(len(batch)):
        objective, losses, weight = shared(model.loss(own(batch)), len(own(batch)))

A batch of fewer rows than ranks is everybody's: all do the same with it. Outside of `split`, and without ranks, every
function gives back what it was given.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dreamdrive.utils import ranks

_cuts: list[int] | None = None  # where the rows of each rank begin, and the end; None where all have all of them


@contextlib.contextmanager
def split(rows: int) -> Iterator[None]:
    """The batch of now has so many rows."""
    global _cuts
    count = ranks.count()
    _cuts = [rank * rows // count for rank in range(count + 1)] if count > 1 and rows >= count else None
    try:
        yield
    finally:
        _cuts = None


def own(rows: Tensor) -> Tensor:
    """This rank's of (B, ...)."""
    return rows if _cuts is None else rows[_cuts[ranks.number()] : _cuts[ranks.number() + 1]]


def whole(rows: Tensor) -> Tensor:
    """All rows (B, ...) of this rank's; gradients come back to where they came from."""
    return rows if _cuts is None else _Whole.apply(rows, _cuts)


def drawn(draw: Callable[..., Tensor], shape: Sequence[int], **how: Any) -> Tensor:
    """Random numbers of this rank's rows, of those that `draw` has for all; shape (rows, ...) is of its own."""
    if _cuts is None:
        return draw(tuple(shape), **how)
    return own(draw((_cuts[-1], *shape[1:]), **how))


def averaged(mean: Tensor) -> Tensor:
    """The mean over all rows, of that over this rank's."""
    return mean if _cuts is None else total(share(mean))


def total(values: Tensor) -> Tensor:
    """The sum over ranks."""
    if _cuts is None:
        return values
    values = values.detach().clone()
    dist.all_reduce(values)
    return values


def share(values: Tensor) -> Tensor:
    """So much of it as this rank has of the rows."""
    if _cuts is None:
        return values
    return values * ((_cuts[ranks.number() + 1] - _cuts[ranks.number()]) / _cuts[-1])


def shared(losses: dict[str, Tensor], weight: float) -> tuple[Tensor, dict[str, Any], float]:
    """Losses, each a mean over things of which this rank has `weight`: what is to be minimised here, so that the mean
    of its gradients over ranks is that of all things' mean; and losses and weight of all of them."""
    if not ranks.several():
        return losses["loss"], {name: loss.detach() for name, loss in losses.items()}, weight
    summed = torch.tensor([weight, *(weight * loss.item() for loss in losses.values())], dtype=torch.float64)
    dist.all_reduce(summed)
    weights, *values = summed.tolist()
    objective = losses["loss"] * (weight * ranks.count() / weights)
    means = {name: value / weights for name, value in zip(losses, values, strict=True)}
    return objective, means, weights / (ranks.count() if _cuts is None else 1)


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, cuts: list[int]) -> Tensor:
        ctx.cuts = cuts
        sizes = [end - begin for begin, end in zip(cuts, cuts[1:], strict=False)]
        # all send as much as the one that has most
        sent = rows.new_zeros(max(sizes), *rows.shape[1:])
        sent[: len(rows)] = rows
        found = [torch.empty_like(sent) for _ in sizes]
        dist.all_gather(found, sent)
        return torch.cat([part[:size] for part, size in zip(found, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        return gradient[ctx.cuts[ranks.number()] : ctx.cuts[ranks.number() + 1]], None
