"""Drivers while recording: mixtures, disturbances, trained controllers and clones, and what is written down of the
expert."""

import dataclasses
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

from dreamdrive.driving import catalogue, policies, recording
from dreamdrive.driving.disturbance import Disturbance
from dreamdrive.envs import WorldSpec
from dreamdrive.tests.tiny_world import TinyWorld, recorder, same
from dreamdrive.utils.errors import UserError


def test_a_mixture_is_drawn_from_seed_and_index_in_its_shares():
    mixture = catalogue.parse_mixture("brown=0.5, expert=0.3,white=0.2")
    assert mixture == {"brown": 0.5, "expert": 0.3, "white": 0.2}
    drawn = [policies.draw_policy(mixture, 3, i) for i in range(1000)]
    assert (
        drawn
        == [policies.draw_policy(mixture, 3, i) for i in range(1000)]
        != [policies.draw_policy(mixture, 4, i) for i in range(1000)]
    )
    for name, share in mixture.items():
        # also in short stretches, and among validation episodes
        for part in (drawn, drawn[:50], drawn[500:540], drawn[9::10]):
            assert abs(part.count(name) / len(part) - share) < 0.06


@pytest.mark.parametrize(
    "text",
    [
        "",
        "drunk",
        "brown=0.5",
        "brown=0.5,expert=0.6",
        "brown=x",
        "brown=-1,expert=2",
        "brown,brown",
        "brown=nan",
        "brown=1,expert=0",
        "brown=0.5,brown=0.5",
        "brown,expert",
    ],
)
def test_an_impossible_mixture_is_refused(text):
    with pytest.raises(UserError, match="is not possible"):
        catalogue.parse_mixture(text)


def test_only_expert_episodes_have_the_experts_action_and_it_is_the_executed_one_without_noise():
    one = recorder(mixture={"brown": 0.5, "expert": 0.5})
    episodes = [one.record([i])[0] for i in range(8)]
    assert {e.policy for e in episodes} == {0, 1}
    for e in episodes:
        if e.policy == 1:
            np.testing.assert_array_equal(e.action, e.expert_action)
            np.testing.assert_allclose(e.action[:, 0], np.sin(np.arange(len(e.action)) / 5), atol=1e-6)
        else:
            assert np.isnan(e.expert_action).all() and np.isfinite(e.action).all()


def test_action_noise_comes_in_bursts_that_leave_the_experts_action_beside_the_executed_one():
    spec = TinyWorld("tiny", max_steps=9, restart=False).spec
    space, disturb = spec.action_space, Disturbance(0.5, spec, np.random.default_rng(0))
    chosen = np.array([0.1, 0.5], np.float32)
    executed = np.stack([disturb(chosen) for _ in range(20_000)])
    disturbed = (executed != chosen).any(1)
    runs = np.diff(np.flatnonzero(np.diff(disturbed.astype(int), prepend=0, append=0)))
    bursts, calms = runs[::2], runs[1::2]
    assert bursts.min() >= 10 and bursts.max() <= 30 and calms.min() >= 30 and calms.max() <= 90
    assert not disturbed[:30].any() and (executed >= space.low).all() and (executed <= space.high).all()
    push = (executed - chosen)[disturbed, 0]
    assert 0.3 < push.std() < 0.6  # half the range of 2, times 0.5, less what is clipped
    assert np.corrcoef(push[:-1], push[1:])[0, 1] > 0.7  # one way for long enough to matter
    e = recorder(mixture={"expert": 1}, noise=0.5, seed=2).record(
        [next(i for i in range(99) if len(recorder(seed=2).record([i])[0].action) > 55)]
    )[0]
    assert (
        (e.action != e.expert_action).any()
        and (e.action[:25] == e.expert_action[:25]).all()
        and np.isfinite(e.expert_action).all()
    )


def test_action_noise_is_in_seconds_and_in_typical_sizes_of_the_world():
    spec = dataclasses.replace(TinyWorld("tiny", max_steps=9, restart=False).spec, dt=0.1, action_scale=(0.02, 0.1))
    disturb, chosen = Disturbance(1.0, spec, np.random.default_rng(0)), np.array([0.1, 0.5], np.float32)
    push = np.stack([disturb(chosen) for _ in range(20_000)]) - chosen
    disturbed = push.any(1)
    runs = np.diff(np.flatnonzero(np.diff(disturbed.astype(int), prepend=0, append=0)))
    assert (runs[::2].min(), runs[::2].max(), runs[1::2].min(), runs[1::2].max()) == (2, 6, 6, 18)
    np.testing.assert_allclose(push[disturbed].std(0), [0.02, 0.1], rtol=0.1)


def test_brown_and_white_are_not_disturbed():
    assert same(recorder(noise=0.0).record([4])[0], recorder(noise=0.9).record([4])[0])


def test_discrete_noise_replaces_actions_and_discrete_labels_are_minus_one_where_unknown():
    one = recorder("tiny-discrete", {"expert": 0.5, "brown": 0.5}, noise=0.8)
    episodes = [one.record([i])[0] for i in range(30)]
    assert {e.action.dtype for e in episodes} == {np.dtype(np.int64)} and {a for e in episodes for a in e.action} == {
        0,
        1,
        2,
        3,
    }
    assert all((e.expert_action == -1).all() for e in episodes if e.policy == 1)
    expert = [e for e in episodes if e.policy == 0]
    assert all((e.expert_action == np.arange(len(e.action)) % 4).all() for e in expert)
    assert any((e.action != e.expert_action).any() for e in expert)


def test_brown_moves_a_little_each_step_and_white_jumps():
    spec = WorldSpec(
        "x", (8, 8, 3), gym.spaces.Box(np.array([-1, 0, 0], np.float32), np.ones(3, np.float32)), 1 / 50, 1000
    )

    def drive(name):
        policy = policies.make_policy(name, SimpleNamespace(spec=spec))
        policy.reset(64, [np.random.default_rng(b) for b in range(64)])
        return np.stack([policy.act(None).numpy() for _ in range(200)])  # (T, B, A)

    brown, white = drive("brown"), drive("white")
    for actions in (brown, white):
        assert actions.dtype == np.float32 and actions.shape == (200, 64, 3)
        assert (actions >= spec.action_space.low).all() and (actions <= spec.action_space.high).all()
    inside = np.abs(brown[:-1, :, 0]) < 0.5
    assert abs(np.diff(brown[:, :, 0], axis=0)[inside].std() - (1 / 50) ** 0.5) < 0.01
    assert (
        abs(white[:, :, 0].std() - 3**-0.5) < 0.01
        and abs(np.diff(white[:, :, 0], axis=0).std() - (2 / 3) ** 0.5) < 0.02
    )


def test_a_controller_drives_and_the_experts_opinion_is_recorded_where_there_is_one(monkeypatch):
    class Agent:
        parents = {"vae": "abc"}

        def reset(self, num, rngs, parameters):
            self.num, self.taken = num, []

        def keep(self, which):
            self.num = int(which.sum())

        def see(self, obs):
            assert obs.shape == (self.num, 8, 8, 3)

        def choose(self):
            return torch.tensor([[2.0, 0.25]])

        def follow(self, action):
            self.taken.append(action[0].tolist())

    agent = Agent()
    monkeypatch.setattr("dreamdrive.driving.recorder.load_agent", lambda logdir, controller, name: agent)
    e = recorder(mixture={"controller": 1}).record([0])[0]
    assert (e.action == np.array([1, 0.25], np.float32)).all()  # within the action space
    pushed = 0
    for i in range(40):
        disturbed = recorder(mixture={"controller": 1}, noise=0.5).record([i])[0].action
        assert agent.taken == disturbed.tolist()  # it remembers what was done
        pushed += (disturbed != e.action[0]).any(1).sum()
    assert pushed > 10
    np.testing.assert_allclose(e.expert_action[:, 0], np.sin(np.arange(len(e.action)) / 5), atol=1e-6)
    assert np.isnan(recorder("tiny-blind", {"controller": 1}).record([0])[0].expert_action).all()


def test_a_controller_of_another_world_is_refused(monkeypatch):
    agent = SimpleNamespace(world={"env": "gym:Pong"}, parents={})
    monkeypatch.setattr("dreamdrive.driving.recording.load_agent", lambda logdir, controller, name: agent)
    with pytest.raises(UserError, match="exp_dir was trained for gym:Pong and --env is tiny"):
        recording.trained_on(recording.RecordingSettings(env="tiny", policy="controller"), "controller", {})


def test_an_expert_that_is_not_there_is_one_sentence():
    with pytest.raises(UserError, match="has no expert"):
        recorder("tiny-blind", {"expert": 1}).record([0])[0]
