"""What evolves a controller: the search by CMA-ES, how candidates are scored in the dream and in the simulator, and how
large a search is."""

import contextlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from dreamdrive.driving.dreaming import Population
from dreamdrive.driving.driver import drive
from dreamdrive.driving.evaluation import Evaluator
from dreamdrive.envs.dream import Dreams, begin
from dreamdrive.learning.evolution_settings import STALE, EvolutionSettings
from dreamdrive.learning.search_state import load_search, not_possible, pycma_version, save_search
from dreamdrive.models.controller import Controller
from dreamdrive.models.world_model import Memory, Starts, WorldModel, require_rewards, require_starts
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.seeds import recording_seed, selection_seeds

STAGE = 4
RESCORE_DREAMS = 128  # dreams the search's mean is scored on
COLLISIONS = "collision_rate"  # of an episode's outcome
APART = 8  # every so manyth frame that dreams may start from is kept for scoring the search's mean
MOST_CORRELATED = 10_000  # weights: their covariance matrix takes 0.8 GB


@torch.inference_mode()
def dream_fitness(
    memory: Memory,
    controller: Controller,
    parameters: Tensor,
    starts: Starts,
    num: int,
    horizon: int,
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """Mean return (P,) of P candidates, parameters (P, n), over `num` dreams each: one batch of P * num. All candidates
    meet the same starts and noise."""
    population, where = len(parameters), parameters.device
    index = torch.randint(len(starts), (num,), generator=generator, device=where)
    begun = begin(starts, index, torch.randn(num, starts.vision.draws, generator=generator, device=where))
    dreams = Dreams(memory, begun.repeat(population), temperature, horizon, generator, groups=population)
    total = torch.zeros(dreams.num, device=where)
    for moment in drive(dreams, Population(controller, parameters, dreams), None, together=True):
        if moment.step is not None:
            total += moment.step.reward
    return total.unflatten(0, (population, num)).mean(1)


def kept_apart(starts: Starts) -> Tensor:
    """(N,) bool: the starts for scoring the search's mean, which no candidate meets: every APARTth frame, the same one
    in all starts that share it, the most frequent first, so that a world's only beginning is left to the
    candidates."""
    _, frame, times = starts.vision.z(starts.latents).unique(dim=0, return_inverse=True, return_counts=True)
    apart = times.argsort(descending=True, stable=True)[APART - 1 :: APART]
    return torch.isin(frame, apart)


class DreamFitness:
    """Scores parameters (P, n) in the dream."""

    def __init__(self, args: EvolutionSettings, model: WorldModel, controller: Controller) -> None:
        require_rewards(model, args.logdir)
        self.args, self.memory, self.controller = args, model.memory, controller
        starts = require_starts(model, args.logdir)
        self.device = next(model.memory.parameters()).device
        apart = kept_apart(starts)
        # by `fresh`; all, where there are too few frames to keep any apart
        self.starts = {
            fresh: starts.take(mask).to(self.device)
            for fresh, mask in ((False, ~apart), (True, apart if apart.any() else ~apart))
        }
        self.steps = 0  # dreamed so far

    def __call__(self, parameters: Tensor, generation: int, samples: int, fresh: bool, bar: Bar) -> Tensor:
        """(P,) mean returns; `fresh` starts are never met by candidates."""
        num = RESCORE_DREAMS if fresh else samples
        generator = torch.Generator(self.device).manual_seed(
            int(np.random.SeedSequence([self.args.seed, STAGE, generation, fresh]).generate_state(1)[0])
        )
        scores = dream_fitness(
            self.memory,
            self.controller,
            parameters.float().to(self.device),
            self.starts[fresh],
            num,
            self.args.horizon,
            self.args.temperature,
            generator,
        )
        self.steps += len(parameters) * num * self.args.horizon
        return scores.cpu()


class SimulatorFitness:
    """Scores parameters (P, n) in the simulator."""

    def __init__(self, args: EvolutionSettings, evaluator: Evaluator) -> None:
        self.args, self.evaluator = args, evaluator

    def __call__(self, parameters: Tensor, generation: int, samples: int, fresh: bool, bar: Bar) -> Tensor:
        seeds = (
            selection_seeds(self.args.seed, samples, generation)
            if fresh
            else [recording_seed(self.args.seed, generation * self.args.most_episodes + k) for k in range(samples)]
        )
        # candidates on one track follow each other
        tasks = [(candidate, seed) for seed in seeds for candidate in parameters.float()]
        patience = 0 if fresh else self.args.give_up
        counted = simulator_scores(self.evaluator, tasks, self.args.collision_cost, bar, patience)
        return torch.tensor(counted).view(samples, len(parameters)).mean(0)

    @property
    def steps(self) -> int:
        return self.evaluator.steps


def simulator_scores(
    evaluator: Evaluator,
    tasks: Sequence[tuple[Tensor | None, int]],
    collision_cost: float,
    bar: Bar | None = None,
    patience: int = 0,
) -> list[float]:
    """The return of each task (see `Evaluator.episodes`), less `collision_cost` points where it collided."""
    driven = evaluator.episodes(tasks, bar, patience)
    if collision_cost and COLLISIONS not in driven[0].outcome:
        raise UserError(f"--collision-cost {collision_cost:g} needs a world that counts collisions, as nocturne does")
    return [episode.score - collision_cost * episode.outcome.get(COLLISIONS, 0.0) for episode in driven]


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


def all_alike(scores: Tensor) -> bool:
    """Whether the search can learn nothing from scores (P,)."""
    return bool((scores == scores[0]).all())


def evaluated(args: EvolutionSettings, generation: int) -> bool:
    """Whether the search's mean is driven in the simulator after a generation, however many there will be."""
    return bool(args.evaluate_every) and generation % args.evaluate_every == 0


def samples_now(args: EvolutionSettings, history: list[dict]) -> int:
    """S of the next generation: --n-samples, doubled in the simulator whenever STALE evaluations in a row found no
    better mean, up to --most-samples.

    The additional evaluation that each command ends with does not count: a search in pieces would be another one.
    """
    samples, best, stale = args.n_samples, -math.inf, 0
    counted = [row["simulator"] for row in history if evaluated(args, row["generation"])]
    for driven in counted if args.world == "simulator" else ():
        best, stale = (driven, 0) if driven > best else (best, stale + 1)
        if stale == STALE and samples < args.most_samples:
            samples, stale = min(2 * samples, args.most_samples), 0
    return samples


def evolved_weights(controller: Controller, evolve: str) -> int:
    """How many weights the search changes, the last ones of parameter_vector(controller)."""
    layers = controller.layers if evolve == "all" else controller.layers[-1:]
    return sum(parameter.numel() for parameter in layers.parameters())


class Search:
    """CMA-ES (Hansen 2016, pycma): the same seed and scores give the same populations, also after a `load`.

    Args:
        start: (N,) weights of the controller to begin with
        evolved: n, how many of them are searched for, the last ones; the others stay as they are; None for all
    """

    def __init__(self, start: Tensor, args: EvolutionSettings, evolved: int | None = None) -> None:
        evolved = len(start) if evolved is None else evolved
        if evolved > MOST_CORRELATED and not args.diagonal:
            raise UserError(
                f"CMA-ES with all correlations of {evolved:,} weights needs more than a machine has: use --evolve "
                "last, or --diagonal"
            )
        import cma  # see search_state.py

        self._loaded = False
        self.fixed = start[: len(start) - evolved].double()
        # pycma takes seed 0 as "no seed"; its own random numbers come from a generator nobody else draws from.
        self.draw = draw = np.random.RandomState(args.seed + 1)
        self.es = cma.CMAEvolutionStrategy(
            start[len(self.fixed) :].double().numpy(),
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
        """The candidates of the next generation, all their weights, float64 (P, N)."""
        with self._going_on():
            asked = torch.from_numpy(np.stack(self.es.ask()))
            if self._loaded and not torch.isfinite(asked).all():
                raise ValueError("it asks for candidates that are not finite")
        return torch.cat([self.fixed.expand(len(asked), -1), asked], 1)

    def tell(self, candidates: Tensor, scores: Tensor) -> None:
        """scores (P,) of the candidates just asked for: the higher the better; the sign flips here."""
        with self._going_on():
            self.es.tell(list(candidates[:, len(self.fixed) :].numpy()), (-scores.double()).tolist())

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        """What is wrong with the state that a search was loaded with shows in here, anywhere in pycma: a UserError."""
        try:
            yield
        except Exception as error:
            if not self._loaded:
                raise
            raise not_possible(error) from None

    def state(self) -> dict:
        """What `load` brings another search of the same settings here with: tensors and plain values."""
        return save_search(self.es, self.draw)

    def load(self, state: dict | None, scores: Tensor) -> None:
        """Bring a search that has just been made to where `state` was taken, or, where that is none of this version of
        pycma, through the generations whose scores (G, P) were recorded."""
        if state and state.get("pycma") == pycma_version():
            load_search(self.es, self.draw, state)
            self._loaded = True
        else:
            self.replay(scores)

    def replay(self, scores: Tensor) -> None:
        """Go through the generations whose scores (G, P) were recorded."""
        for row in Bar(scores, desc="replaying the search", unit="generation", leave=False):
            self.tell(self.ask(), row)

    @property
    def mean(self) -> Tensor:
        """The weights in the middle of the search, float32 (N,)."""
        return torch.cat([self.fixed, torch.from_numpy(self.es.mean)]).float()

    @property
    def sigma(self) -> float:
        """The step size."""
        return float(self.es.sigma)
