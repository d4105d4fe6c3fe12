"""What a checkpoint of each stage and kind may hold: keys, types, shapes, dtypes and ranges.

Everything is compared with what the checkpoint's own config builds. `check` is given what a file describes
(utils/archive.py), before any tensor is read; `check_values` what was read. What is wrong is a Wrong, in words that
follow the file's name.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dreamdrive.data.stored_models import check_models
from dreamdrive.data.stored_values import (
    COMPARED,
    Test,
    Wrong,
    brief,
    each_is,
    is_flag,
    is_mapping,
    is_number,
    is_parents,
    is_plain,
    is_row,
    is_settings,
    is_space,
    is_tensor,
    is_text,
    is_whole,
    or_none,
    require,
)
from dreamdrive.envs.catalogue import Option, options_of
from dreamdrive.utils.archive import Stored

__all__ = ["Wrong", "check", "check_values", "check_world"]

INFINITE = ("search", "scheduler")  # in these infinity says that there is nothing yet; who loads them looks at them


def check(content: dict, stage: str, resumed: bool) -> None:
    """Wrong, or UserError of a kind that is not known, unless the described `content` is a checkpoint of the kind of
    stage; `resumed`: one from which a training goes on."""
    for name, test in KEYS.items():
        if name in content:
            test(name, content[name])
    needed = {"config", "model", "parents"} | (RESUMED if resumed else NEEDED)[stage](content)
    missing = sorted(needed - set(content))
    require(not missing, f"has no {', '.join(missing)}")
    require(not resumed or content.get("kind") != "simulator", "is a simulator, which does not train")
    if "history" in content:
        is_number("best", content.get("best"))
        columns = ("method", "return_mean") if stage == "bc" else ("simulator", "frames") if stage == "ctrl" else ()
        lacking = sorted({*columns} - set.intersection(*map(set, content["history"] or [columns])))
        require(not lacking, f"has a history without {', '.join(lacking)}")
    check_models({**content, **content.get("learnt", {})}, stage)
    if "world" in content:
        check_world(content["world"])


def check_values(content: dict) -> None:
    """Wrong unless all numbers of a checkpoint are finite, as far as they must be."""
    for name, value in content.items():
        if name not in INFINITE and not (name == "best" and _nothing_yet(content)):
            _check_finite(name, value)


def _nothing_yet(content: dict) -> bool:
    """Whether its best score stands for none: that is the worst that can be, before there is a first one; or unknown,
    of a model that an earlier version imported from another project."""
    best = content["best"]
    if "history" not in content and 0 in (content.get("epoch"), content.get("generation")):
        return best is None or not math.isinf(best)
    return best == (math.inf if content["stage"] in ("vae", "mdrnn") else -math.inf)


def _check_finite(name: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, part in value.items():
            _check_finite(f"{name}.{key}", part)
    elif isinstance(value, (list, tuple)):
        for k, part in enumerate(value):
            _check_finite(f"{name}[{k}]", part)
    elif isinstance(value, float) and not math.isfinite(value):
        column = name.rpartition(".")[2]
        require(name.startswith("history[") and column not in COMPARED, f"has {value} as {name}")
    elif isinstance(value, Tensor):
        if value.is_floating_point():
            wrong = ~torch.isfinite(value)
            require(not wrong.any(), f"has NaN or infinity in {name}, {int(wrong.sum())} of {value.numel()} numbers")
        if name.endswith("running_var"):
            require(not (value < 0).any(), f"has variances below 0 in {name}")


# Of an epoch that was stopped, see learning/unfinished.py; random numbers' states are looked at where they are used


def is_pass(name: str, value: Any) -> None:
    """How far an epoch got."""
    is_mapping(name, value)
    odd = sorted(map(str, set(value) ^ {"done", "over", "total", "weight", "carried", "luck"}))
    require(not odd, f"has {', '.join(odd)[:60]} more or less than {name} has")
    is_whole(f"{name}.done", value["done"])
    is_flag(f"{name}.over", value["over"])
    is_number(f"{name}.weight", value["weight"])
    require(value["weight"] >= 0, f"has {value['weight']} as {name}.weight")
    is_settings(f"{name}.total", value["total"])
    measured = value["weight"] > 0 and "loss" in value["total"]
    require(measured or not value["over"], f"has no loss in {name}")
    for column, total in value["total"].items():
        is_number(f"{name}.total.{column}", total)
    require(value["carried"] is None or isinstance(value["carried"], Stored), f"has no tensor as {name}.carried")
    is_mapping(f"{name}.luck", value["luck"])


def is_driven(name: str, value: Any) -> None:
    """What came of episodes: by the digest of what they depend on, those of a batch and how many steps they took."""
    is_settings(name, value)
    for group in value.values():
        require(isinstance(group, (list, tuple)) and len(group) == 2, f"has {brief(group)} in {name}")
        is_whole(f"{name}, steps", group[1])
        require(isinstance(group[0], (list, tuple)), f"has {brief(group[0])} in {name}")
        for episode in group[0]:
            require(isinstance(episode, (list, tuple)) and len(episode) == 3, f"has {brief(episode)} in {name}")
            score, outcome, place = episode
            is_number(f"{name}, score", score)
            is_settings(f"{name}, outcome", outcome)
            for what, found in outcome.items():
                require(type(found) in (bool, int, float), f"has {brief(found)} as {name}, {what}")
            is_text(f"{name}, place", place)


KEYS: dict[str, Test] = {
    "learnt": is_mapping,
    "pass": is_pass,
    "driven": is_driven,
    "config": is_settings,
    "model": is_mapping,
    "parents": is_parents,
    "kind": is_text,
    "world": is_settings,
    "epoch": is_whole,
    "generation": is_whole,
    "updates": is_whole,
    "samples": is_whole,
    "best_epoch": is_whole,
    "began": is_whole,
    "best": or_none(is_number),
    "unit": is_number,
    "init": is_text,
    "mirror": is_flag,
    "datasets": each_is(is_text),
    "dataset_digests": each_is(is_text),
    "splits": is_plain,
    "history": each_is(is_row),
    "settings": is_settings,
    "scheduler": is_settings,
    "luck": or_none(is_tensor(None, dtypes=("uint8",))),
}
FITTED = {"datasets", "history", "optimizer", "scheduler", "best_epoch"}
# What each stage needs, and what a training goes on from
NEEDED: dict[str, Callable[[dict], set[str]]] = {
    "vae": lambda content: {"world", "datasets"},
    "mdrnn": lambda content: {"datasets"} | (set() if "history" in content else {"starts"}),
    "ctrl": lambda content: set(),
    "bc": lambda content: set(),
}
RESUMED: dict[str, Callable[[dict], set[str]]] = {
    "vae": lambda content: {"world", *FITTED},
    "mdrnn": lambda content: FITTED,
    "ctrl": lambda content: (
        {"history", "settings"}
        | ({"learner", "actor", "average", "unit"} if "learner" in content else {"scores", "start"})
    ),
    "bc": lambda content: (
        {"learner"} if "learner" in content else {"history", "optimizer", "criterion", "settings", "best", "world"}
    ),
}


def check_world(world: dict) -> None:
    """Wrong unless these are a world's env, image_shape, action_space, dt, max_steps and options."""
    missing = sorted({"env", "image_shape", "action_space", "dt", "max_steps"} - set(world))
    require(not missing, f"has a world without {', '.join(missing)}")
    is_text("world.env", world["env"])
    shape = world["image_shape"]
    each_is(lambda name, value: is_whole(name, value, 1, 1 << 16))("world.image_shape", shape)
    require(len(shape) in (1, 3), f"has a world with frames of {len(shape)} dimensions")
    is_space("world.action_space", world["action_space"])
    is_number("world.dt", world["dt"])
    require(0 < world["dt"] < math.inf, f"has steps of {world['dt']} seconds")
    is_whole("world.max_steps", world["max_steps"], 1)
    is_mapping("world.options", world.get("options", {}))
    listed = {option.name: option for option in options_of(world["env"])}
    for name, value in world.get("options", {}).items():
        require(name in listed, f"has a world with the option {brief(name)}, which {world['env']} does not have")
        require(_fits(listed[name], value), f"has a world with {brief(value)} as its option {name}")


def _fits(option: Option, value: Any) -> bool:
    """Whether an option of a world can be that."""
    if value is None or option.choices is not None:
        return value is None or value in (option.choices or ())
    if option.type is bool or isinstance(option.default, bool):
        return type(value) is bool
    if (option.place or option.type in (None, str)) and not isinstance(option.default, int):
        return type(value) is str
    return type(value) in (int, float) and 0 <= value < math.inf
