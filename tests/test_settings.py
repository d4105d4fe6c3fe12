"""Settings of a stage: one frozen record from which come its command line, args.json, and what may not change on
resuming."""

import json
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from dreamdrive.learning.memory_settings import MDRNNSettings
from dreamdrive.tests.tiny_run import call, copy_run
from dreamdrive.utils.argument_types import positive
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.settings import Training, flag
from dreamdrive.utils.source import source_digest


@dataclass(frozen=True, kw_only=True)
class Cooking(Training):
    GROUPS: ClassVar[dict[str, str]] = {"at night": "quick"}

    hidden: int = flag(256, positive, "size of the pan", fixed=True)
    rewarded: bool = flag(True, help="with salt", names=("--rewarded_salt", "--rewarded-salt"), fixed="reward")
    dataset: tuple[Path, ...] = flag((Path("a"), Path("b")), Path, "what is cooked", nargs="+")
    quick: bool = flag(False, help="at once")
    share: float | None = flag(None, float, "of it")
    taste: str = flag("salty", help="of it", choices=("salty", "sweet"), fixed=True)


def parse(*argv) -> Cooking:
    return Cooking.parse([str(word) for word in argv], "Cooks.")


def test_the_command_line_comes_from_the_fields_and_knows_what_was_given():
    args = parse("--hidden", 8, "--dataset", "x", "y", "--no-rewarded-salt")
    assert (args.hidden, args.dataset, args.rewarded, args.quick, args.share) == (
        8,
        (Path("x"), Path("y")),
        False,
        False,
        None,
    )
    assert args.given == {"hidden", "dataset", "rewarded"} and parse("--hidden", 256).given == {"hidden"}
    assert parse("--rewarded_salt").rewarded and parse("--quick").quick and not parse().given
    assert parse() == Cooking() and Cooking(hidden=8).was_given("hidden") and not Cooking().was_given("hidden")


def test_help_has_every_default_and_its_group(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("(default:") == 8, said  # --share has none, and a flag that is off says nothing
    for part in ("Cooks.", "size of the pan (default: 256)", "what is cooked (default: a b)", "at night: --quick"):
        assert part in said


@pytest.mark.parametrize("argv", [("--hidden", "0"), ("--hid", "8"), ("--track", "paper"), ("--no-quick",)])
def test_what_is_not_possible_is_one_sentence(argv, capsys):
    with pytest.raises(SystemExit):
        parse(*argv)
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "--help lists what is possible" in said


def test_settings_are_frozen():
    with pytest.raises(FrozenInstanceError):
        parse().hidden = 3


def test_args_json_has_the_command_and_every_value(tmp_path):
    args = Cooking(logdir=tmp_path, hidden=8)
    args.write(tmp_path)
    written = json.loads((tmp_path / "args.json").read_text())
    assert written.pop("command").startswith("python ") and written.pop("source") == source_digest()
    assert written == {
        "logdir": str(tmp_path),
        "noreload": False,
        "seed": 0,
        "device": "auto",
        "track": "none",
        "hidden": 8,
        "rewarded": True,
        "dataset": ["a", "b"],
        "quick": False,
        "share": None,
        "taste": "salty",
    }


def test_resuming_takes_over_what_was_not_given_and_refuses_what_was_given_otherwise():
    before = {"hidden": 16, "reward": False, "batch": 3}
    args, inherited = parse("--quick").resume(before)
    assert inherited == {"hidden": 16, "rewarded": False} and (args.hidden, args.rewarded, args.quick) == (
        16,
        False,
        True,
    )
    assert parse("--hidden", 16).resume(before)[1] == {"rewarded": False}
    assert parse().resume({"taste": "sweet"})[1] == {"taste": "sweet"} and parse().resume({"taste": "?"})[1] == {}
    assert parse("--hidden", 4).resume(None)[0].hidden == 4 and parse().resume(None)[1] == {}
    assert parse().resume({})[0] == Cooking()  # a version before ours did not write these down
    for argv, said in (
        (("--hidden", 256), "the run to resume has hidden 16, not 256: leave --hidden away"),
        (("--rewarded-salt",), "has reward False, not True: leave --rewarded_salt away"),
    ):
        with pytest.raises(UserError, match=said):
            parse(*argv).resume(before)


def test_settings_of_another_script_take_over_what_both_call_by_the_same_name():
    @dataclass(frozen=True, kw_only=True)
    class Washing(Training):
        hidden: int = flag(3, positive, "plates")
        taste: str = flag("none", help="of the soap")
        water: int = flag(1, positive, "litres")

    found = Cooking(logdir=Path("somewhere"), hidden=8, seed=4).into(Washing, taste="of lemons")
    assert found == Washing(logdir=Path("somewhere"), hidden=8, seed=4, taste="of lemons") and found.water == 1


def test_what_has_no_default_of_its_own_is_as_usual_in_a_fresh_run():
    @dataclass(frozen=True, kw_only=True)
    class Evolving(Training):
        samples: int | None = flag(None, positive, "episodes (default: it depends)", fixed=True)

    args = Evolving()
    assert args.resume(None, {"samples": 16}) == (Evolving(samples=16), {})
    assert args.resume({"samples": 4}, {"samples": 16}) == (Evolving(samples=4), {"samples": 4})


def test_both_spellings_of_include_reward():
    for spelling in ("include_reward", "include-reward"):
        assert not MDRNNSettings.parse([f"--no-{spelling}"], "").include_reward
        assert MDRNNSettings.parse([f"--{spelling}"], "").include_reward


def test_a_stage_says_in_one_line_what_it_inherited(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    flags = ("--logdir", run.logdir, "--seq-len", 16, "--batch-size", 8, "--device", "cpu")
    done = call("trainmdrnn", *flags, "--noreload", "--hidden", 8, "--no-include_reward", "--epochs", 1)
    assert said(done) == [f"inherited: dataset {trained.data} from {run.logdir}/vae/best.tar"]
    done = call("trainmdrnn", *flags, "--epochs", 2)
    (line,) = said(done)
    inherited = (
        "include_reward False, mirror False, hidden 8, core lstm, head mixture, mixtures 5, members 1, weight_decay 0.0"
    )
    assert line.endswith(f"; {inherited} from {run.logdir}/mdrnn/checkpoint.tar"), line


def said(done) -> list[str]:
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("inherited: ")]
