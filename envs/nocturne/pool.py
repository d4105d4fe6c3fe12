"""Where Nocturne's episodes happen: a scene and an ego in it, by simulator seed; from a folder of scenes, or made as
they are needed."""

from abc import ABC, abstractmethod
from array import array
from collections import OrderedDict
from pathlib import Path

import numpy as np

from dreamdrive.envs.nocturne.egos import chosen, movers, parse_egos
from dreamdrive.envs.nocturne.folder_index import listed_files, read_index
from dreamdrive.envs.nocturne.reading import Reading
from dreamdrive.envs.nocturne.scene import Scene, load_scene
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.seeds import use_and_number

IN_MEMORY = 128  # scenes kept, some 0.3 MB each
HELD_OUT = 10  # of so many files of a folder, one is for validation and model selection


class ScenePool(ABC):
    """Draws (scene, place of the ego in its arrays) for simulator seeds; the same for the same seed."""

    def __init__(self, warmup: int) -> None:
        self.warmup = warmup
        self._scenes: OrderedDict[str | int, Scene] = OrderedDict()

    @abstractmethod
    def draw(self, seed: int) -> tuple[Scene, int]:
        """The scene and ego of an episode."""

    def held_out(self, seed: int) -> bool | None:
        """Whether a recording seed leads to a scene that is kept for validation and model selection; None if none
        is."""
        return None

    def _remembered(self, key: str | int, make) -> Scene:
        if key not in self._scenes:
            self._scenes[key] = make()
            if len(self._scenes) > IN_MEMORY:
                self._scenes.popitem(last=False)
        self._scenes.move_to_end(key)
        return self._scenes[key]


class FolderPool(ScenePool):
    """Every ego of every scene in a folder is an episode. Recording seeds 0, 1, ... take them file by file; those of
    selection and evaluation one of each file before the next of any, files in an order drawn at random, so that few
    episodes already see many scenes.

    Every tenth file (the last one of a few) is held out: what is recorded there is for validation, and selection has no
    other. Files that are no scenes are passed over, and said to be.

    Attributes:
        names: of the files that are scenes
        held: names of the files that are held out; none if there is but one
    """

    def __init__(self, folder: Path, warmup: int, egos: str = "movers", reading: Reading | None = None) -> None:
        super().__init__(warmup)
        self.folder, self.reading = folder, reading or Reading()
        asked, spared = parse_egos(egos), listed_files(folder) or {}
        found = read_index(folder, self.reading, warmup)
        self.names = list(found.egos)
        rows = array("i")
        for file, name in enumerate(self.names):
            here = [(p, ego) for p, candidates in enumerate(found.egos[name]) for ego in chosen(asked, candidates)]
            for rank, (piece, ego) in enumerate(e for e in here if e[1] not in spared.get(name, ())):
                rows.extend((file, piece, ego, rank))
        if not rows:
            raise UserError(nobody(folder, warmup, egos, len(self.names), found.passed_over))
        self._episodes = np.array(rows).reshape(-1, 4)  # (E, 4): file, piece, ego's id, its number in the file
        with_egos = [self.names[file] for file in np.unique(self._episodes[:, 0])]
        self.held = set(with_egos[HELD_OUT // 2 :: HELD_OUT] or with_egos[1:][-1:])
        place = np.argsort(np.random.default_rng(0).permutation(len(self.names)))  # of each file, in a random order
        self._spread = self._episodes[np.lexsort((place[self._episodes[:, 0]], self._episodes[:, 3]))]
        of_held = np.isin(self._spread[:, 0], [file for file, name in enumerate(self.names) if name in self.held])
        self._selection = self._spread[of_held] if of_held.any() else self._spread

    @property
    def episodes(self) -> list[tuple[str, int]]:
        """(Name of the scene, ego's id) in the order of recording."""
        return [(self._name(row), int(row[2])) for row in self._episodes]

    def __len__(self) -> int:
        """Of `episodes`."""
        return len(self._episodes)

    def draw(self, seed: int) -> tuple[Scene, int]:
        row = self._episode(seed)
        file, piece, ego, _ = (int(n) for n in row)
        scene = self._remembered(self._name(row), lambda: self.reading.load(self.folder / self.names[file], piece))
        return scene, scene.index(ego)

    def which(self, seed: int) -> tuple[str, int]:
        """The episode that a seed leads to: name of the scene, ego's id."""
        row = self._episode(seed)
        return self._name(row), int(row[2])

    def held_out(self, seed: int) -> bool | None:
        return self.names[self._episode(seed)[0]] in self.held if self.held else None

    def _name(self, row: np.ndarray) -> str:
        return self.names[row[0]] + (f"#{row[1]}" if row[1] else "")

    def _episode(self, seed: int) -> np.ndarray:
        use, number = use_and_number(seed)
        episodes = (self._episodes, self._selection, self._spread)[use]
        return episodes[number % len(episodes)]


def nobody(folder: Path, warmup: int, egos: str, scenes: int, passed_over: dict[str, str]) -> str:
    """Why a folder has no episodes."""
    if not scenes:
        return (
            f"{folder} has no scene: all of its {len(passed_over)} files are passed over, the first because "
            f"{next(iter(passed_over.values()))}; give --scenes another folder"
        )
    return (
        f"{folder} has {scenes} scenes and in none of them a vehicle that moves, is there for a second or more after "
        f"{warmup} steps (--warmup), is not at its goal by then, touches nothing and is not marked as an expert, of "
        f"--egos {egos}: give --scenes another folder, other --egos, or a smaller --warmup"
    )


class SyntheticPool(ScenePool):
    """A scene of ours for every seed, and one of its egos."""

    def draw(self, seed: int) -> tuple[Scene, int]:
        from dreamdrive.envs.nocturne.synthetic import make_scene

        scene = self._remembered(seed, lambda: load_scene(f"synthetic_{seed:06d}.json", content=make_scene(seed)))
        egos = movers(scene, self.warmup)
        if not egos:
            raise UserError(
                f"the synthetic scene of seed {seed} has no ego that moves after {self.warmup} steps: choose a smaller "
                "warm-up"
            )
        return scene, egos[int(np.random.default_rng([seed, 7]).integers(len(egos)))]


def make_pool(scenes: str | None, warmup: int, egos: str = "movers", reading: Reading | None = None) -> ScenePool:
    """The scenes in folder `scenes`, or synthetic ones."""
    if scenes:
        return FolderPool(Path(scenes), warmup, egos, reading)
    if egos != "movers":
        raise UserError(f"--egos {egos} is for a folder of scenes: give --scenes one, or leave it away")
    return SyntheticPool(warmup)
