"""An actor that watches what V decodes and remembers it itself: in dreams, in the simulator, and while it learns."""

import pytest
import torch

from dreamdrive.data.latents import load_sequences
from dreamdrive.data.loaders import open_datasets
from dreamdrive.driving.agent import WatchingAgent, load_agent
from dreamdrive.driving.planning import Plan, load_planner
from dreamdrive.learning.actor_critic import ActorCritic, How
from dreamdrive.learning.moments import recorded_moments
from dreamdrive.learning.watching import Watching
from dreamdrive.models.actor import Critic
from dreamdrive.models.heads import make_head
from dreamdrive.models.lanes import LANES
from dreamdrive.models.vae import VAE, VAEConfig
from dreamdrive.models.watcher import Watcher, WatcherConfig
from dreamdrive.models.world_model import load_world_model
from dreamdrive.tests.test_actor_critic import CAR, tiny_actor, without_ctrl
from dreamdrive.tests.tiny_run import DISCRETE, call, complaint
from dreamdrive.utils.metrics import read_csv

DECODED = ("--features", "decoded", "--burn-in", 3)


def watcher(space: dict, memory: str = "lstm", opposed=()) -> Watcher:
    torch.manual_seed(0)
    return Watcher(WatcherConfig((64, 64, 3), memory, 8, 4, space, latent=4, recurrent=2, opposed=opposed))


def vision() -> VAE:
    torch.manual_seed(1)
    return VAE(VAEConfig(latent=4)).eval().requires_grad_(False)


def test_it_is_rebuilt_from_what_its_checkpoint_says():
    model = watcher(CAR, opposed=((1, 2),))
    again = make_head(model.config_dict())
    again.load_state_dict(model.state_dict())
    frames = torch.randint(256, (2, 3, 64, 64, 3), dtype=torch.uint8)
    first, second = (m(frames, m.initial_state(2)) for m in (model, again))
    assert again.config == model.config and first[0].shape == (2, 3, 3)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert Critic.beside(model.config)(torch.randn(5, 4), torch.randn(5, 2)).shape == (5,)


@pytest.mark.parametrize("memory", ["lstm", "gru", "mlp"])
def test_what_it_was_shown_before_a_dream_is_what_it_would_remember_of_it(memory):
    model, v = watcher(CAR, memory), vision()
    with torch.no_grad():
        model.head.weight.normal_()
    z = torch.randn(2, 5, 4)
    real = torch.tensor([[True] * 5, [False, False, True, True, True]])
    watching = Watching(model, v)
    watching.begin(z, real)
    shown = watching.look(torch.zeros(2, 4))
    for b, first in ((0, 0), (1, 2)):
        frames = torch.cat([v.frames(z[b, first:]), v.frames(torch.zeros(1, 4))])
        with torch.no_grad():
            wanted, _ = model.raw(frames[None], model.initial_state(1))
        torch.testing.assert_close(shown[b], wanted[0, -1], atol=1e-5, rtol=1e-4)
    assert torch.equal(watching.said, shown[None]) and shown.requires_grad


def test_choices_are_learnt_from_what_it_saw():
    model, v = watcher(DISCRETE), vision()
    watching = Watching(model, v)
    learner = ActorCritic(model, Critic(4, 2, 8, 1), How(actor_rate=3e-3, critic_rate=0.01), watching)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, 4).expand(32, -1).contiguous()
    for _ in range(100):
        learner.begin(32, generator)
        watching.begin(z[:, None], torch.zeros(32, 1, dtype=torch.bool))
        with torch.no_grad():
            action = torch.stack([learner.act(z, z[:, :2]) for _ in range(2)])
        states = torch.stack([z, z, z])
        learner.learn(states, states[..., :2], action, action[..., 1], torch.ones(2, 32), torch.ones(2, 32))
    assert float(action[..., 1].mean()) > 0.8


def test_the_frames_before_a_moment_are_those_of_its_episode(trained):
    model = load_world_model(trained.logdir, torch.device("cpu"))
    data = load_sequences(trained.logdir, model.vision, model.parents["vae"], open_datasets([trained.data]))
    moments = recorded_moments(data, model.memory)
    episode = data.episodes("train")[0]
    z, _, _ = data.episode(episode)
    rows = [int((moments.frame == data.frame_offset[episode] + t).nonzero()[0, 0]) for t in (0, 2, 4)]
    seen, real = moments.before(torch.tensor(rows), 3)
    assert real.tolist() == [[False] * 3, [False, True, True], [True] * 3]
    torch.testing.assert_close(seen[2], z[1:4])
    torch.testing.assert_close(seen[1, 1:], z[:2])


def test_it_learns_repeats_resumes_and_drives_everywhere(trained, tmp_path):
    whole, parts = (without_ctrl(trained, tmp_path / name) for name in ("whole", "parts"))
    tiny_actor(whole.logdir, *DECODED, "--updates", 100)
    tiny_actor(parts.logdir, *DECODED, "--updates", 50)
    tiny_actor(parts.logdir, "--updates", 100)
    best = [(run.logdir / "ctrl" / "best.tar").read_bytes() for run in (whole, parts)]
    assert best[0] == best[1] and read_csv(whole.logdir / "ctrl/metrics.csv")
    assert isinstance(load_agent(whole.logdir), WatchingAgent)
    for where in ((), ("--world", "dream", "--horizon", 5)):
        scored = call("test_controller", "--logdir", whole.logdir, "--episodes", 2, "--max-workers", 1, *where)
        assert scored.returncode == 0 and "ctrl in the " in scored.stdout, scored.stderr
    planner = load_planner(whole.logdir, Plan("cem"), torch.device("cpu"))
    assert planner.critic is not None and planner.actor is None
    refused = tiny_actor(whole.logdir, *DECODED, "--memory", "gru", "--updates", 150, fails=True)
    assert "the run to resume has memory lstm, not gru" in complaint(refused)


def test_what_it_does_depends_on_nobody_beside_it(trained, tmp_path):
    run = without_ctrl(trained, tmp_path / "run")
    tiny_actor(run.logdir, *DECODED, "--updates", 50)
    agent = load_agent(run.logdir)
    frames = torch.randint(256, (3, 2 * LANES, 64, 64, 3), dtype=torch.uint8)

    def driven(copies: slice) -> torch.Tensor:
        agent.reset(len(frames[0, copies]))
        found = []
        for shown in frames:
            agent.act(shown[copies])
            found.append(agent.outputs())
        return torch.stack(found)

    together, few = driven(slice(None)), driven(slice(0, 3))
    assert torch.equal(together[:, :3], few) and not torch.equal(few[:, 0], few[:, 1])


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--burn-in", 3), "--burn-in is for an actor that watches, with --features decoded"),
        ((*DECODED, "--init", "nowhere.tar"), "an actor that watches cannot begin as a clone"),
    ],
)
def test_what_means_nothing_for_it_is_refused(trained, tmp_path, flags, said):
    run = without_ctrl(trained, tmp_path / "run")
    assert said in complaint(tiny_actor(run.logdir, *flags, fails=True))
