"""CarRacing's official physics, track, rewards and ends, with frames drawn by us, all copies together
(envs/carracing_picture.py)."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dreamdrive.envs.carracing import CarRacing


class CarRacingFast(CarRacing):
    """`num` CarRacing-v3 that differ from "carracing" in a few grey levels of their frames, and in speed. Copies with
    the same seed share their track's texture."""

    def __init__(self, num: int = 1, device: str | torch.device = "cpu", *arguments, **options):
        super().__init__(
            num, device, *arguments, **options
        )  # says what to install where Box2D or pygame is missing, ...
        from dreamdrive.envs import carracing_picture  # ... which this cannot do without either

        super().look_away()
        self._picture = carracing_picture
        self.spec = replace(self.spec, name="carracing-fast")
        self._seen = True
        self._textures = torch.empty(0, carracing_picture.TEXELS, dtype=torch.int32, device=self.device)
        self._slot: dict[int, int] = {}  # of a seed's texture
        self._track: list[int | None] = [None] * num  # seed of the track each copy drives on
        self._road = [Road() for _ in range(num)]

    def look_away(self) -> None:
        self._seen = False

    def _start(self, copy: int, seed: int) -> Any:
        observation = super()._start(copy, seed)
        self._track[copy] = seed
        if self._seen and seed not in self._slot:
            self._slot[seed] = self._free_slot()
            self._picture.track_texture(self._environments[copy].unwrapped, self._textures[self._slot[seed]])
        if self._seen:
            self._road[copy] = Road(self._environments[copy].unwrapped)
        return observation

    def _free_slot(self) -> int:
        """A place for a texture: one whose track nobody drives on any more, or a new one."""
        unused = set(self._slot) - set(self._track)
        if unused:
            return self._slot.pop(min(unused))
        if len(self._slot) == len(self._textures):
            # On a CPU memory that was never written to costs nothing, so there is room for all at once; on a GPU it
            # grows.
            room = self.num if self.device.type == "cpu" else min(self.num, 2 * len(self._textures) + 1)
            larger = torch.empty(room, self._textures.shape[1], dtype=torch.int32, device=self.device)
            larger[: len(self._textures)] = self._textures
            self._textures = larger
        return len(self._slot)

    def _look(self, copies: list[int], observations: list[Any]) -> None:
        if not copies or not self._seen:
            return
        simulators = [self._environments[copy].unwrapped for copy in copies]
        state = [
            (
                *s.car.hull.position,
                s.car.hull.angle,
                s.t,
                (s.car.wheels[0].joint.angle + s.car.wheels[1].joint.angle) / 2,
            )
            for s in simulators
        ]
        poses = torch.tensor(state, device=self.device)
        tracks = [track for copy in copies if (track := self._track[copy]) is not None]
        slots = torch.tensor([self._slot[track] for track in tracks], device=self.device)
        lost = self._tensor(np.stack([self._road[copy].lost() for copy in copies]))
        self._show(copies, self._picture.draw(self._textures, slots, lost, poses[:, :3], poses[:, 3], poses[:, 4]))


class Road:
    """The colours of a track's pieces of road, which the simulator changes in place where a car comes, against those
    that its texture was painted with."""

    def __init__(self, simulator: Any = None) -> None:
        """Of a simulator that was reset just now; without one, of no track."""
        from dreamdrive.envs.carracing_picture import NINTH, PIECES, numbered, numbers, packed

        tiles = simulator.road if simulator else []
        self._packed, self._lost = packed, np.zeros(PIECES, np.int32)
        self._numbers = numbers(len(tiles))
        self._colours = np.array([tile.color for tile in tiles]).reshape(-1, 3)  # all in one piece: quick to look at
        if simulator:
            mine = {id(tile.color): colour for tile, colour in zip(tiles, self._colours, strict=True)}
            simulator.road_poly = [(points, mine.get(id(colour), colour)) for points, colour in simulator.road_poly]
            for tile, colour in zip(tiles, self._colours, strict=True):
                tile.color = colour
        self._seen = self._colours.copy()
        self._painted = numbered(packed(self._seen), self._numbers & -NINTH)
        self._lost[self._numbers] = self._painted - packed(self._seen)

    def lost(self) -> np.ndarray:
        """By how much what is painted is more than the colours are now, by a piece's number: (PIECES,) int32, in the
        bytes of a texel."""
        if not np.array_equal(self._colours, self._seen):
            changed = np.flatnonzero((self._colours != self._seen).any(1))
            self._seen[changed] = self._colours[changed]
            self._lost[self._numbers[changed]] = self._painted[changed] - self._packed(self._colours[changed])
        return self._lost
