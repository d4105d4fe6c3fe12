"""What stage 4a by evolution can be told: where candidates drive, how large a search is, and how it is judged."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dreamdrive.envs.flags import OfWorld
from dreamdrive.models.catalogue import latent_features
from dreamdrive.utils.argument_types import natural, natural_float, number, positive, positive_float
from dreamdrive.utils.cores import usable
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.seeds import require_seeds
from dreamdrive.utils.settings import DREAM, SIMULATOR, WORKERS, ControllerTraining, Spread, flag

# P and S: the paper's, and what reaches most with a million frames (docs/results/carracing.md)
SIZES = {"dream": {"pop_size": 64, "n_samples": 16}, "simulator": {"pop_size": 16, "n_samples": 2}}
# what alone some flags are for
EVALUATED = ("--evaluate-every above 0", lambda args: args.evaluate_every > 0)
STALE = 3  # evaluations without a better mean after which candidates drive more episodes


@dataclass(frozen=True, kw_only=True)
class EvolutionSettings(ControllerTraining, OfWorld, Spread):
    """What stage 4a can be told."""

    KIND: ClassVar[str] = "ctrl"

    GROUPS: ClassVar[dict[str, str]] = {
        "controller": "features init evolve",
        "search": "world generations target_return pop_size n_samples most_samples give_up collision_cost sigma "
        "diagonal",
        "dream": "temperature horizon",
        "scores in the simulator": "evaluate_every selection_episodes max_workers",
        "run": "display",
    }

    seed: int = flag(0, natural, "decides everything random in the run", fixed=True)
    world: str = flag(
        "dream",
        help="where candidates drive: in M's dream, or in the simulator (for carracing in carracing-fast, which stands "
        "for it)",
        choices=tuple(SIZES),
        fixed=True,
    )
    features: str = flag(
        "zh", help="what the controller sees: z alone, or z and h", choices=latent_features(), fixed=True
    )
    pop_size: int = flag(  # None until `sized`, and so is n_samples
        None,
        positive,
        f"P, candidates of a generation (default: {SIZES['dream']['pop_size']}; in the simulator "
        f"{SIZES['simulator']['pop_size']})",
        fixed=True,
    )
    n_samples: int = flag(
        None,
        positive,
        f"S, episodes each candidate drives (default: {SIZES['dream']['n_samples']}; in the simulator "
        f"{SIZES['simulator']['n_samples']})",
        fixed=True,
    )
    most_samples: int = flag(
        16,
        positive,
        f"in the simulator S doubles, up to this, whenever {STALE} evaluations in a row bring no better mean: few tell "
        "enough while all drive badly",
        fixed=True,
        where=SIMULATOR,
    )
    give_up: int = flag(
        0,
        natural,
        "in the simulator a candidate's episode ends after so many steps without a reward above 0, the rest counting "
        "like its last step; 0: never",
        fixed=True,
        where=SIMULATOR,
    )
    collision_cost: float = flag(
        0.0,
        natural_float,
        "in the simulator points that a collision takes from an episode's return, for candidates and for choosing",
        fixed=True,
        where=SIMULATOR,
    )
    generations: int = flag(100, positive, "evolve up to this generation; more than before resumes the search")
    target_return: float = flag(math.inf, number, "stop when the score best.tar is chosen by reaches it")
    sigma: float = flag(0.1, positive_float, "initial step size of CMA-ES", fixed=True)
    diagonal: bool = flag(False, help="separable CMA-ES: faster steps for many parameters", fixed=True)
    temperature: float = flag(1.0, natural_float, "of the dream", fixed=True, where=DREAM)
    horizon: int = flag(1000, positive, "steps of a dream", fixed=True, where=DREAM)
    evaluate_every: int = flag(
        10,
        natural,
        "generations between two drives of the search's mean in the simulator, the last one included, and with --init "
        "the clone itself; 0 for none",
        fixed=True,
    )
    selection_episodes: int = flag(32, positive, "of such a drive", fixed=True, where=EVALUATED)
    init: Path | None = flag(None, Path, "begin from this clone, e.g. exp_dir/bc/best.tar")
    evolve: str = flag(
        "all",
        help="all weights of the controller, or those of its last layer, the rest as in --init",
        choices=("all", "last"),
        fixed=True,
        where=("--init", lambda args: args.init is not None),
    )
    max_workers: int = flag(usable(), positive, "processes that drive the simulator", names=WORKERS)
    display: bool = flag(True, help="show a progress bar")

    def sized(self, before: dict | None) -> tuple["EvolutionSettings", dict]:
        """(These settings with P and S, and what the run that is resumed, with settings `before`, has decided; and what
        it has decided that was not given)."""
        world = before["world"] if before and not self.was_given("world") else self.world
        return self.resume(before, SIZES[world])

    def check(self) -> None:
        super().check()
        if self.pop_size == 1:
            raise UserError("--pop-size 1 is not possible: CMA-ES compares at least 2 candidates")
        episodes = (self.generations + 1) * self.most_episodes if self.world == "simulator" else 0
        if episodes or self.evaluate_every:
            require_seeds(self.seed, max(episodes, self.selection_episodes))

    @property
    def most_episodes(self) -> int:
        """The most that a candidate ever drives in a generation."""
        return max(self.n_samples, self.most_samples)

    @property
    def rescores(self) -> bool:
        """Whether the search's mean is scored where its candidates are, on starts or seeds that they never meet."""
        return self.world == "dream" or not self.evaluate_every
