"""V, M and C against hand-independent references."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from dreamdrive.data.loaders import Windows
from dreamdrive.models.catalogue import FREE_BITS
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
from dreamdrive.models.reconstruction import Perceptual, Weights
from dreamdrive.models.vae import VAE, Posterior, VAEConfig, colour_index, colour_weights, to_float, to_uint8, vae_loss
from dreamdrive.models.world_model import load_world_model
from dreamdrive.tests import tiny_run
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.spaces import ActionSpace

BOX = {"type": "box", "low": [-1.0, 0.0, 0.0], "high": [1.0, 1.0, 1.0]}


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
