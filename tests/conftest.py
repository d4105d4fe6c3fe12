"""What the tests of the stages share: one tiny run of the whole pipeline, made once, by the commands a user would
type."""

import os
import signal
import tempfile
from pathlib import Path

import hypothesis
import pytest
import torch

from dreamdrive.benchmarks.kills import own_actions_as_experts
from dreamdrive.benchmarks.lesson import open_browser
from dreamdrive.tests.tiny_process import WorkerContext
from dreamdrive.tests.tiny_run import TINY, TINY_TOKENS, TinyRun, call, user
from dreamdrive.utils import workers
from dreamdrive.utils.errors import UserError

# A shell that starts its tests in the background has SIGINT ignored, nohup SIGHUP, and so would every script the tests
# start and send these to.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# What stage 1 notes of the modules that it was told of is not the user's own, see utils/modules.py
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="dreamdrive-tests-")
# What scripts note of the files of tests is of no use to anybody afterwards, and pytest removes it one day with theirs.
os.environ["MPLCONFIGDIR"] = os.environ.get("MPLCONFIGDIR") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "matplotlib"
)
_CACHE = tempfile.TemporaryDirectory(prefix="dreamdrive-cache-")
os.environ["XDG_CACHE_HOME"] = _CACHE.name
# The scripts started by tests use one thread, and results are the same to the last bit for the same number of threads
# only.
torch.set_num_threads(1)
workers.SPAWN = WorkerContext()
# Hypothesis tries the same examples each time, and keeps nothing in the tree; `make soak` names the other profile.
hypothesis.configuration.set_hypothesis_home_dir(_CACHE.name)
hypothesis.settings.register_profile(
    "few",
    max_examples=25,
    stateful_step_count=10,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.register_profile(
    "soak", hypothesis.settings.get_profile("few"), max_examples=500, derandomize=False, print_blob=True
)
hypothesis.settings.load_profile("few")


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, for tests of pages, which are skipped where it cannot be had."""
    try:
        driver = open_browser()
    except UserError as error:
        pytest.skip(str(error))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> TinyRun:
    """A run trained by all stages; tests that damage it take `copy_run` of it."""
    folder = tmp_path_factory.mktemp("trained")
    run = TinyRun(folder / "data", folder / "run")
    user(
        "data/generation_script.py",
        "--env",
        "gym:CartPole-v1",
        "--rollouts",
        12,
        "--rootdir",
        folder / "recorded",
        "--val-fraction",
        0.25,
        "--threads",
        1,
    )
    own_actions_as_experts(folder / "recorded", run.data)
    user("trainvae.py", *TINY["trainvae"], "--dataset", run.data, "--logdir", run.logdir)
    user("trainmdrnn.py", *TINY["trainmdrnn"], "--logdir", run.logdir)
    user("traincontroller.py", *TINY["traincontroller"], "--logdir", run.logdir)
    user("trainbc.py", *TINY["trainbc"], "--logdir", run.logdir)
    return run


@pytest.fixture(scope="session")
def tokens(trained, tmp_path_factory) -> Path:
    """The logdir of a run with a V of tokens and nothing else; tests copy it."""
    folder = tmp_path_factory.mktemp("tokens")
    done = call("trainvae", "--dataset", trained.data, *TINY_TOKENS, "--kind", "fsq", "--logdir", folder)
    assert done.returncode == 0, done.stderr
    return folder
