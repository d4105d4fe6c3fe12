"""The package: one version, dependencies that fit their pins, one command."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import dreamdrive
from dreamdrive import __main__
from dreamdrive.tests.tiny_run import ROOT, TINY, budget, call, contents, user, variables, write_dataset

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS = (
    *("data.generation_script", "trainvae", "trainmdrnn", "traincontroller", "trainbc", "test_controller"),
    *("data.shards", "data.exchange", "utils.doctor", "envs.scenes", "envs.synthetic_scenes"),
    "web.export",
)


def test_there_is_one_version():
    citation, changes = ((ROOT / name).read_text() for name in ("CITATION.cff", "CHANGELOG.md"))
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == dreamdrive.__version__
    assert re.search(r"^## (\d\S*)", changes, re.MULTILINE)[1] == dreamdrive.__version__, "below what is unreleased"
    assert "version" in PROJECT["dynamic"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_tells_the_version(script):
    done = call(script, "--version")
    assert (done.returncode, done.stdout) == (0, f"dreamdrive {dreamdrive.__version__}\n")


@pytest.mark.parametrize("extra, file", [(None, ""), ("ray track parquet", "-extra"), ("test", "-dev")])
def test_what_is_pinned_is_within_the_ranges(extra, file):
    optional = PROJECT["optional-dependencies"]
    ranges = [text for name in extra.split() for text in optional[name]] if extra else PROJECT["dependencies"]
    wanted = {Requirement(text).name: Requirement(text) for text in ranges}
    lines = (ROOT / f"requirements{file}.txt").read_text().splitlines()
    pins = dict(re.match(r"([\w.-]+)(?:\[.*\])?==(\S+)$", line).groups() for line in lines if "==" in line)
    assert set(pins) <= set(wanted) and (extra or set(pins) == set(wanted))
    for name, version in pins.items():
        assert version in wanted[name].specifier, (name, version)


def dreamdrive_command(*words, **how):
    """The command as a user would type it."""
    command = [sys.executable, "-m", "dreamdrive", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **how)


@pytest.mark.parametrize(
    "words",
    [
        *("record", "vae", "mdrnn", "controller", "bc", "test", "teach", "data", "scenes", "doctor", "export run"),
        *("export web", "import npz", "import ncps", "import checkpoint", "scenes synthetic"),
    ],
)
def test_every_command_has_help_under_its_own_name(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dreamdrive", *words.split(), "--help"])
    with pytest.raises(SystemExit) as end:
        __main__.main()
    said = capsys.readouterr().out
    assert end.value.code in (0, None) and said.startswith(f"usage: dreamdrive {words} ")
    monkeypatch.setattr(sys, "argv", ["dreamdrive", *words.split(), "--version"])
    __main__.main()
    assert capsys.readouterr().out == f"dreamdrive {dreamdrive.__version__}\n"


def test_a_command_works_and_refuses_as_the_script_does_and_is_recorded(tmp_path):
    data, flags = write_dataset(tmp_path / "data", [20, 30, 25, 22]).root, ("--latent", 8, "--epochs", 1)
    assert dreamdrive_command("data", "verify", data).stdout == call("data.shards", "verify", data).stdout
    (data / "shard_00000.h5").write_bytes(b"")
    assert dreamdrive_command("data", "verify", data).returncode == 1
    refused = dreamdrive_command("vae", "--dataset", tmp_path / "none", *flags)
    assert refused.stderr == call("trainvae", "--dataset", tmp_path / "none", *flags).stderr != ""
    assert dreamdrive_command("nothing").stderr.startswith('error: there is no command "nothing"')
    done = dreamdrive_command("scenes", "synthetic", "--scenes", 1, "--out", tmp_path / "scenes")
    assert done.returncode == 0, done.stderr
    command = json.loads((tmp_path / "scenes/command/args.json").read_text())["command"]
    assert command == f"dreamdrive scenes synthetic --scenes 1 --out {tmp_path / 'scenes'}"


@pytest.mark.parametrize("old, new", [("import-npz", "import npz"), ("import-ncps", "import ncps")])
def test_imports_go_on_working_by_their_names_of_one_word(old, new, tmp_path):
    said = [call("data.exchange", *name.split(), tmp_path, "--out", tmp_path / "out").stderr for name in (old, new)]
    assert said[0] == said[1] and "holds no" in said[0]


@pytest.mark.parametrize(
    "words", ["data.shards info nowhere", "data.exchange import npz nowhere --out x", "envs.nocturne check nowhere"]
)
def test_modules_go_on_working_from_the_projects_root(words):
    done = subprocess.run([sys.executable, "-m", *words.split()], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.startswith("error: nowhere")


def test_help_comes_at_once_without_torch():
    code = "import sys; sys.argv = ['dreamdrive', '--help']; from dreamdrive.__main__ import main; main(); "
    done = subprocess.run(
        [sys.executable, "-c", f"{code} print('torch' in sys.modules)"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stdout.endswith("False\n")


def test_every_folder_of_code_is_in_the_package():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    ignored = ("tests", "benchmarks", "scripts")  # need the clone
    found = {".".join(("dreamdrive", *p.parent.relative_to(ROOT).parts)) for p in ROOT.glob("[a-z]*/**/__init__.py")}
    assert {name for name in found if name.split(".")[1] not in ignored} | {"dreamdrive"} == set(setup["packages"])


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel, built offline from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    others = ("docs", "tests", "benchmarks", "datasets", "exp_dir", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(".*", *others))
    run_pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source")
    return next(folder.glob("*.whl"))


def run_pip(*words):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_the_pretrained_runs(wheel):
    assert wheel.stat().st_size <= 45e6 and wheel.name.startswith(f"dreamdrive-{dreamdrive.__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        names = {name.removeprefix("dreamdrive/") for name in archive.namelist()}
    runs = {str(path.relative_to(ROOT)) for path in ROOT.glob("pretrained/*/*/best.tar")}
    assert (
        len(runs) == 12
        and runs
        | {
            "trainvae.py",
            "__main__.py",
            "data/shards.py",
            "teacher/page.html",
            "utils/look.css",
            "utils/driving.css",
            "web/dream.js",
            "web/page.js",
            "web/page.html",
        }
        <= names
    )
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "docs", "exp_dir", "datasets"))]


@pytest.mark.slow
def test_the_wheel_drives_from_another_folder_with_a_shipped_run(wheel, tmp_path):
    """In an environment that has the dependencies (ours, by a .pth file), and dreamdrive from nowhere else."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python, site = tmp_path / "venv/bin/python", tmp_path / "venv/lib" / f"python3.{sys.version_info[1]}/site-packages"
    run_pip("--python", python, "install", "--no-deps", "--no-index", wheel)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    package = contents(site / "dreamdrive")
    (tmp_path / "elsewhere").mkdir()

    def installed(*words):
        command = [tmp_path / "venv/bin/dreamdrive", *map(str, words)]
        plain = {k: v for k, v in variables(PYTHONDONTWRITEBYTECODE="1").items() if k != "PYTHONPATH"}
        how = {"env": plain, "timeout": 400}
        done = subprocess.run(command, cwd=tmp_path / "elsewhere", capture_output=True, text=True, **how)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert installed("--version") == f"dreamdrive {dreamdrive.__version__}\n"
    said = installed("test", "--logdir", "carracing", "--controller", "bc", "--episodes", 1, "--max-workers", 1)
    written = [p.relative_to(tmp_path / "elsewhere") for p in (tmp_path / "elsewhere").rglob("*") if p.is_file()]
    assert [path.parent for path in written] == [Path("exp_dir/carracing/scores")] and str(written[0]) in said
    assert json.loads((tmp_path / "elsewhere" / written[0]).read_text())["mean"] > 800
    assert "as needed" in installed("doctor")
    assert contents(site / "dreamdrive") == package


@pytest.fixture
def own_project(tmp_path):
    """A user's project: a simulator in a package called envs, which needs one called utils, and the same from a module
    of its own."""
    for name, content in OWN_PROJECT.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_text(content)
    return tmp_path / "own"


OWN_PROJECT = {
    "utils/__init__.py": "def clamp(x):\n    return max(-1.0, min(1.0, x))\n",
    "envs/__init__.py": "",
    "slider_main.py": "from envs.slider import Slider\nfrom utils import clamp\n",
    "envs/slider.py": """
import gymnasium as gym
import numpy as np
from utils import clamp


class Slider(gym.Env):
    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = 0.0
        return self.render(), {}

    def step(self, action):
        self.x = clamp(self.x + 0.1 * float(action[0]))
        return self.render(), 1 - abs(self.x), False, False, {}

    def render(self):
        return np.full((64, 64, 3), int(127 + 100 * self.x), np.uint8)

    def expert_action(self):
        return np.array([-self.x], np.float32)


gym.register("Slider-v0", Slider, max_episode_steps=20)
""",
}


@pytest.mark.slow
def test_a_users_own_envs_and_utils_are_found_by_every_stage(own_project, tmp_path):
    data, logdir, how = tmp_path / "data", tmp_path / "run", {"env": variables(PYTHONPATH=str(own_project))}
    recording = ("--rollouts", 4, "--val-fraction", 0.25, "--policy", "expert", "--threads", 2)
    user("data/generation_script.py", "--env", "gym:envs.slider:Slider-v0", *recording, "--rootdir", data, **how)
    user("trainvae.py", *TINY["trainvae"], "--dataset", data, "--logdir", logdir, **how)
    user("trainmdrnn.py", *TINY["trainmdrnn"], "--logdir", logdir, **how)
    simulator = ("--world", "simulator", "--generations", 1)
    user("traincontroller.py", *budget("traincontroller", *simulator, "--logdir", logdir), **how)
    user("trainbc.py", *TINY["trainbc"], "--logdir", logdir, **how)
    user("test_controller.py", "--logdir", logdir, "--episodes", 2, "--max-workers", 2, **how)


@pytest.mark.slow
def test_a_module_started_by_its_name_has_workers_beside_a_users_own_packages(own_project, tmp_path):
    recorded = []
    for words in (["-m", "data.generation_script"], ["-m", "dreamdrive", "record"]):
        folder = tmp_path / words[-1]
        env = ("--env", "gym:slider_main:Slider-v0", "--rollouts", 4, "--threads", 2, "--rootdir", folder)
        user(*words, *env, env=variables(PYTHONPATH=str(own_project)))
        recorded.append((folder / "shard_00000.h5").read_bytes())
    assert recorded[0] == recorded[1]
