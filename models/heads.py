"""Heads: what makes actions of what is seen. One is a class and a line in HEADS, and `--features` then has its name.

    head = make_head(checkpoint["config"])      # untrained, of the sizes and the kind that the config says

A head that sees latents is a Controller that sees more of them, or less, or does all that one does.
"""

from typing import Any

from dreamdrive.models.actor import ACTOR, Actor
from dreamdrive.models.controller import Controller
from dreamdrive.models.policy import FRAMES, WITHOUT_LATENTS, Policy
from dreamdrive.models.watcher import WATCHER, Watcher
from dreamdrive.utils.errors import UserError

# by what they see, the `features` of their configs: z, z and h, a world's own numbers, or frames
HEADS: dict[str, type[Controller] | type[Policy] | type[Actor]] = {
    "z": Controller,
    "zh": Controller,
    "state": Controller,
    FRAMES: Policy,
    # of actor-critic, whose configs say it by `head`: one sees latents, one what V makes of them
    ACTOR: Actor,
    WATCHER: Watcher,
}
OF_ACTOR_CRITIC = (ACTOR, WATCHER)


def make_head(config: dict) -> Any:
    """The untrained head of a checkpoint's config."""
    features = config.get("head", config["features"])
    if features not in HEADS:
        others = ", ".join(name for name in HEADS if name not in OF_ACTOR_CRITIC)
        raise UserError(f'there is no head that sees "{features}": there are those that see {others}')
    return HEADS[features].from_config(config)


def latent_features() -> tuple[str, ...]:
    """What a head can be told to see of V and M."""
    return tuple(features for features in HEADS if features not in (*WITHOUT_LATENTS, *OF_ACTOR_CRITIC))
