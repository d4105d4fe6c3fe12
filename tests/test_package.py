"""The package: one version, dependencies that fit their pins, one command."""

import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

import dreamdrive
from dreamdrive.tests.tiny_run import ROOT, call

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS = (
    *("data.generation_script", "trainvae", "trainmdrnn", "traincontroller", "trainbc", "test_controller"),
    *("data.shards", "data.exchange", "utils.doctor", "envs.nocturne.__main__", "envs.nocturne.synthetic.__main__"),
)


def test_there_is_one_version():
    citation, changes = ((ROOT / name).read_text() for name in ("CITATION.cff", "CHANGELOG.md"))
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == dreamdrive.__version__
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == dreamdrive.__version__
    assert "version" in PROJECT["dynamic"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_tells_the_version(script):
    done = call(script, "--version")
    assert (done.returncode, done.stdout) == (0, f"dreamdrive {dreamdrive.__version__}\n")


@pytest.mark.parametrize("extra, file", [(None, ""), ("track", "-extra"), ("test", "-dev")])
def test_what_is_pinned_is_within_the_ranges(extra, file):
    ranges = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    wanted = {Requirement(text).name: Requirement(text) for text in ranges}
    lines = (ROOT / f"requirements{file}.txt").read_text().splitlines()
    pins = dict(re.match(r"([\w.-]+)(?:\[.*\])?==(\S+)$", line).groups() for line in lines if "==" in line)
    assert set(pins) <= set(wanted) and (extra or set(pins) == set(wanted))
    for name, version in pins.items():
        assert version in wanted[name].specifier, (name, version)


def test_help_comes_at_once_without_torch():
    code = "import sys; sys.argv = ['dreamdrive', '--help']; from dreamdrive.__main__ import main; main(); "
    done = subprocess.run(
        [sys.executable, "-c", f"{code} print('torch' in sys.modules)"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stdout.endswith("False\n")
