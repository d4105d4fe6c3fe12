"""`make demo`: stages one after another, and one command beside them."""

import os
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest

from dreamdrive.scripts.demo import CARRACING, trained
from dreamdrive.utils.cores import usable
from dreamdrive.utils.errors import UserError

WAITS = """
    import pathlib, time
    while not pathlib.Path("there").exists():
        time.sleep(0.05)
"""
THREADS = """
    import os
    print("threads", os.environ["OMP_NUM_THREADS"])
"""


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """demo(what runs beside, stages...), each the text of a script in the present folder."""
    monkeypatch.chdir(tmp_path)

    def made(*texts: str):
        for number, text in enumerate(texts):
            Path(f"{number}.py").write_text(dedent(text))
        beside, *stages = (f"{number}.py" for number in range(len(texts)))
        return replace(CARRACING, logdir=Path("run"), beside=beside, stages=tuple(stages))

    return made


def test_a_command_runs_beside_the_stages_on_half_of_the_cores(demo, capfd, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    costs = trained(demo(WAITS + THREADS, THREADS, "open('there', 'w')"))
    half = max(1, usable() // 2)
    assert [cost.split()[0] for cost in costs] == ["1.py", "2.py", "0.py"]
    assert Path("run-beside.log").read_text() == f"threads {half}\n"
    said = capfd.readouterr().out
    assert said.startswith(f"$ export OMP_NUM_THREADS={half}\n\n$ python 0.py > run-beside.log 2>&1 &\n")
    assert f"$ python 1.py\nthreads {half}\n" in said
    assert os.environ["OMP_NUM_THREADS"] == "7", "as the user has it"


def test_what_it_still_has_to_write_is_shown_when_the_stages_have_ended(demo, capfd):
    trained(demo("import time; time.sleep(1); print('late')"))
    assert capfd.readouterr().out.endswith("run-beside.log goes on:\nlate\n")


def test_a_stage_that_fails_ends_the_command_beside_it(demo):
    asked = """
        import signal, sys
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(bool(open("asked", "w"))))
        open("heeds", "w")
        while True:
            signal.pause()
    """
    fails = WAITS.replace("there", "heeds") + "    raise SystemExit(3)"
    with pytest.raises(UserError, match="ended with status 3: see above, then run the same command again to resume"):
        trained(demo(asked, fails))
    assert Path("asked").exists(), "and it was waited for"


def test_a_command_beside_that_fails_is_told_with_its_log(demo):
    with pytest.raises(UserError, match=r"`python 0.py` ended with status 4: see run-beside.log"):
        trained(demo("raise SystemExit(4)"))
