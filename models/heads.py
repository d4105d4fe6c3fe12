"""Heads: what makes actions of what is seen. One is a class and a line in HEADS (models/catalogue.py), and
`--features` then has its name.

    head = make_head(checkpoint["config"])      # untrained, of the sizes and the kind that the config says

A head that sees latents is a Controller that sees more of them, or less, or does all that one does.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from dreamdrive.models.catalogue import HEADS, OF_ACTOR_CRITIC
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.spaces import ActionSpace


def make_head(config: dict) -> Any:
    """The untrained head of a checkpoint's config."""
    features = config.get("head", config["features"])
    if features not in HEADS:
        others = ", ".join(name for name in HEADS if name not in OF_ACTOR_CRITIC)
        raise UserError(f'there is no head that sees "{features}": there are those that see {others}')
    module, name = HEADS[features]
    return getattr(import_module(module), name).from_config(config)


def loaded_head(saved: dict, source: Path, world: dict | None = None, memory: Any = None) -> Any:
    """The head of a checkpoint's content, which is from the file `source`; UserError where it has other actions than
    `world`, or sees other latents than the M of config `memory` has, where these are given."""
    head = make_head(saved["config"])
    head.load_state_dict(saved["model"])
    config = head.config
    pairs: list[tuple[str, Any, Any]] = []
    if world is not None:
        space = ActionSpace.from_dict(config.action_space)
        pairs.append(("actions", space.to_dict(), ActionSpace.from_dict(world["action_space"]).to_dict()))
        if hasattr(config, "image_shape"):
            pairs.append(("frames", list(config.image_shape), list(world["image_shape"])))
    if memory is not None and hasattr(config, "latent"):
        pairs.append(("latents", config.latent, memory.latent))
        pairs.append(("numbers of h", config.recurrent, memory.hidden))
    for what, found, wanted in pairs:
        if found != wanted:
            raise UserError(
                f"{source} has {what} {found}, and the run that it is in {wanted}: get the whole run again, or train "
                "that controller again with --noreload"
            )
    return head
