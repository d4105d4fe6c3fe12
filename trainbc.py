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

    python trainbc.py --logdir exp_dir --hidden 256 --epochs 30
    python trainbc.py ditto --logdir exp_dir --hidden 256 --epochs 30 --dream-epochs 20
    python trainbc.py --logdir exp_dir --hidden 256 --dataset datasets/features
    python trainbc.py --logdir exp_dir/breakout --model cfc --dataset datasets/breakout --evaluate-every 1 --n-samples \
        10

    python trainbc.py teach --env mountaincar --logdir exp_dir/lesson

The first word says what is done, `trainbc.py dagger --help` what that takes:

    clone    clone experts, which is what is done without a word
    dagger   and then let the clone drift off on its own, add what the expert would do there, and clone all again
    ditto    and then learn by reinforcement in the dream, rewarded for seeing what the expert saw
    teach    serve a web page on which you teach a clone by hand, see teacher/lesson.py; its files are
             exp_dir/bc/taught, snapshots and lesson.png

dagger and ditto begin with the clone of the first --epochs epochs that drove best. --method dagger, --method ditto and
--teacher are other spellings of these words. The run itself, epoch by epoch, is learning/cloning.py, and what each of
these words does in an epoch learning/cloning_methods.py.
"""

import sys
from dataclasses import asdict
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.data.loaders import check_world, open_datasets, require_validation, world_of
from dreamdrive.data.sequences import FrameSequences
from dreamdrive.data.shards import Dataset
from dreamdrive.data.steps import NumberSteps
from dreamdrive.learning.cloning import STAGE, Cloning
from dreamdrive.learning.cloning_methods import Recorded
from dreamdrive.learning.cloning_settings import CloneSettings, DaggerSettings, DittoSettings
from dreamdrive.learning.dream_report import report
from dreamdrive.learning.imagination import Dreams, Setting
from dreamdrive.models.controller import ControllerConfig
from dreamdrive.models.policy import PolicyConfig
from dreamdrive.models.world_model import load_world_model
from dreamdrive.teacher.lesson import TeachSettings, teach
from dreamdrive.utils import checkpoint
from dreamdrive.utils.device import device
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import Parser, Training, parser, refuse_others, say_inherited
from dreamdrive.utils.tracking import track

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


def parse_args(argv: list[str] | None = None) -> CloneSettings | TeachSettings:
    """The settings of a command line, of the kind that its first word or its older spelling names."""
    name, words = command(sys.argv[1:] if argv is None else argv)
    refuse_others(name, words, COMMANDS, SPELLINGS)
    args = COMMANDS[name].parse(words, __doc__)
    try:
        args.check()
    except UserError as error:
        parser("").error(str(error))
    assert isinstance(args, CloneSettings | TeachSettings), "COMMANDS has no others"
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
    if isinstance(args, TeachSettings):
        teach(args, STAGE)
        return
    datasets = open_datasets(args.dataset) if args.dataset else None
    if args.model:
        best = clone_frames(args, datasets)
    elif datasets and len(world_of(datasets[0])["image_shape"]) == 1:
        best = clone_numbers(args, datasets)
    else:
        best = clone_latents(args, datasets)
    print(
        f"{checkpoint.path(args.logdir, 'bc')}: mean return {best:.1f} over {args.n_samples} episodes; "
        f"next: python test_controller.py --logdir {args.logdir} --controller bc"
    )


def resumed(args: CloneSettings, state: dict | None, folder: Path) -> CloneSettings:
    """The settings with what may not change as it is in `state`, the content of checkpoint.tar."""
    args, inherited = args.resume(state and state["config"])
    say_inherited({folder / "checkpoint.tar": inherited})
    return args


def clone_latents(args: CloneSettings, datasets: list[Dataset] | None) -> float:
    """Clone what V and M see, on `datasets` or those M was trained on; returns the best score in the simulator."""
    where = device(args.device)
    model = load_world_model(args.logdir, where)
    world, parents = model.world, model.parents
    datasets = datasets or open_datasets(checkpoint.load_parent(args.logdir, "mdrnn")["datasets"])
    datasets = [check_world(dataset, world, str(checkpoint.path(args.logdir, "vae"))) for dataset in datasets]
    with checkpoint.stage_folder(args.logdir, "bc") as folder:
        state = checkpoint.resume(args.logdir, "bc", parents, args.noreload)  # before the long work, in case it refuses
        args = resumed(args, state, folder)
        dreams = Dreams(args.logdir, model, datasets, Setting(args.horizon, args.dreams, args.temperature, args.seed))
        steps = {split: latents.steps(args.batch_size) for split, latents in dreams.recorded.items()}
        config = ControllerConfig(
            model.memory.config.latent, model.memory.config.hidden, args.features, args.hidden, world["action_space"]
        )
        recorded = Recorded(datasets, steps["train"], steps["val"], world, parents, dreams)
        cloning = Cloning(args, folder, asdict(config), recorded, state)
        with track(args, folder):
            cloning.run()
            report(folder, args, dreams)
    return cloning.best


def clone_numbers(args: CloneSettings, datasets: list[Dataset]) -> float:
    """Clone what the world's numbers say; returns the best score in the simulator."""
    require_validation(datasets)
    world = world_of(datasets[0])
    for name in ("features", "temperature", "horizon"):
        if args.was_given(name):
            raise UserError(
                f"--{name} {getattr(args, name)} is for latents, and {datasets[0].root} holds numbers, which the clone "
                f"sees as they are: leave --{name} away"
            )
    if args.method != "bc":
        raise UserError(
            f"--method {args.method} dreams, and {datasets[0].root} holds numbers, of which there is no V and no M: "
            "leave --method away"
        )
    with checkpoint.stage_folder(args.logdir, "bc") as folder:
        state = checkpoint.resume(args.logdir, "bc", {}, args.noreload)
        args = resumed(args, state, folder)
        scale = state.get("scale") if state else None
        steps = {"train": NumberSteps(datasets, "train", args.batch_size, args.seed, scale)}
        steps["val"] = NumberSteps(datasets, "val", args.batch_size, args.seed, steps["train"].scale())
        config = ControllerConfig(world["image_shape"][0], 0, "state", args.hidden, world["action_space"])
        recorded = Recorded(datasets, steps["train"], steps["val"], world, {})
        cloning = Cloning(args, folder, asdict(config), recorded, state)
        with track(args, folder):
            cloning.run()
    return cloning.best


def clone_frames(args: CloneSettings, datasets: list[Dataset] | None) -> float:
    """Clone frames -> action; returns the best score in the simulator."""
    if not datasets:
        raise UserError(f"--model {args.model} learns from frames: say which, with --dataset")
    require_validation(datasets)
    world = world_of(datasets[0])
    if len(world["image_shape"]) == 1:
        raise UserError(
            f"--model {args.model} learns from frames, and {datasets[0].root} holds {world['image_shape'][0]} numbers "
            "a step: leave --model away"
        )
    for flag, given in (
        ("--features", args.was_given("features")),
        ("--hidden", args.hidden),
        ("--method ditto", args.method == "ditto"),
        ("--world dream", args.method == "dagger" and args.world == "dream"),
    ):
        if given:
            raise UserError(
                f"{flag} is for clones on latents, and --model {args.model} sees frames: leave one of the two away"
                + (", or give --world simulator" if flag == "--world dream" else "")
            )
    with checkpoint.stage_folder(args.logdir, "bc") as folder:
        state = checkpoint.resume(args.logdir, "bc", {}, args.noreload)
        args = resumed(args, state, folder)
        lanes = max(1, args.batch_size // args.sequence)
        steps = {
            split: FrameSequences(datasets, split, args.sequence, lanes, args.shift if split == "train" else 0)
            for split in ("train", "val")
        }
        assert args.model, "frames are seen by one"
        config = PolicyConfig(tuple(world["image_shape"]), args.model, args.units, args.width, world["action_space"])
        recorded = Recorded(datasets, steps["train"], steps["val"], world, {})
        cloning = Cloning(args, folder, asdict(config), recorded, state)
        with track(args, folder):
            cloning.run()
    return cloning.best


if __name__ == "__main__":
    run(main)
