"""V, M and C against hand-independent references."""

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from dreamdrive.models.controller import Controller, ControllerConfig, parameter_vector, set_parameters
from dreamdrive.models.mdrnn import (
    MDRNN,
    MDRNNConfig,
    Noise,
    draw_noise,
    mdrnn_loss,
    mixture_log_likelihood,
    sample_mixture,
)
from dreamdrive.models.vae import (
    FREE_BITS,
    VAE,
    Posterior,
    VAEConfig,
    colour_index,
    colour_weights,
    to_float,
    to_uint8,
    vae_loss,
)
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
        losses = vae_loss(obs, reconstruction, posterior)
        torch.testing.assert_close(losses["kl"], kl.mean())
        expected = (
            nn.functional.mse_loss(reconstruction, obs, reduction="sum") / 3 + kl.clamp(min=FREE_BITS * 32).mean()
        )
        torch.testing.assert_close(losses["loss"], expected)
        weighed = vae_loss(obs, reconstruction, posterior, beta=0.25)["loss"]
        torch.testing.assert_close(weighed, expected - 0.75 * kl.clamp(min=FREE_BITS * 32).mean())


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
    posterior = Posterior(torch.zeros(1, 2), torch.zeros(1, 2))
    assert vae_loss(obs, reconstruction, posterior, weight)["reconstruction"].item() == pytest.approx(33)
    assert vae_loss(obs, reconstruction, posterior)["reconstruction"].item() == pytest.approx(6)


def test_frames_survive_the_way_into_the_model_and_back():
    frames = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(frames)), frames)


@pytest.mark.parametrize("size", [64, 128])
def test_vae_shapes_with_a_batch_of_one(size):
    vae = VAE(VAEConfig(latent=7, channels=1, size=size))
    reconstruction, posterior = vae(torch.rand(1, 1, size, size))
    assert reconstruction.shape == (1, 1, size, size)
    assert posterior.mu.shape == posterior.logsigma.shape == (1, 7)


@pytest.mark.parametrize("size", [64, 128])
def test_latents_of_a_grid_belong_to_their_places(size):
    vae = VAE(VAEConfig(latent=128, channels=3, size=size, grid=True))
    obs = torch.rand(2, 3, size, size)
    reconstruction, posterior = vae(obs)
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


def test_a_sequence_and_single_steps_agree(mdrnn):
    z, action = torch.randn(3, 6, 4), torch.randn(3, 6, 3)
    whole, last = mdrnn(z, action)
    state = mdrnn.initial_state(3)
    for t in range(6):
        pred, state = mdrnn(z[:, t : t + 1], action[:, t : t + 1], state)
        for name in vars(pred):
            torch.testing.assert_close(getattr(pred, name)[:, 0], getattr(whole, name)[:, t], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state[0], last[0], rtol=1e-4, atol=1e-5)


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
    z = sample_mixture(many, temperature, draw_noise(mdrnn.config, n, torch.Generator().manual_seed(1)))
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
    noise = draw_noise(mdrnn.config, 3, torch.Generator().manual_seed(0), copies=2)
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
        state, seen = model.initial_state(5), []
        for _ in range(3):
            h, state = model.hidden(z, action, state)
            seen.append(h)
        (torch.cat(seen, 1).square().sum() + state[1].sum()).backward()
        found.append([torch.cat(seen, 1), *state, z.grad, action.grad])
    for one, two in zip(*found, strict=True):
        assert one.shape == two.shape and torch.allclose(one, two, atol=1e-5)
