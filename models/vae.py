"""V: the convolutional variational autoencoder of Ha & Schmidhuber (2018), 64x64 frames to Z latent numbers."""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FREE_BITS = 0.5  # nats per latent dimension that cost nothing; Ha & Schmidhuber's kl_tolerance


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of V.

    Fields:
        latent: Z
        channels: C of the frames; frames are 64x64
    """

    latent: int = 32
    channels: int = 3

    def __post_init__(self) -> None:
        if self.latent < 1 or self.channels < 1:
            raise ValueError(f"latent and channels must be 1 or more, not {self.latent} and {self.channels}")


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
        noise = torch.randn(self.mu.shape, generator=generator, device=self.mu.device, dtype=self.mu.dtype)
        return torch.addcmul(self.mu, self.logsigma.exp(), noise)


class Upsample(nn.Module):
    """A transposed convolution of stride 2, computed as one ordinary 3x3 convolution and a pixel shuffle.

    Same parameters and same result as `nn.ConvTranspose2d(inputs, outputs, kernel, stride=2)` for a kernel of 5 or 6: output pixel (2 i + a, 2 j + b) only
    meets the kernel's taps of parity (a, b), so the four parities are four output channels of a stride-1 convolution (Shi et al. 2016). Whether
    it is faster depends on the processor: see docs/benchmarks.md.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        reference = nn.ConvTranspose2d(inputs, outputs, kernel, stride=2)  # for its initialisation
        self.weight, self.bias, self.crop = reference.weight, reference.bias, 6 - kernel

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, 2 H + kernel - 2, 2 W + kernel - 2)."""
        inputs, outputs = self.weight.shape[:2]
        weight = F.pad(self.weight, (0, self.crop, 0, self.crop)) if self.crop else self.weight
        taps = weight.view(inputs, outputs, 3, 2, 3, 2).flip(2, 4)  # a correlation, so the taps run backwards
        kernel = taps.permute(1, 3, 5, 0, 2, 4).reshape(4 * outputs, inputs, 3, 3)
        phases = F.conv2d(features, kernel.contiguous(memory_format=torch.channels_last), self.bias.repeat_interleave(4), padding=2)
        picture = F.pixel_shuffle(phases, 2)
        return picture[..., : -self.crop, : -self.crop] if self.crop else picture


class VAE(nn.Module):
    """Encoder and decoder; frames enter and leave as float (B, C, 64, 64) in [0, 1]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        sizes = [config.channels, 32, 64, 128, 256]
        self.encoder = nn.Sequential(*(layer for a, b in zip(sizes, sizes[1:], strict=False) for layer in (nn.Conv2d(a, b, 4, stride=2), nn.ReLU())))
        self.mu = nn.Linear(1024, config.latent)
        self.logsigma = nn.Linear(1024, config.latent)
        self.expand = nn.Linear(config.latent, 1024)
        # The reference's first transposed convolution has a 1x1 input: a matrix product with the same parameters, and faster as one.
        self.first = nn.Linear(1024, 128 * 5 * 5)
        self.decoder = nn.Sequential(
            Upsample(128, 64, 5), nn.ReLU(),
            Upsample(64, 32, 6), nn.ReLU(),
            Upsample(32, config.channels, 6), nn.Sigmoid(),
        )

    def encode(self, obs: Tensor) -> Posterior:
        """obs (B, C, 64, 64) in [0, 1] -> posterior over z (B, Z)."""
        features = self.encoder(obs).flatten(1)  # (B, 1024)
        return Posterior(self.mu(features), self.logsigma(features))

    def decode(self, z: Tensor) -> Tensor:
        """z (B, Z) -> reconstruction (B, C, 64, 64) in [0, 1]."""
        grid = F.relu(self.first(F.relu(self.expand(z)))).unflatten(1, (128, 5, 5))
        return self.decoder(grid.to(memory_format=torch.channels_last))

    def forward(self, obs: Tensor) -> tuple[Tensor, Posterior]:
        posterior = self.encode(obs)
        return self.decode(posterior.sample()), posterior

    def config_dict(self) -> dict:
        """Plain values from which `VAE(VAEConfig(**values))` rebuilds the model."""
        return asdict(self.config)


def vae_loss(obs: Tensor, reconstruction: Tensor, posterior: Posterior) -> dict[str, Tensor]:
    """Negative evidence lower bound with free bits, a mean over the batch.

    reconstruction error: squared, summed over pixels and channels (Ha & Schmidhuber 2018, appendix A.1)
    KL(q || N(0, 1)) summed over Z, at least FREE_BITS * Z per frame
    """
    squared = (reconstruction.float() - obs).square().flatten(1).sum(1).mean()
    mu, logsigma = posterior.mu.float(), posterior.logsigma.float()
    kl = -0.5 * (1 + 2 * logsigma - mu.square() - (2 * logsigma).exp()).sum(1)  # (B,), Kingma & Welling 2014, appendix B
    free = torch.full_like(kl, FREE_BITS * mu.shape[1])
    return {"loss": squared + torch.maximum(kl, free).mean(), "reconstruction": squared, "kl": kl.mean()}


def to_float(obs: Tensor) -> Tensor:
    """uint8 frames (B, H, W, C) -> float (B, C, H, W) in [0, 1], channels_last in memory."""
    return obs.permute(0, 3, 1, 2).float().div_(255)


def to_uint8(obs: Tensor) -> Tensor:
    """float frames (B, C, H, W) in [0, 1] -> uint8 (B, H, W, C)."""
    return obs.float().clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
