"""V whose latents are tokens: a grid over the frame, each place of it one of so many codes, instead of numbers with a
spread.

    fsq     each number of a code is rounded to one of a few levels (finite scalar quantisation, Mentzer et al. 2023,
            arXiv 2309.15505). Numbers are normalised over the batch and put through the normal distribution's
            function before, so that all levels are about as likely: without, few codes are used.
    vq      the nearest of a book of codes (van den Oord et al. 2017, arXiv 1711.00937), which follows what is near to
            them by moving averages (its appendix A.1), codes that nothing is near to beginning anew at something that
            was seen; or is learnt by the gradient of their distance (its eq. 3), as Micheli et al. (2023) learn theirs

Codes have few numbers, so that they can be a z: those of all places, one after another. What sees z sees all that the
tokens say, and heads, M, evolution, cloning and the rest work on it as on any other.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamdrive.models.catalogue import BOOKS, SIZES, TOKENS
from dreamdrive.models.reconstruction import Weights
from dreamdrive.models.vae import (
    frame_error,
    grid_decoder,
    grid_encoder,
    grid_widths,
    guesser,
    planes,
    to_float,
    to_uint8,
    with_fine_shades,
    with_returns,
)
from dreamdrive.models.world_model import Latents, Vision
from dreamdrive.utils import split_batch
from dreamdrive.utils.errors import UserError

KEPT = 0.99  # of a code's running means, at each batch
FORGOTTEN = 0.05  # of the usual share of places: a code with less begins anew


@dataclass(frozen=True)
class TokenConfig(ABC):
    """Sizes of V.

    Fields:
        tokens: T, places of the grid
        channels: C of the frames        size: their side, 64 or 128 pixels
        fine_shades, guesses: as VAEConfig has them
    """

    tokens: int = 16
    channels: int = 3
    size: int = 64
    fine_shades: bool = False
    guesses: bool = False

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"frames of {self.size} pixels are not possible: V takes {' or '.join(map(str, SIZES))}")
        if self.tokens not in TOKENS:
            raise ValueError(f"{self.tokens} tokens are not possible: {' or '.join(map(str, TOKENS))} are")

    @property
    def side(self) -> int:
        """Of the grid."""
        return math.isqrt(self.tokens)

    @property
    @abstractmethod
    def numbers(self) -> int:
        """D, of a code."""

    @property
    @abstractmethod
    def codes(self) -> int:
        """How many there are."""

    @property
    def latent(self) -> int:
        """Z."""
        return self.tokens * self.numbers


class Seen(NamedTuple):
    """What V makes of frames.

    Fields:
        reconstruction: (B, C, H, W) in [0, 1]
        codes: (B, D, side, side) of the tokens        before: (B, D, side, side) numbers before they became codes
        guess: (B,) of the returns; None of a V that does not guess
    """

    reconstruction: Tensor
    codes: Tensor
    before: Tensor
    guess: Tensor | None


class Tokens(Vision):
    """V whose latents are tokens (N, T), int16."""

    stored = ("tokens",)
    config: TokenConfig
    draws = 0

    def __init__(self, config: TokenConfig) -> None:
        super().__init__()
        self.config, widths = config, grid_widths(config.size, config.side)
        self.weights = Weights()
        self.encoder = grid_encoder(planes(config.channels, config.fine_shades), widths)
        # without the means and spreads of batches numbers drift to where codes are few
        self.numbers = nn.Sequential(
            nn.Conv2d(widths[-1], config.numbers, 1), nn.BatchNorm2d(config.numbers, affine=False)
        )
        self.decoder = grid_decoder(config.numbers, widths, config.channels)
        if config.guesses:
            self.guess = guesser(config.latent)

    @abstractmethod
    def nearest(self, before: Tensor) -> Tensor:
        """The tokens (...), int64, of numbers (..., D) before they became codes."""

    @abstractmethod
    def looked_up(self, tokens: Tensor) -> Tensor:
        """The codes (..., D) of tokens (...)."""

    @abstractmethod
    def quantised(self, before: Tensor) -> Tensor:
        """Numbers (..., D) -> codes (..., D), with gradients as if they were the same."""

    @abstractmethod
    def commitment(self, output: Seen) -> dict[str, Tensor]:
        """What else is to be lower, by name, each a mean over frames, and in the loss."""

    @abstractmethod
    def token_of(self, z: Tensor) -> Tensor:
        """The tokens (...), int64, whose codes are nearest to (..., D)."""

    def encode(self, obs: Tensor) -> Tensor:
        """obs (B, C, size, size) in [0, 1] -> numbers (B, D, side, side), before they become codes."""
        narrowed, normalised = self.numbers
        seen = narrowed(self.encoder(with_fine_shades(obs) if self.config.fine_shades else obs))
        if not normalised.training:
            return normalised(seen)
        return split_batch.own(normalised(split_batch.whole(seen)))

    def forward(self, frames: Tensor) -> Seen:
        """Of frames uint8 (B, H, W, C)."""
        before = self.encode(to_float(frames)).float()
        with torch.autocast(before.device.type, enabled=False):  # in bf16 the nearest code would be another
            codes = self.quantised(before.movedim(1, -1)).movedim(-1, 1)
        guess = self.guess(codes.movedim(1, -1).flatten(1))[:, 0] if self.config.guesses else None
        return Seen(self.decoder(codes.contiguous(memory_format=torch.channels_last)), codes, before, guess)

    def weigh(self, weights: Weights) -> None:
        if weights.beta != 1:
            raise UserError(f"tokens have no KL divergence that --beta {weights.beta:g} could weigh: leave it out")
        self.weights = weights

    @property
    def seeing(self) -> list[nn.Module]:
        return [self.encoder, self.numbers]

    def loss(self, frames: Tensor, output: Seen, returns: Tensor | None = None) -> dict[str, Tensor]:
        error, more = frame_error(frames, output.reconstruction, self.weights), self.commitment(output)
        losses = {"loss": error + sum(more.values()), "reconstruction": error, **more}
        return with_returns(losses, output.guess, returns, self.weights.returns)

    def latents(self, frames: Tensor) -> Latents:
        before = self.encode(to_float(frames)).float().movedim(1, -1)
        return {"tokens": self.nearest(before).flatten(1).to(torch.int16)}

    def z(self, latents: Latents, normal: Tensor | None = None) -> Tensor:
        return self.looked_up(latents["tokens"].long()).flatten(-2)

    def prior(self, num: int, generator: torch.Generator) -> Tensor:
        """Of tokens that are all as likely."""
        shape = (num, self.config.tokens)
        return self.z({"tokens": torch.randint(self.config.codes, shape, generator=generator, device=generator.device)})

    def fixed(self, z: Tensor) -> Latents:
        """The nearest tokens: M's samples need not be codes."""
        return {"tokens": self.token_of(z.unflatten(-1, (self.config.tokens, -1))).to(torch.int16)}

    def frames(self, z: Tensor) -> Tensor:
        side = self.config.side
        grid = z.unflatten(-1, (side, side, -1)).movedim(-1, 1)
        return to_uint8(self.decoder(grid.contiguous(memory_format=torch.channels_last)))

    def usage(self, latents: Latents) -> dict[str, float]:
        """Codes that are used, and the bits a frame takes if each token is told by how frequent it is at its place."""
        tokens = latents["tokens"].long()
        used = torch.bincount(tokens.flatten(), minlength=self.config.codes)
        bits = 0.0
        for place in tokens.T:
            share = torch.bincount(place).double() / len(place)
            bits -= float((share * share.clamp_min(1e-12).log2()).sum())
        return {"codes": int((used > 0).sum()), "bits": bits}

    def config_dict(self) -> dict:
        return asdict(self.config)


@dataclass(frozen=True)
class FSQConfig(TokenConfig):
    """Sizes of a V with rounded numbers.

    Fields:
        levels: of each number of a code
    """

    levels: Sequence[int] = (8, 8, 8)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "levels", tuple(self.levels))
        if not self.levels or min(self.levels) < 2 or self.codes > 1 << 15:
            raise ValueError(f"levels must be 2 or more each, and 32,768 codes at most, not {list(self.levels)}")

    @property
    def numbers(self) -> int:
        return len(self.levels)

    @property
    def codes(self) -> int:
        return math.prod(self.levels)


class FSQ(Tokens):
    """Codes are the middles of levels, which divide -1 to 1 evenly."""

    kind = "fsq"
    sizes = FSQConfig
    config: FSQConfig

    def __init__(self, config: FSQConfig) -> None:
        super().__init__(config)
        place = torch.tensor([math.prod(config.levels[i + 1 :]) for i in range(len(config.levels))])
        self.register_buffer("levels", torch.tensor(config.levels), persistent=False)  # (D,)
        self.register_buffer("place", place, persistent=False)  # (D,) what a level of each number is worth in a token

    def bounded(self, before: Tensor) -> Tensor:
        """(..., D) of any size -> -1 to 1, evenly spread where it is normal."""
        return torch.erf(before / math.sqrt(2))

    def level(self, bounded: Tensor) -> Tensor:
        """The level (..., D), from 0, that each number of -1 to 1 is on: they share that range evenly."""
        levels = self.get_buffer("levels")
        return ((bounded + 1) / 2 * levels).floor().clamp_min(0).minimum(levels - 1.0)

    def code(self, level: Tensor) -> Tensor:
        """(..., D): the middles of levels."""
        return (2 * level + 1) / self.get_buffer("levels") - 1

    def nearest(self, before: Tensor) -> Tensor:
        return self.token_of(self.bounded(before))

    def token_of(self, z: Tensor) -> Tensor:
        return (self.level(z).long() * self.get_buffer("place")).sum(-1)

    def looked_up(self, tokens: Tensor) -> Tensor:
        return self.code(tokens[..., None] // self.get_buffer("place") % self.get_buffer("levels"))

    def quantised(self, before: Tensor) -> Tensor:
        bounded = self.bounded(before)
        return bounded + (self.code(self.level(bounded)) - bounded).detach()

    def commitment(self, output: Seen) -> dict[str, Tensor]:
        return {}

    @property
    def alphabet(self) -> list[Tensor]:
        """The levels of each number."""
        where = self.get_buffer("levels").device
        return [(2 * torch.arange(count, device=where)[:, None] + 1) / count - 1 for count in self.config.levels]

    @classmethod
    def from_config(cls, config: dict) -> "FSQ":
        return cls(FSQConfig(**config))


@dataclass(frozen=True)
class VQConfig(TokenConfig):
    """Sizes of a V with a book of codes.

    Fields:
        codes: how many there are        numbers: D, of each
        book: how they are learnt, one of BOOKS
    """

    codes: int = 512
    numbers: int = 8
    book: str = BOOKS[0]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.codes <= 1 << 15 or self.numbers < 1:
            raise ValueError(f"{self.codes} codes of {self.numbers} numbers are not possible: 2 to 32,768 of 1 or more")
        if self.book not in BOOKS:
            raise ValueError(f"a book learnt by {self.book} is not possible: {' or '.join(BOOKS)} are")

    @property
    def follows(self) -> bool:
        """Whether codes follow averages, and no gradient."""
        return self.book == BOOKS[0]


class VQ(Tokens):
    """Codes are those of a book."""

    kind = "vq"
    sizes = VQConfig
    config: VQConfig

    def __init__(self, config: VQConfig) -> None:
        super().__init__(config)
        if not config.follows:
            self.learnt = nn.Embedding(config.codes, config.numbers)
            return
        self.register_buffer("book", torch.randn(config.codes, config.numbers))
        self.register_buffer("count", torch.ones(config.codes))  # running means over batches: places near each code,
        self.register_buffer("total", self.get_buffer("book").clone())  # and the sum of their numbers

    @property
    def codes(self) -> Tensor:
        """(K, D)."""
        return self.get_buffer("book") if self.config.follows else self.learnt.weight

    @property
    def seeing(self) -> list[nn.Module]:
        return super().seeing if self.config.follows else [*super().seeing, self.learnt]

    def nearest(self, before: Tensor) -> Tensor:
        book = self.codes.detach()
        return (book.square().sum(1) - 2 * before @ book.T).argmin(-1)

    def token_of(self, z: Tensor) -> Tensor:
        return self.nearest(z)

    def looked_up(self, tokens: Tensor) -> Tensor:
        return self.codes.detach()[tokens]

    def quantised(self, before: Tensor) -> Tensor:
        tokens = self.nearest(before.detach())
        code = self.looked_up(tokens)
        if self.config.follows and self.training and torch.is_grad_enabled() and not self.frozen:
            seen, near = split_batch.whole(before.detach()), split_batch.whole(tokens)
            self.follow(seen.flatten(0, -2), near.flatten())
        return before + (code - before).detach()

    @torch.no_grad()
    def follow(self, seen: Tensor, tokens: Tensor) -> None:
        """Move the codes to the running mean of what is near to them: numbers seen (N, D) and their tokens (N,). A code
        that is nearly never used begins anew at one of them, drawn with torch's own generator."""
        book, count, total = (self.get_buffer(name) for name in ("book", "count", "total"))
        chosen = F.one_hot(tokens, len(book)).to(seen.dtype)
        count.lerp_(chosen.sum(0), 1 - KEPT)
        total.lerp_(chosen.T @ seen, 1 - KEPT)
        book.copy_(total / count.clamp_min(1e-6)[:, None])
        usual = len(seen) / len(book)
        forgotten = (count < FORGOTTEN * usual).nonzero()[:, 0]
        drawn = seen[torch.randint(len(seen), (len(forgotten),), device=seen.device)]
        book[forgotten], total[forgotten], count[forgotten] = drawn, drawn * usual, usual

    @property
    def alphabet(self) -> list[Tensor]:
        """The book."""
        return [self.codes.detach()]

    def commitment(self, output: Seen) -> dict[str, Tensor]:
        """How far numbers are from their codes, which are not moved by it; and how far codes that are learnt are from
        the numbers they stand for, which are not moved by that."""
        away = (output.before - output.codes.detach()).square().flatten(1).sum(1).mean()
        losses = {"commitment": self.weights.commitment * away}
        if not self.config.follows:
            before = output.before.detach().movedim(1, -1)
            code = self.learnt(self.nearest(before))
            losses["book"] = (before - code).square().flatten(1).sum(1).mean()
        return losses

    @classmethod
    def from_config(cls, config: dict) -> "VQ":
        return cls(VQConfig(**config))
