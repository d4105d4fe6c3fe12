"""Who can drive, by the names that command lines have for them. Nothing imports torch for that."""

from pathlib import Path

from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError

REFERENCES = ("log", "constant")  # nocturne's: the log's own actions, and constant velocity
RANDOM, EXPERT, HUMAN = "random", "expert", "human"
CONTROLLERS = ("ctrl", "bc")  # of a run: evolved or learnt, and cloned
UNTRAINED = {RANDOM: "white", EXPERT: "expert", **{name: name for name in REFERENCES}}  # by --controller
TRAINED = {"controller": "ctrl", "clone": "bc"}  # in a run: evolved, or cloned
NAMES = ("brown", "white", "held", "expert", *REFERENCES, *TRAINED)
PLAN = "plan"  # the driver that plans
METHODS = ("mppi", "cem", "rmhc")  # of planning, see driving/planning.py


def has_controller(logdir: Path) -> bool:
    """Whether a run has a trained driver."""
    return any(checkpoint.path(logdir, name).exists() for name in CONTROLLERS)


def usual_controller(logdir: Path) -> str:
    """The trained driver of a run where nobody says which: the evolved one, or where only that is there the clone."""
    evolved, cloned = (checkpoint.path(logdir, name).exists() for name in CONTROLLERS)
    return "bc" if cloned and not evolved else "ctrl"


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
        or not set(mixture) <= set(NAMES)
        or not all(0 < s <= 1 for s in shares)
        or abs(sum(shares) - 1) > 1e-6
    ):
        raise UserError(
            f'--policy "{text}" is not possible: give one of {", ".join(NAMES)}, or shares adding up to 1, as '
            "brown=0.5,expert=0.5 do"
        )
    return mixture
