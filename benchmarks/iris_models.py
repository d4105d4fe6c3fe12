"""IRIS's tokenizer and transformer (Micheli et al. 2023, arXiv 2209.00588) at its sizes, written plainly from what the
paper says, to measure ours against: fp32, keys and values kept from step to step, emptied and primed anew with the last
frame when the context is full."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE, TOKENS, VOCABULARY, CODE = 64, 16, 512, 512
CHANNELS, LEVELS, BLOCKS, ATTENTION_AT = 64, 5, 2, (8, 16)
LAYERS, HEADS, WIDTH, DROPOUT, CONTEXT = 10, 4, 256, 0.1, 20
INPUTS = TOKENS + 1  # of a frame: its tokens and an action


def normalised(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            normalised(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            normalised(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before, self.asked = normalised(channels), nn.Conv2d(channels, 3 * channels, 1)
        self.answered = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.asked(self.before(x)).flatten(2).transpose(1, 2).chunk(3, -1)
        found = F.scaled_dot_product_attention(query, key, value)
        return x + self.answered(found.transpose(1, 2).unflatten(2, x.shape[2:]))


def level(side: int, blocks: int) -> list[nn.Module]:
    """The blocks of frames of `side` pixels."""
    found: list[nn.Module] = []
    for _ in range(blocks):
        found += [Residual(CHANNELS), *([Attention(CHANNELS)] if side in ATTENTION_AT else [])]
    return found


def middle() -> list[nn.Module]:
    return [Residual(CHANNELS), Attention(CHANNELS), Residual(CHANNELS)]


def last(channels: int) -> list[nn.Module]:
    return [normalised(CHANNELS), nn.SiLU(), nn.Conv2d(CHANNELS, channels, 3, padding=1)]


class Tokenizer(nn.Module):
    """A VQ-VAE whose decoder, as that of VQGAN (Esser et al. 2021), has a block more a level than its encoder."""

    def __init__(self) -> None:
        super().__init__()
        down: list[nn.Module] = [nn.Conv2d(3, CHANNELS, 3, padding=1)]
        up: list[nn.Module] = [nn.Conv2d(CODE, CHANNELS, 3, padding=1), *middle()]
        sides = [SIDE >> i for i in range(LEVELS)]
        for side in sides:
            down += level(side, BLOCKS)
            if side != sides[-1]:
                down.append(nn.Conv2d(CHANNELS, CHANNELS, 3, 2, padding=1))
        for side in sides[::-1]:
            up += level(side, BLOCKS + 1)
            if side != SIDE:
                up += [nn.Upsample(scale_factor=2.0), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)]
        self.encoder = nn.Sequential(*down, *middle(), *last(CODE), nn.Conv2d(CODE, CODE, 1))
        self.decoder = nn.Sequential(nn.Conv2d(CODE, CODE, 1), *up, *last(3))
        self.book = nn.Embedding(VOCABULARY, CODE)
        self.book.weight.data.uniform_(-1 / VOCABULARY, 1 / VOCABULARY)

    def tokens(self, before: Tensor) -> Tensor:
        """Numbers (B, D, 4, 4) -> (B, 16)."""
        flat = before.flatten(2).transpose(1, 2).flatten(0, 1)
        away = flat.square().sum(1, keepdim=True) - 2 * flat @ self.book.weight.T + self.book.weight.square().sum(1)
        return away.argmin(1).view(len(before), -1)

    def encode(self, frames: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> tokens (B, 16)."""
        return self.tokens(self.encoder(frames.movedim(-1, 1).float() / 127.5 - 1))

    def loss(self, frames: Tensor) -> Tensor:
        """The codes' error, commitment and the absolute error of the frames, without what a perceptual loss costs."""
        wanted = frames.movedim(-1, 1).float() / 127.5 - 1
        before = self.encoder(wanted)
        codes = self.book(self.tokens(before.detach())).transpose(1, 2).unflatten(2, before.shape[2:])
        through = before + (codes - before).detach()
        moved = (before.detach() - codes).square().mean() + (before - codes.detach()).square().mean()
        return moved + (self.decoder(through) - wanted).abs().mean()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.answered, self.dropout = nn.Linear(WIDTH, WIDTH), nn.Dropout(DROPOUT)
        self.layers = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH), nn.Dropout(DROPOUT)
        )

    def forward(self, x: Tensor, kept: Tensor | None, at: int) -> Tensor:
        """x (B, N, D); kept (2, B, H, M, d), written at the places after `at`, or None in training."""
        query, key, value = (
            layer(self.before(x)).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        if kept is not None:
            end = at + x.shape[1]
            kept[0, :, :, at:end], kept[1, :, :, at:end] = key, value
            key, value = kept[0, :, :, :end], kept[1, :, :, :end]
        ahead = torch.ones(x.shape[1], key.shape[2], dtype=torch.bool).tril(key.shape[2] - x.shape[1])
        scores = (query @ key.transpose(-1, -2) * key.shape[-1] ** -0.5).masked_fill(~ahead, -torch.inf)
        found = self.dropout(scores.softmax(-1)) @ value
        x = x + self.dropout(self.answered(found.transpose(1, 2).flatten(2)))
        return x + self.layers(self.after(x))


def head(outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, outputs))


class Transformer(nn.Module):
    """`actions`: how many there are to choose from."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.token, self.action = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(actions, WIDTH)
        self.place = nn.Embedding(CONTEXT * INPUTS, WIDTH)
        self.blocks, self.norm = nn.ModuleList(Block() for _ in range(LAYERS)), nn.LayerNorm(WIDTH)
        self.tokens, self.rewards, self.ends = head(VOCABULARY), head(3), head(2)
        self.apply(begin)

    def run(self, x: Tensor, kept: list[Tensor] | None, at: int) -> Tensor:
        x = x + self.place(at + torch.arange(x.shape[1]))
        for number, block in enumerate(self.blocks):
            x = block(x, None if kept is None else kept[number], at)
        return self.norm(x)

    def loss(self, tokens: Tensor, actions: Tensor, rewards: Tensor, ends: Tensor) -> Tensor:
        """tokens (B, T, 16), actions, rewards, ends (B, T) int64."""
        inputs = torch.cat([self.token(tokens), self.action(actions)[:, :, None]], 2).flatten(1, 2)
        output = self.run(inputs, None, 0).unflatten(1, (-1, INPUTS))
        said = self.tokens(following(output))
        wanted = tokens[:, 1:].flatten()
        reward, end = self.rewards(output[:, :, -1]).flatten(0, 1), self.ends(output[:, :, -1]).flatten(0, 1)
        loss = F.cross_entropy(said, wanted) + F.cross_entropy(reward, rewards.flatten())
        return loss + F.cross_entropy(end, ends.flatten())

    def empty(self, num: int) -> list[Tensor]:
        return [torch.empty(2, num, HEADS, CONTEXT * INPUTS, WIDTH // HEADS) for _ in range(LAYERS)]

    @torch.inference_mode()
    def dream(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """From tokens (B, 16) through actions (T, B): the tokens of the last frame."""
        kept, at = self.empty(len(tokens)), 0
        self.run(self.token(tokens), kept, 0)
        at = TOKENS
        for action in actions:
            if at + INPUTS > CONTEXT * INPUTS:
                self.run(self.token(tokens), kept, 0)
                at = TOKENS
            output, found = self.run(self.action(action)[:, None], kept, at), []
            self.rewards(output[:, 0]).softmax(-1).multinomial(1)
            self.ends(output[:, 0]).softmax(-1).multinomial(1)
            at += 1
            for _ in range(TOKENS):
                found.append(self.tokens(output[:, 0]).softmax(-1).multinomial(1))
                output = self.run(self.token(found[-1]), kept, at)
                at += 1
            tokens = torch.cat(found, 1)
        return tokens


def following(output: Tensor) -> Tensor:
    """Of outputs (B, T, 17, D) those from which the tokens of frames 1 to T - 1 are said, (B * (T - 1) * 16, D)."""
    flat = output.flatten(1, 2)[:, TOKENS:-1]
    return flat.unflatten(1, (-1, INPUTS))[:, :, :TOKENS].flatten(0, 2)


def begin(layer: nn.Module) -> None:
    """Weights as GPT-2's begin."""
    if isinstance(layer, (nn.Linear, nn.Embedding)):
        nn.init.normal_(layer.weight, std=0.02)
    if isinstance(layer, nn.Linear):
        nn.init.zeros_(layer.bias)
