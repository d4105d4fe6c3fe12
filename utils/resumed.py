"""What a training goes on from, given to torch's optimizers and schedulers, which believe all that they are told."""

import math
from typing import Any

import torch
from torch import Tensor

from dreamdrive.utils.errors import UserError

INFINITE = ("best", "mode_worse")  # of a scheduler, before there is a first loss


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Give an Adam the state that one of the same parameters had. UserError where a moment has not the shape of its
    parameter, beyond which torch would write."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    if [len(group["params"]) for group in state["param_groups"]] != sizes:
        raise UserError(f"{OTHERS} ({sizes} parameters in its groups); {REMEDY}")
    for index, moments in state["state"].items():
        wanted = tuple(parameters[index].shape)
        for name in ("exp_avg", "exp_avg_sq"):
            if tuple(moments[name].shape) != wanted:
                raise UserError(f"{OTHERS} ({name} {index} is {tuple(moments[name].shape)}, not {wanted}); {REMEDY}")
        if moments["exp_avg_sq"].numel() and float(moments["exp_avg_sq"].min()) < 0:
            raise UserError(f"{OTHERS} (a mean square below 0); {REMEDY}")
    optimizer.load_state_dict(state)


OTHERS = "the optimizer's state in checkpoint.tar is of another model"
REMEDY = "restore that file, or start afresh with --noreload"


def load_scheduler(scheduler: Any, state: dict) -> None:
    """Give a learning rate's scheduler the state that one like it had. UserError where it has other parts, which would
    become attributes of it."""
    for name, own in scheduler.state_dict().items():
        if name not in state or not _alike(name, state[name], own):
            found = f"{state.get(name)!r:.60} as {name}, where one has {own!r}"
            raise UserError(f"the scheduler's state in checkpoint.tar has {found}; {REMEDY}")
    if set(state) - set(scheduler.state_dict()):
        raise UserError(f"the scheduler's state in checkpoint.tar has parts that no scheduler has; {REMEDY}")
    scheduler.load_state_dict(state)


def _alike(name: str, value: Any, own: Any) -> bool:
    if isinstance(own, str):
        return value == own
    if isinstance(own, (list, tuple)):
        return isinstance(value, (list, tuple)) and len(value) == len(own) and all(_alike(name, v, 0.0) for v in value)
    number = type(value) in (int, float) and (math.isfinite(value) or (name in INFINITE and value > 0))
    return number or (value is None and own is None)


def load_random_state(state: Tensor) -> None:
    """Give torch's own generator a state that it had; UserError where that is none."""
    try:
        torch.set_rng_state(state)
    except (RuntimeError, TypeError):
        raise UserError(f"the random numbers' state in checkpoint.tar is none; {REMEDY}") from None


def load_weights(model: torch.nn.Module, state: dict) -> None:
    """Give a model the weights that one of the same sizes had; UserError where they are of other sizes."""
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the weights in checkpoint.tar are of another model ({reason}); {REMEDY}") from None
