"""Cores that are transformers: what a copy carries of the frames it has seen, and how more are taken in.

    frames  each frame with its action is one input (as in STORM, Zhang et al. 2023, arXiv 2310.09615)

and one over the tokens of frames, which is its own head (models/token_transformer.py).
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamdrive.models.attention import FIRST_SPREAD, Blocks, Kept, causal
from dreamdrive.models.cores import Core
from dreamdrive.models.lanes import filled
from dreamdrive.models.world_model import State

# Of the frame after so many, at the places (B,) of the context: the inputs (B, n, D) that are known of it already
Ahead = Callable[[int, Tensor], Tensor]
KEPT = ("key", "value")  # parts of a state that hold a block's, each with the block's number


class Context(Core):
    """Up to W frames, the context, that are looked back on, each of them `tokens` inputs of a transformer.

    A copy carries these frames and actions, the last of W being the newest, and how many there are: from that follows
    all else. What the transformer has made of them, keys and values of each block, is carried along where it is there,
    and made anew where it is not. A copy whose W frames are full forgets the older half of them: places in the context
    are counted from the oldest frame in it, so that they cannot move on with each step, but seldom (as in IRIS, Micheli
    et al. 2023, arXiv 2209.00588, which forgets all but the newest).
    """

    ATTENTIVE = True
    tokens: int  # N
    whole = False  # whether all of a frame's inputs see each other
    blocks: Blocks

    @abstractmethod
    def shown(self, z: Tensor, action: Tensor, at: Tensor) -> Tensor:
        """The inputs of frames z (B, T, Z), action (B, T, A) at the places `at` (B, T) of the context:
        (B, T * N, D)."""

    def nothing(self, num: int) -> State:
        config, like = self.config, next(self.blocks.parameters())
        past = like.new_zeros(num, config.context, config.latent + config.action)
        length = torch.zeros(num, dtype=torch.int64, device=like.device)
        return State(like.new_zeros(num, config.hidden), {"past": past, "length": length})

    def bare(self, state: State) -> State:
        parts = state.more.items()
        return State(state.h, {name: part for name, part in parts if not name.startswith(("cached", *KEPT))})

    def nothing_kept(self, like: Tensor) -> Kept:
        """Keys and values where there are none yet, of the size and kind of those (B, H, n, d) of a block."""
        empty = like.new_zeros(*like.shape[:2], self.inputs, like.shape[-1])
        return [(empty, empty)] * self.config.layers

    @property
    def inputs(self) -> int:
        """M, of a whole context."""
        return self.config.context * self.tokens

    def seen(self, length: Tensor, frames: int | None = None) -> Tensor:
        """Which of the inputs of the last `frames`, W unless it is said, are those of length (B,) frames: (B, M)."""
        frames = frames or self.config.context
        at = torch.arange(frames * self.tokens, device=length.device) // self.tokens
        return at >= frames - length[:, None]

    def forgetful(self, state: State) -> State:
        """The state before a further frame: full copies have forgotten the older half."""
        length = state.more["length"]
        over = length == self.config.context
        if not over.any():
            return state
        length = torch.where(over, self.config.context // 2, length)
        more = {**state.more, "length": length}
        if "cached" in more:
            rows = (over & more["cached"]).nonzero()[:, 0]
            more |= self._made_anew(more, rows, self.config.context // 2)
        return State(state.h, more)

    def full(self, state: State) -> State:
        """The state with all that can be made of what it carries."""
        more, length = dict(state.more), state.more["length"]
        if "cached" not in more:
            like = state.h.unflatten(-1, (self.config.heads, -1))[:, :, None]
            more |= named(self.nothing_kept(like)) | {"cached": torch.zeros_like(length, dtype=torch.bool)}
        rows = (~more["cached"] & (length > 0)).nonzero()[:, 0]
        more |= self._made_anew(more, rows, self.config.context)
        return State(state.h, {**more, "cached": torch.ones_like(more["cached"])})

    def _made_anew(self, more: dict[str, Tensor], rows: Tensor, frames: int) -> dict[str, Tensor]:
        """Keys and values, those of some copies, rows (n,), made anew from their last frames, not more than
        `frames`."""
        if not len(rows):
            return {}
        chosen = filled(rows)  # to the last bit the same whoever else is made anew
        past, length = more["past"][chosen, -frames:], more["length"][chosen]
        z, action = past.split([self.config.latent, self.config.action], -1)
        at = torch.arange(frames, device=rows.device) - (frames - length[:, None])
        mask = causal(frames, self.tokens, rows.device, self.whole) & self.seen(length, frames)[:, None, None]
        itself = torch.eye(mask.shape[-1], dtype=torch.bool, device=rows.device)  # what sees nothing is not a number
        _, new = self.blocks(self.shown(z, action, at.clamp_min(0)), [], mask | itself)
        missing = self.inputs - frames * self.tokens

        def put(old: Tensor, fresh: Tensor) -> Tensor:
            return old.index_copy(0, rows, F.pad(fresh[: len(rows)], (0, 0, missing, 0)).to(old.dtype))

        pairs = zip(kept_in(more), new, strict=True)
        return named([put(old, fresh) for old, fresh in zip(*pair, strict=True)] for pair in pairs)


class AttentionCore(Context):
    """Takes in frames, as many at once as leave room in the context."""

    @abstractmethod
    def said(self, output: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What the transformer made of T frames (B, T, N, D) -> h (B, T, R), and what else is carried of the last
        one, each (B, ...)."""

    def remember(self, z: Tensor, action: Tensor, state: State | None) -> tuple[Tensor, State]:
        parts = list(self.through(z, action, state))
        return torch.cat([self.said(output)[0] for output, _, _ in parts], 1), parts[-1][-1]

    def through(
        self, z: Tensor, action: Tensor, state: State | None = None, ahead: Ahead | None = None, onward: bool = True
    ) -> Iterator[tuple[Tensor, Tensor, State]]:
        """Frames z (B, T, Z), action (B, T, A), as many at a time as leave room: what the transformer makes of them (B,
        t, N, D), and of the inputs `ahead` of them (B, n, D), which are not remembered, where there are any; and the
        state. The last need not be whole where nobody goes `onward` from it."""
        t = 0
        while t < z.shape[1]:
            count = min(z.shape[1] - t, self.left(state))
            own = slice(t, t + count)
            t += count
            after = ahead and partial(ahead, t)
            output, beyond, state = self.taken_in(z[:, own], action[:, own], state, after, onward or t < z.shape[1])
            yield output, beyond, state

    def left(self, state: State | None) -> int:
        """How many frames may be taken in before a copy has to forget."""
        if state is None:
            return self.config.context
        length = state.more["length"]
        kept = torch.where(length == self.config.context, self.config.context // 2, length)
        return self.config.context - int(kept.max()) if len(kept) else self.config.context

    def taken_in(
        self, z: Tensor, action: Tensor, state: State | None, ahead: Callable[[Tensor], Tensor] | None, onward: bool
    ) -> tuple[Tensor, Tensor, State]:
        """As `through`, of no more frames than there is room for."""
        first = state is None
        state = self.nothing(len(z)) if state is None else self.full(self.forgetful(state))
        more, steps = state.more, z.shape[1]
        length, own = more["length"], steps * self.tokens
        x = self.shown(z, action, length[:, None] + torch.arange(steps, device=z.device))
        if ahead is not None:
            x = torch.cat([x, ahead(length + steps)], 1)
        mask = causal(steps, self.tokens, z.device, whole=True) if self.whole else None
        output, made = self.blocks(x, [] if first else [(kept_in(more), self.seen(length))], mask)
        output, beyond = output[:, :own].unflatten(1, (steps, self.tokens)), output[:, own:]
        h, others = self.said(output)
        carried = {
            **others,
            "past": torch.cat([more["past"], torch.cat([z, action], -1)], 1)[:, steps:],
            "length": length + steps,
        }
        if not onward:
            return output, beyond, State(h[:, -1], carried)
        before = self.nothing_kept(made[0][0]) if first else kept_in(more)
        after = [
            [torch.cat([old[:, :, own:], new[:, :, :own]], 2) for old, new in zip(*pair, strict=True)]
            for pair in zip(before, made, strict=True)
        ]
        carried |= {"cached": torch.ones_like(length, dtype=torch.bool), **named(after)}
        return output, beyond, State(h[:, -1], carried)


class FramesCore(AttentionCore):
    """Each frame with its action is one input."""

    tokens = 1

    def make_core(self) -> None:
        config = self.config
        self.enter = nn.Linear(config.latent + config.action, config.hidden)
        self.moment = nn.Parameter(FIRST_SPREAD * torch.randn(config.context, config.hidden))
        self.blocks = Blocks(config.hidden, config)

    def shown(self, z: Tensor, action: Tensor, at: Tensor) -> Tensor:
        return self.enter(torch.cat([z, action], -1)) + self.moment[at]

    def said(self, output: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return output[:, :, 0], {}


def named(kept: Iterable[Iterable[Tensor]]) -> dict[str, Tensor]:
    """Keys and values of blocks as parts of a state."""
    return {f"{name}{number}": part for number, pair in enumerate(kept) for name, part in zip(KEPT, pair, strict=True)}


def kept_in(more: Mapping[str, Tensor]) -> Kept:
    """The inverse of `named`."""
    return list(zip(*([more[name] for name in more if name.startswith(kind)] for kind in KEPT), strict=True))
