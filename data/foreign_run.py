"""Imports of checkpoints of ctallec/world-models, the PyTorch pipeline most people come from: DIR/vae/best.tar,
DIR/mdrnn/best.tar and DIR/ctrl/best.tar. That project showed V the whole 96x96 observation, instrument panel included,
so the imported run is one of the world gym:CarRacing-v3, whose frames are made in this way.
"""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamdrive.data.npz import CARRACING, DT, MAX_STEPS
from dreamdrive.models.controller import Controller, ControllerConfig
from dreamdrive.models.mdrnn import MDRNN, MDRNNConfig
from dreamdrive.models.vae import VAE, VAEConfig
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import require_file


def import_checkpoint(source: Path, logdir: Path) -> list[str]:
    """Write what `source` holds of V, M and C as checkpoints of ours; returns the stages that were found."""
    found = {
        stage: source / stage / "best.tar"
        for stage in ("vae", "mdrnn", "ctrl")
        if (source / stage / "best.tar").exists()
    }
    if "vae" not in found:
        raise UserError(
            f"{source / 'vae' / 'best.tar'} is missing: give the folder that project was run with as --logdir"
        )
    if "ctrl" in found and "mdrnn" not in found:
        raise UserError(
            f"{source / 'mdrnn' / 'best.tar'} is missing, and the controller in {source / 'ctrl'} needs it: give the "
            "whole folder"
        )
    models: dict[str, Any] = {}
    for stage, file in found.items():
        models[stage] = CONVERTERS[stage](_state_dict(file), file, models)
    contents: dict[str, bytes] = {}
    parents: dict[str, str] = {}
    extra: dict[str, dict] = {
        "vae": {
            "world": {
                "env": "gym:CarRacing-v3",
                "image_shape": [64, 64, 3],
                "action_space": CARRACING,
                "dt": DT,
                "max_steps": MAX_STEPS,
            },
            "datasets": [],
            "best": None,
            "epoch": 0,
        },
        "mdrnn": {"datasets": [], "starts": None, "best": None, "epoch": 0},
        "ctrl": {"settings": {}, "best": None, "generation": 0},
    }
    for stage, model in models.items():
        target, config = checkpoint.path(logdir, stage), model.config_dict()
        contents[stage] = checkpoint.packed(target, stage, config, model.state_dict(), parents, **extra[stage])
        parents = {**parents, stage: hashlib.sha256(contents[stage]).hexdigest()}
    checkpoint.save_run(logdir, contents, "--logdir")
    return list(found)


def _state_dict(file: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint of that project; its best score, a NumPy scalar, is the only thing admitted beside
    tensors and plain values."""
    # NumPy moved its core; old files name the old place of the function that makes a scalar.
    scalar = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        type(np.dtype(np.float64)),
        type(np.dtype(np.float32)),
    ]
    try:
        _require_whole(file)
        with torch.serialization.safe_globals(allowed):
            content = torch.load(file, map_location="cpu", weights_only=True)
        return _weights(content["state_dict"], file.stat().st_size)
    except Exception as error:  # a damaged or hostile file can fail anywhere in torch
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{file} is not a checkpoint of ctallec/world-models that can be loaded safely ({reason}): get it again "
            "from where it was trained"
        ) from None


def _require_whole(file: Path) -> None:
    """ValueError unless the file is one, unpacks to no more than it is, and matches its checksums, which torch does not
    look at."""
    require_file(file)
    if not zipfile.is_zipfile(file):  # as old versions of torch wrote them
        return
    with zipfile.ZipFile(file) as archive:
        if sum(member.file_size for member in archive.infolist()) > file.stat().st_size:
            raise ValueError("it unpacks to more than it is")
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"{damaged} does not match its checksum")


def _weights(state: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """A state dict, float32; ValueError unless it is one of plain finite numbers that were in a file of so many
    bytes."""
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
        raise ValueError("its state_dict holds something else than tensors by name")
    for name, value in state.items():
        if value.layout != torch.strided or not value.is_floating_point():
            raise ValueError(f"{name} is {value.dtype}, and plain numbers are wanted")
    if sum(value.numel() * value.element_size() for value in state.values()) > size:
        raise ValueError("its tensors are larger than the file")
    weights = {name: value.float() for name, value in state.items()}
    for name, value in weights.items():
        if not value.isfinite().all():
            raise ValueError(f"{name} holds numbers that are not finite")
    return weights


def _vae(state: dict[str, Tensor], file: Path, parents: dict[str, Any]) -> VAE:
    with _mismatch(file):
        model = VAE(VAEConfig(len(state["encoder.fc_mu.bias"]), state["encoder.conv1.weight"].shape[1]))
        # (1024, 128, 5, 5), a transposed convolution of a 1x1 input: ours is the same as a matrix
        first = state["decoder.deconv1.weight"]
        renamed = {
            **{
                f"encoder.{2 * i}.{part}": state[f"encoder.conv{i + 1}.{part}"]
                for i in range(4)
                for part in ("weight", "bias")
            },
            **{
                f"{ours}.{part}": state[f"{theirs}.{part}"]
                for part in ("weight", "bias")
                for ours, theirs in (
                    ("mu", "encoder.fc_mu"),
                    ("logsigma", "encoder.fc_logsigma"),
                    ("expand", "decoder.fc1"),
                )
            },
            "first.weight": first.permute(1, 2, 3, 0).reshape(-1, first.shape[0]),
            "first.bias": state["decoder.deconv1.bias"].repeat_interleave(25),
            **{
                f"decoder.{2 * i}.{part}": state[f"decoder.deconv{i + 2}.{part}"]
                for i in range(3)
                for part in ("weight", "bias")
            },
        }
        model.load_state_dict(renamed)
    return model


def _mdrnn(state: dict[str, Tensor], file: Path, parents: dict[str, Any]) -> MDRNN:
    with _mismatch(file):
        weight = state["rnn.weight_ih_l0"]
        hidden, outputs = weight.shape[0] // 4, len(state["gmm_linear.bias"])
        mixtures = 5  # that project's constant
        latent = ((outputs - 2) // mixtures - 1) // 2
        action, made = weight.shape[1] - latent, parents["vae"].config.latent
        if (latent, action) != (made, len(CARRACING["low"])):
            raise UserError(
                f"{file} takes {latent} latents and {action} numbers of an action, and V makes {made} latents and "
                f"CarRacing has {len(CARRACING['low'])}: give the folder of one run, whose M was trained with its V"
            )
        model = MDRNN(MDRNNConfig(latent, action, hidden, mixtures))
        renamed = {
            name.replace("rnn.", "lstm.").replace("gmm_linear.", "head."): value for name, value in state.items()
        }
        # theirs takes the action first
        renamed["lstm.weight_ih_l0"] = torch.cat([weight[:, action:], weight[:, :action]], 1)
        model.load_state_dict(renamed)
    return model


def _controller(state: dict[str, Tensor], file: Path, parents: dict[str, Any]) -> Controller:
    with _mismatch(file):
        m = parents["mdrnn"].config
        wanted = (len(CARRACING["low"]), m.latent + m.hidden)
        if state["fc.weight"].shape != wanted:
            raise UserError(
                f"{file} has weights {tuple(state['fc.weight'].shape)}, and for what V and M give it has {wanted}: "
                "give the folder of one run, whose controller was trained with its V and M"
            )
        model = Controller(ControllerConfig(m.latent, m.hidden, "zh", 0, CARRACING))
        model.load_state_dict({"layers.0.weight": state["fc.weight"], "layers.0.bias": state["fc.bias"]})
    return model


class _mismatch:
    """Turns what a state dict of another shape raises into a UserError."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{self.file} has not the layers of ctallec/world-models ({reason}): only that project's own models "
                "can be imported"
            ) from None


CONVERTERS = {"vae": _vae, "mdrnn": _mdrnn, "ctrl": _controller}
