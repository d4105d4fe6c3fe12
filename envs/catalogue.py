"""Which worlds there are, by their names, and what a command line may say of them. Neither torch nor a simulator is
imported for that, so that a name or a flag that is wrong is told at once; what else is to be known of a world is
declared in its class.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamdrive.utils import modules
from dreamdrive.utils.argument_types import natural, positive, positive_float, share
from dreamdrive.utils.errors import UserError

COMMON = ("max_steps", "restart")  # options of all worlds
REPEAT = "repeat"  # the option of those that can hold an action
ONE_INSTANCE = "one_instance"  # the option of simulators that cannot run twice
NOISE = "obs_noise"  # the option of those that are seen as pictures
DREAM_STEPS = 1000  # length of a dream unless told otherwise; CarRacing's own episode length
PERTURBATIONS = ("colour", "bars", "blob", "physics")  # of CarRacing, see envs/carracing_perturbed.py
GAME_OBSERVATIONS = ("stack", "picture")  # of Atari
# of Nocturne
CONE_SIZES, VIEW_DIST = (64, 128), 40.0  # pixels, metres
CONE_OBSERVATIONS, NOCTURNE_ACTIONS = ("cone", "features"), ("continuous", "discrete")
TRAFFIC = ("log", "idm")  # what the others do
NOCTURNE_DYNAMICS = ("bicycle", "delta-local", "state")
WARMUP = 10  # steps of the log before an episode begins
SCENE_FORMATS, SCENE_STEPS = ("nocturne", "gpudrive"), 91  # of the files, and of a log, at most
READING = ("scene_kind", "scene_speeds", "scene_rate", "late_objects", "long_logs")  # options of how files are read
SCENE_RATES = (10, 20)  # steps a second that files may have
SCENE_SPEEDS = ("checked", "file", "positions")
LATE_OBJECTS, LONG_LOGS, EGOS = ("replay", "nocturne"), ("cut", "pieces"), ("movers", "sdc", "tracks", "all")


@dataclass(frozen=True)
class Option:
    """What `make` can be told of a world, by keyword, beside what it can be told of all.

    Fields:
        name: the keyword; its flag is --name, with hyphens
        help: what it says, for --help; without it there is no flag
        type: as argparse takes it; bool for yes or no
        default: what it is unless told otherwise; None where `help` says that
        choices: its possible values, or None
        place: it says where a world is found, not what it is: a run drives in other places than it was trained in
        trial: it is for scores alone, of drivers that were trained without it; its flag is test_controller.py's
        varied: scores may be of another value than drivers were trained with, and are then told apart
    """

    name: str
    help: str = ""
    type: Callable[[str], Any] | None = None
    default: Any = None
    choices: tuple | None = None
    place: bool = False
    trial: bool = False
    varied: bool = False


@dataclass(frozen=True)
class Listed:
    """A world.

    Fields:
        place: "module:class", imported when it is first asked for
        options: what else `make` can be told of it
        variant: what its name has after a colon, as an error is to say it, e.g. "<Game>"; "" for nothing
        stands_for: the simulator whose score counts, of a fast world of ours for training; None for itself
    """

    place: str
    options: tuple[Option, ...] = ()
    variant: str = ""
    stands_for: str | None = None


HOLD = Option(REPEAT, "steps of the simulator that an action is held for", positive, default=1)
OBSERVATION_NOISE = Option(
    NOISE, "spread of noise on what is seen, in shares of 255 grey levels", share, default=0.0, varied=True
)
PERTURB = Option(
    "perturb",
    "something that the driver was not trained for: other colours of road and field, black bars at the sides, "
    "a red square beside the road, or another grip, steering, gas and brake",
    str,
    choices=PERTURBATIONS,
    trial=True,
)
OF_CARRACING = (HOLD, PERTURB, OBSERVATION_NOISE)
OF_GYM = (
    Option("observation", "a picture, or the numbers behind it", default="picture", choices=("picture", "state")),
    HOLD,
    OBSERVATION_NOISE,
)
ONE = Option(
    ONE_INSTANCE,
    "a simulator that cannot run twice at the same time, on a port of its own, say: one process drives, one episode "
    "after another",
    bool,
    default=False,
)
OF_NOCTURNE = (
    Option(
        "scenes",
        "folder of scenes in Nocturne's or GPUDrive's JSON (default: scenes of ours, made as they are needed)",
        Path,
        place=True,
    ),
    Option(
        "egos",
        "who is driven: vehicles that move (movers), the self-driving car (sdc), Waymo's tracks to predict (tracks), "
        "cyclists and pedestrians, too (all), or objects by their ids, e.g. 3,17",
        str,
        default="movers",
        place=True,
    ),
    Option(
        "scene_kind",
        "of the files of scenes: nocturne's headings are in degrees, gpudrive's in radians",
        str,
        default="auto",
        choices=("auto", *SCENE_FORMATS),
        place=True,
    ),
    Option(
        "scene_speeds",
        "of the files' velocities: refused where they are not those of the positions (checked), taken as they are "
        "(file), or made of the positions",
        str,
        default=SCENE_SPEEDS[0],
        choices=SCENE_SPEEDS,
        place=True,
    ),
    Option(
        "scene_rate",
        "steps a second of the files' logs (default: what they say, or the way vehicles go tells)",
        int,
        choices=SCENE_RATES,
        place=True,
    ),
    Option(
        "late_objects",
        "objects that appear after the first step replay their logs from then on, or are left out as in Nocturne",
        str,
        default=LATE_OBJECTS[0],
        choices=LATE_OBJECTS,
        place=True,
    ),
    Option(
        "long_logs",
        f"logs of more than {SCENE_STEPS} steps end there (cut), or are so many scenes (pieces)",
        str,
        default=LONG_LOGS[0],
        choices=LONG_LOGS,
        place=True,
    ),
    Option("image_size", "side of a cone image, pixels", int, default=CONE_SIZES[0], choices=CONE_SIZES),
    Option("view_dist", "metres that a cone image reaches", positive_float, default=VIEW_DIST),
    Option(
        "observation",
        "cone images, or Nocturne's feature vector, which needs no V and M",
        default="cone",
        choices=CONE_OBSERVATIONS,
    ),
    Option("goal", "show the goal in cone images", bool, default=True),
    Option("speed", "show the driver's own speed in cone images", bool, default=True),
    Option(
        "actions",
        "acceleration and steering as numbers, or as one of 273 pairs",
        default="continuous",
        choices=NOCTURNE_ACTIONS,
    ),
    Option(
        "traffic",
        "the others replay the log, or follow their logged ways by a car-following model and give way to the ego",
        default=TRAFFIC[0],
        choices=TRAFFIC,
        varied=True,
    ),
    Option(
        "dynamics",
        "acceleration and steering of a bicycle, as Nocturne has it; or GPUDrive's: the way and the turn of a step, or "
        "the state to be put into",
        default=NOCTURNE_DYNAMICS[0],
        choices=NOCTURNE_DYNAMICS,
    ),
    Option("warmup", "steps of the log before an episode begins", natural, default=WARMUP, place=True),
    Option("drive_on", default=False),
    Option("agents", default=1),
    OBSERVATION_NOISE,
)
OF_ATARI = (
    Option(
        "observation",
        "the last 4 frames of 84x84 in grey, or a picture of 64x64 in colour, as V takes it",
        default="stack",
        choices=GAME_OBSERVATIONS,
    ),
    Option(
        "sticky",
        "probability that a frame repeats the key of the frame before, whatever is pressed",
        float,
        default=0.0,
    ),
    Option("noops", "a game begins after 1 to so many idle frames", natural, default=30),
    Option("fire", "the world presses FIRE itself when a life begins", bool, default=True),
    Option("one_life", "an episode ends with the first life lost", bool, default=False),
    HOLD,
    OBSERVATION_NOISE,
)
# Each world, by the part of its name before the colon
WORLDS = {
    "carracing": Listed("dreamdrive.envs.carracing:CarRacing", OF_CARRACING),
    "carracing-fast": Listed("dreamdrive.envs.carracing_fast:CarRacingFast", OF_CARRACING, stands_for="carracing"),
    "nocturne": Listed("dreamdrive.envs.nocturne.world:Nocturne", OF_NOCTURNE),
    "atari": Listed("dreamdrive.envs.atari:Atari", OF_ATARI, "<Game>"),
    "cartpole": Listed("dreamdrive.envs.classic:CartPole", OF_GYM),
    "mountaincar": Listed("dreamdrive.envs.classic:MountainCar", OF_GYM),
    "gym": Listed("dreamdrive.envs.gym_adapter:GymWorld", (*OF_GYM, ONE), "<id>"),
}


def listed(name: str) -> Listed:
    """The world of that `--env` name; UserError where there is none."""
    kind, colon, _ = name.partition(":")
    found = WORLDS.get(kind)
    if found is None or bool(found.variant) != bool(colon):
        names = [kind + (f":{world.variant}" if world.variant else "") for kind, world in WORLDS.items()]
        meant = difflib.get_close_matches(kind.lower(), [*WORLDS], 1) if found is None else []
        guess = f" (did you mean {next(n for n in names if n.partition(':')[0] == meant[0])}?)" if meant else ""
        raise UserError(
            f'there is no world "{name}"{guess}: choose {", ".join(names[:-1])} or {names[-1]}, e.g. atari:Breakout or '
            "gym:Acrobot-v1"
        )
    return found


def known(name: str) -> Listed | None:
    """The world of that name, whatever it has after a colon; None where there is none."""
    return WORLDS.get(name.partition(":")[0])


def module_of(name: str) -> str | None:
    """The module that world gym:<module>:<id> is registered by; None for any other world."""
    kind, _, id = name.partition(":")
    return (kind == "gym" and id.removeprefix("old/").rpartition(":")[0]) or None


def require_module(name: str) -> None:
    """UserError where the world of that name is registered by a module that may not be imported here."""
    if module := module_of(name):
        modules.require(module, name)


def options_of(name: str) -> tuple[Option, ...]:
    """Of the world of that name; none where there is none."""
    found = known(name)
    return found.options if found else ()


def all_options() -> dict[str, dict[str, Option]]:
    """Every option that a world has: name -> kind of world -> the option."""
    found: dict[str, dict[str, Option]] = {}
    for kind, world in WORLDS.items():
        for option in world.options:
            found.setdefault(option.name, {})[kind] = option
    return found


def without_places(name: str, options: dict) -> dict:
    """Options of the world of that name, less those that say where it is found, not what it is."""
    places = {option.name for option in options_of(name) if option.place}
    return {option: value for option, value in options.items() if option not in places}


def defaults(name: str) -> dict:
    """What the options of the world of that name are unless told otherwise."""
    return {option.name: option.default for option in options_of(name)}


def official(name: str) -> str:
    """The simulator that scores of world `name` are measured in: `name` itself, unless that is a fast world of ours."""
    return (WORLDS[name].stands_for if name in WORLDS else None) or name


def fast(name: str) -> str:
    """The fastest world that stands for simulator `name`, to train and to choose models in."""
    return next((ours for ours, world in WORLDS.items() if world.stands_for == name), name)


def trials(options: dict) -> dict:
    """Those of some options that are trials, or may be, of whatever world."""
    found = {
        name
        for name, by_kind in all_options().items()
        if any(option.trial or option.varied for option in by_kind.values())
    }
    return {option: value for option, value in options.items() if option in found}


def require_options(name: str, options: dict) -> None:
    """UserError where the world of that name does not have one of the options, but another world does."""
    own = {option.name for option in options_of(name)}
    for option in options:
        theirs = [] if option in own or option in COMMON else list(all_options().get(option, {}))
        if theirs:
            verb = "does" if len(theirs) == 1 else "do"
            raise UserError(f"{name} has no option {option.replace('_', ' ')}: only {' and '.join(theirs)} {verb}")
