"""The public API: what docs/api.md says is so, and what the functions of api.py promise."""

import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import dreamdrive
from dreamdrive import __main__
from dreamdrive.envs import dream
from dreamdrive.tests.tiny_run import ROOT

PAGE = (ROOT / "docs/api.md").read_text()


def test_importing_dreamdrive_imports_nothing_else():
    code = "import sys, dreamdrive; print(dreamdrive.__version__, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    version, *modules = done.stdout.split()
    assert version == dreamdrive.__version__ and not {"torch", "numpy", "gymnasium", "h5py"} & set(modules)
    assert [name for name in modules if name.startswith("dreamdrive.")] == []


def test_every_public_name_is_there_documented_and_in_docs_api():
    assert set(dreamdrive.__all__) <= set(dir(dreamdrive))
    for name in dreamdrive.__all__:
        assert getattr(dreamdrive, name).__doc__ and f"{name}" in PAGE
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dreamdrive.nothing  # noqa: B018


@pytest.mark.slow
def test_the_examples_of_docs_api_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(compile(block, "docs/api.md", "exec"), names)
        else:
            monkeypatch.setattr(sys, "argv", block.split())
            __main__.main()
    seen = SimpleNamespace(**names)
    assert seen.z.shape == (2, 32) or seen.z.shape == (32,)
    assert seen.seen.shape == seen.frames.shape and seen.seen.dtype == torch.uint8
    assert seen.dreamt.frames.shape == (16, 51, 64, 64, 3) and seen.dreamt.reward.shape == (16, 50)
    assert seen.total.shape == (2,) and (seen.total > 0).all() and seen.last.steps == 100
    assert len(seen.dataset.episodes) == 4 and sum(seen.lengths) == sum(
        entry.steps for entry in seen.dataset.episodes if entry.split == "train"
    )


@pytest.fixture(scope="module")
def run():
    return dreamdrive.load_run("carracing")


def test_encoding_is_the_same_in_parts_and_from_numpy(run):
    frames = np.random.default_rng(0).integers(0, 256, (300, 64, 64, 3), np.uint8)
    z = run.encode(frames)
    assert z.shape == (300, 32) and torch.allclose(z[256:], run.encode(torch.from_numpy(frames[256:])), atol=1e-4)
    assert run.decode(z).shape == frames.shape
    with pytest.raises(dreamdrive.UserError, match=r"must be uint8 \(N, 64, 64, 3\), not torch.float32"):
        run.encode(np.zeros((1, 64, 64, 3), np.float32))


def test_a_dream_follows_from_its_seed_start_and_actions_alone(run):
    actions = torch.rand(3, 6, 3)
    dreamt = run.dream(actions, seed=4)
    again = run.dream(actions.numpy(), run.starts(3, seed=4), seed=[4, 5, 6])
    assert torch.equal(dreamt.frames, again.frames) and torch.equal(dreamt.reward, again.reward)
    assert torch.equal(run.dream(actions[1:2], seed=5).z, dreamt.z[1:2])  # whatever is dreamt beside it
    other = run.dream(actions, run.starts(3, seed=4), seed=7)
    assert torch.equal(dreamt.z[:, 0], other.z[:, 0]) and not torch.equal(dreamt.z[:, 1], other.z[:, 1])
    still = [run.dream(actions, run.starts(3, seed=4), temperature=0.0, seed=seed).z for seed in (5, 6)]
    assert torch.equal(*still)


def test_what_has_ended_stays_as_it_is_and_brings_nothing_more(run, monkeypatch):
    real = dream.imagine

    def first_ends(*args):
        after, imagined = real(*args)
        return after, replace(imagined, ended=torch.arange(len(imagined.ended)) == 0)

    monkeypatch.setattr(dream, "imagine", first_ends)
    dreamt = run.dream(torch.zeros(2, 3, 3))
    assert dreamt.ended.tolist() == [[True] * 3, [False] * 3]
    assert dreamt.reward[0, 0] != 0 and (dreamt.reward[0, 1:] == 0).all() and (dreamt.reward[1] != 0).all()
    assert torch.equal(dreamt.z[0, 1:], dreamt.z[0, 1:2].expand(3, -1))
    assert not torch.equal(dreamt.z[1, 1], dreamt.z[1, 2])


def test_a_start_after_some_steps_is_where_an_agent_is_that_saw_them(run):
    frames = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)
    actions = torch.rand(3, 3)
    agent = run.agent("bc")
    agent.reset(1)
    for frame, action in zip(frames, [*actions, None], strict=True):
        agent.see(frame[None])
        if action is not None:
            agent.follow(action[None])
    start = run.start(frames, actions)
    assert torch.allclose(start.z, agent.z, atol=1e-4) and torch.allclose(start.h, agent.h, atol=1e-4)
    assert run.start(frames[:1]).h.abs().sum() == 0
    with pytest.raises(dreamdrive.UserError, match="one frame more than actions, not 4 and 1"):
        run.start(frames, actions[:1])


def test_what_a_run_lacks_is_told_in_one_sentence(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(dreamdrive.UserError, match="no trained run.*breakout, carracing, carracing-dream"):
        dreamdrive.load_run("nowhere")
    breakout = dreamdrive.load_run("breakout")
    assert breakout.world["env"] == "atari:Breakout" and breakout.agent().controller.config.features == "frames"
    with pytest.raises(dreamdrive.UserError, match="vae/best.tar is missing"):
        breakout.starts(1)
    with pytest.raises(dreamdrive.UserError, match=r"actions must be \(B, T, 3\), not \(2, 3\)"):
        run.dream(torch.zeros(2, 3))
    with pytest.raises(dreamdrive.UserError, match="for 4 dreams and there are 3 starts"):
        run.dream(torch.zeros(4, 2, 3), run.starts(3))


def test_an_agent_of_dreams_chooses_by_their_own_latents(run):
    dreams = run.dreams(3, horizon=4)
    agent, moments = run.agent("bc", dreams), []
    for moment in dreamdrive.drive(dreams, agent, seeds=[0, 1, 2]):
        moments.append(moment)
    assert len(moments) == 5 and moments[-1].steps == 4
    assert torch.equal(moments[0].obs, run.starts(3, seed=[0, 1, 2]).z)
    dreams.reset([0, 1, 2])
    agent.reset(3)
    chosen = agent.act(dreams.dream.z)
    assert torch.allclose(chosen, moments[1].action) and not torch.allclose(chosen[0], chosen[1])
