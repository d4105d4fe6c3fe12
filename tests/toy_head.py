"""What a new head takes: this file, and one line in models/catalogue.py. It sees z and the square of every number
in it.

python -m dreamdrive.tests.toy_head trainbc --features squares ...        a script with this head in it
"""

import importlib
import sys

import torch

from dreamdrive.models.catalogue import HEADS
from dreamdrive.models.controller import Controller
from dreamdrive.utils import script


class Squares(Controller):
    @property
    def width(self):
        return 2 * self.config.latent

    def inputs(self, z, h):
        return torch.cat([z, z.square()], -1)


HEADS["squares"] = ("dreamdrive.tests.toy_head", "Squares")  # the one line; here, so that a worker process has it too

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    script.run(importlib.import_module(f"dreamdrive.{sys.argv[0]}").main)
