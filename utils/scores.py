"""Where scores are kept: exp_dir/scores/<controller>-<env>-<simulator|dream>.json, of what a driver was not trained for
<controller>-<env>-<trial>-simulator.json, e.g. ctrl-carracing-bars-simulator.json.

Before version 0.2 it was <controller>-<simulator|dream>.json, whatever the simulator, and <controller>-<env>.json for a
fast world that stands for one.
"""

import json
from pathlib import Path

FOLDER = "scores"


def score_file(run: Path, controller: str, env: str, world: str, trial: str = "") -> Path:
    """The file of a controller's score in `env`, driven in `world`: "simulator" or "dream"; `run` is the folder of its
    run, `trial` says what was changed in the world that it was not trained for (`trial_name`)."""
    words = [controller, env.replace("/", "-"), trial, world]
    return run / FOLDER / f"{'-'.join(word for word in words if word)}.json"


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
