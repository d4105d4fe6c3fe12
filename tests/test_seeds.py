"""Seeds for recording, selection and evaluation never meet, nor do those of two values of --seed."""

import numpy as np
import pytest

from dreamdrive.tests.tiny_run import budget, call, complaint, contents, copy_run
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.seeds import (
    LATE,
    MOST,
    RANGE,
    SEEDS,
    STRIDE,
    evaluation_seeds,
    recording_seed,
    require_seeds,
    selection_seeds,
    use_and_number,
)

TRIED = (0, 1, 7, 50, SEEDS - 2, SEEDS - 1)  # values of --seed
# numbers of episodes, where one range of simulator seeds ends and another begins
EPISODES = (0, 1, STRIDE - 1, STRIDE, STRIDE + 1, 2 * STRIDE, RANGE - 1, RANGE, RANGE + 1, MOST - STRIDE, MOST - 1)


def selection_seed(seed, i):
    return selection_seeds(seed, 1, i)[0]


@pytest.mark.parametrize(("use", "made"), [(0, recording_seed), (1, selection_seed)])
def test_seeds_0_to_99_with_10_000_episodes_have_the_simulator_seeds_they_always_had(use, made):
    for seed in range(SEEDS):
        for i in (0, 1, 1234, STRIDE - 1):
            assert made(seed, i) == use * RANGE + 10_000 * seed + i


def test_no_two_episodes_of_recording_selection_and_evaluation_share_a_simulator_seed():
    rng = np.random.default_rng(0)
    numbers = sorted({*EPISODES, *rng.integers(MOST, size=300).tolist()})
    made = [made(seed, i) for made in (recording_seed, selection_seed) for seed in TRIED for i in numbers]
    judged = [x for seed in (*TRIED, 100, 12_345, 107_173) for x in evaluation_seeds(seed, STRIDE)]
    assert len({*made, *judged}) == len(made) + len(judged)
    assert 0 <= min(made) and max(made) < 2**31 and 2 * RANGE <= min(judged) and max(judged) < LATE


def test_the_seed_of_an_episode_tells_what_it_is_for_and_counts_on_where_a_range_is_full():
    for use, made in ((0, recording_seed), (1, selection_seed)):
        for seed in TRIED:
            assert [use_and_number(made(seed, i)) for i in EPISODES] == [(use, STRIDE * seed + i) for i in EPISODES]
    assert [use_and_number(x) for x in evaluation_seeds(3, 2)] == [(2, 30_000), (2, 30_001)]


@pytest.mark.parametrize("seed", [-1, SEEDS, 12_345])
@pytest.mark.parametrize("made", [recording_seed, selection_seed])
def test_a_seed_whose_simulator_seeds_would_be_anothers_is_refused(made, seed):
    with pytest.raises(UserError, match=f"--seed {seed} is not possible .*choose one from 0 to 99"):
        made(seed, 0)


def test_more_episodes_than_there_are_simulator_seeds_are_refused():
    require_seeds(0, MOST)
    for refused in (
        lambda: require_seeds(0, MOST + 1),
        lambda: recording_seed(0, MOST),
        lambda: selection_seed(9, MOST),
    ):
        with pytest.raises(UserError, match=f"{MOST + 1} episodes .* simulator seeds for {MOST}: choose fewer"):
            refused()
    with pytest.raises(UserError, match="--seed 107174 is not possible: choose one from 0 to 107173"):
        evaluation_seeds(107_174, 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--seed", SEEDS), "--seed 100 is not possible where a simulator is driven"),
        (("--rollouts", MOST + 1), f"{MOST + 1} episodes were asked for and a --seed has simulator seeds for {MOST}"),
    ],
)
def test_stage_1_refuses_at_once(options, said, tmp_path):
    done = call("data.generation_script", "--env", "cartpole", "--rootdir", tmp_path / "data", *options)
    assert said in complaint(done) and not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("stage", "options", "said"),
    [
        ("trainbc", ("--noreload", "--seed", SEEDS), "--seed 100 is not possible"),
        ("traincontroller", ("--noreload", "--evaluate-every", 10, "--seed", SEEDS), "--seed 100 is not possible"),
        ("traincontroller", ("--noreload", "--world", "simulator", "--generations", MOST), f"for {MOST}: choose fewer"),
    ],
)
def test_who_chooses_by_the_simulator_refuses_before_the_first_epoch(stage, options, said, trained, tmp_path):
    run = copy_run(trained, tmp_path / "run")
    before = contents(run.logdir)
    done = call(stage, *budget(stage, "--logdir", run.logdir, *options))
    assert said in complaint(done) and contents(run.logdir) == before


def test_evaluation_seeds_are_the_documented_ones():
    assert evaluation_seeds(3, 2) == [2_030_000, 2_030_001]


def test_evaluations_of_two_seeds_share_nothing_and_too_many_episodes_are_refused():
    assert not set(evaluation_seeds(0, 10_000)) & set(evaluation_seeds(1, 10_000))
    with pytest.raises(UserError, match="10001 evaluation episodes"):
        evaluation_seeds(0, 10_001)


def test_every_selection_round_has_fresh_seeds_and_every_recorded_episode_its_own():
    rounds = [selection_seeds(0, 16, r) for r in range(100)]
    assert len({s for r in rounds for s in r}) == 1600
    assert len({recording_seed(5, i) for i in range(20_000)}) == 20_000
