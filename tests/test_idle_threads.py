"""Threads without work sleep soon in scripts and what they start, unless the user says something else.

tests/test_layout.py: that every script says so before torch is loaded."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dreamdrive.utils import idle_threads

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("command", [["data/shards.py"], ["-m", "data.shards"], ["-m", "dreamdrive", "data"]])
def test_what_a_script_starts_inherits_it(command):
    plain = {name: value for name, value in os.environ.items() if name not in idle_threads.USERS}
    found = subprocess.run(
        [sys.executable, "-c", SAYS, *command], cwd=ROOT, env=plain, capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines()[-1] == str(
        {name: idle_threads.SETTINGS[name] for name in sorted(idle_threads.SETTINGS)}
    )


SAYS = """
import os, runpy, sys
how, *rest = sys.argv[1:]
sys.argv = [how, *rest[1:], "--help"]
try:
    runpy.run_module(rest[0], run_name="__main__") if how == "-m" else runpy.run_path(how, run_name="__main__")
except SystemExit:
    print({name: os.environ[name] for name in sorted(os.environ) if name.startswith(("GOMP_", "KMP_", "OMP_WAIT"))})
"""


@pytest.mark.parametrize("name", idle_threads.USERS)
def test_what_the_user_has_set_is_kept(name, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    for other in idle_threads.USERS:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "7")
    importlib.reload(idle_threads)
    assert {other: os.environ[other] for other in idle_threads.USERS if other in os.environ} == {name: "7"}


def test_nothing_is_set_when_torch_is_loaded_already(monkeypatch):
    for name in idle_threads.USERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", importlib.import_module("torch"))
    importlib.reload(idle_threads)
    assert not any(name in os.environ for name in idle_threads.USERS)
