"""Workers on two real Ray nodes of this computer: the same bytes as here, whoever is killed. What needs no Ray is in
test_cluster.py."""

import os
import signal
import subprocess
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from dreamdrive.benchmarks.ray_nodes import Nodes, free_port
from dreamdrive.data.manifest import read_manifest
from dreamdrive.driving.evaluation import DriverSpec, Evaluator
from dreamdrive.tests.test_generation import command
from dreamdrive.tests.tiny_run import ROOT, TINY, call, copy_run, variables
from dreamdrive.tests.tiny_work import set_up, wait_until
from dreamdrive.utils.cluster import Cluster
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.workers import WorkerPool

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: make extra")
SLOW = {"env": "tiny-slow", "rollouts": 64}  # some 10 seconds of it


def same(one: Path, other: Path) -> bool:
    """Whether two datasets have the same bytes, and nothing is left in their folders that does not belong there."""
    files = [
        {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "args.json"}
        for folder in (one, other)
    ]
    assert sorted(files[0]) == sorted(files[1])
    return files[0] == files[1]


@pytest.fixture(scope="module")
def cluster():
    with Nodes() as found:
        yield found


@pytest.fixture
def pool(cluster, tmp_path):
    with WorkerPool(set_up, (tmp_path,), 2, unheard=2.0, cluster=Cluster(cluster.address)) as found:
        yield found


class Recording:
    """Stage 1 beside a test, on a cluster, and when it said what."""

    def __init__(self, folder: Path, address: str, *options: str) -> None:
        words = command(folder, "--ray", address, "--quiet", *options, **SLOW)
        words = [word for word in words if word not in ("--threads", "1")]
        self.folder, self.said = folder, list[tuple[float, str]]()
        self.process = subprocess.Popen(words, cwd=ROOT, env=variables(), stderr=subprocess.PIPE, text=True)
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        for line in self.process.stderr:
            self.said.append((time.monotonic(), line))

    def until(self, shards: int) -> None:
        """Wait until there are so many shards."""
        wait_until(lambda: len(list(self.folder.glob("shard_*.h5"))) >= shards or self.process.poll() is not None)
        assert self.process.poll() is None, self.said

    def reports(self, words: str) -> None:
        """It says so within 10 seconds from now."""
        now = time.monotonic()
        wait_until(lambda: any(words in line for _, line in self.said), seconds=10)
        print(f"{next(when for when, line in self.said if words in line) - now:.1f} s later: {words}")

    def ended(self, seconds: float = 120) -> int:
        status = self.process.wait(seconds)
        self._listener.join()
        return status


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """What is recorded here."""
    folder = tmp_path_factory.mktemp("here") / "data"
    subprocess.run(command(folder, "--quiet", threads=2, **SLOW), cwd=ROOT, env=variables(), check=True)
    return folder


def test_every_task_is_done_once_and_actors_are_kept(pool):
    results, progress = {}, []
    pool.run(list(range(20)), results.__setitem__, lambda *p: progress.append(p))
    assert results == {i: i * i for i in range(20)} and sorted(progress) == [(i, 1) for i in range(20)]
    assert pool.crew.size == 2
    before = {worker.pid for worker in pool.workers}
    pool.run([("threads", 0)] * 6, results.__setitem__)
    assert {results[i][2] for i in range(6)} <= before and len(before) == 2
    assert {results[i][:2] for i in range(6)} == {(1, "1")}
    assert len({worker.name.partition("(node ")[2] for worker in pool.workers}) == 2


@pytest.mark.parametrize(("what", "said"), [("raise", "ValueError: the simulator broke down"), ("kill", "was killed")])
def test_an_actor_that_fails_twice_is_reported_and_its_task_redone(what, said, pool, capsys):
    results, progress = {}, []
    pool.run([3, (what, 2), 4], results.__setitem__, lambda *p: progress.append(p))
    assert results == {0: 9, 1: "done at last", 2: 16} and progress.count((1, None)) == 2
    complaint = capsys.readouterr().err
    assert complaint.count(said) == 2 and "doing it again (2 of 2)" in complaint


def test_a_stopped_actor_is_told_by_its_heartbeat_and_what_an_actor_has_opened_is_closed(pool, tmp_path, capsys):
    results = {}
    pool.run([3], results.__setitem__)
    stopped = pool.workers[0].pid
    os.kill(stopped, signal.SIGSTOP)
    pool.run([("open", 0), 4], results.__setitem__)
    assert results == {0: "done at last", 1: 16} and "was not heard of for 2 seconds" in capsys.readouterr().err
    assert not (tmp_path / "closed").exists()
    pool.close()
    wait_until((tmp_path / "closed").exists, seconds=5)
    wait_until(lambda: not Path(f"/proc/{stopped}").exists(), seconds=10)


def test_a_user_error_of_an_actor_ends_the_run_at_once(pool, capsys):
    with pytest.raises(UserError, match="^the disk is full: free some space$"):
        pool.run([("user error", 0)], print)
    assert capsys.readouterr().err == ""


def test_a_search_and_a_recording_by_what_it_found_are_those_of_this_machine(cluster, trained, tmp_path):
    """V, M and the controller travel; the recording has more files than actors."""
    rows, data = {}, {}
    for name, how in (("here", ("--max-workers", 2)), ("there", ("--ray", cluster.address))):
        (tmp_path / name).mkdir()
        run = copy_run(trained, tmp_path / name).logdir
        evolution = [*TINY["traincontroller"][2:-4], *TINY["traincontroller"][-2:]]  # --max-workers is in `how`
        evolution += ["--world", "simulator", "--noreload", "--logdir", run, *how]
        done = call("traincontroller", *evolution)
        assert done.returncode == 0, done.stderr
        rows[name] = (run / "ctrl" / "metrics.csv").read_bytes()
        data[name] = tmp_path / name / "driven"
        record = ("--env", "gym:CartPole-v1", "--rollouts", 16, "--policy", "controller", "--logdir", run)
        done = call("data.generation_script", *record, "--rootdir", data[name], *how)
        assert done.returncode == 0, done.stderr
    assert rows["here"] == rows["there"] and same(data["here"], data["there"])


def test_scenes_travel(cluster, tmp_path):
    from dreamdrive.envs.nocturne.synthetic import write_scenes

    scenes = tmp_path / "scenes"
    scenes.mkdir()
    assert all(write_scenes(scenes, 3, 0))
    options = {"scenes": str(scenes), "observation": "features", "max_steps": 8}
    found = []
    for where in (None, Cluster(cluster.address)):
        with Evaluator("nocturne", DriverSpec("expert"), 2, options=options, cluster=where) as evaluator:
            found.append(evaluator.episodes([(None, seed) for seed in range(4)]))
    assert found[0] == found[1] and all(driven.place.startswith("synthetic_") for driven in found[0])


@pytest.mark.slow
def test_whatever_is_killed_is_reported_and_the_recording_has_the_same_bytes(recorded, tmp_path):
    with Nodes() as cluster:
        recording = Recording(tmp_path / "data", cluster.address)
        recording.until(shards=2)
        os.kill(cluster.processes("ray::Hand")[0], signal.SIGKILL)
        recording.reports("was killed, or crashed (out of memory?)")
        recording.until(shards=5)
        cluster.kill(1)
        recording.reports("is gone, with its node or the network to it")
        assert recording.ended() == 0, recording.said
        assert same(tmp_path / "data", recorded) and not read_manifest(tmp_path / "data").mixed_nodes

        recording = Recording(tmp_path / "other", cluster.address)
        recording.until(shards=2)
        cluster.kill_head()
        killed = time.monotonic()
        assert recording.ended() == 1 and (took := time.monotonic() - killed) < 10
        print(f"{took:.1f} s later: the end")
        (line,) = (line for _, line in recording.said)
        assert line.startswith(f"error: the Ray cluster {cluster.address} is gone")
    subprocess.run(command(tmp_path / "other", threads=2, **SLOW), cwd=ROOT, env=variables(), check=True)
    assert same(tmp_path / "other", recorded)


def test_without_a_cluster_that_is_one_sentence(tmp_path):
    port = free_port()
    done = subprocess.run(
        command(tmp_path / "data", "--ray", f"127.0.0.1:{port}", **SLOW),
        cwd=ROOT,
        env=variables(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: nobody answers at --ray 127.0.0.1:{port}: `ray start")
    assert done.stderr.count("\n") == 1


def test_nodes_that_compute_differently_are_named_and_may_be_allowed(cluster, tmp_path, capsys):
    """The last test: the node stays."""
    cluster.add(f"--address={cluster.address}", env={"ATEN_CPU_CAPABILITY": "default"})
    naps = [("sleep", 3)] * 3
    with pytest.raises(UserError, match=r"\(node .*computes otherwise in the last bit than .*\(node .*--mixed-nodes"):
        WorkerPool(set_up, (tmp_path,), cluster=Cluster(cluster.address), workers=3).run(naps, print)
    with WorkerPool(set_up, (tmp_path,), cluster=Cluster(cluster.address, mixed=True), workers=3) as pool:
        pool.run(naps, lambda *result: None)
        assert pool.crew.mixed
    assert "which --mixed-nodes allows" in capsys.readouterr().err
