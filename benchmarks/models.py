"""Whether the models are good, not just trained: V and M of a run on validation episodes, against the simplest things
they must beat.

Reads   exp_dir/vae/best.tar, exp_dir/mdrnn/best.tar, exp_dir/mdrnn/args.json, exp_dir/latents/, the datasets
Writes  docs/results/carracing.md               its section "models"
        docs/results/images/models-dream.png    how far dreams are from the truth, step by step
        docs/results/images/models-regions.png  what counts as road, grass and car, and V's reconstructions
        exp_dir/unimodal/                       M with one Gaussian, trained by the same command but for --mixtures 1

    python -m benchmarks.models --logdir exp_dir

All intervals are 95 %, by bootstrap over episodes. Latents are drawn from V's posterior for likelihoods, as in
training, and its mean for dreams, as in use.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
import torch
from torch import Tensor

from dreamdrive.benchmarks.report import table, write_section
from dreamdrive.data.latents import cache_latents, load_sequences
from dreamdrive.data.loaders import Sequences, open_datasets
from dreamdrive.data.shards import Dataset
from dreamdrive.driving.dreaming import dream_on
from dreamdrive.envs.dream import Dream
from dreamdrive.models.mdrnn import MDRNN, mixture_log_likelihood
from dreamdrive.models.world_model import Memory, State, Vision, build, latents_at, load_vision, load_world_model
from dreamdrive.utils import checkpoint
from dreamdrive.utils.argument_types import positive
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.plots import figure
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import RunFolder, parser
from dreamdrive.utils.video import save_png, strip

ROOT = Path(__file__).resolve().parent.parent
HORIZON = 15  # steps of a dream
SHOWN = (1, 3, 6, 10, 15)  # of them are decoded and compared with frames
SAMPLES = 8  # dreams whose mean is compared, too
TEMPERATURES = (0.0, 0.5, 1.0, 1.3)
WARM_UP = 32  # steps M has seen, at least, before a dream
RESAMPLES = 4000
CAR = (slice(50, 60), slice(29, 35))  # rows and columns the car is in: the camera follows it
REGIONS = ("road", "grass", "car", "kerbs and edges")
HELD = torch.inference_mode()


@dataclass
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 2) -> str:
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def bootstrap(statistic: Callable[[np.ndarray], float], episodes: int) -> Interval:
    """`statistic` of all episodes (it takes their numbers, each as often as it was drawn), and its spread when episodes
    are drawn anew."""
    rng = np.random.default_rng(0)
    drawn = [statistic(rng.integers(episodes, size=episodes)) for _ in range(RESAMPLES)]
    return Interval(statistic(np.arange(episodes)), *np.nanquantile(drawn, [0.025, 0.975]))


def mean(total: np.ndarray, count: np.ndarray) -> Interval:
    """Mean over all steps, from each episode's sum (E,) and number of steps (E,)."""
    return bootstrap(lambda e: float(total[e].sum() / max(count[e].sum(), 1e-9)), len(total))


def root_mean(total: np.ndarray, count: np.ndarray) -> Interval:
    """Root of `mean`."""
    return bootstrap(lambda e: float(np.sqrt(total[e].sum() / max(count[e].sum(), 1e-9))), len(total))


# V


def regions(frames: np.ndarray) -> dict[str, np.ndarray]:
    """Which pixels of CarRacing frames (N, 64, 64, 3) are what, by colour: masks (N, 64, 64) that do not overlap and
    leave nothing out.

    The car is what is red (the hull) or dark (the wheels) where the car always is, kerbs being of a brighter red; road
    is grey; grass is green. What is left is kerbs, pixels that are part one thing and part another, and the black
    beyond the world's edge.
    """
    red, green, blue = (frames[..., c].astype(np.int16) for c in range(3))
    window = np.zeros(frames.shape[1:3], bool)
    window[CAR] = True
    hull = (red > green + 25) & (red > blue + 25) & (red < 210)
    car = window & (hull | (frames.max(-1) < 75))
    road = (np.abs(red - green) < 12) & (np.abs(green - blue) < 12) & (red > 85) & (red < 125)
    grass = (green > 180) & (red < 125) & (blue < 125) & (np.abs(red - blue) < 12)
    return {"road": road, "grass": grass, "car": car, "kerbs and edges": ~(road | grass | car)}


@HELD
def reconstruct(vision: Vision, frames: np.ndarray) -> np.ndarray:
    """Frames through V's likeliest latents, uint8 (N, H, W, C)."""
    parts = torch.from_numpy(frames).split(256)
    return np.concatenate([vision.frames(vision.z(vision.latents(part))).numpy() for part in parts])


def vae_rows(vision: Vision, frames: list[np.ndarray], average: np.ndarray) -> list[list[str]]:
    """Root mean squared error in grey levels (0 to 255) for each region: V's, and that of the training frames' average
    (H, W, C)."""
    squared = {name: np.zeros((len(frames), 2)) for name in REGIONS}
    count = {name: np.zeros(len(frames)) for name in REGIONS}
    for e, episode in enumerate(frames):
        errors = [
            np.square(guess.astype(np.float32) - episode).mean(-1)
            for guess in (reconstruct(vision, episode), average[None])
        ]
        for name, mask in regions(episode).items():
            squared[name][e] = [error[mask].sum() for error in errors]
            count[name][e] = mask.sum()
    pixels = sum(c.sum() for c in count.values())
    return [
        [
            name,
            f"{100 * count[name].sum() / pixels:.1f} %",
            *(root_mean(squared[name][:, k], count[name]).text(1) for k in range(2)),
        ]
        for name in REGIONS
    ]


def picture_of_regions(vision: Vision, frames: list[np.ndarray], path: Path) -> None:
    rng = np.random.default_rng(1)
    chosen = np.stack([frames[e][rng.integers(len(frames[e]))] for e in np.resize(np.arange(len(frames)), 10)])
    colours = {"road": (120, 120, 120), "grass": (90, 200, 90), "car": (220, 30, 30), "kerbs and edges": (240, 200, 60)}
    painted = np.zeros_like(chosen)
    for name, mask in regions(chosen).items():
        painted[mask] = colours[name]
    save_png(
        path,
        strip(
            [
                ("real frame", list(chosen)),
                ("regions", list(painted)),
                ("reconstruction", list(reconstruct(vision, chosen))),
            ]
        ),
    )


# M, one step ahead


@dataclass
class Scores:
    """Sums over the steps of each episode, (E,), and their number.

    Fields:
        nll: of M        shuffled: of M, given another window's actions        unimodal: of M with one Gaussian
            persistence: of a Gaussian around the last latent
        whole: of M that carries its state through the whole episode, as in use
    """

    nll: np.ndarray
    shuffled: np.ndarray
    unimodal: np.ndarray
    persistence: np.ndarray
    whole: np.ndarray
    steps: np.ndarray


@HELD
def score(model: MDRNN, unimodal: MDRNN, data: Sequences, episodes: np.ndarray, length: int) -> Scores:
    """Minus log likelihoods of validation windows of `length` steps, whose state begins at zero as in training."""
    sigma = persistence_sigma(data)
    sums = {name: np.zeros(len(episodes)) for name in ("nll", "shuffled", "unimodal", "persistence", "whole", "steps")}
    number = {e: i for i, e in enumerate(episodes)}
    cuts = data.cut("val", length, None)
    cuts = cuts[np.isin(cuts[:, 0], episodes)]
    generator = torch.Generator().manual_seed(0)
    batch = data.windows(cuts, length, generator)
    # Each window gets the actions of one half the batch away: of another time, and mostly of another episode.
    others = batch.action.roll(len(cuts) // 2, 0)
    gaussian = torch.distributions.Normal(batch.z, sigma)
    values = {
        "nll": -mixture_log_likelihood(model(batch.z, batch.action)[0], batch.z_next),
        "shuffled": -mixture_log_likelihood(model(batch.z, others)[0], batch.z_next),
        "unimodal": -mixture_log_likelihood(unimodal(batch.z, batch.action)[0], batch.z_next),
        "persistence": -gaussian.log_prob(batch.z_next).sum(-1),
        "steps": torch.ones_like(batch.mask),
    }
    for name, value in values.items():
        np.add.at(sums[name], [number[e] for e in cuts[:, 0]], (value * batch.mask).sum(1).numpy())
    for i, e in enumerate(episodes):
        one = data.windows(np.array([[e, 0]]), int(data.steps[e]), generator)
        sums["whole"][i] = -mixture_log_likelihood(model(one.z, one.action)[0], one.z_next).sum()
    return Scores(**sums)


def persistence_sigma(data: Sequences) -> Tensor:
    """(Z,) the spread of z' - z that is likeliest for the train split's steps."""
    generator = torch.Generator().manual_seed(1)
    cuts = data.cut("train", 64, None)
    batch = data.windows(cuts[np.random.default_rng(0).permutation(len(cuts))[:4000]], 64, generator)
    return (((batch.z_next - batch.z).square() * batch.mask[..., None]).sum((0, 1)) / batch.mask.sum()).sqrt()


def likelihood_rows(s: Scores) -> list[list[str]]:
    rows = [["M", mean(s.nll, s.steps).text(), ""]]
    for name, label in (
        ("persistence", "a Gaussian around the last latent, sigma fitted on the train split"),
        ("unimodal", "M with one Gaussian instead"),
        ("shuffled", "M given another window's actions"),
    ):
        values = getattr(s, name)
        rows.append([label, mean(values, s.steps).text(), mean(values - s.nll, s.steps).text()])
    return [
        *rows,
        [
            "M, its state carried through whole episodes",
            mean(s.whole, s.steps).text(),
            mean(s.whole - s.nll, s.steps).text(),
        ],
    ]


@HELD
def reward_rows(model: MDRNN, data: Sequences, episodes: np.ndarray) -> list[list[str]]:
    """Correlation of expected and real reward, step by step and summed over HORIZON steps."""
    pairs = []
    for e in episodes:
        mu, action, _ = data.episode(e)
        expected = model(mu[None, :-1], action[None])[0].reward[0].numpy()
        pairs.append((expected, data.reward[data.step_offset[e] : data.step_offset[e] + data.steps[e]].numpy()))
    rows = []
    for label, width in (("step by step", 1), (f"sums over {HORIZON} steps", HORIZON)):
        summed = [
            tuple(np.convolve(x, np.ones(width), "valid")[::width] for x in pair)
            for pair in pairs
            if len(pair[0]) >= width
        ]

        def correlation(chosen: np.ndarray, summed=summed) -> float:
            return float(
                np.corrcoef(
                    np.concatenate([summed[e][0] for e in chosen]), np.concatenate([summed[e][1] for e in chosen])
                )[0, 1]
            )

        rows.append([label, bootstrap(correlation, len(summed)).text()])
    return rows


# M, dreaming


@dataclass
class Drift:
    """Squared distance from the truth, by start (N,), for each step of a dream: latent (N, HORIZON) and pixel (N,
    len(SHOWN)) means over elements."""

    latent: np.ndarray
    pixel: np.ndarray


@HELD
def dreams(
    vision: Vision, memory: Memory, data: Sequences, episodes: np.ndarray, frames: list[np.ndarray], starts: int
) -> tuple[dict[str, Drift], np.ndarray]:
    """Drift of frozen frames and of dreams with the real actions, and which episode each start is of (its number in
    `episodes`)."""
    states, z, at, actions, truth, owner, real = [], [], [], [], [], [], []
    for i, e in enumerate(episodes):
        latent, action, _ = data.episode(e)
        times: Sequence[int] | np.ndarray = (
            np.unique(np.linspace(WARM_UP, len(action) - HORIZON, max(1, starts // len(episodes))).astype(int))
            if len(action) >= WARM_UP + HORIZON
            else []
        )
        state = memory.initial(1)
        for t in range(max(times, default=-1) + 1):
            if t in times:
                states.append(state)
                z.append(latent[t])
                at.append(int(data.frame_offset[e]) + t)
                actions.append(action[t : t + HORIZON])
                truth.append(latent[t + 1 : t + HORIZON + 1])
                real.append(frames[i][[t + k for k in SHOWN]])
                owner.append(i)
            _, state = memory.observe(latent[None, t : t + 1], action[None, t : t + 1], state)
    if len(set(owner)) < 2:
        raise UserError(
            f"fewer than two validation episodes have the {WARM_UP + HORIZON} steps a dream is compared over: record "
            "longer ones"
        )
    begin = Dream(torch.stack(z), State.joined(states))
    # (N, T, A), (N, T, Z), (N, len(SHOWN), H, W, C)
    taken, after, shown = torch.stack(actions), torch.stack(truth), torch.from_numpy(np.stack(real))
    drawn = vision.drawn(latents_at(data.latents, torch.tensor(at)), torch.Generator().manual_seed(0))
    drift = {
        name: drift_of(vision, still[None, :, None].expand(1, -1, HORIZON, -1), after, shown)
        for name, still in (("frozen frame", begin.z), ("frozen frame, z drawn from its posterior", drawn))
    }
    for temperature in TEMPERATURES:
        free = torch.stack(
            [dream_along(memory, begin, taken, temperature, seed) for seed in range(SAMPLES if temperature else 1)]
        )
        drift[f"dream, temperature {temperature:g}"] = drift_of(vision, free[:1], after, shown)
        if temperature:
            drift[f"mean of {SAMPLES}, temperature {temperature:g}"] = drift_of(vision, free, after, shown)
    return drift, np.array(owner)


def dream_along(memory: Memory, dream: Dream, actions: Tensor, temperature: float, seed: int) -> Tensor:
    """Latents (N, T, Z) of dreams that take `actions` (N, T, A)."""
    generator, taken = torch.Generator().manual_seed(seed), iter(actions.unbind(1))
    dreamt = dream_on(memory, dream, actions.shape[1], lambda z, h: next(taken), temperature, generator)
    return dreamt.z[1:].transpose(0, 1)


def drift_of(vision: Vision, free: Tensor, truth: Tensor, real: Tensor) -> Drift:
    """Drift of the mean of some dreams (S, N, T, Z): of their latents, and of their pictures."""
    latent = (free.mean(0) - truth).square().mean(-1).numpy()
    pixel = np.zeros((len(truth), len(SHOWN)), np.float32)
    for k, t in enumerate(SHOWN):
        for part in torch.arange(len(truth)).split(64):
            pictures = vision.frames(free[:, part, t - 1].flatten(0, 1)).unflatten(0, (len(free), len(part)))
            pixel[part, k] = (pictures.float().mean(0) - real[part, k].float()).square().mean((1, 2, 3)).numpy()
    return Drift(latent, pixel)


def dream_rows(drift: dict[str, Drift], owner: np.ndarray) -> list[list[str]]:
    """Root mean squared distance after HORIZON steps, and its ratio to the frozen frame's."""
    episodes = np.unique(owner)
    starts_of = [np.flatnonzero(owner == e) for e in episodes]
    frozen = drift["frozen frame"]

    def root(values: np.ndarray, against: np.ndarray) -> Interval:
        return root_mean(*(np.array([x[s].sum() for s in starts_of]) for x in (values[:, -1], against[:, -1])))

    rows = []
    for name, d in drift.items():
        row = [name, root(d.latent, np.ones_like(d.latent)).text(), root(d.pixel, np.ones_like(d.pixel)).text(1)]
        rows.append(
            [
                *row,
                *(
                    ["", ""]
                    if d is frozen
                    else [root(d.latent, frozen.latent).text(), root(d.pixel, frozen.pixel).text()]
                ),
            ]
        )
    return rows


def picture_of_dreams(drift: dict[str, Drift], path: Path) -> None:
    """Root mean squared distance from the truth over the steps of the dream, in latents and in pixels."""
    with figure(path, 13, 4.2) as drawn:
        panels = zip(
            drawn.subplots(1, 2),
            (("latent", range(1, HORIZON + 1), "per latent dimension"), ("pixel", SHOWN, "grey levels, 0 to 255")),
            strict=True,
        )
        for axes, (space, steps, unit) in panels:
            for name, d in drift.items():
                style = (
                    {"color": "black", "linewidth": 2.5}
                    if name == "frozen frame"
                    else {"linestyle": "--" if name.startswith("mean") else "-"}
                )
                axes.plot(steps, np.sqrt(getattr(d, space).mean(0)), label=name, **style)
            axes.set(
                title=f"distance from the truth, {space}s",
                xlabel="steps dreamt with the real actions",
                ylabel=f"root mean square, {unit}",
            )
            axes.grid(alpha=0.3)
        drawn.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8)


# The run


def unimodal_model(logdir: Path, datasets: list[Dataset], vae_digest: str) -> MDRNN:
    """M with one Gaussian, trained now (or resumed) by the command that trained M, in a run of its own that shares
    V and the latents."""
    own = logdir / "unimodal"
    args = json.loads((logdir / "mdrnn" / "args.json").read_text())
    make_folder(own)
    for shared in ("vae", "latents"):
        if not (own / shared).exists():
            (own / shared).symlink_to(Path("..") / shared)
    before = checkpoint.path(own, "mdrnn", "checkpoint.tar")
    if before.exists() and checkpoint.load(before, "mdrnn")["parents"] != {"vae": vae_digest}:
        shutil.rmtree(own / "mdrnn")  # of an earlier V
    flags = [
        f"--{name.replace('_', '-')}={args[name]}"
        for name in (
            "hidden",
            "seq_len",
            "batch_size",
            "epochs",
            "learning_rate",
            "patience",
            "precision",
            "seed",
            "device",
        )
    ]
    reward = "--include_reward" if args["include_reward"] else "--no-include_reward"
    command = [
        sys.executable,
        str(ROOT / "trainmdrnn.py"),
        "--logdir",
        str(own),
        "--mixtures=1",
        reward,
        *flags,
        "--dataset",
        *(str(d.root) for d in datasets),
    ]
    if status := subprocess.run(command).returncode:
        raise UserError(f"training M with one Gaussian ended with status {status}: see above")
    saved = checkpoint.load_parent(own, "mdrnn")
    model = build("mdrnn", saved["config"], saved.get("kind"))
    model.load_state_dict(saved["model"])
    return model.eval()


def read_frames(datasets: list[Dataset], chosen: Sequence[int] | np.ndarray) -> list[np.ndarray]:
    """Frames uint8 (T + 1, H, W, C) of episodes, by their numbers in `Sequences`, ascending."""
    everywhere = [(dataset, e.index) for dataset in datasets for e in dataset.episodes]
    return [
        dataset.frames(index) for dataset, index in (everywhere[number] for number in sorted(set(map(int, chosen))))
    ]


def spaced(numbers: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of them, evenly spaced."""
    return numbers[np.unique(np.linspace(0, len(numbers) - 1, min(most, len(numbers))).astype(int))]


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    RunFolder.add_flags(p)
    p.add_argument(
        "--dataset", type=Path, nargs="+", help="folders written by stage 1 (default: those V was trained on)"
    )
    p.add_argument(
        "--episodes", type=positive, default=40, help="validation episodes to use, at most; 12 MB of memory each"
    )
    p.add_argument("--starts", type=positive, default=512, help="moments that dreams begin from, over all episodes")
    p.add_argument(
        "--out",
        type=Path,
        default=Path("docs/results/carracing.md"),
        help="document to write the section into; pictures go to images/ beside it",
    )
    return p.parse_args()


def main() -> None:
    args = parse_args()
    found = load_world_model(args.logdir, torch.device("cpu"))
    vision, memory, world, parents = found.vision, found.memory, found.world, found.parents
    if not isinstance(memory, MDRNN):
        raise UserError(f"M of {args.logdir} is of kind {memory.kind}: mixtures are compared here")
    if world["env"] != "carracing":
        raise UserError(f"{args.logdir} is a run on {world['env']}: road, grass and car are those of carracing only")
    datasets = open_datasets(args.dataset or load_vision(args.logdir, torch.device("cpu"))[1]["datasets"])
    cache_latents(args.logdir, vision, parents["vae"], datasets, torch.device("cpu"))
    data = load_sequences(args.logdir, vision, parents["vae"], datasets)
    episodes = spaced(data.episodes("val"), args.episodes)
    if len(episodes) < 2:
        raise UserError(f"{len(episodes)} validation episode is too few for an interval: record more --rollouts")
    unimodal = unimodal_model(args.logdir, datasets, parents["vae"])
    frames = read_frames(datasets, episodes)
    training = read_frames(datasets, spaced(data.episodes("train"), 10))
    settings = json.loads((args.logdir / "mdrnn" / "args.json").read_text())
    drift, owner = dreams(vision, memory, data, episodes, frames, args.starts)
    images = make_folder(args.out.parent / "images")
    picture_of_regions(vision, frames, images / "models-regions.png")
    picture_of_dreams(drift, images / "models-dream.png")
    steps = int(data.steps[episodes].sum())
    parts = [
        f"## V and M on held-out episodes\n\n{len(episodes)} validation episodes, {steps:,} steps, of "
        f"`{'`, `'.join(str(d.root) for d in datasets)}`; "
        f"V {parents['vae'][:12]}, M {parents['mdrnn'][:12]}. In brackets 95 % intervals by bootstrap over episodes.",
        (
            "V: root mean squared error of the reconstruction, in grey levels from 0 to 255. The average is that of "
            "training frames.\n\n"
        )
        + table(
            ["pixels", "share", "V", "the average frame instead"],
            vae_rows(vision, frames, np.concatenate(training).mean(0)),
        ),
        "![frames, regions, reconstructions](images/models-regions.png)",
        (
            f"M, one step ahead: minus log likelihood in nats per frame, in windows of {settings['seq_len']} steps. "
            "Positive differences: M is better.\n\n"
        )
        + table(
            ["model", "nats per frame", "difference to M"],
            likelihood_rows(score(memory, unimodal, data, episodes, settings["seq_len"])),
        ),
        "M: correlation of expected and real reward\n\n"
        + table(["reward", "correlation"], reward_rows(memory, data, episodes)),
        f"M, dreaming: distance from the truth after {HORIZON} steps with the real actions, from {len(owner)} moments. "
        "The frozen frame is V's reconstruction of "
        "the last real one; pictures are compared with the real frames. Ratios below 1: the dream is closer.\n\n"
        + table(
            ["what", "latent, RMS", "pixel, RMS", "ratio to frozen, latent", "ratio to frozen, pixel"],
            dream_rows(drift, owner),
        ),
        "![distance from the truth](images/models-dream.png)",
    ]
    text = "\n\n".join(parts)
    print(text)
    write_section(args.out, "models", text)
    print(f"\nwritten into {args.out}")


if __name__ == "__main__":
    run(main)
