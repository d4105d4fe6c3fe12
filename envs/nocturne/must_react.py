"""Which egos have to do with others: those that would hit somebody if they drove their own way as if alone."""

import numpy as np
import torch

from dreamdrive.envs.nocturne.car_following import free_acceleration
from dreamdrive.envs.nocturne.logged_paths import paths_of, possible
from dreamdrive.envs.nocturne.scene import DT, Scene
from dreamdrive.envs.nocturne.simulator import Boxes, overlap


def fastest(scene: Scene, n: int) -> float:
    """m/s, of all of its kind in the scene: the limit is in no log."""
    return float(scene.speed[(scene.type == scene.type[n])[:, None] & scene.valid].max())


def must_react(scene: Scene, n: int, start: int) -> bool:
    """Whether the object at place `n` of a scene's arrays, driven from step `start` on along its logged path as fast as
    its driver would on an empty road without lights and signs, hits another that replays the log, before its way
    ends."""
    paths = paths_of(scene)
    row = np.flatnonzero(paths.who == n)
    if not len(row):
        return False
    s, v = paths.arc[row, start], paths.log[row, start, 3]
    arcs = []
    top = possible(paths.kappa[row[0]], paths.step[row[0]], fastest(scene, n))
    top = np.maximum(top, paths.speed[row[0]])
    for _ in range(start, scene.valid.shape[1]):
        if s[0] > paths.arc[row[0], -1]:
            break
        arcs.append(s[0])
        wanted = top[paths.index(row, s + 0.5 * v)]
        after = np.maximum(v + DT * free_acceleration(v, wanted, paths.accelerates[row], paths.brakes[row]), 0.0)
        s, v = s + (v + after) / 2 * DT, after
    steps = np.arange(start, start + len(arcs))
    own = torch.from_numpy(paths.place(np.repeat(row, len(arcs)), np.array(arcs)))  # (K, 3)
    others = np.concatenate([scene.position - scene.origin, scene.heading[..., None]], -1)[:, steps]  # (N, K, 3)
    sizes = torch.from_numpy(scene.length).double(), torch.from_numpy(scene.width).double()
    mine = Boxes.of(own, sizes[0][n], sizes[1][n])
    theirs = Boxes.of(torch.from_numpy(others), sizes[0][:, None], sizes[1][:, None])
    there = torch.from_numpy(scene.valid[:, steps]).clone()
    there[n] = False
    return bool((there & overlap(mine, theirs)).any())
