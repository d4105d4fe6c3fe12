"""Where scores are kept: exp_dir/scores/<controller>-<env>-<simulator|dream>.json, of what a driver was not trained for
<controller>-<env>-<trial>-simulator.json, e.g. ctrl-carracing-bars-simulator.json.

Before version 0.2 it was <controller>-<simulator|dream>.json, whatever the simulator, and <controller>-<env>.json for a
fast world that stands for one.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from dreamdrive.utils.errors import UserError
from dreamdrive.utils.locks import locked
from dreamdrive.utils.metrics import read_csv, write_csv

FOLDER = "scores"


def score_file(run: Path, controller: str, env: str, world: str, trial: str = "") -> Path:
    """The file of a controller's score in `env`, driven in `world`: "simulator" or "dream"; `run` is the folder of its
    run, `trial` says what was changed in the world that it was not trained for (`trial_name`)."""
    words = [controller, env.replace("/", "-"), trial, world]
    return run / FOLDER / f"{'-'.join(word for word in words if word)}.json"


def keep_row(folder: Path, values: dict[str, float]) -> None:
    """Append a score to `folder`/metrics.csv, which has all that were tracked; its column `scoring` counts them."""
    with locked(folder, None):
        before = read_csv(folder / "metrics.csv")
        write_csv(folder / "metrics.csv", [*before, {"scoring": len(before) + 1, **values}])


def trial_name(options: dict) -> str:
    """How options that are trials are told in a file's name: "bars", "obs-noise-0.1", "bars-obs-noise-0.1", ..."""
    given = ((name.replace("_", "-"), value) for name, value in options.items())
    return "-".join(value if isinstance(value, str) else f"{name}-{value:g}" for name, value in given)


def find_score(run: Path, controller: str, env: str, world: str) -> Path:
    """The same; where there is none, the file of the name it had before, if that is there and of this env."""
    path = score_file(run, controller, env, world)
    for name in (f"{controller}-{world}.json", f"{controller}-{env.replace('/', '-')}.json"):
        before = path.with_name(name)
        if not path.exists() and before.exists() and json.loads(before.read_text()).get("env", env) == env:
            return before
    return path


OURS = {"mean", "std", "min", "median", "max", "episodes", "frames"}  # numbers in a file that are no outcomes


@dataclass(frozen=True)
class Score:
    """What a score file says.

    Fields:
        file: where it is
        controller, env, world, trial: see `score_file`
        returns: undiscounted return of each episode, by its seed
        outcomes: what else became of the episodes, on average, by name
        command: that wrote it
        checkpoints: digests of the stages that drove
    """

    file: Path
    controller: str
    env: str
    world: str
    trial: str
    returns: dict[int, float]
    outcomes: dict[str, float]
    command: str
    checkpoints: dict[str, str]

    @property
    def place(self) -> str:
        """Where it was scored, in words."""
        trial = f" ({self.trial})" if self.trial else ""
        return f"{self.env}{trial}" if self.world == "simulator" else f"the dream of {self.env}{trial}"


def read_score(path: Path) -> Score:
    """The score in a file; UserError where it is none."""
    try:
        said = json.loads(path.read_bytes())
        env, name = str(said["env"]), path.stem
        world = "dream" if name.endswith("-dream") else "simulator"
        name, place = name.removesuffix(f"-{world}"), f"-{env.replace('/', '-')}"
        # before controllers had names, files did not say whose they were
        controller = str(said.get("controller") or name.partition(place)[0])
        trial = name.removeprefix(controller).removeprefix(place)
        returns = {int(seed): float(value) for seed, value in said["returns"].items()}
        if not returns or not all(map(math.isfinite, returns.values())):
            raise ValueError("its returns are not finite numbers, one or more")
        outcomes = {key: float(value) for key, value in said.items() if isinstance(value, float) and key not in OURS}
        digests = {str(stage): str(digest) for stage, digest in said.get("checkpoints", {}).items()}
        command = str(said.get("command", ""))
        return Score(path, controller, env, world, trial.lstrip("-"), returns, outcomes, command, digests)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): mend its permissions or the disk") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(
            f"{path} is not a score that can be used ({type(error).__name__}: {str(error)[:200]}): "
            "run the test_controller.py command that wrote it again"
        ) from None
