"""Nocturne's world: Waymo's traffic scenes, seen as cone images.

    from envs.nocturne import Simulator, features, load_scene, visible
"""

from envs.nocturne.scene import Scene, load_scene
from envs.nocturne.simulator import Simulator
from envs.nocturne.visibility import features, visible

__all__ = ["Scene", "Simulator", "features", "load_scene", "visible"]
