"""Heads: what makes actions of what is seen. One is a class and a line in HEADS (models/catalogue.py), and
`--features` then has its name.

    head = make_head(checkpoint["config"])      # untrained, of the sizes and the kind that the config says

A head that sees latents is a Controller that sees more of them, or less, or does all that one does.
"""

from importlib import import_module
from typing import Any

from dreamdrive.models.catalogue import HEADS, OF_ACTOR_CRITIC
from dreamdrive.utils.errors import UserError


def make_head(config: dict) -> Any:
    """The untrained head of a checkpoint's config."""
    features = config.get("head", config["features"])
    if features not in HEADS:
        others = ", ".join(name for name in HEADS if name not in OF_ACTOR_CRITIC)
        raise UserError(f'there is no head that sees "{features}": there are those that see {others}')
    module, name = HEADS[features]
    return getattr(import_module(module), name).from_config(config)
