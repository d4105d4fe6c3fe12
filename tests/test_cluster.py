"""Workers on other machines, as far as that needs no Ray: what the broker, its actors and the pool say to each other,
with threads in the place of actors; files that travel; what is said where something is missing. With Ray:
test_ray.py."""

import contextlib
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from dreamdrive.data.manifest import Manifest
from dreamdrive.driving.evaluation import DriverSpec, Evaluator
from dreamdrive.driving.needed import needed
from dreamdrive.driving.recording_settings import RecordingSettings
from dreamdrive.learning.rounds_settings import RoundsSettings
from dreamdrive.models.lanes import LANES
from dreamdrive.tests.tiny_run import ROOT, variables, write_dataset
from dreamdrive.tests.tiny_work import set_up
from dreamdrive.utils import cluster as clusters
from dreamdrive.utils import ray_actor, ray_workers, travelling, workers
from dreamdrive.utils.cluster import Carried, Cluster, Read, mapped, require_ray
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.ray_actor import Hand, installed
from dreamdrive.utils.travelling import Cache, listing_of, pieces
from dreamdrive.utils.workers import WorkerPool


class ActorDiedError(Exception):
    """As Ray calls it."""


class FakeRay:
    """What the broker calls of Ray. Actors are objects of this process; `dead` and `late` ones, by the order in which
    they were made, have died, or wait for a core.

    Attributes:
        options: of the actors        puts: everything that was put        there: whether its head is
    """

    def __init__(self, late=()) -> None:
        self.options, self.puts, self.made, self.late = {}, [], 0, set(late)
        self.threads, self.over, self.there = ThreadPoolExecutor(32), False, True
        self.hands: list[FakeHand] = []

    def remote(self, **options):
        self.options = options
        return lambda kind: SimpleNamespace(remote=lambda *arguments: FakeHand(self, kind, arguments))

    def put(self, value) -> Future:
        self.puts.append(value)
        found = Future()
        found.set_result(value)
        return found

    def get(self, reference):
        return reference.result()

    def wait(self, references, num_returns=1, timeout=None):
        if self.over:
            raise SystemExit
        done, _ = wait(references, timeout, FIRST_COMPLETED)
        return [r for r in references if r in done], [r for r in references if r not in done]

    def kill(self, hand) -> None:
        hand.die("worker process has died")


class FakeHand:
    """An actor's handle."""

    def __init__(self, ray: FakeRay, kind, arguments) -> None:
        self.ray, self.asked, self.cause = ray, [], ""
        self.late = len(ray.hands) in ray.late
        self.hand = None if self.late else kind(*arguments)
        ray.hands.append(self)

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *arguments: self._call(name, arguments))

    def _call(self, name, arguments) -> Future:
        found = Future()
        self.asked.append(found)
        if self.cause:
            found.set_exception(ActorDiedError(self.cause))
        elif self.hand is not None:

            def work():
                result = getattr(self.hand, name)(*(a.result() if isinstance(a, Future) else a for a in arguments))
                with contextlib.suppress(Exception):  # it has died meanwhile
                    found.set_result(result)

            self.ray.threads.submit(work)
        return found

    def die(self, cause) -> None:
        self.cause = cause
        for future in self.asked:
            if not future.done():
                future.set_exception(ActorDiedError(cause))


class PlainHand(Hand):
    """A Hand that says what a test wants of its machine."""

    said: dict = {}  # noqa: RUF012

    def about(self):
        return {"pid": id(self), "host": "here", "node": "abc", "product": "1", **installed(), **self.said}


def until_it_ends(part, tell) -> None:
    try:
        part()
    except ray_workers.Lost as error:
        tell(None, "lost", str(error))
    except (SystemExit, OSError):
        pass


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A Ray whose broker is in threads of this process."""
    ray = FakeRay()

    def started(crew, theirs):
        tell = ray_workers.Tell(theirs)
        broker = ray_workers.Broker(ray, tell, crew._cluster, crew._carried, lambda: ray.there)
        tell(None, "connected", 3)
        for part in (lambda: broker.obey(theirs), broker.attend):
            threading.Thread(target=until_it_ends, args=(part, tell), daemon=True).start()
        return SimpleNamespace(join=lambda seconds=0: None, kill=lambda: None)

    monkeypatch.setattr(ray_workers.Actors, "_started", started)
    monkeypatch.setattr(ray_workers.Broker, "HAND", PlainHand)
    monkeypatch.setattr(ray_workers, "environment", dict)
    monkeypatch.setattr(ray_workers, "require_ray", lambda: None)
    monkeypatch.setattr(ray_actor, "_fetched", lambda reference: reference.result())
    monkeypatch.setattr(PlainHand, "said", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield ray
    ray.over = True


ANYWHERE = Cluster("head:6379")


def run(tasks, setup=set_up, arguments=(None,), workers=2, where=ANYWHERE, carried=Carried(), retries=0):  # noqa: B008
    results, progress = {}, []
    with WorkerPool(setup, arguments, workers, retries, cluster=where, carried=carried) as pool:
        pool.run(tasks, results.__setitem__, lambda *p: progress.append(p))
    return [results[i] for i in range(len(tasks))], progress


# The broker and the pool


def test_tasks_are_done_by_actors_that_ray_leaves_alone_and_the_set_up_is_put_once(fake):
    with WorkerPool(set_up, (None,), 5, cluster=Cluster("head:6379", gpu=0.25)) as pool:
        results, progress = {}, []
        pool.run(list(range(30)), results.__setitem__, lambda *p: progress.append(p))
        assert results == {i: i * i for i in range(30)} and sorted(progress) == [(i, 1) for i in range(30)]
        assert pool.crew.size == len(pool.workers) == 3, "no more than there are cores"
        before = [worker.pid for worker in pool.workers if worker.pid]
        pool.run([7], results.__setitem__)
        assert results[0] == 49 and {worker.pid for worker in pool.workers if worker.pid} >= set(before)
    assert fake.options == {
        "num_cpus": 1,
        "num_gpus": 0.25,
        "max_restarts": 0,
        "max_task_retries": 0,
        "max_concurrency": ray_workers.METHODS_AT_ONCE,
    }
    assert len([value for value in fake.puts if isinstance(value, bytes)]) == 1


def test_an_actor_that_dies_is_reported_and_its_task_done_by_another(fake, tmp_path, capsys):
    def kill():
        while not list(tmp_path.glob("*.pid")):
            time.sleep(0.01)
        fake.hands[0].die("The actor is dead because its node has died.")

    threading.Thread(target=kill, daemon=True).start()
    results, progress = run([("sleep", 1)], arguments=(tmp_path,), workers=1, retries=1)
    assert results == ["done at last"] and progress == [(0, None)] and len(fake.hands) == 2
    said = capsys.readouterr().err
    assert "is gone, with its node or the network to it" in said and "failed on task 0; doing it again (1 of 1)" in said


def test_where_actors_die_with_the_head_it_is_told_of_the_head_alone(fake, tmp_path, capsys):
    def kill():
        fake.there = False
        fake.hands[0].die("The actor is dead because its node has died.")

    threading.Timer(1.0, kill).start()
    with pytest.raises(UserError, match="^the Ray cluster head:6379 is gone"):
        run([("sleep", 10)], arguments=(tmp_path,), workers=1, retries=1)
    assert capsys.readouterr().err == ""


def test_what_an_actor_without_a_core_was_to_do_is_done_by_others_and_that_is_said_once(fake, monkeypatch, capsys):
    monkeypatch.setattr(ray_workers, "PATIENCE", 0.2)
    fake.late = {1}
    results, _ = run([2, 3, 4, 5], workers=2)
    assert results == [4, 9, 16, 25]
    fake.hands.clear()
    fake.late = {0}
    threading.Timer(1.5, lambda: fake.hands[0].die("its worker process has died")).start()
    with pytest.raises(UserError, match="failed 1 times"):
        run([1], workers=1)
    assert capsys.readouterr().err.count("1 of 1 workers wait for the Ray cluster head:6379 to start them\n") == 1


def test_errors_are_told_as_those_of_workers_here(fake, tmp_path, capsys):
    with pytest.raises(UserError, match="^the disk is full: free some space$"):
        run([("user error", 0)])
    assert run([("raise", 1)], arguments=(tmp_path,), retries=1)[0] == ["done at last"]
    assert "ValueError: the simulator broke down" in capsys.readouterr().err


def test_a_broker_that_ends_is_one_sentence(fake, monkeypatch):
    monkeypatch.setattr(ray_workers.Broker, "obey", lambda broker, pipe: pipe.close())
    with pytest.raises(UserError, match="^the Ray cluster head:6379 is gone.*run the same command again to resume"):
        run([3])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ActorDiedError("The actor is dead because its node has died. Node Id: 12"), "is gone, with its node"),
        (ActorDiedError("x\nThe actor is dead because its worker process has died."), "was killed, or crashed"),
        (ActorDiedError("a\nModuleNotFoundError: No module named 'dreamdrive'\n"), "died: ModuleNotFoundError: No mod"),
        (type("ActorUnavailableError", (Exception,), {})("The actor is unavailable"), "or the network to it"),
    ],
)
def test_the_cause_of_a_death_is_told_in_a_few_words(error, said):
    assert said in ray_workers.cause_of(error) and "\n" not in ray_workers.cause_of(error)


def test_episodes_are_handed_out_in_small_groups_and_are_those_of_one_worker_here(fake):
    tasks = [(None, seed) for seed in range(200)]
    found, options = [], {"observation": "state", "max_steps": 3}
    for where in (None, ANYWHERE):
        with Evaluator("cartpole", DriverSpec("white"), 1 if where is None else 5, "cpu", options, where) as evaluator:
            found.append(evaluator.episodes(tasks))
            assert evaluator.workers == (1 if where is None else 3)
            groups = len(evaluator.driven)
    assert found[0] == found[1] and len(found[0]) == 200
    assert groups == -(-200 // max(9, min(34, LANES))), "a fourth of what one drives at once"


# Machines that differ


def test_a_node_with_other_packages_or_other_code_is_refused_by_name(fake, monkeypatch):
    for package, there, said in (
        ("torch", "1.0", f"has torch 1.0, and not what is here, {metadata.version('torch').split('+')[0]}"),
        ("dreamdrive", "0", "has other code of dreamdrive, and not what is here: install the same"),
    ):
        monkeypatch.setattr(PlainHand, "said", {package: there})
        with pytest.raises(UserError, match=f"worker .* on here .node abc. {said}"):
            run([3])


def test_nodes_that_compute_differently_are_refused_by_name_unless_they_are_allowed(fake, monkeypatch, capsys):
    numbers = iter(range(100))
    monkeypatch.setattr(
        PlainHand,
        "about",
        lambda hand: {"pid": 1, "host": "h", "node": str(n := next(numbers)), "product": str(n), **installed()},
    )
    with pytest.raises(UserError, match=r"\(node .\) computes otherwise.*than .*\(node .\).*--mixed-nodes"):
        run([("compute", 0.2)] * 4)
    with WorkerPool(set_up, (None,), 2, cluster=Cluster("head:6379", mixed=True)) as pool:
        pool.run([("compute", 0.2)] * 4, lambda *result: None)
        assert pool.crew.mixed
    assert capsys.readouterr().err.count("which --mixed-nodes allows") == 1


def test_a_product_is_the_same_again_and_is_of_these_numbers():
    assert ray_actor.product() == ray_actor.product() and len(ray_actor.product()) == 64


def test_a_manifest_says_that_nodes_were_mixed_and_otherwise_is_as_before(tmp_path):
    plain = write_dataset(tmp_path / "data", [5, 6], image=(8, 8, 3)).manifest
    assert "mixed_nodes" not in plain.to_json() and not Manifest.from_json(plain.to_json()).mixed_nodes
    mixed = Manifest.from_json({**plain.to_json(), "mixed_nodes": True})
    assert mixed.mixed_nodes and mixed.to_json()["mixed_nodes"] is True
    with pytest.raises(ValueError, match="mixed_nodes 1 is neither true nor false"):
        Manifest.from_json({**plain.to_json(), "mixed_nodes": 1})


# Files


@dataclass(frozen=True)
class Recipe:
    logdir: Path
    options: dict
    seed: int = 3


def read_and_write(recipe, folder):
    """A worker that writes what it reads, into a file of a task's name."""

    def do(task, report):
        content = (recipe.logdir / "vae" / "best.tar").read_bytes() + Path(
            recipe.options["scenes"], "a.json"
        ).read_bytes()
        (folder / task).write_bytes(content)
        return folder / task, str(recipe.logdir), str(folder), recipe.seed

    return do


@pytest.fixture
def carried(tmp_path):
    """A run and scenes, a folder for what is written, and what is said of them."""
    for name in ("run/vae", "scenes", "data"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "run" / "vae" / "best.tar").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "scenes" / "a.json").write_bytes(b"{}")
    reads = needed("nocturne", {"scenes": str(tmp_path / "scenes"), "egos": "3"}, tmp_path / "run", ("ctrl",))
    assert [list(map(str, read.files)) for read in reads] == [["vae/best.tar"], ["a.json"]]
    return Carried(reads, tmp_path / "data")


def use(carried):
    recipe = Recipe(carried.reads[0].name, {"scenes": carried.reads[1].name, "env": "carracing"})
    return run(["one", "two"], read_and_write, (recipe, carried.writes), workers=2, carried=carried)[0]


@pytest.mark.parametrize("piece", [100, 2562, 1 << 20])
def test_files_travel_to_workers_and_back_in_pieces(piece, fake, carried, monkeypatch):
    monkeypatch.setattr(travelling, "PIECE", piece)
    monkeypatch.setattr(ray_actor, "PIECE", piece)
    for name, (path, logdir, folder, seed) in zip(("one", "two"), use(carried), strict=True):
        assert path == carried.writes / name and path.read_bytes() == bytes(range(256)) * 10 + b"{}" and seed == 3
        assert logdir != str(carried.reads[0].name) and "nodes" in logdir
        assert folder != str(carried.writes) and not list(Path(folder).glob("*")), "nothing is left there"
    assert sorted(path.name for path in carried.writes.iterdir()) == ["one", "two"]


def test_files_travel_once_and_those_that_were_damaged_again(fake, carried):
    def sent():
        return sum(isinstance(value, list) for value in fake.puts)

    use(carried)
    first = sent()
    use(carried)
    assert first and sent() == first
    kept = Cache()
    damaged = kept.folder / listing_of(carried.reads[0])["vae/best.tar"]
    damaged.write_bytes(b"damaged")
    assert use(carried)[0][0].read_bytes().endswith(b"{}") and sent() == first + 1
    assert [len(path.read_bytes()) for path in kept.folder.glob("*.d/vae/best.tar")] == [2560]


def test_a_file_that_changes_while_it_travels_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"before")
    (digest,) = listing_of(Read(tmp_path, tmp_path, (Path("a"),))).values()
    (tmp_path / "a").write_bytes(b"after")
    cache = Cache(tmp_path / "cache")
    assert cache.lacks([digest]) == [digest]
    with pytest.raises(UserError, match="was changed while it was sent"):
        cache.take(pieces({digest: tmp_path / "a"}))
    assert cache.lacks([digest]) == [digest] and not list(cache.folder.iterdir())


def test_what_nobody_has_used_for_a_month_goes(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"a")
    listing = listing_of(Read(tmp_path, tmp_path, (Path("a"),)))
    cache = Cache(tmp_path / "cache")
    cache.take(pieces({digest: tmp_path / "a" for digest in listing.values()}))
    assert (cache.place(listing) / "a").read_bytes() == b"a"
    cache.clear()
    assert len(list(cache.folder.iterdir())) == 2
    monkeypatch.setattr(travelling, "MONTH", -1.0)
    cache.clear()
    assert not list(cache.folder.iterdir())


def test_what_came_back_otherwise_than_it_was_written_is_asked_for_again(fake, carried, monkeypatch, capsys):
    part, spoilt = Hand._part, []

    def once(hand, name, offset):
        content = part(hand, name, offset)
        if spoilt:
            return content
        spoilt.append(name)
        return content[:-1] + b"?"

    monkeypatch.setattr(PlainHand, "_part", once)
    recipe = Recipe(carried.reads[0].name, {"scenes": carried.reads[1].name})
    ((path, *_),), _ = run(["one"], read_and_write, (recipe, carried.writes), 1, carried=carried, retries=1)
    assert path.read_bytes().endswith(b"{}") and "one is not here as it was written there" in capsys.readouterr().err


def test_what_is_in_arguments_is_changed_wherever_it_stands_and_nothing_else():
    recipe = Recipe(Path("carracing"), {"env": "carracing", "scenes": "s", "numbers": [1, (Path("carracing"),)]})
    names = {Path("carracing"): Path("/there"), "s": "/scenes"}
    found, number = mapped(
        (recipe, 3), lambda value: names.get(value, value) if isinstance(value, str | Path) else value
    )
    assert found == Recipe(Path("/there"), {"env": "carracing", "scenes": "/scenes", "numbers": [1, (Path("/there"),)]})
    assert number == 3 and mapped(recipe, lambda value: value) == recipe


# What is said, and what is imported


def test_without_ray_or_with_another_version_that_is_one_sentence(monkeypatch, tmp_path):
    def missing(name):
        raise metadata.PackageNotFoundError

    for found, said in (
        (missing, r"needs the package ray 2.60.0.*dreamdrive\[ray\]"),
        (lambda name: "2.9.3", "and 2.9.3 is"),
    ):
        monkeypatch.setattr(metadata, "version", found)
        with pytest.raises(UserError, match=said):
            require_ray()
        with pytest.raises(UserError, match="--ray needs"):
            RecordingSettings(ray="auto", rootdir=tmp_path).check()


def test_a_cluster_has_as_many_workers_as_cores_unless_their_number_is_given():
    def parse(*words):
        return RecordingSettings.parse(words, "Records.")

    assert parse().cluster is None and parse("--ray", "auto").threads == clusters.ALL
    given = parse("--ray", "h:1", "--threads", "3", "--mixed-nodes", "--gpu-share", "0.5")
    assert given.threads == 3 and given.cluster == Cluster("h:1", True, 0.5)
    with pytest.raises(UserError, match="--mixed-nodes is for workers of a cluster, with --ray"):
        parse("--mixed-nodes").check()
    rounds = RoundsSettings.parse(["--ray", "auto"], "Learns.")
    assert rounds.actor(0).cluster == rounds.cloning(Path("x")).cluster == rounds.cluster == Cluster("auto")


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:port"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(UserError, match="give HOST:PORT of the cluster's head, or auto"):
        ray_workers.place_of(address)


def test_without_a_cluster_nothing_of_ray_is_imported():
    code = (
        "import sys\n"
        "import dreamdrive.driving.recording, dreamdrive.learning.rounds, dreamdrive.driving.scoring\n"
        "from dreamdrive.utils.workers import WorkerPool\n"
        "WorkerPool(print)\n"
        "print(*(name for name in sys.modules if name.split('.')[-1] in ('ray', 'ray_workers', 'ray_actor')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=variables(), capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "", done.stderr


def test_a_worker_that_is_heard_of_is_not_taken_for_a_hung_one_while_it_waits_for_a_core():
    actor = ray_workers.Actor(SimpleNamespace(), 1, workers.BEAT)
    assert actor.wait(10_000, 900, 60) == ""
    actor.placed = True
    assert "was not heard of for 60 seconds: it has been stopped, or it hangs, or the network" in actor.wait(
        61, 900, 60
    )
