"""What a score is of: the world of the run, by the driver that is named, in a file of both names; and flags that mean
nothing where they are given."""

import json
import os
import shutil

import pytest

from dreamdrive.driving.agent import world_trained_on
from dreamdrive.models.policy import Policy, PolicyConfig
from dreamdrive.tests.tiny_run import BOX, DISCRETE, call, complaint, copy_run
from dreamdrive.utils import checkpoint
from dreamdrive.utils.scores import find_score, score_file

QUICK = ("--episodes", 1, "--max-workers", 1)
ACROBOT = {"env": "gym:Acrobot-v1", "image_shape": [64, 64, 3], "action_space": DISCRETE, "dt": 0.066, "max_steps": 500}


@pytest.fixture
def clone(tmp_path):
    """A run that is a clone on frames and nothing else, as pretrained/breakout is."""
    model = Policy(PolicyConfig((64, 64, 3), "mlp", 4, 2, DISCRETE))
    (tmp_path / "run" / "bc").mkdir(parents=True)
    target = checkpoint.path(tmp_path / "run", "bc")
    checkpoint.save(target, "bc", model.config_dict(), model.state_dict(), {}, world=ACROBOT)
    return tmp_path / "run"


def test_whoever_drives_the_world_is_that_of_the_run_whatever_checkpoint_it_has(clone):
    assert world_trained_on(clone)["env"] == "gym:Acrobot-v1"
    done = call("test_controller", "--logdir", clone, "--controller", "random", *QUICK)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (clone / "scores").iterdir()] == ["random-gym:Acrobot-v1-simulator.json"]
    done = call("test_controller", "--logdir", clone, "--controller", "random", "--env", "carracing", *QUICK)
    assert "was trained on gym:Acrobot-v1, not carracing: leave --env away" in complaint(done)
    said = complaint(
        call("test_controller", "--logdir", clone, "--controller", "random", "--observation", "state", *QUICK)
    )
    assert "was trained with --observation picture, not state: leave --observation away" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--controller", "constant", "--world", "dream"), 'the driver "constant" reads the simulator\'s state'),
        (("--controller", "log", "--world", "dream"), 'the driver "log" reads the simulator\'s state'),
        (("--controller", "expert", "--world", "dream"), "the expert reads the simulator's state"),
        (("--temperature", 0.5), "--temperature is for --world dream: leave it away, or give that"),
        (("--horizon", 1000), "--horizon is for --world dream"),
        (("--world", "dream", "--env", "carracing-fast"), "--env is for --world simulator"),
        (("--world", "dream", "--no-goal"), "--goal is for --world simulator"),
        (("--render", "--record", "a.mp4"), "--render and --record exclude each other"),
        (("--controller", "human"), "add --render"),
    ],
)
def test_what_means_nothing_is_refused_and_no_score_is_filed(flags, said, trained, tmp_path):
    run = copy_run(trained, tmp_path)
    shutil.rmtree(run.logdir / "scores", ignore_errors=True)
    controller = () if "--controller" in flags else ("--controller", "bc")
    assert said in complaint(call("test_controller", "--logdir", run.logdir, *controller, *flags, *QUICK))
    assert not (run.logdir / "scores").exists()


def test_scores_by_their_names_before_are_still_found(tmp_path):
    (tmp_path / "scores").mkdir()
    assert score_file(tmp_path, "bc", "gym:old/Pole", "dream") == tmp_path / "scores" / "bc-gym:old-Pole-dream.json"
    for name, env in (("bc-simulator.json", "carracing"), ("ctrl-carracing-fast.json", "carracing-fast")):
        before = tmp_path / "scores" / name
        before.write_text(json.dumps({"env": env}))
        new = score_file(tmp_path, name.split("-")[0], env, "simulator")
        assert find_score(tmp_path, name.split("-")[0], env, "simulator") == before
        new.touch()
        assert find_score(tmp_path, name.split("-")[0], env, "simulator") == new
    assert find_score(tmp_path, "bc", "mountaincar", "simulator").name == "bc-mountaincar-simulator.json"


# Stage 1 with a trained driver


@pytest.mark.parametrize("flags", [("--no-goal",), ("--view-dist", 60), ("--actions", "discrete")])
def test_a_clone_records_no_other_world_than_it_was_trained_in(flags, tmp_path):
    space = {**BOX, "low": [-6.0, -1.0], "high": [6.0, 1.0], "scale": [2.0, 0.1]}
    model = Policy(PolicyConfig((64, 64, 3), "mlp", 4, 2, space))
    options = {"image_size": 64, "view_dist": 40.0, "goal": True, "speed": True, "actions": "continuous"}
    world = {"env": "nocturne", "image_shape": [64, 64, 3], "action_space": space, "dt": 0.1, "max_steps": 80}
    (tmp_path / "run" / "bc").mkdir(parents=True)
    target = checkpoint.path(tmp_path / "run", "bc")
    more = {"world": world | {"options": options | {"scenes": "elsewhere"}}}
    checkpoint.save(target, "bc", model.config_dict(), model.state_dict(), {}, **more)
    data = ("--rootdir", tmp_path / "data", "--rollouts", 1, "--threads", 1, "--env", "nocturne")
    done = call("data.generation_script", "--policy", "clone", "--logdir", tmp_path / "run", *data, *flags)
    given = {"--no-goal": "--goal True, not False: give --goal,", "--view-dist": "--view-dist 40.0, not 60.0"}
    assert given.get(flags[0], "--actions continuous, not discrete: give --actions continuous,") in complaint(done)
    assert not list((tmp_path / "data").glob("*.h5"))


def test_a_checkpoint_to_drive_with_is_for_a_trained_driver(tmp_path):
    done = call("data.generation_script", "--checkpoint", "driver.tar", "--rootdir", tmp_path / "data")
    assert "--checkpoint is for a --policy that has a controller or a clone in it" in complaint(done)
    assert not os.listdir(tmp_path)
