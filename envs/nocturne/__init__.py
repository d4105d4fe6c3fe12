"""Nocturne's world: Waymo's traffic scenes, seen as cone images.

from dreamdrive.envs.nocturne import Simulator, features, load_scene, render_cones, visible
"""

import gymnasium

from dreamdrive.envs.nocturne.cone import render_cones
from dreamdrive.envs.nocturne.feature_vector import features
from dreamdrive.envs.nocturne.scene import Scene, load_scene
from dreamdrive.envs.nocturne.simulator import Simulator
from dreamdrive.envs.nocturne.visibility import visible

__all__ = ["Scene", "Simulator", "features", "load_scene", "render_cones", "visible"]

if "dreamdrive/Nocturne-v0" not in gymnasium.registry:  # `python -m envs.nocturne` meets this file twice
    gymnasium.register("dreamdrive/Nocturne-v0", entry_point="dreamdrive.envs.nocturne.world:NocturneEnv")
