"""Stage 4b: clone the recorded expert, (z, h) -> action, on cached latents, and go on in the dream; or, without V and
M, numbers -> action of a dataset that holds no pictures, or with --model frames -> action by a network that remembers.

Reads   exp_dir/vae/best.tar, exp_dir/mdrnn/best.tar
        exp_dir/latents/             and the expert's actions in the datasets
Writes  exp_dir/bc/best.tar          highest mean return in the simulator (seeds of the model-selection range)
        exp_dir/bc/checkpoint.tar    to go on from: run the same command again
        exp_dir/bc/metrics.csv, loss.png, args.json
        exp_dir/bc/dream.mp4, dream.png   the clone's dream, below what the expert saw from the same frame on
        exp_dir/bc/distance.png      how far dreams of clone and others are from what experts saw
        exp_dir/bc/dream-and-reality.png   scores in the dream against scores in the simulator
        exp_dir/bc/dagger_000/ ...   with --method dagger --world simulator: what the clone recorded; the last as
        driver.tar

    python trainbc.py --logdir exp_dir --hidden 256 --epochs 30
    python trainbc.py --logdir exp_dir --hidden 256 --epochs 30 --method ditto --dream-epochs 20
    python trainbc.py --logdir exp_dir --hidden 256 --dataset datasets/features
    python trainbc.py --logdir exp_dir/breakout --model cfc --dataset datasets/breakout --evaluate-every 1 --n-samples \
        10

    python trainbc.py --teacher --env mountaincar --logdir exp_dir/lesson

--teacher serves a web page on which you teach a clone by hand, see teacher/lesson.py; its files are exp_dir/bc/taught,
snapshots and lesson.png. The run itself, epoch by epoch, is learning/cloning.py. --method dagger and ditto go on with
the clone of the first --epochs epochs that drove best.
"""

import argparse
import os
from dataclasses import asdict
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.data.loaders import check_world, open_datasets, require_validation, world_of
from dreamdrive.data.sequences import FrameSequences
from dreamdrive.data.shards import Dataset
from dreamdrive.data.steps import NumberSteps
from dreamdrive.envs.dream import DREAM_STEPS
from dreamdrive.learning.cloning import AVERAGE, STAGE, Cloning
from dreamdrive.learning.imagination import Dreams, Setting
from dreamdrive.models.controller import LATENT_FEATURES, ControllerConfig
from dreamdrive.models.policy import MEMORIES, PolicyConfig
from dreamdrive.models.world_model import load_world_model
from dreamdrive.teacher import lesson
from dreamdrive.utils import checkpoint
from dreamdrive.utils.cli import (
    add_training,
    learning_rate,
    natural,
    natural_float,
    parser,
    positive,
    positive_float,
    run,
    settled,
    share,
)
from dreamdrive.utils.device import device
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.tracking import track

METHODS = ("bc", "dagger", "ditto")
LOSSES = ("squared", "gaussian")
SIZES = {**lesson.SIZES, "hidden": 0}  # of a clone, and what latents it sees, unless told otherwise
BATCH, RATE = 256, 1e-3  # defaults: steps, and AdamW's learning rate
HORIZONS = {"bc": 24, "dagger": 24, "ditto": 50}  # default steps of a dream, by --method
MEANT = {  # where alone flags mean something: what it takes, whether it is so, the flags
    "--model": (lambda args: args.model, ("units", "width", "sequence", "shift")),
    "--method dagger or ditto": (lambda args: args.method != "bc", ("dream_epochs",)),
    "--method ditto": (lambda args: args.method == "ditto", ("updates", "dream_rate", "spread", "anchor")),
    "--method dagger": (lambda args: args.method == "dagger", ("passes",)),
    "--method dagger --world simulator": (
        lambda args: args.method == "dagger" and args.world == "simulator",
        ("rollouts",),
    ),
    "--method dagger, or for --teacher": (lambda args: args.method == "dagger" or args.teacher, ("world",)),
    "cloning without --teacher": (
        lambda args: not args.teacher,
        (
            "dataset",
            "sequence",
            "epochs",
            "loss",
            "action_noise",
            "label_smoothing",
            "anneal",
            "shift",
            "method",
            "evaluate_every",
            "n_samples",
            "max_workers",
            "dreams",
        ),
    ),
}


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    add_training(p)
    p.add_argument(
        "--dataset", type=Path, nargs="+", help="folders written by stage 1 (default: those M was trained on)"
    )
    p.add_argument("--features", choices=LATENT_FEATURES, help="what the clone sees: z alone, or z and h (default: zh)")
    p.add_argument(
        "--hidden",
        type=natural,
        help="width of a hidden layer; 0 for the linear head evolution uses (default: 0, with --teacher "
        f"{lesson.SIZES['hidden']})",
    )
    p.add_argument(
        "--model",
        choices=MEMORIES,
        help="clone frames themselves, without V and M: convolutions and this memory (mlp: none)",
    )
    p.add_argument("--units", type=positive, help=f"of the memory of --model (default: {lesson.SIZES['units']})")
    p.add_argument(
        "--width",
        type=positive,
        help="channels of the first convolution of --model; the others have twice as many (default: "
        f"{lesson.SIZES['width']})",
    )
    p.add_argument("--sequence", type=positive, default=32, help="frames that --model is trained to look back through")
    p.add_argument("--epochs", type=positive, default=30, help="of cloning; more than before goes on")
    p.add_argument(
        "--batch-size",
        type=positive,
        help=f"steps; of --model in whole sequences (default: {BATCH}, with --teacher {lesson.BATCH})",
    )
    p.add_argument(
        "--loss",
        choices=LOSSES,
        default="squared",
        help="of actions that are numbers: squared error, or the likelihood of a normal distribution, "
        "whose spread is learnt for each of an action's components",
    )
    p.add_argument(
        "--action-noise",
        type=natural_float,
        default=0.0,
        help="of actions that are numbers: spread of noise on the expert's, drawn anew each time, in an action's "
        "typical size",
    )
    p.add_argument(
        "--label-smoothing",
        type=share,
        default=0.0,
        help="of actions that are choices: the share of the expert's that goes to all alike",
    )
    p.add_argument(
        "--learning-rate",
        type=learning_rate,
        help=f"AdamW's (default: {RATE:g}, with --teacher {lesson.RATES[1]:g} for numbers)",
    )
    p.add_argument(
        "--anneal",
        action="store_true",
        help="let the learning rate fall to nothing, along a half cosine, by the last of --epochs, and "
        "again while --method dagger goes on, by the last of --dream-epochs",
    )
    p.add_argument("--weight-decay", type=natural_float, default=1e-2, help="AdamW's")
    p.add_argument(
        "--average",
        type=positive,
        help="training steps over which the weights that drive are averaged; 1 for the last ones as they are "
        f"(default: with --model {AVERAGE['model']}, with --teacher {lesson.AVERAGE}, while ditto dreams "
        f"{AVERAGE['ditto']}, otherwise 1)",
    )
    p.add_argument(
        "--shift",
        type=natural,
        default=0,
        help="pixels by which frames of --model are shifted at most while it learns, elsewhere in each sequence",
    )
    p.add_argument(
        "--evaluate-every",
        type=positive,
        default=5,
        help="epochs between two scores in the simulator; the last epoch is always scored",
    )
    p.add_argument("--n-samples", type=positive, default=8, help="episodes of such a score")
    p.add_argument("--max-workers", type=positive, default=os.cpu_count(), help="processes that drive the simulator")
    dreaming = p.add_argument_group("in the dream, after cloning")
    dreaming.add_argument(
        "--method",
        choices=METHODS,
        default="bc",
        help="bc: nothing more. dagger: the clone drifts off on its own, what the expert would do there "
        "is added, and all is cloned again. ditto: reinforcement learning in the dream, rewarded for seeing what the "
        "expert saw",
    )
    dreaming.add_argument("--dream-epochs", type=positive, default=20, help="of dagger or ditto, after --epochs")
    dreaming.add_argument(
        "--horizon",
        type=positive,
        help="steps of a dream, which begins where an expert was "
        f"(default: {HORIZONS['bc']}, of ditto {HORIZONS['ditto']}, with --teacher {DREAM_STEPS})",
    )
    dreaming.add_argument("--dreams", type=positive, default=256, help="at once")
    dreaming.add_argument("--temperature", type=natural_float, default=0.0, help="of the dream")
    dreaming.add_argument("--updates", type=positive, default=40, help="ditto: of actor and critic in an epoch")
    dreaming.add_argument(
        "--dream-rate", type=learning_rate, default=1e-4, help="ditto: learning rate of actor and critic"
    )
    dreaming.add_argument(
        "--spread",
        type=positive_float,
        default=0.2,
        help="ditto: of the pushes that actions are explored with, in an action's typical size",
    )
    dreaming.add_argument(
        "--anchor",
        type=natural_float,
        default=100.0,
        help="ditto: weight of the loss of cloning beside the return; 0, as in the paper, for none",
    )
    dreaming.add_argument(
        "--world",
        choices=("dream", "simulator"),
        help="dagger: drift in the dream, where the expert of the most similar recorded moment is asked, or in the "
        "simulator, where its expert is "
        "(default: the dream). --teacher: where to teach (default: the simulator)",
    )
    dreaming.add_argument("--passes", type=positive, default=5, help="dagger: over all steps there are, in each epoch")
    dreaming.add_argument(
        "--rollouts",
        type=positive,
        default=4,
        help="dagger in the simulator: episodes the clone drives in an epoch, disturbed like who was recorded",
    )
    lesson.add_flags(p.add_argument_group("by a teacher, in the browser"))
    args = p.parse_args()
    taught = lesson.add_flags(parser("")).parse_args([])
    for what, (so, flags) in (MEANT | {"--teacher": (lambda args: args.teacher, vars(taught))}).items():
        idle = None if so(args) else next((flag for flag in flags if getattr(args, flag) != p.get_default(flag)), None)
        if idle:
            p.error(f"--{idle.replace('_', '-')} is for {what}: leave it away, or give that")
    if not args.teacher:
        args.batch_size, args.learning_rate = args.batch_size or BATCH, args.learning_rate or RATE
        args.horizon, args.world = args.horizon or HORIZONS[args.method], args.world or "dream"
    return args


def main() -> None:
    args = parse_args()
    if args.teacher:
        lesson.teach(args, STAGE)
        return
    datasets = open_datasets(args.dataset) if args.dataset else None
    numbers = datasets and len(world_of(datasets[0])["image_shape"]) == 1
    best = (
        clone_frames(args, datasets)
        if args.model
        else clone_numbers(args, datasets)
        if numbers
        else clone_latents(args, datasets)
    )
    print(
        f"{checkpoint.path(args.logdir, 'bc')}: mean return {best:.1f} over {args.n_samples} episodes; "
        f"next: python test_controller.py --logdir {args.logdir} --controller bc"
    )


def clone_latents(args: argparse.Namespace, datasets: list[Dataset] | None) -> float:
    """Clone what V and M see, on `datasets` or those M was trained on; returns the best score in the simulator."""
    where = device(args.device)
    model = load_world_model(args.logdir, where)
    world, parents = model.world, model.parents
    datasets = datasets or open_datasets(checkpoint.load_parent(args.logdir, "mdrnn")["datasets"])
    datasets = [check_world(dataset, world, str(checkpoint.path(args.logdir, "vae"))) for dataset in datasets]
    with checkpoint.stage_folder(args.logdir, "bc") as folder:
        state = checkpoint.resume(args.logdir, "bc", parents, args.noreload)  # before the long work, in case it refuses
        vars(args).update(settled(args, SIZES, state and state["config"]))
        dreams = Dreams(args.logdir, model, datasets, Setting(args.horizon, args.dreams, args.temperature, args.seed))
        steps = {split: latents.steps(args.batch_size) for split, latents in dreams.recorded.items()}
        config = ControllerConfig(
            model.memory.config.latent, model.memory.config.hidden, args.features, args.hidden, world["action_space"]
        )
        cloning = Cloning(args, folder, asdict(config), datasets, steps, world, parents, dreams, state)
        with track(args, folder):
            cloning.run()
            cloning.report()
    return cloning.best


def clone_numbers(args: argparse.Namespace, datasets: list[Dataset]) -> float:
    """Clone what the world's numbers say; returns the best score in the simulator."""
    require_validation(datasets)
    world = world_of(datasets[0])
    if args.features:
        raise UserError(
            f"--features {args.features} is for latents, and {datasets[0].root} holds numbers, which the clone sees as "
            "they are: leave --features away"
        )
    if args.method != "bc":
        raise UserError(
            f"--method {args.method} dreams, and {datasets[0].root} holds numbers, of which there is no V and no M: "
            "leave --method away"
        )
    with checkpoint.stage_folder(args.logdir, "bc") as folder:
        state = checkpoint.resume(args.logdir, "bc", {}, args.noreload)
        vars(args).update(settled(args, SIZES, state and state["config"]))
        scale = state.get("scale") if state else None
        steps = {"train": NumberSteps(datasets, "train", args.batch_size, args.seed, scale)}
        steps["val"] = NumberSteps(datasets, "val", args.batch_size, args.seed, steps["train"].scale())
        config = ControllerConfig(world["image_shape"][0], 0, "state", args.hidden, world["action_space"])
        cloning = Cloning(args, folder, asdict(config), datasets, steps, world, {}, None, state)
        with track(args, folder):
            cloning.run()
    return cloning.best


def clone_frames(args: argparse.Namespace, datasets: list[Dataset] | None) -> float:
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
        ("--features", args.features),
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
        vars(args).update(settled(args, SIZES, state and state["config"]))
        lanes = max(1, args.batch_size // args.sequence)
        steps = {
            split: FrameSequences(datasets, split, args.sequence, lanes, args.shift if split == "train" else 0)
            for split in ("train", "val")
        }
        config = PolicyConfig(tuple(world["image_shape"]), args.model, args.units, args.width, world["action_space"])
        cloning = Cloning(args, folder, asdict(config), datasets, steps, world, {}, None, state)
        with track(args, folder):
            cloning.run()
    return cloning.best


if __name__ == "__main__":
    run(main)
