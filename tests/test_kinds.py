"""What holds for every kind of V and M, and what a new one costs."""

from dataclasses import asdict, dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from dreamdrive.data.latents import cache_latents, load_sequences
from dreamdrive.driving.agent import Agent
from dreamdrive.envs.dream import Dream, DreamWorld, begin, step
from dreamdrive.learning.memory import dream_starts, run_epoch, save_strip
from dreamdrive.models.catalogue import KINDS
from dreamdrive.models.controller import Controller, ControllerConfig
from dreamdrive.models.mdrnn import MDRNN
from dreamdrive.models.token_memory import TokenMemory
from dreamdrive.models.vae import VAE
from dreamdrive.models.world_model import (
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
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.progress import Bar

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
SMALL["vae", "vq"] = {**TOKENS, "codes": 20, "numbers": 3, "book": "averages"}
FORESEEN = {
    "dropout": 0.0,
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
    with Bar(disable=True) as bar:
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
