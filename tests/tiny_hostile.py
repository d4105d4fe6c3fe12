"""What tests let a process of its own do, see utils/sandbox.py."""

import os
import signal
from pathlib import Path

from dreamdrive.utils.errors import UserError


def dies(how: str) -> None:
    """What a hostile file does to whoever reads it."""
    if how == "memory":
        bytearray(1 << 40)
    if how == "a little memory after the other":
        kept = []
        while True:
            kept.append(bytearray(1 << 24))
    if how == "time":
        while True:
            pass
    if how.startswith("a write to "):
        Path(how.removeprefix("a write to ")).write_text("x")
    if how == "a status":
        os._exit(3)
    if how == "an exception":
        raise LookupError("there is nothing")
    if how == "a sentence":
        raise UserError("do something else")
    os.kill(os.getpid(), getattr(signal, how))


def len_of(values: list) -> int:
    return len(values)
