"""M that is one transformer over tokens: those of a frame, and then its action, are its inputs, one after another.

    sequence    each input knows those before it, and says the token that comes next, so that a frame is drawn token by
                token (IRIS, Micheli et al. 2023, arXiv 2209.00588)
    once        inputs of a frame see each other, and each place says what its token will be a frame later

Gradients pass a token that is drawn straight through (models/token_memory.py), and into the transformer by a layer on
the numbers of its code, beside what is looked up for it.
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from dreamdrive.models.attention import FIRST_SPREAD, Blocks, Kept, Part
from dreamdrive.models.attention_cores import AttentionCore, kept_in
from dreamdrive.models.token_memory import AttentiveTokenConfig, Letters, TokenMemory, drawn, looked_up
from dreamdrive.models.world_model import State, Steps


class TokensCore(AttentionCore, TokenMemory):
    """The tokens of a frame, and its action after them, are an input each."""

    sizes = AttentiveTokenConfig
    config: AttentiveTokenConfig

    @property
    def tokens(self) -> int:  # type: ignore[override]  # of others it is a number
        return self.config.places + 1

    def make_core(self) -> None:
        config = self.config
        numbers = len(config.letters) * config.numbers
        self.letter = nn.Parameter(FIRST_SPREAD * torch.randn(len(config.letters), config.most, config.hidden))
        self.code = nn.Linear(numbers, config.hidden, bias=False)
        self.act = nn.Linear(config.action, config.hidden)
        # of the frame after a full context tokens are drawn, too
        places = FIRST_SPREAD * torch.randn(config.context + 1, self.tokens, config.hidden)
        self.moment = nn.Parameter(places)
        self.blocks = Blocks(config.hidden, config)

    def make_head(self) -> None:
        self.head = nn.Linear(self.config.hidden, len(self.config.letters) * self.config.most)

    def tokens_shown(self, z: Tensor, at: Tensor) -> Tensor:
        """The inputs of the tokens of frames z (..., Z) at the places `at` (...): (..., P, D)."""
        codes = z.unflatten(-1, (self.config.places, -1))
        return looked_up(self.letter, self.letters(z)) + self.code(codes) + self.moment[at, :-1]

    def shown(self, z: Tensor, action: Tensor, at: Tensor) -> Tensor:
        action_shown = self.act(action) + self.moment[at, -1]
        return torch.cat([self.tokens_shown(z, at), action_shown[:, :, None]], 2).flatten(1, 2)

    def lettered(self, output: Tensor) -> Tensor:
        """What outputs (..., D) say of letters (..., n, L)."""
        return self.head(output).unflatten(-1, (len(self.config.letters), self.config.most))

    def told(self, basis: Tensor, now: Tensor, following: Tensor) -> Tensor:
        """`basis` (N, P, D) knows already what each place may."""
        return self.logits(self.lettered(basis), self.bonus(now))

    @abstractmethod
    def foreseeing(self, steps: Steps) -> tuple[Tensor, Tensor]:
        """h after each step (B, T, D), and what says the token of each place (B, T, P, D)."""


class TokensOnce(TokensCore):
    """All tokens of the next frame from the places of the last."""

    kind = "tokens-once"
    whole = True

    def said(self, output: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return output[:, :, -1], {"places": output[:, -1, :-1]}

    def nothing(self, num: int) -> State:
        state = super().nothing(num)
        places = state.h.new_zeros(num, self.config.places, self.config.hidden)
        return State(state.h, {"places": places, **state.more})

    def foreseeing(self, steps: Steps) -> tuple[Tensor, Tensor]:
        output = torch.cat([output for output, _, _ in self.through(steps.z, steps.action, onward=False)], 1)
        return output[:, :, -1], output[:, :, :-1]

    def drawn_letters(self, state: State, temperature: float, uniform: Tensor) -> Letters:
        now = self.now(state)
        return drawn(self.told(state.more["places"], now, now), temperature, uniform)


class TokensSequence(TokensCore):
    """Token after token."""

    kind = "tokens-sequence"

    def said(self, output: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return output[:, :, -1], {}

    def foreseeing(self, steps: Steps) -> tuple[Tensor, Tensor]:
        found, places = [], self.config.places

        def ahead(t: int, at: Tensor) -> Tensor:
            """Its tokens but the last, of which nothing is asked."""
            return self.tokens_shown(steps.z_next[:, t - 1], at)[:, :-1]

        for output, beyond, _ in self.through(steps.z, steps.action, None, ahead, onward=False):
            # what comes after an action says the first token of the next frame, what comes after that the second ...
            said = torch.cat([output.flatten(1, 2)[:, places:], beyond], 1)
            said = torch.cat([said, said[:, :1]], 1)  # there is one for each input but an action
            found.append(said.unflatten(1, (-1, self.tokens))[:, :, :places])
        basis = torch.cat(found, 1)
        return basis[:, :, 0], basis

    def drawn_letters(self, state: State, temperature: float, uniform: Tensor) -> Letters:
        now, state = self.now(state), self.full(state)
        length, bonus = state.more["length"], self.bonus(now)
        parts: list[Part] = [(kept_in(state.more), self.seen(length))]
        output, found, own = state.h, [], None
        for p in range(self.config.places):
            letters = drawn(self.logits(self.lettered(output), bonus[:, p]), temperature, uniform[:, p])
            found.append(letters)
            if p + 1 == self.config.places:
                break
            code = letters.each(self.get_buffer("alphabet")).flatten(-2)
            x = letters.each(self.letter).sum(-2) + self.code(code)
            output, new = self.blocks((x + self.moment[length, p])[:, None], parts, None)
            output, own = output[:, 0], new if own is None else joined(own, new)
            parts = [parts[0], (own, None)]
        return Letters.stacked(found)


def joined(kept: Kept, further: Kept) -> Kept:
    """Keys and values, one after another."""
    return [
        (torch.cat([key, more_key], 2), torch.cat([value, more_value], 2))
        for (key, value), (more_key, more_value) in zip(kept, further, strict=True)
    ]
