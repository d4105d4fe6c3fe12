"""How many cores this process may use."""

import os
import subprocess
import sys

import pytest

from dreamdrive.tests.tiny_run import ROOT
from dreamdrive.utils import cores


def test_the_cores_of_taskset_are_those_of_the_flags_default():
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{one}]); from dreamdrive.utils.cores import usable; print(usable())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


@pytest.mark.parametrize(
    "own, files, found",
    [
        ("0::/job/step\n", {"job/cpu.max": "150000 100000", "job/step/cpu.max": "max 100000"}, [1.5]),
        ("0::/\n", {"cpu.max": "300000 100000"}, [3.0]),
        ("3:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, [0.5]),
        ("3:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, []),
        ("0::/gone\n", {}, []),
    ],
)
def test_control_groups_are_read(own, files, found, tmp_path):
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text + "\n")
    assert cores.quotas(tmp_path / "groups", tmp_path / "own") == found
