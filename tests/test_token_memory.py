"""M that foresees tokens (models/token_memory.py): what it says of letters, that it draws them so, and the stages."""

import shutil
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from dreamdrive.data.loaders import Windows
from dreamdrive.models.token_memory import (
    AttentiveTokenConfig,
    CfCSequence,
    FramesSequence,
    Letters,
    LSTMOnce,
    LSTMSequence,
    TokenMemoryConfig,
    drawn,
)
from dreamdrive.models.token_transformer import TokensOnce, TokensSequence
from dreamdrive.models.tokens import FSQ, VQ, FSQConfig, VQConfig
from dreamdrive.models.world_model import State, load_world_model
from dreamdrive.tests.tiny_run import TINY, call, complaint, copy_run

LETTERS = (4, 3)
VALUES = [torch.tensor([[-0.75], [-0.25], [0.25], [0.75]]), torch.tensor([[-0.6], [0.0], [0.6]])]
SIZES = {"latent": 10, "action": 2, "hidden": 12, "letters": LETTERS, "width": 7}
CONFIG = TokenMemoryConfig(**SIZES)
KINDS = [LSTMOnce, LSTMSequence, CfCSequence, FramesSequence, TokensOnce, TokensSequence]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.kind)
def memory(request):
    """M of five places, with two letters a code, that says something of everything."""
    torch.manual_seed(0)
    attentive = {"layers": 2, "heads": 3, "context": 4} if request.param.sizes is AttentiveTokenConfig else {}
    model = request.param(request.param.sizes(**SIZES, **attentive)).eval()
    model.meet(SimpleNamespace(alphabet=VALUES))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.4 * torch.randn_like(weight))
    return model


def codes(*shape: int) -> torch.Tensor:
    """z (..., 10) of letters drawn at random."""
    letters = [torch.randint(count, (*shape, 5)) for count in LETTERS]
    parts = [values[chosen] for values, chosen in zip(VALUES, letters, strict=True)]
    return torch.cat(parts, -1).flatten(-2)


def test_letters_are_read_and_written(memory):
    z = codes(6, 3)
    letters = memory.letters(z)
    assert letters.shape == (6, 3, 5, 2) and letters[..., 0].max() == 3 and letters[..., 1].max() == 2
    assert torch.equal(memory.written(Letters(letters)), z)
    assert torch.equal(memory.letters(z + 0.05 * torch.randn_like(z)), letters), "the nearest"


@pytest.mark.parametrize("vision", [FSQ(FSQConfig(levels=(8, 5, 4))), VQ(VQConfig(codes=20, numbers=3))])
def test_letters_are_those_of_v(vision):
    alphabet = vision.alphabet
    sizes = {"letters": [len(letter) for letter in alphabet], "numbers": alphabet[0].shape[1]}
    model = LSTMOnce(TokenMemoryConfig(latent=vision.config.latent, action=1, hidden=4, **sizes))
    model.meet(vision)
    tokens = torch.randint(vision.config.codes, (30, 16))
    z = vision.z({"tokens": tokens})
    letters = model.letters(z)
    assert torch.equal(model.written(Letters(letters)), z)
    assert model.config.places == 16 and len(letters.flatten(0, 1).unique(dim=0)) == len(tokens.unique())


def test_the_loss_is_what_letters_cost_where_steps_count(memory):
    z, action, following = codes(2, 3), torch.randn(2, 3, 2), codes(2, 3)
    mask = torch.tensor([[1.0, 1, 0], [1, 0, 0]])
    reward, terminal = torch.randn(2, 3), torch.tensor([[0.0, 1, 0], [0, 0, 0]])
    memory.requires_grad_(False)
    steps = Windows(z, following, action, reward, terminal, mask)
    losses = memory.loss(steps)
    h, basis = memory.foreseeing(steps)
    torch.testing.assert_close(h, memory.observe(z, action)[0])
    nll = []
    for b, t in mask.nonzero().tolist():
        following_letters = memory.letters(following[b, t])
        logits = memory.told(basis[b, t][None], memory.letters(z[b, t])[None], following_letters[None])[0]
        nll.append(float(F.cross_entropy(logits.flatten(0, 1), following_letters.flatten(), reduction="sum")))
    assert losses["nll"].item() == pytest.approx(sum(nll) / 3, rel=1e-5)
    shown = mask.bool()
    expected = memory.expected(h[shown])
    assert losses["reward_mse"].item() == pytest.approx(float((expected.reward - reward[shown]).square().mean()))
    assert losses["loss"].item() == pytest.approx(
        float(losses["nll"] + losses["reward_mse"] + losses["terminal_bce"]) / (10 + 2), rel=1e-5
    )


def begun(memory, num: int) -> tuple[torch.Tensor, torch.Tensor, State]:
    """A step z (num, 1, 10), its action, and the state after it."""
    z, action = codes(num, 1), torch.randn(num, 1, 2)
    return z, action, memory.observe(z, action)[1]


def said_of(memory, z, action, letters) -> torch.Tensor:
    """The logits of the letters after a step, when these letters are known."""
    nothing, following = torch.zeros(len(z), 1), memory.written(letters)[:, None]
    _, basis = memory.foreseeing(Windows(z, following, action, nothing, nothing, nothing))
    return memory.told(basis[:, 0], memory.letters(z[:, 0]), letters.index)


def test_what_is_drawn_place_by_place_is_what_is_said_when_all_is_known(memory):
    """The numbers that letters are drawn with, put through the distributions that the finished frame is given."""
    z, action, state = begun(memory, 50)
    uniform = torch.rand(50, 5, 2)
    letters = memory.drawn_letters(state, 0.7, uniform)
    assert torch.equal(drawn(said_of(memory, z, action, letters), 0.7, uniform).index, letters.index)
    likeliest = memory.drawn_letters(state, 0.0, uniform)
    assert torch.equal(said_of(memory, z, action, likeliest).argmax(-1), likeliest.index)


def test_letters_are_drawn_as_often_as_they_are_likely():
    logits = torch.tensor([2.0, 0.0, 1.0, -torch.inf, -1.0])
    for temperature in (1.0, 2.0, 0.5):
        uniform = (torch.arange(10_000) + 0.5) / 10_000
        count = drawn(logits.expand(10_000, 5), temperature, uniform).index.bincount(minlength=5) / 10_000
        torch.testing.assert_close(count, (logits / temperature).softmax(0), atol=2e-4, rtol=0)
    edge = drawn(logits.expand(2, 5), 1.0, torch.tensor([0.0, 1.0])).index
    assert edge.tolist() == [0, 4], "never one that there is none of"


def test_letters_that_there_are_none_of_are_never_drawn(memory):
    _, _, state = begun(memory, 400)
    letters = memory.drawn_letters(state, 3.0, torch.rand(400, 5, 2)).index
    assert letters[..., 1].max() == 2 and letters[..., 0].max() == 3


def test_a_bonus_keeps_letters_as_they_are(memory):
    with torch.no_grad():
        memory.stay.fill_(100.0)
    z = codes(8, 1)
    _, state = memory.observe(z, torch.randn(8, 1, 2))
    assert torch.equal(memory.likeliest(state), z[:, 0])
    noise = memory.drawn(8, torch.Generator().manual_seed(0))
    assert torch.equal(memory.sample(state, 1.0, noise).z, z[:, 0])


def test_gradients_pass_drawn_letters_as_those_of_their_probabilities():
    torch.manual_seed(0)
    memory = LSTMOnce(CONFIG)
    memory.meet(SimpleNamespace(alphabet=VALUES))
    h, z = torch.randn(6, 12, requires_grad=True), codes(6)
    now, weight = memory.letters(z), torch.randn(6, 10)
    (memory.written(memory.drawn_letters(State(h, {"z": z}), 1.0, torch.rand(6, 5, 2))) * weight).sum().backward()
    passed, h.grad = h.grad, None
    (memory.written(Letters(now, memory.told(h, now, now).softmax(-1))) * weight).sum().backward()
    torch.testing.assert_close(passed, h.grad)
    assert passed.any()


def test_a_dream_is_looked_back_through(memory):
    memory.requires_grad_(False)
    action = torch.randn(4, 3, 2, requires_grad=True)
    z, state = codes(4), memory.initial(4)
    for t in range(3):
        _, state = memory.observe(z[:, None], action[:, t : t + 1], state)
        imagined = memory.sample(state, 1.0, memory.drawn(4, torch.Generator().manual_seed(t)))
        z = imagined.z
    imagined.reward.sum().backward()
    assert all(action.grad[:, t].any() for t in range(3)), "an action of the first step changes the last one's reward"


def test_all_stages_work_on_an_m_of_tokens(tokens, tmp_path):
    common = ("--logdir", shutil.copytree(tokens, tmp_path / "run"))
    for core, head in (("cfc", "once"), ("tokens", "once"), ("lstm", "sequence")):
        done = call("trainmdrnn", *TINY["trainmdrnn"], *common, "--core", core, "--head", head, "--noreload")
        assert done.returncode == 0, done.stderr
        assert load_world_model(tmp_path / "run", torch.device("cpu")).memory.kind == f"{core}-{head}"
    learnt = ("--method", "actor-critic", "--hidden", 16, "--dreams", 8, "--horizon", 4, "--evaluate-every", 0)
    stages = (
        ("trainmdrnn", (*TINY["trainmdrnn"][:-4], "--epochs", 3, "--device", "cpu")),
        ("traincontroller", TINY["traincontroller"]),
        ("traincontroller", (*learnt, "--updates", 50, "--noreload", "--max-workers", 1, "--device", "cpu")),
        ("trainbc", TINY["trainbc"]),
        ("trainbc", ("ditto", *TINY["trainbc"], "--horizon", 5, "--noreload")),
        ("test_controller", ("--episodes", 2, "--max-workers", 1)),
        ("test_controller", ("--world", "dream", "--horizon", 5, "--episodes", 2, "--max-workers", 1)),
    )
    for stage, flags in stages:
        done = call(stage, *flags, *common)
        assert done.returncode == 0, (stage, done.stderr)


def test_heads_that_do_not_fit_are_refused(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    flags = ("--logdir", run.logdir, *TINY["trainmdrnn"])
    said = complaint(call("trainmdrnn", *flags, "--noreload", "--head", "once"))
    assert "--head once foresees tokens, and V of" in said and "trainvae.py --kind fsq" in said
    said = complaint(call("trainmdrnn", *flags, "--core", "cfc"))
    assert "the run to resume has core lstm, not cfc" in said
    said = complaint(call("trainmdrnn", *flags, "--noreload", "--core", "cfc", "--members", 2))
    assert "--members is for --core lstm and --head mixture: leave it away" in said
