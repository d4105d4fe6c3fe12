"""Worker processes: results, failures, and that nothing outlives or outwaits anything."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dreamdrive.tests.tiny_work import Slow, broken_set_up, endless_set_up, set_up, set_up_together, wait_until
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.workers import WorkerPool

ROOT = Path(__file__).resolve().parent.parent
LARGE = bytes(1_000_000)


def run_all(tasks, folder=None, workers=2, setup=set_up):
    results, progress = {}, []
    with WorkerPool(setup, (folder,) if setup is set_up else (), workers) as pool:
        pool.run(tasks, results.__setitem__, lambda *p: progress.append(p))
    return [results[i] for i in range(len(tasks))], progress


def test_every_task_is_done_once_with_progress_and_a_persistent_pool_keeps_its_processes():
    with WorkerPool(set_up, (None,), workers=2) as pool:
        results, progress = {}, []
        pool.run(list(range(20)), results.__setitem__, lambda *p: progress.append(p))
        assert results == {i: i * i for i in range(20)} and sorted(progress) == [(i, 1) for i in range(20)]
        before = {w.pid for w in pool.workers}
        pool.run([5], results.__setitem__)
        pool.run([("threads", 0)] * 6, results.__setitem__)
        assert {results[i][2] for i in range(6)} <= before
        assert {results[i][:2] for i in range(6)} == {(1, "1")}


def test_a_worker_that_hangs_is_reported_and_ended(tmp_path, capsys):
    began = time.monotonic()
    with (
        WorkerPool(set_up, (tmp_path,), 2, retries=1, silence=3.0) as pool,
        pytest.raises(UserError, match="failed 2 times.*said nothing for 3 seconds"),
    ):
        pool.run([3, ("sleep", 600)], lambda *result: None)
    assert time.monotonic() - began < 30
    assert "it hangs" in capsys.readouterr().err
    for sleeper in tmp_path.glob("*.pid"):
        assert not Path(f"/proc/{sleeper.stem}").exists()


@pytest.mark.timeout(60)
def test_a_worker_that_hangs_in_its_set_up_is_reported_whatever_it_was_to_do():
    with (
        WorkerPool(endless_set_up, (), 1, retries=0, silence=2.0) as pool,
        pytest.raises(UserError, match="said nothing for 2 seconds"),
    ):
        pool.run([LARGE], lambda *result: None)


@pytest.mark.parametrize("slow", ["set-up", "import"])
def test_workers_are_set_up_side_by_side_whatever_they_are_sent(slow, tmp_path):
    """A pipe holds 64 kB: whoever sends more waits for the other end."""
    arguments = (tmp_path,) if slow == "set-up" else (None, Slow(tmp_path), LARGE)
    results = {}
    with WorkerPool(set_up_together, arguments, 3, retries=0) as pool:
        pool.run([LARGE] * 3, results.__setitem__)
    assert results == dict.fromkeys(range(3), len(LARGE))


@pytest.mark.timeout(60)
def test_a_stopped_worker_is_told_by_its_heartbeat_and_its_task_done_again(tmp_path, capsys):
    with WorkerPool(set_up, (tmp_path,), 1, silence=900.0, unheard=2.0) as pool:
        results = {}
        pool.run([("raise", 0)], results.__setitem__)
        os.kill(pool.workers[0].pid, signal.SIGSTOP)
        pool.run([3], results.__setitem__)
    assert results[0] == 9
    assert "was not heard of for 2 seconds: it has been stopped" in capsys.readouterr().err


@pytest.mark.timeout(60)
def test_a_long_task_that_says_nothing_but_computes_is_not_taken_for_a_hung_one(tmp_path, capsys):
    with WorkerPool(set_up, (tmp_path,), 1, retries=0, silence=1.0, unheard=2.0) as pool:
        results = {}
        pool.run([("compute", 3)], results.__setitem__)
    assert results == {0: "computed"} and capsys.readouterr().err == ""


@pytest.mark.parametrize("how", ["in the end", "by SIGTERM", "by an error"])
def test_what_a_worker_has_opened_is_closed_however_it_ends(how, tmp_path):
    closed, task = tmp_path / "closed", ("open", 1 if how == "by an error" else 0)
    with WorkerPool(set_up, (tmp_path,), 1, retries=0) as pool:
        if how == "by an error":
            with pytest.raises(UserError, match="the simulator broke down"):
                pool.run([task], lambda *result: None)
        else:
            pool.run([task], lambda *result: None)
            assert not closed.exists()
            if how == "by SIGTERM":
                os.kill(pool.workers[0].pid, signal.SIGTERM)
    wait_until(closed.exists, seconds=5)


def test_a_worker_may_have_processes_of_its_own(tmp_path):
    assert run_all([("child", 0)], tmp_path, workers=1)[0] == ["a child"]


def test_no_tasks_need_no_workers():
    assert run_all([]) == ([], [])


@pytest.mark.parametrize(
    ("what", "said"), [("raise", "ValueError: the simulator broke down"), ("kill", "killed by SIGKILL")]
)
def test_a_worker_that_fails_twice_is_reported_and_its_task_redone(what, said, tmp_path, capsys):
    results, progress = run_all([3, (what, 2), 4], tmp_path)
    assert results == [9, "done at last", 16]
    assert [p for p in progress if p[0] == 1] == [(1, None)] * 2  # whoever counts progress is told to begin anew
    complaint = capsys.readouterr().err
    assert complaint.count(said) == 2 and "doing it again (2 of 2)" in complaint
    assert ("Traceback" in complaint) == (what == "raise")


def test_a_third_failure_ends_the_run_and_every_worker(tmp_path, capsys):
    with pytest.raises(UserError, match="failed 3 times, the last time so: ValueError: the simulator broke down"):
        run_all([("raise", 3), ("sleep", 60)], tmp_path)
    assert "giving up" in capsys.readouterr().err
    assert not alive(tmp_path)


def test_a_set_up_that_raises_ends_the_run():
    with pytest.raises(UserError, match="no simulator here"):
        run_all([1], setup=broken_set_up, workers=1)


def test_a_user_error_in_a_worker_ends_the_run_at_once(tmp_path, capsys):
    with pytest.raises(UserError, match="^the disk is full: free some space$"):
        run_all([("user error", 0)], tmp_path, workers=1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("how", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_no_worker_outlives_its_parent_however_that_ends(how, status, tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        cwd=ROOT / "tests",
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    if how == signal.SIGINT:
        os.killpg(parent.pid, how)  # as a terminal does it: to the workers as well
    else:
        parent.send_signal(how)
    sent = time.monotonic()
    _, complaint = parent.communicate(timeout=10)
    assert parent.returncode == status and "Traceback" not in complaint
    wait_until(lambda: not alive(tmp_path), seconds=5)
    assert time.monotonic() - sent < 5


def test_a_killed_worker_is_reported_within_five_seconds(tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], cwd=ROOT / "tests", stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    victim = alive(tmp_path)[0]
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    try:
        assert f"worker {victim} was killed by SIGKILL" in parent.stderr.readline()
        assert time.monotonic() - killed < 5
    finally:
        parent.kill()
        parent.communicate()


PARENT = """
import sys
from dreamdrive.tests.tiny_work import set_up
from dreamdrive.utils.script import run
from dreamdrive.utils.workers import WorkerPool
if __name__ == "__main__":
    run(lambda: WorkerPool(set_up, (sys.argv[1],), 2).run([("sleep", 60)] * 2, print))
"""


def alive(folder: Path) -> list[int]:
    """Workers that registered in `folder` and still run."""

    def runs(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    return [pid for pid in (int(p.stem) for p in folder.glob("*.pid")) if runs(pid)]
