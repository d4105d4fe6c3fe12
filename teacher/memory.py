"""All samples so far, and batches drawn from them. A sample is what the clone saw and the action that was taken
then."""

import zlib

import numpy as np
import torch
from torch import Tensor

WINDOW = 8  # steps that a clone which remembers is trained to look back through


class VectorMemory:
    """Samples of a clone that sees numbers or latents, (F,) float32."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []
        self._action: list[np.ndarray] = []

    def __len__(self) -> int:
        """Samples to learn from."""
        return len(self.seen)

    def add(self, seen: np.ndarray, action: np.ndarray, learnt: bool, begins: bool) -> None:
        """A sample; action (A,) as a vector. One that is not to be `learnt` from is not kept. `begins`: it is the first
        of its episode."""
        if learnt:
            self.seen.append(seen)
            self._action.append(action)

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        """(B, F) and (B, A), drawn from all."""
        chosen = rng.integers(len(self), size=size)
        seen, action = (torch.from_numpy(np.stack([values[i] for i in chosen])) for values in (self.seen, self._action))
        return seen, action


class FrameMemory:
    """Samples of a clone that sees frames, kept compressed: an hour of play is 100,000 of them."""

    def __init__(self, shape: tuple[int, int, int], window: int) -> None:
        """Frames (H, W, C); batches of windows of so many steps."""
        self._shape, self._window = shape, window
        self._frames: list[bytes] = []
        self._action: list[np.ndarray] = []
        self._learnt: list[int] = []  # the samples to learn from
        self._is_learnt: list[bool] = []
        self._start: list[int] = []  # of each sample's episode

    def __len__(self) -> int:
        return len(self._learnt)

    def add(self, seen: np.ndarray, action: np.ndarray, learnt: bool, begins: bool) -> None:
        """As `VectorMemory.add`, with frames (H, W, C) uint8; the others are kept too, to be looked back at."""
        if learnt:
            self._learnt.append(len(self._frames))
        self._start.append(len(self._frames) if begins else self._start[-1])
        self._frames.append(zlib.compress(np.ascontiguousarray(seen).tobytes(), 1))
        self._action.append(action)
        self._is_learnt.append(learnt)

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Frames (B, T, H, W, C), actions (B, T, A), and which steps count (B, T): windows that end with samples drawn
        from all, B * T = size or a little less."""
        windows = max(1, size // self._window)
        frames = np.zeros((windows, self._window, *self._shape), np.uint8)
        action = np.zeros((windows, self._window, len(self._action[0])), np.float32)
        counts = np.zeros((windows, self._window), bool)
        for row, i in enumerate(rng.integers(len(self), size=windows)):
            last = self._learnt[i]
            first = max(self._start[last], last - self._window + 1)
            for t, j in enumerate(range(first, last + 1)):
                frames[row, t] = np.frombuffer(zlib.decompress(self._frames[j]), np.uint8).reshape(self._shape)
                action[row, t], counts[row, t] = self._action[j], self._is_learnt[j]
        return torch.from_numpy(frames), torch.from_numpy(action), torch.from_numpy(counts)
