"""A clone's dream beside what the expert saw: as a film, as a strip, and as the distance between the two; and what
scores in the dream say of scores in reality."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamdrive.data.shards import Dataset
from dreamdrive.driving.dreaming import dream_on
from dreamdrive.envs import named_actions
from dreamdrive.learning.cloning_settings import CloneSettings
from dreamdrive.learning.imagination import Dreams, ExpertLatents, random_action
from dreamdrive.models.heads import make_head
from dreamdrive.models.world_model import Memory, Vision
from dreamdrive.utils import checkpoint
from dreamdrive.utils.plots import OFF_THE_DATA, figure, say_narrow
from dreamdrive.utils.spaces import ActionSpace
from dreamdrive.utils.video import VideoWriter, fit, save_png, strip, with_lines

DREAM_FILM = "dream.mp4"  # in the clone's folder
LONGEST, STRIP_STRIDE = 300, 25  # steps of a film, and between two pictures of its strip
HEIGHT, WIDTH, LETTERS = 192, 288, 13  # of a panel of the film, and of the letters below it
PICTURE, SMALL = 128, 10  # of the strip: height of a picture, and of the letters below it


def report(folder: Path, args: CloneSettings, dreams: Dreams) -> None:
    """Judge the clone of `folder`/best.tar, and those to compare it with, in the dream: a line of text, and all
    pictures."""
    world = dreams.model.world
    space = named_actions(world["env"], ActionSpace.from_dict(world["action_space"]))
    best, last = (checkpoint.load(folder / name, "bc") for name in ("best.tar", "checkpoint.tar"))

    def clone(weights: dict) -> Callable[[Tensor, Tensor], Tensor]:
        model = make_head(best["config"]).to(dreams.where)
        model.load_state_dict(weights)
        return dreams.act(model)

    drivers: dict[str, Callable[[Tensor, Tensor], Tensor] | None] = {"clone": clone(best["model"])}
    if args.method != "bc":
        drivers[f"clone before {args.method}"] = clone(last["cloned"]["model"])
    drivers["random"] = random_action(space, dreams.where, args.seed)
    drivers["what was really done"] = None
    judged = {name: dreams.judge(act) for name, act in drivers.items()}
    print(
        "likeness to the expert in the dream: "
        + ", ".join(f"{name} {found.likeness:.3f}" for name, found in judged.items())
    )
    plot_distances(folder / "distance.png", {name: found.distance for name, found in judged.items()}, world["dt"])
    plot_relation(folder / "dream-and-reality.png", last["history"])
    film(
        folder,
        dreams.vision,
        dreams.memory,
        dreams.experts["val"],
        dreams.datasets,
        clone(best["model"]),
        space,
        world["dt"],
        args.temperature,
        args.seed,
    )


def recorded_frames(datasets: Sequence[Dataset], first: int, end: int) -> np.ndarray:
    """Frames `first` to `end` (exclusive) of those of all datasets, one after another, uint8 (n, H, W, C)."""
    parts, before = [], 0
    for dataset in datasets:
        for e in dataset.episodes:
            low, high = max(first - before, 0), min(end - before, e.steps + 1)
            if low < high:
                parts.append(dataset.frames(e.index, low, high))
            before += e.steps + 1
    return np.concatenate(parts)


def says(action: Tensor, space: ActionSpace, known: bool = True) -> str:
    """An action as a vector (A,), in words; or that nobody knows it."""
    if not known:
        return "action unknown"
    return space.words(space.action(action).cpu().numpy())


def with_actions(frames: Sequence[np.ndarray], actions: Tensor, known: Tensor, space: ActionSpace) -> list[np.ndarray]:
    """Every STRIP_STRIDE-th frame, below it the action (A,) that was taken there, if one was; actions (T, A), of which
    those that are known (T,) can be told."""
    at = range(0, len(frames), STRIP_STRIDE)
    words = [says(actions[t], space, bool(known[t])).removeprefix("action ") if t < len(actions) else "" for t in at]
    below = space.size if space.names and not space.discrete else 1  # lines: numbers with names take one each
    lines = [[*word.split(", "), *[""] * below][:below] for word in words]
    return [with_lines(np.asarray(fit(frames[t], PICTURE)), own, SMALL) for t, own in zip(at, lines, strict=True)]


@torch.no_grad()
def film(
    folder: Path,
    vision: Vision,
    memory: Memory,
    experts: ExpertLatents,
    datasets: Sequence[Dataset],
    act: Callable[[Tensor, Tensor], Tensor],
    space: ActionSpace,
    dt: float,
    temperature: float,
    seed: int,
) -> None:
    """dream.mp4 and dream.png in `folder`: above, what the expert really saw in its longest episode; below, the clone's
    dream from the same frame, decoded."""
    start = int(experts.left[experts.starts].argmax())
    first, steps = int(experts.starts[start]), min(LONGEST, int(experts.left[experts.starts[start]]))
    frame = int(experts.frame[first])
    real = list(recorded_frames(datasets, frame, frame + steps + 1))
    generator = torch.Generator(experts.z.device).manual_seed(seed)
    chosen = torch.tensor([start], device=experts.z.device)
    dream = dream_on(memory, experts.begin(chosen), steps, act, temperature, generator)
    actions = dream.action
    dreamt = list(vision.frames(dream.z[: int(dream.alive.sum()), 0]).cpu().numpy())
    with VideoWriter(folder / DREAM_FILM, 1 / dt) as video:
        for t in range(steps):
            rows = (
                ("the expert, really", real, experts.action[first + t], bool(experts.is_known[first + t])),
                ("the clone, dreaming", dreamt, actions[t, 0], True),
            )
            video.add(
                np.concatenate(
                    [
                        with_lines(
                            np.asarray(fit(frames[min(t, len(frames) - 1)], HEIGHT)),
                            (name, says(action, space, known) if t < len(frames) else "the dream is over"),
                            LETTERS,
                            WIDTH,
                        )
                        for name, frames, action, known in rows
                    ]
                )
            )
    strips = (
        ("the expert,\nreally", real, experts.action[first : first + steps], experts.is_known[first : first + steps]),
        ("the clone,\ndreaming", dreamt, actions[:, 0], torch.ones(steps, dtype=torch.bool)),
    )
    pictures = [(name, with_actions(frames, taken, told, space)) for name, frames, taken, told in strips]
    save_png(folder / "dream.png", strip(pictures, height=len(pictures[0][1][0])))


def plot_distances(path: Path, distances: dict[str, Tensor], dt: float) -> None:
    """How far dreams (T,) are from what the expert saw, step by step, a curve for each driver."""
    with figure(path, 6, 4) as drawn:
        drawn.suptitle("dreams from where experts were")
        axes = drawn.add_subplot()
        for name, values in distances.items():
            axes.plot(dt * (1 + np.arange(len(values))), values.cpu().numpy(), label=name)
        axes.set(xlabel="seconds of the dream", ylabel="distance from the expert's latents")
        axes.grid(alpha=0.3)
        axes.legend(**OFF_THE_DATA)


def plot_relation(path: Path, history: Sequence[dict]) -> None:
    """Scores in the dream against those in the simulator, of the epochs that have both."""
    rows = [row for row in history if row.get("return_mean") is not None and row.get("likeness") is not None]
    if not rows:
        return
    with figure(path, 10, 4) as drawn:
        for i, name in enumerate(("likeness", "dream_reward")):
            axes = drawn.add_subplot(1, 2, i + 1)
            for method in dict.fromkeys(row["method"] for row in rows):
                own = [row for row in rows if row["method"] == method]
                axes.scatter([row[name] for row in own], [row["return_mean"] for row in own], label=method)
            axes.set(
                xlabel={
                    "likeness": "likeness to the expert in the dream",
                    "dream_reward": "reward of a dreamt step, as M expects it",
                }[name],
                ylabel="mean return in the simulator",
            )
            axes.grid(alpha=0.3)
            axes.legend(**OFF_THE_DATA)
            axes.locator_params(axis="x", nbins=5)
            say_narrow(axes)
