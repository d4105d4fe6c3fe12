"""Actor and critic in the dream: what they learn from, that it repeats and resumes, and who may drive with it."""

import shutil
from pathlib import Path

import pytest
import torch

from dreamdrive.data.latents import load_sequences
from dreamdrive.data.loaders import open_datasets
from dreamdrive.data.shards import Dataset
from dreamdrive.driving.agent import load_agent
from dreamdrive.driving.planning import Plan, load_planner
from dreamdrive.learning import anchor
from dreamdrive.learning.actor_critic import ActorCritic, How
from dreamdrive.learning.actor_settings import ActorSettings
from dreamdrive.learning.actor_training import moments_of
from dreamdrive.learning.anchor import Anchor
from dreamdrive.learning.moments import EARLY, recorded_moments
from dreamdrive.models.actor import Actor, ActorConfig, Critic
from dreamdrive.models.controller import Controller, ControllerConfig
from dreamdrive.models.heads import make_head
from dreamdrive.models.lanes import LANES
from dreamdrive.models.world_model import load_world_model
from dreamdrive.tests.tiny_run import BOX, DISCRETE, TINY, Done, TinyRun, call, complaint, copy_run
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.metrics import read_csv

CAR = {"type": "box", "low": [-1.0, 0.0, 0.0], "high": [1.0, 1.0, 1.0]}
SCALED = {"type": "box", "low": [-4.0, 2.0], "high": [4.0, 6.0], "scale": [4.0, 2.0], "center": [0.0, 4.0]}
ACTOR = ("--method", "actor-critic", "--hidden", 16, "--dreams", 8, "--horizon", 4, "--evaluate-every", 0)


def tiny_actor(logdir: Path, *options, fails: bool = False) -> Done:
    done = call("traincontroller", "--logdir", logdir, *ACTOR, "--device", "cpu", "--max-workers", 1, *options)
    assert fails or done.returncode == 0, done.stderr
    return done


def without_ctrl(run: TinyRun, folder: Path) -> TinyRun:
    """A copy of a run in which no controller was trained yet."""
    copied = copy_run(run, folder)
    shutil.rmtree(copied.logdir / "ctrl")
    return copied


def actor(space: dict, opposed=(), latent: int = 2) -> Actor:
    torch.manual_seed(0)
    return Actor(ActorConfig(latent, 1, "zh", 16, 2, space, opposed))


@pytest.mark.parametrize(
    "space, opposed, controls, vectors",
    [
        (CAR, ((1, 2),), [[-1, 1], [0.5, -0.25], [0, 0]], [[-1, 1, 0], [0.5, 0, 0.25], [0, 0, 0]]),
        (CAR, (), [[1, -1, 0]], [[1, 0, 0.5]]),
        (SCALED, (), [[-1, 0.5]], [[-1, 0.5]]),
    ],
)
def test_controls_reach_from_one_end_of_an_action_to_the_other(space, opposed, controls, vectors):
    model = actor(space, opposed)
    assert model.config.outputs == len(controls[0])
    torch.testing.assert_close(model.controls(torch.tensor(controls).float()), torch.tensor(vectors).float())


def test_a_control_that_is_pushed_over_its_end_still_learns():
    model = actor(CAR, ((1, 2),))
    z, h = torch.zeros(1, 2), torch.zeros(1, 1)
    pushed = model.explored(z, h, torch.full((1, 2), 3.0))
    assert pushed.tolist() == [[1.0, 1.0, 0.0]]
    pushed.sum().backward()
    assert model.layers[-1].bias.grad.abs().sum() > 0


def learnt(space: dict, reward, updates: int, how: How, opposed=()) -> tuple[Actor, dict]:
    """An actor whose actions become z in the next step."""
    model = actor(space, opposed, latent=ActorConfig(0, 0, "z", 1, 1, space).outputs)
    size = model.space.size
    learner = ActorCritic(model, Critic(size, 1, 16, 2), how)
    generator = torch.Generator().manual_seed(0)
    for _ in range(updates):
        learner.begin(32, generator)
        with torch.set_grad_enabled(learner.through):
            z, h, actions = [torch.zeros(32, size)], torch.zeros(32, 1), []
            for _ in range(4):
                actions.append(learner.act(z[-1], h))
                z.append(actions[-1])
        z, action = torch.stack(z), torch.stack(actions)
        ones = torch.ones(4, 32)
        found = learner.learn(z, torch.zeros(5, 32, 1), action, reward(action), ones, ones)
    return model, found


@pytest.mark.parametrize(("unit", "through", "updates"), [(1.0, True, 400), (1000.0, True, 400), (1.0, False, 800)])
def test_numbers_are_learnt_through_the_dream_or_from_returns_in_whatever_units_rewards_are(unit, through, updates):
    wanted = torch.tensor([0.4, 0.6, 0.0])
    how = How(actor_rate=1e-2, critic_rate=1e-2, spread=0.1 if through else 0.2, through=through)
    model, _ = learnt(CAR, lambda a: -unit * (a - wanted).square().sum(-1), updates, how, ((1, 2),))
    torch.testing.assert_close(model(torch.zeros(3), torch.zeros(1)), wanted, atol=0.12, rtol=0)


def test_a_likelihood_ratio_is_that_of_the_pushes():
    """At an actor's first outputs, 0, its mean is 0, and the gradient of log N(push) with respect to it is push /
    spread^2."""
    model = actor(BOX)
    how = How(spread=0.5, through=False, penalty=0.0)
    learner = ActorCritic(model, Critic(2, 1, 16, 2), how)
    learner.begin(1, torch.Generator().manual_seed(0))
    z = torch.zeros(2, 1, 2)
    with torch.no_grad():
        action = learner.act(z[0], z[0, :, :1])
    learner.unit = lambda returns, advantage, weight: 1.0
    gain = learner._gain(z, z[..., :1], action[None], torch.ones(1, 1), torch.full((1, 1), 3.0), torch.ones(1, 1))
    gain.sum().backward()
    torch.testing.assert_close(model.layers[-1].bias.grad, 3.0 * learner._pushes[0][0] / 0.5, atol=0.0, rtol=1e-4)


def test_a_likelihood_ratio_takes_pushes():
    for how in (How(spread=0.0, through=False), How(kept=0.5, through=False)):
        with pytest.raises(ValueError, match="takes pushes that are drawn"):
            ActorCritic(actor(BOX), Critic(2, 1, 16, 2), how)


def test_choices_are_learnt_from_returns():
    model, found = learnt(DISCRETE, lambda a: 10 * a[..., 2], 300, How(actor_rate=1e-2, critic_rate=1e-2))
    assert found["reward"] > 9 and int(model(torch.zeros(3), torch.zeros(1))) == 2


def test_what_ends_is_worth_no_more_than_it_brought():
    """A step that is sure to be the last hands on nothing of what the critic expects after it."""
    learner = ActorCritic(actor(DISCRETE), Critic(2, 1, 16, 2), How())
    with torch.no_grad():
        learner.slow.layers[-1].bias.fill_(100.0)
    seen = {}
    learner.unit = lambda returns, advantage, weight: seen.setdefault("returns", returns) * 0 + 1
    z, action = torch.zeros(3, 4, 2), torch.eye(3)[torch.zeros(2, 4, dtype=torch.long)]
    survival = torch.tensor([[1.0], [0.0]]).expand(2, 4)
    learner.learn(z, z[..., :1], action, torch.ones(2, 4), survival, torch.ones(2, 4))
    assert seen["returns"][1].tolist() == [1.0] * 4 and (seen["returns"][0] < 10).all()


def test_a_gradient_that_is_not_finite_stops_the_run_and_is_not_learnt():
    learner = ActorCritic(actor(DISCRETE), Critic(2, 1, 16, 2), How())
    before = [parameter.clone() for parameter in learner.actor.parameters()]
    z, action, ones = torch.zeros(3, 4, 2), torch.eye(3)[torch.zeros(2, 4, dtype=torch.long)], torch.ones(2, 4)
    with pytest.raises(UserError, match="a loss became nan .*: lower the learning rates"):
        learner.learn(z, z[..., :1], action, torch.full((2, 4), torch.nan), ones, ones)
    assert all(torch.equal(a, b) for a, b in zip(before, learner.actor.parameters(), strict=True))


@pytest.mark.parametrize("space", [BOX, DISCRETE])
def test_what_an_actor_does_depends_on_nobody_beside_it(space):
    model = actor(space).eval()
    z, h = torch.randn(4 * LANES, 2), torch.randn(4 * LANES, 1)
    with torch.inference_mode():
        together = model.outputs(z, h)
        parts = torch.cat([model.outputs(a, b) for a, b in zip(z.split(LANES), h.split(LANES), strict=True)])
    assert torch.equal(together, parts)


def test_a_linear_actor_has_a_critic_that_is_not(trained, tmp_path):
    run = without_ctrl(trained, tmp_path / "run")
    tiny_actor(run.logdir, "--updates", 50, "--layers", 0)
    linear = load_agent(run.logdir).controller
    assert [type(part) for part in linear.layers] == [torch.nn.Linear]
    assert len(list(load_planner(run.logdir, Plan("cem"), torch.device("cpu")).critic.layers)) > 1


def test_an_actor_is_rebuilt_from_what_its_checkpoint_says():
    model = actor(CAR, ((1, 2),))
    again = make_head(model.config_dict())
    again.load_state_dict(model.state_dict())
    z, h = torch.randn(5, 2), torch.randn(5, 1)
    assert torch.equal(again(z, h), model(z, h))


def test_moments_have_ms_state_of_now(trained):
    model = load_world_model(trained.logdir, torch.device("cpu"))
    data = load_sequences(trained.logdir, model.vision, model.parents["vae"], open_datasets([trained.data]))
    moments = recorded_moments(data, model.memory)
    train = data.episodes("train")
    assert len(moments) == data.steps[train].sum() and len(moments.early) == sum(
        min(int(steps), EARLY) for steps in data.steps[train]
    )
    z, action, _ = data.episode(train[0])
    h, _ = model.memory.observe(z[None, :5], action[None, :5])
    rows = (moments.starts.vision.z(moments.starts.latents) == z[5]).all(1).nonzero()[:, 0]
    assert any(torch.allclose(moments.starts.state.h[row], h[0, -1], atol=1e-6) for row in rows)
    few = recorded_moments(data, model.memory, most=len(moments) // 3)
    assert len(few.early) == len(moments.early) and len(few) < len(moments)


def test_dreams_begin_from_the_datasets_that_are_given(trained, tmp_path):
    flags = ("--env", "gym:CartPole-v1", "--rollouts", 3, "--threads", 1, "--rootdir", tmp_path / "other")
    assert call("data.generation_script", *flags).returncode == 0
    model = load_world_model(trained.logdir, torch.device("cpu"))
    logdir = copy_run(trained, tmp_path / "run").logdir
    usual, _ = moments_of(ActorSettings(logdir=logdir), model)
    given, _ = moments_of(ActorSettings(logdir=logdir, dataset=(tmp_path / "other",)), model)
    recorded = Dataset.open(tmp_path / "other").manifest.episodes
    assert len(given) == sum(e.steps for e in recorded if e.split == "train") != len(usual)


def test_returns_count_in_units_of_rewards_not_of_their_spread(trained):
    """As of MountainCar, where each step costs the same and few end otherwise."""
    model = load_world_model(trained.logdir, torch.device("cpu"))
    data = load_sequences(trained.logdir, model.vision, model.parents["vae"], open_datasets([trained.data]))
    assert data.reward_size() == data.reward_spread() == 1.0, "of a CartPole, all of whose rewards are 1"
    data.reward[:] = -4.0
    data.reward[0] = -1.0
    assert data.reward_spread() < 0.5 and 3.9 < data.reward_size() < 4.0
    data.reward[:] = 0.0
    assert data.reward_size() == 1.0


def test_the_run_learns_repeats_and_resumes(trained, tmp_path):
    whole, parts = (without_ctrl(trained, tmp_path / name) for name in ("whole", "parts"))
    tiny_actor(whole.logdir, "--updates", 100)
    tiny_actor(parts.logdir, "--updates", 50)
    tiny_actor(parts.logdir, "--updates", 100)
    best = [(run.logdir / "ctrl" / "best.tar").read_bytes() for run in (whole, parts)]
    assert best[0] == best[1]
    rows = read_csv(whole.logdir / "ctrl" / "metrics.csv")
    assert [row["updates"] for row in rows] == ["50", "100"] and rows == read_csv(parts.logdir / "ctrl/metrics.csv")
    assert isinstance(load_agent(whole.logdir).controller, Actor)
    assert (whole.logdir / "ctrl" / "fitness.png").stat().st_size > 5000
    shorter = tiny_actor(parts.logdir, "--updates", 100, "--hidden", 8, fails=True)
    assert "the run to resume has hidden 16, not 8" in complaint(shorter)
    scored = call("test_controller", "--logdir", whole.logdir, "--episodes", 2, "--max-workers", 1)
    assert scored.returncode == 0 and "ctrl in the simulator" in scored.stdout


def test_an_actor_continues_in_another_m_only_when_told(trained, tmp_path):
    run = without_ctrl(trained, tmp_path / "run")
    tiny_actor(run.logdir, "--updates", 50)
    call("trainmdrnn", *TINY["trainmdrnn"], "--logdir", run.logdir, "--epochs", 3)
    assert "was trained on mdrnn" in complaint(tiny_actor(run.logdir, "--updates", 100, fails=True))
    tiny_actor(run.logdir, "--updates", 100, "--adopt")
    saved = checkpoint.load_parent(run.logdir, "ctrl")
    assert saved["updates"] == 100
    assert saved["parents"]["mdrnn"] == checkpoint.load_parent(run.logdir, "mdrnn")["digest"]


def test_the_two_methods_do_not_mix(trained, tmp_path):
    run = copy_run(trained, tmp_path / "run")
    assert "is of --method cma: give that" in complaint(tiny_actor(run.logdir, fails=True))
    fresh = without_ctrl(trained, tmp_path / "fresh")
    tiny_actor(fresh.logdir, "--updates", 50)
    said = complaint(call("traincontroller", "--logdir", fresh.logdir, *TINY["traincontroller"]))
    assert "is of --method actor-critic: give that" in said


@pytest.mark.parametrize("space, opposed", [(CAR, ((1, 2),)), (SCALED, ()), (DISCRETE, ())])
def test_an_actor_is_nowhere_from_a_clone_that_acts_alike(space, opposed):
    model = actor(space, opposed)
    clone = Controller(ControllerConfig(2, 1, "zh", 0, space))
    z, h = torch.randn(64, 2), torch.randn(64, 1)
    far = Anchor(clone).distance(model, z, h)
    target = clone.outputs(z, h) if model.space.discrete else model.space.vector(clone(z, h))
    wanted = target.softmax(-1) if model.space.discrete else target
    entropy = -(wanted * wanted.log()).sum(-1).mean() if model.space.discrete else 0.0
    model.outputs = lambda z, h: target
    assert torch.allclose(Anchor(clone).distance(model, z, h), torch.as_tensor(entropy), atol=1e-6)
    assert far > entropy + 1e-3 and not any(weight.requires_grad for weight in clone.parameters())


def test_the_actor_begins_as_a_clone_and_is_held_to_it(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(anchor, "UPDATES", 400)
    found = {}
    for name, weight in (("free", 0), ("held", 1000)):
        run = without_ctrl(trained, tmp_path / name)
        clone = run.logdir / "bc" / "best.tar"
        done = tiny_actor(run.logdir, "--updates", 50, "--init", clone, *(("--anchor", weight) if weight else ()))
        assert f"the actor begins as {clone}: " in done.stdout
        agent = load_agent(run.logdir, "ctrl")
        z, h = torch.randn(500, agent.controller.config.latent), torch.zeros(500, agent.controller.config.recurrent)
        with torch.no_grad():
            found[name] = float(Anchor(load_agent(run.logdir, "bc").controller).distance(agent.controller, z, h))
    assert found["held"] < found["free"]
    refused = tiny_actor(run.logdir, "--anchor", 1, fails=True)
    assert "--anchor is for an actor that begins as a clone, with --init" in complaint(refused)
    other = tiny_actor(run.logdir, "--noreload", "--init", trained.logdir / "ctrl/best.tar", fails=True)
    assert "best.tar" in complaint(other)


def test_the_actor_stays_a_clone_while_the_critic_learns_first(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(anchor, "UPDATES", 40)
    run = without_ctrl(trained, tmp_path / "run")
    flags = ("--init", run.logdir / "bc" / "best.tar", "--critic-first", 60)
    actors, critics = [], []
    for updates in (50, 100, 150):
        tiny_actor(run.logdir, "--updates", updates, *flags)
        learnt = checkpoint.load(run.logdir / "ctrl" / "checkpoint.tar", "ctrl")
        actors.append(torch.cat([weight.flatten() for weight in learnt["actor"].values()]))
        critics.append(torch.cat([weight.flatten() for weight in learnt["learner"]["critic"].values()]))
    assert torch.equal(actors[0], actors[1]) and not torch.equal(actors[1], actors[2]), "60 of 50 in a row: 100"
    assert not torch.equal(critics[0], critics[1])
    refused = tiny_actor(run.logdir, "--critic-first", 1, "--noreload", fails=True)
    assert "--critic-first is for" in complaint(refused)


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--pop-size", 4, "--method", "actor-critic"), "--pop-size is for --method cma: leave it away"),
        (("--updates", 4), "--updates is for --method actor-critic: leave it away"),
        (("--method", "actor-critic", "--discount", 1.5), "--discount 1.5 and --mix 0.95 are not possible"),
        (("--method", "sarsa"), "invalid choice: 'sarsa'"),
    ],
)
def test_what_means_nothing_is_refused(trained, flags, said):
    assert said in complaint(call("traincontroller", "--logdir", trained.logdir, *flags))
