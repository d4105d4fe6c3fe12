"""The simulator seeds of recording, model selection and evaluation, which never meet, so that nothing is judged on what
it learnt from; nor do those of two values of --seed.

            0 ..       999,999   recording and training: --seed k has 10,000 k onwards
    1,000,000 ..     1,999,999   model selection (re-scoring, early stopping by return): likewise
    2,000,000 .. 1,073,741,823   evaluation: `test_controller.py --seed k` uses 2,000,000 + 10,000 k onwards
1,073,741,824 .. 1,573,741,823   recording and training beyond 10,000 episodes of a --seed
1,573,741,824 .. 2,073,741,823   model selection beyond 10,000
"""

import random
from typing import TYPE_CHECKING

from dreamdrive.utils import ranks
from dreamdrive.utils.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

    Generator = np.random.Generator | torch.Generator

RANGE = 1_000_000
STRIDE = 10_000  # apart are the seeds of two values of --seed
SEEDS = RANGE // STRIDE  # values of --seed that recording and selection know
LATE = 1 << 30  # from here on are the episodes of recording and selection that have no place in their RANGE
MOST = 5_000_000  # episodes of one --seed, whose simulator seeds stay below 2^31


def require_seeds(seed: int, episodes: int) -> None:
    """UserError unless recording, and selection, have so many simulator seeds for this --seed."""
    if not 0 <= seed < SEEDS:
        raise UserError(
            f"--seed {seed} is not possible where a simulator is driven: its simulator seeds are those of another; "
            f"choose one from 0 to {SEEDS - 1}"
        )
    if episodes > MOST:
        raise UserError(f"{episodes} episodes were asked for and a --seed has simulator seeds for {MOST}: choose fewer")


def recording_seed(seed: int, i: int) -> int:
    """Simulator seed of recorded (or training) episode `i`."""
    return _own(0, seed, i)


def selection_seeds(seed: int, n: int, round: int = 0) -> list[int]:
    """`n` simulator seeds to choose between models by; every round (generation, epoch) has fresh ones."""
    return [_own(1, seed, round * n + k) for k in range(n)]


def evaluation_seeds(seed: int, n: int) -> list[int]:
    """`n` simulator seeds for a score to report."""
    if n > STRIDE:
        raise UserError(f"{n} evaluation episodes were asked for and {STRIDE} are possible: choose fewer --episodes")
    most = (LATE - 2 * RANGE) // STRIDE
    if not 0 <= seed < most:
        raise UserError(f"--seed {seed} is not possible: choose one from 0 to {most - 1}")
    return [2 * RANGE + STRIDE * seed + k for k in range(n)]


def use_and_number(seed: int) -> tuple[int, int]:
    """What a simulator seed is for (0 recording, 1 selection, 2 evaluation), and its number there: the episodes of one
    --seed have consecutive ones."""
    if seed < LATE:
        return min(seed // RANGE, 2), seed % RANGE
    use, rest = divmod(seed - LATE, SEEDS * MOST)
    return use, STRIDE * (rest // MOST) + rest % MOST


def _own(use: int, seed: int, i: int) -> int:
    """Simulator seed number `i` that --seed `seed` has for recording (0) or selection (1)."""
    require_seeds(seed, i + 1)
    if i < STRIDE:
        return use * RANGE + seed * STRIDE + i
    return LATE + use * SEEDS * MOST + seed * MOST + i


def seed_everything(*entropy: int) -> "np.random.Generator":
    """Seed torch, random and NumPy from a tuple of integers such as (seed, stage, epoch); returns a NumPy generator of
    the same origin.

    A stage calls it at the start of every epoch, so that epoch k depends on (seed, k) alone and a resumed run equals an
    uninterrupted one.
    """
    import numpy as np  # the other functions know seeds without them
    import torch

    sequence = np.random.SeedSequence([int(e) for e in entropy])
    first, second = (int(word) for word in sequence.generate_state(2))
    torch.manual_seed(first)
    np.random.seed(second)
    random.seed(first)
    return np.random.default_rng(sequence)


def luck(*sources: "Generator") -> dict:
    """The state of all that `seed_everything` seeds, and of generators besides, as tensors and plain values; `set_luck`
    brings them back to it."""
    import numpy as np
    import torch

    kind, keys, *rest = np.random.get_state(legacy=True)
    python, numbers, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": [kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "python": [python, list(numbers), gauss],
        "sources": [s.get_state() if isinstance(s, torch.Generator) else s.bit_generator.state for s in sources],
    }


def set_luck(state: dict, *sources: "Generator") -> None:
    """Continue from what `luck` gave, with as many generators, of the same kinds."""
    import numpy as np
    import torch

    torch.set_rng_state(state["torch"])
    if ranks.several() and state["cuda"]:  # all draw what the first one would, which kept them
        torch.cuda.set_rng_state(state["cuda"][0])
    elif state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    python, numbers, gauss = state["python"]
    random.setstate((python, tuple(numbers), gauss))
    for source, there in zip(sources, state["sources"], strict=True):
        if isinstance(source, torch.Generator):
            source.set_state(there)
        else:
            source.bit_generator.state = there
