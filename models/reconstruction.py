"""How far what V makes of frames is from them, and all that its loss weighs.

    l2            squared error (Ha & Schmidhuber 2018, appendix A.1)
    l1            absolute error (Micheli et al. 2023, arXiv 2209.00588)
    perceptual    distance of the features that a VGG-16 trained on photographs sees in both (Zhang et al. 2018, arXiv
                  1801.03924, eq. 1, all of them weighing the same); its weights come from a file, nothing is downloaded

Each is summed over pixels and channels, or as much as its mean would be then; several are added.
"""

import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamdrive.models.catalogue import COMMITMENT, FREE_BITS
from dreamdrive.utils import split_batch
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import raise_if_unreadable

LEAST_AWAY = 1e-3  # from the mean frame, on average, below which nothing is taken to move
# VGG-16's convolutions, channels of each, in blocks between which sides are halved (Simonyan & Zisserman 2015,
# configuration D); features are compared at the end of each block but for the last two, which end a convolution early
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# Of colours in [0, 1], over ImageNet, as torchvision's weights expect them
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Perceptual(nn.Module):
    """The convolutions of a VGG-16, and distances in them."""

    def __init__(self) -> None:
        super().__init__()
        channels, self.blocks = 3, nn.ModuleList()
        for widths in BLOCKS:
            layers: list[nn.Module] = []
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            self.blocks.append(nn.Sequential(*layers))
        for name, values in (("mean", MEAN), ("spread", SPREAD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def features(self, frames: Tensor) -> list[Tensor]:
        """Of frames (B, 3, H, W) in [0, 1]: after each block, of length 1 at each place."""
        seen, found = (frames - self.get_buffer("mean")) / self.get_buffer("spread"), []
        for number, block in enumerate(self.blocks):
            seen = block(F.max_pool2d(seen, 2) if number else seen)
            found.append(F.normalize(seen, dim=1, eps=1e-10))
        return found

    def forward(self, obs: Tensor, made: Tensor) -> Tensor:
        """(B,): squared distances of the features of both, summed over channels and blocks, means over places."""
        pairs = zip(self.features(obs), self.features(made), strict=True)
        return sum(((a - b).square().sum(1).mean((1, 2)) for a, b in pairs), torch.zeros(len(obs), device=obs.device))

    @classmethod
    def load(cls, path: Path) -> "Perceptual":
        """From a file of torchvision's VGG-16 (`features.0.weight`, ...); UserError where it is none."""
        model = cls()
        wanted = model.state_dict()
        names = [name for name in wanted if name.endswith("weight")]
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            there = sorted(
                (name for name in content if name.startswith("features.") and name.endswith(".weight")),
                key=lambda name: int(name.split(".")[1]),
            )
            for ours, theirs in zip(names, there, strict=True):
                for kind in ("weight", "bias"):
                    own = f"{ours.removesuffix('weight')}{kind}"
                    value = content[f"{theirs.removesuffix('weight')}{kind}"]
                    if value.shape != wanted[own].shape or not torch.isfinite(value).all():
                        raise ValueError(f"{theirs} has another shape, or NaN in it")
                    wanted[own].copy_(value)
        except (OSError, pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError) as error:
            raise_if_unreadable(path, error)
            raise not_vgg(path) from None
        except (KeyError, ValueError, AttributeError, TypeError, IndexError):
            raise not_vgg(path) from None
        model.load_state_dict(wanted)
        return model.eval().requires_grad_(False)


def not_vgg(path: Path) -> UserError:
    if not path.exists():
        return UserError(f"{path} is not there: give the file of torchvision's VGG-16 weights to --vgg")
    return UserError(f"{path} does not hold the weights of torchvision's VGG-16: give the file it comes as to --vgg")


@dataclass(frozen=True)
class Weights:
    """What V's loss weighs.

    Fields:
        beta: weight of what keeps latents near their prior
        colours: (COLOURS,) weights of pixels by their colours, or None: all count alike (models.vae.colour_weights)
        usual: (1, C, H, W) the mean frame, in [0, 1]        moving: of the weight of a pixel's error, the share that is
            how far the pixel is from that, over how far pixels are on average; without `usual` all count alike
        returns: weight of how well returns are guessed
        free_bits: nats per latent dimension, up to which that costs nothing
        terms: of the error of frames, some of TERMS
        perceptual: what sees features, where they are one of the terms
        commitment: weight of how far numbers are from the code of a book that is nearest
    """

    beta: float = 1.0
    colours: Tensor | None = None
    usual: Tensor | None = None
    moving: float = 0.0
    returns: float = 0.0
    free_bits: float = FREE_BITS
    terms: tuple[str, ...] = ("l2",)
    perceptual: Perceptual | None = None
    commitment: float = COMMITMENT

    def of_pixels(self, obs: Tensor) -> Tensor | None:
        """What the pixels of frames (B, C, H, W) in [0, 1] weigh by how unusual they are there, (B, 1, H, W), 1 on
        average over a batch."""
        if self.usual is None:
            return None
        away = (obs - self.usual).abs().mean(1, keepdim=True)
        return 1 - self.moving + self.moving * away / split_batch.averaged(away.mean()).clamp_min(LEAST_AWAY)

    def error(self, obs: Tensor, made: Tensor, weight: Tensor | None = None) -> Tensor:
        """A mean over frames (B, C, H, W) in [0, 1] of their error; pixels times `weight` (B, 1, H, W), if there is
        one, but for features."""
        made, found = made.float(), obs.new_zeros(())
        for term in self.terms:
            if term == "perceptual":
                assert self.perceptual is not None, "what sees features comes with them"
                found = found + self.perceptual(obs, made).mean() * obs[0].numel()
                continue
            away = (made - obs).square() if term == "l2" else (made - obs).abs()
            found = found + (away if weight is None else away * weight).flatten(1).sum(1).mean()
        return found
