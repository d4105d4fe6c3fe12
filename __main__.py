"""The command `dreamdrive`: the scripts under one name, from any folder.

dreamdrive record --env carracing-fast --rollouts 200      as python data/generation_script.py ...
dreamdrive vae --dataset datasets/carracing                as python trainvae.py ...
dreamdrive test --logdir carracing                         as python test_controller.py ...
"""

import importlib
import sys

from dreamdrive import __version__

COMMANDS = {
    "record": ("data.generation_script", "stage 1: record episodes of a world as a dataset"),
    "vae": ("trainvae", "stage 2: train V on the frames"),
    "mdrnn": ("trainmdrnn", "stage 3: train M on the latents"),
    "controller": ("traincontroller", "stage 4a: evolve a controller, in the dream or in the simulator"),
    "bc": ("trainbc", "stage 4b: clone an expert, and go on in the dream"),
    "test": ("test_controller", "stage 5: score a driver in the simulator or in the dream, or watch it"),
    "data": ("data.shards", "what a dataset is, and whether every byte of it is as it was written"),
    "scenes": ("envs.nocturne.__main__", "traffic scenes: index, check, show"),
    "doctor": ("utils.doctor", "what this machine has and lacks"),
}


def main() -> None:
    """Call the script that the first word names with the words after it."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--version", "-V"):
        print(f"dreamdrive {__version__}")
    elif name in COMMANDS:
        sys.argv = [f"dreamdrive {name}", *sys.argv[2:]]
        from dreamdrive.utils import cli

        cli.run(importlib.import_module(f"dreamdrive.{COMMANDS[name][0]}").main)
    elif name in ("--help", "-h"):
        print(usage())
    else:
        sys.exit(f'error: there is no command "{name}": dreamdrive --help lists them')


def usage() -> str:
    lines = [f"    {name:<12}{what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        ["usage: dreamdrive COMMAND [flags]; `dreamdrive COMMAND --help` lists a command's flags", "", *lines]
    )


if __name__ == "__main__":
    main()
