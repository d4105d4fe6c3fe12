"""Who can drive, by the names that command lines have for them. Nothing imports torch for that."""

from collections.abc import Sequence
from pathlib import Path

from dreamdrive.utils import checkpoint, stages
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.stages import CONTROLLERS
from dreamdrive.utils.words import did_you_mean, listed

REFERENCES = ("log", "constant")  # nocturne's: the log's own actions, and constant velocity
RANDOM, EXPERT, HUMAN = "random", "expert", "human"
UNTRAINED = {RANDOM: "white", EXPERT: "expert", **{name: name for name in REFERENCES}}  # by --controller
TRAINED = {"controller": "ctrl", "clone": "bc"}  # by --policy; others of a run as their folders are called
NAMES = ("brown", "white", "held", "expert", *REFERENCES, *TRAINED)
PLAN = "plan"  # the driver that plans
METHODS = ("mppi", "cem", "rmhc")  # of planning, see driving/planning.py


def known_controller(logdir: Path) -> str | None:
    """The trained driver of a run where nobody says which: the evolved one, or where that is not there the clone, or
    where neither is the only one that has a name; None where there is none, or several with names."""
    there = stages.controllers(logdir)
    plain = [stage for stage in there if stage in CONTROLLERS]
    return plain[0] if plain else there[0] if len(there) == 1 else None


def usual_controller(logdir: Path) -> str:
    """The same, and what is missed first where there is none; UserError where there are several with names."""
    known, there = known_controller(logdir), stages.controllers(logdir)
    if known is None and there:
        raise UserError(f"{logdir} has the controllers {listed(there)}: say which, e.g. --controller {there[0]}")
    return known or CONTROLLERS[0]


def check_driver(driver: str, logdir: Path, others: Sequence[str]) -> None:
    """UserError unless a controller of a run can be called `driver`, or it is one of `others`."""
    if driver in others or stages.is_controller(driver):
        return
    known = list(dict.fromkeys((*CONTROLLERS, *stages.controllers(logdir), *others)))
    raise UserError(f'there is no driver "{driver}"{did_you_mean(driver, known)}: choose {listed(known, "or")}')


def require_controller(logdir: Path, controller: str) -> None:
    """UserError where a run has no such controller; it names the first stage that is missing."""
    if not checkpoint.path(logdir, controller).exists():  # one that is there may do without V and M
        checkpoint.require(logdir, "vae", "mdrnn", controller)


def trained(policy: str) -> str | None:
    """The controller of a run that --policy means, as its folder is called; None for any other driver."""
    stage = TRAINED.get(policy, policy)
    return stage if stages.is_controller(stage) else None


def policy_of(controller: str) -> str:
    """How --policy says it."""
    return next((policy for policy, stage in TRAINED.items() if stage == controller), controller)


def parse_mixture(text: str) -> dict[str, float]:
    """ "brown" as {"brown": 1}, "brown=0.5,expert=0.5" as {"brown": 0.5, "expert": 0.5}; UserError unless the shares
    add up to 1."""
    parts = [part.strip().partition("=") for part in text.split(",")]
    try:
        mixture = {name: float(share) if sign else 1.0 for name, sign, share in parts}
    except ValueError:
        mixture = {}
    shares = list(mixture.values())
    if (
        len(mixture) != len(parts)
        or not all(name in NAMES or trained(name) for name in mixture)
        or not all(0 < s <= 1 for s in shares)
        or abs(sum(shares) - 1) > 1e-6
    ):
        raise UserError(
            f'--policy "{text}" is not possible: give one of {", ".join(NAMES)}, a controller with a name as '
            "bc-NAME, or shares adding up to 1, as brown=0.5,expert=0.5 do"
        )
    return mixture
