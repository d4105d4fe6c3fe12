"""Nocturne's world: Waymo's traffic scenes, seen as cone images.

    from envs.nocturne import Simulator, load_scene
"""

from envs.nocturne.scene import Scene, load_scene
from envs.nocturne.simulator import Simulator

__all__ = ["Scene", "Simulator", "load_scene"]
