"""Action spaces as plain values, so that a manifest or a checkpoint can hold them."""

from collections.abc import Sequence

import gymnasium as gym
import numpy as np

from dreamdrive.utils.errors import UserError


def space_to_dict(space: gym.Space, scale: Sequence[float] | None = None) -> dict:
    """A one-dimensional Box (with the typical size of its components, if `scale` says it) or a Discrete as {"type":
    ..., ...}; UserError for any other kind of space."""
    if isinstance(space, gym.spaces.Discrete) and space.start == 0:
        return {"type": "discrete", "n": int(space.n)}
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        bounds = {"low": [float(x) for x in space.low], "high": [float(x) for x in space.high]}
        return {"type": "box", **bounds, **({"scale": [float(x) for x in scale]} if scale is not None else {})}
    raise UserError(f"action space {space} is not supported: it must be Discrete(n) or a one-dimensional Box")


def space_from_dict(value: dict) -> gym.Space:
    """The inverse of `space_to_dict`."""
    if value["type"] == "discrete":
        return gym.spaces.Discrete(int(value["n"]))
    return gym.spaces.Box(np.array(value["low"], np.float32), np.array(value["high"], np.float32), dtype=np.float32)


def action_size(value: dict) -> int:
    """Length of the vector M and the heads use for an action: A for a box, n (one-hot) for a discrete space."""
    return int(value["n"]) if value["type"] == "discrete" else len(value["low"])
