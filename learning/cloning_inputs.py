"""What a clone is made from (stage 4b): latents of V and M, a world's numbers, or frames themselves."""

from dataclasses import asdict
from pathlib import Path

from dreamdrive.data.loaders import check_world, open_datasets, require_validation, world_of
from dreamdrive.data.sequences import FrameSequences
from dreamdrive.data.shards import Dataset
from dreamdrive.data.steps import NumberSteps
from dreamdrive.learning.cloning import Cloning
from dreamdrive.learning.cloning_methods import Recorded
from dreamdrive.learning.cloning_settings import CloneSettings
from dreamdrive.learning.dream_report import report
from dreamdrive.learning.imagination import Dreams, Setting
from dreamdrive.models.controller import ControllerConfig
from dreamdrive.models.policy import PolicyConfig
from dreamdrive.models.world_model import load_world_model
from dreamdrive.utils import checkpoint
from dreamdrive.utils.device import device
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.settings import say_inherited
from dreamdrive.utils.tracking import track


def clone(args: CloneSettings) -> float:
    """The whole stage; the best score in the simulator."""
    datasets = open_datasets(args.dataset) if args.dataset else None
    if args.model:
        return clone_frames(args, datasets)
    if datasets and len(world_of(datasets[0])["image_shape"]) == 1:
        return clone_numbers(args, datasets)
    return clone_latents(args, datasets)


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
