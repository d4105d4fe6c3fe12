"""Cones that can be read when they are small: what Nocturne's cone image shows, made for learning from 64 x 64 or 128 x
128 pixels.

Roads are bands of their width in metres, antialiased; colours tell the classes apart (PALETTE); vehicles are blue,
lighter at the front, cyclists violet, pedestrians orange, the ego white. Widths and objects have a least size in
pixels. An object of which anything can be seen is drawn whole, one of which nothing can be seen not at all; what lies
behind an object is black. Traffic lights and stop signs are at their true places, under the objects, not hidden by
them. The goal is a ring; one that lies further away than the picture reaches is drawn at the rim, in its direction,
also outside the cone. Below the ego are instruments: a tail as long as its way in half a second; in the goal's colour
and the same measure, on its left the speed that is wanted there, on its right the one that leads there by the end of
its log.

How it is done: a scene's roads are drawn once, from above, into a texture of twice the pictures' resolution. Each
cone's horizon - the distance, by direction, from which the nearest object hides everything - is a row of a texture, a
minimum over the objects. One pass over the pixels looks up road and horizon, one draws the objects.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dreamdrive.envs.nocturne import legible_shaders as shaders
from dreamdrive.envs.nocturne import opengl
from dreamdrive.envs.nocturne.cone import Colors, Frame, SceneCache, Views
from dreamdrive.envs.nocturne.scene import DT, LIGHTS, OBJECTS, ROADS, Scene

PALETTE = {
    "background": (40, 40, 46),
    "lane": (84, 86, 94),
    "lane_center": (104, 106, 116),
    "road_line": (178, 160, 80),
    "road_edge": (205, 205, 210),
    "crosswalk": (70, 112, 112),
    "speed_bump": (120, 90, 70),
    "vehicle": (40, 130, 255),
    "pedestrian": (255, 130, 20),
    "cyclist": (190, 70, 255),
    "ego": (255, 255, 255),
    "goal": (255, 0, 170),
    "speed": (0, 200, 200),
    "stop_sign": (150, 0, 30),
    "light_unknown": (140, 150, 190),
    "light_stop": (255, 30, 30),
    "light_caution": (255, 225, 0),
    "light_go": (0, 225, 60),
    "light_arrow_stop": (255, 90, 110),
    "light_arrow_caution": (255, 235, 120),
    "light_arrow_go": (120, 240, 150),
    "light_flashing_stop": (200, 20, 70),
    "light_flashing_caution": (205, 185, 0),
}
# Painted in this order: the class of road, what is drawn of it, its width in metres, the least in pixels.
ROAD_LAYERS = (
    ("lane", "lane", 3.7, 1.0),
    ("crosswalk", "crosswalk", 0.0, 0.0),  # without a width: the area
    ("crosswalk", "crosswalk", 0.4, 0.7),
    ("speed_bump", "speed_bump", 0.0, 0.0),
    ("speed_bump", "speed_bump", 0.4, 0.7),
    ("lane", "lane_center", 0.3, 0.2),
    ("road_line", "road_line", 0.3, 0.25),
    ("road_edge", "road_edge", 0.5, 0.65),
)
# pixels, length and width
LEAST = {"vehicle": (2.6, 1.8), "cyclist": (2.4, 1.8), "pedestrian": (2.0, 2.0), "ego": (2.6, 1.8)}
LIGHT_RADIUS, SIGN_RADIUS, GOAL_RADIUS = (1.5, 1.1), (1.5, 1.1), (2.5, 2.0)  # metres, and the least in pixels
SPEED_BAR, LEAST_TIME = 0.5, 1.0  # seconds whose way a bar shows; that are left for the way to the goal, at least
BAR_WIDTH, BAR_APART, LONGEST_BAR = (1.6, 1.6), 3.0, 12.0  # metres, and the least in pixels; metres; metres
BOX, DISC, RING = 0, 1, 2  # shapes of marks
FINER = 2  # pixels of a scene's road texture to one of the picture
TEXELS = 4 << 20  # of a road texture, at most: larger scenes are drawn coarser
ASTRAY = 50.0  # metres beyond the traffic that a driver may see from, of scenes that are too large to be drawn whole
DIRECTIONS = 1024  # of a horizon
LOOKS = 64  # of them, at most, in which an object is looked for
RIM = 0.6  # pixels, of the dark rim around a box
FAN = 8  # triangles that cover a cone
NEVER = 1e6  # metres
BYTES = 64 << 20  # of pictures drawn at once


def colour(name: str) -> np.ndarray:
    """(3,) 0 to 1."""
    return np.array(PALETTE[name]) / 255


@dataclass
class Road:
    """A scene's roads from above, on the GPU: `corner` (2,) m in the world, `extent` (2,) m."""

    texture: int
    bytes: int
    corner: np.ndarray
    extent: np.ndarray

    @property
    def names(self) -> list[tuple[str, int]]:
        return [("Textures", self.texture)]


class Legible:
    """Paints views in the legible style."""

    def __init__(self, context: opengl.Context, cache: SceneCache) -> None:
        self.context, self.cache, self.gl = context, cache, context.gl
        gl = self.gl
        sources = {
            "horizon": (shaders.HORIZON_VERTEX, shaders.HORIZON_FRAGMENT),
            "ground": (shaders.GROUND_VERTEX, shaders.GROUND_FRAGMENT),
            "marks": (shaders.MARK_VERTEX, shaders.MARK_FRAGMENT),
            "bands": (shaders.BAND_VERTEX, shaders.BAND_FRAGMENT),
        }
        self.programs = {}
        for name, (vertex, fragment) in sources.items():
            texts = {"vertex": vertex.strip(), "fragment": fragment.strip()}
            for number in ("DIRECTIONS", "LOOKS", "FAN", "RIM"):
                texts = {kind: text.replace(number, f"{globals()[number]:.3f}") for kind, text in texts.items()}
            self.programs[name] = opengl.program(gl, **texts)
        self.places: dict[tuple[str, str], int] = {}
        self.stack = opengl.Stack(gl)
        self.objects, self.egos = opengl.Instances(gl, [4, 4, 4, 3]), opengl.Instances(gl, [4, 4])
        self.horizon, self.target, self.rows = opengl.new(gl, "Textures"), opengl.new(gl, "Framebuffers"), 0

    def capacity(self, frame: Frame) -> int:
        """How many pictures are drawn at once."""
        h, w = frame.size
        return max(1, min(self.context.limit(self.gl.GL_MAX_TEXTURE_SIZE) // h, BYTES // (4 * h * w)))

    def use(self, name: str, **uniforms: float | tuple) -> None:
        """Switch to a program and set its uniforms: ints by int, floats and tuples by float."""
        gl, made = self.gl, self.programs[name]
        gl.glUseProgram(made)
        for key, value in uniforms.items():
            if (name, key) not in self.places:
                self.places[name, key] = opengl.uniform(gl, made, key)
            where = self.places[name, key]
            if isinstance(value, int):
                gl.glUniform1i(where, value)
            else:
                values = value if isinstance(value, tuple) else (value,)
                (gl.glUniform1f, gl.glUniform2f, gl.glUniform3f, gl.glUniform4f)[len(values) - 1](
                    where, *map(float, values)
                )

    def draw(self, views: Views, colors: Colors, goal: bool, speed: bool, out: np.ndarray) -> None:
        """Paint the cones of `views` into `out` (E, h, w, 3); `colors` is not for this style."""
        gl, frame, cones = self.gl, views.frame, len(out)
        h, w = frame.size
        groups = {
            scene: (numbers, self.cache.get(scene, ("road", frame.scale, frame.dist), partial(self.road, scene, frame)))
            for scene, numbers in views.by_scene().items()
        }
        rows = objects(views)
        self.objects.put(
            np.concatenate(
                [
                    fixed(views),
                    rows,
                    instruments(views, goal) if speed else rows[:0],
                    goals(views) if goal else rows[:0],
                ]
            )
        )
        half = min(frame.angle, 2 * np.pi) / 2
        common: dict[str, Any] = {
            "middle": (frame.left + frame.side / 2, frame.top + frame.side / 2),
            "size": (w, h),
            "number": float(cones),
            "scale": frame.scale,
            "view": (frame.dist, half, frame.head, min(2 * np.pi, 2 * half + 0.05)),
        }
        self.draw_horizons(common, cones, frame.occlusion)
        self.stack.begin(h, w, cones)
        gl.glActiveTexture(gl.GL_TEXTURE1)
        gl.glBindTexture(gl.GL_TEXTURE_2D, self.horizon)
        gl.glActiveTexture(gl.GL_TEXTURE0)
        for numbers, road in groups.values():
            at = views.position[numbers] - road.corner
            zero = np.zeros(len(numbers))
            self.egos.put(
                np.stack(
                    [numbers, *at.T, zero, np.sin(views.heading[numbers]), np.cos(views.heading[numbers]), zero, zero],
                    1,
                )
            )
            gl.glBindTexture(gl.GL_TEXTURE_2D, road.texture)
            self.use("ground", **common, road=0, horizon=1, grain=tuple(1 / road.extent))
            gl.glBindVertexArray(self.egos.array)
            gl.glDrawArraysInstanced(gl.GL_TRIANGLES, 0, 3 * FAN, len(numbers))
        gl.glEnable(gl.GL_BLEND)
        gl.glBlendEquation(gl.GL_FUNC_ADD)
        gl.glBlendFuncSeparate(gl.GL_SRC_ALPHA, gl.GL_ONE_MINUS_SRC_ALPHA, gl.GL_ONE, gl.GL_ONE)
        self.use("marks", **common, horizon=1)
        gl.glBindVertexArray(self.objects.array)
        gl.glDrawArraysInstanced(gl.GL_TRIANGLES, 0, 6, self.objects.number)
        gl.glDisable(gl.GL_BLEND)
        self.stack.read(out)

    def draw_horizons(self, common: dict, cones: int, occlusion: bool) -> None:
        gl = self.gl
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self.target)
        if self.rows < cones:
            self.rows = cones
            gl.glBindTexture(gl.GL_TEXTURE_2D, self.horizon)
            gl.glTexImage2D(gl.GL_TEXTURE_2D, 0, gl.GL_RG32F, DIRECTIONS, cones, 0, gl.GL_RG, gl.GL_FLOAT, None)
            for name in (gl.GL_TEXTURE_MIN_FILTER, gl.GL_TEXTURE_MAG_FILTER):
                gl.glTexParameteri(gl.GL_TEXTURE_2D, name, gl.GL_NEAREST)
            gl.glFramebufferTexture(gl.GL_FRAMEBUFFER, gl.GL_COLOR_ATTACHMENT0, self.horizon, 0)
        opengl.plain(gl)
        gl.glEnable(gl.GL_BLEND)
        gl.glBlendEquation(gl.GL_MIN)
        gl.glViewport(0, 0, DIRECTIONS, cones)
        gl.glClearColor(NEVER, NEVER, NEVER, NEVER)
        gl.glClear(gl.GL_COLOR_BUFFER_BIT)
        self.use("horizon", **common)
        gl.glBindVertexArray(self.objects.array)
        gl.glDrawArraysInstanced(gl.GL_TRIANGLES, 0, 12, self.objects.number * occlusion)

    def road(self, scene: Scene, frame: Frame) -> Road:
        """Draw a scene's roads from above, `FINER` times as fine as a picture framed like that."""
        gl, scale = self.gl, frame.scale
        low, high = road_extent(scene, frame)
        fine = min(FINER * scale, float(np.sqrt(TEXELS / np.prod(high - low))))
        side = min(8192, self.context.limit(gl.GL_MAX_TEXTURE_SIZE))
        w, h = (int(n) for n in np.minimum(np.ceil((high - low) * fine), side // 4))
        # Drawn four times as large and halved twice: 16 samples for a texel, so that thin bands at a slant are even.
        # (Quicker in Mesa's software than multisampling.)
        textures, targets = ([opengl.new(gl, kind) for _ in range(3)] for kind in ("Textures", "Framebuffers"))
        background = (*colour("background"), 1.0)
        gl.glActiveTexture(gl.GL_TEXTURE0)
        for texture, target, times in zip(textures, targets, (4, 2, 1), strict=True):
            gl.glBindTexture(gl.GL_TEXTURE_2D, texture)
            gl.glTexImage2D(
                gl.GL_TEXTURE_2D, 0, gl.GL_RGBA8, times * w, times * h, 0, gl.GL_RGBA, gl.GL_UNSIGNED_BYTE, None
            )
            for setting, value in (
                (gl.GL_TEXTURE_MIN_FILTER, gl.GL_LINEAR),
                (gl.GL_TEXTURE_MAG_FILTER, gl.GL_LINEAR),
                (gl.GL_TEXTURE_WRAP_S, gl.GL_CLAMP_TO_BORDER),
                (gl.GL_TEXTURE_WRAP_T, gl.GL_CLAMP_TO_BORDER),
            ):
                gl.glTexParameteri(gl.GL_TEXTURE_2D, setting, value)
            gl.glTexParameterfv(gl.GL_TEXTURE_2D, gl.GL_TEXTURE_BORDER_COLOR, (gl.GLfloat * 4)(*background))
            gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, target)
            gl.glFramebufferTexture(gl.GL_FRAMEBUFFER, gl.GL_COLOR_ATTACHMENT0, texture, 0)
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, targets[0])
        opengl.plain(gl)
        gl.glViewport(0, 0, 4 * w, 4 * h)
        gl.glClearColor(*background)
        gl.glClear(gl.GL_COLOR_BUFFER_BIT)
        self.draw_bands(scene, low, high - low, scale)
        for i, times in ((0, 4), (1, 2)):
            gl.glBindFramebuffer(gl.GL_READ_FRAMEBUFFER, targets[i])
            gl.glBindFramebuffer(gl.GL_DRAW_FRAMEBUFFER, targets[i + 1])
            gl.glBlitFramebuffer(
                0, 0, times * w, times * h, 0, 0, times * w // 2, times * h // 2, gl.GL_COLOR_BUFFER_BIT, gl.GL_LINEAR
            )
        for target in targets:
            opengl.delete(gl, "Framebuffers", target)
        for texture in textures[:2]:
            opengl.delete(gl, "Textures", texture)
        return Road(textures[2], 4 * w * h, low, high - low)

    def draw_bands(self, scene: Scene, corner: np.ndarray, extent: np.ndarray, scale: float) -> None:
        """The layers of ROAD_LAYERS; each point is a pair of vertices, one for either side of the band."""
        gl = self.gl
        if not len(scene.road_points):
            return
        rows = np.concatenate([scene.road_points - corner, sides(scene)], 1)
        rows = np.stack([rows, rows * [1, 1, -1, -1]], 1).reshape(-1, 4)
        bands = opengl.Instances(gl, [2, 2])
        bands.put(rows)
        for location in (0, 1):
            gl.glVertexAttribDivisor(location, 0)
        for kind, shade, width, least in ROAD_LAYERS:
            chosen = np.flatnonzero((scene.road_type == ROADS.index(kind)) & (np.diff(scene.road_first) > 1))
            first = (2 * scene.road_first[chosen]).astype(np.int32)
            count = (2 * np.diff(scene.road_first)[chosen]).astype(np.int32)
            self.use(
                "bands",
                shade=tuple(colour(shade)),
                half_width=max(width, least / scale) / 2,
                area=(0.0, 0.0, *(2 / extent)),
            )
            arrays = [a.ctypes.data_as(opengl.ctypes.POINTER(gl.GLint)) for a in (first, count)]
            gl.glMultiDrawArrays(gl.GL_TRIANGLE_STRIP if width else gl.GL_TRIANGLE_FAN, *arrays, len(first))
        opengl.delete(gl, "VertexArrays", bands.array)
        opengl.delete(gl, "Buffers", bands.buffer)


def road_extent(scene: Scene, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """(2,) each, metres in the world: the corners of what is drawn of a scene's roads. All of them; where that would be
    too large to be fine, what can be seen from where the traffic is."""
    points, rim = scene.road_points, 4 + 4 / frame.scale
    low, high = (points.min(0), points.max(0)) if len(points) else (scene.origin, scene.origin)
    low, high = low - rim, high + rim
    if np.prod(high - low) * (FINER * frame.scale) ** 2 > TEXELS:
        traffic = scene.position[scene.valid]
        near_low, near_high = traffic.min(0) - frame.dist - ASTRAY, traffic.max(0) + frame.dist + ASTRAY
        low, high = (
            np.maximum(low, np.minimum(near_low, high - rim)),
            np.minimum(high, np.maximum(near_high, low + rim)),
        )
    return low, high


def sides(scene: Scene) -> np.ndarray:
    """(M, 2): where a band of width 2 along the road elements has its left border at each point, so that neighbouring
    pieces meet (mitred, at most 2 long).

    Crosswalks and speed bumps are polygons: closed in fact, not in the data; the gap is as wide as they and is left.
    """
    step = np.diff(scene.road_points, axis=0, append=scene.road_points[-1:])
    last = np.zeros(len(step), bool)
    last[scene.road_first[1:] - 1] = True
    step[last] = 0
    length = np.linalg.norm(step, axis=1, keepdims=True)
    after = step / np.maximum(length, 1e-9)
    before = np.roll(after, 1, 0)
    before[scene.road_first[:-1]] = 0
    for own, other in ((after, before), (before, after)):
        none = ~own.any(1)
        own[none] = other[none]
    mean = after + before
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9)
    stretch = 1 / np.maximum((mean * after).sum(1, keepdims=True), 0.5)
    return np.stack([-mean[:, 1], mean[:, 0]], 1) * stretch


def objects(views: Views) -> np.ndarray:
    """Vehicles, cyclists, pedestrians, egos: rows for OBJECT and the colour."""
    names = [*OBJECTS, "ego"]
    shade = np.array([colour(name) if name in PALETTE else colour("vehicle") for name in names])
    least = np.array([LEAST.get(name, LEAST["vehicle"]) for name in names]) / views.frame.scale / 2
    kind = np.where(views.is_ego, len(OBJECTS), views.type)
    order = np.argsort(
        np.array([{"vehicle": 0, "cyclist": 1, "pedestrian": 2, "ego": 3}.get(name, 0) for name in names])[kind],
        kind="stable",
    )
    drawn = np.maximum(views.half, least[kind])
    others = ~views.is_ego[:, None]
    rows = np.concatenate(
        [
            views.cone[:, None],
            views.at,
            np.full_like(others, BOX, float),
            views.ahead,
            drawn,
            views.half,
            others,
            others,
            shade[kind],
        ],
        1,
    )
    return rows[order]


def fixed(views: Views) -> np.ndarray:
    """Stop signs and traffic lights, at their true places."""
    rows = []
    for what, (radius, least) in (("stop_signs", SIGN_RADIUS), ("light_position", LIGHT_RADIUS)):
        cone, number, position = views.fixed(what)
        at = views.relative(cone, position)
        radius = max(radius, least / views.frame.scale)
        seen = np.flatnonzero(views.frame.sees(at[:, 0], at[:, 1], radius))
        cone, number, at = cone[seen], number[seen], at[seen]
        if what == "stop_signs":
            shade = np.tile(colour("stop_sign"), (len(cone), 1))
        else:
            states = np.array(
                [views.scenes[c].light_state[i, views.time[c]] for c, i in zip(cone, number, strict=True)], np.int64
            )
            shade = np.array([colour(f"light_{name}") for name in LIGHTS])[states]
        rows.append(marks(cone, at, DISC, radius, shade))
    return np.concatenate(rows)


def instruments(views: Views, goal: bool) -> np.ndarray:
    """Bars below each ego: its speed; and if there is a `goal`, the speed wanted there and the one that leads there in
    time, as the crow flies."""
    wanted = np.array([scene.goal_speed[n] for scene, n in zip(views.scenes, views.index, strict=True)])
    rear = -views.half[views.is_ego][:, 0]
    bars = [bar(views, 0.0, rear, SPEED_BAR * np.abs(views.speed), "speed")]
    if goal:
        end = np.array([scene.last_valid[n] for scene, n in zip(views.scenes, views.index, strict=True)])
        needed = np.linalg.norm(views.goals(), axis=1) / np.maximum((end - views.time) * DT, LEAST_TIME)
        bars += [
            bar(views, side, rear, SPEED_BAR * np.abs(speed), "goal")
            for side, speed in ((-BAR_APART, wanted), (BAR_APART, needed))
        ]
    return np.concatenate(bars)


def bar(views: Views, u: float, top: np.ndarray, length: np.ndarray, name: str) -> np.ndarray:
    """Rows for OBJECT of bars that hang down from (u, top), one a cone."""
    rows, half = np.zeros((len(top), 15)), np.minimum(length, LONGEST_BAR) / 2
    rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3], rows[:, 5], rows[:, 6] = (
        np.arange(len(top)),
        u,
        top - half,
        BOX,
        1,
        half,
    )
    rows[:, 7], rows[:, 12:] = max(BAR_WIDTH[0], BAR_WIDTH[1] / views.frame.scale) / 2, colour(name)
    return rows


def goals(views: Views) -> np.ndarray:
    """A ring around each ego's goal, moved towards the ego to the rim of the view or of the picture if it lies
    beyond."""
    frame, at = views.frame, views.goals()
    radius = max(GOAL_RADIUS[0], GOAL_RADIUS[1] / frame.scale)
    far, (u, v) = np.linalg.norm(at, axis=1), np.maximum(np.abs(at.T), 1e-9)
    aside, behind = (
        min(frame.side, frame.size[1]) / 2 / frame.scale,
        (frame.size[0] - frame.top) / frame.scale - frame.dist,
    )
    fits = [
        (frame.dist - radius) / np.maximum(far, 1e-9),
        (aside - radius) / u,
        np.where(at[:, 1] < 0, (behind - radius) / v, 1),
    ]
    at = at * np.clip(np.min(fits, 0), 0, 1)[:, None]
    return marks(np.arange(len(at)), at, RING, radius, np.tile(colour("goal"), (len(at), 1)))


def marks(cone: np.ndarray, at: np.ndarray, shape: int, radius: float, shade: np.ndarray) -> np.ndarray:
    """Rows for OBJECT of things that hide nothing and that nothing hides."""
    rows = np.zeros((len(cone), 15))
    rows[:, 0], rows[:, 1:3], rows[:, 3], rows[:, 4], rows[:, 6:8], rows[:, 12:] = cone, at, shape, 1, radius, shade
    return rows
