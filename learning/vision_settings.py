"""What stage 2 can be told: V's kind and sizes, what its loss weighs, and how it learns."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dreamdrive.models.catalogue import BOOKS, COMMITMENT, FREE_BITS, GRID, RETURN_STEPS, TERMS, TOKENS
from dreamdrive.utils.argument_types import learning_rate, natural_float, positive, share
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.settings import Fitting, flag

HALVED_AFTER = 2  # epochs without progress, the learning rate
KIND_NAMES = {"vae": "gaussian", "fsq": "fsq", "vq": "vq"}  # of --kind, as models.world_model.KINDS has them
NUMBERS = ("--kind vae", lambda args: args.kind == "vae")  # what alone some flags are for
BOOK = ("--kind vq", lambda args: args.kind == "vq")
FREEZES = ("encoder", "all")


def sees_features(args: "VAESettings") -> bool:
    return "perceptual" in args.loss


@dataclass(frozen=True, kw_only=True)
class VAESettings(Fitting):
    """What stage 2 can be told."""

    GROUPS: ClassVar[dict[str, str]] = {
        "data": "dataset mirror augment",
        "V": "kind latent grid tokens book fine_shades init freeze",
        "loss": "loss vgg beta free_bits commitment colour_balance moving_balance returns",
        "learning": "epochs epoch_frames batch_size learning_rate patience",
        "run": "nosamples",
    }

    dataset: tuple[Path, ...] = flag((Path("datasets/carracing"),), Path, "folders written by stage 1", nargs="+")
    init: Path | None = flag(None, Path, "begin with V of this run, of the same kind and sizes")
    freeze: str | None = flag(
        None,
        help="what of that stays as it is: what makes latents of frames, or all of it, and nothing is trained",
        choices=FREEZES,
        fixed=True,
        where=("a V that begins as another, with --init", lambda args: args.init is not None),
    )
    kind: str = flag(
        "vae",
        help="numbers with a spread, tokens whose codes are rounded numbers (fsq), or tokens from a book of codes (vq)",
        choices=tuple(KIND_NAMES),
        fixed=True,
    )
    latent: int = flag(32, positive, "Z, numbers a frame is compressed to", fixed=True, where=NUMBERS)
    grid: bool = flag(
        False,
        help="latents as an 8x8 grid over the frame, Z a multiple of 64, instead of each seeing all of it: "
        "for worlds where small things in their places matter",
        fixed=True,
        where=NUMBERS,
    )
    tokens: int = flag(
        16,
        int,
        "of a frame, in a square",
        choices=TOKENS,
        fixed=True,
        where=("--kind fsq or vq", lambda args: args.kind != "vae"),
    )
    book: str = flag(
        BOOKS[0],
        help="codes are running averages of what is near to them and begin anew where nothing is, or are learnt by the "
        "gradient of their distance from it",
        choices=BOOKS,
        fixed=True,
        where=BOOK,
    )
    epochs: int = flag(20, positive, "train up to this epoch; more than before resumes")
    colour_balance: float = flag(
        0.0,
        natural_float,
        "0: every pixel's error counts alike; up to 1: every colour's, so that small things of a colour of their "
        "own survive",
        fixed=True,
    )
    moving_balance: float = flag(
        0.0,
        share,
        "0: every pixel's error counts alike; towards 1: as much as the pixel differs from the mean frame there, so "
        "that small things that move survive, and are learnt sooner",
        fixed=True,
    )
    beta: float = flag(
        1.0,
        natural_float,
        "weight of the KL divergence; below 1 the latents keep more detail, and M has more to predict",
        fixed=True,
        where=NUMBERS,
    )
    free_bits: float = flag(
        FREE_BITS,
        natural_float,
        "nats a latent dimension, up to which the KL divergence costs nothing",
        fixed=True,
        where=NUMBERS,
    )
    commitment: float = flag(
        COMMITMENT,
        natural_float,
        "weight of the squared distance of what is seen from the code that it becomes",
        fixed=True,
        where=BOOK,
    )
    fine_shades: bool = flag(
        False,
        help="let the encoder see fine shades beside the colours, so that it can tell what differs by a few grey "
        "levels",
        fixed=True,
    )
    returns: float = flag(
        0.0,
        natural_float,
        f"weight of what V guesses, from its latents, the rewards of the next {RETURN_STEPS} steps to be: above 0 they "
        "keep what rewards depend on, however few pixels show it; 8 does for CarRacing",
        fixed=True,
    )
    loss: tuple[str, ...] = flag(
        ("l2",),
        help="of frames: squared error, absolute error, distance of features, or the sum of several",
        choices=TERMS,
        nargs="+",
        fixed=True,
    )
    vgg: Path | None = flag(
        None, Path, "file of torchvision's VGG-16, whose features they are", where=("--loss perceptual", sees_features)
    )
    augment: bool = flag(
        False,
        help="train on frames that have been given other colours, bars, blobs and noise, to be seen as they were "
        "before",
        fixed=True,
    )
    mirror: bool = flag(
        False, help="train on all frames in a mirror, too, where the world is the same there", fixed=True
    )
    epoch_frames: int = flag(100_000, positive, "frames an epoch takes (the whole dataset at most)")
    batch_size: int = flag(64, positive, "frames")
    learning_rate: float = flag(1e-3, learning_rate, f"Adam's; halved after {HALVED_AFTER} epochs without progress")
    patience: int = flag(8, positive, "stop after so many epochs without progress")
    nosamples: bool = flag(False, help="write neither samples/epoch_NNN.png nor the film of a held-out episode")

    def check(self) -> None:
        super().check()
        if self.grid and self.latent % GRID**2:
            raise UserError(f"--grid takes --latent in multiples of {GRID**2}, not {self.latent}")
        if sees_features(self) and self.vgg is None:
            raise UserError(
                "--loss perceptual compares what a VGG-16 sees: give the file of torchvision's weights to --vgg "
                "(nothing is downloaded)"
            )

    def config(self, channels: int, size: int) -> dict:
        """Sizes of V, for frames of so many channels and pixels a side."""
        numbers = {"latent": self.latent, "grid": self.grid}
        common = {"channels": channels, "size": size, "fine_shades": self.fine_shades, "guesses": self.returns > 0}
        places = {"tokens": self.tokens} | ({"book": self.book} if self.kind == "vq" else {})
        return {**(numbers if self.kind == "vae" else places), **common}
