"""The dream is M stepping on its own: as a batch, as a world, and as a gymnasium environment it is the same dream."""

import warnings
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from dreamdrive.data.latents import load_sequences
from dreamdrive.data.loaders import open_datasets
from dreamdrive.driving.agent import load_agent
from dreamdrive.driving.evaluation import dream_returns
from dreamdrive.envs.dream import Dream, DreamWorld, begin, step
from dreamdrive.envs.dream_noise import BLOCK, DreamNoise
from dreamdrive.learning.evolution import APART, DreamFitness, dream_fitness, finite, kept_apart
from dreamdrive.learning.memory import WARM_UP
from dreamdrive.models.controller import Controller, ControllerConfig, parameter_vector, set_parameters
from dreamdrive.models.mdrnn import MDRNN, MDRNNConfig, Noise
from dreamdrive.models.vae import VAE, VAEConfig
from dreamdrive.models.world_model import Starts, State, WorldModel
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError

BOX = {"type": "box", "low": [-1.0, 0.0, 0.0], "high": [1.0, 1.0, 1.0]}
Z, R, STARTS = 4, 8, 20


@pytest.fixture
def mdrnn():
    torch.manual_seed(0)
    model = MDRNN(MDRNNConfig(latent=Z, action=3, hidden=R, mixtures=5))
    torch.nn.init.normal_(model.head.weight, std=0.5)  # so that rewards and ends differ from dream to dream
    return model.eval().requires_grad_(False)


def at(mu):
    """Starts with these means (N, Z), M's state at an episode's start."""
    vision = VAE(VAEConfig(latent=Z)).eval().requires_grad_(False)
    return Starts(
        vision, {"mu": mu, "logsigma": torch.zeros_like(mu)}, MDRNN(MDRNNConfig(Z, 3, R)).initial(len(mu)).detach()
    )


@pytest.fixture
def starts():
    vision = VAE(VAEConfig(latent=Z)).eval().requires_grad_(False)
    torch.manual_seed(1)
    latents = {"mu": torch.randn(STARTS, Z), "logsigma": torch.randn(STARTS, Z) - 2}
    return Starts(vision, latents, State(torch.randn(STARTS, R).tanh(), {"c": torch.randn(STARTS, R)}))


@pytest.fixture
def world(trained):
    def make(num=3, **options):
        return DreamWorld(trained.logdir, num, **options)

    return make


def certain(mdrnn, ends: bool):
    """M is sure that the episode ends now, or that it never does."""
    with torch.no_grad():
        mdrnn.head.weight[-1].zero_()
        mdrnn.head.bias[-1] = 1e4 if ends else -1e4
    return mdrnn


def drive(world, steps, seed=5):
    """(obs, reward, terminated, truncated) of every step of a dream with random actions."""
    obs, rng = [world.reset(seed)], np.random.default_rng(0)
    rest = []
    for _ in range(steps):
        result = world.step(torch.from_numpy(rng.integers(0, 2, world.num)))
        obs.append(result.obs)
        rest.append((result.reward, result.terminated, result.truncated))
    return [torch.stack(obs), *(torch.stack(parts) for parts in zip(*rest, strict=True))]


# The pure functions


def test_a_batch_of_dreams_equals_each_dream_on_its_own(mdrnn, starts):
    index, generator = torch.tensor([3, 3, 0, 19, 7]), torch.Generator().manual_seed(0)
    together = begin(starts, index, torch.randn(5, Z, generator=generator))
    alone = [Dream(together.z[b : b + 1], together.state.take(slice(b, b + 1))) for b in range(5)]
    for t in range(10):
        action, noise = torch.randn(5, 3), mdrnn.drawn(5, generator)
        together, reward, terminated = step(mdrnn, together, action, 1.2, noise)
        for b in range(5):
            own = Noise(noise.gumbel[b : b + 1], noise.normal[b : b + 1], noise.uniform[b : b + 1])
            alone[b], own_reward, own_end = step(mdrnn, alone[b], action[b : b + 1], 1.2, own)
            torch.testing.assert_close(alone[b].z[0], together.z[b], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(own_reward[0], reward[b], atol=1e-4, rtol=1e-4)
            assert own_end[0] == terminated[b], t


def test_a_dream_begins_at_a_start_with_ms_state_there_and_z_drawn_from_the_posterior(mdrnn, starts):
    index = torch.tensor([4]).repeat(5000)
    dream = begin(starts, index, torch.randn(5000, Z, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(dream.h, starts.state.h[index])
    assert torch.equal(dream.state.more["c"], starts.state.more["c"][index])
    torch.testing.assert_close(dream.z.mean(0), starts.latents["mu"][4], atol=0.1, rtol=0)
    torch.testing.assert_close(dream.z.std(0), starts.latents["logsigma"][4].exp(), atol=0, rtol=0.1)


def test_temperature_0_is_deterministic_and_1_is_not(mdrnn, starts):
    dream, action = begin(starts, torch.arange(STARTS), torch.zeros(STARTS, Z)), torch.zeros(STARTS, 3)

    def after(temperature, seed):
        stepped, reward, terminated = step(
            mdrnn, dream, action, temperature, mdrnn.drawn(STARTS, torch.Generator().manual_seed(seed))
        )
        return stepped.z, terminated

    for one, other in zip(after(0, 1), after(0, 2), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(after(1, 1)[0], after(1, 2)[0])
    spread = [
        torch.stack([after(temperature, seed)[0] for seed in range(20)]).std(0).mean()
        for temperature in (0.1, 1.0, 1.3)
    ]
    assert spread[0] < spread[1] < spread[2]


def test_ends_come_as_often_as_m_expects_them(mdrnn, starts):
    with torch.no_grad():
        mdrnn.head.weight[-1].zero_()
        mdrnn.head.bias[-1] = torch.tensor(0.3).logit()
    dream = begin(starts, torch.zeros(10_000, dtype=torch.long), torch.zeros(10_000, Z))
    _, _, terminated = step(
        mdrnn, dream, torch.zeros(10_000, 3), 1.0, mdrnn.drawn(10_000, torch.Generator().manual_seed(1))
    )
    assert abs(terminated.float().mean() - 0.3) < 0.02


# As a world


def test_the_world_is_the_pure_functions_one_after_another(world):
    dreaming = world(5, horizon=50, restart=False, observation="latent", temperature=0.7)
    certain(dreaming.memory, ends=False)
    dreaming.reset(3)
    noise = DreamNoise(dreaming.vision, dreaming.memory, 5, dreaming.device)
    dream = begin(dreaming.starts, *noise.begin(range(5), range(3, 8), len(dreaming.starts)))
    assert torch.equal(dream.z, dreaming.dream.z)
    for t in range(20):
        action, drawn = torch.tensor([0, 1, 1, 0, t % 2]), noise.step()
        drawn = Noise(drawn.gumbel[:5], drawn.normal[:5], drawn.uniform[:5])
        vector = dreaming.spec.space.vector(action)
        dream, reward, _ = step(dreaming.memory, dream, vector, 0.7, drawn)
        result = dreaming.step(action)
        torch.testing.assert_close(result.obs, dream.z)
        torch.testing.assert_close(result.reward, reward)


def test_the_same_seed_gives_the_same_dream_and_another_seed_another(world):
    one, again, other = drive(world(), 10), drive(world(), 10), drive(world(), 10, seed=6)
    for a, b in zip(one, again, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one[0], other[0])
    used = world()
    drive(used, 7, seed=9)
    assert torch.equal(drive(used, 10)[0], one[0]), "what was dreamed before must not matter"


@pytest.mark.parametrize("temperature", [0.7, 0.0])
def test_what_is_dreamed_from_a_seed_depends_on_nobody_beside_it(temperature, world):
    """To the last bit: latents, rewards and ends of seed 9 in batches of 1 to 64, over more than a block of noise."""

    def dreamed(seeds):
        """z (T, B, Z), reward (T, B) and terminated (T, B), with actions that follow from the step alone."""
        dreaming = world(len(seeds), horizon=BLOCK + 9, observation="latent", temperature=temperature, restart=False)
        torch.manual_seed(0)
        torch.nn.init.normal_(dreaming.memory.head.weight, std=0.2)
        with torch.no_grad():
            dreaming.memory.head.bias[-1] = -5  # ends now and then
        dreaming.reset(seeds)
        return [
            torch.stack(values)
            for values in zip(
                *(
                    (result.obs, result.reward, result.terminated)
                    for t in range(BLOCK + 9)
                    for result in [dreaming.step(torch.full((len(seeds),), t % 2))]
                ),
                strict=True,
            )
        ]

    whole = dreamed([9, *range(100, 163)])
    assert whole[2].any() == (temperature > 0) and not whole[2].all(), "none ends, or all do: this test shows less"
    for beside in ([], [4], [10, 11], [8, 3, 2], range(200, 236)):
        for one, other in zip(dreamed([*beside, 9]), whole, strict=True):
            assert torch.equal(one[:, -1], other[:, 0])


def test_a_dream_that_begins_again_is_the_dream_of_the_next_seed(world):
    """The restart rule: copy b's n-th restart uses seed_b + n * num; what is drawn ahead of an end is not used."""
    dreaming = world(2, horizon=5, observation="latent")
    certain(dreaming.memory, ends=False)
    again, later = drive(dreaming, 14, seed=5)[0], drive(dreaming, 4, seed=7)[0]
    assert torch.equal(again[5], later[0]) and not torch.equal(again[5], again[0])


def test_returns_follow_from_the_seed_whatever_else_is_in_the_batch(world):
    """Seed 2,000,000 once scored -2.18 among 2 episodes and 7.52 among 4."""
    found = {}
    for num in (1, 2, 4, 5):
        dreaming = world(num, horizon=30, restart=False)
        torch.manual_seed(0)
        found[num] = dream_returns(dreaming, load_agent_controller(dreaming), [2_000_000 + k for k in range(num)])
    assert found[1] == found[2][:1] == found[4][:1] and found[2] == found[4][:2] and found[4] == found[5][:4]
    assert len(set(found[5])) == 5


def test_frames_are_the_decoded_latents(world):
    frames, latents = drive(world(), 5)[0], drive(world(observation="latent"), 5)[0]
    assert frames.dtype == torch.uint8 and frames.shape == (6, 3, 64, 64, 3) and latents.shape == (6, 3, 8)
    for t in range(6):
        assert torch.equal(world().decode(latents[t]), frames[t])


@pytest.mark.parametrize("ends", [True, False])
def test_without_restart_a_finished_dream_stays_as_it_is_and_gets_no_more_reward(ends, world):
    dreaming = world(horizon=4, restart=False, observation="latent")
    certain(dreaming.memory, ends)
    obs, reward, terminated, truncated = drive(dreaming, 8)
    last = 1 if ends else 4
    assert (terminated if ends else truncated)[last - 1 :].all() and not (terminated | truncated)[: last - 1].any()
    assert not (truncated if ends else terminated).any()
    assert (obs[last:] == obs[last]).all() and (reward[last:] == 0).all() and (reward[:last] != 0).all()


def test_without_restart_each_dream_ends_on_its_own(world):
    """M ends the first dream in the first step; the others continue as if nothing had happened."""
    whole, cut = (world(3, horizon=9, restart=False, observation="latent") for _ in range(2))
    for dreaming in (whole, cut):
        certain(dreaming.memory, ends=False)
    first = torch.tensor([1, 0, 0])
    for dreaming in (whole, cut):
        dreaming.reset(0)
    cut._terminated = first.bool()
    for _ in range(5):
        a, b = whole.step(first), cut.step(first)
        assert (
            torch.equal(a.obs[1:], b.obs[1:])
            and torch.equal(a.reward[1:], b.reward[1:])
            and b.reward[0] == 0
            and not torch.equal(a.obs[0], b.obs[0])
        )


@pytest.mark.parametrize("ends", [True, False])
def test_with_restart_a_finished_dream_begins_again_and_shows_its_last_frame(ends, world):
    dreaming = world(horizon=3, observation="latent")
    certain(dreaming.memory, ends)
    dreaming.starts.latents["logsigma"].fill_(-1e4)  # so that a dream begins just at the mean
    dreaming.reset(0)
    real = {tuple(row) for row in dreaming.starts.latents["mu"].tolist()}
    for t in range(1, 8):
        result = dreaming.step(torch.zeros(3, dtype=torch.long))
        over = ends or t % 3 == 0
        assert (
            (result.terminated == (over and ends)).all()
            and (result.truncated == (over and not ends)).all()
            and (result.reward != 0).all()
        )
        assert all((tuple(row) in real) == over for row in result.obs.tolist())
        assert all(tuple(row) not in real for row in result.info["final_obs"].tolist())
        assert over or torch.equal(result.obs, result.info["final_obs"])


def test_starts_are_real_latents_of_the_train_split_with_ms_state_after_the_real_steps_before_them(trained):
    saved, agent = checkpoint.load_parent(trained.logdir, "mdrnn"), load_agent(trained.logdir)
    data = load_sequences(trained.logdir, agent.vision, saved["parents"]["vae"], open_datasets([trained.data]))
    starts = Starts.from_dict(saved["starts"], agent.vision)
    mu, state = starts.latents["mu"], starts.state
    place = {}
    for e in data.episodes("train"):
        for t in range(data.steps[e]):
            place.setdefault(tuple(data.latents["mu"][data.frame_offset[e] + t].tolist()), []).append((e, t))
    warmed = 0
    for i in range(0, len(starts), 16):
        matches = []
        for e, t in place[tuple(mu[i].tolist())]:  # a KeyError here: it is no latent of the train split
            z, action, _ = data.episode(e)
            before = slice(max(0, t - WARM_UP), t)
            with torch.inference_mode():
                _, own = (
                    agent.memory.observe(z[None, before], action[None, before])
                    if t
                    else (None, agent.memory.initial(1))
                )
            matches.append(
                torch.allclose(own.h[0], state.h[i], atol=1e-5)
                and torch.allclose(own.more["c"][0], state.more["c"][i], atol=1e-5)
            )
            warmed += t > 0
        assert any(matches)
    assert warmed > 20 and len(set(map(tuple, mu.tolist()))) > 50


def test_returns_of_dreams_count_every_reward_up_to_the_end(world):
    dreaming = world(2, horizon=6, restart=False)
    certain(dreaming.memory, ends=False)
    controller = load_agent_controller(dreaming)
    found = dream_returns(dreaming, controller, [8, 9])
    dreaming.reset([8, 9])
    wanted = torch.zeros(2)
    with torch.inference_mode():
        for _ in range(6):
            wanted += dreaming.step(controller(dreaming.dream.z, dreaming.dream.h)).reward
    torch.testing.assert_close(torch.tensor(found), wanted)
    with pytest.raises(ValueError, match="restart=False"):
        dream_returns(world(2), controller, [8, 9])


def load_agent_controller(world):
    config = world.memory.config
    return Controller(ControllerConfig(config.latent, config.hidden, "zh", 0, world.world["action_space"]))


def test_actions_and_temperatures_that_are_no_numbers_are_refused(world):
    dreaming = world()
    dreaming.reset(0)
    with pytest.raises(UserError, match="is not finite"):
        dreaming.step(torch.tensor([0.0, float("nan"), 1.0]))
    with pytest.raises(UserError, match="temperature of a dream"):
        world(temperature=float("nan"))


# As a gymnasium environment


@pytest.mark.parametrize("observation", ["frame", "latent"])
def test_gymnasium_finds_nothing_wrong(observation, trained):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # a latent has no bounds
        warnings.filterwarnings("ignore", message=".*(minimum|maximum) value is (-)?infinity.*")
        env = gym.make(
            "dreamdrive/Dream-v0", logdir=trained.logdir, observation=observation, horizon=5, render_mode="rgb_array"
        )
        check_env(env.unwrapped, skip_render_check=True)  # which would want to open every other render mode, too
    obs, _ = env.reset(seed=3)
    assert env.observation_space.contains(obs) and env.render().shape == (64, 64, 3)
    rewards, truncated = [], False
    while not truncated:
        obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        rewards.append(reward)
        if terminated:
            break
    assert len(rewards) <= 5 and all(isinstance(r, float) for r in rewards)
    env.close()


def test_the_environment_refuses_an_observation_it_does_not_know(trained):
    with pytest.raises(UserError, match='must be "frame" or "latent", not "pixels"'):
        gym.make("dreamdrive/Dream-v0", logdir=trained.logdir, observation="pixels")


# The fitness of evolution


def fitness_by_hand(mdrnn, controller, candidate, starts, num, horizon, temperature, seed):
    """Mean return of one candidate, dream by dream, step by step."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(len(starts), (num,), generator=generator)
    dreams = begin(starts, index, torch.randn(num, Z, generator=generator))
    noise = [mdrnn.drawn(num, generator) for _ in range(horizon)]
    set_parameters(controller, candidate)
    total = 0.0
    with torch.inference_mode():
        for s in range(num):
            dream = Dream(dreams.z[s : s + 1], dreams.state.take(slice(s, s + 1)))
            for t in range(horizon):
                own = Noise(noise[t].gumbel[s : s + 1], noise[t].normal[s : s + 1], noise[t].uniform[s : s + 1])
                action = controller.space.vector(controller(dream.z, dream.h))
                dream, reward, terminated = step(mdrnn, dream, action, temperature, own)
                total += float(reward)
                if terminated:
                    break
    return total / num


@pytest.mark.parametrize(
    ("space", "features", "temperature"), [(BOX, "zh", 1.0), (BOX, "z", 0.0), ({"type": "discrete", "n": 3}, "zh", 1.3)]
)
def test_fitness_equals_a_loop_over_candidates_and_dreams(space, features, temperature, mdrnn, starts):
    torch.manual_seed(2)
    controller = Controller(ControllerConfig(Z, R, features, 0, space)).requires_grad_(False)
    candidates = torch.randn(5, len(parameter_vector(controller)))
    found = dream_fitness(mdrnn, controller, candidates, starts, 4, 12, temperature, torch.Generator().manual_seed(7))
    wanted = [fitness_by_hand(mdrnn, controller, c, starts, 4, 12, temperature, 7) for c in candidates]
    torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-3, rtol=1e-3)
    assert found.std() > 0.01, "all candidates are alike, so this test shows nothing"


def test_finished_dreams_add_nothing_to_the_fitness(mdrnn, starts):
    controller = Controller(ControllerConfig(Z, R, "zh", 0, BOX)).requires_grad_(False)
    candidates = torch.randn(3, len(parameter_vector(controller)))

    def fitness(horizon):
        return dream_fitness(mdrnn, controller, candidates, starts, 4, horizon, 1.0, torch.Generator().manual_seed(7))

    certain(mdrnn, ends=True)
    assert torch.equal(fitness(100), fitness(1)) and (fitness(1) != 0).all()
    certain(mdrnn, ends=False)
    assert not torch.equal(fitness(100), fitness(1))


def test_all_candidates_of_a_generation_meet_the_same_noise_and_the_next_generation_another(mdrnn, starts):
    args = SimpleNamespace(seed=0, horizon=10, temperature=1.0, logdir="run")
    controller = Controller(ControllerConfig(Z, R, "zh", 0, BOX)).requires_grad_(False)
    fitness = DreamFitness(args, WorldModel(starts.vision, mdrnn, {}, starts, {}), controller)
    same = torch.randn(1, len(parameter_vector(controller))).repeat(4, 1)
    first = fitness(same, 1, 3, False, None)
    torch.testing.assert_close(first, first[:1].expand(4))
    assert torch.equal(first, fitness(same, 1, 3, False, None)) and not torch.equal(
        first, fitness(same, 2, 3, False, None)
    )
    assert not torch.isclose(first[0], fitness(same[:1], 1, 3, True, None)[0]), (
        "fresh starts must not be those of the candidates"
    )


def test_fresh_starts_are_frames_that_no_candidate_meets(mdrnn):
    """A frame that is drawn more than once is on one side only; a world's only beginning is the candidates'."""
    torch.manual_seed(3)
    frame = torch.randint(300, (1024,))
    frame[:512] = 299  # all episodes begin alike
    starts = at(torch.randn(300, Z)[frame])
    apart = kept_apart(starts)
    fresh, met = set(frame[apart].tolist()), set(frame[~apart].tolist())
    assert not fresh & met and 299 in met and len(fresh) == len(fresh | met) // APART
    args = SimpleNamespace(seed=0, horizon=10, temperature=1.0, logdir="run")
    controller = Controller(ControllerConfig(Z, R, "zh", 0, BOX)).requires_grad_(False)
    found, mu = (
        DreamFitness(args, WorldModel(starts.vision, mdrnn, {}, starts, {}), controller).starts,
        starts.latents["mu"],
    )
    assert torch.equal(found[True].latents["mu"], mu[apart]) and torch.equal(found[False].latents["mu"], mu[~apart])
    few = at(torch.zeros(5, Z))
    one = DreamFitness(args, WorldModel(few.vision, mdrnn, {}, few, {}), controller)
    assert len(one.starts[True]) == 5  # there is but one frame


def test_scores_that_are_not_numbers_become_the_worst_or_stop_the_run():
    assert finite(torch.tensor([3.0, float("nan"), -2.0, float("inf")])).tolist() == [3, -2, -2, -2]
    with pytest.raises(UserError, match="no candidate of this generation has a finite score"):
        finite(torch.tensor([float("nan"), float("-inf")]))
