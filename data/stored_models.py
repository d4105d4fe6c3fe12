"""What checkpoints hold of models and of what trains them, compared with what their configs build.

Nothing is built in memory: models are made on torch's device "meta", after their sizes have been found to be no larger
than the file has numbers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from importlib import import_module
from typing import Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from dreamdrive.data.stored_values import (
    FLOATS,
    LARGEST,
    Wrong,
    brief,
    is_mapping,
    is_number,
    is_plain,
    is_space,
    is_tensor,
    is_whole,
    require,
)
from dreamdrive.models.actor import Critic
from dreamdrive.models.catalogue import FRAMES, HEADS, KINDS, OF_ACTOR_CRITIC, WITHOUT_LATENTS
from dreamdrive.utils.archive import Stored
from dreamdrive.utils.spaces import ActionSpace

MOST_NEURONS = 4096  # wired: who is wired to whom is a table of their square
DITTOS_CRITIC = 128, 2  # see learning/ditto.py


def check_models(content: dict, stage: str) -> None:
    """Wrong unless the described weights of a checkpoint, and the moments and averages of them, are those of its
    config."""
    if stage in KINDS and (content.get("kind") or next(iter(KINDS[stage]))) not in KINDS[stage]:
        return  # of another version: `build` says so
    with _nowhere():
        model = _built(stage, content)
        _same(content["model"], shapes(model), "model")
        if stage in KINDS:
            _check_fitted(stage, model, content)
        else:
            _check_head(model, content)


@contextmanager
def _nowhere() -> Iterator[None]:
    """What is built in here takes no memory and draws no random numbers that others would."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        yield


def shapes(model: torch.nn.Module) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each part of a state dict."""
    return {name: (tuple(value.shape), _dtype(value)) for name, value in model.state_dict().items()}


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _same(found: Any, wanted: Mapping[str, tuple[tuple[int, ...], str]], name: str) -> None:
    """Wrong unless `found` describes a state dict of these parts."""
    is_mapping(name, found)
    odd = sorted(map(str, set(found) ^ set(wanted)))
    require(not odd, f"has other weights as {name} than its config says ({_some(odd)})")
    for part, (shape, dtype) in wanted.items():
        is_tensor(*shape, dtypes=FLOATS if dtype in FLOATS else (dtype,))(f"{name}.{part}", found[part])


def _some(names: Sequence[str]) -> str:
    return ", ".join(name[:60] for name in names[:3]) + (", ..." if len(names) > 3 else "")


def _built(stage: str, content: dict) -> Any:
    """The untrained model of a checkpoint's config."""
    config, model = content["config"], content["model"]
    if stage in KINDS:
        kind = content.get("kind") or next(iter(KINDS[stage]))
        place = KINDS[stage].get(kind)
    else:
        features = config.get("head", config.get("features"))
        place = HEADS.get(features) if type(features) is str else None
        require(place is not None, f"has a head that sees {brief(features)}, of which there is none")
    assert place is not None, "it was found"
    cls = getattr(import_module(place[0]), place[1])
    if hasattr(cls, "sizes"):
        _check_config(cls.sizes, config, model)
    try:
        return cls.from_config(config)
    except (TypeError, ValueError, KeyError, RuntimeError, OverflowError, IndexError, ZeroDivisionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Wrong(f"has a config that nothing can be built from ({reason[:200]})") from None


def _check_config(sizes: type, config: dict, model: dict) -> None:
    """Wrong unless a config has the fields of `sizes`, of their types, and none larger than the weights are many."""
    hints, known = get_type_hints(sizes), {field.name: field for field in fields(sizes)}
    stored = [part for part in model.values() if isinstance(part, Stored)]
    numbers = max(sum(math.prod(part.shape) for part in stored), 1 << 12)
    odd = sorted(map(str, set(config) - set(known)))
    require(not odd, f"has a config with {_some(odd)}, which is no size of its kind")
    for name, field in known.items():
        if name not in config:
            has_default = field.default is not MISSING or field.default_factory is not MISSING
            require(has_default, f"has a config without {name}")
            continue
        value = config[name]
        require(_fits(value, hints[name]), f"has {brief(value)} as {name} in its config")
        most = LARGEST if name == "max_steps" else numbers
        most = {"layers": len(stored), "members": len(stored), "neurons": MOST_NEURONS}.get(name, most)
        for size in _numbers_in(value):
            require(0 <= size <= most, f"has {name} {size} in its config, and {numbers} weights")
    if "action_space" in config:
        is_space("config.action_space", config["action_space"])


def _numbers_in(value: Any) -> list[int]:
    if type(value) is int:
        return [value]
    return [n for part in value for n in _numbers_in(part)] if isinstance(value, (list, tuple)) else []


def _fits(value: Any, hint: Any) -> bool:
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    if hint in (int, bool, str, dict):
        return type(value) is hint
    if isinstance(get_origin(hint), type) and issubclass(get_origin(hint), (Sequence, tuple)):
        return isinstance(value, (list, tuple)) and len(value) <= 64 and all(_fits(v, get_args(hint)[0]) for v in value)
    return False


def _check_fitted(stage: str, model: Any, content: dict) -> None:
    """Of V or M."""
    config = model.config
    if stage == "vae" and "world" in content:
        wanted = [config.size, config.size, config.channels]
        found = content["world"].get("image_shape")
        require(
            found is not None and list(found) == wanted, f"is a V of frames {wanted} of a world with {brief(found)}"
        )
    if hasattr(config, "reward_scale"):
        require(config.reward_scale > 0, f"has rewards in units of {config.reward_scale}")
    if stage == "mdrnn" and content.get("starts") is not None:
        _check_starts(model, content["starts"])
    if "optimizer" in content:
        check_adam("optimizer", content["optimizer"], [tuple(p.shape) for p in model.parameters()])


def _check_starts(model: Any, starts: dict) -> None:
    """Where dreams begin: latents and M's states."""
    is_mapping("starts", starts)
    require(isinstance(starts.get("h"), Stored) and len(starts["h"].shape) == 2, "has starts without h")
    num = starts["h"].shape[0]
    require(num > 0, "has no starts")
    state = model.bare(model.initial(num)).to_dict()
    carried = {name: (tuple(part.shape), _dtype(part)) for name, part in state.items()}
    latents = {name: part for name, part in starts.items() if name not in carried}
    _same({name: part for name, part in starts.items() if name in carried}, carried, "starts")
    if "tokens" in latents:
        require(set(latents) == {"tokens"}, f"has starts with {_some(sorted(map(str, latents)))}")
        is_tensor(num, None, dtypes=("int16",))("starts.tokens", latents["tokens"])
    else:
        _same(latents, {name: ((num, model.config.latent), "float32") for name in ("mu", "logsigma")}, "starts")


def _check_head(model: Any, content: dict) -> None:
    """Of a controller of any kind, and of what trains it."""
    config, parts = model.config, shapes(model)
    space, numbers = ActionSpace.from_dict(config.action_space), sum(p.numel() for p in model.parameters())
    if "world" in content:
        world = content["world"]
        require(world.get("action_space") == config.action_space, "has other actions in its world than in its config")
        seen = {"state": [config.latent] if hasattr(config, "latent") else None, FRAMES: _image(config)}
        wanted = seen.get(config.features)
        found = world.get("image_shape")
        require(wanted is None or (found is not None and list(found) == wanted), f"sees {wanted} of a world of {found}")
    require("world" in content or config.features not in WITHOUT_LATENTS, "has no world")
    averaged = {"n_averaged": ((), "int64"), **{f"module.{name}": part for name, part in parts.items()}}
    for name in ("start", "mean"):
        if name in content:
            is_tensor(numbers)(name, content[name])
    if "scores" in content:
        is_tensor(len(content.get("history", ())), None, dtypes=("float64", "float32"))("scores", content["scores"])
    if "search" in content:
        is_mapping("search", content["search"])
    if content.get("average") is not None:
        _same(content["average"], averaged, "average")
    of_critics = getattr(config, "head", None) in OF_ACTOR_CRITIC
    critic = shapes(Critic.beside(config)) if of_critics else {}
    if "actor" in content:
        _same(content["actor"], parts, "actor")
    if "critic" in content:
        _same(content["critic"], critic, "critic")
        require(content.get("unit", 0) > 0, f"has rewards in units of {brief(content.get('unit'))}")
    if "learner" in content and of_critics:
        _check_learner("learner", content["learner"], model, critic)
    elif "learner" in content:
        _check_taught(content["learner"], model, averaged)
    _check_cloned(content, model, space)
    for k, row in enumerate(content.get("history", ())):
        if "settings" in content and "criterion" in content:
            require(
                row.get("method") in ("bc", "dagger", "ditto"), f"has {brief(row.get('method'))} as history[{k}].method"
            )


def _image(config: Any) -> list[int] | None:
    shape = getattr(config, "image_shape", None)
    return None if shape is None else list(shape)


def _check_cloned(content: dict, model: Any, space: ActionSpace) -> None:
    """What trainbc.py goes on from."""
    config, spread = model.config, {"log_spread": ((space.size,), "float32")}
    criterion = content.get("criterion", {})
    _same(criterion, spread if criterion else {}, "criterion")
    if "optimizer" in content:
        sizes = [tuple(p.shape) for p in model.parameters()]
        check_adam("optimizer", content["optimizer"], [*sizes, *([(space.size,)] if criterion else [])])
    if content.get("cloned") is not None:
        is_mapping("cloned", content["cloned"])
        require(set(content["cloned"]) == {"model", "score"}, "has not the model and its score as cloned")
        _same(content["cloned"]["model"], shapes(model), "cloned.model")
        is_number("cloned.score", content["cloned"]["score"])
    if content.get("drifted") is not None:
        found = content["drifted"]
        is_mapping("drifted", found)
        rows = found["z"].shape[0] if isinstance(found.get("z"), Stored) and found["z"].shape else None
        widths = {"z": config.latent, "h": config.recurrent, "action": space.size} if hasattr(config, "latent") else {}
        _same(found, {name: ((rows, width), "float16") for name, width in widths.items()}, "drifted")  # type: ignore[misc]
    if content.get("ditto") is not None:
        require(hasattr(config, "recurrent"), "has learnt in dreams, and sees none")
        critic = shapes(Critic(config.latent, config.recurrent, *DITTOS_CRITIC, normalised=False))
        _check_learner("ditto", content["ditto"], model, critic)
    scale = content.get("scale", {})
    is_mapping("scale", scale)
    if scale:
        _same(scale, {name: ((config.latent,), "float32") for name in ("mean", "factor")}, "scale")


def _check_learner(name: str, found: Any, model: Any, critic: dict) -> None:
    """Of actor and critic: see learning/actor_critic.py."""
    is_mapping(name, found)
    require({"critic", "slow", "optimizers"} <= set(found), f"has no critic, slow and optimizers in {name}")
    for part in ("critic", "slow"):
        _same(found[part], critic, f"{name}.{part}")
    optimizers = found["optimizers"]
    require(isinstance(optimizers, (list, tuple)) and len(optimizers) == 2, f"has not two optimizers in {name}")
    sizes = [tuple(p.shape) for p in model.parameters()], [shape for shape, _ in critic.values()]
    for k, (optimizer, own) in enumerate(zip(optimizers, sizes, strict=True)):
        check_adam(f"{name}.optimizers[{k}]", optimizer, own)
    if "range" in found:
        is_tensor()(f"{name}.range", found["range"])


def _check_taught(found: Any, model: Any, averaged: dict) -> None:
    """Of a clone that was taught: see teacher/learner.py."""
    is_mapping("learner", found)
    missing = sorted({"training", "optimizer", "steps", "mean", "spread"} - set(found))
    require(not missing, f"has no {', '.join(missing)} in learner")
    _same(found["training"], shapes(model), "learner.training")
    if "average" in found:
        _same(found["average"], averaged, "learner.average")
    check_adam("learner.optimizer", found["optimizer"], [tuple(p.shape) for p in model.parameters()])
    is_whole("learner.steps", found["steps"])
    numbers = model.config.latent if model.config.features == "state" else 0
    for name in ("mean", "spread"):
        is_tensor(numbers)(f"learner.{name}", found[name])


def check_adam(name: str, found: Any, sizes: Sequence[tuple[int, ...]]) -> None:
    """Wrong unless `found` describes the state of an Adam of parameters of these shapes, in whatever order its groups
    have them: torch believes it, and writes beyond a moment that is smaller than its parameter."""
    is_mapping(name, found)
    require(set(found) == {"state", "param_groups"}, f"has not a state and groups as {name}")
    is_mapping(f"{name}.state", found["state"])
    groups = found["param_groups"]
    require(isinstance(groups, (list, tuple)) and all(isinstance(g, dict) for g in groups), f"has no groups in {name}")
    order = [index for group in groups for index in group.get("params", ())]
    require(order == list(range(len(sizes))), f"has other parameters in {name} than its config says")
    for group in groups:
        is_plain(f"{name}.param_groups", group)
        for setting in ("lr", "eps", "weight_decay"):
            is_number(f"{name}.{setting}", group.get(setting))
            require(group[setting] >= 0, f"has {group[setting]} as {name}.{setting}")
        betas = group.get("betas")
        fits = (
            isinstance(betas, (list, tuple)) and len(betas) == 2 and all(type(b) is float and 0 <= b < 1 for b in betas)
        )
        require(fits, f"has {brief(betas)} as {name}.betas")
        for setting in ("amsgrad", "maximize", "capturable", "differentiable"):
            require(group.get(setting, False) is False, f"has {setting} in {name}")
    there: list[tuple[int, ...]] = []
    for index, moments in found["state"].items():
        is_mapping(f"{name}.state", moments)
        require(type(index) is int and 0 <= index < len(sizes), f"has moments of parameter {brief(index)} in {name}")
        require(set(moments) == {"step", "exp_avg", "exp_avg_sq"}, f"has other moments in {name} than Adam's")
        is_tensor(dtypes=("float32",))(f"{name}.state[{index}].step", moments["step"])
        shape = moments["exp_avg"].shape if isinstance(moments["exp_avg"], Stored) else ()
        for part in ("exp_avg", "exp_avg_sq"):
            is_tensor(*shape, dtypes=("float32",))(f"{name}.state[{index}].{part}", moments[part])
        there.append(tuple(shape))
    left = list(sizes)
    for shape in there:
        require(shape in left, f"has moments of shape {shape} in {name}, and no parameter of that shape is left")
        left.remove(shape)
