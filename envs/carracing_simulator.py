"""gymnasium's CarRacing-v3, pixel for pixel, that does not spend its time on what the camera cannot see.

The official simulator transforms all of its 700 polygons in Python, one by one, to draw the few dozen in view. Here
they are transformed at once, and only those in view are handed to the official drawing.
"""

import numpy as np
from gymnasium.envs.box2d import car_racing as official

BLACK = np.zeros((official.STATE_H, official.STATE_W, 3), np.uint8)


def grass_patches() -> list[list[tuple[float, float]]]:
    """Corners of the lighter squares that the official playfield is strewn with."""
    side = official.GRASS_DIM
    corners = [(1, 0), (0, 0), (0, 1), (1, 1)]
    return [
        [(side * (x + i), side * (y + j)) for i, j in corners] for x in range(-20, 20, 2) for y in range(-20, 20, 2)
    ]


class CulledCarRacing(official.CarRacing):
    """The official simulator with its road drawn faster; physics, rewards and every pixel are the same
    (tests/test_carracing.py)."""

    blind = False  # nobody looks at observations: they stay black
    _drawn_road: list | None = None  # the track that `_corners` belongs to

    def _render(self, mode: str):
        if self.blind and mode == "state_pixels":
            return BLACK
        return super()._render(mode)

    def _render_road(self, zoom: float, translation: tuple[float, float], angle: float) -> None:
        """As in the official class: field, grass, road, in camera coordinates (rotation by `angle`, then `zoom` and
        `translation`)."""
        if self._drawn_road is not self.road_poly:  # a reset makes a new list
            grass = [(patch, self.grass_color) for patch in grass_patches()]
            road = [([(p[0], p[1]) for p in polygon], color) for polygon, color in self.road_poly]
            self._polygons = grass + road
            self._corners = np.array([polygon for polygon, _ in self._polygons])  # (N, 4, 2)
            self._drawn_road = self.road_poly
        end = official.PLAYFIELD
        field = [(end, end), (end, -end), (-end, -end), (-end, end)]
        self._draw_colored_polygon(self.surf, field, self.bg_color, zoom, translation, angle, clip=False)
        for i in np.flatnonzero(self._in_view(zoom, translation, angle)):
            polygon, color = self._polygons[i]
            # a tile's colour changes when visited
            self._draw_colored_polygon(self.surf, polygon, [int(c) for c in color], zoom, translation, angle)

    def _in_view(self, zoom: float, translation: tuple[float, float], angle: float) -> np.ndarray:
        """(N,) bool: whose bounding box on the screen meets the window, with some pixels to spare for smoothed
        edges."""
        cos, sin, spare = zoom * np.cos(angle), zoom * np.sin(angle), 2
        x = cos * self._corners[..., 0] - sin * self._corners[..., 1] + translation[0]
        y = sin * self._corners[..., 0] + cos * self._corners[..., 1] + translation[1]
        across = (x.max(1) > -spare) & (x.min(1) < official.WINDOW_W + spare)
        return across & (y.max(1) > -spare) & (y.min(1) < official.WINDOW_H + spare)
