"""Which M foresees tokens best: each family is trained for the same minutes of one core, on the same latents.

Reads   runs with a V of tokens (trainvae.py --kind fsq and vq), their datasets and cached latents
Writes  docs/results/tokens.md       its section "families"
        RUN/families/<core>-<head>-<seed>.json, with which it resumes

    python -m benchmarks.families exp_dir/fsq exp_dir/vq

Bits are those of a frame's tokens on validation windows, each beginning without memory, as in training. To compare
with: each token stays as it is with a probability of its place's, or else is drawn as they are distributed there.
Dreams begin after 32 real steps; how far they are from the truth after 15 real actions is told in units of how far a
picture is that stands still. What counts is the processor's time, not the clock's: others may be at work meanwhile.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
import torch
from torch import Tensor

from dreamdrive.benchmarks.models import HORIZON, SHOWN, WARM_UP, dream_along, drift_of
from dreamdrive.benchmarks.report import circumstances, table, write_section
from dreamdrive.data.latents import cache_latents, load_sequences
from dreamdrive.data.loaders import Sequences, open_datasets
from dreamdrive.envs.dream import Dream
from dreamdrive.learning.memory import measure, run_epoch
from dreamdrive.learning.memory_settings import MDRNNSettings
from dreamdrive.models.tokens import Tokens
from dreamdrive.models.world_model import Memory, build, load_vision
from dreamdrive.utils.argument_types import positive, positive_float
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder, write_atomically
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.script import run
from dreamdrive.utils.seeds import seed_everything
from dreamdrive.utils.settings import parser
from dreamdrive.utils.spaces import ActionSpace

WINDOW, BATCH, CHUNK = (
    32,
    16,
    10,
)  # steps of a validation window, windows of an update, updates between looks at the clock
STARTS, SAMPLES, TEMPERATURE = 96, 4, 1.0  # of dreams
LAST = 0.1  # share of the learning rate at the end
# sizes with which a few minutes of a core are enough to learn something
SMALL = {"hidden": 128, "layers": 3, "context": 16, "seq_len": 16, "batch_size": 8}
FAMILIES: dict[tuple[str, str], dict] = {
    ("lstm", "once"): {},
    ("lstm", "sequence"): {},
    ("cfc", "once"): {},
    ("frames", "once"): {"learning_rate": 5e-4},
    ("frames", "sequence"): {"learning_rate": 5e-4},
    ("tokens", "once"): SMALL,
    ("tokens", "sequence"): SMALL,
}


@dataclass(frozen=True)
class Learnt:
    """What became of an M.

    Fields:
        bits: a frame's, held out        baseline: of tokens that stay or are marginal
        dream: distance of dreams from the truth over that of pictures that stand still; one dream, and the mean of
            SAMPLES
        updates: that the minutes were enough for
    """

    bits: float
    baseline: float
    dream: tuple[float, float]
    updates: int


def baseline(data: Sequences, vision: Tokens) -> float:
    """Bits of a frame of the validation split if each token stays, or else is as tokens are at its place."""
    pairs = {}
    for split in ("train", "val"):
        found = [data.latents["tokens"][data.frame_offset[e] :][: data.steps[e] + 1] for e in data.episodes(split)]
        now, following = (torch.cat([part[a:b] for part in found]).long() for a, b in ((0, -1), (1, None)))
        pairs[split] = now, following
    bits = 0.0
    for place in range(vision.config.tokens):
        now, following = (part[:, place] for part in pairs["train"])
        stays = float((now == following).double().mean())
        share = torch.bincount(following, minlength=vision.config.codes).double() + 0.5
        share /= share.sum()
        now, following = (part[:, place] for part in pairs["val"])
        bits -= float((stays * (now == following) + (1 - stays) * share[following]).log2().mean())
    return bits


def trained(args: MDRNNSettings, data: Sequences, vision: Tokens, action: int, minutes: float) -> tuple[Memory, int]:
    """An M that has learnt for so many minutes of this process, and how many updates these were enough for."""
    rng = seed_everything(args.seed, 3)
    memory = build("mdrnn", args.config(vision, action, data.reward_spread()), args.kind)
    memory.meet(vision)
    optimizer = torch.optim.Adam(memory.parameters(), args.learning_rate, fused=True)
    draw = torch.Generator().manual_seed(args.seed)
    began, updates, cuts = time.process_time(), 0, np.zeros((0, 2), np.int64)
    with Bar(disable=True) as bar:
        while (gone := (time.process_time() - began) / (60 * minutes)) < 1:
            for group in optimizer.param_groups:
                group["lr"] = args.learning_rate * (1 - (1 - LAST) * gone)
            if len(cuts) < CHUNK * args.batch_size:
                cuts = np.concatenate([cuts, data.cut("train", args.seq_len, rng)])
            chosen, cuts = np.split(cuts, [CHUNK * args.batch_size])
            run_epoch(memory, data, chosen, args, draw, optimizer, bar)
            updates += CHUNK
    return memory.requires_grad_(False), updates


@torch.inference_mode()
def distance(memory: Memory, vision: Tokens, data: Sequences, real: list[Tensor]) -> tuple[float, float]:
    """How far dreams are from the frames, `real` of each validation episode, after HORIZON steps: one, and the mean of
    SAMPLES, over how far a picture is that stands still."""
    rng, episodes = np.random.default_rng(0), data.episodes("val")
    long = np.flatnonzero(data.steps[episodes] >= WARM_UP + HORIZON)
    if not len(long):
        raise UserError(f"no validation episode has {WARM_UP + HORIZON} steps: record longer ones")
    which = rng.choice(long, STARTS)
    first = rng.integers(0, data.steps[episodes[which]] - WARM_UP - HORIZON + 1)
    windows = data.windows(np.stack([episodes[which], first], 1), WARM_UP + HORIZON)
    _, state = memory.observe(windows.z[:, :WARM_UP], windows.action[:, :WARM_UP])
    begun, taken = Dream(windows.z[:, WARM_UP], state), windows.action[:, WARM_UP:]
    truth = windows.z_next[:, WARM_UP:]
    at = first[:, None] + WARM_UP + np.array(SHOWN)
    shown = torch.stack([real[w][torch.from_numpy(t)] for w, t in zip(which, at, strict=True)])
    still = drift_of(vision, begun.z[None, :, None].expand(1, -1, HORIZON, -1), truth, shown)
    free = torch.stack([dream_along(memory, begun, taken, TEMPERATURE, seed) for seed in range(SAMPLES)])
    one, several = (drift_of(vision, dreams, truth, shown).pixel[:, -1].mean() for dreams in (free[:1], free))
    frozen = still.pixel[:, -1].mean()
    return float(np.sqrt(one / frozen)), float(np.sqrt(several / frozen))


def learn(run: Path, minutes: float, seeds: int) -> dict[tuple[str, str], list[Learnt]]:
    """All families on the latents of a run, as far as they are not there yet."""
    where = torch.device("cpu")
    vision, saved = load_vision(run, where)
    if not isinstance(vision, Tokens):
        raise UserError(f"V of {run} has no tokens: train one with `python trainvae.py --kind fsq`")
    datasets = open_datasets(saved["datasets"], saved["world"], str(run))
    cache_latents(run, vision, saved["digest"], datasets, where)
    data = load_sequences(run, vision, saved["digest"], datasets)
    action = ActionSpace.from_dict(saved["world"]["action_space"]).size
    frames = [(dataset, e.index) for dataset in datasets for e in dataset.episodes if e.split == "val"]
    real = [torch.from_numpy(dataset.frames(e, 0, dataset.episodes[e].steps + 1)) for dataset, e in frames]
    assert [len(part) - 1 for part in real] == data.steps[data.episodes("val")].tolist()
    usual = baseline(data, vision)
    found: dict[tuple[str, str], list[Learnt]] = {}
    for (core, head), more in FAMILIES.items():
        for seed in range(seeds):
            path = make_folder(run / "families") / f"{core}-{head}-{seed}.json"
            said = json.loads(path.read_text()) if path.exists() else {}
            if said.get("minutes") != minutes:
                settings = {"batch_size": BATCH, "seq_len": WINDOW, "precision": "fp32", **more}
                args = MDRNNSettings(logdir=run, core=core, head=head, seed=seed, **settings)
                memory, updates = trained(args, data, vision, action, minutes)
                with Bar(disable=True) as bar:
                    nll = measure(memory, data, data.cut("val", args.seq_len, None), args, bar)["nll"]
                drift = distance(memory, vision, data, real)
                said = {"minutes": minutes, "bits": nll / math.log(2), "dream": drift, "updates": updates}
                write_atomically(path, (json.dumps(said, indent=1) + "\n").encode())
            learnt = Learnt(said["bits"], usual, tuple(said["dream"]), said["updates"])
            print(f"{run.name} {core} {head} {seed}: {learnt}", flush=True)
            found.setdefault((core, head), []).append(learnt)
    return found


def rows(name: str, found: dict[tuple[str, str], list[Learnt]]) -> list[list[str]]:
    """Of one V: means over the seeds, with the lowest and the highest."""

    def spread(values: list[float], digits: int) -> str:
        return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"

    first = next(iter(found.values()))[0]
    lines = [[name, "stays or marginal", "", f"{first.baseline:.1f}", "1", "", ""]]
    for (core, head), learnt in found.items():
        bits = [x.bits for x in learnt]
        lines.append(
            [
                name,
                f"{core}, {head}",
                f"{np.mean([x.updates for x in learnt]):,.0f}",
                spread(bits, 1),
                spread([x / first.baseline for x in bits], 3),
                *(spread([x.dream[i] for x in learnt], 2) for i in range(2)),
            ]
        )
    return lines


def main() -> None:
    p = parser(__doc__)
    p.add_argument("runs", type=Path, nargs="+", help="with a V of tokens")
    p.add_argument("--minutes", type=positive_float, default=3.0, help="of one core, for each M")
    p.add_argument("--seeds", type=positive, default=3)
    p.add_argument(
        "--out", type=Path, default=Path("docs/results/tokens.md"), help="document to write the section into"
    )
    args: argparse.Namespace = p.parse_args()
    torch.set_num_threads(1)
    lines = [line for folder in args.runs for line in rows(folder.name, learn(folder, args.minutes, args.seeds))]
    head = ["V", "M", "updates", "bits a frame", "of stays or marginal", "dream", f"mean of {SAMPLES} dreams"]
    write_section(
        args.out,
        "families",
        f"## Families of M\n\n{args.minutes:g} minutes of one core each, {args.seeds} seeds: mean (lowest to highest). "
        f"Dreams: distance from the truth after {HORIZON} real actions over that of a picture that stands still, root "
        f"mean square over pixels.\n\n{table(head, lines)}\n\nMeasured on: {circumstances()}",
    )
    print(f"written into {args.out}")


if __name__ == "__main__":
    run(main)
