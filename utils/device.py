"""The device that --device names."""

import torch

from dreamdrive.utils.errors import UserError


def device(name: str) -> torch.device:
    """The torch device `name` stands for; UserError if this machine does not have it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--device {name} is not available on this machine ({reason}): use --device auto or --device cpu"
        ) from None
    return found
