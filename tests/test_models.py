"""V, M and C against hand-independent references, and what holds for every kind of V and M."""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence
from tqdm import tqdm

from dreamdrive.data.latents import cache_latents, load_sequences
from dreamdrive.data.loaders import Windows
from dreamdrive.driving.agent import Agent
from dreamdrive.envs.dream import Dream, DreamWorld, begin, step
from dreamdrive.models.controller import Controller, ControllerConfig, parameter_vector, set_parameters
from dreamdrive.models.mdrnn import (
    MDRNN,
    Ensemble,
    EnsembleConfig,
    MDRNNConfig,
    Noise,
    mdrnn_loss,
    mixture_log_likelihood,
    sample_mixture,
)
from dreamdrive.models.reconstruction import FREE_BITS, Perceptual, Weights
from dreamdrive.models.token_memory import TokenMemory
from dreamdrive.models.vae import VAE, Posterior, VAEConfig, colour_index, colour_weights, to_float, to_uint8, vae_loss
from dreamdrive.models.world_model import (
    KINDS,
    Imagined,
    Memory,
    Starts,
    State,
    Vision,
    build,
    latents_at,
    load_vision,
    load_world_model,
)
from dreamdrive.tests import tiny_run
from dreamdrive.trainmdrnn import dream_starts, run_epoch, save_strip
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.spaces import ActionSpace

BOX = {"type": "box", "low": [-1.0, 0.0, 0.0], "high": [1.0, 1.0, 1.0]}
WORLD = {"env": "gym:Made-up", "image_shape": [64, 64, 3], "action_space": BOX, "dt": 0.02, "max_steps": 100}
# A small one of every kind: a new kind has its line here, too.
SMALL = {
    ("vae", "gaussian"): {"latent": 4, "channels": 3, "size": 64, "grid": False, "fine_shades": True, "guesses": True},
    ("mdrnn", "lstm-mixture"): {
        "latent": 4,
        "action": 3,
        "hidden": 8,
        "mixtures": 2,
        "reward": True,
        "reward_scale": 2.5,
    },
}
TOKENS = {"tokens": 16, "channels": 3, "size": 64, "fine_shades": True, "guesses": True}
SMALL["vae", "fsq"] = {**TOKENS, "levels": (4, 3)}
SMALL["vae", "vq"] = {**TOKENS, "codes": 20, "numbers": 3}
FORESEEN = {
    "latent": 4,
    "action": 3,
    "hidden": 8,
    "letters": (3, 2),
    "numbers": 1,
    "width": 6,
    "reward": True,
    "reward_scale": 2.5,
}
ATTENTIVE = {"layers": 2, "heads": 2, "context": 4, "dropout": 0.0, "frozen": 0}
for core, sizes in (("lstm", {}), ("cfc", {}), ("ncp", {"layers": 2, "neurons": 13}), ("frames", ATTENTIVE)):
    SMALL["mdrnn", f"{core}-mixture"] = {**SMALL["mdrnn", "lstm-mixture"], **sizes}
    SMALL["mdrnn", f"{core}-once"] = SMALL["mdrnn", f"{core}-sequence"] = {**FORESEEN, **sizes}
SMALL["mdrnn", "tokens-once"] = SMALL["mdrnn", "tokens-sequence"] = {**FORESEEN, **ATTENTIVE}
SMALL["mdrnn", "lstm-mixture-ensemble"] = {**SMALL["mdrnn", "lstm-mixture"], "hidden": 12, "members": 3}
EVERY = list(SMALL)  # but a simulator, which is in tests/test_simulated.py
LEARNT = [kind for stage, kind in EVERY if stage == "mdrnn"]


@pytest.fixture
def mdrnn() -> MDRNN:
    torch.manual_seed(0)
    return MDRNN(MDRNNConfig(latent=4, action=3, hidden=16, mixtures=5))


def test_vae_loss_is_squared_error_plus_kl_with_free_bits():
    torch.manual_seed(0)
    obs, reconstruction = torch.rand(3, 3, 64, 64), torch.rand(3, 3, 64, 64)
    for scale in (0.01, 3.0):  # below and above the free bits
        posterior = Posterior(scale * torch.randn(3, 32), scale * torch.randn(3, 32).abs())
        kl = kl_divergence(
            Normal(posterior.mu, posterior.logsigma.exp()), Normal(torch.zeros(3, 32), torch.ones(3, 32))
        ).sum(1)
        error = Weights().error(obs, reconstruction)
        losses = vae_loss(error, posterior)
        torch.testing.assert_close(losses["kl"], kl.mean())
        expected = (
            nn.functional.mse_loss(reconstruction, obs, reduction="sum") / 3 + kl.clamp(min=FREE_BITS * 32).mean()
        )
        torch.testing.assert_close(losses["loss"], expected)
        weighed = vae_loss(error, posterior, beta=0.25)["loss"]
        torch.testing.assert_close(weighed, expected - 0.75 * kl.clamp(min=FREE_BITS * 32).mean())
        without = vae_loss(error, posterior, free_bits=0.0)["loss"]
        torch.testing.assert_close(without, error + kl.mean())


def test_balanced_colours_weigh_the_same_in_all():
    frames = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    frames[:, :2, :3] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    frames[0, 10, :7] = torch.tensor([0, 128, 255], dtype=torch.uint8)
    index = colour_index(frames)
    assert index.shape == (2, 64, 64) and len(index.unique()) == 3
    for balance, wanted in ((1.0, [1 / 3] * 3), (0.0, [(8192 - 19) / 8192, 12 / 8192, 7 / 8192])):
        weight = colour_weights(frames, balance)[index]
        shares = [
            float(weight[index == colour].sum() / weight.sum())
            for colour in (index[0, 30, 30], index[0, 0, 0], index[0, 10, 0])
        ]
        assert weight.mean().item() == pytest.approx(1) and shares == pytest.approx(wanted, rel=1e-4)


def test_a_weighted_reconstruction_error_counts_where_the_weight_is():
    obs, reconstruction = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
    reconstruction[0, :, 5, 5], reconstruction[0, :, 6, 6] = 1.0, 1.0
    weight = torch.ones(1, 1, 64, 64)
    weight[..., 5, 5] = 10.0
    reconstruction[0, 0, 6, 6] = 0.5
    for terms, weighed, plain in ((("l2",), 32.25, 5.25), (("l1",), 32.5, 5.5), (("l1", "l2"), 64.75, 10.75)):
        weights = Weights(terms=terms)
        assert weights.error(obs, reconstruction, weight).item() == pytest.approx(weighed)
        assert weights.error(obs, reconstruction).item() == pytest.approx(plain)


def vgg(folder: Path) -> Path:
    """A file of the weights of a VGG-16 that has learnt nothing, with torchvision's names."""
    torch.manual_seed(0)
    model, names = Perceptual(), (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    layers = [layer for block in model.blocks for layer in block if isinstance(layer, nn.Conv2d)]
    content = {
        f"features.{number}.{kind}": getattr(layer, kind).data
        for number, layer in zip(names, layers, strict=True)
        for kind in ("weight", "bias")
    }
    torch.save({**content, "classifier.6.bias": torch.zeros(1000)}, folder / "vgg16.pth")
    return folder / "vgg16.pth"


def test_what_a_vgg_sees_differs_where_pictures_do(tmp_path):
    path = vgg(tmp_path)
    model = Perceptual.load(path)
    frames = torch.rand(3, 3, 64, 64)
    near, far = frames + 0.02 * torch.randn_like(frames), torch.rand(3, 3, 64, 64)
    assert not model(frames, frames).any() and (model(frames, near) < model(frames, far)).all()
    seen = torch.load(path)
    first = torch.relu(
        nn.functional.conv2d(
            (frames - model.get_buffer("mean")) / model.get_buffer("spread"),
            seen["features.0.weight"],
            seen["features.0.bias"],
            padding=1,
        )
    )
    second = torch.relu(nn.functional.conv2d(first, seen["features.2.weight"], seen["features.2.bias"], padding=1))
    torch.testing.assert_close(model.features(frames)[0], nn.functional.normalize(second, dim=1, eps=1e-10))
    error = Weights(terms=("perceptual",), perceptual=model).error(frames, near)
    torch.testing.assert_close(error, model(frames, near).mean() * 3 * 64 * 64)
    vae = VAE(VAEConfig(latent=4))
    vae.weigh(Weights(terms=("l1", "perceptual"), perceptual=model))
    batch = torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8)
    vae.loss(batch, vae(batch))["loss"].backward()
    assert all(weight.grad.any() for weight in vae.parameters()), "it is learnt from"
    assert not any("blocks" in name for name in vae.state_dict()), "V does not carry it"


@pytest.mark.parametrize("content", [None, b"", b"no file of torch's", {"features.0.weight": torch.zeros(2)}, [1, 2]])
def test_what_is_no_vgg_is_refused(tmp_path, content):
    path = tmp_path / "vgg16.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match="give the file .* to --vgg") as refused:
        Perceptual.load(path)
    assert "\n" not in str(refused.value)


def test_v_weighs_what_it_was_told_to():
    torch.manual_seed(0)
    vae, frames = VAE(VAEConfig(latent=4)), torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8)
    output, colours = vae(frames), colour_weights(frames, 0.5)
    plain = vae_loss(Weights().error(to_float(frames), output.reconstruction), output.posterior)
    assert all(torch.equal(value, plain[name]) for name, value in vae.loss(frames, output).items())
    vae.weigh(Weights(0.25, colours))
    error = Weights().error(to_float(frames), output.reconstruction, colours[colour_index(frames)][:, None])
    weighed = vae_loss(error, output.posterior, 0.25)
    assert torch.equal(vae.loss(frames, output)["loss"], weighed["loss"]) and weighed["loss"] != plain["loss"]
    usual = to_float(frames).mean(0, keepdim=True) + 0.1
    vae.weigh(Weights(usual=usual, moving=0.5))
    away = (to_float(frames) - usual).abs().mean(1, keepdim=True)
    error = Weights().error(to_float(frames), output.reconstruction, 0.5 + 0.5 * away / away.mean())
    torch.testing.assert_close(vae.loss(frames, output)["reconstruction"], error)
    vae.weigh(Weights(0.25, colours, usual, 0.5))
    assert not torch.equal(vae.loss(frames, output)["loss"], weighed["loss"])
    vae.weigh(Weights(usual=to_float(frames)[:1], moving=0.5))  # of which nothing in the first frame differs
    still = Weights(usual=to_float(frames)[:1], moving=0.5).of_pixels(to_float(frames)[:1])
    assert torch.equal(still, torch.full_like(still, 0.5)), "where nothing moves nothing counts for more"
    vae.weigh(Weights())
    assert torch.equal(vae.loss(frames, output)["loss"], plain["loss"])


def test_v_is_asked_for_the_returns_that_are_known():
    torch.manual_seed(0)
    vae, frames = VAE(VAEConfig(latent=4, guesses=True)), torch.randint(256, (4, 64, 64, 3), dtype=torch.uint8)
    output, returns = vae(frames), torch.tensor([1.0, math.nan, -2.0, math.nan])
    plain = vae_loss(Weights().error(to_float(frames), output.reconstruction), output.posterior)["loss"]
    assert vae.loss(frames, output).keys() == {"loss", "reconstruction", "kl"}
    vae.weigh(Weights(returns=8.0))
    losses = vae.loss(frames, output, returns)
    missed = ((output.guess[0] - 1) ** 2 + (output.guess[2] + 2) ** 2) / 2
    assert losses["returns"].item() == pytest.approx(missed.item()) and torch.isclose(
        losses["loss"], plain + 8 * missed
    )
    losses["loss"].backward()
    gradients = [weight.grad for weight in (vae.mu.weight, *vae.guess.parameters())]
    assert all(g.isfinite().all() and g.any() for g in gradients)
    unknown = vae.loss(frames, vae(frames), torch.full((4,), math.nan))
    assert unknown["returns"] == 0 and unknown["loss"].isfinite()


@pytest.mark.parametrize("grid", [False, True])
def test_fine_shades_are_seen_beside_the_colours(grid):
    frames, given = torch.full((2, 64, 64, 3), 102, dtype=torch.uint8), []
    frames[1] += 3
    vae = VAE(VAEConfig(latent=64, grid=grid, fine_shades=True))
    vae.encoder.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0]))
    vae.latents(frames)
    ((plain, *fine),) = (planes.split(3, 1) for planes in given)
    assert torch.equal(plain, to_float(frames)) and len(fine) == 2
    far = sum((part[1] - part[0]).square() for part in fine).sqrt()  # what a chord of 3 x 0.2 rad is long
    assert far.min() > 0.5 and far.max() < 0.65 and (plain[1] - plain[0]).max() < 0.02


def test_frames_survive_the_way_into_the_model_and_back():
    frames = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(frames)), frames)


@pytest.mark.parametrize("size", [64, 128])
def test_vae_shapes_with_a_batch_of_one(size):
    vae = VAE(VAEConfig(latent=7, channels=1, size=size))
    reconstruction, posterior, _ = vae(torch.randint(256, (1, size, size, 1), dtype=torch.uint8))
    assert reconstruction.shape == (1, 1, size, size)
    assert posterior.mu.shape == posterior.logsigma.shape == (1, 7)


@pytest.mark.parametrize("size", [64, 128])
def test_latents_of_a_grid_belong_to_their_places(size):
    vae = VAE(VAEConfig(latent=128, channels=3, size=size, grid=True))
    frames = torch.randint(256, (2, size, size, 3), dtype=torch.uint8)
    obs = to_float(frames)
    reconstruction, posterior, _ = vae(frames)
    assert reconstruction.shape == obs.shape and posterior.mu.shape == posterior.logsigma.shape == (2, 128)
    obs[1] = obs[0]
    obs[1, :, :8, :8] = 0  # the upper left corner
    mu = vae.encode(obs).mu.unflatten(1, (2, 8, 8))
    changed = (mu[0] != mu[1]).any(0)
    assert changed[0, 0] and not changed[4:].any() and not changed[:, 4:].any()
    decoded = vae.decode(torch.stack([mu[0], torch.where(torch.arange(8) < 1, 0, mu[0])]).flatten(1))
    assert torch.equal(decoded[0, :, :, size // 2 :], decoded[1, :, :, size // 2 :]) and not torch.equal(
        decoded[0, :, :, : size // 4], decoded[1, :, :, : size // 4]
    )


def test_vae_refuses_other_sizes():
    with pytest.raises(ValueError, match="100 latents make no grid of 8x8: give a multiple of 64"):
        VAEConfig(latent=100, grid=True)
    with pytest.raises(ValueError, match="frames of 96 pixels are not possible"):
        VAEConfig(size=96)


@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (3, 5), (5, 3)])
def test_mixture_likelihood_equals_torch_distributions(mdrnn, batch, steps):
    pred, _ = mdrnn(torch.randn(batch, steps, 4), torch.randn(batch, steps, 3))
    z_next = torch.randn(batch, steps, 4)
    reference = MixtureSameFamily(Categorical(logits=pred.logpi), Independent(Normal(pred.mu, pred.logsigma.exp()), 1))
    torch.testing.assert_close(mixture_log_likelihood(pred, z_next), reference.log_prob(z_next), rtol=1e-4, atol=1e-4)


def test_masked_steps_do_not_change_the_loss(mdrnn):
    pred, _ = mdrnn(torch.randn(2, 4, 4), torch.randn(2, 4, 3))
    z_next, reward, terminal = torch.randn(2, 4, 4), torch.randn(2, 4), torch.zeros(2, 4)
    mask = torch.tensor([[1.0, 1, 1, 0], [1, 0, 0, 0]])
    losses = mdrnn_loss(pred, z_next, reward, terminal, mask, True)
    z_next[1, 1:], reward[0, 3], terminal[0, 3] = 100.0, 50.0, 1.0
    again = mdrnn_loss(pred, z_next, reward, terminal, mask, True)
    assert all(torch.equal(losses[name], again[name]) for name in losses)
    assert not torch.equal(losses["loss"], mdrnn_loss(pred, z_next, reward, terminal, torch.ones(2, 4), True)["loss"])


def test_rewards_are_learnt_in_units_of_their_spread_and_dreamt_as_they_are(mdrnn):
    scaled = MDRNN(replace(mdrnn.config, reward_scale=50.0))
    scaled.load_state_dict(mdrnn.state_dict())
    steps = Windows(*(torch.randn(2, 4, n) for n in (4, 4, 3)), torch.randn(2, 4), torch.zeros(2, 4), torch.ones(2, 4))
    output, state = mdrnn(steps.z, steps.action)
    wanted = mdrnn_loss(output, steps.z_next, steps.reward, steps.terminal, steps.mask, True)
    large = replace(steps, reward=50 * steps.reward)
    for found in (mdrnn.loss(steps), scaled.loss(large)):
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value)
    noise = mdrnn.drawn(2, torch.Generator().manual_seed(0))
    one, other = mdrnn.sample(state, 1.0, noise), scaled.sample(state, 1.0, noise)
    torch.testing.assert_close(other.reward, 50 * one.reward)
    assert torch.equal(other.z, one.z) and torch.equal(other.ending, one.ending)


def test_a_sequence_and_single_steps_agree(mdrnn):
    z, action = torch.randn(3, 6, 4), torch.randn(3, 6, 3)
    whole, last = mdrnn(z, action)
    state = mdrnn.initial(3)
    for t in range(6):
        pred, state = mdrnn(z[:, t : t + 1], action[:, t : t + 1], state)
        for name in vars(pred):
            torch.testing.assert_close(getattr(pred, name)[:, 0], getattr(whole, name)[:, t], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state.h, last.h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
def test_samples_have_the_moments_of_the_tempered_mixture(mdrnn, temperature):
    pred = mdrnn.predict(torch.randn(1, 16))
    pred.logpi = torch.tensor([[0.5, 0.3, 0.1, 0.06, 0.04]]).log()
    pred.mu = pred.mu * 5
    n = 200_000
    many = type(pred)(
        *(
            getattr(pred, f).expand(n, *getattr(pred, f).shape[1:])
            for f in ("logpi", "mu", "logsigma", "reward", "terminal")
        )
    )
    z = sample_mixture(many, temperature, mdrnn.drawn(n, torch.Generator().manual_seed(1)))
    weights = (pred.logpi / temperature).softmax(-1)[0, :, None]
    mean = (weights * pred.mu[0]).sum(0)
    variance = (weights * ((2 * pred.logsigma[0]).exp() * temperature + pred.mu[0].square())).sum(0) - mean.square()
    torch.testing.assert_close(z.mean(0), mean, atol=0.03, rtol=0.03)
    torch.testing.assert_close(z.var(0), variance, atol=0.03, rtol=0.03)


def test_temperature_zero_takes_the_likeliest_mean_whatever_the_noise(mdrnn):
    pred = mdrnn.predict(torch.randn(4, 16))
    noise = Noise(torch.randn(4, 5) * 100, torch.randn(4, 4), torch.rand(4))
    expected = pred.mu[torch.arange(4), pred.logpi.argmax(-1)]
    assert torch.equal(sample_mixture(pred, 0.0, noise), expected)


def test_noise_is_the_same_for_every_copy(mdrnn):
    noise = mdrnn.drawn(3, torch.Generator().manual_seed(0), copies=2)
    assert torch.equal(noise.normal[:3], noise.normal[3:]) and torch.equal(noise.gumbel[:3], noise.gumbel[3:])
    assert noise.uniform.shape == (6,)


@pytest.mark.parametrize("features", ["z", "zh"])
@pytest.mark.parametrize("hidden", [0, 8])
@pytest.mark.parametrize("space", [BOX, {"type": "discrete", "n": 4}], ids=["box", "discrete"])
def test_a_population_acts_as_its_candidates_one_by_one(features, hidden, space):
    torch.manual_seed(0)
    controller = Controller(ControllerConfig(4, 16, features, hidden, space))
    vectors = torch.randn(3, parameter_vector(controller).numel())
    z, h = torch.randn(3, 5, 4), torch.randn(3, 5, 16)
    together = controller.population_action(vectors, z, h)
    for p in range(3):
        set_parameters(controller, vectors[p])
        torch.testing.assert_close(together[p], controller(z[p], h[p]))


def test_actions_stay_inside_the_space():
    controller = Controller(ControllerConfig(4, 16, "zh", 0, BOX))
    set_parameters(controller, 100 * torch.randn(parameter_vector(controller).numel()))
    action = controller(torch.randn(50, 4), torch.randn(50, 16))
    assert (action >= torch.tensor(BOX["low"])).all() and (action <= torch.tensor(BOX["high"])).all()


def test_carracings_linear_controller_has_867_parameters():
    assert parameter_vector(Controller(ControllerConfig(32, 256, "zh", 0, BOX))).numel() == 867


def test_discrete_actions_reach_m_one_hot():
    assert torch.equal(ActionSpace(3).vector(torch.tensor([2, 0])), torch.tensor([[0.0, 0, 1], [1, 0, 0]]))


def test_a_frozen_m_is_looked_back_through_as_one_that_trains():
    torch.manual_seed(0)
    model = MDRNN(MDRNNConfig(4, 3, 16))
    found = []
    for trains in (True, False):
        model.requires_grad_(trains)
        torch.manual_seed(1)
        z, action = torch.randn(5, 1, 4, requires_grad=True), torch.randn(5, 1, 3, requires_grad=True)
        state, seen = model.initial(5), []
        for _ in range(3):
            h, state = model.observe(z, action, state)
            seen.append(h)
        (torch.cat(seen, 1).square().sum() + state.more["c"].sum()).backward()
        found.append([torch.cat(seen, 1), *state, z.grad, action.grad])
    for one, two in zip(*found, strict=True):
        assert one.shape == two.shape and torch.allclose(one, two, atol=1e-5)


@pytest.fixture
def ensemble() -> Ensemble:
    torch.manual_seed(0)
    return Ensemble(EnsembleConfig(4, 3, hidden=24, mixtures=2, members=3))


def test_an_ensemble_foresees_the_mixture_of_its_members(ensemble):
    z, action, z_next = (torch.randn(5, 6, n) for n in (4, 3, 4))
    alone = [member(z, action)[0] for member in ensemble.members]
    h, _ = ensemble.observe(z, action)
    together = ensemble.predict(h)
    each = torch.stack([mixture_log_likelihood(pred, z_next).exp() for pred in alone])
    torch.testing.assert_close(mixture_log_likelihood(together, z_next).exp(), each.mean(0))
    torch.testing.assert_close(together.reward, torch.stack([pred.reward for pred in alone]).mean(0))
    endings = torch.stack([pred.terminal.sigmoid() for pred in alone])
    torch.testing.assert_close(together.terminal.sigmoid(), endings.mean(0))
    assert len({tuple(ending.flatten().tolist()) for ending in endings}) == 3, "they differ"


def test_each_member_of_an_ensemble_learns_by_its_own_loss(ensemble):
    steps = Windows(*(torch.randn(2, 4, n) for n in (4, 4, 3)), torch.randn(2, 4), torch.zeros(2, 4), torch.ones(2, 4))
    losses = ensemble.loss(steps)
    own = [member.loss(steps) for member in ensemble.members]
    for name, value in losses.items():
        torch.testing.assert_close(value, torch.stack([found[name] for found in own]).mean())
    own[1]["loss"].backward()
    wanted = [weight.grad / 3 for weight in ensemble.members[1].parameters()]
    ensemble.zero_grad()
    losses["loss"].backward()
    for weight, gradient in zip(ensemble.members[1].parameters(), wanted, strict=True):
        torch.testing.assert_close(weight.grad, gradient)


def test_a_dream_of_an_ensemble_takes_its_steps_from_all_members(ensemble):
    with torch.no_grad():
        for number, member in enumerate(ensemble.members):
            member.head.weight.zero_()
            member.head.bias.zero_()[:8] = 10.0 * number  # the means of both its components
    noise = ensemble.drawn(3000, torch.Generator().manual_seed(0))
    z = ensemble.sample(ensemble.initial(3000), 1.0, noise).z.mean(-1)
    shares = [((z - 10.0 * number).abs() < 5).float().mean().item() for number in range(3)]
    assert all(abs(share - 1 / 3) < 0.05 for share in shares), shares


def test_a_run_has_an_ensemble_where_it_is_asked_for(trained, tmp_path):
    run = tiny_run.copy_run(trained, tmp_path)
    flags = ("--logdir", run.logdir, "--seq-len", 16, "--batch-size", 8, "--device", "cpu", "--hidden", 8)
    refused = tiny_run.complaint(tiny_run.call("trainmdrnn", *flags, "--noreload", "--members", 3, "--epochs", 1))
    assert "--hidden 8 cannot be shared by 3 members: give a multiple of 3" in refused
    done = tiny_run.call("trainmdrnn", *flags, "--noreload", "--members", 2, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    done = tiny_run.call("trainmdrnn", *flags, "--epochs", 2)
    assert done.returncode == 0 and "members 2" in done.stdout, done.stderr
    model = load_world_model(run.logdir, torch.device("cpu"))
    assert type(model.memory) is Ensemble and model.memory.config.members == 2 and model.starts.state.h.shape[1] == 8
    done = tiny_run.call("traincontroller", *tiny_run.TINY["traincontroller"], "--logdir", run.logdir, "--noreload")
    assert done.returncode == 0, done.stderr


# What holds for every kind of V and M


def small(stage: str, kind: str):
    """V or M of a kind, frozen as it is in use."""
    torch.manual_seed(0)
    model = build(stage, SMALL[stage, kind], kind)
    if isinstance(model, TokenMemory):  # what letters stand for comes from a V
        model.get_buffer("alphabet").copy_(torch.tensor([[[-0.7], [0.0], [0.7]], [[-0.5], [0.5], [0.0]]]))
    return model.eval().requires_grad_(False)


def same(one: State, other: State) -> None:
    assert one.more.keys() == other.more.keys()
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_every_kind_is_here():
    known = {(stage, kind) for stage, kinds in KINDS.items() for kind in kinds}
    assert known == {*EVERY, ("mdrnn", "simulator")}


@pytest.mark.parametrize(("stage", "kind"), EVERY)
def test_a_config_makes_the_same_model_again(stage, kind):
    model = small(stage, kind)
    again = type(model).from_config(model.config_dict())
    assert model.kind == again.kind == kind and isinstance(model, {"vae": Vision, "mdrnn": Memory}[stage])
    assert again.config == model.config and again.config_dict() == model.config_dict() == SMALL[stage, kind]
    sizes = [{name: value.shape for name, value in m.state_dict().items()} for m in (model, again)]
    assert sizes[0] == sizes[1]
    again.load_state_dict(model.state_dict())


@pytest.mark.parametrize("kind", KINDS["vae"])
def test_what_v_stores_of_frames_is_what_z_comes_from(kind):
    vision = small("vae", kind)
    size = vision.config.latent
    frames = torch.randint(256, (3, 64, 64, 3), dtype=torch.uint8)
    latents = vision.latents(frames)
    assert tuple(latents) == vision.stored and {len(value) for value in latents.values()} == {3}
    assert torch.equal(vision.z(latents), vision.z(latents)) and vision.z(latents).shape == (3, size)
    drawn = [vision.drawn(latents, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and drawn[0].shape == (3, size)
    assert torch.equal(drawn[0], drawn[2]) == (vision.draws == 0), "whether anything is drawn"
    normal = torch.randn(3, vision.draws, generator=torch.Generator().manual_seed(0))
    assert torch.equal(vision.z(latents, normal), drawn[0]) and torch.equal(
        vision.drawn(latents, None), vision.z(latents)
    )
    windows = vision.drawn(latents_at(latents, torch.tensor([[0, 1], [2, 2]])), torch.Generator().manual_seed(0))
    assert windows.shape == (2, 2, size)
    seen = vision.frames(vision.z(latents))
    assert seen.shape == frames.shape and seen.dtype == torch.uint8
    prior = vision.prior(5, torch.Generator().manual_seed(0))
    assert prior.shape == (5, size) and torch.equal(prior, vision.prior(5, torch.Generator().manual_seed(0)))
    losses = vision.loss(frames, vision(frames))
    assert losses["loss"].isfinite() and {value.ndim for value in losses.values()} == {0}


@pytest.mark.parametrize("kind", KINDS["vae"])
def test_fixed_latents_have_their_z_however_it_is_drawn(kind):
    vision = small("vae", kind)
    z = vision.z(vision.fixed(torch.randn(6, vision.config.latent)))  # tokens are the nearest
    fixed = vision.fixed(z)
    assert tuple(fixed) == vision.stored
    assert torch.equal(vision.z(fixed), z) and torch.equal(vision.drawn(fixed, torch.Generator()), z)


@pytest.mark.parametrize("kind", LEARNT)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("steps", [1, 5])
def test_m_takes_in_steps_at_once_as_one_by_one(kind, batch, steps):
    memory = small("mdrnn", kind)
    sizes = (memory.config.latent, memory.config.action)
    before = memory.observe(*(torch.randn(batch, 2, n) for n in sizes))[1]
    z, action = (torch.randn(batch, steps, n) for n in sizes)
    for start in (None, before):
        h, last = memory.observe(z, action, start)
        assert h.shape == (batch, steps, memory.config.hidden) and len(last) == batch
        torch.testing.assert_close(last.h, h[:, -1])
        state, single = memory.initial(batch) if start is None else start, []
        for t in range(steps):
            one, state = memory.observe(z[:, t : t + 1], action[:, t : t + 1], state)
            single.append(one)
        torch.testing.assert_close(torch.cat(single, 1), h, rtol=1e-4, atol=1e-5)
        same(state, last)
    assert not torch.equal(memory.observe(z, action)[0], memory.observe(z, action, before)[0])


@pytest.mark.parametrize("kind", LEARNT)
def test_what_m_imagines_at_temperature_0_is_the_likeliest_and_groups_meet_the_same(kind):
    memory = small("mdrnn", kind)
    z, action = torch.randn(3, 2, memory.config.latent), torch.randn(3, 2, memory.config.action)
    state = memory.observe(z, action)[1].repeat(2)
    noise = memory.drawn(3, torch.Generator().manual_seed(0), copies=2)
    for temperature in (0.0, 1.0):
        imagined = memory.sample(state, temperature, noise)
        assert imagined.z.shape == (6, memory.config.latent) and imagined.ended.dtype == torch.bool
        assert imagined.reward.shape == imagined.ending.shape == imagined.ended.shape == (6,)
        for value in vars(imagined).values():
            assert torch.equal(value[:3], value[3:])
        if temperature == 0:
            assert torch.equal(imagined.z, memory.likeliest(state))
            assert torch.equal(imagined.ended, imagined.ending > 0.5)
    many = memory.drawn(300, torch.Generator().manual_seed(0))
    drawn = memory.sample(state.take(torch.zeros(300, dtype=torch.int64)), 1.0, many).z
    assert len(drawn.unique(dim=0)) > 1, "it is drawn"


def test_a_state_is_taken_mixed_repeated_and_joined_in_all_its_parts():
    def numbered(first: int) -> State:
        h = torch.arange(first, first + 3.0)[:, None].repeat(1, 2)
        return State(h, {"c": h + 100, "kept": (h[:, 0] + 1000).view(3, 1, 1, 1).repeat(1, 2, 4, 5)})

    def numbers(state: State) -> list[float]:
        """The number of each copy, which is the same in all parts."""
        found = state.h[:, 0]
        assert list(state.more) == ["c", "kept"] and state.more["kept"].shape[1:] == (2, 4, 5)
        assert (state.h == found[:, None]).all() and (state.more["c"] == found[:, None] + 100).all()
        assert (state.more["kept"] == found.view(-1, 1, 1, 1) + 1000).all() and len(state) == len(found)
        return found.tolist()

    one, other = numbered(0), numbered(10)
    assert numbers(one.take(torch.tensor([2, 0, 2, 1]))) == [2, 0, 2, 1] and numbers(one.take(slice(1, 2))) == [1]
    assert numbers(one.take(torch.tensor([True, False, True]))) == [0, 2] and numbers(one.take(slice(0))) == []
    assert numbers(one.where(torch.tensor([True, False, True]), other)) == [0, 11, 2]
    assert numbers(one.repeat(2)) == [0, 1, 2, 0, 1, 2]
    assert numbers(State.joined([one, other, one])) == [0, 1, 2, 10, 11, 12, 0, 1, 2]
    assert numbers(one.to("cpu")) == numbers(one.detach()) == [0, 1, 2]
    assert one.to_dict() == {"h": one.h, **one.more}
    alone = State(one.h)
    assert len(alone.repeat(3)) == 9 and alone.to_dict().keys() == {"h"} and not alone.take(slice(2)).more


@pytest.mark.parametrize("kind", LEARNT)
def test_starts_come_back_from_plain_values_in_half_precision_too(kind):
    vision, memory = small("vae", "gaussian"), small("mdrnn", kind)
    starts = starts_of(vision, memory)
    for half in (False, True):
        saved = {
            name: value.half() if half and value.is_floating_point() else value
            for name, value in starts.to_dict().items()
        }
        found = Starts.from_dict(saved, vision)
        assert len(found) == len(starts) and tuple(found.latents) == vision.stored
        for (name, value), wanted in zip(found.to_dict().items(), starts.to_dict().values(), strict=True):
            assert value.dtype == wanted.dtype, name
            torch.testing.assert_close(value, wanted, rtol=2e-3, atol=2e-3)
        found.state.where(torch.ones(len(found), dtype=torch.bool), memory.initial(len(found)))  # of the same parts


# Checkpoints, and what a kind costs


def starts_of(vision: Vision, memory: Memory, num: int = 6) -> Starts:
    latents = vision.latents(torch.randint(256, (num, 64, 64, 3), dtype=torch.uint8))
    steps = (torch.randn(num, 3, n) for n in (memory.config.latent, memory.config.action))
    return Starts(vision, latents, memory.observe(*steps)[1])


def write_run(folder, vision: Vision, memory: Memory, **kinds: str | None):
    """V and M as their trainers write them; `kinds`: what a stage's checkpoint says instead, None for nothing."""
    parents, kinds = {}, {"vae": vision.kind, "mdrnn": memory.kind, **kinds}
    with torch.no_grad():
        starts = starts_of(vision, memory)
    for stage, model, more in (("vae", vision, {"world": WORLD}), ("mdrnn", memory, {"starts": starts.to_dict()})):
        target, kind = checkpoint.path(folder, stage), {} if kinds[stage] is None else {"kind": kinds[stage]}
        target.parent.mkdir(parents=True)
        checkpoint.save(
            target, stage, model.config_dict(), model.state_dict(), dict(parents), datasets=[], **kind, **more
        )
        parents[stage] = checkpoint.load(target, stage)["digest"]
    return folder


@pytest.mark.parametrize("stage", ["vae", "mdrnn"])
def test_a_checkpoint_of_an_unknown_kind_is_refused_in_one_sentence(stage, tmp_path):
    run = write_run(tmp_path, small("vae", "gaussian"), small("mdrnn", "lstm-mixture"), **{stage: "crystal-ball"})
    with pytest.raises(UserError, match=f'"crystal-ball" is no kind of {stage} .*: use the version that trained it'):
        load_world_model(run, torch.device("cpu"))
    assert "crystal-ball" in tiny_run.complaint(tiny_run.call("traincontroller", "--logdir", run))


def test_a_checkpoint_that_says_no_kind_is_of_the_first(tmp_path):
    vision, memory = small("vae", "gaussian"), small("mdrnn", "lstm-mixture")
    run = write_run(tmp_path, vision, memory, vae=None, mdrnn=None)
    model = load_world_model(run, torch.device("cpu"))
    assert type(model.vision) is type(load_vision(run, torch.device("cpu"))[0]) is VAE and type(model.memory) is MDRNN
    for one, other in ((model.vision, vision), (model.memory, memory)):
        wanted = other.state_dict()
        assert not one.training and all(torch.equal(v, wanted[name]) for name, v in one.state_dict().items())
    assert model.world == WORLD and model.parents.keys() == {"vae", "mdrnn"} and len(model.starts) == 6


@dataclass(frozen=True)
class ToyConfig:
    latent: int
    action: int
    hidden: int


class Toy(Memory):
    """Another kind of M: a GRU, which carries nothing but h and foresees one latent."""

    kind = "toy"
    rewarded = True

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.gru = nn.GRU(config.latent + config.action, config.hidden, batch_first=True)
        self.head = nn.Linear(config.hidden, config.latent + 2)

    def initial(self, num):
        return State(self.head.weight.new_zeros(num, self.config.hidden))

    def observe(self, z, action, state=None):
        state = self.initial(len(z)) if state is None else state
        h, last = self.gru(torch.cat([z, action], -1), state.h[None])
        return h, State(last[0])

    def loss(self, steps):
        h, _ = self.observe(steps.z, steps.action)
        output = self.head(h)
        z, reward, ending = output[..., :-2], output[..., -2], output[..., -1]
        end = nn.functional.binary_cross_entropy_with_logits(ending, steps.terminal, reduction="none")
        error = (z - steps.z_next).square().mean(-1) + (reward - steps.reward).square() + end
        return {"loss": (error * steps.mask).sum() / steps.mask.sum()}

    @property
    def draws(self):
        return 0, self.config.latent

    def noise(self, uniform, normal, copies=1):
        return normal.repeat(copies, 1)

    def sample(self, state, temperature, noise):
        output = self.head(state.h)
        ending = output[..., -1].sigmoid()
        return Imagined(output[..., :-2] + temperature * noise, output[..., -2], ending, ending > 0.5)

    def likeliest(self, state):
        return self.head(state.h)[..., :-2]

    def config_dict(self):
        return asdict(self.config)

    @classmethod
    def from_config(cls, config):
        return cls(ToyConfig(**config))


@pytest.fixture
def toy(monkeypatch) -> Toy:
    """M of a kind of which dreamdrive knows a line in KINDS."""
    monkeypatch.setitem(KINDS["mdrnn"], "toy", (Toy.__module__, "Toy"))
    torch.manual_seed(0)
    return build("mdrnn", {"latent": 4, "action": 3, "hidden": 5}, "toy")


def test_another_kind_of_m_is_trained(toy, tmp_path):
    dataset = tiny_run.write_dataset(tmp_path / "data", [9, 5, 7, 12], space=tiny_run.DISCRETE, reward=0.5)
    vision = small("vae", "gaussian")
    cache_latents(tmp_path, vision, "v" * 64, [dataset], torch.device("cpu"))
    data = load_sequences(tmp_path, vision, "v" * 64, [dataset])
    args, cuts = SimpleNamespace(batch_size=4, seq_len=6, precision="fp32"), data.cut("train", 6, None)
    optimizer, losses = torch.optim.Adam(toy.parameters(), 1e-2), []
    with tqdm(disable=True) as bar:
        for _ in range(5):
            losses.append(run_epoch(toy, data, cuts, args, torch.Generator().manual_seed(0), optimizer, bar)["loss"])
    assert losses[-1] < losses[0]
    starts = dream_starts(toy, data, np.random.default_rng(0))
    assert starts.vision is vision and starts.to_dict().keys() == {"mu", "logsigma", "h"} and starts.state.h.any()
    save_strip(toy, vision, data, 1.0, tmp_path / "strip.png")
    assert (tmp_path / "strip.png").stat().st_size


def test_another_kind_of_m_dreams_and_drives(toy, tmp_path):
    model = load_world_model(write_run(tmp_path, small("vae", "gaussian"), toy), torch.device("cpu"))
    assert type(model.memory) is Toy
    dream = begin(model.starts, torch.tensor([5, 0]), torch.randn(2, model.vision.draws))
    noise, action = model.memory.drawn(2, torch.Generator().manual_seed(1)), torch.randn(2, 3)
    after, reward, ended = step(model.memory, dream, action, 0.0, noise)
    h = toy.gru(torch.cat([dream.z, action], -1)[:, None], dream.h[None])[0][:, 0]
    torch.testing.assert_close(after.h, h)
    torch.testing.assert_close(torch.cat([after.z, reward[:, None]], 1), toy.head(h)[:, :-1])
    assert isinstance(after, Dream) and ended.shape == (2,)
    world = DreamWorld(tmp_path, 3)
    assert world.reset(0).shape == (3, 64, 64, 3) and world.step(torch.zeros(3, 3)).reward.isfinite().all()
    agent = Agent(model, Controller(ControllerConfig(4, 5, "zh", 0, BOX)).eval(), {"ctrl": "c" * 64})
    assert agent.parents == {**model.parents, "ctrl": "c" * 64}
    agent.reset(3)
    frames = torch.randint(256, (3, 64, 64, 3), dtype=torch.uint8)
    first = agent.act(frames)
    agent.see(frames)
    z = model.vision.z(model.vision.latents(frames))
    torch.testing.assert_close(agent.z, z)
    torch.testing.assert_close(agent.h, toy.gru(torch.cat([z, first], -1)[:, None])[0][:, 0])
    assert agent.expectation().shape == agent.reconstruction().shape == frames.shape
    agent.keep(torch.tensor([True, False, True]))
    assert agent.act(frames[[0, 2]]).shape == (2, 3)


def test_rewards_that_m_has_not_learnt_are_not_dreamt_of_unless_nobody_needs_them(tmp_path):
    memory = MDRNN.from_config({**SMALL["mdrnn", "lstm-mixture"], "reward": False})
    run = write_run(tmp_path, small("vae", "gaussian"), memory)
    refusal = "was trained with --no-include_reward.*: train M with `python trainmdrnn.py --logdir .* --noreload`"
    with pytest.raises(UserError, match=refusal) as refused:
        DreamWorld(run)
    assert "\n" not in str(refused.value)
    told = tiny_run.complaint(tiny_run.call("traincontroller", *tiny_run.TINY["traincontroller"], "--logdir", run))
    assert "--no-include_reward" in told
    world = DreamWorld(run, 2, rewarded=False, horizon=3)
    assert world.reset(0).shape == (2, 64, 64, 3) and not world.model.memory.rewarded
    for _ in range(4):
        result = world.step(torch.zeros(2, 3))
    assert result.obs.shape == (2, 64, 64, 3)
