"""V whose latents are tokens (models/tokens.py): rounded numbers and a book of codes, and the stages on them."""

import pytest
import torch

from dreamdrive.data.latents import load_sequences
from dreamdrive.data.loaders import open_datasets
from dreamdrive.models.catalogue import BOOKS
from dreamdrive.models.reconstruction import Weights
from dreamdrive.models.tokens import FORGOTTEN, FSQ, VQ, FSQConfig, Seen, VQConfig
from dreamdrive.models.vae import grid_widths
from dreamdrive.models.world_model import load_vision, load_world_model
from dreamdrive.tests.tiny_run import TINY, TINY_TOKENS, call, complaint
from dreamdrive.utils.errors import UserError


@pytest.fixture(params=["fsq", *BOOKS])
def vision(request):
    torch.manual_seed(0)
    if request.param == "fsq":
        return FSQ(FSQConfig(levels=(4, 3, 5)))
    return VQ(VQConfig(codes=20, numbers=3, book=request.param))


def frames(count: int) -> torch.Tensor:
    return torch.randint(256, (count, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_tokens_and_codes_are_one_to_one(vision):
    every = torch.arange(vision.config.codes)
    codes = vision.looked_up(every)
    assert len({tuple(code.tolist()) for code in codes}) == vision.config.codes
    assert torch.equal(vision.token_of(codes), every)
    tokens = torch.randint(vision.config.codes, (5, 16))
    z = vision.z({"tokens": tokens.to(torch.int16)})
    assert z.shape == (5, vision.config.latent) and torch.equal(vision.fixed(z)["tokens"].long(), tokens)
    near = z + 1e-3 * torch.randn_like(z)
    assert torch.equal(vision.fixed(near)["tokens"].long(), tokens), "M's samples are nearly codes"


def test_all_levels_are_as_likely_where_numbers_are_normal():
    model = FSQ(FSQConfig(levels=(8, 8, 8)))
    tokens = model.nearest(torch.randn(512 * 200, 3, generator=torch.Generator().manual_seed(0)))
    count = torch.bincount(tokens, minlength=512).float()
    assert 120 < count.min() and count.max() < 290, "200 each on average"


def test_codes_are_the_middles_of_levels_and_gradients_pass():
    model = FSQ(FSQConfig(levels=(4,)))
    assert model.looked_up(torch.arange(4)).flatten().tolist() == [-0.75, -0.25, 0.25, 0.75]
    before = torch.tensor([[-3.0], [-0.1], [0.1], [3.0]], requires_grad=True)
    code = model.quantised(before)
    assert code.flatten().tolist() == pytest.approx([-0.75, -0.25, 0.25, 0.75])
    code.sum().backward()
    slope = torch.distributions.Normal(0, 1).log_prob(before.detach()).exp() * 2  # of 2 Phi(x) - 1
    torch.testing.assert_close(before.grad, slope)


def test_a_book_follows_what_is_near_and_codes_that_nothing_is_near_to_begin_anew():
    torch.manual_seed(0)
    model = VQ(VQConfig(codes=24, numbers=2)).train()
    centres = torch.tensor([[0.0, 0], [4, 0], [0, 4], [4, 4], [8, 0], [8, 4], [0, 8], [4, 8]])
    for _ in range(600):
        seen = centres[torch.randint(8, (256,))] + 0.1 * torch.randn(256, 2)
        model.quantised(seen.requires_grad_())
    distance = torch.cdist(centres, model.get_buffer("book")).min(1).values
    assert distance.max() < 0.2, distance
    assert (model.get_buffer("count") > FORGOTTEN * 256 / 24).all()


def test_a_book_stays_as_it_is_while_nothing_is_learnt(vision):
    before = {name: value.clone() for name, value in vision.state_dict().items()}
    vision.eval()
    vision(frames(2))
    vision.train()
    with torch.no_grad():
        vision.quantised(torch.randn(50, 3))
    assert all(torch.equal(value, before[name]) for name, value in vision.state_dict().items())


def test_every_part_learns_from_the_reconstruction(vision):
    vision.train()
    batch = frames(4)
    losses = vision.loss(batch, vision(batch))
    losses["loss"].backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in vision.parameters())
    own = [] if vision.kind == "fsq" else ["commitment"] if vision.config.follows else ["commitment", "book"]
    assert set(losses) == {"loss", "reconstruction", *own}


def test_a_book_learnt_by_gradient_moves_to_what_is_near_and_commitment_to_it():
    torch.manual_seed(0)
    model = VQ(VQConfig(codes=8, numbers=2, book="gradient")).train()
    before = torch.randn(64, 2, 4, 4)
    optimizer = torch.optim.Adam(model.learnt.parameters(), 0.05)

    def away() -> float:
        codes = model.looked_up(model.nearest(before.movedim(1, -1)))
        return float((codes - before.movedim(1, -1)).square().sum(-1).mean())

    def losses(weight: float) -> dict[str, torch.Tensor]:
        model.weigh(Weights(commitment=weight))
        numbers = before.clone().requires_grad_()
        codes = model.quantised(numbers.movedim(1, -1)).movedim(-1, 1)
        return model.commitment(Seen(numbers, codes, numbers, None))

    once, thrice = losses(1.0), losses(3.0)
    assert thrice["commitment"].item() == pytest.approx(3 * once["commitment"].item())
    assert once["book"].item() == pytest.approx(once["commitment"].item()), "one distance, seen from both its ends"
    first = away()
    for _ in range(100):
        optimizer.zero_grad()
        losses(0.25)["book"].backward()
        optimizer.step()
    assert away() < 0.6 * first


def test_a_frozen_book_is_not_learnt():
    model = VQ(VQConfig(book="gradient"))
    model.freeze()
    assert not model.learnt.weight.requires_grad


def test_grids_have_as_many_places_as_tokens():
    assert grid_widths(64, 8) == (32, 64, 128) and grid_widths(128, 8) == (16, 32, 64, 128)
    assert grid_widths(64, 4) == (32, 64, 128, 256) and grid_widths(128, 4) == (16, 32, 64, 128, 256)
    for tokens, size in ((16, 64), (64, 64), (16, 128), (64, 128)):
        model = FSQ(FSQConfig(tokens=tokens, size=size)).eval()
        seen = model.latents(torch.zeros(2, size, size, 3, dtype=torch.uint8))
        assert seen["tokens"].shape == (2, tokens) and seen["tokens"].dtype == torch.int16
        assert model.frames(model.z(seen)).shape == (2, size, size, 3) and model.config.latent == 3 * tokens
    with pytest.raises(ValueError, match="25 tokens are not possible: 16 or 64 are"):
        FSQConfig(tokens=25)


def test_usage_counts_codes_and_bits():
    model = VQ(VQConfig(codes=8, numbers=2))
    tokens = torch.zeros(8, 16, dtype=torch.int16)
    assert model.usage({"tokens": tokens}) == {"codes": 1, "bits": 0.0}
    tokens[:, 3] = torch.arange(8)
    tokens[4:, 5] = 1
    used = model.usage({"tokens": tokens})
    assert used["codes"] == 8 and used["bits"] == pytest.approx(3 + 1)


def test_a_vq_and_an_fsq_have_no_divergence_to_weigh(vision):
    with pytest.raises(UserError, match="tokens have no KL divergence that --beta 0.5 could weigh: leave it out"):
        vision.weigh(Weights(0.5))


@pytest.mark.parametrize("kind, tokens", [("fsq", 16), ("vq", 64)])
def test_all_stages_work_on_tokens(trained, tmp_path, kind, tokens):
    run, common = tmp_path / "run", ("--logdir", tmp_path / "run")
    book = ("--book", "gradient", "--commitment", 1) if kind == "vq" else ()
    learnt = ("--dataset", trained.data, *TINY_TOKENS, "--kind", kind, "--tokens", tokens, *book)
    stages = (
        ("trainvae", learnt),
        ("trainmdrnn", TINY["trainmdrnn"]),
        ("traincontroller", TINY["traincontroller"]),
        ("trainbc", TINY["trainbc"]),
    )
    for stage, flags in stages:
        done = call(stage, *flags, *common)
        assert done.returncode == 0, done.stderr
    model = load_world_model(run, torch.device("cpu"))
    data = load_sequences(run, model.vision, model.parents["vae"], open_datasets([trained.data]))
    assert data.latents["tokens"].dtype == torch.int16 and data.latents["tokens"].shape[1] == tokens
    assert model.starts.latents["tokens"].dtype == torch.int16
    for controller in ("ctrl", "bc"):
        done = call("test_controller", *common, "--controller", controller, "--episodes", 2, "--max-workers", 1)
        assert done.returncode == 0, done.stderr
    done = call("test_controller", *common, "--world", "dream", "--horizon", 5, "--episodes", 2, "--max-workers", 1)
    assert done.returncode == 0, done.stderr


def test_a_v_of_tokens_repeats_resumes_and_stays_of_its_kind(trained, tmp_path):
    flags = ("--dataset", trained.data, *TINY_TOKENS)
    for name, epochs in (("whole", (2,)), ("parts", (1, 2))):
        for count in epochs:
            kind = ("--kind", "vq") if count == epochs[0] else ()
            done = call("trainvae", *flags, *kind, "--epochs", count, "--logdir", tmp_path / name)
            assert done.returncode == 0, done.stderr
    one, other = ((tmp_path / name / "vae/best.tar").read_bytes() for name in ("whole", "parts"))
    assert one == other and load_vision(tmp_path / "parts", torch.device("cpu"))[0].kind == "vq"
    refused = complaint(call("trainvae", *flags, "--kind", "fsq", "--epochs", 3, "--logdir", tmp_path / "whole"))
    assert "the run to resume has kind vq, not fsq" in refused


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--tokens", 64), "--tokens is for --kind fsq or vq: leave it away"),
        (("--kind", "fsq", "--latent", 64), "--latent is for --kind vae: leave it away"),
        (("--kind", "vq", "--grid"), "--grid is for --kind vae: leave it away"),
        (("--kind", "vq", "--beta", 0.5), "--beta is for --kind vae: leave it away"),
        (("--kind", "vq", "--tokens", 25), "argument --tokens: invalid choice: 25"),
    ],
)
def test_flags_of_another_kind_are_refused(tmp_path, flags, said):
    assert said in complaint(call("trainvae", *flags, "--logdir", tmp_path))
