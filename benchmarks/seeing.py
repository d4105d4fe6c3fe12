"""What V's losses, and noise on what is seen, change: in V, in M, and in a clone that drives by the two.

Reads   nothing; recordings and runs that are there already are taken, or gone on with
Writes  --folder/data-<noise>/, --folder/<variant>-<seed>/, and in docs/results/tokens.md the sections "losses" and
        "noise"

    python -m benchmarks.seeing --folder exp_dir/seeing --seeds 0 1 2

All of a run is small, so that many can be compared: V sees 30,000 frames of 24 recorded episodes, M goes through them 3
times, the clone learns from the four fifths that the expert drives. A cell takes some 4 minutes of one core.
"""

import argparse
import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
import torch

from dreamdrive.benchmarks.report import circumstances, interval, scored, table, write_section
from dreamdrive.data.loaders import FrameStream, open_datasets
from dreamdrive.models.vae import to_float
from dreamdrive.models.world_model import load_vision
from dreamdrive.scripts.demo import call
from dreamdrive.utils.argument_types import natural, positive
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.metrics import read_csv
from dreamdrive.utils.scores import score_file
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

ROOT = Path(__file__).resolve().parent.parent
ENV = "carracing-fast"
ROLLOUTS, HELD_OUT = 24, 2000  # episodes recorded, and frames that V is measured on
RECORD = f"--env {ENV} --policy expert=0.85,brown=0.15 --rollouts {ROLLOUTS} --action-noise 0.6"
VISION = "--epochs 3 --epoch-frames 10000 --anneal --keep last --patience 3 --nosamples"
MEMORY = "--epochs 3 --anneal --keep last"
CLONE = "--hidden 256 --epochs 8 --evaluate-every 8 --n-samples 1"


@dataclass(frozen=True)
class Variant:
    """A run that differs from the others in one thing.

    Fields:
        name: of its folders        what: in words
        vision: flags of trainvae.py that make it        noise: on what is seen, of 255
    """

    name: str
    what: str
    vision: str = ""
    noise: float = 0.0

    @property
    def tokens(self) -> bool:
        """Whether V has some."""
        return "--kind" in self.vision


LOSSES = [
    Variant("fsq-l2", "`fsq`, squared error", "--kind fsq"),
    Variant("fsq-l1", "`fsq`, absolute error", "--kind fsq --loss l1"),
    Variant("fsq-l2-l1", "`fsq`, both", "--kind fsq --loss l2 l1"),
    Variant("fsq-returns", "`fsq`, and the codes' value", "--kind fsq --returns 8"),
    Variant("vq", "`vq`: averages, commitment 0.25", "--kind vq"),
    Variant("vq-1", "`vq`: averages, commitment 1", "--kind vq --commitment 1"),
    Variant("vq-0", "`vq`: averages, commitment 0", "--kind vq --commitment 0"),
    Variant("vq-gradient", "`vq`: gradient, commitment 1", "--kind vq --book gradient --commitment 1"),
]
NOISE = [Variant(f"noise-{std:g}", f"{std:g}", noise=std) for std in (0.0, 0.05, 0.1, 0.2)]
SECTIONS = {"losses": LOSSES, "noise": NOISE}


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--folder", type=Path, default=Path("exp_dir/seeing"), help="folder of recordings and runs")
    p.add_argument("--seeds", type=natural, nargs="+", default=[0, 1, 2], help="training seeds")
    p.add_argument("--episodes", type=positive, default=16, help=f"tracks of {ENV} of a score")
    p.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="tables to make")
    p.add_argument("--only", nargs="+", metavar="VARIANT", help="train these alone, by their folders' names; no table")
    p.add_argument("--max-workers", type=positive, default=1, help="processes that drive")
    p.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "tokens.md", help="the document")
    return p.parse_args()


def learnt(variant: Variant, seed: int, args: argparse.Namespace) -> dict:
    """All stages of a run, as far as they are not there; what its score's file says."""
    data, folder = (args.folder / name for name in (f"data-{variant.noise:g}", f"{variant.name}-{seed}"))
    path = score_file(folder, "bc", ENV, "simulator")
    where, drives = f"--logdir {shlex.quote(str(folder))}", f"--max-workers {args.max_workers}"

    def stages() -> None:
        noise = f"--obs-noise {variant.noise:g}" if variant.noise else ""
        call(f"data/generation_script.py {RECORD} {noise} --rootdir {shlex.quote(str(data))} {drives}")
        call(f"trainvae.py {where} --dataset {shlex.quote(str(data))} {VISION} {variant.vision} --seed {seed}")
        call(f"trainmdrnn.py {where} {'--core lstm --head once' if variant.tokens else ''} {MEMORY} --seed {seed}")
        call(f"trainbc.py {where} {CLONE} --seed {seed} {drives}")
        call(f"test_controller.py {where} --controller bc --env {ENV} --episodes {args.episodes} {drives}")

    return scored(lambda: path, args.episodes, stages)


def last(folder: Path) -> dict[str, str]:
    """The last row of a stage's metrics."""
    return read_csv(folder / "metrics.csv")[-1]


@torch.inference_mode()
def signal(folder: Path) -> float:
    """V's peak signal to noise ratio, dB, on frames that were held out."""
    vision, saved = load_vision(folder, torch.device("cpu"))
    datasets = open_datasets(saved["datasets"], saved["world"], str(folder))
    errors = []
    for frames in FrameStream(datasets, "val", 100, 0).epoch(0, HELD_OUT):
        made = vision.frames(vision.z(vision.latents(frames)))
        errors.append(float((to_float(frames) - to_float(made)).square().mean()))
    return -10 * math.log10(float(np.mean(errors)))


def row(variant: Variant, args: argparse.Namespace) -> list[str]:
    """What the runs of a variant came to, seed by seed, and the clone's score over all of them."""
    folders = [args.folder / f"{variant.name}-{seed}" for seed in args.seeds]
    vision, memory = ([last(folder / stage) for folder in folders] for stage in ("vae", "mdrnn"))
    scores = [json.loads(score_file(folder, "bc", ENV, "simulator").read_text()) for folder in folders]
    returns = np.array([list(said["returns"].values()) for said in scores])

    def each(rows: list[dict[str, str]], column: str, form: str) -> str:
        return ", ".join(format(float(one[column]), form) for one in rows)

    size = [each(vision, "val_codes", ".0f"), each(vision, "val_bits", ".0f")] if variant.tokens else []
    return [
        variant.what,
        ", ".join(f"{signal(folder):.1f}" for folder in folders),
        each(vision, "val_kept", ".2f"),
        *size,
        each(memory, "val_nll", ".1f"),
        ", ".join(f"{mean:.0f}" for mean in returns.mean(1)),
        f"{returns.mean():.0f} +- {returns.std():.0f}",
        interval(float(returns.mean()), float(np.std(returns.mean(1), ddof=1)), len(args.seeds)),
    ]


def head(section: str) -> list[str]:
    """Of a section's table."""
    first = {"losses": "V", "noise": "noise, of 255"}[section]
    size = ["codes used", "bits a frame"] if section == "losses" else []
    return [first, "PSNR, dB", "keeps", *size, "M, nats a frame", "clone, by seed", "all tracks", "95 % over seeds"]


def main() -> None:
    args = parse_args()
    everything = [variant for section in args.sections for variant in SECTIONS[section]]
    unknown = set(args.only or ()) - {variant.name for variant in everything}
    if unknown:
        names = ", ".join(variant.name for variant in everything)
        raise UserError(f"there is no {', '.join(sorted(unknown))}: --only takes {names}")
    make_folder(args.folder)
    for seed in args.seeds:
        for variant in everything:
            if not args.only or variant.name in args.only:
                learnt(variant, seed, args)
    for section in () if args.only else args.sections:
        rows = [row(variant, args) for variant in SECTIONS[section]]
        text = (
            f"Seeds {', '.join(map(str, args.seeds))}, {args.episodes} tracks of {ENV} each.\n\n"
            f"{table(head(section), rows)}\n\n{circumstances()}"
        )
        write_section(args.out, section, text)
        print(f"{args.out}: {section}")


if __name__ == "__main__":
    run(main)
