"""The synthetic world (sounds, paintings, scenes) and what trains the embedded model on it.

It imports macs; nothing in macs imports it.
"""

from soundscapes.scenes import CLASSES, make_scene

__all__ = ["CLASSES", "make_scene"]
