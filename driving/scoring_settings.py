"""What stage 5 can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dreamdrive.driving.catalogue import EXPERT, HUMAN, METHODS, PLAN, RANDOM, REFERENCES, check_driver
from dreamdrive.envs import flags
from dreamdrive.envs.catalogue import DREAM_STEPS
from dreamdrive.utils.argument_types import natural, natural_float, positive
from dreamdrive.utils.cores import usable
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.settings import DREAM, SIMULATOR, WORKERS, Spread, Tracked, flag

if TYPE_CHECKING:
    from dreamdrive.driving.planning import Plan

WORST = "worst"  # of --record
PLANNED = (f"--controller {PLAN}", lambda args: args.controller == PLAN)  # what alone some flags are for


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(Tracked, flags.WorldSettings, Spread):
    """What stage 5 can be told."""

    GROUPS: ClassVar[dict[str, str]] = {
        "driver": "controller plan candidates iterations ahead dreams",
        "episodes": "world env episodes seed temperature horizon",
        "what comes of it": "render record",
        "run": "max_workers",
    }

    TRIALS: ClassVar[bool] = True

    controller: str | None = flag(
        None,
        help="the driver: ctrl, the evolved controller, bc, the cloned one, or one with a name (bc-NAME); plan, a "
        "search in M's dream at every step; random, uniformly random actions; expert, the simulator's own; log or "
        "constant (nocturne), the log's own actions or constant velocity; human, you by keyboard (default: ctrl, or bc "
        "where there is none)",
    )
    world: str = flag("simulator", help="where to drive", choices=("simulator", "dream"))
    env: str | None = flag(
        None,
        help="the simulator, where --logdir holds no trained run (carracing unless given); or the fast world that "
        "stands for it, e.g. carracing-fast",
        where=SIMULATOR,
    )
    episodes: int = flag(100, positive, "episodes to drive")
    seed: int = flag(0, natural, "k: episodes use simulator seeds 2,000,000 + 10,000 k onwards")
    render: bool = flag(False, help="show the episodes in a window instead of scoring")
    record: Path | None = flag(
        None,
        Path,
        f"also write an episode (in the simulator the first one scored) as a video, e.g. out.mp4; {WORST}: those that "
        "went worst, as videos beside the score",
    )
    temperature: float = flag(1.0, natural_float, "of the dream", where=DREAM)
    horizon: int = flag(DREAM_STEPS, positive, "steps of a dream", where=DREAM)
    plan: str = flag("mppi", help="how it searches, see driving/planning.py", choices=METHODS, where=PLANNED)
    candidates: int = flag(64, positive, "sequences of actions it tries at once", where=PLANNED)
    iterations: int = flag(2, positive, "how often, each time around what was better", where=PLANNED)
    ahead: int = flag(12, positive, "steps it looks ahead", where=PLANNED)
    dreams: int = flag(1, positive, "that a sequence is tried in, drawn at temperature 1 if several", where=PLANNED)
    max_workers: int = flag(usable(), positive, "processes that drive the simulator", names=WORKERS)

    @property
    def planned(self) -> "Plan":
        from dreamdrive.driving.planning import Plan

        return Plan(self.plan, self.candidates, self.iterations, self.ahead, self.dreams, float(self.dreams > 1))

    def check(self) -> None:
        super().check()
        if self.controller is not None:
            check_driver(self.controller, self.logdir, (PLAN, RANDOM, EXPERT, *REFERENCES, HUMAN))
        if self.env:
            self.check_world(self.env)
        if self.world == "dream":
            self.refuse_options()
        if self.world == "dream" and self.controller in ("expert", *REFERENCES):
            name = self.controller if self.controller == "expert" else f'the driver "{self.controller}"'
            raise UserError(
                f"{'the expert' if name == 'expert' else name} reads the simulator's state, which a dream does not "
                "have: use --world simulator"
            )
        if self.world == "dream" and self.controller == PLAN:
            raise UserError("to plan is to dream from what is seen in the simulator: use --world simulator")
        if self.controller == "human" and not self.render:
            raise UserError("a human needs a window to drive in: add --render")
        if self.render and self.track != "none":
            raise UserError("--track is for scores, and --render shows episodes without one: leave one of the two away")
        if self.render and self.record:
            raise UserError("--render and --record exclude each other: choose one")
