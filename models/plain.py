"""V's decoder, M and heads as plain values and tensors: all that a program without torch needs to do what they do
(web/dream.js).

    layers = decoder(vision)       one after another, from z to colours in [0, 1]
    parts = memory(model)          what remembers, and what foresees
    parts = head(controller)       from z, or z and h, to an action

A layer is a dict of its `kind` and its tensors, in torch's own shapes. UserError for what there are no plain layers of.
"""

from collections.abc import Iterable
from typing import Any

from torch import nn

from dreamdrive.models.actor import Actor
from dreamdrive.models.controller import Controller
from dreamdrive.models.mdrnn import MDRNN, Ensemble
from dreamdrive.models.token_memory import LSTMOnce
from dreamdrive.models.tokens import Tokens
from dreamdrive.models.vae import GRID, VAE
from dreamdrive.models.world_model import Memory, Vision
from dreamdrive.utils.errors import UserError

Plain = dict[str, Any]

WITHOUT_WEIGHTS = {nn.ReLU: "relu", nn.SiLU: "silu", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh"}
MEMORIES = (MDRNN, Ensemble, LSTMOnce)


def decoder(vision: Vision) -> list[Plain]:
    """From z (Z,) to colours (C, H, W), of any kind of V there is."""
    if isinstance(vision, VAE) and not vision.config.grid:
        entered = [vision.expand, nn.ReLU(), vision.first, nn.ReLU()]
        return [*layers(entered), grid(128, 5, channels_first=True), *layers(vision.decoder)]
    if isinstance(vision, VAE):
        return [grid(vision.config.latent // GRID**2, GRID, channels_first=True), *layers(vision.decoder)]
    if isinstance(vision, Tokens):
        return [grid(vision.config.numbers, vision.config.side, channels_first=False), *layers(vision.decoder)]
    raise UserError(f"a V of kind {vision.kind} has no plain layers: gaussian, fsq and vq have")


def grid(channels: int, side: int, channels_first: bool) -> Plain:
    """The layer that takes numbers one after another as a grid of `channels` at each of side x side places."""
    return {"kind": "grid", "channels": channels, "side": side, "channels_first": channels_first}


def layers(modules: Iterable[nn.Module]) -> list[Plain]:
    return [layer(module) for module in modules]


def layer(module: nn.Module) -> Plain:
    if isinstance(module, nn.Linear):
        return {"kind": "linear", "weight": module.weight, "bias": module.bias}
    if isinstance(module, nn.LayerNorm):
        return {"kind": "norm", "weight": module.weight, "bias": module.bias, "epsilon": module.eps}
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return {
            "kind": "conv" if isinstance(module, nn.Conv2d) else "deconv",
            "weight": module.weight,
            "bias": module.bias,
            "size": module.kernel_size[0],
            "stride": module.stride[0],
            "padding": int(module.padding[0]),
        }
    return {"kind": WITHOUT_WEIGHTS[type(module)]}


def memory(model: Memory) -> Plain:
    """M, of one of MEMORIES: its `members` (LSTMs, of which an ensemble has several) and what their h says."""
    if not isinstance(model, MEMORIES):
        known = ", ".join(kind.kind for kind in MEMORIES)
        raise UserError(
            f"an M of kind {model.kind} has no plain layers, and those that have are {known}: train one beside it, in "
            "another --logdir, with `python trainmdrnn.py`"
        )
    common = {
        "latent": model.config.latent,
        "rewarded": model.rewarded,
        "reward_scale": model.config.reward_scale,
        "draws": list(model.draws),
        "members": [member(part) for part in (model.members if isinstance(model, Ensemble) else [model])],
    }
    if isinstance(model, LSTMOnce):
        return common | {
            "kind": "once",
            "letters": list(model.config.letters),
            "numbers": model.config.numbers,
            "alphabet": model.get_buffer("alphabet"),
            "stay": model.stay,
            "outcome": layer(model.outcome),
        }
    return common | {"kind": "mixture", "mixtures": model.config.mixtures}


def member(model: Any) -> Plain:
    """An LSTM and the layer after it. Gates are in torch's order: input, forget, cell, output."""
    lstm = model.lstm
    return {
        "hidden": model.config.hidden,
        "input": {"kind": "linear", "weight": lstm.weight_ih_l0, "bias": lstm.bias_ih_l0},
        "recurrent": {"kind": "linear", "weight": lstm.weight_hh_l0, "bias": lstm.bias_hh_l0},
        "head": layer(model.head),
    }


def head(controller: Any) -> Plain:
    """Layers from z, or z and h (`features`), to raw outputs; and what an actor's controls move (`controls`), after
    tanh, where it has some."""
    if isinstance(controller, Controller):
        linears: list[nn.Module] = [part for linear in controller.linears for part in (linear, nn.Tanh())]
        return {"features": controller.config.features, "layers": layers(linears[:-1]), "controls": None}
    if isinstance(controller, Actor):
        moved = controller.controls and {name: part.float() for name, part in controller.controls.named_buffers()}
        return {"features": controller.config.features, "layers": layers(controller.layers), "controls": moved}
    raise UserError(
        f"a head that sees {getattr(controller.config, 'features', 'frames')} has no plain layers: one that sees z, or "
        "z and h, has"
    )
