"""Batches in which a row gives the same whatever is beside it, to the last bit (on a CPU with a given number of
threads)."""

import torch
from torch import Tensor

# Rows are a multiple of this in all that networks do for drivers: a smaller batch meets other kernels, which differ in
# the last bit. AVX2's are alike from 4 rows on; those of AVX-512 and AMX work on 16 rows at a time.
LANES = 4 if torch.backends.cpu.get_cpu_capability() == "AVX2" else 16


def filled(batch: Tensor) -> Tensor:
    """batch (B, ...) with its last row repeated up to a multiple of LANES."""
    return torch.cat([batch, batch[-1:].expand(-len(batch) % LANES, *batch.shape[1:])])
