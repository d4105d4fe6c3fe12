"""CarRacing's frames drawn by us, those of many copies at once: each track painted once as a texture, looked up through
the camera, the car on top. A texel says of which piece of road it is, too: these change their colour where a car comes,
which each copy takes from what is painted.

The official simulator draws a window of 1000 x 800 pixels, scales it to 96 x 96, and stage 1 crops and scales that to
64 x 64. All of this is linear but for rounding, so a frame's pixel is the mean of the window over 15.6 x 10.9 pixels:
that is what textures and sprites are filtered for (tests/test_carracing_fast.py says how close they come).
"""

from functools import lru_cache
from typing import Any

import numpy as np
import pygame
import torch
from gymnasium.envs.box2d import car_dynamics
from gymnasium.envs.box2d import car_racing as official
from PIL import Image
from torch import Tensor

from dreamdrive.envs.carracing import FRAME, PICTURE_ROWS
from dreamdrive.envs.carracing_simulator import grass_patches
from dreamdrive.utils.errors import UserError

# a frame's pixel, in pixels of the window
PIXEL_W, PIXEL_H = official.WINDOW_W / FRAME, official.WINDOW_H * PICTURE_ROWS / official.STATE_H / FRAME
# where the window shows the car, from its lower left corner
CAR_X, CAR_Y = official.WINDOW_W / 2, official.WINDOW_H / 4
FULL_ZOOM = official.ZOOM * official.SCALE  # window pixels a unit of length, after the first second
TEXEL = 0.4  # units of length; a frame's pixel is 0.96 x 0.68
FINE = 2  # pixels a texel is painted with, each way
MARGIN = 1  # pixels around the texels: see `paint`
LEVELS = 5  # of the texture, each half as fine as the one before: the first second is seen from high above
SIDE = 1760  # texels, so that the outermost ones of every level are black
REACH = SIDE * TEXEL / 2
SIZES = [SIDE >> level for level in range(LEVELS)]
STARTS = [sum(size**2 for size in SIZES[:level]) for level in range(LEVELS)]  # of the levels in a texture (N,)
TEXELS = sum(size**2 for size in SIZES)
ALIGNED = 1 << (LEVELS - 1)
AT_ONCE = 64  # frames drawn together: their coordinates stay in the processor's cache
# A texel is an int32 of four bytes: the number of its piece of road, red, green, blue. The number's ninth bit is red's
# lowest, and where the other eight are 0, the texel is of no piece.
PIECES = 512
NINTH = 256

# The car, in frame pixels around the place it is always at
ROWS, COLUMNS = slice(49, 61), slice(29, 35)
SUPERSAMPLES = 12
ANGLES = torch.linspace(-0.42, 0.42, 43)  # of the front wheels, once the camera is down
PHASES = 8  # of the wheels' white stripe, of which the mean is drawn
ZOOM_STEPS = official.FPS  # steps the camera takes to come down


def zoom(t: Tensor) -> Tensor:
    """Window pixels a unit of length, at `t` seconds after the reset."""
    return 0.1 * official.SCALE * (1 - t).clamp_min(0) + FULL_ZOOM * t.clamp_max(1)


@lru_cache(maxsize=1)
def shades() -> np.ndarray:
    """(256,) uint8: what becomes of a uniform shade when pygame scales the window down; it loses up to 2 of 255."""
    found = []
    for shade in range(256):
        window = pygame.Surface((official.WINDOW_W, official.WINDOW_H))
        window.fill((shade, shade, shade))
        found.append(
            pygame.surfarray.array3d(pygame.transform.smoothscale(window.subsurface((0, 0, 250, 200)), (24, 24)))[
                12, 12, 0
            ]
        )
    return np.array(found, np.uint8)


def numbers(pieces: int) -> np.ndarray:
    """The number of each piece of road, (pieces,) int32; UserError where there are too many to be told apart."""
    index = np.arange(pieces, dtype=np.int32)
    found = 1 + index % 255 + index // 255 * NINTH
    if pieces and found[-1] >= PIECES:
        raise UserError(f"carracing-fast draws tracks of up to {2 * 255} pieces of road, not {pieces}: use carracing")
    return found


def packed(colours: np.ndarray) -> np.ndarray:
    """Colours (n, 3) of a simulator, as scaling the window leaves them, in the bytes of a texel, (n,) int32."""
    red, green, blue = shades()[colours.astype(int)].astype(np.uint32).T
    return (red << 8 | green << 16 | blue << 24).view(np.int32)


def numbered(texels: Any, number: Any) -> Any:
    """Texels of pieces of road with their numbers, int32."""
    return texels & ~(2 * NINTH - 1) | number


def number_texels(polygons: list, corner: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Which piece of road the texels are of, (h, w) int32, in the part of the texture that begins at texel `corner` (x,
    y): polygons [(points, number), ...], 0 for what covers the road and is none."""
    surface = pygame.Surface(tuple(size), depth=32)
    for points, number in polygons:
        place = (np.asarray(points, float) + REACH) / TEXEL - corner
        pygame.draw.polygon(surface, (0, number >> 8, number & 255), place - 0.5)
    return (pygame.surfarray.pixels2d(surface).T & 0xFFFF).astype(np.int32)


def paint(polygons: list, corner: tuple[int, int], size: tuple[int, int], ground: pygame.Surface) -> np.ndarray:
    """Polygons [(points, colour), ...] painted on `ground`, and filtered: texels (h, w, 4) uint8, RGB and nothing, of
    the part of the texture that begins at texel `corner` (x, y). Colours are painted as scaling the window would have
    left them, and red for blue: a surface keeps its bytes in the order BGR.

    A texel is the mean of 4 x 4 painted pixels, a margin around its own 2 x 2: pairs are averaged first, and then
    neighbouring pairs.
    """
    for points, colour in polygons:
        place = (np.asarray(points, float) + REACH) * (FINE / TEXEL) - FINE * np.array(corner) + MARGIN
        pygame.draw.polygon(ground, [int(shades()[int(c)]) for c in colour][::-1], place - 0.5)
    pixels = (
        np.ascontiguousarray(pygame.surfarray.pixels2d(ground).T)
        .view(np.uint8)
        .reshape(*reversed(ground.get_size()), 4)
    )
    pairs = np.asarray(Image.fromarray(pixels, "RGBX").reduce(FINE)).astype(np.uint16)
    rows = pairs[1:] + pairs[:-1]
    return ((rows[:, 1:] + rows[:, :-1] + 2) >> 2).astype(np.uint8)


def canvas(size: tuple[int, int]) -> tuple[int, int]:
    """Pixels (w, h) to paint `size` texels (w, h) on."""
    return FINE * size[0] + 2 * MARGIN, FINE * size[1] + 2 * MARGIN


def pyramid(texels: np.ndarray) -> list[Tensor]:
    """Texels (h, w, 4) uint8 of `paint` at every level: (h, w) int32, each of no piece."""
    found = [Image.fromarray(texels, "RGBX")]
    while len(found) < LEVELS:
        found.append(found[-1].reduce(2))
    return [torch.from_numpy(np.array(level).view(np.int32)[..., 0]) << 8 for level in found]


@lru_cache(maxsize=1)
def playfield(colour: tuple[int, ...]) -> tuple[Tensor, pygame.Surface]:
    """The field without a track, grass of that colour between its lighter squares: texture (N,) int32, and as
    painted."""
    surface = pygame.Surface(canvas((SIDE, SIDE)), depth=32)
    end = official.PLAYFIELD
    field = [
        ([(end, end), (end, -end), (-end, -end), (-end, end)], colour),
        *((patch, (102, 230, 102)) for patch in grass_patches()),
    ]
    return torch.cat([level.flatten() for level in pyramid(paint(field, (0, 0), (SIDE, SIDE), surface))]), surface


def track_texture(simulator: official.CarRacing, out: Tensor) -> None:
    """Paint a simulator's track into out (N,) int32."""
    empty, field = playfield(tuple(simulator.bg_color.tolist()))
    out.copy_(empty)
    points = np.array([polygon for polygon, _ in simulator.road_poly])  # (M, 4, 2)
    texel = (points.reshape(-1, 2) + REACH) / TEXEL
    low = np.maximum(np.floor(texel.min(0)).astype(int) - 2, 0) // ALIGNED * ALIGNED
    high = np.minimum(-(-(np.ceil(texel.max(0)).astype(int) + 2) // ALIGNED) * ALIGNED, SIDE)
    ground = field.subsurface((*(FINE * low), *canvas(high - low))).copy()
    road: Any = simulator.road
    number = dict(zip((id(tile.color) for tile in road), numbers(len(road)), strict=True))
    pieces = [(polygon, int(number.get(id(colour), 0))) for polygon, colour in simulator.road_poly]
    piece = torch.from_numpy(number_texels(pieces, low, high - low))
    for level, texels in enumerate(pyramid(paint(simulator.road_poly, low, high - low, ground))):
        whole = out[STARTS[level] : STARTS[level] + SIZES[level] ** 2].view(SIZES[level], SIZES[level])
        x, y = low >> level
        step = 1 << level
        mine = piece[step >> 1 :: step, step >> 1 :: step]
        whole[y : y + texels.shape[0], x : x + texels.shape[1]] = torch.where(mine > 0, numbered(texels, mine), texels)


@lru_cache(maxsize=1)
def car_sprites() -> Tensor:
    """(sprite, row, column, RGB premultiplied by the share of the pixel the car covers, and that share): one for each
    step of the camera's way down, where the front wheels are too small to show, then one for each of ANGLES."""
    coming_down = [_car_sprite(float(zoom(torch.tensor(step / official.FPS))), 0.0) for step in range(ZOOM_STEPS)]
    return torch.from_numpy(
        np.array(coming_down + [_car_sprite(FULL_ZOOM, float(angle)) for angle in ANGLES], np.float32)
    )


def _car_sprite(scale: float, angle: float) -> np.ndarray:
    size = car_dynamics.SIZE
    shape = ((COLUMNS.stop - COLUMNS.start) * SUPERSAMPLES, (ROWS.stop - ROWS.start) * SUPERSAMPLES)
    total = np.zeros((ROWS.stop - ROWS.start, COLUMNS.stop - COLUMNS.start, 4))

    def draw(surface: pygame.Surface, colour: tuple, points: np.ndarray) -> None:
        column = (CAR_X + points[:, 0] * scale) / PIXEL_W - COLUMNS.start
        row = (official.WINDOW_H - CAR_Y - points[:, 1] * scale) / PIXEL_H - ROWS.start
        pygame.draw.polygon(surface, colour, np.stack([column, row], 1) * SUPERSAMPLES - 0.5)

    for phase in np.arange(PHASES) * 2 * np.pi / PHASES:
        surface = pygame.Surface(shape)
        surface.fill((1, 2, 3))  # no colour of the car's
        for x, y in car_dynamics.WHEELPOS:
            turn = angle if y > 0 else 0.0
            rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
            w, r = car_dynamics.WHEEL_W * size, car_dynamics.WHEEL_R * size
            parts = [((0, 0, 0), r, -r), *(((77, 77, 77), r * a, r * b) for a, b in [_stripe(phase)] if a != b)]
            for colour, front, back in parts:
                draw(
                    surface,
                    colour,
                    np.array([(-w, front), (w, front), (w, back), (-w, back)]) @ rotation + np.array([x, y]) * size,
                )
        for polygon in (
            car_dynamics.HULL_POLY1,
            car_dynamics.HULL_POLY2,
            car_dynamics.HULL_POLY3,
            car_dynamics.HULL_POLY4,
        ):
            draw(surface, (204, 0, 0), np.array(polygon) * size)
        pixels = pygame.surfarray.array3d(surface).swapaxes(0, 1)
        covered = (pixels != (1, 2, 3)).any(-1, keepdims=True)
        both = np.concatenate([shades()[pixels] * covered, covered], -1)
        total += both.reshape(total.shape[0], SUPERSAMPLES, total.shape[1], SUPERSAMPLES, 4).mean((1, 3))
    return total / PHASES


def _stripe(phase: float) -> tuple[float, float]:
    """Where a wheel shows its white stripe, as shares of its radius; the same twice if it does not."""
    s1, s2, c1, c2 = np.sin(phase), np.sin(phase + 1.2), np.cos(phase), np.cos(phase + 1.2)
    if s1 > 0 and s2 > 0:
        return 0.0, 0.0
    return (np.sign(c1) if s1 > 0 else c1), (np.sign(c2) if s2 > 0 else c2)


def draw(textures: Tensor, texture: Tensor, lost: Tensor, pose: Tensor, t: Tensor, steering: Tensor) -> Tensor:
    """Frames uint8 (B, 64, 64, 3).

    Args:
        textures: (T, N) int32, of `track_texture`
        texture: (B,) int64, which of them each copy drives on
        lost: (B, PIECES) int32, what is to be taken from the texels of each piece of road
        pose: (B, 3) float32, x, y and angle of the hull
        t: (B,) float32, seconds since the reset
        steering: (B,) float32, angle of the front wheels against the hull
    """
    return torch.cat(
        [
            _draw(textures, *parts)
            for parts in zip(*(x.split(AT_ONCE) for x in (texture, lost, pose, t, steering)), strict=True)
        ]
    )


def _draw(textures: Tensor, texture: Tensor, lost: Tensor, pose: Tensor, t: Tensor, steering: Tensor) -> Tensor:
    where = textures.device
    scale = zoom(t)
    level = torch.log2(FULL_ZOOM / scale).round().long().clamp(0, LEVELS - 1)
    size, start = torch.tensor(SIZES, dtype=torch.int32, device=where)[level], torch.tensor(STARTS, device=where)[level]
    texels = 1 / (TEXEL * 2.0**level)  # a unit of length
    right = (torch.arange(FRAME, device=where) + 0.5) * PIXEL_W - CAR_X  # window pixels from the car
    up = official.WINDOW_H - CAR_Y - (torch.arange(FRAME, device=where) + 0.5) * PIXEL_H
    cos, sin = pose[:, 2].cos() * texels / scale, pose[:, 2].sin() * texels / scale
    at_x, at_y = (pose[:, 0] + REACH) * texels, (pose[:, 1] + REACH) * texels
    last = (size - 1).float()[:, None, None]
    x = (at_x[:, None] + cos[:, None] * right)[:, None, :] - (sin[:, None] * up)[:, :, None]
    y = (at_y[:, None] + sin[:, None] * right)[:, None, :] + (cos[:, None] * up)[:, :, None]
    x = torch.minimum(x.clamp_min_(0), last).int()
    y = torch.minimum(y.clamp_min_(0), last).int()
    first = texture * textures.shape[1] + start
    copy = torch.arange(len(pose), dtype=torch.int32, device=where)
    index = y.mul_(size[:, None, None]).add_(x)  # (B, FRAME, FRAME), of a pixel in its level
    # a third of the time where it fits
    index = index.add_(first.int()[:, None, None]) if textures.numel() < 2**31 else index + first[:, None, None]
    pixels = textures.view(-1).index_select(0, index.view(-1)).view(len(pose), -1)
    piece = (pixels & PIECES - 1).add_(PIECES * copy[:, None])
    pixels -= lost.view(-1).index_select(0, piece.view(-1)).view_as(pixels)
    frames = pixels.view(torch.uint8).view(len(pose), FRAME, FRAME, 4)[..., 1:].contiguous()

    sprites = car_sprites().to(where)
    step = (t * official.FPS).round().long()
    angle = ((steering - ANGLES[0]) / (ANGLES[1] - ANGLES[0])).round().long().clamp(0, len(ANGLES) - 1)
    sprite = sprites[torch.where(step < ZOOM_STEPS, step, ZOOM_STEPS + angle)]  # (B, h, w, 4)
    under = frames[:, ROWS, COLUMNS].float()
    frames[:, ROWS, COLUMNS] = (under * (1 - sprite[..., 3:]) + sprite[..., :3]).round().to(torch.uint8)
    return frames
