"""The second of two writers is told at once who the first is, and a lock changes nothing that is not one."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from dreamdrive.tests.tiny_run import ROOT, command, variables
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.locks import LOCK, locked, require_free, workplace

HOLD = """
import sys, time
from pathlib import Path
from dreamdrive.utils.locks import locked
with locked(Path(sys.argv[1]), "busy: wait"):
    print("held", flush=True)
    time.sleep(60)
"""
SOON = 2.0  # seconds


@pytest.fixture
def held(tmp_path):
    """A process that has the lock of a folder; both."""
    folder = tmp_path / "held"
    folder.mkdir()
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process, folder
    process.kill()
    process.wait()


def test_the_second_is_told_who_the_first_is(held):
    process, folder = held
    said = f"somebody is there (process {process.pid} on {socket.gethostname()}, since 20"
    for refused in (
        lambda: locked(folder, "somebody is there: wait").__enter__(),
        lambda: require_free(folder, "somebody is there: wait"),
    ):
        with pytest.raises(UserError, match=re.escape(said)) as error:
            refused()
        assert str(error.value).endswith("): wait")


def test_the_lock_goes_with_its_process_however_it_ends(held):
    process, folder = held
    process.send_signal(signal.SIGKILL)
    process.wait()
    require_free(folder, "busy: wait")
    with locked(folder, "busy: wait"):
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("trainvae.py", ["--dataset", "DATA", "--logdir", "RUN"]),
        ("data/generation_script.py", ["--env", "gym:CartPole-v1", "--rollouts", "2", "--rootdir", "RUN/vae"]),
        ("data/exchange.py", ["import", "npz", "DATA", "--out", "RUN/vae"]),
    ],
)
def test_a_script_is_refused_before_it_imports_torch(script, flags, tmp_path):
    from dreamdrive.tests.tiny_run import write_dataset

    write_dataset(tmp_path / "DATA", [5, 5], image=(8, 8, 3))
    folder = tmp_path / "RUN" / "vae"
    folder.mkdir(parents=True)
    with locked(folder, "busy: wait"):
        since = time.monotonic()
        where = {"DATA": tmp_path / "DATA", "RUN": tmp_path / "RUN", "RUN/vae": folder}
        done = subprocess.run(
            [sys.executable, "-X", "importtime", *command(script, *(where.get(f, f) for f in flags))[1:]],
            cwd=ROOT,
            env=variables(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        took = time.monotonic() - since
    assert done.returncode == 1 and f"(process {os.getpid()} on {socket.gethostname()}, since " in done.stderr
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE), "refused only after torch was imported"
    assert took < 5 * SOON, "0.3 s on a machine that does nothing else"


@pytest.mark.parametrize("kind", ["a link", "a pipe", "a folder"])
def test_what_is_no_file_is_no_lock(kind, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious\n")
    folder = tmp_path / "run"
    folder.mkdir()
    {"a link": lambda at: at.symlink_to(precious), "a pipe": os.mkfifo, "a folder": lambda at: at.mkdir()}[kind](
        folder / LOCK
    )
    for take in (lambda: locked(folder, "busy: wait").__enter__(), lambda: locked(folder, None).__enter__()):
        with pytest.raises(UserError, match=r"\.lock .*: (remove it|mend)"):
            take()
    assert precious.read_text() == "precious\n"


def test_what_is_in_a_file_of_somebody_else_stays(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious\n")
    for name, make in (("own", lambda at: at.write_text("precious\n")), ("linked", lambda at: os.link(precious, at))):
        (tmp_path / name).mkdir()
        make(tmp_path / name / LOCK)
        with locked(tmp_path / name, "busy: wait"), pytest.raises(UserError, match="busy"):
            require_free(tmp_path / name, "busy: wait")
    assert (tmp_path / "own" / LOCK).read_text() == precious.read_text() == "precious\n"


def test_a_folder_that_its_first_writer_removes_is_not_written_to_by_two(tmp_path):
    """The first fails, and takes folder and lock away, after the second has opened that lock."""
    folder = tmp_path / "new"
    with pytest.raises(ZeroDivisionError), workplace(folder, "busy: wait"):
        waiting = subprocess.Popen(
            [sys.executable, "-c", HOLD.replace('"busy: wait"', "None"), str(folder)], stdout=subprocess.PIPE, text=True
        )
        time.sleep(1)
        raise ZeroDivisionError
    try:
        assert waiting.stdout.readline() == "held\n" and json.loads((folder / LOCK).read_text())["pid"] == waiting.pid
        with pytest.raises(UserError, match=f"process {waiting.pid} "):
            require_free(folder, "busy: wait")
    finally:
        waiting.kill()
        waiting.wait()
