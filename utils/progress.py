"""How far a long work has come: bars in a terminal; elsewhere, as in a log, a line every 30 seconds; nothing with
--quiet.

    with Bar(total=1000, desc="latents", unit="frame") as bar:
        bar.update(64)

A Bar is a tqdm. One that is opened while another is open takes its line until it is done, so that no cursor is moved
up, and leaves nothing there.
"""

import os
import sys
import time
from typing import Any

from tqdm import tqdm

from dreamdrive.utils.settings import QUIET
from dreamdrive.utils.words import duration

EVERY = 30.0  # seconds between two lines where there is no terminal


class Bar(tqdm):
    """What is done, of `total` units, for people to see.

    Attributes:
        lines: whether it is told in lines, because nobody sees a bar
        disable: whether it is not shown
        said: when the last line of any bar was written, by time.monotonic
    """

    disable: bool
    said = time.monotonic()

    def __init__(self, *arguments: Any, disable: bool = False, leave: bool = True, **how: Any) -> None:
        self.lines = not in_terminal()
        nested = len(type(self)._instances) > 1  # itself and another
        how = {"dynamic_ncols": True, "position": 0, **how}
        super().__init__(*arguments, disable=disable or QUIET in os.environ, leave=leave and not nested, **how)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if not self.lines:
            super().display(msg, pos)
        elif self.n and time.monotonic() - Bar.said >= EVERY:
            Bar.said = time.monotonic()
            print(self.line(), file=self.fp, flush=True)

    def clear(self, nolock: bool = False) -> None:
        if not self.lines:
            super().clear(nolock)

    def close(self) -> None:
        if self.lines and not self.disable:
            self.disable = True
            self._decr_instances(self)
        super().close()

    def line(self) -> str:
        """What is done, how fast, how long the rest takes, and what else is known, e.g. "epoch 2 of 30: 40 %, 4,000 of
        10,000 frames, 400 a second, 15 s left, loss=21.3"."""
        known = self.format_dict
        done, total, unit, rate = known["n"], known["total"], known["unit"], known["rate"]
        rate = rate or done / max(known["elapsed"], 1e-9)
        share = f"{100 * done / total:.0f} %, {done:,.0f} of {total:,.0f}" if total else f"{done:,.0f}"
        parts = [f"{share} {unit}s"]
        if rate:
            parts.append(f"{rate:,.0f} a second" if rate >= 1 else f"{duration(1 / rate)} each")
        if rate and total and total > done:
            parts.append(f"{duration((total - done) / rate)} left")
        parts += [known["postfix"]] if known["postfix"] else []
        return (f"{known['prefix'].removesuffix(': ')}: " if known["prefix"] else "") + ", ".join(parts)


def in_terminal() -> bool:
    """Whether there is a terminal to draw bars in, whose width is known."""
    return (
        sys.stderr.isatty()
        and os.environ.get("TERM") != "dumb"
        and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    )
