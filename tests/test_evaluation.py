"""Episodes driven for their score: hopeless ones may be given up, the others are none the wiser."""

import pytest
import torch

from dreamdrive import envs
from dreamdrive.driving.evaluation import DriverSpec, Evaluator, _driving
from dreamdrive.learning.evolution import simulator_scores
from dreamdrive.utils.errors import UserError


def drive(env, give_up, seeds=(1, 2, 3), **options):
    """Scores, and steps driven, of a uniformly random driver."""
    work = _driving(env, DriverSpec("white"), "cpu", options)
    episodes, steps = work((None, list(seeds), give_up), lambda share: None)
    return [driven.score for driven in episodes], steps


def test_what_is_left_of_an_episode_that_is_given_up_counts_like_its_last_step():
    """MountainCar gives -1 a step, always."""
    assert drive("gym:MountainCar-v0", 0) == ([-200.0] * 3, 600)
    assert drive("gym:MountainCar-v0", 25) == ([-200.0] * 3, 75)


def test_a_collision_costs_a_candidate_what_is_said():
    """In Nocturne's first synthetic scenes whoever drives at random collides with something in most."""
    tasks = [(None, seed) for seed in range(6)]
    with Evaluator("nocturne", DriverSpec("white"), 1) as evaluator:
        driven = evaluator.episodes(tasks)
        counted = simulator_scores(evaluator, tasks, collision_cost=5.0)
    collided = [episode.outcome["collision_rate"] for episode in driven]
    assert 0 < sum(collided) < 6 and set(collided) == {0.0, 1.0}
    assert counted == [episode.score - 5 * now for episode, now in zip(driven, collided, strict=True)]


def test_a_world_without_collisions_has_no_cost_of_them():
    with Evaluator("gym:CartPole-v1", DriverSpec("white"), 1) as evaluator:
        assert simulator_scores(evaluator, [(None, 1)], collision_cost=0.0) == evaluator.returns([(None, 1)])
        with pytest.raises(UserError, match="--collision-cost 5 needs a world that counts collisions"):
            simulator_scores(evaluator, [(None, 1)], collision_cost=5.0)


def test_an_episode_with_rewards_is_not_given_up():
    """CartPole gives 1 a step."""
    assert drive("gym:CartPole-v1", 1) == drive("gym:CartPole-v1", 0)


def test_each_copy_is_given_up_by_itself_and_changes_nothing_for_those_beside_it():
    pytest.importorskip("Box2D")
    together, steps = drive("carracing-fast", 40, max_steps=150)
    alone = [drive("carracing-fast", 40, [seed], max_steps=150) for seed in (1, 2, 3)]
    assert together == [score[0] for score, _ in alone] and steps == sum(driven for _, driven in alone) < 450
    whole = drive("carracing-fast", 0, max_steps=150)[0]
    assert max(abs(a - b) for a, b in zip(together, whole, strict=True)) < 30


def test_a_world_whose_episodes_are_over_stays_as_it_was():
    world = envs.make("gym:CartPole-v1", num=2, restart=False)
    world.reset(0)
    world.truncate([1])
    step = world.step(torch.tensor([0, 0]))
    assert step.truncated.tolist() == [False, True] and step.reward.tolist() == [1, 0]


def test_the_evaluator_tells_how_much_was_driven():
    with Evaluator("gym:MountainCar-v0", DriverSpec("white"), 1) as evaluator:
        assert evaluator.returns([(None, 1), (None, 2)], patience=10) == [-200, -200] and evaluator.steps == 20


def test_a_world_that_cannot_end_an_episode_says_so():
    world = envs.make("gym:CartPole-v1", restart=False)
    with pytest.raises(UserError, match="use --give-up 0"):
        envs.World.truncate(world, [0])
