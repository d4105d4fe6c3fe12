"""trainbc.py's commands: each with flags of its own, and the older spellings of them."""

import pytest

from dreamdrive.learning.cloning_settings import CloneSettings, DaggerSettings, DittoSettings
from dreamdrive.teacher.lesson_settings import TeachSettings
from dreamdrive.trainbc import parse_args


@pytest.mark.parametrize(
    ("words", "older", "kind", "hidden", "horizon"),
    [
        (["clone"], [], CloneSettings, 0, 24),
        (["clone"], ["--method", "bc"], CloneSettings, 0, 24),
        (["dagger"], ["--method", "dagger"], DaggerSettings, 0, 24),
        (["ditto"], ["--method=ditto"], DittoSettings, 0, 50),
        (["teach"], ["--teacher"], TeachSettings, 128, 1000),
    ],
)
def test_a_command_and_its_older_spelling_are_the_same(words, older, kind, hidden, horizon):
    more = ["--seed", "3", "--average", "7"]
    args = parse_args([*words, *more])
    assert type(args) is kind and args == parse_args([*more, *older]) == parse_args([*older, *more])
    assert (args.seed, args.average, args.hidden, args.horizon) == (3, 7, hidden, horizon)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["clone", "--passes", "3"], "--passes is for --method dagger: leave it away, or give that"),
        (["ditto", "--passes=3"], "--passes is for --method dagger"),
        (["--dream-epochs", "3"], "--dream-epochs is for --method dagger or ditto"),
        (["teach", "--epochs", "3"], "--epochs is for cloning without --teacher"),
        (["--no-goal"], "--no-goal is for --teacher"),
        (["dagger", "--method", "ditto"], "unrecognized arguments"),
        (["--teacher", "--method", "ditto"], "--method is for cloning without --teacher"),
        (["teach", "--units", "3"], "--units is for --model"),
        (["--world", "simulator"], "--world is for --method dagger or --teacher"),
    ],
)
def test_a_flag_of_another_command_is_refused_in_one_sentence(words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args(words)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and said in error and error.count("\n") == 1
