"""Where experts were, as latents; dreams that begin there; what is learnt in them; and the pictures of it."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from dreamdrive.data.latents import cache_latents, load_sequences
from dreamdrive.data.loaders import open_datasets
from dreamdrive.data.steps import Steps
from dreamdrive.driving.dreaming import dream_on
from dreamdrive.envs.dream import Dream
from dreamdrive.learning.actor_critic import lambda_returns
from dreamdrive.learning.ditto import Ditto, similarity
from dreamdrive.learning.dream_report import PICTURE, STRIP_STRIDE, recorded_frames, says, with_actions
from dreamdrive.learning.imagination import STRIDE, Dreams, Nearest, Setting, expert_latents
from dreamdrive.models.cloning import CloneLoss
from dreamdrive.models.controller import Controller, ControllerConfig
from dreamdrive.models.mdrnn import MDRNN, MDRNNConfig
from dreamdrive.models.vae import VAE, VAEConfig
from dreamdrive.models.world_model import WorldModel
from dreamdrive.tests.tiny_run import BOX, DISCRETE, write_dataset
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.spaces import ActionSpace

LENGTHS = [45, 7, 33, 21]  # episode 3 is for validation


@pytest.fixture(scope="module", params=[BOX, DISCRETE], ids=["box", "discrete"])
def dreams(request, tmp_path_factory) -> Dreams:
    """Dreams of a V and an M that have learnt nothing."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dreams")
    write_dataset(folder / "data", LENGTHS, space=request.param)
    vision = VAE(VAEConfig(latent=4)).eval().requires_grad_(False)
    memory = MDRNN(MDRNNConfig(4, 3 if request.param is DISCRETE else 2, hidden=8)).eval().requires_grad_(False)
    model = WorldModel(vision, memory, {"action_space": request.param}, None, {"vae": "v" * 64})
    setting = Setting(horizon=6, num=16, temperature=1.0, seed=0)
    return Dreams(folder, model, open_datasets([folder / "data"]), setting)


def head(dreams: Dreams) -> Controller:
    torch.manual_seed(1)
    return Controller(ControllerConfig(4, 8, "zh", 16, dreams.model.world["action_space"]))


def sequences(dreams: Dreams):
    digest = dreams.model.parents["vae"]
    cache_latents(dreams.logdir, dreams.vision, digest, dreams.datasets, dreams.where)
    return load_sequences(dreams.logdir, dreams.vision, digest, dreams.datasets)


# Where experts were


def test_m_knows_at_every_frame_what_it_would_know_in_use(dreams):
    data, latents = sequences(dreams), dreams.recorded["train"]
    assert len(latents.z) == sum(LENGTHS[:3]) + 3
    first = 0
    for e, steps in enumerate(LENGTHS[:3]):
        z, action, expert = data.episode(e)
        state = dreams.memory.initial(1)
        for t in range(steps + 1):
            torch.testing.assert_close(latents.h[first + t], state.h[0], atol=1e-6, rtol=1e-5)
            if t % STRIDE == 0 and t < steps:
                start = int((latents.starts == first + t).nonzero())
                torch.testing.assert_close(latents.state.h[start], state.h[0], atol=1e-6, rtol=1e-5)
                torch.testing.assert_close(latents.state.more["c"][start], state.more["c"][0], atol=1e-6, rtol=1e-5)
            if t < steps:
                _, state = dreams.memory.observe(z[None, t : t + 1], action[None, t : t + 1], state)
        assert torch.equal(latents.z[first : first + steps + 1], z) and torch.equal(
            latents.action[first : first + steps], expert
        )
        assert not latents.is_known[first + steps] and latents.left[first] == steps and latents.left[first + steps] == 0
        first += steps + 1


def test_frames_of_a_latent_are_those_that_were_recorded(dreams):
    for split, episode in (("train", 2), ("val", 3)):
        latents = dreams.recorded[split]
        at = int(latents.frame[-1]) - LENGTHS[episode]
        frames = recorded_frames(dreams.datasets, at, at + LENGTHS[episode] + 1)
        assert [(int(f[0, 0, 0]), int(f[0, 0, 2])) for f in frames] == [
            (episode, t) for t in range(LENGTHS[episode] + 1)
        ]


def test_only_steps_with_an_expert_are_learnt_from(dreams):
    latents = dreams.recorded["train"]
    steps = latents.steps(16)
    assert len(steps) == sum(LENGTHS[:3])
    met = torch.cat([action for _, _, action in steps.batches(1, np.random.default_rng(0))])
    assert len(met) == len(steps) and len(latents.known()) == len(steps)
    dreamt = dreams.vision.fixed(torch.ones(5, 4))
    more = steps.joined(dreamt, torch.ones(5, 8), torch.zeros(5, met.shape[1]))
    z = torch.cat([z for z, _, _ in more.batches(1, None)])
    assert len(more) == len(steps) + 5 and torch.equal(z[-5:], torch.ones(5, 4))
    drawn = torch.cat([z for z, h, _ in more.batches(1, np.random.default_rng(0))])
    assert (drawn == 1).all(1).sum() == 5 and drawn.isfinite().all()  # what was dreamt is not drawn anew


def test_a_split_without_an_expert_has_nothing_to_learn_from(dreams, tmp_path):
    dataset = write_dataset(tmp_path / "data", LENGTHS, space=dreams.model.world["action_space"], expert=False)
    digest = dreams.model.parents["vae"]
    cache_latents(tmp_path, dreams.vision, digest, [dataset], dreams.where)
    data = load_sequences(tmp_path, dreams.vision, digest, [dataset])
    latents = expert_latents(data, dreams.memory, "train")
    assert len(latents.steps(8)) == 0 and len(latents.starts) == len(latents.state) == 0


def test_dreams_begin_where_enough_is_left_of_an_episode(dreams):
    latents = dreams.recorded["train"]
    assert [int(latents.left[latents.starts[i]]) for i in latents.long(20)] == [45, 35, 25, 33, 23]
    z, h = latents.after(latents.long(20), 20)
    begun = latents.begin(latents.long(20))
    assert z.shape == (21, 5, 4) and torch.equal(z[0], begun.z) and torch.equal(h[0], begun.h)


# Drifting, and the expert of the most similar moment


def test_dreams_end_when_m_says_so(dreams):
    certain = MDRNN(dreams.memory.config)
    with torch.no_grad():
        certain.head.bias[-1] = 100.0  # the logit of the end
    begun = Dream(torch.zeros(3, 4), certain.initial(3))
    dreamt = dream_on(
        certain, begun, 4, lambda z, h: torch.zeros(3, certain.config.action), 1.0, torch.Generator().manual_seed(0)
    )
    assert dreamt.z.shape == (5, 3, 4) and dreamt.h.shape == (5, 3, 8)
    assert dreamt.action.shape == (4, 3, certain.config.action)
    assert dreamt.alive.tolist() == [[1.0] * 3, *[[0.0] * 3] * 4] and (dreamt.reward[1:] == 0).all()


def test_the_nearest_experts_action_is_found(dreams):
    latents = dreams.recorded["train"]
    known = latents.known()[torch.randperm(len(latents.known()), generator=torch.Generator().manual_seed(0))]
    assert torch.equal(Nearest(latents).action(latents.z[known]), latents.action[known])
    near = Nearest(latents).action(latents.z[known] + 1e-4)
    assert torch.equal(near, latents.action[known])


def test_dagger_adds_what_the_clone_drifts_into(dreams):
    once = dreams.drift(head(dreams), None, np.random.default_rng(0))
    twice = dreams.drift(head(dreams), once, np.random.default_rng(1))
    assert (
        0 < len(once["z"]) <= 16 * 2
        and len(twice["z"]) > len(once["z"])
        and all(torch.equal(twice[name][: len(once["z"])], once[name]) for name in once)
    )
    assert {value.dtype for value in once.values()} == {torch.float16}
    z, h, action = (once[name].float() for name in ("z", "h", "action"))
    assert isinstance(dreams.recorded["train"].steps(8).joined(dreams.vision.fixed(z), h, action), Steps)


# DITTO


def test_the_reward_is_one_for_the_same_and_less_for_another_direction_or_length():
    a = torch.tensor([[3.0, 4.0]])
    assert similarity(a, a) == 1 and similarity(a, 2 * a) == similarity(2 * a, a) == 0.5 and similarity(a, -a) == -1
    assert similarity(a, torch.tensor([[-4.0, 3.0]])) == 0 and similarity(0 * a, 0 * a).isfinite()


def test_lambda_returns_are_those_of_the_definition():
    rng = torch.Generator().manual_seed(0)
    reward, discount, value = (
        torch.rand(5, 3, generator=rng),
        torch.rand(5, 3, generator=rng),
        torch.rand(6, 3, generator=rng),
    )
    found = lambda_returns(reward, discount, value, 0.7)

    def n_step(t: int, n: int) -> torch.Tensor:
        total, factor = torch.zeros(3), torch.ones(3)
        for k in range(t, t + n):
            total, factor = total + factor * reward[k], factor * discount[k]
        return total + factor * value[t + n]

    for t in range(5):
        left = 5 - t
        mixed = sum(0.3 * 0.7 ** (n - 1) * n_step(t, n) for n in range(1, left)) + 0.7 ** (left - 1) * n_step(t, left)
        torch.testing.assert_close(found[t], mixed)


def test_ditto_learns_to_do_what_the_expert_did():
    """A world in which z becomes the action: to see what the expert saw is to do what it did."""
    torch.manual_seed(0)
    wanted = torch.tensor([0.6, 0.5])
    ditto = Ditto(Controller(ControllerConfig(2, 1, "z", 0, BOX)), 2, 1, 1e-2, 0.05, 0.02)
    generator = torch.Generator().manual_seed(0)
    for _ in range(1000):
        ditto.begin(32, generator)
        z, actions = [torch.zeros(32, 2)], []
        for _ in range(4):
            actions.append(ditto.act(z[-1], torch.zeros(32, 1)))
            z.append(actions[-1])
        z, alive = torch.stack(z), torch.ones(5, 32)
        learnt = ditto.imitate(
            z, torch.zeros(5, 32, 1), torch.stack(actions), alive, similarity(z[1:], wanted.expand(4, 32, 2))
        )
    assert learnt["reward"] > 0.8
    torch.testing.assert_close(ditto.actor(wanted, torch.zeros(1)), wanted, atol=0.1, rtol=0)


def test_a_run_of_ditto_goes_on_at_the_rate_it_is_told():
    slow, fast = (
        Ditto(Controller(ControllerConfig(2, 1, "z", 0, BOX)), 2, 1, rate, 0.05, 0.02) for rate in (1e-4, 1e-2)
    )
    slow.load_state_dict(fast.state_dict())
    assert [group["lr"] for optimizer in slow.optimizers for group in optimizer.param_groups] == [1e-4] * 2


def test_ditto_learns_choices_from_the_returns_alone():
    torch.manual_seed(0)
    ditto = Ditto(Controller(ControllerConfig(2, 1, "z", 0, DISCRETE)), 2, 1, 1e-2, 0.2, 0.02)
    generator = torch.Generator().manual_seed(0)
    z, h, alive = torch.randn(5, 64, 2, generator=generator), torch.zeros(5, 64, 1), torch.ones(5, 64)
    for _ in range(300):
        ditto.begin(64, generator)
        with torch.no_grad():
            action = torch.stack([ditto.act(z[t], h[t]) for t in range(4)])
        learnt = ditto.imitate(z, h, action, alive, action[..., 2])  # the third is right
    assert learnt["reward"] > 0.9 and (ditto.actor(z[0], h[0]) == 2).float().mean() > 0.9


def test_dreams_that_are_over_do_not_weigh_what_is_learnt_of_the_others():
    """REINFORCE is in units of the advantage's spread, which dreams that are over would make smaller."""

    def loss(over):
        torch.manual_seed(0)
        ditto = Ditto(Controller(ControllerConfig(2, 1, "z", 0, DISCRETE)), 2, 1, 1e-2, 0.2, 0.02)
        z, reward = torch.randn(3, 8, 2), torch.randn(2, 8)
        action = torch.eye(3)[torch.randint(3, (2, 8))]
        alive = torch.cat([torch.ones(3, 8), torch.zeros(3, over)], 1)
        z, action, reward = (torch.cat([part, part[:, :over]], 1) for part in (z, action, reward))
        return ditto.imitate(z, z[..., :1], action, alive, reward)["loss"]

    torch.testing.assert_close(loss(6), loss(0))


@pytest.mark.parametrize("space, options", [(DISCRETE, {"smoothing": 0.3}), (BOX, {"kind": "gaussian"})])
def test_dittos_anchor_is_the_loss_the_clone_was_trained_by(space, options):
    torch.manual_seed(0)
    model = Controller(ControllerConfig(2, 1, "z", 0, space))
    size = model.space.size
    z, h, experts = torch.randn(3, 4, 2), torch.zeros(3, 4, 1), torch.eye(size)[torch.arange(4) % size]
    action, alive, reward = torch.zeros(2, 4, size), torch.ones(3, 4), torch.randn(2, 4, requires_grad=True)
    criterion = CloneLoss(model.space, **options)
    cloning = criterion.train()(model.outputs(z[0], h[0]), experts)
    criterion.eval()  # as a validation before it leaves it
    losses = []
    for anchor in (0.0, 5.0):
        torch.manual_seed(1)
        ditto = Ditto(deepcopy(model), 2, 1, 1e-2, 0.2, 0.02, anchor, criterion)
        losses.append(ditto.imitate(z, h, action, alive, reward, (z[0], h[0], experts))["loss"])
    torch.testing.assert_close(losses[1] - losses[0], 5 * cloning.detach())


def test_nothing_is_learnt_after_the_end_of_a_dream():
    ditto = Ditto(Controller(ControllerConfig(2, 1, "z", 0, BOX)), 2, 1, 1e-2, 0.2, 0.02)
    found = []
    for late in (0.0, 100.0):
        torch.manual_seed(0)
        ditto.actor.load_state_dict(Controller(ControllerConfig(2, 1, "z", 0, BOX)).state_dict())
        ditto = Ditto(ditto.actor, 2, 1, 1e-2, 0.2, 0.02)
        ditto.begin(8, torch.Generator().manual_seed(0))
        action = torch.stack([ditto.act(torch.zeros(8, 2), torch.zeros(8, 1)) for _ in range(3)])
        alive = torch.tensor([1.0, 1.0, 0.0, 0.0])[:, None].expand(4, 8)
        reward = action.sum(-1) * torch.tensor([1.0, late, late])[:, None]
        found.append(
            (
                ditto.imitate(torch.zeros(4, 8, 2), torch.zeros(4, 8, 1), action, alive, reward),
                ditto.actor.layers[0].bias.tolist(),
            )
        )
    assert found[0] == found[1]


def test_what_was_really_done_is_done_again(dreams):
    """Steps of the recording, in a dream that M would have to foresee; with what M saw in place of z, h follows what it
    was."""
    latents = dreams.experts["val"]
    chosen = latents.long(4)[:2]
    act = latents.replay(chosen)
    for t in range(4):
        assert torch.equal(act(None, None), latents.driven[latents.starts[chosen] + t])
    z, h = latents.after(chosen, 4)
    begun, act = latents.begin(chosen), latents.replay(chosen)
    state = begun.state
    for t in range(4):
        after, state = dreams.memory.observe(z[t][:, None], act(None, None)[:, None], state)
        torch.testing.assert_close(after[:, -1], h[t + 1])
    assert len(dreams.judge(None).distance) == 6


def test_updates_and_judgements_repeat(dreams):
    results = []
    for _ in range(2):
        model = head(dreams)
        torch.manual_seed(2)
        ditto = Ditto(model, 4, 8, 1e-3, 0.2, 0.02)
        with Bar(disable=True) as bar:
            learnt = dreams.imitate(ditto, 3, np.random.default_rng(0), bar)
        judged = dreams.judge(dreams.act(model))
        results.append((learnt, judged.likeness, judged.reward, judged.distance.tolist()))
    assert results[0] == results[1] and len(results[0][3]) == 6
    assert dreams.judge(dreams.act(head(dreams))).likeness != results[0][1]  # the clone has changed


def test_the_pictures_of_a_strip_say_what_was_done_there():
    frames = [np.full((64, 64, 3), 100, np.uint8)] * (2 * STRIP_STRIDE + 1)
    actions = torch.tensor([[0.5, -1.0]] * (2 * STRIP_STRIDE))  # none at the last
    pictures = with_actions(frames, actions, torch.ones(len(actions)), ActionSpace.from_dict(BOX))
    assert len({picture.shape for picture in pictures}) == 1 and all(
        (picture[:PICTURE] == 100).all() for picture in pictures
    )
    assert [bool(picture[PICTURE:].max() > 150) for picture in pictures] == [True, True, False]


def test_actions_are_put_into_words():
    assert (
        says(torch.tensor([0.0, 1.0, 0.0]), ActionSpace.from_dict(DISCRETE)) == "action 1"
        and says(torch.tensor([-0.5, 1.0]), ActionSpace.from_dict(BOX)) == "action -0.50 +1.00"
        and says(torch.zeros(2), ActionSpace.from_dict(BOX), known=False) == "action unknown"
    )
