"""Ways to drive: each one's expert actions lead through the log and back to it."""

import numpy as np
import pytest
import torch

from dreamdrive import envs
from dreamdrive.envs.catalogue import NOCTURNE_DYNAMICS, WARMUP
from dreamdrive.envs.nocturne import Simulator, load_scene
from dreamdrive.envs.nocturne.actions import ActionGrid
from dreamdrive.envs.nocturne.dynamics import DeltaLocal, make_dynamics
from dreamdrive.envs.nocturne.simulator import LOG_END, wrap
from dreamdrive.envs.nocturne.synthetic import make_scene
from dreamdrive.tests.tiny_scene import car, scene_of, write
from dreamdrive.utils.errors import UserError


@pytest.fixture(scope="module")
def scene():
    return load_scene("synthetic.json", content=make_scene(3))


def egos_of(scene) -> tuple[torch.Tensor, torch.Tensor]:
    who = torch.tensor([scene.index(ego) for ego in scene.egos.tolist()])
    return torch.zeros_like(who), who


@pytest.mark.parametrize("name", NOCTURNE_DYNAMICS)
def test_the_experts_actions_give_the_log_again(scene, name):
    """State to expert action to state, step after step from where the last one led, for the whole log."""
    sim, dynamics, (copy, who) = Simulator([scene]), make_dynamics(name, ActionGrid()), egos_of(scene)
    expert = torch.ones_like(sim.present)
    expert[copy, who] = False
    worst = torch.zeros(4)
    sim.reset(time=WARMUP)  # from which on egos are there
    for _ in range(LOG_END - WARMUP):
        own, logs = dynamics.expert(sim, copy, who), dynamics.log(sim, copy, who)
        if name == "state":
            goes_on = sim.logged(1)[1][copy, who]
            assert torch.equal(own[goes_on], logs[goes_on])
        sim.step(**dynamics.command(sim, copy, who, own), expert=expert)
        log, there = sim.logged()
        error = torch.where(there[copy, who][:, None], (sim.local - log)[copy, who].abs(), 0.0)
        error[:, 2] = wrap(error[:, 2]).abs()
        worst = torch.maximum(worst, error.amax(0))
    # The bicycle turns about its middle, so it is beside the log by centimetres; speeds of delta-local are those of the
    # way, not those that the log says.
    limits = {"bicycle": (0.3, 0.3, 0.1, 0.5), "delta-local": (1e-4, 1e-4, 1e-5, 0.5), "state": (0, 0, 0, 0)}[name]
    assert (worst <= torch.tensor(limits)).all(), worst


@pytest.mark.parametrize("name", NOCTURNE_DYNAMICS[1:])
def test_who_is_pushed_off_is_back_on_the_log_in_a_step(scene, name):
    sim, dynamics, (copy, who) = Simulator([scene]), make_dynamics(name, ActionGrid()), egos_of(scene)
    sim.reset(time=20)
    sim.local[copy, who] += torch.tensor([0.7, -0.4, 0.2, 1.0])
    expert = torch.ones_like(sim.present)
    expert[copy, who] = False
    sim.step(**dynamics.command(sim, copy, who, dynamics.expert(sim, copy, who)), expert=expert)
    log, _ = sim.logged()
    assert torch.allclose(sim.local[copy, who, :3], log[copy, who, :3], atol=1e-4)


def test_a_delta_is_in_the_cars_own_terms():
    state = torch.tensor([[1.0, 2.0, torch.pi / 2, 7.0]])
    moved = DeltaLocal().moved(state, torch.tensor([[3.0, 0.4, 0.5]]))
    assert moved[0].tolist() == pytest.approx([0.6, 5.0, torch.pi / 2 + 0.5, 10 * np.hypot(3.0, 0.4)], abs=1e-5)
    back = DeltaLocal().moved(state, torch.tensor([[-0.2, 0.0, 0.0]]))
    assert back[0].tolist() == pytest.approx([1.0, 1.8, torch.pi / 2, -2.0], abs=1e-5)
    assert DeltaLocal().action(state, moved)[0].tolist() == pytest.approx([3.0, 0.4, 0.5], abs=1e-5)


@pytest.mark.parametrize("name", NOCTURNE_DYNAMICS)
@pytest.mark.parametrize("driver", ["expert", "log", "constant"])
def test_a_world_of_any_dynamics_drives_to_its_goal(tmp_path, name, driver):
    write(tmp_path, scene_of([car(), car(y=20)]))
    world = envs.make("nocturne", num=2, scenes=str(tmp_path), restart=False, dynamics=name, observation="features")
    world.look_away()
    world.reset([0, 1])
    assert world.spec.options.get("dynamics", "bicycle") == name
    reached = torch.zeros(2, dtype=torch.bool)
    for _ in range(80):
        action = world.expert_action() if driver == "expert" else world.reference_action(driver)
        assert action.shape == (2, {"bicycle": 2, "delta-local": 3, "state": 4}[name])
        reached |= world.step(action).info["goal"]
    assert reached.all()  # these cars go straight on at constant speed


def test_a_bicycles_world_says_nothing_of_it(tmp_path):
    """What older versions wrote, and what this one writes, are the same."""
    write(tmp_path, scene_of([car()]))
    assert "dynamics" not in envs.make("nocturne", scenes=str(tmp_path)).spec.options


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"dynamics": "x"}, "bicycle, delta-local, state"),
        ({"dynamics": "state", "actions": "discrete"}, "pairs of acceleration and steering"),
    ],
)
def test_impossible_dynamics_are_refused(options, complaint):
    with pytest.raises(UserError, match=complaint):
        envs.make("nocturne", **options)
