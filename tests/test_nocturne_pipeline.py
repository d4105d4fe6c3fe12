"""All five stages run on Nocturne's scenes, each reading what the one before it wrote."""

import json
import shutil

import pytest

from dreamdrive.data import generation_script
from dreamdrive.data.manifest import read_manifest
from dreamdrive.data.shards import Dataset
from dreamdrive.envs.nocturne.folder_index import scene_files
from dreamdrive.envs.nocturne.pool import FolderPool
from dreamdrive.envs.nocturne.synthetic import write_scenes
from dreamdrive.tests.tiny_run import call, complaint, record_nocturne, tiny
from dreamdrive.utils.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with scenes, a dataset of them and a run trained on it with tiny budgets."""
    folder = tmp_path_factory.mktemp("nocturne")
    list(write_scenes(folder / "scenes", 3, seed=0))
    record_nocturne(folder, "--policy", "expert=0.8,brown=0.2")
    tiny("trainvae", "--dataset", folder / "data", "--logdir", folder / "run", "--colour-balance", 0.5)
    tiny("trainmdrnn", "--logdir", folder / "run")
    tiny("trainbc", "--logdir", folder / "run")
    tiny("traincontroller", "--logdir", folder / "run", "--evaluate-every", 0)
    return folder


def test_every_ego_is_recorded_once_with_its_options_and_the_experts_opinion(run):
    manifest = read_manifest(run / "data")
    assert (
        manifest.options["scenes"] == str(run / "scenes") and manifest.options["view_dist"] == 40 and manifest.complete
    )
    dataset = Dataset.open(run / "data")
    assert (
        manifest.rollouts == len(dataset.episodes)
        and manifest.max_steps == 80
        and manifest.action_space["scale"] == [2.0, pytest.approx(0.1)]
    )
    assert manifest.by_place and {e.split for e in manifest.episodes} == {"train", "val"}
    last = scene_files(run / "scenes")[-1].name  # of three scenes it is held out
    held = [e.index for e in manifest.episodes if e.split == "val"]
    assert held == [k for k, (name, _) in enumerate(FolderPool(run / "scenes", 10).episodes) if name == last]
    experts = [e.score for e in manifest.episodes if e.policy == "expert"]
    assert sum(score > 8 for score in experts) >= 0.8 * len(experts)  # the goal was reached


def test_a_share_of_the_episodes_is_refused_where_places_are_kept_apart(run):
    with pytest.raises(UserError, match="--val-fraction 0.2 is not possible: the world keeps every tenth"):
        generation_script.main(
            [
                "--env",
                "nocturne",
                "--scenes",
                str(run / "scenes"),
                "--val-fraction",
                "0.2",
                "--rootdir",
                str(run / "other"),
                "--threads",
                "1",
            ]
        )


@pytest.mark.parametrize("controller", ["bc", "ctrl", "expert", "constant", "log", "random"])
def test_everybody_is_scored_on_scenes_nobody_has_seen(run, tmp_path, controller):
    done = call(
        "test_controller",
        "--logdir",
        run / "run",
        "--controller",
        controller,
        "--episodes",
        4,
        "--max-workers",
        1,
        "--scenes",
        run / "scenes",
    )
    assert done.returncode == 0, done.stderr
    score = json.loads((run / "run" / "scores" / f"{controller}-nocturne-simulator.json").read_text())
    assert {
        "goal_rate",
        "goal_rate_position",
        "collision_rate",
        "vehicle_collision_rate",
        "road_edge_rate",
        "ade",
        "fde",
        "mean",
    } <= set(score)
    assert len(score["by_scene"]) == 3 and "scene all" in done.stdout and len(score["outcomes"]) == 4
    if controller == "expert":
        assert score["goal_rate"] == 1 and score["ade"] < 0.5


def test_a_run_is_tested_with_the_view_it_was_trained_with(run):
    done = call("test_controller", "--logdir", run / "run", "--controller", "bc", "--episodes", 1, "--image-size", 128)
    assert done.returncode == 1 and "was trained with --image-size 64, not 128" in done.stderr


def test_a_run_drives_in_scenes_made_for_it_and_its_worst_episodes_are_filmed(run):
    done = call(
        "test_controller",
        "--logdir",
        run / "run",
        "--controller",
        "bc",
        "--episodes",
        2,
        "--max-workers",
        1,
        "--record",
        "worst",
    )
    assert done.returncode == 0, done.stderr
    for place in (1, 2):
        film = run / "run" / "scores" / f"bc-nocturne-simulator-worst-{place}.mp4"
        assert film.stat().st_size > 5_000 and str(film) in done.stdout


@pytest.mark.parametrize(
    ("stage", "options"), [("trainbc", ()), ("traincontroller", ("--method", "actor-critic", "--updates", 2))]
)
def test_scenes_that_are_gone_are_told_before_the_long_work(stage, options, run, tmp_path):
    shutil.copytree(run / "run", tmp_path / "run", ignore=shutil.ignore_patterns("latents", "bc", "ctrl"))
    (run / "scenes").rename(run / "elsewhere")
    try:
        said = complaint(call(stage, "--logdir", tmp_path / "run", "--max-workers", 1, "--device", "cpu", *options))
    finally:
        (run / "elsewhere").rename(run / "scenes")
    assert f"{run / 'scenes'} is not a folder" in said and not (tmp_path / "run" / "latents").exists()
