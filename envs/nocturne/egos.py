"""Which objects of a scene can be driven, and which of them are: the movers, the self-driving car, Waymo's tracks to
predict, everybody, or objects by their ids."""

import numpy as np
import torch

from dreamdrive.envs.catalogue import EGOS, WARMUP
from dreamdrive.envs.nocturne.scene import OBJECTS, Scene
from dreamdrive.envs.nocturne.simulator import GOAL_DISTANCE, Boxes, overlap, touches_edge
from dreamdrive.envs.nocturne.tables import Table, tables
from dreamdrive.utils.errors import UserError

LEAST_STEPS = 10  # of the log after the warm-up, for an ego
LONGEST_GAP = 10  # steps in a row that the log may lack it
VEHICLE, SDC, TRACK = "v", "s", "t"  # what an ego is, beside one that can be driven


def movers(scene: Scene, warmup: int = WARMUP) -> list[int]:
    """Places of the vehicles that can be driven after `warmup` steps."""
    return [n for n, roles in drivable(scene, warmup) if VEHICLE in roles]


def drivable(scene: Scene, warmup: int) -> list[tuple[int, str]]:
    """(Place, what it is: of VEHICLE, SDC, TRACK) of every object that moves and can be driven after `warmup` steps.

    Left out are those that the file marks as experts (as in GPUDrive), that touch another or a road edge at that step,
    or are at their goals (as in Nocturne, whose distance is 0.5 m; within GOAL_DISTANCE the goal would be reached at
    once), and those that the log does not have then, or not long enough: it ends too soon, or has a longer gap.
    """
    if scene.steps <= warmup + LEAST_STEPS - 1:
        return []
    away = np.linalg.norm(scene.position[:, warmup] - scene.goal, axis=-1) > GOAL_DISTANCE
    able = scene.moved & scene.valid[:, warmup] & away & (scene.last_valid - warmup >= LEAST_STEPS)
    able[list(scene.marked)] = False
    for n in np.flatnonzero(able):
        at = np.flatnonzero(scene.valid[n, warmup:])
        able[n] = np.diff(at).max(initial=0) <= LONGEST_GAP + 1
    places = np.flatnonzero(able)
    places = places[~touching(scene, places, warmup)]
    vehicles = np.flatnonzero(scene.type == OBJECTS.index("vehicle"))
    roles = ((VEHICLE, set(vehicles.tolist())), (SDC, scene.sdc), (TRACK, scene.tracks))
    return [(n, "".join(role for role, those in roles if n in those)) for n in places.tolist()]


def touching(scene: Scene, places: np.ndarray, step: int) -> np.ndarray:
    """(len(places),) bool: objects that meet another or a road edge at a step of the log."""
    if not len(places):
        return np.zeros(0, bool)
    columns, edges = tables(scene), Table(1, torch.device("cpu"))
    edges.put(0, columns["edges"])
    objects = {name: torch.from_numpy(columns["objects"][name]) for name in ("log", "valid", "length", "width")}
    everybody = Boxes.of(objects["log"][:, step], objects["length"], objects["width"])
    own = everybody[torch.from_numpy(places)]
    near = objects["valid"][:, step].repeat(len(places), 1)
    near[torch.arange(len(places)), torch.from_numpy(places)] = False
    hit = (near & overlap(own.unsqueeze(), everybody)).any(1)
    return (hit | touches_edge(edges, torch.zeros(len(places), dtype=torch.int64), own)).numpy()


def parse_egos(text: str) -> str | tuple[int, ...]:
    """One of EGOS, or ids; UserError for what is neither."""
    if text in EGOS:
        return text
    ids = text.split(",")
    if not all(i.strip().isdecimal() for i in ids):
        raise UserError(f'there are no egos "{text}": choose {", ".join(EGOS)}, or ids, e.g. 3 or 3,17')
    return tuple(sorted({int(i) for i in ids}))


def chosen(asked: str | tuple[int, ...], candidates: str) -> list[int]:
    """Ids of those that are asked for, of candidates like "0v 3vst": id, and what it is."""
    split = [(int(word.rstrip(VEHICLE + SDC + TRACK)), word) for word in candidates.split()]
    role = {"movers": VEHICLE, "sdc": SDC, "tracks": TRACK, "all": ""}
    if isinstance(asked, str):
        return [identity for identity, word in split if role[asked] in word]
    return [identity for identity, _ in split if identity in asked]
