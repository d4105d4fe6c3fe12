"""Seeds for recording, selection and evaluation never meet."""

import pytest

from dreamdrive.utils.errors import UserError
from dreamdrive.utils.seeds import evaluation_seeds, recording_seed, selection_seeds

SEEDS = (0, 1, 7, 99, 100, 12345)


def test_the_three_ranges_never_meet_whatever_the_seed_and_the_number():
    recording = {recording_seed(s, i) for s in SEEDS for i in (0, 1, 9_999, 999_999, 1_000_000)}
    selection = {x for s in SEEDS for r in (0, 3, 10_000) for x in selection_seeds(s, 100, r)}
    evaluation = {x for s in SEEDS for x in evaluation_seeds(s, 10_000)}
    assert (
        0 <= min(recording)
        and max(recording) < 1_000_000 <= min(selection)
        and max(selection) < 2_000_000 <= min(evaluation)
    )


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
