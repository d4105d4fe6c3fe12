"""Frames changed at random, from which V learns to see what was there before (trainvae.py --augment).

The objective is the lower bound of a denoising VAE (Im, Ahn, Memisevic & Bengio 2017, "Denoising Criterion for
Variational Auto-Encoding Framework", arXiv 1511.06406): with x~ drawn from what may become of a frame x,

    E_{q(z | x~)} [log p(x | z)] - KL(q(z | x~) || p(z))

so V encodes the changed frame and is to reconstruct the one that it was. Nothing else pulls the posterior of x~ towards
that of x: that both are decoded to x is what brings them together.

Each change comes to a frame with the same probability, whatever else does:

    colour   every pixel p, in [0, 1] a channel, becomes p + A (p - 1/2) + b, with A (C, C) and b (C,) drawn for the
             frame: things of two colours are moved in two ways
    bars     bars of one colour at two opposite sides of the frame
    blob     a rectangle of one colour somewhere
    noise    Gaussian, of a spread drawn for the frame
"""

import torch
from torch import Tensor

SHARE = 0.35  # of the frames that a change comes to; some 0.18 of them are as they were
MIXED = 0.2  # A is uniform within +- this ...
BRIGHTER = 0.2  # ... and so is what all channels of b have in common ...
TINTED = 0.1  # ... and what each has of its own
WIDEST_BAR = 1 / 8  # of the frame's side
SMALLEST_BLOB, LARGEST_BLOB = 1 / 16, 1 / 4  # its sides, of the frame's
LOUDEST = 0.12  # spread of the noise, at most: some 30 of 255 grey levels


def changed(frames: Tensor) -> Tensor:
    """Frames uint8 (B, H, W, C), some of them changed in some ways, by torch's random numbers."""
    pixels = frames.float() / 255
    for change in (colour, bars, blob, noise):
        chosen = torch.rand(len(frames), device=frames.device) < SHARE
        if chosen.any():
            pixels[chosen] = change(pixels[chosen])
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8)


def colour(pixels: Tensor) -> Tensor:
    """pixels (B, H, W, C) in [0, 1], and so below."""
    count, channels = len(pixels), pixels.shape[-1]
    matrix = uniform(pixels, (count, channels, channels), MIXED)
    shift = uniform(pixels, (count, 1), BRIGHTER) + uniform(pixels, (count, channels), TINTED)
    moved = (pixels.flatten(1, 2) - 0.5) @ matrix + shift[:, None]
    return (pixels + moved.view_as(pixels)).clamp(0, 1)


def bars(pixels: Tensor) -> Tensor:
    count, size = len(pixels), pixels.shape[1]
    width = torch.rand(count, 2, device=pixels.device) * WIDEST_BAR * size
    place = torch.arange(size, device=pixels.device)
    hidden = (place < width[:, :1]) | (place >= size - width[:, 1:])  # (B, size)
    upright = torch.rand(count, 1, 1, device=pixels.device) < 0.5
    # half of them black, as a frame around a picture mostly is
    shade = torch.rand(count, pixels.shape[-1], device=pixels.device) * (torch.rand_like(width[:, :1]) < 0.5)
    return painted(pixels, torch.where(upright, hidden[:, None, :], hidden[:, :, None]), shade)


def blob(pixels: Tensor) -> Tensor:
    count, size = len(pixels), pixels.shape[1]
    random = torch.rand(count, 4, device=pixels.device)
    sides = (SMALLEST_BLOB + (LARGEST_BLOB - SMALLEST_BLOB) * random[:, :2]) * size
    first = random[:, 2:] * size - sides / 2  # a part may lie outside
    place = torch.arange(size, device=pixels.device)
    row, column = ((place >= first[:, i, None]) & (place < (first + sides)[:, i, None]) for i in (0, 1))
    shade = torch.rand(count, pixels.shape[-1], device=pixels.device)
    return painted(pixels, row[:, :, None] & column[:, None, :], shade)


def noise(pixels: Tensor) -> Tensor:
    spread = LOUDEST * torch.rand(len(pixels), 1, 1, 1, device=pixels.device)
    return pixels + spread * torch.randn_like(pixels)


def painted(pixels: Tensor, where: Tensor, shade: Tensor) -> Tensor:
    """Pixels in which `where` (B, H, W) bool is True have the frame's shade (B, C)."""
    return torch.where(where[..., None], shade[:, None, None], pixels)


def uniform(like: Tensor, shape: tuple[int, ...], most: float) -> Tensor:
    """Numbers within +-`most`."""
    return (2 * torch.rand(shape, device=like.device) - 1) * most
