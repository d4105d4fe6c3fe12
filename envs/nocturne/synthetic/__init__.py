"""Synthetic driving scenes in Nocturne's format: roads, crossings and roundabouts with traffic that keeps its distance
and gives way.

    scene = make_scene(7)                                    # a dict, as json.load gives it
    write_scenes(Path("datasets/scenes"), count=500, seed=0)

A scene depends on (seed, index) alone, and on whether it is of the share with a jam (`jams`). What is promised of each
is checked before it is given away: no two objects overlap, none touches a road edge, every number is a float, at least
two vehicles drive throughout; and every goal is where the object was last seen. Drawing the map and the traffic:
maps.py, traffic.py, walkers.py; putting them together: scenes.py; what the scenes are worth as tasks: statistics.py.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from dreamdrive.envs.nocturne.synthetic.scenes import STEPS, draw
from dreamdrive.utils.files import make_folder, write_atomically

__all__ = ["make_scene", "write_scenes", "scene_bytes", "scene_path", "is_scene"]


def make_scene(seed: int, index: int = 0, jams: float = 0.0) -> dict:
    """Scene `index` of `seed`, as the dict that Nocturne's JSON files hold. `jams`: the share of the seed's scenes in
    which traffic is bumper to bumper, stops and goes, and turns at junctions more often."""
    return draw(seed, index, jams).scene


def scene_bytes(scene: dict) -> bytes:
    """The file that holds `scene`."""
    return json.dumps(scene, separators=(",", ":"), allow_nan=False).encode()


def scene_path(folder: Path, index: int) -> Path:
    return folder / f"synthetic_{index:06d}.json"


def is_scene(path: Path) -> bool:
    """Whether `path` holds a whole scene of its name."""
    try:
        scene = json.loads(path.read_bytes())
        return (
            scene["name"] == path.name
            and all(len(thing["valid"]) == STEPS for thing in scene["objects"])
            and len(scene["roads"]) > 0
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_scenes(folder: Path, count: int, seed: int, jams: float = 0.0) -> Iterator[Path | None]:
    """Write scenes 0 .. count - 1 of `seed` into `folder`, one at a time; gives the path of each, or None for one that
    was there already. `jams`: see make_scene."""
    make_folder(folder)
    for index in range(count):
        path = scene_path(folder, index)
        if is_scene(path):
            yield None
            continue
        write_atomically(path, scene_bytes(make_scene(seed, index, jams)))
        yield path
