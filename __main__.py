"""The command `dreamdrive`: the scripts under one name, from any folder.

dreamdrive record --env carracing-fast --rollouts 200      as python data/generation_script.py ...
dreamdrive vae --dataset datasets/carracing                as python trainvae.py ...
dreamdrive test --logdir carracing                         as python test_controller.py ...
"""

import importlib
import sys
from dataclasses import dataclass

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive import __version__


@dataclass(frozen=True)
class Command:
    """A word after `dreamdrive`.

    Fields:
        module: of the package, whose `main` it is
        help: a line on what it does
        words: that `main` is to see in its place
    """

    module: str
    help: str
    words: tuple[str, ...] = ()


COMMANDS = {
    "record": Command("data.generation_script", "stage 1: record episodes of a world as a dataset"),
    "vae": Command("trainvae", "stage 2: train V on the frames"),
    "mdrnn": Command("trainmdrnn", "stage 3: train M on the latents"),
    "controller": Command("traincontroller", "stage 4a: train a controller, in the dream or in the simulator"),
    "bc": Command("trainbc", "stage 4b: clone an expert, and improve the clone in the dream"),
    "teach": Command("trainbc", "stage 4b by hand: teach a clone in the browser", ("--teacher",)),
    "train": Command("train", "all stages in rounds, each on what the driver of the one before recorded"),
    "test": Command("test_controller", "stage 5: score a driver in the simulator or in the dream, or watch it"),
    "play": Command("play", "watch or drive, in the simulator, in the dream or through what was recorded"),
    "report": Command("pages.report", "a run as one HTML page: lineage, settings, curves, dreams, films, scores"),
    "compare": Command("pages.compare", "runs beside each other: scores paired by seed, curves, flags that differ"),
    "data page": Command("pages.dataset", "a dataset as a folder of HTML: episodes, films, plots"),
    "data verify": Command("driving.repair", "whether every byte of a dataset is as it was written; --repair"),
    "data": Command("data.shards", "info, split: what a dataset is, and another share of it for validation"),
    "scenes": Command("envs.scenes", "show, check: traffic scenes"),
    "scenes synthetic": Command("envs.synthetic_scenes", "make traffic scenes"),
    "export": Command(
        "data.exchange", "run: a run in half precision, to hand on; minari, pairs: a dataset", ("export",)
    ),
    "export web": Command("web.export", "the dream of a run as one page that drives in a browser"),
    "import": Command(
        "data.exchange", "npz, ncps, minari, scenarionet, checkpoint: others' rollouts, scenes, models", ("import",)
    ),
    "doctor": Command("utils.doctor", "what this machine has and lacks"),
}


def main() -> None:
    """Call the script that the first words name with the words after them."""
    given = sys.argv[1:] or ["--help"]
    name = next((name for name in (" ".join(given[:2]), given[0]) if name in COMMANDS), None)
    if given[0] in ("--version", "-V") or (name and given[-1] == "--version"):
        print(f"dreamdrive {__version__}")
    elif given[0] in ("--help", "-h"):
        print(usage())
    elif name is None:
        sys.exit(f'error: there is no command "{given[0]}": dreamdrive --help lists them')
    else:
        call(name, given[len(name.split()) :])


def call(name: str, words: list[str]) -> None:
    """The command `name` with the words after it, as if it had been started as a script."""
    command = COMMANDS[name]
    shown = "dreamdrive" if command.words == (name,) else f"dreamdrive {name}"  # in --help and in errors
    sys.argv = [shown, *command.words, *words]
    script = importlib.import_module(f"dreamdrive.{command.module}")
    if name == "doctor":  # does without what may be missing
        sys.exit(script.main())
    from dreamdrive.utils.script import run

    run(script.main, in_ranks=name in ("vae", "mdrnn"))


def usage() -> str:
    lines = [f"    {name:<18}{command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: dreamdrive COMMAND [flags]; `dreamdrive COMMAND --help` lists a command's flags", "", *lines]
    )


if __name__ == "__main__":
    main()
