"""Properties of utils/doctor.py."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dreamdrive.utils import display, doctor

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_it_tells_what_is_here_also_without_a_display_or_a_home():
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-m", "utils.doctor"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == (1 if "!!" in done.stdout else 0) and done.stderr == ""
    found = {
        name.strip(): what for name, what in re.findall(r"^(?:ok|--|!!)  (.{20}) (.*)$", done.stdout, re.MULTILINE)
    }
    for name in (
        "requirements.txt",
        "torch",
        "cpu",
        "ffmpeg",
        "OpenGL by EGL",
        "OpenGL by X",
        "Xvfb",
        "VNC server",
        "VNC passwords",
        "compiler",
        "memory",
        "cores",
    ):
        assert name in found
    assert found["Python"].startswith(platform.python_version()) and "GB free" in found["disk"]


def test_a_missing_requirement_is_status_1_and_a_missing_extra_is_not(monkeypatch, capsys):
    def lacks(required):
        return lambda: iter([doctor.Finding(False, "thing", "is missing", "install it", required)])

    monkeypatch.setattr("sys.argv", ["doctor"])
    for name in ("packages", "torch", "ffmpeg", "opengl", "programs", "machine"):
        monkeypatch.setattr(doctor, name, lacks(False))
    monkeypatch.setattr(doctor, "python", lacks(False))
    assert doctor.main() == 0 and "--  thing" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "python", lacks(True))
    assert doctor.main() == 1
    assert re.search(r"!!  thing +is missing\n +-> install it", capsys.readouterr().out)


def test_versions_that_differ_from_the_pins_are_named(tmp_path, monkeypatch):
    (tmp_path / "requirements.txt").write_text("# pins\ntorch==0.1\ngymnasium[box2d]==0.2\nno-such-thing==1\n")
    for file in ("requirements-dev.txt", "requirements-extra.txt"):
        (tmp_path / file).write_text("pytest==" + doctor.installed("pytest"))
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    first, second, third = doctor.packages()
    assert not first.ok and first.required and second.ok and third.ok
    assert "(wanted 0.1)" in first.found and "gymnasium" in first.found and "no-such-thing is missing" in first.found


def test_from_a_wheel_versions_are_compared_with_the_ranges_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    (finding,) = doctor.packages()
    assert finding.ok and finding.required and re.fullmatch(r"all \d\d as needed", finding.found)
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["torch<2,>=1", "no-such", 'nor-this; extra == "x"'])
    (finding,) = doctor.packages()
    assert not finding.ok and "(wanted <2,>=1)" in finding.found and "no-such is missing" in finding.found
    assert "nor-this" not in finding.found


def test_a_check_that_fails_itself_is_a_finding():
    def broken():
        yield doctor.Finding(True, "first", "fine")
        raise OSError("no such place")

    first, second = doctor.findings((broken,))
    assert first.ok and not second.ok and "OSError: no such place" in second.found


def test_a_torch_that_crashes_is_a_finding(monkeypatch):
    monkeypatch.setattr(doctor, "TORCH", "import os; os.kill(os.getpid(), 11)")
    (finding,) = doctor.torch()
    assert not finding.ok and finding.required and "SIGSEGV" in finding.found


def test_without_opengl_and_xvfb_the_packages_are_named(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr(display, "probe", lambda kind: display.Probe(False, "no driver"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    egl, x = doctor.opengl()
    assert "libegl1" in egl.remedy and "apt-get install xvfb" in x.found and not egl.required and not x.required
    assert not any(f.ok for f in doctor.programs())
