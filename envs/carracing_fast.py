"""CarRacing's official physics, track, rewards and ends, with frames drawn by us, all copies together
(envs/carracing_picture.py)."""

from dataclasses import replace
from typing import Any

import torch

from dreamdrive.envs.carracing import CarRacing


class CarRacingFast(CarRacing):
    """`num` CarRacing-v3 that differ from "carracing" in a few grey levels of their frames, and in speed. Copies with
    the same seed share their track's texture."""

    STANDS_FOR = "carracing"

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

    def look_away(self) -> None:
        self._seen = False

    def _start(self, copy: int, seed: int) -> Any:
        observation = super()._start(copy, seed)
        self._track[copy] = seed
        if self._seen and seed not in self._slot:
            self._slot[seed] = self._free_slot()
            self._picture.track_texture(self._environments[copy].unwrapped, self._textures[self._slot[seed]])
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
        self._show(copies, self._picture.draw(self._textures, slots, poses[:, :3], poses[:, 3], poses[:, 4]))
