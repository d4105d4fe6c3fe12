"""The stages as a user runs them, one after another; `trained` in conftest.py did so on CartPole."""

import csv
import hashlib
import json
import math
import shutil
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from dreamdrive.data.latents import load_sequences
from dreamdrive.data.loaders import open_datasets
from dreamdrive.driving.agent import load_agent
from dreamdrive.driving.evaluation import DriverSpec, Evaluator
from dreamdrive.learning.evolution_settings import EvolutionSettings
from dreamdrive.models.controller import parameter_vector
from dreamdrive.models.world_model import load_vision
from dreamdrive.tests.tiny_run import TINY, call, contents, copy_run, tiny, user
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.seeds import evaluation_seeds, selection_seeds

LOSSES = {"vae": ("loss", "reconstruction", "kl"), "mdrnn": ("loss", "nll", "reward_mse", "terminal_bce")}
COLUMNS = {
    **{
        stage: ["epoch", *names, *(f"val_{name}" for name in names), "learning_rate"] for stage, names in LOSSES.items()
    },
    "ctrl": ["generation", "best", "mean", "rescored", "simulator", "sigma", "samples", "frames"],
    "bc": [
        "epoch",
        "method",
        "loss",
        "accuracy",
        "val_loss",
        "val_accuracy",
        "return_mean",
        "return_std",
        "likeness",
        "dream_reward",
    ],
}
COLUMNS["vae"][-1:-1] = ["val_kept", "val_live"]
FILES = {
    "vae": [
        "args.json",
        "best.tar",
        "checkpoint.tar",
        "loss.png",
        "lost.png",
        "metrics.csv",
        "samples/epoch_001.png",
        "samples/epoch_002.png",
    ],
    "mdrnn": [
        "args.json",
        "best.tar",
        "checkpoint.tar",
        "dreams/epoch_001.png",
        "dreams/epoch_002.png",
        "loss.png",
        "metrics.csv",
    ],
    "ctrl": ["args.json", "best.tar", "checkpoint.tar", "clock.csv", "fitness.png", "metrics.csv"],
    "bc": [
        "args.json",
        "best.tar",
        "checkpoint.tar",
        "distance.png",
        "dream-and-reality.png",
        "dream.mp4",
        "dream.png",
        "loss.png",
        "metrics.csv",
    ],
}


def score(run, name):
    return json.loads((run.logdir / "scores" / name).read_text())


def video(path):
    """(codec and pixel format, size, number of frames) as a player finds them."""
    frames = imageio_ffmpeg.read_frames(str(path))
    meta = next(frames)
    return (meta["codec"], meta["pix_fmt"].split("(")[0]), meta["size"], sum(1 for _ in frames)


# What the stages leave behind


@pytest.mark.parametrize("stage", FILES)
def test_each_stage_leaves_its_files_and_nothing_else(stage, trained):
    assert list(contents(trained.logdir / stage)) == FILES[stage]
    for picture in (trained.logdir / stage).rglob("*.png"):
        assert np.asarray(Image.open(picture)).std() > 1
    arguments = json.loads((trained.logdir / stage / "args.json").read_text())
    assert (
        arguments["command"].startswith("python train")
        and arguments["logdir"] == str(trained.logdir)
        and arguments["seed"] == 0
    )


@pytest.mark.parametrize("stage", COLUMNS)
def test_metrics_have_the_documented_columns_and_a_finite_row_an_epoch(stage, trained):
    with open(trained.logdir / stage / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS[stage] and [row[COLUMNS[stage][0]] for row in rows] == ["1", "2"]
    # simulator: driven now and then only
    assert all(
        math.isfinite(float(value))
        for row in rows
        for name, value in row.items()
        if name not in ("simulator", "method")
    )


def test_each_stage_names_its_parents_by_digest_and_nothing_is_repeated_on_later_command_lines(trained):
    digest = {stage: hashlib.sha256((trained.logdir / stage / "best.tar").read_bytes()).hexdigest() for stage in FILES}
    saved = {stage: checkpoint.load_parent(trained.logdir, stage) for stage in FILES}
    assert saved["vae"]["parents"] == {} and saved["mdrnn"]["parents"] == {"vae": digest["vae"]}
    assert saved["ctrl"]["parents"] == saved["bc"]["parents"] == {"vae": digest["vae"], "mdrnn": digest["mdrnn"]}
    assert saved["vae"]["world"] == {
        "env": "gym:CartPole-v1",
        "image_shape": [64, 64, 3],
        "action_space": {"type": "discrete", "n": 2},
        "dt": 0.02,
        "max_steps": 500,
        "options": {},
    }
    assert saved["vae"]["datasets"] == saved["mdrnn"]["datasets"] == [str(trained.data)]
    assert saved["vae"]["kind"] == "gaussian" and saved["mdrnn"]["kind"] == "lstm-mixture"
    assert saved["mdrnn"]["config"] == {
        "latent": 8,
        "action": 2,
        "hidden": 16,
        "mixtures": 5,
        "reward": True,
        "reward_scale": 1.0,  # all rewards of CartPole are 1
    }
    assert saved["ctrl"]["config"]["recurrent"] == 16


def test_best_is_the_epoch_of_the_lowest_validation_loss_or_the_highest_return(trained):
    for stage, column in {"vae": "val_loss", "mdrnn": "val_loss", "ctrl": "rescored", "bc": "return_mean"}.items():
        history = checkpoint.load(checkpoint.path(trained.logdir, stage, "checkpoint.tar"), stage)["history"]
        values = [row[column] for row in history]
        best = min(values) if column == "val_loss" else max(values)
        saved = checkpoint.load_parent(trained.logdir, stage)
        assert saved["best"] == best and saved.get("epoch", saved.get("generation")) == values.index(best) + 1


def test_the_latents_of_the_whole_dataset_are_cached(trained):
    vision, saved = load_vision(trained.logdir, torch.device("cpu"))
    datasets = open_datasets([trained.data])
    mu = load_sequences(trained.logdir, vision, saved["digest"], datasets).latents["mu"]
    assert len(mu) == sum(e.steps + 1 for e in datasets[0].episodes) and mu.std() > 0


def test_the_clones_dream_is_a_video_that_browsers_play(trained):
    kind, size, frames = video(trained.logdir / "bc" / "dream.mp4")
    assert kind == ("h264", "yuv420p") and size[0] == 288 and size[1] > 2 * 192 and frames > 1


# Scores


@pytest.fixture(scope="module")
def scored(trained, tmp_path_factory):
    """A copy of the run whose evolved controller has been scored twice with one command, with a video; and both
    scores."""
    run, scores = copy_run(trained, tmp_path_factory.mktemp("scored")), []
    options = (
        "--logdir",
        run.logdir,
        "--episodes",
        3,
        "--seed",
        4,
        "--max-workers",
        2,
        "--record",
        run.logdir / "drive.mp4",
    )
    for drive in (lambda: user("test_controller.py", *options), lambda: call("test_controller", *options)):
        done = drive()
        scores.append(
            (score(run, "ctrl-gym:CartPole-v1-simulator.json"), (run.logdir / "drive.mp4").read_bytes(), done.stdout)
        )
    return run, scores


def test_the_same_command_gives_the_same_numbers_and_the_same_video(scored):
    _, scores = scored
    assert scores[0] == scores[1]


def test_a_score_says_what_it_is(scored):
    run, scores = scored
    found, _, said = scores[0]
    returns = np.array(list(found["returns"].values()))
    assert list(found["returns"]) == [str(s) for s in evaluation_seeds(4, 3)] == ["2040000", "2040001", "2040002"]
    for name, value in {
        "mean": returns.mean(),
        "std": returns.std(),
        "min": returns.min(),
        "median": np.median(returns),
        "max": returns.max(),
    }.items():
        assert found[name] == pytest.approx(value)
    assert found["episodes"] == 3 and found["env"] == "gym:CartPole-v1" and (returns >= 1).all()
    assert found["frames"] == returns.sum(), "a CartPole's return is its number of steps"
    assert found["versions"]["torch"] == torch.__version__ and {"python", "numpy", "gymnasium", "box2d"} <= set(
        found["versions"]
    )
    assert found["command"].startswith("python test_controller.py --logdir ") and "--seed 4" in found["command"]
    assert found["checkpoints"] == {
        s: hashlib.sha256((run.logdir / s / "best.tar").read_bytes()).hexdigest() for s in ("vae", "mdrnn", "ctrl")
    }
    assert f"ctrl in the simulator: {returns.mean():.1f} +- {returns.std():.1f} over 3 episodes" in said


def test_the_recorded_video_shows_the_first_episode_in_three_panels_and_plays_in_browsers(scored):
    run, scores = scored
    kind, (width, height), frames = video(run.logdir / "drive.mp4")
    # a CartPole's return is its number of steps
    assert kind == ("h264", "yuv420p") and frames == scores[0][0]["returns"]["2040000"] + 1
    assert width > 2.5 * height


def test_the_number_of_workers_does_not_matter(scored):
    run, scores = scored
    assert (
        call("test_controller", "--logdir", run.logdir, "--episodes", 3, "--seed", 4, "--max-workers", 1).returncode
        == 0
    )
    assert score(run, "ctrl-gym:CartPole-v1-simulator.json")["returns"] == scores[0][0]["returns"]


def test_scores_in_the_dream_are_repeatable_and_depend_on_the_temperature(trained, tmp_path):
    run, found = copy_run(trained, tmp_path), []
    for options in ((), (), ("--temperature", 0.5), ("--seed", 1)):
        done = call(
            "test_controller",
            "--logdir",
            run.logdir,
            "--controller",
            "bc",
            "--world",
            "dream",
            "--episodes",
            4,
            "--horizon",
            30,
            *options,
        )
        assert done.returncode == 0, done.stderr
        found.append(list(score(run, "bc-gym:CartPole-v1-dream.json")["returns"].values()))
    assert found[0] == found[1] and found[0] != found[2] and found[0] != found[3] and len(set(found[0])) > 1
    assert set(score(run, "bc-gym:CartPole-v1-dream.json")["checkpoints"]) == {"vae", "mdrnn", "bc"}


def test_episodes_driven_together_have_the_returns_they_have_alone():
    with Evaluator("gym:CartPole-v1", DriverSpec("white"), 1) as evaluator:
        together = evaluator.returns([(None, seed) for seed in range(40)])
        assert [evaluator.returns([(None, seed)])[0] for seed in range(8)] == together[:8] and len(set(together)) > 5
        assert evaluator.steps == sum(together) + sum(together[:8])  # CartPole's reward is 1 a step


def random_driver(folder: Path, env: str, episodes: int) -> dict:
    """The score of the random driver, filed in `folder`."""
    flags = ("--env", env, "--episodes", episodes, "--max-workers", 1)
    done = call("test_controller", "--logdir", folder, "--controller", "random", *flags)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "scores" / f"random-{env}-simulator.json").read_text())


def test_a_random_driver_needs_nothing_trained(tmp_path):
    found = random_driver(tmp_path, "gym:CartPole-v1", 2)
    assert found["checkpoints"] == {} and len(found["returns"]) == 2 and found["mean"] >= 8


# Evolution in the simulator, and from a clone


def test_evolution_in_the_simulator_scores_its_mean_on_seeds_of_the_selection_range(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    shutil.rmtree(run.logdir / "ctrl")
    tiny(
        "traincontroller",
        "--logdir",
        run.logdir,
        "--world",
        "simulator",
        "--init",
        run.logdir / "bc" / "best.tar",
        "--no-display",
    )
    saved = checkpoint.load_parent(run.logdir, "ctrl")
    assert saved["settings"]["world"] == "simulator"
    agent = load_agent(run.logdir)
    with Evaluator("gym:CartPole-v1", DriverSpec("agent", run.logdir, agent.controller.config_dict()), 1) as evaluator:
        returns = evaluator.returns(
            [(parameter_vector(agent.controller), seed) for seed in selection_seeds(0, 2, saved["generation"])]
        )
    assert saved["best"] == np.mean(returns)


@pytest.mark.parametrize("world", ["dream", "simulator"])
def test_evolution_keeps_the_mean_that_drives_the_simulator_best(world, trained, tmp_path):
    run = copy_run(trained, tmp_path)
    tiny(
        "traincontroller",
        "--logdir",
        run.logdir,
        "--noreload",
        "--world",
        world,
        "--sigma",
        1,
        "--generations",
        3,
        "--evaluate-every",
        2,
        "--selection-episodes",
        20,
    )
    state, saved = (
        checkpoint.load(checkpoint.path(run.logdir, "ctrl", "checkpoint.tar"), "ctrl"),
        checkpoint.load_parent(run.logdir, "ctrl"),
    )
    driven = [row["simulator"] for row in state["history"]]
    assert driven[0] is None and saved["best"] == max(driven[1:])  # every second generation, and the last
    assert (state["history"][0]["rescored"] is None) == (world == "simulator")
    assert saved["generation"] == 2 + driven[1:].index(saved["best"])
    agent = load_agent(run.logdir)
    with Evaluator("gym:CartPole-v1", DriverSpec("agent", run.logdir, agent.controller.config_dict()), 1) as evaluator:
        assert (
            np.mean(evaluator.returns([(parameter_vector(agent.controller), seed) for seed in selection_seeds(0, 20)]))
            == saved["best"]
        )


@pytest.mark.parametrize(
    "given, before, wanted",
    [
        ((), None, (64, 16)),
        (("--world", "simulator"), None, (16, 2)),
        (("--world", "simulator", "--pop-size", "5", "--n-samples", "3"), None, (5, 3)),
        (("--world", "simulator"), "simulator", (7, 9)),
        (("--world", "simulator", "--n-samples", "9"), "simulator", (7, 9)),
        ((), "simulator", (7, 9)),
    ],
)
def test_the_search_is_as_large_as_suits_its_world_or_as_it_was_before(given, before, wanted):
    args = EvolutionSettings.parse(given, "Evolve.")
    args, inherited = args.sized(before and {"world": before, "pop_size": 7, "n_samples": 9})
    assert (args.pop_size, args.n_samples) == wanted
    assert ("world" in inherited) == (before is not None and "--world" not in given)


def test_a_search_is_not_resumed_in_another_world():
    args = EvolutionSettings.parse(["--world", "simulator"], "Evolve.")
    with pytest.raises(UserError, match="has world dream, not simulator: leave --world away"):
        args.sized({"world": "dream", "pop_size": 7, "n_samples": 9})


def test_the_last_layer_of_a_clone_can_be_evolved_alone(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    tiny("trainbc", "--logdir", run.logdir, "--noreload", "--hidden", 7)
    clone = run.logdir / "bc" / "best.tar"
    tiny("traincontroller", "--logdir", run.logdir, "--noreload", "--init", clone, "--evolve", "last")
    before, after = checkpoint.load(clone, "bc")["model"], checkpoint.load_parent(run.logdir, "ctrl")["model"]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"layers.1.weight", "layers.1.bias"}


def test_a_clone_that_evolution_does_not_better_is_kept(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    clone = run.logdir / "bc" / "best.tar"
    # Too small a search to change anything: whether a larger one finds better than a clone of two epochs is chance,
    # which differs by processor.
    flags = ("--logdir", run.logdir, "--init", clone, "--selection-episodes", 10, "--evaluate-every", 1)
    tiny("traincontroller", *flags, "--noreload", "--generations", 1, "--sigma", 1e-9)
    saved = checkpoint.load_parent(run.logdir, "ctrl")
    state = checkpoint.load(checkpoint.path(run.logdir, "ctrl", "checkpoint.tar"), "ctrl")
    assert saved["generation"] == 0 and saved["best"] == state["best"] >= state["history"][0]["simulator"]
    assert all(
        torch.equal(saved["model"][name], value) for name, value in checkpoint.load(clone, "bc")["model"].items()
    )
    tiny("traincontroller", *flags, "--generations", 2, "--sigma", 1e-9)
    assert checkpoint.load_parent(run.logdir, "ctrl")["generation"] == 0


def test_a_search_too_large_for_its_covariance_matrix_is_refused(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    tiny("trainbc", "--logdir", run.logdir, "--noreload", "--hidden", 1000)
    flags = ("traincontroller", "--logdir", run.logdir, "--noreload", "--init", run.logdir / "bc" / "best.tar")
    done = call(*flags)
    assert done.returncode == 1 and "use --evolve last, or --diagonal" in done.stderr
    tiny(*flags, "--diagonal")


def test_evolution_stops_at_its_target_and_begins_at_the_clone(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    clone = run.logdir / "bc" / "best.tar"
    done = tiny(
        "traincontroller",
        "--logdir",
        run.logdir,
        "--noreload",
        "--target-return",
        -1e9,
        "--generations",
        50,
        "--init",
        clone,
        "--no-display",
    )
    state = checkpoint.load(checkpoint.path(run.logdir, "ctrl", "checkpoint.tar"), "ctrl")
    assert "target return" in done.stdout and len(state["history"]) == 1 and done.stderr == ""
    assert torch.equal(
        state["start"], torch.nn.utils.parameters_to_vector(checkpoint.load(clone, "bc")["model"].values())
    )


# CarRacing


@pytest.mark.slow
def test_all_stages_run_on_carracing(tmp_path):
    data, logdir = tmp_path / "data", tmp_path / "run"
    user(
        "data/generation_script.py",
        "--rollouts",
        4,
        "--max-steps",
        40,
        "--policy",
        "expert",
        "--val-fraction",
        0.5,
        "--rootdir",
        data,
        "--threads",
        2,
    )
    user("trainvae.py", *TINY["trainvae"], "--epochs", 1, "--dataset", data, "--logdir", logdir, "--nosamples")
    user("trainmdrnn.py", *TINY["trainmdrnn"], "--epochs", 1, "--logdir", logdir)
    user("traincontroller.py", *TINY["traincontroller"], "--logdir", logdir, "--generations", 1)
    user("trainbc.py", *TINY["trainbc"], "--logdir", logdir, "--hidden", 16, "--epochs", 1)
    assert (
        not (logdir / "vae" / "samples").exists()
        and not (logdir / "media").exists()
        and len(parameter_vector(load_agent(logdir).controller)) == (8 + 16) * 3 + 3
    )
    done = user(
        "test_controller.py",
        "--logdir",
        logdir,
        "--controller",
        "bc",
        "--world",
        "dream",
        "--episodes",
        2,
        "--horizon",
        20,
        "--record",
        tmp_path / "dream.mp4",
    )
    assert "bc in the dream" in done.stdout and video(tmp_path / "dream.mp4")[0] == ("h264", "yuv420p")


def test_a_score_in_the_fast_world_never_takes_the_place_of_the_official_one(tmp_path):
    for env in ("carracing", "carracing-fast"):
        assert random_driver(tmp_path, env, 1)["env"] == env
    assert len(list((tmp_path / "scores").iterdir())) == 2
