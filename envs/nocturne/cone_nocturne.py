"""Nocturne's cone image, painted as Nocturne paints it: by the same primitives in the same order, with four samples a
pixel.

1. the square (50, 50, 50)
2. roads, one pixel wide, in the file's order
3. objects, and a white arrow head on each
4. the goal's ring
5. black where others hide the view
6. traffic lights, then stop signs, 2 m off their place in x and y
7. black outside the cone

The cones of a call are the layers of one multisampled texture, so that each is drawn at the same place and comes out
the same whatever is drawn beside it. Step 7 is worked out once per framing as four bits a pixel, and applied where the
samples are averaged.

Mesa's llvmpipe, with which Nocturne's pictures were recorded, drops a segment that crosses no border between two
columns of pixels, or none between two rows, so that roads are dotted in small pictures. With other drivers the segments
are drawn as rectangles, and the same ones dropped.
"""

import ctypes
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch

from dreamdrive.envs.nocturne import nocturne_shaders as shaders
from dreamdrive.envs.nocturne import opengl
from dreamdrive.envs.nocturne.cone import RUN, Colors, Frame, SceneCache, Views
from dreamdrive.envs.nocturne.scene import LIGHTS, ROADS, Scene
from dreamdrive.utils.errors import UserError

# x to the right, y down; OpenGL's numbers for them are asked for
SAMPLES = np.array([[0.375, 0.875], [0.875, 0.625], [0.125, 0.375], [0.625, 0.125]])
BYTES = 64 << 20  # of the multisampled texture
BACKGROUND = 50
ROAD_COLORS = {
    "lane": (255, 255, 0),
    "road_line": (0, 0, 255),
    "road_edge": (0, 255, 0),
    "crosswalk": (255, 0, 255),
    "speed_bump": (0, 255, 255),
}
LIGHT_COLORS = {
    "unknown": (102, 102, 255),
    "stop": (255, 0, 0),
    "caution": (255, 255, 0),
    "go": (0, 255, 0),
    "arrow_stop": (0, 0, 255),
    "arrow_caution": (255, 0, 255),
    "arrow_go": (0, 255, 255),
    "flashing_stop": (255, 51, 255),
    "flashing_caution": (255, 153, 51),
}
MISPLACED = 2.0  # metres, in x and y


def lit(frame: Frame) -> np.ndarray:
    """(h, w, 4) bool: the samples that step 7 leaves; Nocturne's disc has 76 chords, and the black fan beside the cone
    79."""
    h, w = frame.size
    x = np.arange(w)[None, :, None] + SAMPLES[:, 0]
    y = np.arange(h)[:, None, None] + SAMPLES[:, 1]
    middle = frame.side / 2
    u, v = np.broadcast_arrays((x - frame.left - middle) / frame.scale, (frame.top + middle - y) / frame.scale)
    r, angle = np.hypot(u, v), np.arctan2(v, u)

    def inside(angle: np.ndarray, chord: float) -> np.ndarray:
        return r * np.cos(np.remainder(angle, chord) - chord / 2) <= frame.dist * np.cos(chord / 2)

    kept = inside(angle, np.pi / 38)
    dark = 2 * np.pi - frame.angle
    if dark > 0:
        beside = np.remainder(angle - frame.head - np.pi / 2 - frame.angle / 2, 2 * np.pi)
        kept &= ~((beside <= dark) & inside(beside, dark / 79))
    return kept


@lru_cache(32)
def lit_bits(frame: Frame, order: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """`lit` as (h, w) uint8, bit i for OpenGL's sample i, and the box (left, top, right, bottom) that holds all that is
    lit."""
    kept = lit(frame)
    rows, columns = np.flatnonzero(kept.any((1, 2))), np.flatnonzero(kept.any((0, 2)))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if len(rows) else (0, 0, 0, 0)
    return (kept[:, :, list(order)] << np.arange(4)).sum(-1).astype(np.uint8), box


@dataclass
class RoadLines:
    """A scene's painted roads on the GPU, and its runs: up to RUN segments each, in the file's order."""

    array: int
    buffer: int
    bytes: int
    first: np.ndarray  # (C,) a run's first point and how many it has
    count: np.ndarray
    follows: np.ndarray  # (C,) bool: a run begins where the one before it ends
    center: np.ndarray  # (C, 2), (C,) a circle around it, relative to the scene's origin
    radius: np.ndarray
    origin: np.ndarray

    @property
    def names(self) -> list[tuple[str, int]]:
        return [("VertexArrays", self.array), ("Buffers", self.buffer)]


def painted(scene: Scene) -> np.ndarray:
    """(R,) bool: the road elements that are drawn."""
    return np.isin(scene.road_type, [ROADS.index(name) for name in ROAD_COLORS]) & (np.diff(scene.road_first) > 1)


def runs(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """first, count, follows (C,) of RoadLines."""
    drawn = np.flatnonzero(painted(scene))
    begin, segments = scene.road_first[drawn], np.diff(scene.road_first)[drawn] - 1
    pieces = -(-segments // RUN)
    nth = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first = np.repeat(begin, pieces) + nth * RUN
    count = np.minimum(RUN, np.repeat(segments, pieces) - nth * RUN) + 1
    return first, count, nth > 0


class Nocturne:
    """Paints views in Nocturne's style."""

    def __init__(self, context: opengl.Context, cache: SceneCache) -> None:
        self.context, self.cache, self.gl = context, cache, context.gl
        gl = self.gl
        direct = context.extensions & {"GL_ARB_shader_viewport_layer_array", "GL_AMD_vertex_shader_layer"}
        self.roads = (
            self.layered(shaders.ROADS_VERTEX, "lines", "line_strip", direct)
            if context.renderer.startswith("llvmpipe")
            else self.rectangles()
        )
        self.bodies, self.shadows, self.rings = (
            self.layered(vertex, "triangles", "triangle_strip", direct)
            for vertex in (shaders.BODY_VERTEX, shaders.SHADOW_VERTEX, shaders.RING_VERTEX)
        )
        self.resolve = opengl.program(gl, vertex=shaders.RESOLVE_VERTEX, fragment=shaders.RESOLVE_FRAGMENT)
        self.places = {
            (p, n): opengl.uniform(gl, p, n)
            for p in (self.roads, self.bodies, self.shadows, self.rings, self.resolve)
            for n in ("window", "dist", "box", "size", "layers", "mask")
        }
        self.objects, self.polygons = (opengl.Instances(gl, sizes) for sizes in ([4, 4, 3], [4, 3, 3]))
        self.empty = opengl.new(gl, "VertexArrays")
        self.egos = opengl.new(gl, "Buffers")
        self.layers, self.mask, self.target = (
            opengl.new(gl, "Textures"),
            opengl.new(gl, "Textures"),
            opengl.new(gl, "Framebuffers"),
        )
        self.stack = opengl.Stack(gl)
        self.allocated: tuple | None = None
        self.masked: Frame | None = None
        self.order: tuple[int, ...] = ()
        self.commands = (
            opengl.new(gl, "Buffers")
            if {"GL_ARB_multi_draw_indirect", "GL_ARB_base_instance"} <= context.extensions
            else 0
        )

    def layered(self, vertex: str, taken: str, given: str, direct: set[str]) -> int:
        """A program that draws into layers: by the vertex shader where the driver has that, else by a geometry
        shader."""
        count = {"lines": 2, "triangles": 3}[taken]
        if direct:
            vertex = (
                vertex.replace("LAYER_EXTENSION", f"#extension {sorted(direct)[-1]} : require")
                .replace("LAYER", "gl_Layer")
                .replace("COLOR", "shade")
            )
            return opengl.program(self.gl, vertex=vertex.strip(), fragment=shaders.FRAGMENT.strip())
        vertex = (
            vertex.replace("LAYER_EXTENSION", "flat out int layer_of;")
            .replace("LAYER", "layer_of")
            .replace("COLOR", "color_to_layer")
        )
        geometry = shaders.LAYERS_GEOMETRY.replace("INPUT", taken).replace("OUTPUT", given).replace("COUNT", str(count))
        return opengl.program(
            self.gl, vertex=vertex.strip(), geometry=geometry.strip(), fragment=shaders.FRAGMENT.strip()
        )

    def rectangles(self) -> int:
        """A program that draws roads as llvmpipe does, on any driver."""
        vertex = (
            shaders.ROADS_VERTEX.replace("LAYER_EXTENSION", "flat out int layer_of;")
            .replace("LAYER", "layer_of")
            .replace("COLOR", "color_to_layer")
        )
        return opengl.program(
            self.gl, vertex=vertex.strip(), geometry=shaders.LINES_GEOMETRY.strip(), fragment=shaders.FRAGMENT.strip()
        )

    def capacity(self, frame: Frame) -> int:
        """How many pictures are drawn at once."""
        gl, (h, w) = self.gl, frame.size
        most = min(
            self.context.limit(gl.GL_MAX_ARRAY_TEXTURE_LAYERS),
            self.context.limit(gl.GL_MAX_TEXTURE_SIZE) // h,
            BYTES // (16 * h * w),
        )
        return max(1, most)

    def allocate(self, frame: Frame, cones: int) -> None:
        """Make the layers for that many pictures, unless there are enough and not many more (all are cleared). Leaves
        their framebuffer bound."""
        gl, (h, w) = self.gl, frame.size
        if self.allocated is not None and self.allocated[:2] == (h, w) and cones <= self.allocated[2] <= 8 * cones:
            gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self.target)
            return
        self.allocated = h, w, cones
        gl.glBindTexture(gl.GL_TEXTURE_2D_MULTISAMPLE_ARRAY, self.layers)
        gl.glTexImage3DMultisample(gl.GL_TEXTURE_2D_MULTISAMPLE_ARRAY, 4, gl.GL_RGBA8, w, h, cones, gl.GL_TRUE)
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self.target)
        gl.glFramebufferTexture(gl.GL_FRAMEBUFFER, gl.GL_COLOR_ATTACHMENT0, self.layers, 0)
        if gl.glCheckFramebufferStatus(gl.GL_FRAMEBUFFER) != gl.GL_FRAMEBUFFER_COMPLETE:
            self.allocated = None
            raise UserError(
                f"this machine's OpenGL ({self.context.renderer}) draws no {cones} pictures of {h} x {w} at once: ask "
                "for smaller ones"
            )
        if not self.order:
            self.order = self.sample_order()

    def sample_order(self) -> tuple[int, ...]:
        """OpenGL's sample i is number order[i] of SAMPLES."""
        gl, found = self.gl, []
        for i in range(4):
            value = (gl.GLfloat * 2)()
            gl.glGetMultisamplefv(gl.GL_SAMPLE_POSITION, i, value)
            found.append(int(np.linalg.norm(SAMPLES - [value[0], 1 - value[1]], axis=1).argmin()))
        return tuple(found) if sorted(found) == [0, 1, 2, 3] else (0, 1, 2, 3)

    def set_mask(self, frame: Frame) -> tuple[int, int, int, int]:
        gl, (h, w) = self.gl, frame.size
        bits, box = lit_bits(frame, self.order)
        if frame != self.masked:
            self.masked = frame
            gl.glBindTexture(gl.GL_TEXTURE_2D, self.mask)
            gl.glPixelStorei(gl.GL_UNPACK_ALIGNMENT, 1)
            gl.glTexImage2D(
                gl.GL_TEXTURE_2D, 0, gl.GL_R8UI, w, h, 0, gl.GL_RED_INTEGER, gl.GL_UNSIGNED_BYTE, bits.ctypes.data
            )
            for name in (gl.GL_TEXTURE_MIN_FILTER, gl.GL_TEXTURE_MAG_FILTER):
                gl.glTexParameteri(gl.GL_TEXTURE_2D, name, gl.GL_NEAREST)
        return box

    def draw(self, views: Views, colors: Colors, goal: bool, speed: bool, out: np.ndarray) -> None:
        """Paint the cones of `views` into `out` (E, h, w, 3); `speed` is not for this style."""
        gl, frame = self.gl, views.frame
        h, cones = frame.size[0], len(out)
        self.allocate(frame, cones)
        box = self.set_mask(frame)
        if box[0] == box[2]:
            return
        opengl.plain(gl)
        gl.glEnable(gl.GL_MULTISAMPLE)
        gl.glEnable(gl.GL_SCISSOR_TEST)
        gl.glScissor(box[0], h - box[3], box[2] - box[0], box[3] - box[1])
        gl.glViewport(frame.left, h - frame.top - frame.side, frame.side, frame.side)
        gl.glClearColor(*[BACKGROUND / 255] * 3, 1.0)
        gl.glClear(gl.GL_COLOR_BUFFER_BIT)
        self.draw_roads(views)
        shades = body_colors(views, colors)
        self.objects.put(
            np.concatenate(
                [views.cone[:, None], views.at, ~views.is_ego[:, None], views.ahead, views.half, shades / 255], 1
            )
        )
        self.paint(self.bodies, self.objects, 9, frame)
        if goal:
            own = shades[views.is_ego]
            outer = 2 + 0.5 / np.cos(np.pi / 30)
            self.polygons.put(
                np.concatenate(
                    [
                        np.arange(cones)[:, None],
                        views.goals(),
                        views.heading[:, None],
                        np.tile([2, outer, 30], (cones, 1)),
                        own / 255,
                    ],
                    1,
                )
            )
            self.paint(self.rings, self.polygons, 180, frame)
        if frame.occlusion:
            self.paint(self.shadows, self.objects, 24, frame)
        self.polygons.put(signs(views))
        self.paint(self.rings, self.polygons, 36, frame)
        self.read(box, views, out)

    def paint(self, program: int, instances: opengl.Instances, vertices: int, frame: Frame) -> None:
        if not instances.number:
            return
        self.gl.glUseProgram(program)
        self.gl.glUniform1f(self.places[program, "dist"], frame.dist)
        self.gl.glBindVertexArray(instances.array)
        self.gl.glDrawArraysInstanced(self.gl.GL_TRIANGLES, 0, vertices, instances.number)

    def road_lines(self, scene: Scene) -> RoadLines:
        """Upload a scene's roads."""
        gl = self.gl
        palette = np.array([ROAD_COLORS.get(name, (0, 0, 0)) for name in ROADS]) / 255
        points = scene.road_points - scene.origin
        rows = np.concatenate([points, np.repeat(palette[scene.road_type], np.diff(scene.road_first), 0)], 1).astype(
            np.float32
        )
        array, buffer = opengl.new(gl, "VertexArrays"), opengl.new(gl, "Buffers")
        gl.glBindVertexArray(array)
        opengl.upload(gl, buffer, rows, gl.GL_STATIC_DRAW)
        opengl.attributes(gl, [2, 3], 0)
        gl.glBindBuffer(gl.GL_ARRAY_BUFFER, self.egos)
        for location, size, offset in ((2, 4, 0), (3, 1, 16)):
            gl.glEnableVertexAttribArray(location)
            gl.glVertexAttribPointer(location, size, gl.GL_FLOAT, gl.GL_FALSE, 20, offset)
            gl.glVertexAttribDivisor(location, 1)
        first, count, follows = runs(scene)
        if len(first):
            pairs = np.stack([first, first + count], 1).ravel()
            ends = points[first + count - 1]  # which reduceat, whose ranges must not overlap, may leave out
            rows2 = np.concatenate([points, points[-1:]])
            low = np.minimum(np.minimum.reduceat(rows2, pairs)[::2], ends)
            high = np.maximum(np.maximum.reduceat(rows2, pairs)[::2], ends)
        else:
            low = high = np.empty((0, 2))
        return RoadLines(
            array,
            buffer,
            rows.nbytes,
            first,
            count,
            follows,
            (low + high) / 2,
            np.linalg.norm(high - low, axis=1) / 2,
            scene.origin,
        )

    def draw_roads(self, views: Views) -> None:
        """All cones' roads: for each cone the runs that may be seen, neighbours joined, in the file's order."""
        gl, frame = self.gl, views.frame
        gl.glUseProgram(self.roads)
        gl.glLineWidth(1.0)
        gl.glUniform3f(
            self.places[self.roads, "window"],
            *map(float, (frame.left, frame.size[0] - frame.top - frame.side, frame.side)),
        )
        for scene, cones in views.by_scene().items():
            lines = self.cache.get(scene, "lines", partial(self.road_lines, scene))
            at = views.position[cones] - lines.origin
            sin, cos = np.sin(views.heading[cones]), np.cos(views.heading[cones])
            opengl.upload(
                gl, self.egos, np.stack([*at.T, cos / frame.dist, sin / frame.dist, cones], 1).astype(np.float32)
            )
            d = (lines.center - at[:, None]).astype(np.float32)
            s, c = sin[:, None].astype(np.float32), cos[:, None].astype(np.float32)
            seen = frame.sees(
                s * d[..., 0] - c * d[..., 1],
                c * d[..., 0] + s * d[..., 1],
                lines.radius.astype(np.float32) + np.float32(1.5 / frame.scale),
            )
            if not seen.any():
                continue
            joined = seen[:, 1:] & seen[:, :-1] & lines.follows[1:]
            starts, ends = seen.copy(), seen.copy()
            starts[:, 1:] &= ~joined
            ends[:, :-1] &= ~joined
            cone, a = np.nonzero(starts)
            b = np.nonzero(ends)[1]
            first, count = lines.first[a], lines.first[b] + lines.count[b] - lines.first[a]
            gl.glBindVertexArray(lines.array)
            self.strips(first, count, cone)

    def strips(self, first: np.ndarray, count: np.ndarray, cone: np.ndarray) -> None:
        """Line strips, `cone` the number of the row of self.egos that each is seen from."""
        gl = self.gl
        if self.commands:
            rows = np.stack([count, np.ones_like(count), first, cone], 1).astype(np.uint32)
            gl.glBindBuffer(gl.GL_DRAW_INDIRECT_BUFFER, self.commands)
            gl.glBufferData(gl.GL_DRAW_INDIRECT_BUFFER, rows.nbytes, rows.ctypes.data, gl.GL_STREAM_DRAW)
            gl.glMultiDrawArraysIndirect(gl.GL_LINE_STRIP, 0, len(rows), 0)
            return
        gl.glBindBuffer(gl.GL_ARRAY_BUFFER, self.egos)
        first, count = first.astype(np.int32), count.astype(np.int32)
        edges = np.searchsorted(cone, np.arange(cone[-1] + 2))
        for i, (a, b) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
            for location, size, offset in ((2, 4, 20 * i), (3, 1, 20 * i + 16)):
                gl.glVertexAttribPointer(location, size, gl.GL_FLOAT, gl.GL_FALSE, 20, offset)
            arrays = [x[a:b].ctypes.data_as(ctypes.POINTER(gl.GLint)) for x in (first, count)]
            gl.glMultiDrawArrays(gl.GL_LINE_STRIP, *arrays, int(b - a))

    def read(self, box: tuple[int, int, int, int], views: Views, out: np.ndarray) -> None:
        """Average the samples, and fetch the pictures."""
        gl, (h, w), cones = self.gl, views.frame.size, len(out)
        self.stack.begin(h, w, cones)
        gl.glUseProgram(self.resolve)
        gl.glUniform4f(self.places[self.resolve, "box"], *map(float, box))
        gl.glUniform3f(self.places[self.resolve, "size"], float(w), float(h), float(cones))
        for unit, name in enumerate(("layers", "mask")):
            gl.glUniform1i(self.places[self.resolve, name], unit)
        gl.glActiveTexture(gl.GL_TEXTURE1)
        gl.glBindTexture(gl.GL_TEXTURE_2D, self.mask)
        gl.glActiveTexture(gl.GL_TEXTURE0)
        gl.glBindTexture(gl.GL_TEXTURE_2D_MULTISAMPLE_ARRAY, self.layers)
        gl.glBindVertexArray(self.empty)
        gl.glDrawArraysInstanced(gl.GL_TRIANGLES, 0, 6, cones)
        self.stack.read(out)


def signs(views: Views) -> np.ndarray:
    """Traffic lights, then stop signs, as rows for shaders.RING_VERTEX."""
    rows = []
    palette = np.array([LIGHT_COLORS[name] for name in LIGHTS]) / 255
    for what in ("light_position", "stop_signs"):
        cone, number, position = views.fixed(what)
        at = views.relative(cone, position + MISPLACED)
        seen = np.flatnonzero(views.frame.sees(at[:, 0], at[:, 1], 2.0))
        cone, number, at = cone[seen], number[seen], at[seen]
        if what == "stop_signs":
            corners, shade = 6, np.tile([1.0, 0.0, 0.0], (len(cone), 1))
        else:
            states = [views.scenes[c].light_state[i, views.time[c]] for c, i in zip(cone, number, strict=True)]
            corners, shade = 5, palette[np.array(states, np.int64)]
        rows.append(
            np.concatenate(
                [cone[:, None], at, views.heading[cone, None], np.tile([0, 2, corners], (len(cone), 1)), shade], 1
            )
        )
    return np.concatenate(rows)


@lru_cache(8)
def default_colors(number: int) -> np.ndarray:
    """(number, 3): three random numbers scaled so that the largest is 255, as Nocturne draws them, but always the
    same."""
    shades = np.random.default_rng(0).integers(1, 256, (number, 3))
    return shades * 255 // shades.max(1, keepdims=True)


def body_colors(views: Views, colors: Colors) -> np.ndarray:
    """(K, 3) of the objects in view."""
    if colors is None:
        return default_colors(1024)[views.place % 1024]
    batch = views.batch[views.cone]
    if isinstance(colors, np.ndarray | torch.Tensor):
        return np.asarray(colors)[batch, views.place]
    ask = colors if callable(colors) else lambda b, n: colors[b, n]
    return np.array([ask(int(b), int(n)) for b, n in zip(batch, views.place, strict=True)], np.int64).reshape(-1, 3)
