"""A stage that was stopped and run again ends with the bytes of one that was not."""


import pytest
from tiny_run import contents, copy_run, tiny

FOLDERS = {"trainvae": "vae", "trainmdrnn": "mdrnn", "traincontroller": "ctrl", "trainbc": "bc"}
LENGTH = {name: "--generations" if name == "traincontroller" else "--epochs" for name in FOLDERS}


def of_stage(run, module):
    """The files of a stage that must not depend on how often it was stopped."""
    return {name: content for name, content in contents(run.logdir / FOLDERS[module]).items() if name.endswith((".tar", ".csv"))}


@pytest.mark.parametrize("module", FOLDERS)
def test_stopped_after_one_of_two_epochs_and_run_again_equals_two_straight(module, trained, tmp_path):
    """`trained` went two epochs without a stop."""
    run = copy_run(trained, tmp_path)
    options = ("--logdir", run.logdir, *(("--dataset", trained.data) if module == "trainvae" else ()))
    tiny(module, *options, LENGTH[module], 1, "--noreload")
    halfway = of_stage(run, module)
    tiny(module, *options)
    assert set(halfway) == {"best.tar", "checkpoint.tar", "metrics.csv"}
    assert of_stage(run, module) == of_stage(trained, module) != halfway
