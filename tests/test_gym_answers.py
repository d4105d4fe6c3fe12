"""What environments of other people answer, in forms of several versions and of their own: it works, or one sentence
says what is wrong, and where."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from dreamdrive.envs import make
from dreamdrive.tests.tiny_process import run_here
from dreamdrive.tests.tiny_run import call, complaint
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.workers import WorkerPool


class Dot(gym.Env):
    """Keep it in the middle; over after 6 steps."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.look(), {}

    def step(self, action):
        self.t += 1
        return self.look(), self.reward(), self.t >= 6, False, {}

    def reward(self):
        return 1.0

    def look(self):
        return np.array([0.5, self.t], np.float32)

    def render(self):
        return np.full((64, 64, 3), 30, np.uint8)


def dot(name: str, **parts) -> str:
    """The id of a Dot with other parts."""
    kind, limit = type(name, (Dot,), parts), parts.pop("limit", 40)
    wrappers = (gym.wrappers.RecordEpisodeStatistics.wrapper_spec(),) if limit < 40 else ()
    if f"{name}-v0" not in gym.registry:
        gym.register(f"{name}-v0", kind, max_episode_steps=limit, additional_wrappers=wrappers)
    return f"gym:{name}-v0"


def stepped(self, action, *rest):
    self.t += 1
    return self.look(), 1.0, *rest


def drawn_for_people(self, render_mode=None):
    assert render_mode is None


def with_a_missing_package(self, render_mode=None):
    raise ImportError("No module named 'simulator'. Try `pip install simulator`.")


WORKS = {
    "ArrayReward": {"reward": lambda self: np.array([1.0])},
    "ArrayFlags": {"step": lambda self, a: stepped(self, a, np.array([self.t >= 6]), np.array([False]), {})},
    "OldForm": {"step": lambda self, a: stepped(self, a, self.t >= 6, None)},
    "NoInfo": {"reset": lambda self, *, seed=None, options=None: (Dot.reset(self, seed=seed)[0], None)},
    "OnlySeed": {"reset": lambda self, seed=None: Dot.reset(self, seed=seed)},
    "MoreAndMore": {"look": lambda self: np.zeros(1 + self.t, np.float32)},
    "ForPeople": {
        "__init__": drawn_for_people,
        "look": Dot.render,
        "observation_space": gym.spaces.Box(0, 255, (64, 64, 3), np.uint8),
    },
}


@pytest.mark.parametrize("name", WORKS)
def test_their_own_forms_are_understood(name):
    world = make(dot(name, **WORKS[name]), num=2, restart=False)
    world.reset(0)
    for _ in range(7):
        step = world.step(torch.zeros(2, 1))
    assert bool(step.terminated.all()) and not bool(step.truncated.any())
    world.close()


REFUSED = {
    "NanReward": ({"reward": lambda self: float("nan") if self.t == 3 else 1.0}, "reward of nan in step 3 of seed 7"),
    "EndlessReward": ({"reward": lambda self: 1e300}, "reward of 1e\\+300 in step 1 of seed 7"),
    "WordReward": ({"reward": lambda self: "much"}, "'much' for a reward in step 1 of seed 7: it must be a number"),
    "TwoRewards": ({"reward": lambda self: np.ones(2)}, "it must be a number"),
    "ThreeValues": ({"step": lambda self, a: (self.look(), 1.0, False)}, "answers a step with 3 values"),
    "NoValues": ({"step": lambda self, a: None}, "answers a step with NoneType"),
    "NanSeen": ({"look": lambda self: np.array([np.nan, 0.0])}, "showed nan after 0 steps of seed 7"),
    "MoreSeen": ({"look": lambda self: np.zeros(2 + self.t)}, "showed 3 numbers after 1 steps of seed 7.* has 2"),
    "Argument": ({"__init__": lambda self, size, render_mode=None: None}, "cannot be made.*'size'.*kwargs"),
    "Package": ({"__init__": with_a_missing_package}, "needs a package.*pip install simulator"),
    "Broken": ({"__init__": lambda self, render_mode=None: 1 / 0}, "cannot be made: ZeroDivisionError.*line"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_understood_is_one_sentence(name):
    parts, said = REFUSED[name]
    with pytest.raises(UserError, match=said):
        world = make(dot(name, **parts), num=1, restart=False, observation="state")
        world.reset(7)
        for _ in range(6):
            world.step(torch.zeros(1, 1))


def test_an_expert_who_does_not_know_gives_an_unknown_action_and_one_who_answers_nonsense_is_told():
    unsure = make(dot("Unsure", expert_action=lambda self: None if self.t else np.zeros(1)), num=1, restart=False)
    unsure.reset(0)
    assert unsure.expert_action().tolist() == [[0.0]]
    unsure.step(torch.zeros(1, 1))
    assert bool(unsure.expert_action().isnan().all())
    wrong = make(dot("Wrong", expert_action=lambda self: "left"), num=1, restart=False)
    wrong.reset(0)
    with pytest.raises(UserError, match="expert_action.*'left'"):
        wrong.expert_action()


@pytest.mark.parametrize("wanted, steps", [(20, 6), (None, 3), (2, 2)])
def test_a_limit_under_wrappers_is_replaced(wanted, steps):
    world = make(dot("Limited", limit=3), num=1, restart=False, **({"max_steps": wanted} if wanted else {}))
    world.reset(0)
    over = []
    while not any(over):
        step = world.step(torch.zeros(1, 1))
        over.append(bool(step.terminated) or bool(step.truncated))
    assert len(over) == steps


def test_all_are_closed_also_those_made_before_one_that_cannot_be():
    closed, made = [], []

    def begin(self, render_mode=None):
        made.append(self)
        if len(made) > 2:
            raise OSError("the port is in use")

    name = dot("Ports", __init__=begin, close=lambda self: closed.append(self))
    world = make(name, num=2, restart=False)
    world.close()
    world.close()
    assert closed == made
    made.clear()
    closed.clear()
    with pytest.raises(UserError, match="the port is in use"):
        make(name, num=3, restart=False)
    assert len(closed) == 2


def test_of_a_simulator_that_cannot_run_twice_there_is_never_a_second(tmp_path, monkeypatch):
    """And its episodes are those of one that can."""
    there: list[int] = []

    def begin(self, render_mode=None):
        if there:
            raise OSError("the port is in use")
        there.append(1)

    name, plain = dot("Port", __init__=begin, close=lambda self: there.clear()), dot("Plain")
    monkeypatch.setattr(WorkerPool, "run", run_here)
    record = ("data.generation_script", "--rollouts", 32, "--policy", "white", "--threads", 2, "--observation", "state")
    done = call(*record, "--env", name, "--rootdir", tmp_path / "refused")
    assert "the port is in use" in complaint(done)
    there.clear()
    for env, folder, option in ((name, "one", ("--one-instance",)), (plain, "many", ())):
        done = call(*record, "--env", env, "--rootdir", tmp_path / folder, *option)
        assert done.returncode == 0, done.stderr
        there.clear()  # as at the end of the worker
    one, many = (sorted((tmp_path / folder).glob("*.h5")) for folder in ("one", "many"))
    assert len(one) == 16 and [p.read_bytes() for p in one] == [p.read_bytes() for p in many]
    score = ("test_controller", "--controller", "random", "--episodes", 5, "--max-workers", 2)
    done = call(*score, "--env", name, "--one-instance", "--logdir", tmp_path / "run", "--observation", "state")
    assert done.returncode == 0 and "6" in done.stdout and not there, done
    with pytest.raises(UserError, match="2 copies of .* are wanted"):
        make(name, num=2, one_instance=True)
