"""The driver that plans in M's dream."""

import json

import numpy as np
import pytest
import torch

from dreamdrive.driving.catalogue import METHODS
from dreamdrive.driving.planning import Plan, Planner, load_planner
from dreamdrive.models.world_model import Imagined, State, load_world_model
from dreamdrive.tests.tiny_run import call, complaint, copy_run
from dreamdrive.utils.spaces import ActionSpace

CPU = torch.device("cpu")
WANTED = torch.tensor([0.6, 0.25, 0.0])


class Told:
    """An M whose reward is how close the action is to WANTED, all the same wherever it is."""

    draws = (1, 1)

    def observe(self, z, action, state):
        return action, State(action[:, -1])

    def sample(self, state, temperature, noise):
        reward = -(state.h - WANTED).square().sum(-1)
        return Imagined(state.h, reward, torch.zeros(len(reward)), torch.zeros(len(reward), dtype=torch.bool))

    def noise(self, uniform, normal, copies):
        return None


@pytest.fixture(scope="module")
def model(trained):
    return load_world_model(trained.logdir, CPU)


def planner(model, plan: Plan, num: int = 3, first: int = 0) -> Planner:
    made = Planner(model, plan)
    made.reset(num, [np.random.default_rng(first + b) for b in range(num)])
    return made


def in_a_car(model, plan: Plan) -> Planner:
    """A planner of a car's actions in the M that is Told."""
    car = {**model.world, "env": "carracing"}
    car["action_space"] = ActionSpace(0, (-1.0, 0.0, 0.0), (1.0, 1.0, 1.0)).to_dict()
    made = planner(type(model)(model.vision, model.memory, car, None, {}), plan)
    made.memory, made._z, made._state = Told(), torch.zeros(3, 3), State(torch.zeros(3, 3))
    return made


@pytest.mark.parametrize("method", METHODS)
def test_the_best_action_is_found(model, method):
    found = in_a_car(model, Plan(method, candidates=256, iterations=8, steps=3)).choose()
    assert found.shape == (3, 3) and (found - WANTED).abs().max() < 0.2
    assert len(found.unique(dim=0)) == 3, "each copy draws its own numbers"


def test_what_the_actor_would_do_is_tried(model):
    class Knowing:
        def raw(self, z, h):
            return torch.tensor([0.6, 0.25]).atanh().expand(len(z), 2)

    made = in_a_car(model, Plan("rmhc", candidates=16, iterations=1, steps=3))
    made.actor = Knowing()
    assert torch.allclose(made.choose(), WANTED.expand(3, 3)), "steering, gas and brake, the best there are"


@pytest.mark.parametrize("method", ["cem", "rmhc"])
def test_choices_are_planned_and_depend_on_nobody_beside(model, method):
    plan = Plan(method, candidates=32, steps=4, dreams=2, temperature=1.0)
    frames = torch.randint(256, (3, 3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    together, alone = planner(model, plan), planner(model, plan, 1, first=2)
    for step in frames:
        all_of_them, one = together.act(step), alone.act(step[2:])
        assert all_of_them.dtype == torch.int64 and all_of_them[2:].tolist() == one.tolist()
    together.keep(torch.tensor([False, True, True]))
    assert together.act(frames[0][1:])[1:].tolist() == alone.act(frames[0][2:]).tolist()


def test_mppi_refuses_choices_and_candidates_fill_lanes(trained):
    said = complaint(call("test_controller", "--logdir", trained.logdir, "--controller", "plan"))
    assert "mppi weighs actions that are numbers, and these are choices: give --plan cem or rmhc" in said
    odd = ("--controller", "plan", "--plan", "cem", "--candidates", 20)
    assert "20 candidates are not possible: give a multiple of 16" in complaint(
        call("test_controller", "--logdir", trained.logdir, *odd)
    )
    idle = complaint(call("test_controller", "--logdir", trained.logdir, "--plan", "cem"))
    assert "--plan is for --controller plan: leave it away, or give that" in idle


def test_a_plan_is_scored_and_uses_the_critic_that_is_there(trained, tmp_path):
    run = copy_run(trained, tmp_path / "run")
    assert load_planner(run.logdir, Plan("cem"), CPU).critic is None, "evolution has none"
    actor = ("--method", "actor-critic", "--hidden", 16, "--dreams", 8, "--horizon", 4, "--evaluate-every", 0)
    call("traincontroller", "--logdir", run.logdir, *actor, "--updates", 50, "--noreload", "--device", "cpu")
    found = load_planner(run.logdir, Plan("cem"), CPU)
    assert found.critic is not None and found.actor is not None
    how = ("--controller", "plan", "--plan", "cem", "--candidates", 16, "--ahead", 3, "--iterations", 1)
    done = call("test_controller", "--logdir", run.logdir, *how, "--episodes", 2, "--max-workers", 1)
    assert done.returncode == 0 and "actions a second by 1 workers" in done.stdout
    score = json.loads((run.logdir / "scores/plan-gym:CartPole-v1-simulator.json").read_text())
    assert score["episodes"] == 2 and set(score["checkpoints"]) == {"vae", "mdrnn", "ctrl"}
