"""Nocturne's world: Waymo's traffic scenes, seen as cone images.

    from envs.nocturne import load_scene
"""

from envs.nocturne.scene import Scene, load_scene

__all__ = ["Scene", "load_scene"]
