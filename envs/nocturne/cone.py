"""What a driver sees, as pictures: a cone of the map and of the traffic around one car, the car in the middle and
heading up, with what the others hide left black.

    images = render_cones(sim, [(0, 3), (1, 7)], size=64)              # uint8 (2, 64, 64, 3), row 0 ahead
    images = render_cones(sim, egos, size=400, style="nocturne")       # Nocturne's own picture

A picture shows a square of 2 view_dist around the car (or, with `anchor`, a closer look at what is ahead), and of it
what lies within view_dist and within view_angle around the car's heading. Two styles:
  "nocturne"  Nocturne's getConeImage: roads as lines one pixel wide (dotted where the pictures are small), bodies in
  colours of their own, misplaced signs and all "legible"   for learning from small pictures: see cone_legible.py

Many cones are drawn at once by OpenGL (opengl.py says where it is found). A cone's picture does not depend on which
others are asked for in the same call.
"""

import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dreamdrive.envs.nocturne.opengl import Context, delete, open_context, refuse_forked
from dreamdrive.envs.nocturne.scene import STEPS, Scene
from dreamdrive.utils.errors import UserError

STYLES = ("legible", "nocturne")
LARGEST = 4096  # pixels of a side
CACHE = 64 << 20  # bytes on the GPU (or of Mesa's memory) that scenes' roads may take
RUN = 16  # segments of a polyline that are kept or left out together
Size = int | tuple[int, int]
Colors = (
    np.ndarray | torch.Tensor | Mapping[tuple[int, int], Sequence[int]] | Callable[[int, int], Sequence[int]] | None
)


def render_cones(
    sim: Any,
    egos: Sequence[tuple[int, int]] | np.ndarray | torch.Tensor,
    size: Size = 64,
    view_dist: float = 80.0,
    view_angle: float = 2.0944,
    padding: float = 0.0,
    style: str = "legible",
    colors: Colors = None,
    head_angle: float = 0.0,
    goal: bool = False,
    occlusion: bool = True,
    anchor: float = 0.5,
    speed: bool = False,
) -> torch.Tensor:
    """Pictures of what objects see: a uint8 tensor (E, h, w, 3) in the CPU's memory, row 0 ahead of the car, its left
    on the left.

    `egos`: E pairs (b, n), object n of scene b, which may repeat. `size`: of the side in pixels, or (h, w). `view_dist`
        in m, `view_angle` and `head_angle` in rad:
    the cone is head_angle to the left of the heading, the picture's up is the heading all the same. `padding`: pixels
    that stay black at each side. `goal`: show the ego's goal. `colors`: of the bodies in style "nocturne", a uint8
    array (B, N, 3), a dict or a function of (b, n); without, the same few for all scenes.
    `occlusion`: whether objects hide what is behind them. `anchor`: how far down the picture the car is, 0.5 to 1 of
        its height (style "legible"); view_dist metres
    still end at the upper rim, so that beyond 0.5 everything is larger and what is far to the side is cut off. `speed`:
    show how fast the ego is, and with `goal` the speeds that are wanted there and on the way (style "legible").

    Of `sim` these are read: scenes, state, present, there, length, width, type, time (see simulator.py). UserError for
    what cannot be drawn.
    """
    refuse_forked()
    views = look(sim, egos, framed(size, view_dist, view_angle, head_angle, padding, occlusion, anchor))
    if style not in STYLES:
        raise UserError(f'there is no style "{style}" of pictures: choose {" or ".join(STYLES)}')
    if (anchor != 0.5 and (style != "legible" or padding)) or (speed and style != "legible"):
        raise UserError(
            f"{'the speed' if speed else f'an anchor of {anchor:g}'} is for style "
            f"legible{'' if speed else ' without padding'}: leave it away, or the others"
        )
    out = torch.zeros(len(views.heading), *views.frame.size, 3, dtype=torch.uint8)
    if len(out) and views.frame.side > 0:
        renderer().draw(views, style, colors, goal, speed, out.numpy())
    return out


@dataclass(frozen=True)
class Frame:
    """How a picture is framed. The view's square takes `side` x `side` pixels whose upper left corner is (left, top);
    the rest of `size` (h, w) stays black, and what of the square reaches beyond `size` is cut off."""

    size: tuple[int, int]
    left: int
    top: int
    side: int
    dist: float
    angle: float
    head: float
    occlusion: bool

    @property
    def scale(self) -> float:
        """Pixels per metre."""
        return self.side / (2 * self.dist)

    def sees(self, u: np.ndarray, v: np.ndarray, radius: np.ndarray | float) -> np.ndarray:
        """Whether a circle around (u, v), m to the right and ahead, may reach into the cone, or cast a shadow into
        it."""
        reach = np.hypot(u, v)
        near = reach <= self.dist + radius
        if self.angle >= 2 * np.pi:
            return near
        off = np.abs(np.remainder(np.arctan2(-u, v) - self.head + np.pi, 2 * np.pi) - np.pi)
        with np.errstate(divide="ignore", invalid="ignore"):
            return near & ((reach <= radius) | (off <= self.angle / 2 + np.arcsin(np.minimum(1, radius / reach))))


def framed(
    size: Size,
    dist: float,
    angle: float,
    head: float = 0.0,
    padding: float = 0.0,
    occlusion: bool = True,
    anchor: float = 0.5,
) -> Frame:
    """The framing that `render_cones` is asked for; UserError if it is not possible."""
    h, w = (size, size) if isinstance(size, int | np.integer) else size
    if not (1 <= h <= LARGEST and 1 <= w <= LARGEST):
        raise UserError(f"a picture of {h} x {w} pixels was asked for: choose 1 to {LARGEST} for either side")
    for name, value, most in (
        ("view_dist", dist, 1e5),
        ("view_angle", angle, np.inf),
        ("padding", padding + 1e-9, np.inf),
    ):
        if not 0 < value < most:
            raise UserError(
                f"{name} is {value:g} where a positive number{f' below {most:g}' if most < np.inf else ''} was wanted"
            )
    if not 0.5 <= anchor <= 1:
        raise UserError(f"anchor is {anchor:g} where a number from 0.5 to 1 was wanted")
    if not np.isfinite(head):
        raise UserError(f"head_angle is {head} where a finite angle was wanted")
    side = min(h, w) - 2 * padding
    top = np.floor((h - side) / 2 + 0.5)  # Nocturne's rounding
    side *= 2 * anchor
    return Frame(
        (int(h), int(w)),
        int(np.floor((w - side) / 2 + 0.5)),
        int(top),
        int(max(side, 0) + 0.5),
        float(dist),
        float(angle),
        float(head),
        occlusion,
    )


@dataclass(frozen=True)
class Views:
    """What E cones see: for each the scene and the objects around, in metres to the right of the ego (u) and ahead of
    it (v).

    Fields:
        scenes: E scenes; position (E, 2) float64, heading, speed, time (E,) int64: of the egos; batch, index (E,): b
            and n
        cone (K,) int64, ascending: the cone that object k is in; place (K,): its n, in the order of the scene; is_ego
        (K,) bool at, ahead (K, 2) float32: (u, v) of its centre, and of its heading's unit vector; half (K, 2): half
        its length and width; type (K,) int64
    """

    frame: Frame
    scenes: list[Scene]
    batch: np.ndarray
    index: np.ndarray
    position: np.ndarray
    heading: np.ndarray
    speed: np.ndarray
    time: np.ndarray
    cone: np.ndarray
    place: np.ndarray
    is_ego: np.ndarray
    at: np.ndarray
    ahead: np.ndarray
    half: np.ndarray
    type: np.ndarray

    def relative(self, cones: np.ndarray, points: np.ndarray) -> np.ndarray:
        """(len(cones), 2): world points, one a cone, as (u, v)."""
        d = points - self.position[cones]
        sin, cos = np.sin(self.heading[cones]), np.cos(self.heading[cones])
        return np.stack([sin * d[:, 0] - cos * d[:, 1], cos * d[:, 0] + sin * d[:, 1]], -1)

    def goals(self) -> np.ndarray:
        """(E, 2): where the egos are to go, as (u, v)."""
        cones = np.arange(len(self.heading))
        return self.relative(cones, np.stack([scene.goal[n] for scene, n in zip(self.scenes, self.index, strict=True)]))

    def fixed(self, what: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The "stop_signs" or "light_position" of each cone's scene: cones (F,), their numbers in the scene (F,), world
        positions (F, 2)."""
        found = [getattr(scene, what) for scene in self.scenes]
        counts = np.array([len(f) for f in found])
        return (
            np.repeat(np.arange(len(found)), counts),
            np.concatenate([np.arange(n) for n in counts]),
            np.concatenate(found).reshape(-1, 2),
        )

    def by_scene(self) -> dict[Scene, np.ndarray]:
        """Which cones are of which scene."""
        groups: dict[Scene, list[int]] = {}
        for cone, scene in enumerate(self.scenes):
            groups.setdefault(scene, []).append(cone)
        return {scene: np.array(cones) for scene, cones in groups.items()}

    def part(self, first: int, last: int) -> "Views":
        """Cones first to last - 1 alone."""
        a, b = np.searchsorted(self.cone, [first, last])
        cones = {
            name: getattr(self, name)[first:last]
            for name in ("scenes", "batch", "index", "position", "heading", "speed", "time")
        }
        objects = {name: getattr(self, name)[a:b] for name in ("place", "is_ego", "at", "ahead", "half", "type")}
        return Views(self.frame, **cones, cone=self.cone[a:b] - first, **objects)


def look(sim: Any, egos: Any, frame: Frame) -> Views:
    """Find what is around each ego, for all cones at once."""
    pairs = np.asarray(egos.cpu() if isinstance(egos, torch.Tensor) else egos, np.int64).reshape(-1, 2)
    batch, index = pairs[:, 0], pairs[:, 1]
    present = sim.present.cpu().numpy()
    if len(pairs) and not (
        (pairs >= 0).all()
        and (batch < len(present)).all()
        and (index < present.shape[1]).all()
        and present[batch, index].all()
    ):
        wrong = next(
            p
            for p in pairs.tolist()
            if min(p) < 0 or p[0] >= len(present) or p[1] >= present.shape[1] or not present[p[0], p[1]]
        )
        raise UserError(
            f"there is no object {wrong[1]} in scene {wrong[0]} of {len(present)}: name pairs (scene, object) that "
            "sim.present has"
        )
    used, back = np.unique(batch, return_inverse=True)
    state, there, length, width, kind = (
        x[torch.as_tensor(used, device=x.device)].cpu().numpy()[back]
        for x in (sim.state, sim.there, sim.length, sim.width, sim.type)
    )
    cones = np.arange(len(pairs))
    ego = state[cones, index]  # (E, 4)
    lost = ~np.isfinite(ego).all(1) | ~there[cones, index]
    if lost.any():
        raise UserError(
            f"object {index[lost][0]} of scene {batch[lost][0]} has no place at this step, so it sees nothing: ask for "
            "objects that are valid"
        )
    sin, cos = np.sin(ego[:, 2])[:, None], np.cos(ego[:, 2])[:, None]
    dx, dy = state[..., 0] - ego[:, :1], state[..., 1] - ego[:, 1:2]  # (E, N)
    half = np.stack([length, width], -1).astype(np.float64) / 2
    u, v, radius = sin * dx - cos * dy, cos * dx + sin * dy, np.hypot(half[..., 0], half[..., 1])
    own = index[:, None] == np.arange(state.shape[1])
    with np.errstate(invalid="ignore"):
        cone, place = np.nonzero((there & frame.sees(u, v, radius)) | own)
    turn = state[cone, place, 2] - ego[cone, 2]
    pick = (cone, place)
    time = sim.time.cpu().numpy()[batch].clip(0, STEPS - 1)
    return Views(
        frame,
        [sim.scenes[b] for b in batch],
        batch,
        index,
        ego[:, :2],
        ego[:, 2],
        ego[:, 3],
        time,
        cone,
        place,
        own[pick],
        np.stack([u[pick], v[pick]], -1).astype(np.float32),
        np.stack([-np.sin(turn), np.cos(turn)], -1).astype(np.float32),
        half[pick].astype(np.float32),
        kind[pick],
    )


class SceneCache:
    """What was made of scenes, the least recently used thrown away beyond CACHE bytes, and that of scenes nobody has
    any more."""

    def __init__(self, context: Context) -> None:
        self.context, self.bytes = context, 0
        self.entries: OrderedDict[tuple, Any] = OrderedDict()
        # a scene may be collected at any moment, in any thread: its entries wait here for the next drawing
        self.gone: list[tuple] = []

    def get(self, scene: Scene, kind: Any, make: Callable[[], Any]) -> Any:
        """What `make` gave for (scene, kind), anything with .bytes and .names [(kind of OpenGL object, name), ...]."""
        key = (id(scene), kind)
        if key in self.entries:
            self.entries.move_to_end(key)
            return self.entries[key][0]
        value = make()
        self.entries[key] = value, weakref.ref(scene, lambda _: self.gone.append(key))
        self.bytes += value.bytes
        return value

    def tidy(self) -> None:
        while self.gone:
            self.drop(self.gone.pop())
        while self.bytes > CACHE and len(self.entries) > 1:
            self.drop(next(iter(self.entries)))

    def drop(self, key: tuple) -> None:
        if key in self.entries:
            value, _ = self.entries.pop(key)
            self.bytes -= value.bytes
            for kind, name in value.names:
                delete(self.context.gl, kind, name)


class Renderer:
    """Draws views in the context of this process; `draw` is the whole of it."""

    def __init__(self, context: Context) -> None:
        from dreamdrive.envs.nocturne.cone_legible import Legible
        from dreamdrive.envs.nocturne.cone_nocturne import Nocturne

        self.context, self.cache = context, SceneCache(context)
        self.styles: dict[str, Any] = {}
        self.kinds = {"nocturne": Nocturne, "legible": Legible}

    def draw(self, views: Views, style: str, colors: Colors, goal: bool, speed: bool, out: np.ndarray) -> None:
        with self.context.current() as gl:
            self.cache.tidy()
            if style not in self.styles:
                self.styles[style] = self.kinds[style](self.context, self.cache)
            painter = self.styles[style]
            at_once = painter.capacity(views.frame)
            for first in range(0, len(out), at_once):
                part = views.part(first, min(len(out), first + at_once))
                painter.draw(part, colors, goal, speed, out[first : first + at_once])
            error = gl.glGetError()
            if error:
                raise UserError(
                    f"OpenGL reports error {error:#x} ({self.context.renderer}): ask for smaller pictures or fewer at "
                    "once, or choose another driver"
                )


_renderer: Renderer | None = None


def renderer() -> Renderer:
    """This process's renderer, made at the first call."""
    global _renderer
    context = open_context()
    if _renderer is None or _renderer.context is not context:
        _renderer = Renderer(context)
    return _renderer
