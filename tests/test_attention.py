"""Transformers as M (models/attention.py, the cores of models/cores.py, models/token_transformer.py): what is carried
from step to step is what looking at all of it would give, and GPT-2 in them."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from dreamdrive.data.loaders import Windows
from dreamdrive.envs.dream import DreamWorld
from dreamdrive.learning.memory_settings import PRESETS, MDRNNSettings
from dreamdrive.models.attention import AttentionSizes, Blocks, load_gpt2
from dreamdrive.models.lanes import LANES
from dreamdrive.models.token_memory import drawn
from dreamdrive.models.world_model import Memory, State, build, load_world_model
from dreamdrive.tests.tiny_run import TINY, call, complaint, copy_run
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError

CONTEXT, LETTERS = 6, [torch.tensor([[-0.7], [0.0], [0.7]]), torch.tensor([[-0.5], [0.5]])]
SIZES = {"latent": 8, "action": 2, "hidden": 16, "layers": 2, "heads": 4, "context": CONTEXT}
KINDS = ["frames-mixture", "frames-once", "frames-sequence", "tokens-once", "tokens-sequence"]


def made(kind: str) -> Memory:
    """M of a kind, with two letters a code, that says something of everything."""
    torch.manual_seed(0)
    more = {"mixtures": 2} if kind.endswith("mixture") else {"letters": (3, 2), "width": 6}
    memory = build("mdrnn", {**SIZES, **more}, kind)
    memory.meet(SimpleNamespace(alphabet=LETTERS))
    with torch.no_grad():
        for weight in memory.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return memory.eval().requires_grad_(False)


@pytest.fixture(params=KINDS)
def memory(request) -> Memory:
    return made(request.param)


def codes(*shape: int) -> Tensor:
    """z (..., 8) of letters drawn at random."""
    letters = [letter[torch.randint(len(letter), (*shape, 4))] for letter in LETTERS]
    return torch.cat(letters, -1).flatten(-2)


def logits(memory: Memory, state: State) -> Tensor:
    """Whatever is said after a state, (B, n)."""
    if memory.kind.endswith("mixture"):
        pred = memory.predict(state.h)
        return torch.cat([pred.mu.flatten(1), pred.logsigma.flatten(1), pred.logpi, pred.reward[:, None]], 1)
    expected = memory.expected(state.h)
    uniform = torch.full((len(state), 4, 2), 0.5)
    letters = memory.drawn_letters(state, 1.0, uniform).index.flatten(1)
    return torch.cat([letters, state.h, expected.reward[:, None], expected.terminal[:, None]], 1)


@pytest.mark.parametrize("copies", [1, 256])
def test_what_is_carried_is_what_is_made_of_the_frames_anew_at_mixed_ages_and_beyond_the_context(memory, copies):
    """Copies of all ages go on together; each is told from its last frames alone, too, by a state without a cache."""
    steps, age = 3 * CONTEXT, torch.arange(copies) % (2 * CONTEXT)
    z, action = codes(copies, steps), torch.randn(copies, steps, 2)
    state = memory.initial(copies)
    for t in range(2 * CONTEXT):  # the younger ones begin later
        fresh = memory.observe(z[:, t : t + 1], action[:, t : t + 1], state)[1]
        state = fresh.where(t >= 2 * CONTEXT - 1 - age, state)
    assert copies == 1 or len(state.more["length"].unique()) > CONTEXT // 2
    for t in range(2 * CONTEXT, steps):
        anew = memory.observe(z[:, t : t + 1], action[:, t : t + 1], memory.bare(state))[1]
        state = memory.observe(z[:, t : t + 1], action[:, t : t + 1], state)[1]
        for whole in (anew, memory.bare(state)):
            torch.testing.assert_close(logits(memory, state), logits(memory, whole), rtol=0, atol=1e-4)
    alone = memory.initial(1)
    first = 2 * CONTEXT - 1 - int(age[-1])
    _, alone = memory.observe(z[-1:, first:], action[-1:, first:], alone)
    torch.testing.assert_close(alone.h, state.h[-1:], rtol=0, atol=1e-4)


def test_a_context_is_never_longer_than_it_was_trained_for_nor_forgets_more_than_half(memory):
    state, lengths = memory.initial(1), []
    for _ in range(3 * CONTEXT):
        _, state = memory.observe(codes(1, 1), torch.randn(1, 1, 2), state)
        lengths.append(int(state.more["length"]))
    half = list(range(CONTEXT // 2 + 1, CONTEXT + 1))
    assert lengths[: 2 * CONTEXT] == [*range(1, CONTEXT + 1), *half, *half]


def test_the_future_changes_nothing(memory):
    z, action = codes(3, CONTEXT), torch.randn(3, CONTEXT, 2)
    before, _ = memory.observe(z, action)
    z[:, 4:], action[:, 4:] = codes(3, 2), 1.0
    after, _ = memory.observe(z, action)
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.equal(before[:, 4], after[:, 4])


def test_a_copy_goes_on_the_same_whoever_is_beside_it(memory):
    """To the last bit, some of the others being made anew, younger or older (see models/lanes.py)."""
    z, action = codes(4 * LANES, 2 * CONTEXT), torch.randn(4 * LANES, 2 * CONTEXT, 2)
    found = []
    for num in (LANES, 4 * LANES):
        state = memory.initial(num)
        for t in range(2 * CONTEXT):
            _, state = memory.observe(z[:num, t : t + 1], action[:num, t : t + 1], state)
            if t == 3:  # some begin again, others are told from their frames
                others = torch.arange(num) >= LANES
                state = memory.initial(num).where(others & (torch.arange(num) % 3 == 0), state)
                state = memory.bare(state).where(others & (torch.arange(num) % 3 == 1), state)
        found.append(logits(memory, state)[:LANES])
    assert torch.equal(*found)


def test_what_a_copy_carries_without_a_cache_is_small(memory):
    _, state = memory.observe(codes(2, 3), torch.randn(2, 3, 2))
    bare = memory.bare(state)
    assert "key1" in state.more and bare.more.keys() <= {"past", "length", "z", "places"}
    width = SIZES["latent"] + SIZES["action"]
    assert sum(part.nbytes for part in bare) < 2 * 4 * (CONTEXT * width + 6 * SIZES["hidden"])


def test_a_window_longer_than_the_context_is_learnt_from_as_it_is_dreamt(memory):
    """What a step's loss is of, where the whole window is known, is what was said step by step, from what was carried:
    the numbers that a dream was drawn with draw the same again."""
    steps, generator = 2 * CONTEXT + 1, torch.Generator().manual_seed(0)
    frames, action, state, h = [codes(20)], torch.randn(20, steps, 2), memory.initial(20), []
    noise = [memory.drawn(20, generator) for _ in range(steps)]
    for t in range(steps):
        _, state = memory.observe(frames[-1][:, None], action[:, t : t + 1], state)
        h.append(state.h)
        frames.append(memory.sample(state, 1.0, noise[t]).z)
    z, nothing = torch.stack(frames, 1), torch.zeros(20, steps)
    window = Windows(z[:, :-1], z[:, 1:], action, nothing, nothing, torch.ones(20, steps))
    if memory.kind.endswith("mixture"):
        torch.testing.assert_close(memory(window.z, action)[0].reward, memory.predict(torch.stack(h, 1)).reward)
    else:
        found, basis = memory.foreseeing(window)
        torch.testing.assert_close(found, torch.stack(h, 1), rtol=0, atol=1e-4)
        now, following = (memory.letters(part.flatten(0, 1)) for part in (window.z, window.z_next))
        uniform = torch.stack(noise, 1)[..., :-1].reshape(20 * steps, 4, 2)
        again = drawn(memory.told(basis.flatten(0, 1), now, following), 1.0, uniform).index
        assert torch.equal(again, following) and len(following.flatten(1).unique(dim=0)) > 50, "the dreams move"
    assert memory.loss(window)["loss"].isfinite()


def test_dropout_is_for_training_alone():
    torch.manual_seed(0)
    memory = build("mdrnn", {**SIZES, "mixtures": 2, "dropout": 0.5}, "frames-mixture")
    z, action = torch.randn(2, 4, 8), torch.randn(2, 4, 2)
    memory.train()
    assert not torch.equal(memory.observe(z, action)[0], memory.observe(z, action)[0])
    memory.eval()
    assert torch.equal(memory.observe(z, action)[0], memory.observe(z, action)[0])


@pytest.mark.parametrize("wrong", [{"heads": 3}, {"context": 1}, {"layers": 0}])
def test_sizes_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError, match="heads"):
        build("mdrnn", {**SIZES, "mixtures": 2, **wrong}, "frames-mixture")


# GPT-2


def save_gpt2(folder, layers: int = 3, heads: int = 2, width: int = 16):
    """A tiny GPT-2 as huggingface has it, with weights drawn at random."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=7, n_positions=12, n_embd=width, n_layer=layers, n_head=heads)
    torch.manual_seed(1)
    model = transformers.GPT2Model(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return model


def test_hidden_states_are_those_of_transformers(tmp_path):
    theirs = save_gpt2(tmp_path)
    blocks = Blocks(16, AttentionSizes(layers=3, heads=2)).eval()
    load_gpt2(blocks, tmp_path)
    x = torch.randn(4, 9, 16)
    with torch.no_grad():
        position = theirs.wpe(torch.arange(9))
        wanted = theirs(inputs_embeds=x).last_hidden_state
        found, kept = blocks(x + position)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
        late, _ = blocks((x + position)[:, 6:], [(blocks((x + position)[:, :6])[1], None)])
    torch.testing.assert_close(late, wanted[:, 6:], rtol=0, atol=1e-4)
    assert len(kept) == 3 and {part.shape for pair in kept for part in pair} == {(4, 2, 9, 8)}


def test_a_run_begins_with_gpt2_and_leaves_what_is_frozen_as_it_is(tokens, tmp_path):
    theirs = save_gpt2(tmp_path / "gpt2").state_dict()
    flags = ("--logdir", shutil.copytree(tokens, tmp_path / "run"))
    sized = (*TINY["trainmdrnn"][2:-4], "--device", "cpu", *flags)  # of GPT-2's width
    done = call("trainmdrnn", *sized, "--preset", "gpt2", "--gpt2", tmp_path / "gpt2", "--freeze", 2, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    done = call("trainmdrnn", *sized, "--epochs", 2)
    assert done.returncode == 0 and "freeze 2" in done.stdout, done.stderr
    memory = load_world_model(tmp_path / "run", torch.device("cpu")).memory
    assert (memory.kind, memory.config.hidden, memory.config.layers, memory.config.frozen) == (
        "tokens-sequence",
        16,
        3,
        2,
    )
    for number, block in enumerate(memory.blocks.blocks):
        for ours, name in (("asked", "attn.c_attn"), ("narrow", "mlp.c_proj")):
            weight = theirs[f"h.{number}.{name}.weight"].T
            assert torch.equal(getattr(block, ours).weight, weight) == (number < 2), (number, name)
        assert not torch.equal(block.before_layers.weight, theirs[f"h.{number}.ln_2.weight"]), "it is trained"


def test_what_is_no_gpt2_is_refused_in_one_sentence(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    flags = ("--logdir", run.logdir, *TINY["trainmdrnn"][2:], "--noreload", "--core", "frames")

    def refused(*more) -> str:
        return complaint(call("trainmdrnn", *flags, *more))

    folder = tmp_path / "gpt2"
    assert "config.json cannot be read (No such file or directory): --gpt2 takes a folder" in refused("--gpt2", folder)
    folder.mkdir()
    (folder / "config.json").write_text("[1, 2]")
    assert "is no configuration of a GPT-2" in refused("--gpt2", folder)
    (folder / "config.json").write_text(json.dumps({"n_embd": 16, "n_layer": 1, "n_head": 2}))
    (folder / "model.safetensors").write_bytes(b"no weights")
    assert "model.safetensors cannot be read" in refused("--gpt2", folder)
    save_gpt2(folder, layers=1)
    (folder / "config.json").write_text(json.dumps({"n_embd": 16, "n_layer": 2, "n_head": 2}))
    assert "has no h.1.ln_1.weight" in refused("--gpt2", folder)
    assert "--gpt2 is for a transformer" in refused("--gpt2", folder, "--core", "lstm")
    assert "give their folder with --gpt2" in complaint(call("trainmdrnn", *flags[:-2], "--preset", "gpt2"))


# Presets


def test_presets_are_settings_that_the_command_line_may_change():
    for name, preset in PRESETS.items():
        made = MDRNNSettings(preset=name).with_preset()
        assert all(getattr(made, field) == value for field, value in preset.items())
    iris = MDRNNSettings(preset="iris", layers=3).with_preset()
    assert (iris.layers, iris.kind, iris.attention_heads, iris.dropout) == (3, "tokens-sequence", 4, 0.1)
    iris.check()
    with pytest.raises(UserError, match="--core tokens foresees tokens, not a mixture"):
        MDRNNSettings(core="tokens").check()


@pytest.mark.parametrize("preset", ["iris", "thesis-ncp"])
def test_a_preset_is_trained_for_a_few_steps(preset, tokens, tmp_path):
    """At sizes that a test can afford."""
    flags = ("--logdir", shutil.copytree(tokens, tmp_path / "run"))
    small = ("--hidden", 16, "--layers", 2, *(("--neurons", 24) if preset == "thesis-ncp" else ("--context", 6)))
    common = ("--seq-len", 8, "--batch-size", 4, "--updates", 3, "--device", "cpu")
    done = call("trainmdrnn", *flags, *common, "--preset", preset, *small, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    done = call("trainmdrnn", *flags, *common, "--epochs", 2)
    assert done.returncode == 0 and "layers 2" in done.stdout, done.stderr
    saved = checkpoint.load(tmp_path / "run/mdrnn/best.tar", "mdrnn")
    assert saved["kind"] == f"{PRESETS[preset]['core']}-{PRESETS[preset]['head']}"
    world = DreamWorld(tmp_path / "run", 2)
    world.reset(0)
    for _ in range(3):
        assert world.step(torch.zeros(2, dtype=torch.int64)).reward.isfinite().all()
