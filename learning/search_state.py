"""The state of pycma's search as tensors and plain values, so that it can be stored without pickles and is resumed
without repeating any arithmetic: that comes out differently with another number of threads."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dreamdrive.utils.errors import UserError

if TYPE_CHECKING:
    import cma  # which draws in matplotlib: seconds that no worker of ours should spend

# the objects, by their names in the search, that change from one generation to the next
PARTS = ("", "sm", "adapt_sigma", "sigma_vec", "fit")
# what they have from later on
LATER = (
    *("mean_old", "mean_old_old", "_sigma_old", "_isotropic_mean_shift", "_tell2_args", "pop", "pop_sorted"),
    *("_last_multiplier", "_last_z", "_indices_of_selective_mirrors", "_mueff", "_lam", "_parameters"),
)
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
    """Bring a search that has just been made with the same settings to where `save_search` was called. UserError where
    `state` is none that this search can go on from: its values become pycma's own, which looks at none of them."""
    es.ask()  # which makes what a search has from its first generation on
    if not hasattr(es.adapt_sigma, "cs"):  # of many weights, which the first `tell` makes
        es.adapt_sigma.initialize_base(es)
    try:
        _check(es, state)
        _restore(es, draw, state)
        if not (np.isfinite(es.mean).all() and 0 < es.sigma < np.inf):
            raise ValueError("its mean or its step size is not finite")
    except Exception as error:  # what is wrong shows anywhere in pycma
        raise not_possible(error) from None


def not_possible(error: Exception) -> UserError:
    """What is said of a search that cannot go on."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return UserError(
        f"the search in checkpoint.tar cannot go on ({reason}): restore that file, or start afresh with --noreload"
    )


def _restore(es: "cma.CMAEvolutionStrategy", draw: np.random.RandomState, state: dict) -> None:
    arrays: dict[int, np.ndarray] = {}
    for part, values in state["parts"].items():
        vars(_part(es, part)).update({name: _restored(value, arrays) for name, value in values.items()})
    kind, keys, *rest = state["draw"]
    draw.set_state((kind, keys.numpy().astype(np.uint32), *rest))


def _check(es: "cma.CMAEvolutionStrategy", state: dict) -> None:
    """ValueError where a stored value is of another kind or shape than the search's own is now."""
    if set(state["parts"]) != set(PARTS):
        raise ValueError(f"it has the parts {sorted(state['parts'])}")
    for part, values in state["parts"].items():
        own = vars(_part(es, part))
        for name, value in values.items():
            if name not in own and name not in LATER:
                raise ValueError(f"it has {name}, which a search has not")
            now = own.get(name)
            numbers = isinstance(now, (bool, int, float, np.number)) and not isinstance(value, (Tensor, list, dict))
            if name in own and now is not None and _storable(now) and not numbers:
                kinds = {np.ndarray: Tensor, range: list}
                if not isinstance(value, kinds.get(type(now), type(now))):
                    raise ValueError(f"its {name} is {type(value).__name__}")
                if isinstance(value, Tensor) and name != "scaling" and tuple(value.shape) != now.shape:
                    raise ValueError(f"its {name} is {tuple(value.shape)}, not {now.shape}")


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
