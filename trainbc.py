"""Stage 4b: clone the recorded expert, (z, h) -> action, on cached latents, and improve it in the dream; or, without V
and M, numbers -> action of a dataset that holds no pictures, or with --model frames -> action by a network that
remembers.

Reads   exp_dir/vae/best.tar, exp_dir/mdrnn/best.tar
        exp_dir/latents/             and the expert's actions in the datasets
Writes  exp_dir/bc/best.tar          highest mean return in the simulator (seeds of the model-selection range)
        exp_dir/bc/checkpoint.tar    to resume from: run the same command again
        exp_dir/bc/metrics.csv, loss.png, args.json
        exp_dir/bc/dream.mp4, dream.png   the clone's dream, below what the expert saw from the same frame on
        exp_dir/bc/distance.png      how far dreams of clone and others are from what experts saw
        exp_dir/bc/dream-and-reality.png   scores in the dream against scores in the simulator
        exp_dir/bc/dagger_000/ ...   by dagger --world simulator: what the clone recorded; the last as driver.tar
        with --name NAME all of it in exp_dir/bc-NAME, beside other clones

    python trainbc.py --logdir exp_dir --hidden 256 --epochs 30
    python trainbc.py ditto --logdir exp_dir --hidden 256 --epochs 30 --dream-epochs 20
    python trainbc.py dagger --logdir exp_dir --name dagger --init exp_dir/bc/best.tar --dream-epochs 20
    python trainbc.py --logdir exp_dir --hidden 256 --dataset datasets/features
    python trainbc.py --logdir exp_dir/breakout --model cfc --dataset datasets/breakout --evaluate-every 1

    python trainbc.py teach --env mountaincar --logdir exp_dir/lesson

The first word says what is done, `trainbc.py dagger --help` what that takes:

    clone    clone experts, which is what is done without a word
    dagger   and then let the clone drift off on its own, add what the expert would do there, and clone all again
    ditto    and then learn by reinforcement in the dream, rewarded for seeing what the expert saw
    teach    serve a web page on which you teach a clone by hand, see teacher/lesson.py; its files are
             exp_dir/bc/taught, snapshots and lesson.png

dagger and ditto begin with the clone of the first --epochs epochs that drove best, or with the one of --init. --method
dagger, --method ditto and --teacher are other spellings of these words. The run itself, epoch by epoch, is
learning/cloning.py, and what each of these words does in an epoch learning/cloning_methods.py.
"""

import sys

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.data.manifest import require_datasets
from dreamdrive.learning.cloning_settings import CloneSettings, DaggerSettings, DittoSettings, ImprovementSettings
from dreamdrive.teacher.lesson_settings import TeachSettings
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import Parser, Training, next_command, parser, refuse_others
from dreamdrive.utils.words import counted

COMMANDS: dict[str, type[Training]] = {
    "clone": CloneSettings,
    "dagger": DaggerSettings,
    "ditto": DittoSettings,
    "teach": TeachSettings,
}
SPELLINGS = {
    "clone": "cloning without --teacher",
    "dagger": "--method dagger",
    "ditto": "--method ditto",
    "teach": "--teacher",
}


def parse_args(argv: list[str] | None = None) -> Training:
    """The settings of a command line, of the kind that its first word or its older spelling names."""
    name, words = command(sys.argv[1:] if argv is None else argv)
    refuse_others(name, words, COMMANDS, SPELLINGS)
    args = COMMANDS[name].parse(words, __doc__)
    try:
        args.check()
    except UserError as error:
        parser("").error(str(error))
    return args


def command(words: list[str]) -> tuple[str, list[str]]:
    """(Name of the command, the words that are left): a first word, or --method or --teacher anywhere."""
    if words and words[0] in COMMANDS:
        return words[0], words[1:]
    p = Parser(add_help=False, allow_abbrev=False)
    p.add_argument("--method", choices=("bc", "dagger", "ditto"))
    p.add_argument("--teacher", action="store_true")
    old, left = p.parse_known_args(words)
    if old.teacher and old.method:
        p.error("--method is for cloning without --teacher: leave it away, or give that")
    return "teach" if old.teacher else {None: "clone", "bc": "clone"}.get(old.method, old.method), left


def main() -> None:
    args = parse_args()
    assert isinstance(args, CloneSettings | TeachSettings), "COMMANDS has no others"
    checkpoint.require_free(args.logdir, args.stage)
    if isinstance(args, TeachSettings):
        from dreamdrive.learning.cloning import STAGE
        from dreamdrive.teacher.lesson import teach

        teach(args, STAGE)
        return
    require_datasets(args.dataset or ())
    if not args.dataset and not args.model:
        checkpoint.require(args.logdir, "vae", "mdrnn")
    if isinstance(args, ImprovementSettings) and args.init:
        checkpoint.require_file(args.init, "bc")
    from dreamdrive.learning.cloning_inputs import clone  # brings torch, after what was wrong has been told

    best = clone(args)
    print(
        f"{checkpoint.path(args.logdir, args.stage)}: mean return {best:.1f} over "
        f"{counted(args.n_samples, 'episode')}; "
        f"next: {next_command('test_controller.py', '--logdir', args.logdir, '--controller', args.stage)}"
    )


if __name__ == "__main__":
    run(main)
