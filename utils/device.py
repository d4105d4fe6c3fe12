"""The device that --device names."""

import torch

from dreamdrive.utils import ranks
from dreamdrive.utils.errors import UserError


def device(name: str) -> torch.device:
    """The torch device `name` stands for, of several ranks that of this one; UserError if this machine does not have
    it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if not ranks.several():
            return torch.device(name)
    if ranks.several() and name.startswith("cuda"):
        return of_rank(name)
    try:
        found = torch.device(name)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--device {name} is not available on this machine ({reason}): use --device auto or --device cpu"
        ) from None
    return found


def of_rank(name: str) -> torch.device:
    """The GPU of this rank, each of those on a machine having its own."""
    if name != "cuda":
        raise UserError(f"--device {name} is one GPU, and each rank takes its own: give --device cuda")
    if ranks.local() >= torch.cuda.device_count():
        raise UserError(
            f"rank {ranks.number()} is number {ranks.local() + 1} of its machine, whose GPUs are "
            f"{torch.cuda.device_count()}: give torchrun not more --nproc-per-node, or --device cpu"
        )
    torch.cuda.set_device(ranks.local())
    return torch.device("cuda", ranks.local())
