"""V: the convolutional variational autoencoder of Ha & Schmidhuber (2018), 64x64 frames to Z latent numbers; for
128x128 frames with a layer more at either end.

And one of convolutions alone, whose latents are an 8x8 grid over the frame: each knows its own surroundings, nothing
that is small must first be found in the whole frame, and traffic survives that the other V needs many times the frames
for, or loses (docs/results.md).

What few pixels show, or faintly, costs little to lose, however much depends on it. Two things keep it: the encoder can
see fine shades beside the colours, and the latents can be asked what rewards the next steps bring (docs/dream.md).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamdrive.models.catalogue import FREE_BITS, GRID, SIZES
from dreamdrive.models.reconstruction import Weights
from dreamdrive.models.world_model import Latents, Vision
from dreamdrive.utils import split_batch

COLOUR_BITS = 3  # of each channel
COLOURS = 1 << 3 * COLOUR_BITS
RAREST = 1e-4  # share of the pixels below which a colour gains no more weight
WIDEST = 1024  # channels where a grid has one place; half as many where it has two, and so on
# Of the fine shades: two colours that are 1 of 255 apart differ by 0.2 rad, and 32 apart look alike
WAVES = 8
GUESS_WIDTH = 256
LIVE = 0.01  # variance of a latent's mean over frames, above which it is live


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of V.

    Fields:
        latent: Z
        channels: C of the frames
        size: their side, 64 or 128 pixels
        grid: whether the latents are a grid over the frame, z.unflatten(-1, (Z / 64, 8, 8)), or see all of it
        fine_shades: whether the encoder sees sine and cosine of 2 pi WAVES colour beside each colour (Fourier features,
            Tancik et al. 2020, arXiv 2006.10739, of one frequency)
        guesses: whether it guesses returns from z
    """

    latent: int = 32
    channels: int = 3
    size: int = 64
    grid: bool = False
    fine_shades: bool = False
    guesses: bool = False

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"frames of {self.size} pixels are not possible: V takes {' or '.join(map(str, SIZES))}")
        if self.latent < 1 or self.channels < 1:
            raise ValueError(f"latent and channels must be 1 or more, not {self.latent} and {self.channels}")
        if self.grid and self.latent % GRID**2:
            raise ValueError(f"{self.latent} latents make no grid of {GRID}x{GRID}: give a multiple of {GRID**2}")


@dataclass
class Posterior:
    """q(z | obs), a diagonal Gaussian.

    Fields:
        mu, logsigma: (..., Z); sigma = exp(logsigma)
    """

    mu: Tensor
    logsigma: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """z = mu + sigma * noise, (..., Z)."""
        how = {"generator": generator, "device": self.mu.device, "dtype": self.mu.dtype}
        noise = split_batch.drawn(torch.randn, self.mu.shape, **how)
        return torch.addcmul(self.mu, self.logsigma.exp(), noise)


class Seen(NamedTuple):
    """What V makes of frames.

    Fields:
        reconstruction: (B, C, H, W) in [0, 1], from a sample of the posterior
        posterior: over z
        guess: (B,) of the returns, from the same sample; None of a V that does not guess
    """

    reconstruction: Tensor
    posterior: Posterior
    guess: Tensor | None


class VAE(Vision):
    """Encoder and decoder; `encode` and `decode` take and give frames as float (B, C, size, size) in [0, 1]."""

    kind = "gaussian"
    sizes = VAEConfig
    stored = ("mu", "logsigma")

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.weights = Weights()
        self._grid() if config.grid else self._whole()
        if config.guesses:
            self.guess = guesser(config.latent)

    @property
    def _planes(self) -> int:
        """Channels that the encoder sees."""
        return planes(self.config.channels, self.config.fine_shades)

    def _whole(self) -> None:
        """Latents that see the whole frame, and the reference's layers."""
        config, large = self.config, self.config.size == 128
        sizes = [self._planes, 32, 64, 128, 256, *([256] if large else [])]
        self.encoder = nn.Sequential(
            *(layer for a, b in pairwise(sizes) for layer in (nn.Conv2d(a, b, 4, stride=2), nn.ReLU(True))),
            nn.Flatten(),
        )
        self.mu: nn.Linear | nn.Conv2d = nn.Linear(1024, config.latent)
        self.logsigma: nn.Linear | nn.Conv2d = nn.Linear(1024, config.latent)
        self.expand = nn.Linear(config.latent, 1024)
        # The reference's first transposed convolution has a 1x1 input: a matrix product with the same parameters, and
        # faster as one.
        self.first = nn.Linear(1024, 128 * 5 * 5)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(128, 64, 5, stride=2),
            nn.ReLU(True),
            nn.ConvTranspose2d(64, 32, 6, stride=2),
            nn.ReLU(True),
            *(
                [
                    nn.ConvTranspose2d(32, 16, 6, stride=2),
                    nn.ReLU(True),
                    nn.ConvTranspose2d(16, config.channels, 4, stride=2, padding=1),
                ]
                if large
                else [nn.ConvTranspose2d(32, config.channels, 6, stride=2)]
            ),
            nn.Sigmoid(),
        )

    def _grid(self) -> None:
        """Latents that are a grid."""
        config = self.config
        widths = grid_widths(config.size, GRID)
        depth = config.latent // GRID**2
        self.encoder = grid_encoder(self._planes, widths)
        self.mu = nn.Conv2d(widths[-1], depth, 1)
        self.logsigma = nn.Conv2d(widths[-1], depth, 1)
        self.decoder = grid_decoder(depth, widths, config.channels)

    def encode(self, obs: Tensor) -> Posterior:
        """obs (B, C, size, size) in [0, 1] -> posterior over z (B, Z)."""
        if self.config.fine_shades:
            obs = with_fine_shades(obs)
        features = self.encoder(obs)  # (B, 1024), or of a grid (B, 128, 8, 8)
        return Posterior(self.mu(features).flatten(1), self.logsigma(features).flatten(1))

    def decode(self, z: Tensor) -> Tensor:
        """z (B, Z) -> reconstruction (B, C, size, size) in [0, 1]."""
        grid = (
            z.unflatten(1, (-1, GRID, GRID))
            if self.config.grid
            else F.relu(self.first(F.relu(self.expand(z)))).unflatten(1, (128, 5, 5))
        )
        return self.decoder(grid.to(memory_format=torch.channels_last))

    def forward(self, frames: Tensor) -> Seen:
        """Of frames uint8 (B, H, W, C)."""
        posterior = self.encode(to_float(frames))
        z = posterior.sample()
        return Seen(self.decode(z), posterior, self.guess(z)[:, 0] if self.config.guesses else None)

    def weigh(self, weights: Weights) -> None:
        self.weights = weights

    @property
    def seeing(self) -> list[nn.Module]:
        return [self.encoder, self.mu, self.logsigma]

    def loss(self, frames: Tensor, output: Seen, returns: Tensor | None = None) -> dict[str, Tensor]:
        error = frame_error(frames, output.reconstruction, self.weights)
        losses = vae_loss(error, output.posterior, self.weights.beta, self.weights.free_bits)
        return with_returns(losses, output.guess, returns, self.weights.returns)

    def usage(self, latents: Latents) -> dict[str, float]:
        return {"live": int((latents["mu"].var(0) > LIVE).sum())}

    def latents(self, frames: Tensor) -> Latents:
        posterior = self.encode(to_float(frames))
        return {"mu": posterior.mu, "logsigma": posterior.logsigma}

    @property
    def draws(self) -> int:
        return self.config.latent

    def z(self, latents: Latents, normal: Tensor | None = None) -> Tensor:
        return latents["mu"] if normal is None else latents["mu"] + latents["logsigma"].exp() * normal

    def prior(self, num: int, generator: torch.Generator) -> Tensor:
        return torch.randn(num, self.config.latent, generator=generator, device=generator.device)

    def fixed(self, z: Tensor) -> Latents:
        return {"mu": z, "logsigma": torch.full_like(z, -torch.inf)}

    def frames(self, z: Tensor) -> Tensor:
        return to_uint8(self.decode(z))

    def config_dict(self) -> dict:
        return asdict(self.config)

    @classmethod
    def from_config(cls, config: dict) -> "VAE":
        return cls(VAEConfig(**config))


def planes(channels: int, fine_shades: bool) -> int:
    """Channels that an encoder sees."""
    return channels * (3 if fine_shades else 1)


def with_fine_shades(obs: Tensor) -> Tensor:
    """(B, C, H, W) in [0, 1] -> (B, 3 C, H, W): sine and cosine of each colour beside it."""
    phase = 2 * math.pi * WAVES * obs
    return torch.cat([obs, phase.sin(), phase.cos()], 1)


def guesser(latent: int) -> nn.Sequential:
    """z (B, Z) -> (B, 1), the returns to come."""
    return nn.Sequential(nn.Linear(latent, GUESS_WIDTH), nn.SiLU(), nn.Linear(GUESS_WIDTH, 1))


def with_returns(
    losses: dict[str, Tensor], guess: Tensor | None, returns: Tensor | None, weight: float
) -> dict[str, Tensor]:
    """Losses with that of the guessed returns (B,), which weighs `weight`, where there is a guess and something to
    guess."""
    if guess is None or returns is None:
        return losses
    known = ~returns.isnan()
    missed = (guess.float() - returns.nan_to_num()).square() * known
    error = missed.sum() / split_batch.share(split_batch.total(known.sum()).clamp_min(1))
    return {**losses, "returns": error, "loss": losses["loss"] + weight * error}


def grid_widths(size: int, side: int) -> tuple[int, ...]:
    """Channels after each layer that halves the sides, from `size` pixels to `side` places."""
    halvings = (size // side).bit_length() - 1
    return tuple((WIDEST // side) >> halving for halving in reversed(range(halvings)))


def grid_encoder(planes: int, widths: Sequence[int]) -> nn.Sequential:
    """Frames (B, planes, H, W) -> features (B, widths[-1], side, side): every layer halves the sides, but for the last,
    which looks around."""
    halve = (
        layer
        for a, b in pairwise((planes, *widths))
        for layer in (nn.Conv2d(a, b, 4, stride=2, padding=1), nn.ReLU(True))
    )
    return nn.Sequential(*halve, nn.Conv2d(widths[-1], widths[-1], 3, padding=1), nn.ReLU(True))


def grid_decoder(depth: int, widths: Sequence[int], channels: int) -> nn.Sequential:
    """The way back, from (B, depth, side, side) to colours (B, channels, H, W) in [0, 1]: two layers look around, then
    every layer doubles the sides."""
    wide = widths[-1]
    double = (
        layer
        for a, b in pairwise((*widths[::-1], channels))
        for layer in (nn.ReLU(True), nn.ConvTranspose2d(a, b, 4, stride=2, padding=1))
    )
    return nn.Sequential(
        nn.Conv2d(depth, wide, 3, padding=1), nn.ReLU(True), nn.Conv2d(wide, wide, 3, padding=1), *double, nn.Sigmoid()
    )


def frame_error(frames: Tensor, made: Tensor, weights: Weights) -> Tensor:
    """The error of what was made (B, C, H, W) of frames uint8 (B, H, W, C), a mean over them."""
    obs = to_float(frames)
    weight = weights.of_pixels(obs)
    if weights.colours is not None:
        of_colours = weights.colours[colour_index(frames)][:, None]
        weight = of_colours if weight is None else weight * of_colours
    return weights.error(obs, made, weight)


def vae_loss(error: Tensor, posterior: Posterior, beta: float = 1.0, free_bits: float = FREE_BITS) -> dict[str, Tensor]:
    """Negative evidence lower bound with free bits, a mean over the batch, of which `error` is the first part; `beta`
    weighs the second (Higgins et al. 2017).

    KL(q || N(0, 1)): summed over Z, at least free_bits * Z per frame
    """
    mu, logsigma = posterior.mu.float(), posterior.logsigma.float()
    # (B,), Kingma & Welling 2014, appendix B
    kl = -0.5 * (1 + 2 * logsigma - mu.square() - (2 * logsigma).exp()).sum(1)
    free = torch.full_like(kl, free_bits * mu.shape[1])
    return {"loss": error + beta * torch.maximum(kl, free).mean(), "reconstruction": error, "kl": kl.mean()}


def colour_index(obs: Tensor) -> Tensor:
    """Which of COLOURS colours each pixel of uint8 frames (..., H, W, C) has, (..., H, W) int64; of more than three
    channels the first three count."""
    levels = (obs[..., :3] >> (8 - COLOUR_BITS)).long()
    index = levels[..., 0]
    for c in range(1, levels.shape[-1]):
        index = index + (levels[..., c] << (COLOUR_BITS * c))
    return index


def colour_weights(obs: Tensor, balance: float) -> Tensor:
    """(COLOURS,) weights of colours for the reconstruction error: their share in frames (B, H, W, C) uint8 to the power
    of -balance, and 1 on average over those pixels.

    With 0 all count alike; with 1 each colour as much as any other, however little of it there is: small things then
    survive.
    """
    count = torch.bincount(colour_index(obs).flatten(), minlength=COLOURS).double()
    weight = count.clamp(min=count.sum() * RAREST).pow(-balance)
    return (weight * count.sum() / (weight * count).sum()).float()


def to_float(obs: Tensor) -> Tensor:
    """uint8 frames (B, H, W, C) -> float (B, C, H, W) in [0, 1], channels_last in memory."""
    return obs.permute(0, 3, 1, 2).float().div_(255)


def to_uint8(obs: Tensor) -> Tensor:
    """float frames (B, C, H, W) in [0, 1] -> uint8 (B, H, W, C)."""
    return obs.float().clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
