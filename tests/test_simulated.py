"""A world model that is the simulator (envs/simulated.py): what is dreamt is what happens."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dreamdrive.data.latents import load_sequences
from dreamdrive.data.loaders import open_datasets
from dreamdrive.driving.agent import Agent, in_dreams
from dreamdrive.driving.driver import drive
from dreamdrive.driving.policies import make_policy
from dreamdrive.envs import make
from dreamdrive.envs.dream import Dream, DreamWorld, imagine
from dreamdrive.envs.simulated import Simulated
from dreamdrive.learning.memory import keep_simulator
from dreamdrive.learning.memory_settings import MDRNNSettings
from dreamdrive.learning.moments import recorded_moments
from dreamdrive.models.controller import Controller, ControllerConfig
from dreamdrive.models.vae import VAE, VAEConfig
from dreamdrive.models.world_model import Starts, WorldModel, load_world_model
from dreamdrive.tests.tiny_run import IN_DREAMS, TINY, call, complaint
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError

WORLDS = {"gym:CartPole-v1": 60, "carracing-fast": 12, "cartpole": 40}  # and steps of an episode


def model_of(name: str, seeds: list[int]) -> WorldModel:
    """A V that has learnt nothing, and the simulator; dreams begin at the first frames of episodes with these seeds."""
    torch.manual_seed(0)
    world = make(name, 1)
    about = {
        "env": name,
        "image_shape": list(world.spec.image_shape),
        "action_space": world.spec.plain_action_space,
        "dt": world.spec.dt,
        "max_steps": WORLDS[name],
        "options": world.spec.options,
    }
    vision = VAE(VAEConfig(latent=8)).eval().requires_grad_(False)
    sizes = {"latent": 8, "action": world.spec.space.size}
    memory = Simulated.from_config({**sizes, "env": name, "options": {}, "max_steps": WORLDS[name]})
    memory.requires_grad_(False).meet(vision)
    frames = torch.cat([world.reset([seed]) for seed in seeds])
    starts = Starts(vision, vision.latents(frames), memory.started(torch.tensor(seeds)))
    return WorldModel(vision, memory, about, starts, {})


@pytest.mark.parametrize("name", WORLDS)
def test_returns_of_any_driver_are_those_of_the_simulator_to_the_last_bit(name):
    seeds = [2_000_003, 5, 2_000_001]
    model = model_of(name, seeds)
    torch.manual_seed(1)
    controller = Controller(ControllerConfig(8, 1, "z", 0, model.world["action_space"])).eval()
    with torch.no_grad():
        for weight in controller.parameters():
            weight.add_(torch.randn_like(weight))

    def driven(world, driver) -> list[tuple]:
        """Per step: actions, rewards and which copies have ended."""
        rngs = [np.random.default_rng([seed, 1]) for seed in seeds]
        moments = [moment for moment in drive(world, driver, seeds, rngs) if moment.step is not None]
        return [(m.action, m.step.reward, m.step.terminated | m.step.truncated) for m in moments]

    def dreams() -> DreamWorld:
        world = DreamWorld("nowhere", 3, horizon=10_000, restart=False, observation="latent", model=model)
        begin = world._noise.begin

        def in_turn(copies, seeds, starts):
            """Copy b from start b, at the likeliest z."""
            _, normal = begin(copies, seeds, starts)
            return torch.tensor(list(copies)), torch.zeros_like(normal)

        world._noise.begin = in_turn
        return world

    for head in (True, False):
        real, dream = make(name, 3, restart=False, max_steps=WORLDS[name]), dreams()
        if head:
            found = driven(real, Agent(model, controller, {})), driven(dream, in_dreams(controller, dream))
        else:
            found = driven(real, make_policy("brown", real)), driven(dream, make_policy("brown", dream))
        assert len(found[0]) == len(found[1]) > 5
        for one, other in zip(*found, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_copies_of_a_state_go_on_by_themselves_and_a_state_can_be_gone_back_to():
    model = model_of("gym:CartPole-v1", [3, 4])
    memory, noise = model.memory, None
    right, left = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    dream = Dream(torch.zeros(2, 8), model.starts.state)
    for _ in range(3):
        dream, _ = imagine(memory, dream, right.repeat(2, 1), 1.0, noise)
    both, after = dream.repeat(2), dream
    for _ in range(3):  # a push moves the cart by what it has become after another
        both, said = imagine(memory, both, torch.cat([right, right, left, left]), 1.0, noise)
    for _ in range(3):
        after, again = imagine(memory, after, right.repeat(2, 1), 1.0, noise)
    torch.testing.assert_close(said.z[:2], again.z, rtol=0, atol=1e-5, msg="again, from before")
    assert not torch.equal(said.z[:2], said.z[2:])
    assert both.state.more["length"].tolist() == [6] * 4
    bare = Dream(torch.zeros(1, 8), memory.started(torch.tensor([3])))
    for action in (right, right, right, left, left, left):
        bare, alone = imagine(memory, bare, action, 1.0, noise)
    torch.testing.assert_close(alone.z[0], said.z[2], rtol=0, atol=1e-5)


def test_what_is_over_stays_over():
    model = model_of("gym:CartPole-v1", [3])
    dream, total = Dream(torch.zeros(1, 8), model.starts.state), 0.0
    for _ in range(30):
        dream, said = imagine(model.memory, dream, torch.tensor([[0.0, 1.0]]), 1.0, None)
        total += float(said.reward)
    assert bool(said.ended) and float(said.reward) == 0 and 5 < total < 20


def test_what_a_simulator_cannot_do_is_refused():
    model = model_of("carracing-fast", [3])
    action = torch.zeros(1, 3, requires_grad=True)
    with pytest.raises(UserError, match="a simulator has no gradients to learn from: train another M"):
        imagine(model.memory, Dream(torch.zeros(1, 8), model.starts.state), action, 1.0, None)
    lost = Dream(torch.zeros(1, 8), model.memory.initial(1))
    with pytest.raises(UserError, match="asked to go on from frames alone"):
        imagine(model.memory, lost, torch.zeros(1, 3), 1.0, None)
    with pytest.raises(UserError, match="has nothing to learn"):
        model.memory.loss(SimpleNamespace())


@pytest.mark.slow
def test_stages_dream_in_the_simulator(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained.logdir / "vae", run / "vae")
    flags = ("--logdir", run, "--device", "cpu")
    for idle in (("--head", "once"), ("--epochs", 3), ("--hidden", 16)):
        said = complaint(call("trainmdrnn", *flags, "--core", "simulator", *idle))
        assert f"{idle[0]} is for an M that learns" in said
    done = call("trainmdrnn", *flags, "--core", "simulator")
    assert done.returncode == 0 and "the simulator itself" in done.stdout, done.stderr
    model = load_world_model(run, torch.device("cpu"))
    assert type(model.memory) is Simulated and model.memory.config.env == "gym:CartPole-v1"
    assert 0 < int(model.starts.state.more["length"].max()) <= 32 and len(model.starts) == 1024
    learnt = ("--method", "actor-critic", "--hidden", 16, "--dreams", 4, "--horizon", 3, "--evaluate-every", 0)
    evolved = (*IN_DREAMS, "--pop-size", 4, "--n-samples", 2, "--generations", 1, "--evaluate-every", 0)
    stages = (
        ("traincontroller", (*evolved, "--max-workers", 1)),
        ("test_controller", ("--world", "dream", "--horizon", 5, "--episodes", 2, "--max-workers", 1)),
        ("test_controller", ("--episodes", 2, "--max-workers", 1)),
        ("traincontroller", (*learnt, "--updates", 50, "--noreload", "--max-workers", 1)),
        ("trainbc", TINY["trainbc"]),
    )
    for stage, more in stages:
        place = flags if stage.startswith("train") else flags[:2]
        done = call(stage, *more, *place)
        assert done.returncode == 0, (stage, done.stderr)


@pytest.fixture
def recorded(trained):
    """V of a run, and the episodes it was trained on."""
    model = load_world_model(trained.logdir, torch.device("cpu"))
    data = load_sequences(trained.logdir, model.vision, model.parents["vae"], open_datasets([trained.data]))
    return model, data


def test_episodes_are_as_long_as_the_worlds_own_wherever_a_recording_stopped(recorded, tmp_path):
    model, data = recorded
    world, args = {**model.world, "max_steps": 20}, MDRNNSettings(logdir=tmp_path, core="simulator")
    keep_simulator(args, tmp_path, model.vision, world, data, {}, [])
    assert checkpoint.load(tmp_path / "best.tar", "mdrnn")["config"]["max_steps"] == 500


def test_recorded_moments_are_those_of_the_recording(recorded):
    model, data = recorded
    config = {"latent": 8, "action": 2, "env": "gym:CartPole-v1", "options": {}, "max_steps": 500}
    memory = Simulated.from_config(config)
    memory.meet(model.vision)
    moments = recorded_moments(data, memory)
    state = moments.starts.state
    late = int(moments.age.argmax())
    dream, said = imagine(memory, moments.begin(torch.tensor([late])), torch.tensor([[0.0, 1.0]]), 1.0, None)
    assert int(dream.state.more["length"]) == int(moments.age[late]) + 1 and int(state.more["seed"][late]) >= 0
    assert float(said.reward) == 1.0, "CartPole's last step is rewarded, too"
