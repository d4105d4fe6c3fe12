"""Stage 4a: evolve C, the controller, by CMA-ES in the dream or in the simulator.

Reads   exp_dir/vae/best.tar, exp_dir/mdrnn/best.tar
        exp_dir/bc/best.tar           with --init, to begin from a clone
Writes  exp_dir/ctrl/best.tar         the search's mean that drove the simulator best (without --evaluate-every: whose
score on fresh starts was highest)
        exp_dir/ctrl/checkpoint.tar   to go on from: run the same command again
        exp_dir/ctrl/metrics.csv, fitness.png, args.json, clock.csv (seconds a generation took)

    python traincontroller.py --logdir exp_dir --world dream --pop-size 64 --n-samples 16 --generations 100

A dream can be gamed (Ha & Schmidhuber 2018, section 4.5), so a controller evolved in it is chosen by how it drives in
reality, on seeds kept for choosing; the search itself learns nothing from that.
"""

import argparse
import math
import os
import time
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import cma
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dreamdrive.driving.evaluation import Driver, Evaluator
from dreamdrive.envs import fast
from dreamdrive.envs.dream import Starts, begin, step
from dreamdrive.models.agent import load_models
from dreamdrive.models.controller import LATENT_FEATURES, Controller, ControllerConfig, parameter_vector, set_parameters
from dreamdrive.models.mdrnn import MDRNN, draw_noise
from dreamdrive.utils import checkpoint
from dreamdrive.utils.cli import (
    add_training,
    natural,
    natural_float,
    parser,
    positive,
    positive_float,
    run,
    settled,
    write_args,
)
from dreamdrive.utils.device import device
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.metrics import line, read_csv, write_csv
from dreamdrive.utils.plots import curves
from dreamdrive.utils.seeds import recording_seed, require_seeds, seed_everything, selection_seeds
from dreamdrive.utils.tracking import track

STAGE = 4
RESCORE_DREAMS = 128  # fresh dreams the search's mean is scored on
MOST_CORRELATED = 10_000  # weights: their covariance matrix takes 0.8 GB
# P and S: the paper's, and what reaches most with a million frames (docs/results.md)
SIZES = {"dream": (64, 16), "simulator": (16, 2)}
STALE = 3  # evaluations without a better mean after which candidates drive more episodes


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    add_training(p)
    p.add_argument(
        "--world",
        choices=("dream", "simulator"),
        default="dream",
        help="where candidates drive: in M's dream, or in the simulator (for carracing in carracing-fast, which stands "
        "for it)",
    )
    p.add_argument(
        "--features", choices=LATENT_FEATURES, default="zh", help="what the controller sees: z alone, or z and h"
    )
    p.add_argument(
        "--pop-size",
        type=positive,
        help=f"P, candidates of a generation (default: {SIZES['dream'][0]}; in the simulator {SIZES['simulator'][0]})",
    )
    p.add_argument(
        "--n-samples",
        type=positive,
        help=f"S, episodes each candidate drives (default: {SIZES['dream'][1]}; in the simulator "
        f"{SIZES['simulator'][1]})",
    )
    p.add_argument(
        "--most-samples",
        type=positive,
        default=16,
        help=f"in the simulator S doubles, up to this, whenever {STALE} evaluations in a row bring no better mean: few "
        "tell enough while all drive badly",
    )
    p.add_argument(
        "--give-up",
        type=natural,
        default=0,
        help="in the simulator a candidate's episode ends after so many steps without a reward above 0, the rest "
        "counting like its last step; 0: never",
    )
    p.add_argument(
        "--generations", type=positive, default=100, help="evolve up to this generation; more than before goes on"
    )
    p.add_argument(
        "--target-return", type=float, default=math.inf, help="stop when the score best.tar is chosen by reaches it"
    )
    p.add_argument("--sigma", type=positive_float, default=0.1, help="initial step size of CMA-ES")
    p.add_argument("--diagonal", action="store_true", help="separable CMA-ES: faster steps for many parameters")
    p.add_argument("--temperature", type=natural_float, default=1.0, help="of the dream")
    p.add_argument("--horizon", type=positive, default=1000, help="steps of a dream")
    p.add_argument(
        "--evaluate-every",
        type=natural,
        default=10,
        help="generations between two drives of the search's mean in the simulator, the last one included, and with "
        "--init the clone itself; 0 for none",
    )
    p.add_argument("--selection-episodes", type=positive, default=32, help="of such a drive")
    p.add_argument("--init", type=Path, help="begin from this clone, e.g. exp_dir/bc/best.tar")
    p.add_argument(
        "--evolve",
        choices=("all", "last"),
        default="all",
        help="all weights of the controller, or those of its last layer, the rest as in --init",
    )
    p.add_argument("--max-workers", type=positive, default=os.cpu_count(), help="processes that drive the simulator")
    p.add_argument("--display", action=argparse.BooleanOptionalAction, default=True, help="show a progress bar")
    return p.parse_args()


@torch.inference_mode()
def dream_fitness(
    mdrnn: MDRNN,
    controller: Controller,
    parameters: Tensor,
    starts: Starts,
    num: int,
    horizon: int,
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """Mean return (P,) of P candidates, parameters (P, n), over `num` dreams each: one batch of P * num. All candidates
    meet the same starts and luck."""
    population = len(parameters)
    index = torch.randint(len(starts), (num,), generator=generator, device=parameters.device)
    one = begin(starts, index, torch.randn(num, mdrnn.config.latent, generator=generator, device=parameters.device))
    dream = type(one)(
        one.z.repeat(population, 1), (one.state[0].repeat(population, 1), one.state[1].repeat(population, 1))
    )
    total, alive = (
        torch.zeros(population * num, device=parameters.device),
        torch.ones(population * num, device=parameters.device),
    )
    for t in range(horizon):
        action = controller.population_action(
            parameters, dream.z.unflatten(0, (population, num)), dream.h.unflatten(0, (population, num))
        ).flatten(0, 1)
        noise = draw_noise(mdrnn.config, num, generator, copies=population)
        dream, reward, terminated = step(mdrnn, dream, controller.space.vector(action), temperature, noise)
        total.addcmul_(reward, alive)
        alive.masked_fill_(terminated, 0.0)
        if t % 50 == 49 and not alive.any():
            break
    return total.unflatten(0, (population, num)).mean(1)


class DreamFitness:
    """Scores parameters (P, n) in the dream."""

    def __init__(self, args: argparse.Namespace, mdrnn: MDRNN, starts: dict | None, controller: Controller) -> None:
        if starts is None:
            raise UserError(
                f"{args.logdir}/mdrnn/best.tar has no starting latents (it was imported): use --world simulator, or "
                "train M with trainmdrnn.py"
            )
        self.args, self.mdrnn, self.controller = args, mdrnn, controller
        self.device = mdrnn.head.weight.device
        self.starts = Starts(**starts).to(self.device)
        self.steps = 0

    def __call__(self, parameters: Tensor, generation: int, samples: int, fresh: bool, bar: tqdm) -> Tensor:
        """(P,) mean returns; `fresh` starts are never met by candidates."""
        num = RESCORE_DREAMS if fresh else samples
        generator = torch.Generator(self.device).manual_seed(
            int(np.random.SeedSequence([self.args.seed, STAGE, generation, fresh]).generate_state(1)[0])
        )
        scores = dream_fitness(
            self.mdrnn,
            self.controller,
            parameters.to(self.device),
            self.starts,
            num,
            self.args.horizon,
            self.args.temperature,
            generator,
        )
        self.steps += len(parameters) * num * self.args.horizon
        return scores.cpu()


class SimulatorFitness:
    """Scores parameters (P, n) in the simulator."""

    def __init__(self, args: argparse.Namespace, evaluator: Evaluator) -> None:
        self.args, self.evaluator = args, evaluator

    def __call__(self, parameters: Tensor, generation: int, samples: int, fresh: bool, bar: tqdm) -> Tensor:
        most = max(self.args.n_samples, self.args.most_samples)
        seeds = (
            selection_seeds(self.args.seed, samples, generation)
            if fresh
            else [recording_seed(self.args.seed, generation * most + k) for k in range(samples)]
        )
        # candidates on one track follow each other
        returns = self.evaluator.returns(
            [(p, seed) for seed in seeds for p in parameters], bar, 0 if fresh else self.args.give_up
        )
        return torch.tensor(returns).view(samples, len(parameters)).mean(0)

    @property
    def steps(self) -> int:
        return self.evaluator.steps


def finite(scores: Tensor) -> Tensor:
    """Scores (P,) with those that are not finite replaced by the worst that is, so that NaN never reaches the
    search."""
    good = torch.isfinite(scores)
    if not good.any():
        raise UserError(
            "no candidate of this generation has a finite score: M diverges in the dream; train it longer, or use a "
            "lower --temperature or --sigma"
        )
    return torch.where(good, scores, scores[good].min())


class Search:
    """CMA-ES (Hansen 2016, pycma), resumed by replaying the recorded scores: the same seed and scores give the same
    populations."""

    def __init__(self, start: Tensor, args: argparse.Namespace) -> None:
        # pycma takes seed 0 as "no seed"; its own random numbers come from a generator nobody else draws from.
        draw = np.random.RandomState(args.seed + 1)
        self.es = cma.CMAEvolutionStrategy(
            start.double().numpy(),
            args.sigma,
            {
                "popsize": args.pop_size,
                "seed": args.seed + 1,
                "verbose": -9,
                "CMA_diagonal": args.diagonal,
                "randn": lambda *shape: draw.randn(*shape),
            },
        )

    def ask(self) -> Tensor:
        """The next population, float32 (P, n)."""
        self.asked = self.es.ask()
        return torch.from_numpy(np.stack(self.asked)).float()

    def tell(self, scores: Tensor) -> None:
        """scores (P,): the higher the better; the sign flips here."""
        self.es.tell(self.asked, (-scores.double()).tolist())

    def replay(self, scores: Tensor) -> None:
        """Go through the generations whose scores (G, P) were recorded."""
        for row in tqdm(scores, desc="replaying the search", unit="generation", leave=False):
            self.ask()
            self.tell(row)

    @property
    def mean(self) -> Tensor:
        return torch.from_numpy(self.es.mean.copy()).float()


def start_controller(
    args: argparse.Namespace, latent: int, recurrent: int, space: dict, parents: dict[str, str]
) -> Controller:
    """The controller evolution begins from: zeros, or the clone of --init."""
    if args.init is None:
        controller = Controller(ControllerConfig(latent, recurrent, args.features, 0, space))
        set_parameters(controller, torch.zeros_like(parameter_vector(controller)))
        return controller
    saved = checkpoint.load(args.init, "bc")
    checkpoint.check_parents(saved, parents, args.init, "bc")
    config = ControllerConfig(**saved["config"])
    if config.features != args.features:
        raise UserError(f"{args.init} sees {config.features}, not {args.features}: use --features {config.features}")
    controller = Controller(config)
    controller.load_state_dict(saved["model"])
    return controller


def main() -> None:
    args = parse_args()
    if args.pop_size == 1:
        raise UserError("--pop-size 1 is not possible: CMA-ES compares at least 2 candidates")
    _, mdrnn, world, starts, parents = load_models(args.logdir, device(args.device))
    with checkpoint.stage_folder(args.logdir, "ctrl") as folder:
        controller = start_controller(args, mdrnn.config.latent, mdrnn.config.hidden, world["action_space"], parents)
        evolved = len(evolved_part(args, controller))
        if evolved > MOST_CORRELATED and not args.diagonal:
            raise UserError(
                f"CMA-ES with all correlations of {evolved:,} weights needs more than a machine has: use --evolve "
                "last, or --diagonal"
            )
        state = resumed(args, folder, controller, parents)  # before workers start, in case it refuses
        require_seeds_of(args)
        evaluator = Evaluator(
            fast(world["env"]),
            Driver("agent", args.logdir, controller.config_dict()),
            args.max_workers,
            device(args.device),
            world.get("options"),
        )  # starts workers when first asked
        if args.world == "dream":
            fitness = DreamFitness(args, mdrnn, starts, controller.to(mdrnn.head.weight.device))
        else:
            fitness = SimulatorFitness(args, evaluator)
        with track(args, folder, "generation"), evaluator:
            best = Evolution(args, folder, controller, fitness, evaluator, parents, state).run()
    where = "simulator" if args.evaluate_every else args.world
    print(
        f"{folder / 'best.tar'}: {best:.1f} in the {where}; next: python test_controller.py --logdir {args.logdir} "
        "--controller ctrl"
    )


def require_seeds_of(args: argparse.Namespace) -> None:
    """UserError unless there are simulator seeds for all generations, where the simulator is driven."""
    episodes = (args.generations + 1) * max(args.n_samples, args.most_samples) if args.world == "simulator" else 0
    if episodes or args.evaluate_every:
        require_seeds(args.seed, max(episodes, args.selection_episodes))


def evolved_part(args: argparse.Namespace, controller: Controller) -> Tensor:
    """The weights (n,) that the search changes, the last ones of parameter_vector(controller)."""
    layer = controller.layers[-1]
    vector = parameter_vector(controller).cpu()
    return vector if args.evolve == "all" else vector[-(layer.weight.numel() + layer.bias.numel()) :]


def settings_of(args: argparse.Namespace) -> dict:
    """The flags that a resumed search must share with the one it goes on from."""
    return {
        name: getattr(args, name)
        for name in (
            "world",
            "features",
            "pop_size",
            "n_samples",
            "most_samples",
            "sigma",
            "diagonal",
            "evolve",
            "temperature",
            "horizon",
            "evaluate_every",
            "selection_episodes",
            "seed",
            "give_up",
        )
    }


def samples_now(args: argparse.Namespace, history: list[dict]) -> int:
    """S of the next generation: --n-samples, doubled in the simulator whenever STALE evaluations in a row found no
    better mean, up to --most-samples."""
    samples, best, stale = args.n_samples, -math.inf, 0
    for driven in (row["simulator"] for row in history if args.world == "simulator" and row["simulator"] is not None):
        best, stale = (driven, 0) if driven > best else (best, stale + 1)
        if stale == STALE and samples < args.most_samples:
            samples, stale = min(2 * samples, args.most_samples), 0
    return samples


def settle_sizes(args: argparse.Namespace, state: dict | None) -> None:
    """P and S where they were not given: those of the search to go on with, if it is in the same world, else the
    defaults."""
    usual = dict(zip(("pop_size", "n_samples"), SIZES[args.world], strict=True))
    vars(args).update(
        settled(args, usual, state["settings"] if state and state["settings"]["world"] == args.world else None)
    )


def resumed(args: argparse.Namespace, folder: Path, controller: Controller, parents: dict[str, str]) -> dict | None:
    """checkpoint.tar to go on from, or None; UserError if it is of another search."""
    state = checkpoint.resume(args.logdir, "ctrl", parents, args.noreload)
    settle_sizes(args, state)
    if state:
        settings = settings_of(args)
        checkpoint.check_config(
            {"config": state["settings"]}, settings, {name: "--" + name.replace("_", "-") for name in settings}
        )
        if not torch.equal(state["start"], parameter_vector(controller).cpu()):
            raise UserError(
                f"{folder / 'checkpoint.tar'} began from another --init: give the same one, or start afresh with "
                "--noreload"
            )
    return state


class Evolution:
    """A search from its start, or from `state`, the content of checkpoint.tar, up to generation `args.generations`.

    Attributes:
        history: rows of metrics.csv        scores: (G, P) of all candidates so far
        best: score of best.tar: of the search's mean, with --evaluate-every in the simulator, else on fresh starts
    """

    def __init__(
        self,
        args: argparse.Namespace,
        folder: Path,
        controller: Controller,
        fitness: DreamFitness | SimulatorFitness,
        evaluator: Evaluator,
        parents: dict[str, str],
        state: dict | None,
    ) -> None:
        seed_everything(args.seed, STAGE)
        self.args, self.folder, self.controller, self.fitness, self.evaluator, self.parents = (
            args,
            folder,
            controller,
            fitness,
            evaluator,
            parents,
        )
        self.start, self.settings, self.config = (
            parameter_vector(controller).cpu(),
            settings_of(args),
            controller.config_dict(),
        )
        found = evolved_part(args, controller)
        self.fixed = self.start[: len(self.start) - len(found)]
        self.search, self.history, self.best = Search(found, args), [], -math.inf
        self.scores = torch.empty(0, args.pop_size, dtype=torch.float64)
        self.rescoring = args.world == "dream" or not args.evaluate_every
        if state:
            self.history, self.scores, self.best = state["history"], state["scores"], state["best"]
            self.search.replay(self.scores)
            if not torch.equal(self.search.mean, state["mean"]):
                raise UserError(
                    f"replaying {folder / 'checkpoint.tar'} gave another population, so NumPy, pycma or the processor "
                    "differ from those it was made "
                    "with: go on where it was made, or start afresh with --noreload"
                )
        self.clock = read_csv(folder / "clock.csv")[: len(self.history)]

    def run(self) -> float:
        """Ask, score, tell; returns the best score."""
        args, began, first = self.args, time.monotonic(), len(self.history)
        write_args(self.folder, args)
        if not first and args.init and args.evaluate_every:
            self.best = self.drive_mean()
            print(f"generation 0  simulator {self.best:.4g}", flush=True)
            self.save_best(0)
        for generation in range(first + 1, args.generations + 1):
            if self.best >= args.target_return:
                print(f"target return {args.target_return} reached")
                break
            since = time.monotonic()
            rate = self.advance(generation)
            self.clock.append({"generation": generation, "seconds": round(time.monotonic() - since, 3)})
            left = (time.monotonic() - began) / (generation - first) * (args.generations - generation)
            print(f"{line(self.history[-1])}  {rate:.0f} steps/s  {left / 60:.1f} min left", flush=True)
            self.publish()
        return self.best

    def advance(self, generation: int) -> float:
        """Go through a generation; returns the steps a second that its candidates drove."""
        args, samples = self.args, samples_now(self.args, self.history)
        episodes = (args.pop_size + self.rescoring) * samples if args.world == "simulator" else args.pop_size
        since, steps, frames = time.monotonic(), self.fitness.steps, self.evaluator.steps
        with self.bar(episodes, f"generation {generation} of {args.generations}") as bar:
            scores = finite(self.fitness(self.whole(self.search.ask()), generation, samples, False, bar)).double()
            self.search.tell(scores)
            rescored = (
                float(self.fitness(self.whole(self.search.mean)[None], generation, samples, True, bar)[0])
                if self.rescoring
                else None
            )
        rate = (self.fitness.steps - steps) / (time.monotonic() - since)
        judged = args.evaluate_every and (generation % args.evaluate_every == 0 or generation == args.generations)
        driven = self.drive_mean() if judged else None
        self.scores = torch.cat([self.scores, scores[None]])
        frames = self.evaluator.steps - frames + (self.history[-1]["frames"] if self.history else 0)
        self.history.append(
            {
                "generation": generation,
                "best": float(scores.max()),
                "mean": float(scores.mean()),
                "rescored": rescored,
                "simulator": driven,
                "sigma": float(self.search.es.sigma),
                "samples": samples,
                "frames": frames,
            }
        )
        return rate

    def publish(self) -> None:
        """Write what the last generation has brought."""
        row = self.history[-1]
        set_parameters(self.controller, self.whole(self.search.mean).to(next(self.controller.parameters()).device))
        score = row["simulator"] if self.args.evaluate_every else row["rescored"]
        if score is not None and score > self.best:
            self.best = score
            self.save_best(row["generation"])
        checkpoint.save(
            self.folder / "checkpoint.tar",
            "ctrl",
            self.config,
            self.controller.state_dict(),
            self.parents,
            settings=self.settings,
            start=self.start,
            scores=self.scores,
            mean=self.search.mean,
            history=self.history,
            best=self.best,
        )
        write_csv(self.folder / "metrics.csv", self.history)
        write_csv(self.folder / "clock.csv", self.clock)
        real = ("simulator",) if self.args.evaluate_every else ()
        panels = (
            [("best", "mean", "rescored"), *([real] if real else []), ("sigma",)]
            if self.rescoring
            else [("best", "mean", *real), ("sigma",)]
        )
        curves(self.folder / "fitness.png", self.history, "generation", panels, f"C in the {self.args.world}")

    def save_best(self, generation: int) -> None:
        checkpoint.save(
            self.folder / "best.tar",
            "ctrl",
            self.config,
            self.controller.state_dict(),
            self.parents,
            generation=generation,
            best=self.best,
            settings=self.settings,
        )

    def drive_mean(self) -> float:
        """The score of the search's mean in the simulator, always on the same seeds."""
        seeds = selection_seeds(self.args.seed, self.args.selection_episodes)
        with self.bar(len(seeds), "its mean in the simulator") as bar:
            return float(np.mean(self.evaluator.returns([(self.whole(self.search.mean), seed) for seed in seeds], bar)))

    def whole(self, part: Tensor) -> Tensor:
        """Parameters of a controller (..., N) from those that are evolved (..., n)."""
        return torch.cat([self.fixed.expand(*part.shape[:-1], -1), part], -1)

    def bar(self, episodes: int, what: str) -> tqdm:
        return tqdm(total=episodes, desc=what, unit="episode", leave=False, disable=not self.args.display)


if __name__ == "__main__":
    run(main)
