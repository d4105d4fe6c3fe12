"""What a clone is made from (stage 4b): latents of V and M, a world's numbers, or frames themselves."""

from dataclasses import asdict
from pathlib import Path

from dreamdrive.data.loaders import check_world, open_datasets, require_validation, world_of
from dreamdrive.data.sequences import FrameSequences
from dreamdrive.data.shards import Dataset
from dreamdrive.data.steps import NumberSteps
from dreamdrive.driving.evaluation import require_drivable
from dreamdrive.envs.flags import check_env
from dreamdrive.learning.cloning import FLAGS, Cloning
from dreamdrive.learning.cloning_methods import Recorded
from dreamdrive.learning.cloning_settings import CloneSettings, ImprovementSettings
from dreamdrive.learning.dream_report import DREAM_FILM, report
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


def resumed(args: CloneSettings, state: dict | None, begun: dict | None, folder: Path) -> CloneSettings:
    """The settings with what may not change as it is in `state`, the content of checkpoint.tar; or where there is none,
    in `begun`, that of --init."""
    source, before = (None, state) if state or begun is None else (init_of(args), begun)
    args, inherited = args.resume(before and before["config"], init=source)
    say_inherited({source or folder / "checkpoint.tar": inherited})
    return args


def init_of(args: CloneSettings) -> Path | None:
    """The clone to begin with instead of cloning."""
    return args.init if isinstance(args, ImprovementSettings) else None


def load_init(args: CloneSettings, parents: dict[str, str], folder: Path) -> dict | None:
    """The content of --init, a clone of these V and M; None without one."""
    init = init_of(args)
    if init is None:
        return None
    if init.resolve().parent == folder.resolve():
        raise UserError(
            f"--init {init} would be written over: give a --name, or continue in {folder} without --init, with as many "
            "--epochs as were cloned there"
        )
    begun = checkpoint.load(init, "bc")
    checkpoint.check_parents(begun, parents, init, "bc")
    return begun


def require_same(init: Path | None, begun: dict | None, config: dict) -> None:
    """UserError unless the clone of --init is a head of this `config`."""
    for name, flag in FLAGS.items():
        if begun and begun["config"].get(name) != config.get(name):
            raise UserError(
                f"{init} has {name} {begun['config'].get(name)}, and what is to be trained {config.get(name)}: see "
                f"{flag}"
            )


def clone_latents(args: CloneSettings, datasets: list[Dataset] | None) -> float:
    """Clone what V and M see, on `datasets` or those M was trained on; returns the best score in the simulator."""
    where = device(args.device)
    model = load_world_model(args.logdir, where)
    world, parents = model.world, model.parents
    check_env(args.logdir, world, args.env)
    require_drivable(world)
    datasets = datasets or open_datasets(checkpoint.load_parent(args.logdir, "mdrnn")["datasets"])
    datasets = [check_world(dataset, world, str(checkpoint.path(args.logdir, "vae"))) for dataset in datasets]
    with checkpoint.stage_folder(args.logdir, args.stage) as folder:
        # before the long work, in case it refuses
        begun = load_init(args, parents, folder)
        state = checkpoint.resume(args.logdir, args.stage, parents, args.noreload)
        args = resumed(args, state, begun, folder)
        dreams = Dreams(args.logdir, model, datasets, Setting(args.horizon, args.dreams, args.temperature, args.seed))
        steps = {split: latents.steps(args.batch_size) for split, latents in dreams.recorded.items()}
        config = ControllerConfig(
            model.memory.config.latent, model.memory.config.hidden, args.features, args.hidden, world["action_space"]
        )
        require_same(init_of(args), begun, asdict(config))
        recorded = Recorded(datasets, steps["train"], steps["val"], world, parents, dreams)
        cloning = Cloning(args, folder, asdict(config), recorded, state, begun)
        with track(args, folder, films=[folder / DREAM_FILM]):
            cloning.run()
            report(folder, args, dreams)
    return cloning.best


def clone_numbers(args: CloneSettings, datasets: list[Dataset]) -> float:
    """Clone what the world's numbers say; returns the best score in the simulator."""
    require_validation(datasets)
    world = world_of(datasets[0])
    check_env(datasets[0].root, world, args.env)
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
    with checkpoint.stage_folder(args.logdir, args.stage) as folder:
        state = checkpoint.resume(args.logdir, args.stage, {}, args.noreload)
        args = resumed(args, state, None, folder)
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
    check_env(datasets[0].root, world, args.env)
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
    with checkpoint.stage_folder(args.logdir, args.stage) as folder:
        begun = load_init(args, {}, folder)
        if begun:
            check_world(datasets[0], begun["world"], str(init_of(args)))
        state = checkpoint.resume(args.logdir, args.stage, {}, args.noreload)
        args = resumed(args, state, begun, folder)
        lanes = max(1, args.batch_size // args.sequence)
        steps = {
            split: FrameSequences(datasets, split, args.sequence, lanes, args.shift if split == "train" else 0)
            for split in ("train", "val")
        }
        assert args.model, "frames are seen by one"
        config = PolicyConfig(tuple(world["image_shape"]), args.model, args.units, args.width, world["action_space"])
        require_same(init_of(args), begun, asdict(config))
        recorded = Recorded(datasets, steps["train"], steps["val"], world, {})
        cloning = Cloning(args, folder, asdict(config), recorded, state, begun)
        with track(args, folder):
            cloning.run()
    return cloning.best
