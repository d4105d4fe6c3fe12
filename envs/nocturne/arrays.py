"""What is written once for NumPy's arrays, whose small operations cost a third of torch's, and for torch's tensors on a
GPU: functions that the two call by different names, or round differently.

Where the two have a function of one name and the same first arguments, `names(array)` is its module. Sine, cosine,
arc tangent and length are torch's in either case, so that what is computed does not depend on who computes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = Any  # an array of NumPy's on the CPU, or a tensor elsewhere

MANY = 500  # numbers of which a remainder, a division each, takes longer than a few simpler operations


def array(tensor: Tensor) -> Array:
    """What to compute with: the same memory."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def tensor(array: Array) -> Tensor:
    """The tensor that an array is."""
    return torch.from_numpy(array) if isinstance(array, np.ndarray) else array


def names(array: Array) -> Any:
    """numpy or torch."""
    return np if isinstance(array, np.ndarray) else torch


def quiet() -> AbstractContextManager:
    """Where a division by zero is an infinity without a word, as torch has it."""
    return np.errstate(divide="ignore", invalid="ignore")


def _torchs(function: Callable[..., Tensor]) -> Callable[..., Array]:
    def called(*arrays: Array) -> Array:
        if isinstance(arrays[0], np.ndarray):
            return function(*map(torch.from_numpy, arrays)).numpy()
        return function(*arrays)

    return called


cos, sin, atan2 = _torchs(torch.cos), _torchs(torch.sin), _torchs(torch.atan2)
length_of = _torchs(lambda a: torch.linalg.vector_norm(a, dim=-1))


def double(array: Array) -> Array:
    return array.astype(np.float64) if isinstance(array, np.ndarray) else array.double()


def single(array: Array) -> Array:
    return array.astype(np.float32) if isinstance(array, np.ndarray) else array.float()


def whole(array: Array) -> Array:
    """int64."""
    return array.astype(np.int64) if isinstance(array, np.ndarray) else array.long()


def like(values: Any, array: Array) -> Array:
    """Numbers as float64, where `array` is."""
    if isinstance(array, np.ndarray):
        return np.asarray(values, np.float64)
    return torch.as_tensor(values, dtype=torch.float64, device=array.device)


def count_up(number: int, array: Array) -> Array:
    """(number,) int64: 0, 1, ..."""
    return np.arange(number) if isinstance(array, np.ndarray) else torch.arange(number, device=array.device)


def zeros(shape: tuple[int, ...], array: Array) -> Array:
    """Bools, all False."""
    return (
        np.zeros(shape, bool)
        if isinstance(array, np.ndarray)
        else torch.zeros(shape, dtype=torch.bool, device=array.device)
    )


def ends(array: Array) -> tuple[Array, Array]:
    """The least and the largest along the last dimension."""
    return (array.min(-1), array.max(-1)) if isinstance(array, np.ndarray) else (array.amin(-1), array.amax(-1))


def true(array: Array) -> tuple[Array, ...]:
    """Where it is: int64, one (n,) a dimension, ascending."""
    return array.nonzero() if isinstance(array, np.ndarray) else array.nonzero(as_tuple=True)


def rows(array: Array, index: Array) -> Array:
    """array[index] for indices (n,) of the first dimension, faster."""
    return array.take(index, 0) if isinstance(array, np.ndarray) else array.index_select(0, index)


def repeated(count: Array) -> Array:
    """(sum of count,) int64: 0 count[0] times, 1 count[1] times, ..."""
    return np.arange(len(count)).repeat(count) if isinstance(count, np.ndarray) else torch.repeat_interleave(count)


def runs(first: Array, count: Array) -> Array:
    """(sum of count,) int64: first[0], first[0] + 1, ... count[0] of them, and so on."""
    number = repeated(count)
    return count_up(len(number), count) + (first - (names(count).cumsum(count, 0) - count))[number]


def least(number: Array, values: Array, most: int) -> Array:
    """(most,) float64: the least of the values (n,) of each number (n,); infinity where there is none."""
    if isinstance(values, np.ndarray):
        lowest = np.full(most, np.inf)
        np.minimum.at(lowest, number, values)
        return lowest
    found = torch.full((most,), torch.inf, dtype=values.dtype, device=values.device)
    return found.scatter_reduce(0, number, values, "amin")


def grouped(number: Array, most: int) -> Array:
    """The places of numbers (n,) below `most` in ascending order, equal ones in theirs."""
    if isinstance(number, np.ndarray) and most <= 1 << 16:
        number = number.astype(np.uint16)  # NumPy sorts these in one pass
    return names(number).argsort(number, stable=True)


def wrap(angle: Array) -> Array:
    """simulator.wrap."""
    if isinstance(angle, np.ndarray) and angle.size > MANY:
        turned = angle + np.pi
        if turned.min() >= -2 * np.pi and turned.max() < 4 * np.pi:  # where adding or taking a turn is exact
            turned += 2 * np.pi * (turned < 0)
            turned -= 2 * np.pi * (turned >= 2 * np.pi)
            return turned - np.pi
    return names(angle).remainder(angle + np.pi, 2 * np.pi) - np.pi
