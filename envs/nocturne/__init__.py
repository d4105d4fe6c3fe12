"""Nocturne's world: Waymo's traffic scenes, seen as cone images.

    from envs.nocturne import Simulator, features, load_scene, render_cones, visible
"""

import gymnasium

from envs.nocturne.cone import render_cones
from envs.nocturne.scene import Scene, load_scene
from envs.nocturne.simulator import Simulator
from envs.nocturne.visibility import features, visible

__all__ = ["Scene", "Simulator", "features", "load_scene", "render_cones", "visible"]

gymnasium.register("dreamdrive/Nocturne-v0", entry_point="envs.nocturne.world:NocturneEnv")
