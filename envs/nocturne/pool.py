"""Where Nocturne's episodes happen: a scene and an ego in it, by simulator seed; from a folder of scenes, or made as
they are needed."""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from pathlib import Path

import numpy as np

from dreamdrive.envs.nocturne.scene import Scene, load_scene
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import cache_folder, write_atomically
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.seeds import use_and_number

IN_MEMORY = 128  # scenes kept, some 0.3 MB each
INDEX, SCHEMA = ".egos.json", 2
HELD_OUT = 10  # of so many files of a folder, one is for validation and model selection
NEAR_GOAL = 0.5  # metres: an ego that begins nearer to its goal has nothing to do (Nocturne leaves it out, too)


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
    other.

    Attributes:
        episodes: (file name, ego's id) in the order of recording
        held: names of the files that are held out; none if there is but one
    """

    def __init__(self, folder: Path, warmup: int) -> None:
        super().__init__(warmup)
        self.folder = folder
        last_busy = read_index(folder)
        by_file = {name: [ego for ego, last in egos if last > warmup] for name, egos in sorted(last_busy.items())}
        self.episodes = [(name, ego) for name, egos in by_file.items() for ego in egos]
        if not self.episodes:
            raise UserError(
                f"{folder} has {len(by_file)} scenes and in none of them a vehicle that moves, is there all the time "
                "and is not at its goal after "
                f"{warmup} steps: give --scenes another folder"
            )
        useful = [name for name, egos in by_file.items() if egos]
        self.held = set(useful[HELD_OUT // 2 :: HELD_OUT] or useful[1:][-1:])
        order = np.random.default_rng(0).permutation(sorted(by_file))
        rounds = max(map(len, by_file.values()))
        self._spread = [
            (str(name), by_file[name][k]) for k in range(rounds) for name in order if k < len(by_file[name])
        ]
        self._selection = [(name, ego) for name, ego in self._spread if name in self.held] or self._spread

    def draw(self, seed: int) -> tuple[Scene, int]:
        name, ego = self._episode(seed)
        scene = self._remembered(name, lambda: load_scene(self.folder / name))
        return scene, scene.index(ego)

    def held_out(self, seed: int) -> bool | None:
        return self._episode(seed)[0] in self.held if self.held else None

    def _episode(self, seed: int) -> tuple[str, int]:
        use, number = use_and_number(seed)
        episodes = (self.episodes, self._selection, self._spread)[use]
        return episodes[number % len(episodes)]


class SyntheticPool(ScenePool):
    """A scene of ours for every seed, and one of its egos."""

    def draw(self, seed: int) -> tuple[Scene, int]:
        from dreamdrive.envs.nocturne.synthetic import make_scene

        scene = self._remembered(seed, lambda: load_scene(f"synthetic_{seed:06d}.json", content=make_scene(seed)))
        egos = [ego for ego, last in busy_egos(scene) if last > self.warmup]
        if not egos:
            raise UserError(
                f"the synthetic scene of seed {seed} has no ego that moves after {self.warmup} steps: choose a smaller "
                "warm-up"
            )
        return scene, scene.index(egos[int(np.random.default_rng([seed, 7]).integers(len(egos)))])


def make_pool(scenes: str | None, warmup: int) -> ScenePool:
    """The scenes in folder `scenes`, or synthetic ones."""
    return FolderPool(Path(scenes), warmup) if scenes else SyntheticPool(warmup)


def busy_egos(scene: Scene) -> list[tuple[int, int]]:
    """(id, last step at which it is not at its goal yet) of every ego."""
    found = []
    for ego in scene.egos.tolist():
        n = scene.index(ego)
        away = np.linalg.norm(scene.position[n] - scene.goal[n], axis=-1) > NEAR_GOAL
        found.append((ego, int(np.flatnonzero(away)[-1]) if away.any() else -1))
    return found


def scene_files(folder: Path) -> list[Path]:
    """The JSON files of a folder, sorted; UserError if there are none."""
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder: give --scenes one with scenes in it (`python -m envs.nocturne.synthetic --out "
            f"{folder}` writes some)"
        )
    files = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
    if not files:
        raise UserError(
            f"{folder} has no .json file: give --scenes a folder with scenes in it (`python -m envs.nocturne.synthetic "
            f"--out {folder}` writes some)"
        )
    return files


def read_index(folder: Path) -> dict[str, list[tuple[int, int]]]:
    """`busy_egos` of every file of a folder. What was found is kept in the folder (or, where it cannot be written to,
    in the user's cache) for next time."""
    files = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in scene_files(folder)}
    places = [folder / INDEX]
    if cache := cache_folder():
        places.append(cache / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]}{INDEX}")
    known: dict[str, list] = {}
    for place in places:
        known |= kept_index(place)
    news = [name for name, stamp in files.items() if name not in known or known[name][0] != stamp]
    if news:
        for name in Bar(news, desc=f"looking through {folder}", unit="scene", leave=False):
            known[name] = [files[name], busy_egos(load_scene(folder / name))]
        keep_index(places, {name: known[name] for name in files})
    return {name: [(ego, last) for ego, last in known[name][1]] for name in files}


def kept_index(place: Path) -> dict[str, list]:
    """[[size, time of change], busy egos] of files by their names, as `keep_index` wrote it; nothing where it is not
    there or damaged: it is only a shortcut."""
    try:
        content = json.loads(place.read_bytes())
        whole = content["schema"] == SCHEMA and content["sha256"] == digest(content["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return content["files"] if whole else {}


def keep_index(places: list[Path], files: dict[str, list]) -> None:
    """Write `files` at the first of `places` that can be written to, if any."""
    content = json.dumps({"schema": SCHEMA, "sha256": digest(files), "files": files}).encode()
    for place in places:
        try:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(place, content)
            return
        except (UserError, OSError):
            continue


def digest(files: dict[str, list]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
