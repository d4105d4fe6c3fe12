"""fp32 or bf16: which pays on this machine, and the context that selects it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # settings only want to know what there is to choose
    import torch
    from torch import nn

CHOICES = ("auto", "fp32", "bf16")
Model = TypeVar("Model", bound="nn.Module")


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware; elsewhere bf16 is emulated and many times slower than
    fp32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The autocast context of `--precision`: auto is bf16 where has_fast_bf16, else fp32."""
    import torch

    return torch.autocast(
        device.type, torch.bfloat16, enabled=precision == "bf16" or (precision == "auto" and has_fast_bf16(device))
    )


def channels_last(model: Model) -> Model:
    """`model` with its weights in the layout that convolutions are fastest in."""
    import torch

    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # which torch's stubs lack
