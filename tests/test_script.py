"""What a script's life is beside its signals (tests/test_interrupt.py): what it shows where not everything can be."""

import subprocess
import sys

from dreamdrive.tests.tiny_run import ROOT, variables


def test_what_a_log_cannot_show_is_written_with_replacements():
    code = "from dreamdrive.utils.script import run; run(lambda: print('\\u00e9 \\udcff \\u2026'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, env=variables(PYTHONIOENCODING="ascii")
    )
    assert done.returncode == 0 and done.stdout == b"\\xe9 \\udcff \\u2026\n", done.stderr
