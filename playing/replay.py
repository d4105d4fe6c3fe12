"""Episodes that were recorded, to be looked at again, forwards, backwards and step by step."""

from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamdrive.data.manifest import MANIFEST
from dreamdrive.data.shards import Dataset
from dreamdrive.envs import keys
from dreamdrive.models.world_model import Vision
from dreamdrive.playing.show import Show
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.spaces import ActionSpace
from dreamdrive.utils.video import people

EPISODES = Path("media", "episodes")  # of a run: what was kept of play.py, a dataset each in folders of these names
TRAIN, IMAGINATION = "train", "imagination"


def stored(logdir: Path, given: Sequence[Path], trained_on: Sequence[str]) -> list[Dataset]:
    """The datasets to look at: those that are given, or else what a run has kept of play.py and what it was trained on;
    UserError where there is none."""
    own = [folder for name in (TRAIN, IMAGINATION) if ((folder := logdir / EPISODES / name) / MANIFEST).exists()]
    folders = list(given) or [*own, *(Path(name) for name in trained_on if (Path(name) / MANIFEST).exists())]
    if not folders:
        raise UserError(
            f"{logdir} has no episodes to show: name datasets, e.g. -e datasets/carracing, or keep some with -s"
        )
    datasets = [Dataset.open(folder) for folder in folders]
    for dataset in datasets:
        if not dataset.episodes:
            raise UserError(f"{dataset.root} holds no episodes yet: leave it away")
        if len(dataset.manifest.image_shape) != 3:
            raise UserError(f"{dataset.root} holds numbers, not pictures: there is nothing to look at")
    return datasets


class Replay(Show):
    """The episodes of datasets, one after another.

    Attributes:
        episodes: (dataset, number in it)
    """

    SOUGHT = True

    def __init__(self, datasets: Sequence[Dataset], vision: Vision | None = None) -> None:
        """`vision`: the V of which there is to be a panel."""
        self.episodes = [(dataset, i) for dataset in datasets for i in range(len(dataset.episodes))]
        self.count, self.vision = len(self.episodes), vision
        self.panels = ["what was recorded", *["what V makes of it"] * (vision is not None)]
        self.title = ", ".join(str(dataset.root) for dataset in datasets)

    def begin(self, number: int) -> None:
        self.number = number
        self.dataset, index = self.episodes[number]
        self.entry = self.dataset.episodes[index]
        self._episode, self.dt = self.dataset.episode(index), self.dataset.manifest.dt
        space = ActionSpace.from_dict(self.dataset.manifest.action_space)
        self._words = keys(self.dataset.manifest.env, space).words
        self._returns = np.concatenate([[0.0], np.cumsum(self._episode.reward, dtype=np.float64)])
        self.steps = 0

    @property
    def length(self) -> int:
        return self.entry.steps

    @property
    def over(self) -> bool:  # type: ignore[override]
        return self.steps >= self.length

    def step(self, held: Set[str]) -> None:
        self.seek(self.steps + 1)

    def seek(self, step: int) -> None:
        self.steps = min(max(step, 0), self.length)

    def images(self) -> list[np.ndarray]:
        frame = self._episode.obs[self.steps]
        shown = [people(frame)]
        if self.vision is not None:
            with torch.inference_mode():
                seen = torch.from_numpy(frame[None])
                shown.append(people(self.vision.frames(self.vision.z(self.vision.latents(seen)))[0].numpy()))
        return shown

    def facts(self) -> dict[str, Any]:
        _, action, _ = self.moment
        return {
            "episode": f"{self.entry.index} of {self.dataset.root}",
            "step": f"{self.steps} of {self.length}",
            "return": float(self._returns[self.steps]),
            **({} if action is None else {"action": self._words(action)}),
        }

    def header(self) -> dict[str, Any]:
        _, _, reward = self.moment
        end = "terminated" if self._episode.terminated[-1] else "truncated"
        return {
            "reward": reward,
            "driver": self.entry.policy,
            "seed": self.entry.seed,
            "split": self.entry.split,
            "horizon": self.dataset.manifest.max_steps,
            "ends": end,
        }

    @property
    def moment(self) -> tuple[np.ndarray, Any, float]:
        before = self.steps - 1
        if before < 0:
            return self._episode.obs[0], None, 0.0
        return self._episode.obs[self.steps], self._episode.action[before], float(self._episode.reward[before])

    def result(self) -> str:
        return (
            f"episode {self.entry.index} of {self.dataset.root}: return {self._returns[-1]:.1f} in {self.length} steps"
        )
