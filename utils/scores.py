"""Where scores are kept: exp_dir/scores/<controller>-<env>-<simulator|dream>.json.

Before version 0.2 it was <controller>-<simulator|dream>.json, whatever the simulator, and <controller>-<env>.json for a
fast world that stands for one.
"""

import json
from pathlib import Path

FOLDER = "scores"


def score_file(run: Path, controller: str, env: str, world: str) -> Path:
    """The file of a controller's score in `env`, driven in `world`: "simulator" or "dream"; `run` is the folder of its
    run."""
    return run / FOLDER / f"{controller}-{env.replace('/', '-')}-{world}.json"


def find_score(run: Path, controller: str, env: str, world: str) -> Path:
    """The same; where there is none, the file of the name it had before, if that is there and of this env."""
    path = score_file(run, controller, env, world)
    for name in (f"{controller}-{world}.json", f"{controller}-{env.replace('/', '-')}.json"):
        before = path.with_name(name)
        if not path.exists() and before.exists() and json.loads(before.read_text()).get("env", env) == env:
            return before
    return path
