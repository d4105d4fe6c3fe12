"""The simulator seeds of recording, model selection and evaluation: three ranges that never meet, so nothing is judged
on what it learnt from.

        0 ..   999,999   recording and training
1,000,000 .. 1,999,999   model selection: re-scoring, early stopping by return
2,000,000 and above      evaluation: `test_controller.py --seed k` uses 2,000,000 + 10,000 k onwards
"""

import random

import numpy as np
import torch

from dreamdrive.utils.errors import UserError

RANGE = 1_000_000
STRIDE = 10_000  # apart are the seeds of two values of --seed


def recording_seed(seed: int, i: int) -> int:
    """Simulator seed of recorded (or training) episode `i`."""
    return (seed * STRIDE + i) % RANGE


def selection_seeds(seed: int, n: int, round: int = 0) -> list[int]:
    """`n` simulator seeds to choose between models by; every round (generation, epoch) has fresh ones."""
    return [RANGE + (seed * STRIDE + round * n + k) % RANGE for k in range(n)]


def evaluation_seeds(seed: int, n: int) -> list[int]:
    """`n` simulator seeds for a score to report."""
    if n > STRIDE:
        raise UserError(f"{n} evaluation episodes were asked for and {STRIDE} are possible: choose fewer --episodes")
    return [2 * RANGE + STRIDE * seed + k for k in range(n)]


def seed_everything(*entropy: int) -> np.random.Generator:
    """Seed torch, random and NumPy from a tuple of integers such as (seed, stage, epoch); returns a NumPy generator of
    the same origin.

    A stage calls it at the start of every epoch, so that epoch k depends on (seed, k) alone and a resumed run equals an
    uninterrupted one.
    """
    sequence = np.random.SeedSequence([int(e) for e in entropy])
    first, second = (int(word) for word in sequence.generate_state(2))
    torch.manual_seed(first)
    np.random.seed(second)
    random.seed(first)
    return np.random.default_rng(sequence)
