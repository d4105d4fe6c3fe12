"""A small checkpoint of every kind that there is, made without any training: what is tried on one is tried on all."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch

from dreamdrive.learning.actor_critic import ActorCritic, How
from dreamdrive.learning.ditto import Ditto
from dreamdrive.learning.evolution import Search
from dreamdrive.learning.fitting import adam
from dreamdrive.models.actor import Critic
from dreamdrive.models.catalogue import KINDS, MEMORIES
from dreamdrive.models.cloning import averaged
from dreamdrive.models.controller import parameter_vector
from dreamdrive.models.heads import make_head
from dreamdrive.models.world_model import build

BOX = {"type": "box", "low": [-1.0, 0.0, 0.0], "high": [1.0, 1.0, 1.0]}
CHOICES = {"type": "discrete", "n": 3}
DIGEST = "0" * 64
# Small ones of every kind of V and M
GAUSSIAN = {"latent": 64, "grid": True, "guesses": True}
MIXTURE = {"latent": 4, "action": 3, "hidden": 8, "mixtures": 2, "reward_scale": 2.5}
LETTERS = {"latent": 4, "action": 3, "hidden": 8, "letters": [3, 2], "width": 6}
CORES: dict[str, dict] = {
    "lstm": {},
    "cfc": {},
    "ncp": {"layers": 2, "neurons": 13},
    "frames": {"layers": 2, "heads": 2, "context": 4},
    "tokens": {"layers": 2, "heads": 2, "context": 4},
}
SIMULATED = {"latent": 4, "action": 3, "env": "carracing", "max_steps": 5}


def sizes_of(stage: str, kind: str) -> dict:
    """A small config of that kind of V or M."""
    if stage == "vae":
        return (
            GAUSSIAN
            if kind == "gaussian"
            else {"tokens": 16, **({"levels": [4, 3]} if kind == "fsq" else {"codes": 20})}
        )
    core, _, head = kind.partition("-")
    if core == "simulator":
        return SIMULATED
    if kind.endswith("ensemble"):
        return {**MIXTURE, "hidden": 12, "members": 3}
    return {**(MIXTURE if head == "mixture" else LETTERS), **CORES[core]}


def heads() -> dict[str, dict]:
    """A small config of each kind of head."""
    latents: dict[str, Any] = {"latent": 4, "recurrent": 8}
    frames: dict[str, Any] = {"image_shape": [36, 36, 3], "units": 4, "width": 2, "action_space": CHOICES}
    found = {
        "linear": {**latents, "features": "zh", "hidden": 0, "action_space": BOX},
        "state": {"latent": 4, "recurrent": 0, "features": "state", "hidden": 3, "action_space": CHOICES},
        "actor": {
            **latents,
            "features": "zh",
            "hidden": 8,
            "layers": 2,
            "action_space": BOX,
            "opposed": [[1, 2]],
            "head": "actor",
        },
        "watcher": {**frames, **latents, "memory": "lstm", "layers": 2, "features": "decoded", "head": "watcher"},
    }
    return found | {memory: {**frames, "memory": memory, "features": "frames"} for memory in MEMORIES}


def world_of(config: dict) -> dict:
    """The world that a head of this config acts in."""
    shape = config.get("image_shape") or ([4] if config.get("features") == "state" else [64, 64, 3])
    about = {"env": "gym:Made-up", "image_shape": shape, "action_space": config.get("action_space", BOX)}
    return {**about, "dt": 0.02, "max_steps": 9, "options": {"observation": "picture"}}


def stepped(parameters: list, optimizer: torch.optim.Optimizer) -> dict:
    """The state of an optimizer after a step."""
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


def fitted(stage: str, kind: str) -> Iterator[tuple[str, dict]]:
    """best.tar and checkpoint.tar of V or M."""
    model = build(stage, sizes_of(stage, kind), kind)
    about = {"stage": stage, "schema": 1, "config": model.config_dict(), "model": model.state_dict(), "kind": kind}
    about |= {"datasets": ["datasets/made-up"], "dataset_digests": [DIGEST], "epoch": 2, "best": 1.5}
    if stage == "vae":
        about |= {"parents": {}, "world": world_of({})}
        yield "best.tar", about
    else:
        state = model.bare(model.initial(5)).to_dict()
        latents = {"mu": torch.randn(5, model.config.latent), "logsigma": torch.zeros(5, model.config.latent)}
        about |= {"parents": {"vae": DIGEST}}
        yield "best.tar", {**about, "starts": {**latents, **state}}
    if kind == "simulator":
        return
    optimizer = adam(model, 1e-3, 0.1 if stage == "mdrnn" else 0.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
    row = {"epoch": 1, "loss": 2.0, "val_loss": 1.5, "learning_rate": 1e-3}
    more = {"optimizer": stepped(list(model.parameters()), optimizer), "scheduler": scheduler.state_dict()}
    yield "checkpoint.tar", {**about, **more, "history": [row, row], "best_epoch": 2, "began": 0, "splits": [0.1]}


def controlled(name: str, config: dict) -> Iterator[tuple[str, dict]]:
    """What stage 4 keeps of a head: evolved, learnt, cloned, taught."""
    head = make_head(config)
    about = {"stage": "bc", "schema": 1, "config": head.config_dict(), "model": head.state_dict(), "best": 2.5}
    latents = name in ("linear", "actor", "watcher")
    about |= {"parents": {"vae": DIGEST, "mdrnn": DIGEST} if latents else {}, "world": world_of(config), "epoch": 1}
    row = {"epoch": 1, "method": "bc", "loss": 1.0, "val_loss": 1.0, "return_mean": None, "return_std": None}
    parameters = list(head.parameters())
    if name in ("actor", "watcher"):
        yield from learnt(head, {**about, "stage": "ctrl"})
        return
    yield "best.tar", about
    groups: list[dict[str, Any]] = [{"params": parameters}, {"params": [], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, 1e-3)
    state = {"optimizer": stepped(parameters, optimizer), "criterion": {}, "average": averaged(head, 9).state_dict()}
    settings = {"loss": "squared", "seed": 0, "world": "dream"}
    done: dict[str, Any] = {
        "cloned": {"model": head.state_dict(), "score": 1.0},
        "drifted": None,
        "ditto": None,
        "scale": {},
    }
    if name == "linear":
        ditto = Ditto(head, 4, 8, 1e-3, 0.1, 0.02)
        done["ditto"] = {**ditto.state_dict(), "optimizers": [stepped([], one) for one in ditto.optimizers]}
        done["drifted"] = {name: torch.zeros(6, n).half() for name, n in (("z", 4), ("h", 8), ("action", 3))}
        yield from evolved(head, {**about, "stage": "ctrl"})
    luck = torch.get_rng_state()
    yield "checkpoint.tar", {**about, **state, **done, "history": [row], "settings": settings, "luck": luck}
    numbers = head.width if name == "state" else 0
    taught = {"training": head.state_dict(), "average": averaged(head, 9).state_dict(), "steps": 100}
    taught |= {"mean": torch.zeros(numbers), "spread": torch.ones(numbers)}
    taught["optimizer"] = stepped(parameters, torch.optim.AdamW(parameters, 1e-3))
    yield "checkpoint.tar", {**about, "samples": 100, "learner": taught}


def learnt(actor: Any, about: dict) -> Iterator[tuple[str, dict]]:
    """Of an actor-critic."""
    learner = ActorCritic(actor, Critic.beside(actor.config), How())
    for optimizer in learner.optimizers:
        stepped(optimizer.param_groups[0]["params"], optimizer)
    common = {**about, "updates": 50, "settings": {"seed": 0}, "unit": 1.5}
    yield "best.tar", {**common, "critic": learner.slow.state_dict()}
    row = {"updates": 50, "loss": 1.0, "critic_loss": 1.0, "reward": 0.5, "range": 1.0, "simulator": None, "frames": 0}
    state = {"actor": actor.state_dict(), "average": averaged(actor, 9).state_dict(), "learner": learner.state_dict()}
    yield "checkpoint.tar", {**common, **state, "history": [row]}


def searched(weights: torch.Tensor) -> Search:
    return Search(weights, SimpleNamespace(seed=0, sigma=0.3, pop_size=6, diagonal=False))  # type: ignore[arg-type]


def evolved(head: Any, about: dict) -> Iterator[tuple[str, dict]]:
    """Of a search."""
    start, scores = parameter_vector(head), torch.zeros(2, 6).double()
    search = searched(start)
    for row in scores:
        search.tell(search.ask(), row + torch.arange(6.0))
    yield "best.tar", {**about, "generation": 2, "settings": {"seed": 0}}
    history = [
        {"generation": 1, "best": 1.0, "mean": 0.0, "rescored": None, "simulator": None, "sigma": 0.1, "frames": 0}
    ] * 2
    more = {"start": start, "scores": scores, "mean": search.mean, "search": search.state(), "history": history}
    yield "checkpoint.tar", {**about, **more, "settings": {"seed": 0}}


def corpus() -> dict[str, tuple[str, str, dict]]:
    """All kinds of checkpoints, by a name for each: the folder and the file's name, and the content."""
    torch.manual_seed(0)
    found = {}
    for stage, kinds in KINDS.items():
        for kind in kinds:
            for file, content in fitted(stage, kind):
                found[f"{kind}/{file}"] = (stage, file, content)
    for name, config in heads().items():
        for number, (file, content) in enumerate(controlled(name, config)):
            found[f"{name}/{number}/{file}"] = (content["stage"], file, content)
    return found
