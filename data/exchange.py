"""Import rollouts and checkpoints of ctallec/world-models, the PyTorch pipeline most people come from, the Atari
demonstrations of ncps, datasets of Minari's, and ScenarioNet's traffic; export a dataset as one of Minari's or as
single steps, and a run, small enough to hand on.

    dreamdrive import npz DIR --out datasets/x
    dreamdrive import ncps DIR --out datasets/x
    dreamdrive import minari DIR --out datasets/x
    dreamdrive import scenarionet DIR --out datasets/scenes
    dreamdrive import checkpoint DIR --logdir exp_dir
    dreamdrive export minari DIR --out minari/x-v0
    dreamdrive export pairs DIR --out x.npz
    dreamdrive export run --logdir exp_dir --out runs/mine --card

or `python -m data.exchange import npz ...`. What is read and written: data/npz.py, data/foreign_run.py,
data/minari_import.py and minari_export.py, data/pairs.py, data/halved_run.py; the card is
pages/card.py.
"""

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.models.catalogue import SIZES
from dreamdrive.utils import checkpoint
from dreamdrive.utils.argument_types import controller, share
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.help_text import HelpFormatter
from dreamdrive.utils.locks import being_written, require_free
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import RunFolder, parser
from dreamdrive.utils.words import counted, quoted


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = parser(__doc__)
    commands = p.add_subparsers(dest="command", required=True)
    for command, about in (("import", "what other projects made"), ("export", "what others can use")):
        one = commands.add_parser(command, help=about, formatter_class=HelpFormatter)
        kinds = one.add_subparsers(dest="kind", required=True)
        for name, exchange in EXCHANGES[command].items():
            words = kinds.add_parser(name, help=exchange.help, formatter_class=HelpFormatter)
            exchange.add_flags(words)
            words.set_defaults(call=exchange.call)
    return p.parse_args(spelt_out(sys.argv[1:] if argv is None else argv))


def spelt_out(words: list[str]) -> list[str]:
    """A command line in which import-npz, import-ncps, import-checkpoint and export alone, as they were once called,
    have their names of two words."""
    if words and words[0].startswith("import-"):
        return [*words[0].split("-", 1), *words[1:]]
    if words[:1] == ["export"] and words[1:] and words[1].startswith(("--logdir", "--out")):
        return ["export", "run", *words[1:]]
    return words


@dataclass(frozen=True)
class Exchange:
    """Something to import or to export.

    Fields:
        help: what becomes of what
        add_flags: adds its flags to a parser
        call: does it, and gives what is to be said of it
    """

    help: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    call: Callable[[argparse.Namespace], str]


def npz_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("dir", type=Path, help="folder that holds the rollouts, at any depth")
    p.add_argument("--out", type=Path, required=True, help="folder of the new dataset")
    p.add_argument("--val-fraction", type=share, default=0.1, help="share of the episodes kept for validation")


def call_npz(args: argparse.Namespace) -> str:
    from dreamdrive.data.npz import import_npz  # these bring torch, after what was wrong has been told

    manifest = import_npz(args.dir, args.out, args.val_fraction)
    return (
        f"{args.out}: {len(manifest.episodes)} episodes. The frame of the reset is missing there, so each episode "
        "begins one step later: its first action was dropped, and actions beyond the last frame were cut off."
    )


def ncps_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("dir", type=Path, help="folder that holds train_*.npz and val_*.npz")
    p.add_argument("--out", type=Path, required=True, help="folder of the new dataset")
    p.add_argument("--game", default="Breakout", help="that was played, spelt as in gymnasium")


def call_ncps(args: argparse.Namespace) -> str:
    from dreamdrive.data.npz import import_ncps

    manifest = import_ncps(args.dir, args.out, args.game)
    return (
        f"{args.out}: {len(manifest.episodes)} sequences of {manifest.env}, "
        f"{sum(e.split == 'val' for e in manifest.episodes)} of them for validation. "
        "They hold no rewards, and end where they were cut."
    )


def minari_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("dir", type=Path, help="folder of a dataset of Minari's, e.g. ~/.minari/datasets/mine-v0")
    p.add_argument("--out", type=Path, required=True, help="folder of the new dataset")
    for name, mark in MINARI.items():
        p.add_argument(name, **mark)


def call_minari(args: argparse.Namespace) -> str:
    from dreamdrive.data.minari_import import Wanted, import_minari

    given = {name: getattr(args, name) for name in vars(Wanted()) if getattr(args, name) is not None}
    manifest, notes = import_minari(args.dir, args.out, Wanted(**given))
    found = f"{args.out}: {counted(len(manifest.episodes), 'episode')} of {manifest.env}"
    return f"{found}; {notes}" if notes else found


def minari_out_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("dir", type=Path, help="folder of a dataset")
    p.add_argument("--out", type=Path, required=True, help="folder of the new one, named as Minari does: ...-v0")


def call_minari_out(args: argparse.Namespace) -> str:
    from dreamdrive.data.minari_export import export_minari

    dataset = export_minari(args.dir, args.out)
    root = shlex.quote(str(args.out.resolve().parent))
    return (
        f"{args.out}: {counted(len(dataset.episodes), 'episode')}, pictures as they are; "
        f'MINARI_DATASETS_PATH={root} lets minari.load_dataset("{args.out.name}") find it'
    )


def scenarionet_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("dir", type=Path, help="folder with ScenarioNet's sd_*.pkl, at any depth")
    p.add_argument("--out", type=Path, required=True, help="folder of the scenes, for --scenes")


def call_scenarionet(args: argparse.Namespace) -> str:
    from dreamdrive.envs.nocturne.scenarionet import convert_folder
    from dreamdrive.utils.progress import Bar

    told = list(Bar(convert_folder(args.dir, args.out), desc="converting", unit="scenario"))
    bad = [why for _, why in told if why]
    for why in bad[:10]:
        print(f"passed over: {why}", file=sys.stderr)
    if len(bad) == len(told):
        raise UserError(f"none of {counted(len(bad), 'file')} in {args.dir} could be converted, for the reasons above")
    passed = f"; {counted(len(bad), 'file')} passed over" if bad else ""
    return f"{args.out}: {counted(len(told) - len(bad), 'scene')} in GPUDrive's JSON{passed}"


def pairs_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("dir", type=Path, help="folder of a dataset")
    p.add_argument("--out", type=Path, required=True, help="what to write: x.npz, x.parquet, or x-v0, one of Minari's")


def call_pairs(args: argparse.Namespace) -> str:
    from dreamdrive.data.pairs import export_pairs

    return f"{args.out}: {counted(export_pairs(args.dir, args.out), 'step')} with what was seen before and after"


def checkpoint_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("dir", type=Path, help="that project's --logdir")
    RunFolder.add_flags(p)


def call_checkpoint(args: argparse.Namespace) -> str:
    from dreamdrive.data.foreign_run import import_checkpoint

    stages = import_checkpoint(args.dir, args.logdir)
    return (
        f"{args.logdir}: imported {', '.join(stages)} for gym:CarRacing-v3. Dreams need starting latents, which "
        "they do not hold: train M anew for those."
    )


def run_flags(p: argparse.ArgumentParser) -> None:
    RunFolder.add_flags(p)
    p.add_argument("--out", type=Path, required=True, help="folder of the new run")
    p.add_argument(
        "--controller",
        type=controller,
        nargs="+",
        default=(),
        help="those to be taken along, e.g. ctrl bc-NAME (default: all)",
    )
    p.add_argument(
        "--card", action="store_true", help="and a model card, as Hugging Face's Hub takes it: README.md and a picture"
    )
    p.add_argument("--license", help="that the card names (default: mit)")


def call_run(args: argparse.Namespace) -> str:
    if args.license and not args.card:
        raise UserError("--license is what a card names: give --card, too")
    from dreamdrive.data.halved_run import export

    if args.card:  # brings what draws
        from dreamdrive.pages.card import read_whole, write_card

        found = read_whole(args.logdir, args.out)
    stages = export(args.logdir, args.out, args.controller)
    if args.card:
        write_card(found, args.out, args.license or "mit")
    size = sum(checkpoint.path(args.out, stage).stat().st_size for stage in stages)
    return (
        f"{args.out}: {', '.join(stages)} in half precision, {size / 1e6:.1f} MB; drive it with `python "
        f"test_controller.py --logdir {quoted(args.out)}`"
    )


# what becomes of a dataset that others have made
MINARI: dict[str, dict[str, Any]] = {
    "--env": {"help": "the world, e.g. gym:CartPole-v1 (default: the environment that it names)"},
    "--observation": {"help": "of a Dict: what is to be seen, e.g. image or camera/front"},
    "--resize": {
        "type": int,
        "choices": SIZES,
        "help": "side that pictures are brought to, each pixel the mean of what it covers",
    },
    "--expert": {"action": "store_true", "default": None, "help": "the actions are an expert's, to be cloned"},
    "--val-fraction": {
        "type": share,
        "help": "share of the episodes kept for validation (default: 0.1, or one of fewer)",
    },
}

# By command and name. One of your own is a function that does it, one that adds its flags, and a line here.
EXCHANGES = {
    "import": {
        "npz": Exchange("rollouts to a dataset", npz_flags, call_npz),
        "ncps": Exchange("Atari demonstrations of ncps to a dataset", ncps_flags, call_ncps),
        "minari": Exchange("a dataset of Minari's to a dataset", minari_flags, call_minari),
        "scenarionet": Exchange("scenarios to traffic scenes", scenarionet_flags, call_scenarionet),
        "checkpoint": Exchange("trained models to a run", checkpoint_flags, call_checkpoint),
    },
    "export": {
        "run": Exchange("a run in half precision", run_flags, call_run),
        "minari": Exchange("a dataset to one of Minari's, pictures as they are", minari_out_flags, call_minari_out),
        "pairs": Exchange("a dataset's steps to npz, Parquet or Minari", pairs_flags, call_pairs),
    },
}


def main() -> None:
    args = parse_args()
    if "out" in args and not args.out.is_file():
        require_free(args.out, being_written(args.out))
    print(args.call(args))


if __name__ == "__main__":
    run(main)
