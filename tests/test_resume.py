"""A stage that was stopped and run again ends with the bytes of one that was not."""

import hashlib
import io
import os
import shutil
import signal
import subprocess
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dreamdrive.benchmarks import kills
from dreamdrive.learning import evolution
from dreamdrive.learning.evolution import Search
from dreamdrive.tests.tiny_run import (
    ROOT,
    TINY,
    budget,
    call,
    command,
    complaint,
    contents,
    copy_run,
    tiny,
    variables,
    write_dataset,
)
from dreamdrive.utils import checkpoint

FOLDERS = {"trainvae": "vae", "trainmdrnn": "mdrnn", "traincontroller": "ctrl", "trainbc": "bc"}
FSQ = ("--kind", "fsq", "--batch-size", 32, "--epoch-frames", 64, "--nosamples", "--device", "cpu")
LENGTH = {name: "--generations" if name == "traincontroller" else "--epochs" for name in FOLDERS}


def of_stage(run, module):
    """The files of a stage that must not depend on how often it was stopped."""
    found = contents(run.logdir / FOLDERS[module])
    return {
        name: hashlib.sha256(content).hexdigest()
        for name, content in found.items()
        if name.endswith((".tar", "metrics.csv"))
    }


@pytest.mark.parametrize("module", FOLDERS)
def test_stopped_after_one_of_two_epochs_and_run_again_equals_two_straight(module, trained, tmp_path, monkeypatch):
    """`trained` went two epochs without a stop."""
    monkeypatch.setattr(
        "dreamdrive.learning.cloning_inputs.report", lambda *_: None
    )  # drawn from best.tar when all is done
    run = copy_run(trained, tmp_path)
    options = ("--logdir", run.logdir, *(("--dataset", trained.data) if module == "trainvae" else ()))
    tiny(module, *options, LENGTH[module], 1, "--noreload")
    halfway = of_stage(run, module)
    tiny(module, *options)
    assert set(halfway) == {"best.tar", "checkpoint.tar", "metrics.csv"}
    assert of_stage(run, module) == of_stage(trained, module) != halfway


def test_running_a_finished_stage_again_changes_nothing(trained, tmp_path, monkeypatch):
    run = copy_run(trained, tmp_path)
    monkeypatch.setattr("dreamdrive.learning.cloning_inputs.report", lambda *_: None)
    for module in FOLDERS:
        tiny(module, "--logdir", run.logdir, *(("--dataset", trained.data) if module == "trainvae" else ()))
        assert of_stage(run, module) == of_stage(trained, module)


@pytest.mark.parametrize("module", ["trainvae", "trainmdrnn"])
def test_sizes_that_are_not_given_are_those_it_began_with(module, trained, tmp_path):
    run = copy_run(trained, tmp_path)
    assert TINY[module][0] in ("--latent", "--hidden")
    done = call(
        module,
        *TINY[module][2:],
        "--logdir",
        run.logdir,
        *(("--dataset", trained.data) if module == "trainvae" else ()),
    )
    assert done.returncode == 0, done.stderr
    assert of_stage(run, module) == of_stage(trained, module)


def test_noreload_starts_afresh_and_ends_the_same(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    tiny("trainmdrnn", "--logdir", run.logdir, "--epochs", 1, "--noreload", "--seed", 9)
    assert of_stage(run, "trainmdrnn") != of_stage(trained, "trainmdrnn")
    tiny("trainmdrnn", "--logdir", run.logdir, "--noreload")
    assert of_stage(run, "trainmdrnn") == of_stage(trained, "trainmdrnn")


@pytest.mark.parametrize("module", FOLDERS)
def test_what_a_killed_process_had_no_time_left_to_show_is_shown(module, trained, tmp_path):
    """It was killed after the last checkpoint.tar."""
    run = copy_run(trained, tmp_path)
    folder = run.logdir / FOLDERS[module]
    shown = ["metrics.csv", "fitness.png" if module == "traincontroller" else "loss.png"]
    before = [(folder / name).read_bytes() for name in shown]
    for name in shown:
        (folder / name).unlink()
    tiny(module, "--logdir", run.logdir, *(("--dataset", trained.data) if module == "trainvae" else ()))
    assert [(folder / name).read_bytes() for name in shown] == before


@pytest.mark.parametrize("module", ["trainvae", "trainmdrnn", "trainbc"])
def test_a_best_that_is_gone_is_told(module, trained, tmp_path):
    """And not where the next stage finds it, which does not."""
    run = copy_run(trained, tmp_path)
    best = run.logdir / FOLDERS[module] / "best.tar"
    best.unlink()
    before = contents(run.logdir)
    data = ("--dataset", trained.data) if module == "trainvae" else ()
    said = complaint(call(module, *TINY[module], "--logdir", run.logdir, *data))
    assert f"{best} is missing, the best that" in said and "--noreload" in said and contents(run.logdir) == before


def test_the_best_epoch_is_sought_anew_when_the_dataset_grew_and_kept_when_it_moved(tmp_path):
    def trained_on(data, epochs):
        done = call("trainvae", *FSQ, "--dataset", data, "--logdir", tmp_path / "run", "--epochs", epochs)
        assert done.returncode == 0, done.stderr
        return torch.load(tmp_path / "run" / "vae" / "checkpoint.tar", weights_only=True)

    data, moved = tmp_path / "data", tmp_path / "moved"
    write_dataset(data, [20, 20, 20, 20])
    assert trained_on(data, 1)["began"] == 0
    data.rename(moved)
    assert trained_on(moved, 2)["began"] == 0, "the same data, wherever they are"
    write_dataset(moved, [20] * 6, first=4)
    assert (
        trained_on(moved, 3)["began"] == 2
        and torch.load(tmp_path / "run" / "vae" / "best.tar", weights_only=True)["epoch"] == 3
    ), "losses on fewer data are no measure"


def test_no_epochs_keep_m_untrained_but_never_undo_a_trained_one(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    tiny("trainmdrnn", "--logdir", run.logdir, "--epochs", 0)
    assert of_stage(run, "trainmdrnn") == of_stage(trained, "trainmdrnn")
    shutil.rmtree(run.logdir / "mdrnn")
    tiny("trainmdrnn", "--logdir", run.logdir, "--epochs", 0)
    untrained = checkpoint.load_parent(run.logdir, "mdrnn")
    assert untrained["epoch"] == 0 and untrained["best"] > checkpoint.load_parent(trained.logdir, "mdrnn")["best"]
    tiny("trainmdrnn", "--logdir", run.logdir)
    assert of_stage(run, "trainmdrnn") == of_stage(trained, "trainmdrnn")


# CMA-ES


def search(**changes):
    return Search(
        torch.linspace(-1, 1, 12),
        SimpleNamespace(**{"seed": 0, "sigma": 0.3, "pop_size": 6, "diagonal": False, **changes}),
    )


def scores_of(population):
    """Some landscape, with ties."""
    return -(population - 0.5).square().sum(1).double().mul(4).round()


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("stopped", [1, 7, 30])
def test_a_replayed_search_asks_for_the_same_populations(stopped, diagonal):
    straight, populations, recorded = search(diagonal=diagonal), [], []
    for _ in range(stopped + 5):
        populations.append(straight.ask())
        recorded.append(scores_of(populations[-1]))
        straight.tell(populations[-1], recorded[-1])
    resumed = search(diagonal=diagonal)
    np.random.seed(99)  # whatever else was drawn must not matter
    resumed.replay(torch.stack(recorded[:stopped]))
    for population in populations[stopped:]:
        np.random.rand()
        asked = resumed.ask()
        assert torch.equal(asked, population)
        resumed.tell(asked, scores_of(asked))
    assert torch.equal(resumed.mean, straight.mean)
    assert not torch.equal(search(seed=1).ask(), populations[0])


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize(("weights", "pop_size"), [(12, 6), (12, 2), (40, 3), (120, 16), (1, 4), (400, 8)])
def test_a_stored_search_asks_for_the_same_populations_and_is_stored_the_same(weights, pop_size, diagonal):
    """Without repeating what it did: that comes out differently with another number of threads. Of some hundred weights
    and more pycma adapts the step size in another way (TPA)."""

    def made():
        args = SimpleNamespace(seed=0, sigma=0.3, pop_size=pop_size, diagonal=diagonal)
        return Search(torch.linspace(-1, 1, weights), args)

    def stored(found):
        buffer = io.BytesIO()
        torch.save(checkpoint._canonical(found.state()), buffer)
        return buffer.getvalue()

    straight, resumed = made(), []
    for generation in range(40):
        population = straight.ask()
        scores = scores_of(population) if generation % 7 else torch.zeros(pop_size).double()  # now and then all alike
        for other in resumed:
            assert torch.equal(other.ask(), population)
            other.tell(population, scores)
        straight.tell(population, scores)
        assert all(stored(other) == stored(straight) for other in resumed)
        if generation in (0, 1, 6, 7, 20):
            resumed.append(made())
            state = torch.load(io.BytesIO(stored(straight)), weights_only=True)
            resumed[-1].load(state, torch.empty(0, pop_size))


def test_a_search_that_another_pycma_stored_is_replayed():
    straight, recorded = search(), []
    for _ in range(5):
        population = straight.ask()
        recorded.append(scores_of(population))
        straight.tell(population, recorded[-1])
    resumed = search()
    resumed.load({**straight.state(), "pycma": "0.0"}, torch.stack(recorded))
    assert torch.equal(resumed.ask(), straight.ask())


def test_the_search_climbs_also_when_its_first_generation_is_flat():
    climbing = search()
    for generation in range(60):
        population = climbing.ask()
        scores = torch.zeros(6).double() if generation == 0 else -(population - 0.5).square().sum(1)
        climbing.tell(population, scores)
    assert (climbing.mean - 0.5).abs().max() < 0.1


def test_the_generation_after_a_resume_is_the_same_population(trained, tmp_path, monkeypatch):
    asked, ask = [], Search.ask
    monkeypatch.setattr(Search, "ask", lambda self: asked.append(ask(self)) or asked[-1])
    straight, stopped = copy_run(trained, tmp_path / "straight"), copy_run(trained, tmp_path / "stopped")
    tiny("traincontroller", "--logdir", straight.logdir, "--generations", 4, "--noreload")
    wanted = asked.copy()
    tiny("traincontroller", "--logdir", stopped.logdir, "--generations", 2, "--noreload")
    asked.clear()
    tiny("traincontroller", "--logdir", stopped.logdir, "--generations", 4)
    assert len(wanted) == 4
    for population, other in zip(asked, wanted[2:], strict=True):
        assert torch.equal(population, other)
    assert of_stage(stopped, "traincontroller") == of_stage(straight, "traincontroller")


def test_a_search_in_pieces_is_the_same_search(trained, tmp_path, monkeypatch):
    """What each command's last generation is scored with in addition decides nothing: the second piece drives as many
    episodes a candidate as without a stop."""
    monkeypatch.setattr(evolution, "STALE", 1)
    flags = ("--world", "simulator", "--evaluate-every", 3, "--selection-episodes", 2, "--sigma", 1e-9, "--no-display")
    flags = (*flags, "--init", trained.logdir / "bc" / "best.tar")  # whose score so small a search does not change
    ends = []
    for name, pieces in (("straight", (4,)), ("pieces", (2, 4))):
        run = copy_run(trained, tmp_path / name)
        shutil.rmtree(run.logdir / "ctrl")
        for generations in pieces:
            tiny("traincontroller", "--logdir", run.logdir, *flags, "--generations", generations)
        ends.append(checkpoint.load(checkpoint.path(run.logdir, "ctrl", "checkpoint.tar"), "ctrl"))
    straight, pieces = ends
    assert torch.equal(straight["scores"], pieces["scores"]) and torch.equal(straight["mean"], pieces["mean"])
    for row, other in zip(straight["history"], pieces["history"], strict=True):
        assert {**row, "simulator": 0, "frames": 0} == {**other, "simulator": 0, "frames": 0}
    # two evaluations that found nothing better count in neither: one would have doubled the episodes
    assert [row["simulator"] is None for row in pieces["history"]] == [True, False, False, False]
    assert [row["samples"] for row in pieces["history"]] == [2, 2, 2, 2]


def test_a_search_that_learns_nothing_says_so_once(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    flags = ("--logdir", run.logdir, "--noreload", "--world", "simulator", "--sigma", 1e-9, "--generations", 3)
    flags = (*flags, "--init", run.logdir / "bc" / "best.tar")
    said = tiny("traincontroller", *flags).stdout
    assert said.count("all 4 candidates of generation") == 1 and "use a larger --sigma" in said
    assert "candidates of generation" not in tiny("traincontroller", "--logdir", run.logdir, "--noreload").stdout


def test_a_replay_that_comes_out_differently_is_refused(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    source = checkpoint.path(run.logdir, "ctrl", "checkpoint.tar")
    saved = {
        k: v for k, v in checkpoint.load(source, "ctrl").items() if k not in ("stage", "schema", "digest", "search")
    }
    checkpoint.save(source, "ctrl", **{**saved, "scores": saved["scores"].flip(1)})
    done = call("traincontroller", *TINY["traincontroller"], "--logdir", run.logdir, "--generations", 3)
    assert all(word in complaint(done) for word in ("gave another population", "threads", "--noreload"))


# Stopped from outside


@pytest.mark.parametrize(
    "module",
    [
        "trainmdrnn",
        pytest.param("trainvae", marks=pytest.mark.slow),
        pytest.param("trainbc", marks=pytest.mark.slow),
        pytest.param("traincontroller", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_ends_within_seconds_with_status_130_and_the_run_can_go_on(module, trained, tmp_path):
    """The signal goes to every process of the terminal, workers included."""
    run = copy_run(trained, tmp_path)
    data = ("--dataset", trained.data) if module == "trainvae" else ()
    world = ("--world", "simulator") if module == "traincontroller" else ()
    folder = run.logdir / FOLDERS[module]
    before = (folder / "metrics.csv").stat().st_mtime_ns
    options = budget(module, "--logdir", run.logdir, "--noreload", *data, *world)
    process = subprocess.Popen(
        command(f"{module}.py", *options, LENGTH[module], 1000),
        cwd=ROOT,
        env=variables(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while (
        (folder / "metrics.csv").stat().st_mtime_ns == before and process.poll() is None and time.monotonic() < deadline
    ):
        time.sleep(0.02)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    sent = time.monotonic()
    said = process.communicate(timeout=30)[1]
    assert time.monotonic() - sent < 8 and process.returncode == 130
    assert "Traceback" not in said and said.strip().endswith("stopped; run the same command again to resume")
    assert not list(folder.glob(".*.tmp")) or module != "trainmdrnn"
    done = len(checkpoint.load(folder / "checkpoint.tar", FOLDERS[module])["history"])
    tiny(module, "--logdir", run.logdir, *data, *world, LENGTH[module], done + 1)
    history = checkpoint.load(folder / "checkpoint.tar", FOLDERS[module])["history"]
    assert [next(iter(row.values())) for row in history] == list(range(1, done + 2))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["vae", "mdrnn", "ctrl", "bc"])
def test_killed_at_a_random_moment_and_during_a_publication_it_ends_with_the_same_bytes(stage, trained, tmp_path):
    live = tmp_path / "live"
    shutil.copytree(trained.data, live / "labelled")
    for parent in ("vae", "mdrnn", "ctrl", "bc"):
        if parent == stage:
            break
        shutil.copytree(trained.logdir / parent, live / "run" / parent)
    tally = kills.torment(kills.STAGES[stage], live, kills=2, seed=0)
    assert (tally.moments, tally.publications) == (1, 1) and tally.ended >= 1 and tally.different == set()


@pytest.mark.slow
def test_a_difference_would_be_found(trained, tmp_path, monkeypatch):
    """What `torment` compares is not nothing: a run whose end differs from the undisturbed one is named."""
    live, ends = tmp_path / "live", iter(range(1, 99))
    shutil.copytree(trained.logdir, live / "run")
    stage = kills.Stage("4a", "-c 'import time; time.sleep(1)'", ("run/ctrl",))

    def finish(process, folder):
        process.wait()
        (folder / "run" / "ctrl" / "best.tar").write_bytes(bytes(next(ends)))

    monkeypatch.setattr(kills, "finish", finish)
    assert kills.torment(stage, live, kills=1, seed=0).different == {"run/ctrl/best.tar"}
