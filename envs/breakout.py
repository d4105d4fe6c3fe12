"""A driver for Atari Breakout that reads ball and paddle from the console's memory: it works out where the ball comes
down, and has the paddle there in time.

What the bytes mean, and how ball and paddle move, was measured on the emulator, where it holds in every frame
(tests/test_atari.py). In pixels:

    70         the paddle's knob: its left end is wanted at KNOB - this        72         the paddle's left end
    76, 77     the score, a decimal digit to every four bits
    99, 100    the ball from the left, and 256ths: it flies between WALLS      101, 102   from above; 0 where there is
    no ball
    105, 106   what a frame takes from the former                              103, 104   what it adds to the latter

A pressed key turns the knob by some 5.7 pixels a frame, and in each frame the paddle goes half of the way to where it
is wanted. So a key held for the four frames of a step moves it by 23 pixels, more than its width of 16: it can rest in
some places only, and what lies between them is met in motion. Hence the driver tries out what the next steps can bring.
"""

from itertools import product

import numpy as np

# places in the memory
KNOB_AT, PADDLE, SCORE, BALL_X, BALL_Y, SPEED_Y, SPEED_X = 70, 72, slice(76, 78), 99, 101, 103, 105
ALL = bytes((0x08, 0x64))  # points there are in a game: two walls of 432
KNOB = 234
LEFTMOST, RIGHTMOST = 55, 191  # of the paddle's left end
TURN = 5.73  # pixels
WALLS = (57.0, 200.0)
TOP, BOTTOM = 177.0, 182.0  # of the paddle
MIDDLE = 8.5  # of the paddle, from its left end; a ball within 7.5 of it comes back
SAFE = 5.0  # pixels from the middle; what is beyond costs more
STILL, FIRE, RIGHT, LEFT = 0, 1, 2, 3  # actions, as the game numbers them
FRAMES = 4  # a step
PLANNED = 4  # steps that are tried out; nothing is pressed after them
SETTLED = 28  # frames, after which the paddle rests
FURTHEST = 160  # frames looked ahead: no ball takes as long to come down
RISING, NEAR = 16, 24.0  # frames, pixels: below a ball that rises the paddle is to be as near, as soon
GOLDEN = (5**0.5 - 1) / 2
FAR = 4.0  # pixels from the paddle's middle
STUCK = 4  # returns without a brick
DARING, KEEN = 6.5, 6.0  # then: pixels that are safe enough, and what missing the aim by a pixel costs


class Driver:
    """Plays one game.

    Where the ball meets the paddle decides its way up. As long as bricks fall, that is the middle; a ball that comes
    back without having met one is sent off elsewhere, each time, lest it go round for ever. If that does not help, the
    paddle is driven to an end while the ball rises, which changes the places where it can rest. When all points are
    made, the ball is let go: the game would not end otherwise.
    """

    def __init__(self) -> None:
        self._moves = np.array(list(product((0, 1, -1), repeat=PLANNED)))  # (N, PLANNED), the idle ones first
        self._turns = np.zeros((SETTLED, len(self._moves)))
        self._turns[: PLANNED * FRAMES] = np.repeat(self._moves.T, FRAMES, 0) * TURN
        self._effort = 0.5 * np.abs(self._moves).sum(1)
        self._score, self._falling, self._returns = b"", False, 0

    def action(self, memory: np.ndarray) -> int:
        """What to press, given the memory, uint8 (128,)."""
        x, y, speed_x, speed_y = ball(memory)
        self._count(memory[SCORE].tobytes(), y, speed_y)
        if y < 1 or memory[SCORE].tobytes() == ALL:
            return FIRE
        stuck = self._returns >= STUCK
        if speed_y <= 0 and stuck and self._returns % 3:
            return (RIGHT, LEFT)[self._returns % 3 - 1]
        path = self._fall(x, y, speed_x, speed_y) if speed_y > 0 else [(RISING, x)]
        ends = self._ends(int(memory[PADDLE]), KNOB - int(memory[KNOB_AT]), path[-1][0])
        # (frames, N): on the paddle, from its middle
        places = np.stack([where - ends[frame] for frame, where in path]) - MIDDLE
        if speed_y > 0:
            aim = ((0.5 + self._returns * GOLDEN) % 1 - 0.5) * 2 * FAR
            cost = (KEEN if stuck else 1) * np.abs(places - (np.copysign(FAR, aim) if stuck else aim)) + np.arange(
                len(path)
            )[:, None]
            cost += 10 * np.maximum(np.abs(places) - (DARING if stuck else SAFE), 0)
        else:
            cost = np.maximum(np.abs(places) - NEAR, 0)
        return (STILL, RIGHT, LEFT)[self._moves[(cost.min(0) + self._effort).argmin(), 0]]

    def _count(self, score: bytes, y: float, speed_y: float) -> None:
        """Count how often the ball has come back from the paddle since a brick fell."""
        falling = y >= 1 and speed_y > 0
        if score != self._score or y < 1:
            self._returns = 0
        elif self._falling and not falling and y > TOP - 30:
            self._returns += 1
        self._score, self._falling = score, falling

    def _fall(self, x: float, y: float, speed_x: float, speed_y: float) -> list[tuple[int, float]]:
        """(frame, where the ball is from the left) of the coming frames in which a falling ball is level with the
        paddle."""
        path, frame = [], 0
        while y < BOTTOM and frame < FURTHEST:
            x, y, frame = x + speed_x, y + speed_y, frame + 1
            speed_x = abs(speed_x) if x < WALLS[0] else -abs(speed_x) if x >= WALLS[1] else speed_x
            if y >= TOP:
                path.append((frame, x))
        return path or [(1, x)]

    def _ends(self, end: float, wanted: float, frames: int) -> np.ndarray:
        """(frames + 1, N): where the paddle's left end is now and in the coming frames of each sequence of moves."""
        ends, target = np.full((frames + 1, len(self._moves)), float(end)), np.full(len(self._moves), float(wanted))
        for k in range(min(frames, SETTLED)):
            ends[k + 1] = np.minimum(np.maximum(np.ceil((ends[k] + target) / 2), LEFTMOST), RIGHTMOST)
            target = target + self._turns[k]
        ends[SETTLED + 1 :] = ends[min(frames, SETTLED)]
        return ends


def ball(memory: np.ndarray) -> tuple[float, float, float, float]:
    """Where the ball is, from the left and from above (below 1 where there is none), and what a frame adds to both;
    pixels."""
    x, y, speed_y, speed_x = (int(memory[k]) + int(memory[k + 1]) / 256 for k in (BALL_X, BALL_Y, SPEED_Y, SPEED_X))
    return x, y, -signed(speed_x), signed(speed_y)


def signed(value: float) -> float:
    """A byte with a fraction, as the number from -128 up to 128 that it stands for."""
    return value - 256 if value >= 128 else value
