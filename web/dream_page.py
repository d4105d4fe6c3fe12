"""The page that holds a dream (web/export.py): what it is told of the run, and how that is packed."""

import base64
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamdrive.driving.agent import load_agent
from dreamdrive.envs import keys
from dreamdrive.models import plain
from dreamdrive.models.catalogue import WITHOUT_LATENTS
from dreamdrive.models.world_model import Starts, WorldModel, latents_at, load_world_model, require_starts
from dreamdrive.utils import checkpoint, runs, stages
from dreamdrive.utils.content_policy import own_only
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder, raise_if_unreadable, write_atomically
from dreamdrive.utils.keys import PACE, ChoiceKeys, Keys, NumberKeys
from dreamdrive.utils.page_style import styled
from dreamdrive.utils.spaces import ActionSpace
from dreamdrive.web.settings import NOBODY, WebSettings

HERE = Path(__file__).resolve().parent
LARGEST = 16_000_000  # bytes of a page
WEBASSEMBLY = "'wasm-unsafe-eval'"  # that the page's script puts together itself
GENERATOR = '<meta name="generator" content="dreamdrive export web">'  # by which a page of ours is known


def content(args: WebSettings) -> dict[str, Any]:
    """All that the page is told: plain values and tensors."""
    require_latents(args.logdir)
    model = load_world_model(args.logdir, torch.device("cpu"))
    starts = require_starts(model, args.logdir)
    memory = plain.memory(model.memory)
    space = ActionSpace.from_dict(model.world["action_space"])
    keyboard = keys(model.world["env"], space)
    return {
        "run": runs.find(args.logdir).resolve().name,
        "world": model.world["env"],
        "dt": model.world["dt"],
        "steps": model.world["max_steps"],
        "kinds": {"V": model.vision.kind, "M": model.memory.kind},
        "decoder": plain.decoder(model.vision),
        "memory": memory,
        "agent": None if args.controller in (None, NOBODY) else agent(args.logdir, args.controller),
        "space": space.to_dict() | {"names": list(keyboard.space.names)},
        "keys": plain_keys(keyboard),
        "starts": plain_starts(model, starts, args.starts),
    }


def require_latents(logdir: Path) -> None:
    """UserError where a run drives without V and M."""
    if checkpoint.path(logdir, "vae").exists():
        return
    for stage in stages.controllers(logdir):
        features = checkpoint.load_parent(logdir, stage)["config"].get("features")
        if features in WITHOUT_LATENTS:
            raise UserError(
                f"{logdir} drives by {features}, without V and M, and so has no dream to export: give the --logdir of "
                "a run with V and M, e.g. carracing"
            )


def agent(logdir: Path, controller: str) -> dict[str, Any]:
    """The head of the run; UserError for one that a page cannot hold."""
    try:
        return plain.head(load_agent(logdir, controller).controller)
    except UserError as error:
        if "no plain layers" not in str(error):
            raise
        raise UserError(f"{error}; give --controller {NOBODY} for a page without it") from None


def plain_keys(keyboard: Keys) -> dict[str, Any]:
    """What keys do, as plain values."""
    if isinstance(keyboard, NumberKeys):
        return {
            # who presses nothing does nothing here: there is no clone that drives on
            "listed": {key: words for key, words in keyboard.listed.items() if key in keyboard.pushes},
            "pushes": {key: [push.number, push.share] for key, push in keyboard.pushes.items()},
            "slow": keyboard.slow,
            "pace": [PACE * x for x in keyboard.space.half_range.tolist()],
        }
    if isinstance(keyboard, ChoiceKeys):
        return {"listed": keyboard.listed, "choices": list(keyboard.choices.items()), "rest": keyboard.rest}
    raise AssertionError(f"keys of {type(keyboard).__name__} have no plain form")


def plain_starts(model: WorldModel, starts: Starts, count: int) -> dict[str, Tensor]:
    """z (N, Z), the likeliest, and M's state at N of the starts: h (N, R) and c (N, R)."""
    index = chosen_starts(len(starts), count)
    state = starts.state.take(index)
    return {"z": model.vision.z(latents_at(starts.latents, index)), "h": state.h, "c": state.more["c"]}


def chosen_starts(there: int, count: int) -> Tensor:
    """Numbers (N,) of `count` among the starts that are `there`, or of all."""
    return torch.linspace(0, there - 1, min(count, there)).round().long()


class Halves:
    """Tensors put one after another in half precision, little endian."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def packed(self, value: Any) -> Any:
        """`value` with {"at", "size"} in place of every tensor in it, both in numbers; UserError for numbers that half
        precision does not hold."""
        if isinstance(value, dict):
            return {name: self.packed(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [self.packed(part) for part in value]
        if not isinstance(value, Tensor):
            return value
        halved = value.detach().half()
        if not torch.isfinite(halved).all():
            raise UserError(
                f"a weight of {value.abs().max():g} is beyond half precision, which ends at 65,504: the run cannot be "
                "exported; train it anew"
            )
        at, self._size = self._size, self._size + halved.numel()
        self._parts.append(halved.contiguous().numpy().astype("<f2").tobytes())
        return {"at": at, "size": halved.numel()}

    def text(self) -> str:
        """All of them as base64."""
        return base64.b64encode(b"".join(self._parts)).decode()


def page(told: dict[str, Any]) -> str:
    """The page that holds `told`."""
    halves = Halves()
    packed = json.dumps(halves.packed(told), allow_nan=False).replace("<", "\\u003c")  # no tag ends within it
    made = styled((HERE / "page.html").read_text())
    script = '"use strict";\n' + "".join((HERE / name).read_text() for name in ("dream.js", "page.js"))
    made = made.replace("<!-- script -->", f"<script>\n{script}</script>")
    policy = f"{own_only(made, WEBASSEMBLY)}; img-src data:"
    made = made.replace("<!-- head -->", f'{GENERATOR}\n<meta http-equiv="Content-Security-Policy" content="{policy}">')
    made = made.replace("<!-- told -->", f'<script type="application/json" id="told">{packed}</script>')
    return made.replace("<!-- numbers -->", f'<script type="text/plain" id="numbers">{halves.text()}</script>')


def write(args: WebSettings) -> int:
    """Write the page; returns its size in bytes."""
    require_place(args.out)
    made = page(content(args)).encode()
    if len(made) > LARGEST:
        raise UserError(
            f"the page would have {len(made) / 1e6:.1f} MB, and {LARGEST / 1e6:.0f} MB is the most: export fewer "
            "--starts, or a run with a smaller --hidden"
        )
    make_folder(args.out.resolve().parent)
    write_atomically(args.out, made)
    return len(made)


def require_place(out: Path) -> None:
    """UserError where something is there that is no page of ours."""
    if out.is_dir():
        raise UserError(f"{out} is a folder: give --out the name of a page, e.g. {out / 'dream.html'}")
    if not out.exists():
        return
    try:
        with open(out, "rb") as file:
            ours = GENERATOR.encode() in file.read(4096)
    except OSError as error:
        raise_if_unreadable(out, error)
        ours = False
    if not ours:
        raise UserError(f"{out} exists already and is no page of a dream: choose another --out")
