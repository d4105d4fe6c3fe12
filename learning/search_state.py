"""The state of pycma's search as tensors and plain values, so that it can be stored without pickles and is resumed
without repeating any arithmetic: that comes out differently with another number of threads."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import cma  # which draws in matplotlib: seconds that no worker of ours should spend

# the objects, by their names in the search, that change from one generation to the next
PARTS = ("", "sm", "adapt_sigma", "sigma_vec", "fit")
PLAIN = (bool, int, float, type(None), np.generic, np.ndarray)


def save_search(es: "cma.CMAEvolutionStrategy", draw: np.random.RandomState) -> dict:
    """All that the generations after a `tell` follow from, `draw` being the source of its random numbers."""
    tensors: dict[int, Tensor] = {}  # by id: parts share arrays, and go on sharing them
    kind, keys, position, has_gauss, gauss = draw.get_state(legacy=True)
    drawn = [kind, torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, gauss]
    parts = {
        part: {name: _stored(value, tensors) for name, value in vars(_part(es, part)).items() if _storable(value)}
        for part in PARTS
    }
    return {"pycma": pycma_version(), "parts": parts, "draw": drawn}


def pycma_version() -> str:
    import cma

    return cma.__version__


def load_search(es: "cma.CMAEvolutionStrategy", draw: np.random.RandomState, state: dict) -> None:
    """Bring a search that has just been made with the same settings to where `save_search` was called."""
    es.ask()  # which makes what a search has from its first generation on
    arrays: dict[int, np.ndarray] = {}
    for part, values in state["parts"].items():
        vars(_part(es, part)).update({name: _restored(value, arrays) for name, value in values.items()})
    kind, keys, *rest = state["draw"]
    draw.set_state((kind, keys.numpy().astype(np.uint32), *rest))


def _part(es: "cma.CMAEvolutionStrategy", name: str) -> object:
    return getattr(es, name) if name else es


def _storable(value) -> bool:
    if type(value) in (list, dict):  # not one of pycma's own kinds of list
        return all(_storable(x) for x in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, (*PLAIN, range))


def _stored(value, tensors: dict[int, Tensor]):
    if isinstance(value, np.ndarray):
        return tensors.setdefault(id(value), torch.from_numpy(value.copy(order="K")))
    if isinstance(value, np.generic):  # NumPy's numbers and Python's are rounded by different functions
        return (value.dtype.name, value.item())
    if isinstance(value, dict):
        return {name: _stored(x, tensors) for name, x in value.items()}
    return [_stored(x, tensors) for x in value] if isinstance(value, (list, range)) else value


def _restored(value, arrays: dict[int, np.ndarray]):
    if isinstance(value, Tensor):
        return arrays.setdefault(value.data_ptr(), value.numpy())
    if isinstance(value, tuple):
        return np.dtype(value[0]).type(value[1])
    if isinstance(value, dict):
        return {name: _restored(x, arrays) for name, x in value.items()}
    return [_restored(x, arrays) for x in value] if isinstance(value, list) else value
