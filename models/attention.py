"""Transformer blocks that keep what went through them: normalisation before attention and before the two layers after
it, as in GPT-2 (Vaswani et al. 2017, arXiv 1706.03762; Radford et al. 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamdrive.utils.errors import UserError

FIRST_SPREAD = 0.02  # of the weights of layers and of what places are told apart by, as in GPT-2
# Of a block's tensors here, where GPT-2's files have them; its layers are stored as (inputs, outputs)
GPT2 = {
    "before_attention.weight": "ln_1.weight",
    "before_attention.bias": "ln_1.bias",
    "asked.weight": "attn.c_attn.weight",
    "asked.bias": "attn.c_attn.bias",
    "answered.weight": "attn.c_proj.weight",
    "answered.bias": "attn.c_proj.bias",
    "before_layers.weight": "ln_2.weight",
    "before_layers.bias": "ln_2.bias",
    "wide.weight": "mlp.c_fc.weight",
    "wide.bias": "mlp.c_fc.bias",
    "narrow.weight": "mlp.c_proj.weight",
    "narrow.bias": "mlp.c_proj.bias",
}
FROZEN = ("asked", "answered", "wide", "narrow")  # parts of a block that may be kept as they are

Kept = Sequence[tuple[Tensor, Tensor]]  # keys and values of each block, (B, H, M, d)
Part = tuple[Kept, Tensor | None]  # what is remembered, and which of it is seen, (B, M) bool


@dataclass(frozen=True, kw_only=True)
class AttentionSizes:
    """Sizes of a transformer, beside its width.

    Fields:
        layers: blocks        heads: of each        context: W, frames it looks back on
        dropout: share of what is left out in training
        frozen: blocks, from the first on, whose attention and layers stay as they are
    """

    layers: int = 4
    heads: int = 4
    context: int = 32
    dropout: float = 0.0
    frozen: int = 0

    def check(self, width: int) -> None:
        """ValueError where they do not fit."""
        if min(self.layers, self.heads) < 1 or self.context < 2:
            raise ValueError(f"layers and heads must be 1 or more and context 2 or more, not {self}")
        if width % self.heads:
            raise ValueError(f"{width} numbers cannot be shared by {self.heads} heads: give a multiple of that")


class Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_layers = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asked, self.answered = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, parts: Sequence[tuple[Tensor, Tensor, Tensor | None]], mask: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (B, N, D), the keys and values that are remembered, with what is added to their scores, (B, 1, 1, M), and
        what of x each of x sees ((B or 1, 1, N, N) bool; None: what is not after it) -> x after this block, and its
        keys and values (B, H, N, d)."""
        query, key, value = self.asked(self.before_attention(x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))  # (B, H, N, d)
        share = self.dropout.p if self.training else 0.0
        if parts:
            found = self._attended(query, key, value, parts, mask)
        else:
            found = F.scaled_dot_product_attention(query, key, value, mask, share, is_causal=mask is None)
        x = x + self.dropout(self.answered(found.transpose(1, 2).flatten(2)))
        wide = F.gelu(self.wide(self.before_layers(x)), approximate="tanh")
        return x + self.dropout(self.narrow(wide)), (key, value)

    def _attended(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        parts: Sequence[tuple[Tensor, Tensor, Tensor | None]],
        mask: Tensor | None,
    ) -> Tensor:
        """Attention to what is remembered and to x, without copying the first beside the second: a dream has more of it
        than it does anything else with."""
        query = query * query.shape[-1] ** -0.5
        if mask is None and key.shape[2] > 1:
            mask = causal(key.shape[2], 1, key.device)
        own = key, value, mask if mask is None else added(mask)
        scores = [plus(query @ kept.transpose(-1, -2), more) for kept, _, more in (*parts, own)]
        shares = self.dropout(torch.cat(scores, -1).softmax(-1)).split([s.shape[-1] for s in scores], -1)
        found = [share @ of for share, (_, of, _) in zip(shares, (*parts, own), strict=True)]
        return sum(found[1:], found[0])


def plus(scores: Tensor, more: Tensor | None) -> Tensor:
    return scores if more is None else scores + more


def added(seen: Tensor) -> Tensor:
    """What is added to scores so that nothing but what is seen counts."""
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)


def causal(frames: int, tokens: int, device: torch.device, whole: bool = False) -> Tensor:
    """Which of N = frames * tokens each of them sees, (1, 1, N, N) bool: those that are not after it, or `whole`: its
    own frame and those before that."""
    at = torch.arange(frames * tokens, device=device) // (tokens if whole else 1)
    return (at[:, None] >= at)[None, None]


class Blocks(nn.Module):
    """L blocks and the normalisation after them."""

    def __init__(self, width: int, sizes: AttentionSizes) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, sizes.heads, sizes.dropout) for _ in range(sizes.layers))
        self.last = nn.LayerNorm(width)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=FIRST_SPREAD)
                nn.init.zeros_(layer.bias)
        for block in self.blocks[: sizes.frozen]:
            for name in FROZEN:
                getattr(block, name).requires_grad_(False)

    def forward(self, x: Tensor, parts: Sequence[Part] = (), mask: Tensor | None = None) -> tuple[Tensor, Kept]:
        """x (B, N, D), and what is remembered -> x (B, N, D), and what is to be remembered of it. `mask` as Block has
        it."""
        seen = [of if of is None else added(of[:, None, None]) for _, of in parts]
        kept = []
        for number, block in enumerate(self.blocks):
            own = [(*part[number], of) for (part, _), of in zip(parts, seen, strict=True)]
            x, new = block(x, own, mask)
            kept.append(new)
        return self.last(x), kept


def load_gpt2(blocks: Blocks, folder: Path) -> None:
    """Put GPT-2's weights into `blocks`, which are of its sizes; UserError where the folder lacks them."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder) / "model.safetensors"
    try:
        found = {name.removeprefix("transformer."): value for name, value in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): --gpt2 takes a folder with config.json and model.safetensors"
        ) from None
    wanted = {
        f"blocks.{i}.{ours}": f"h.{i}.{theirs}" for i in range(len(blocks.blocks)) for ours, theirs in GPT2.items()
    }
    wanted |= {"last.weight": "ln_f.weight", "last.bias": "ln_f.bias"}
    missing = [theirs for theirs in wanted.values() if theirs not in found]
    if missing:
        raise UserError(f"{path} has no {missing[0]}: it holds no weights of a GPT-2 of the size that config.json says")
    weights = {
        ours: found[theirs].float().T.contiguous() if found[theirs].ndim == 2 else found[theirs].float()
        for ours, theirs in wanted.items()
    }
    for name, own in blocks.state_dict().items():
        if weights[name].shape != own.shape:
            raise UserError(f"{path} has {wanted[name]} of other sizes than config.json says: take both from one model")
    blocks.load_state_dict(weights)
