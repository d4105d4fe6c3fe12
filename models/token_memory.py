"""M that foresees tokens: which code each place of the next frame has, all at once, or one place after another.

Of a V whose latents are tokens (models/tokens.py) z is codes, one after another, and each code one or several letters:
of a book a letter is a code; of rounded numbers it is the level of one number, so that 512 codes take three times 8
probabilities.

    once        all letters at once, as if each had nothing to do with the others
    sequence    place after place, each knowing those before it (a GRU, Cho et al. 2014)

Most places are as they were a step before: a bonus on the letter that is there now is learnt, for each place. Dreams
draw letters by inverting their distribution, one uniform number a letter. Gradients pass a drawn letter as if its
probabilities were it (straight-through, Bengio et al. 2013, arXiv 1308.3432, as in DreamerV2, arXiv 2010.02193).
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamdrive.models.attention import AttentionSizes
from dreamdrive.models.attention_cores import FramesCore
from dreamdrive.models.cores import CfCCore, Core, LSTMCore, NCPCore, NCPSizes
from dreamdrive.models.world_model import Imagined, State, Steps, Vision

EMBEDDED = 32  # numbers that a letter is told a GRU by


@dataclass(frozen=True)
class TokenMemoryConfig:
    """Sizes of M.

    Fields:
        latent: Z        action: A, the length of the action vector        hidden: R
        letters: of each letter of a code, how many there are; (8, 8, 8), or (512,)
        numbers: of z that a letter stands for
        width: of the GRU that goes from place to place, where there is one
        dropout: share of h that letters are not told of in training; a transformer leaves out in its blocks instead
        reward: whether the reward is part of the loss
        reward_scale: what rewards are learnt in units of
    """

    latent: int
    action: int
    hidden: int = 256
    letters: Sequence[int] = (8, 8, 8)
    numbers: int = 1
    width: int = 128
    dropout: float = field(default=0.0, kw_only=True)
    reward: bool = True
    reward_scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "letters", tuple(self.letters))
        if min(self.latent, self.action, self.hidden, self.width, self.numbers, *self.letters) < 1:
            raise ValueError(f"sizes must be 1 or more, not {asdict(self)}")
        if self.latent % (len(self.letters) * self.numbers):
            raise ValueError(f"{self.latent} latents are no whole number of codes of {len(self.letters)} letters")

    @property
    def places(self) -> int:
        """P, tokens of a frame."""
        return self.latent // (len(self.letters) * self.numbers)

    @property
    def most(self) -> int:
        """L, of the letters that there are most of."""
        return max(self.letters)


@dataclass(frozen=True)
class Letters:
    """Letters that were drawn.

    Fields:
        index: (..., n) int64        chosen: (..., n, L) 1 at them, with the gradients of their probabilities, where
            there are any
    """

    index: Tensor
    chosen: Tensor | None = None

    def each(self, table: Tensor) -> Tensor:
        """What a table (n, L, E) has for each letter, (..., n, E)."""
        if self.chosen is not None:
            return torch.einsum("...nl,nle->...ne", self.chosen, table)
        return torch.stack([F.embedding(self.index[..., i], table[i]) for i in range(len(table))], -2)

    @staticmethod
    def stacked(places: Sequence["Letters"]) -> "Letters":
        """Those of one place after another, each (B, n, ...): (B, P, n, ...)."""
        index = torch.stack([letters.index for letters in places], 1)
        chosen = [letters.chosen for letters in places if letters.chosen is not None]
        return Letters(index, torch.stack(chosen, 1) if chosen else None)


class Expected(NamedTuple):
    """What M says of the next step, beside its letters: reward (...), terminal (...) logit of the episode ending."""

    reward: Tensor
    terminal: Tensor


class TokenMemory(Core):
    """M whose next z is letters.

    `alphabet` (n, L, numbers), which is kept with the weights, has the numbers that each letter of a code stands for.
    """

    sizes: ClassVar[type[TokenMemoryConfig]] = TokenMemoryConfig
    config: TokenMemoryConfig

    def __init__(self, config: TokenMemoryConfig) -> None:
        super().__init__()
        self.config = config
        count = len(config.letters)
        self.register_buffer("alphabet", torch.zeros(count, config.most, config.numbers))
        there = torch.arange(config.most) < torch.tensor(config.letters)[:, None]
        self.register_buffer("there", there, persistent=False)  # (n, L)
        self.make_core()
        self.stay = nn.Parameter(torch.zeros(config.places, count))
        self.outcome = nn.Linear(config.hidden, 2)
        self.make_head()

    @abstractmethod
    def make_head(self) -> None:
        """Whatever says of h which letters come next."""

    def foreseeing(self, steps: Steps) -> tuple[Tensor, Tensor]:
        """h after each step (B, T, R), and that which letters are said of (B, T, ...)."""
        h, _ = self.observe(steps.z, steps.action)
        return h, h

    @abstractmethod
    def told(self, basis: Tensor, now: Tensor, following: Tensor) -> Tensor:
        """Logits (N, P, n, L) of letters, of what `foreseeing` has of N steps and letters now (N, P, n), where
        `following` (N, P, n) are those that come: each place may know of those before it."""

    @abstractmethod
    def drawn_letters(self, state: State, temperature: float, uniform: Tensor) -> Letters:
        """Letters after a state, index (B, P, n), drawn with uniform (B, P, n), or the likeliest."""

    def meet(self, vision: Vision) -> None:
        for own, letter in zip(self.get_buffer("alphabet"), vision.alphabet, strict=True):
            own[: len(letter)] = letter

    def letters(self, z: Tensor) -> Tensor:
        """(..., Z) -> (..., P, n) int64, the nearest."""
        parts = z.unflatten(-1, (self.config.places, len(self.config.letters), self.config.numbers))
        alphabet = self.get_buffer("alphabet")
        away = (alphabet.square().sum(-1) - 2 * torch.einsum("...nw,nlw->...nl", parts, alphabet)).detach()
        return away.masked_fill(~self.get_buffer("there"), torch.inf).argmin(-1)

    def written(self, letters: Letters) -> Tensor:
        """Letters (..., P, n) -> z (..., Z)."""
        return letters.each(self.get_buffer("alphabet")).flatten(-3)

    def bonus(self, now: Tensor) -> Tensor:
        """What letters now (..., P, n) are the likelier for: (..., P, n, L)."""
        return F.one_hot(now, self.config.most) * self.stay[..., None]

    def logits(self, said: Tensor, bonus: Tensor) -> Tensor:
        """Of what a head said (..., n, L): with the bonus, less the letters that there are none of."""
        return (said.float() + bonus).masked_fill(~self.get_buffer("there"), -torch.inf)

    @property
    def rewarded(self) -> bool:
        return self.config.reward

    def initial(self, num: int) -> State:
        state = self.nothing(num)
        return State(state.h, {**state.more, "z": state.h.new_zeros(num, self.config.latent)})

    def observe(self, z: Tensor, action: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        h, after = self.remember(z, action, state)
        return h, State(after.h, {**after.more, "z": z[:, -1]})

    def expected(self, h: Tensor) -> Expected:
        reward, terminal = self.outcome(h).float().unbind(-1)
        return Expected(reward, terminal)

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        """nll in nats per frame, squared error of the reward, cross-entropy of the end: means over the steps that
        count, their sum divided by how many terms there are, as that of a mixture is."""
        h, basis = self.foreseeing(steps)
        if not self.ATTENTIVE:
            basis = F.dropout(basis, self.config.dropout, self.training)
        shown = steps.mask.bool()
        now, following = self.letters(steps.z[shown]), self.letters(steps.z_next[shown])
        logp = self.told(basis[shown], now, following).log_softmax(-1)
        nll = -logp.gather(-1, following[..., None]).flatten(1).sum(1).mean()
        expected = self.expected(h[shown])
        reward_mse = (expected.reward - steps.reward[shown] / self.config.reward_scale).square().mean()
        terminal_bce = F.binary_cross_entropy_with_logits(expected.terminal, steps.terminal[shown])
        total = nll + terminal_bce + (reward_mse if self.config.reward else 0.0)
        terms = self.config.places * len(self.config.letters) + 2
        return {"loss": total / terms, "nll": nll, "reward_mse": reward_mse, "terminal_bce": terminal_bce}

    @property
    def draws(self) -> tuple[int, int]:
        return self.config.places * len(self.config.letters) + 1, 0

    def noise(self, uniform: Tensor, normal: Tensor, copies: int = 1) -> Tensor:
        return uniform.repeat(copies, 1)

    def sample(self, state: State, temperature: float, noise: Tensor) -> Imagined:
        expected = self.expected(state.h)
        ending = expected.terminal.sigmoid()
        limit = 0.5 if temperature == 0 else noise[:, -1]
        uniform = noise[:, :-1].unflatten(-1, (self.config.places, len(self.config.letters)))
        letters = self.drawn_letters(state, temperature, uniform)
        return Imagined(self.written(letters), expected.reward * self.config.reward_scale, ending, ending > limit)

    def likeliest(self, state: State) -> Tensor:
        uniform = state.h.new_zeros(len(state), self.config.places, len(self.config.letters))
        return self.written(self.drawn_letters(state, 0.0, uniform))

    def now(self, state: State) -> Tensor:
        """The letters (B, P, n) of the frame before which a state is."""
        return self.letters(state.more["z"])

    def config_dict(self) -> dict:
        return asdict(self.config)

    @classmethod
    def from_config(cls, config: dict) -> Self:
        return cls(cls.sizes(**config))


class Once(TokenMemory):
    """All letters at once."""

    def make_head(self) -> None:
        config = self.config
        self.head = nn.Linear(config.hidden, config.places * len(config.letters) * config.most)

    def told(self, basis: Tensor, now: Tensor, following: Tensor) -> Tensor:
        shape = (self.config.places, len(self.config.letters), self.config.most)
        return self.logits(self.head(basis).unflatten(-1, shape), self.bonus(now))

    def drawn_letters(self, state: State, temperature: float, uniform: Tensor) -> Letters:
        now = self.now(state)
        return drawn(self.told(state.h, now, now), temperature, uniform)


class InTurn(TokenMemory):
    """Place after place."""

    def make_head(self) -> None:
        config = self.config
        count = len(config.letters)
        self.begin = nn.Linear(config.hidden, config.width)
        self.letter_now, self.letter_before = (
            nn.Parameter(0.1 * torch.randn(count, config.most, EMBEDDED)) for _ in range(2)
        )
        self.place = nn.Parameter(0.1 * torch.randn(config.places, EMBEDDED))
        self.gru = nn.GRU(EMBEDDED, config.width, batch_first=True)
        self.head = nn.Linear(config.width, count * config.most)

    def placed(self, now: Tensor) -> Tensor:
        """What each place is told of letters now (N, P, n): (N, P, EMBEDDED)."""
        return looked_up(self.letter_now, now) + self.place

    def lettered(self, seen: Tensor) -> Tensor:
        return self.head(seen).unflatten(-1, (len(self.config.letters), self.config.most))

    def told(self, basis: Tensor, now: Tensor, following: Tensor) -> Tensor:
        before = looked_up(self.letter_before, following[:, :-1])
        seen, _ = self.gru(self.placed(now) + F.pad(before, (0, 0, 1, 0)), self.begin(basis).tanh()[None])
        return self.logits(self.lettered(seen), self.bonus(now))

    def drawn_letters(self, state: State, temperature: float, uniform: Tensor) -> Letters:
        found, before = [], state.h.new_zeros(len(state), EMBEDDED)
        now, passed = self.now(state), self.begin(state.h).tanh()[None]
        placed, bonus = self.placed(now), self.bonus(now)
        for p in range(self.config.places):
            seen, passed = self.gru((placed[:, p] + before)[:, None], passed)
            letters = drawn(self.logits(self.lettered(seen[:, 0]), bonus[:, p]), temperature, uniform[:, p])
            before = letters.each(self.letter_before).sum(-2)
            found.append(letters)
        return Letters.stacked(found)


def looked_up(table: Tensor, letters: Tensor) -> Tensor:
    """table (n, L, E), letters (..., n) int64 -> (..., E), the sum over a code's letters."""
    first, *others = (F.embedding(letters[..., i], table[i]) for i in range(len(table)))
    return sum(others, first)


def drawn(logits: Tensor, temperature: float, uniform: Tensor) -> Letters:
    """Letters drawn from logits (..., n, L) with uniform (..., n)."""
    scaled = logits if temperature == 0 else logits / temperature
    with torch.no_grad():
        if temperature == 0:
            index = logits.argmax(-1)
        else:
            # their distribution inverted; rounding may leave all of it below the number, and then it is the last letter
            reached = (scaled - scaled.amax(-1, keepdim=True)).exp().cumsum(-1)
            whole = reached[..., -1:].contiguous()
            index = torch.searchsorted(reached, uniform[..., None] * whole, right=True)
            index = torch.minimum(index, torch.searchsorted(reached, whole))[..., 0]
    if not logits.requires_grad:
        return Letters(index)
    probability = scaled.softmax(-1)
    chosen = F.one_hot(index, logits.shape[-1]).to(probability.dtype)
    return Letters(index, chosen + (probability - probability.detach()))


class LSTMOnce(Once, LSTMCore):
    kind = "lstm-once"


class CfCOnce(Once, CfCCore):
    kind = "cfc-once"


class LSTMSequence(InTurn, LSTMCore):
    kind = "lstm-sequence"


class CfCSequence(InTurn, CfCCore):
    kind = "cfc-sequence"


@dataclass(frozen=True)
class NCPTokenConfig(TokenMemoryConfig, NCPSizes):
    """Sizes of wired neurons that foresee tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.hidden)


class NCPOnce(Once, NCPCore):
    kind = "ncp-once"
    sizes = NCPTokenConfig


class NCPSequence(InTurn, NCPCore):
    kind = "ncp-sequence"
    sizes = NCPTokenConfig


@dataclass(frozen=True)
class AttentiveTokenConfig(TokenMemoryConfig, AttentionSizes):
    """Sizes of a transformer that foresees tokens; `hidden` is its width."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.hidden)


class FramesOnce(Once, FramesCore):
    kind = "frames-once"
    sizes = AttentiveTokenConfig


class FramesSequence(InTurn, FramesCore):
    kind = "frames-sequence"
    sizes = AttentiveTokenConfig
