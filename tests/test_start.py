"""What is wrong with a command line is told before torch is imported, and so is --help."""

import subprocess
import sys

import pytest

from dreamdrive.__main__ import COMMANDS
from dreamdrive.data.exchange import EXCHANGES
from dreamdrive.envs.catalogue import WORLDS, listed
from dreamdrive.tests.tiny_run import ROOT, variables
from dreamdrive.utils.errors import UserError

SCRIPTS = {
    "data.generation_script": "record",
    "trainvae": "vae",
    "trainmdrnn": "mdrnn",
    "traincontroller": "controller",
    "trainbc": "bc",
    "train": "train",
    "test_controller": "test",
}
HEAVY = ("torch", "numpy", "gymnasium", "h5py", "matplotlib", "ray", "cloudpickle")
# what reads datasets and runs, and is a script and a library at once, imports what takes 0.2 s
OF_THEIR_OWN = dict.fromkeys(("data", "data page", "report", "compare"), ("numpy", "h5py"))


def start(module: str, *words: str) -> tuple[int, str, list[str]]:
    """How a script ends that is started with these words, what it says on stderr, and what it has imported by then."""
    code = (
        "import atexit, importlib, sys\n"
        f"atexit.register(lambda: print('HEAVY', *(name for name in {HEAVY} if name in sys.modules)))\n"
        "from dreamdrive.utils.script import run\n"
        f"run(importlib.import_module('dreamdrive.{module}').main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, env=variables(), capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stderr, done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize("module", SCRIPTS)
def test_help_needs_no_package(module):
    assert start(module, "--help") == (0, "", [])


def words_of(command: str) -> list[str]:
    """How the command's help is asked for; of one that has several kinds, that of each."""
    kinds = EXCHANGES.get(command, {})
    return [f"{command} {kind}" for kind in kinds] or [command]


@pytest.mark.parametrize("command", [words for command in COMMANDS for words in (command, *words_of(command))])
def test_help_of_a_command_needs_no_package_either(command):
    code = (
        "import sys; from dreamdrive.__main__ import main\n"
        "try:\n    main()\n"
        f"finally:\n    print('HEAVY', *(name for name in {HEAVY} if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split(), "--help"],
        cwd=ROOT,
        env=variables(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    imported = done.stdout.splitlines()[-1].split()[1:]
    assert set(imported) <= set(OF_THEIR_OWN.get(command, ())), "which takes more than 0.1 s"


@pytest.mark.parametrize(
    "module, words, said",
    [
        ("data.generation_script", (), "would record 1000 episodes"),
        ("data.generation_script", ("--env", "carracin"), "did you mean carracing?"),
        ("data.generation_script", ("--env", "cartpole", "--scenes", "x"), "cartpole has no option scenes: only"),
        ("data.generation_script", ("--policy", "brownish"), '--policy "brownish" is not possible'),
        ("data.generation_script", ("--policy", "clone", "--logdir", "nowhere"), "nowhere/bc/best.tar is missing"),
        ("data.generation_script", ("--rollouts", "0"), "0 is not possible"),
        ("trainvae", ("--epochs", "many"), "invalid positive value: 'many'"),
        ("trainvae", ("--loss", "perceptual"), "give the file of torchvision's weights to --vgg"),
        ("trainvae", ("--dataset", "nowhere"), "nowhere/manifest.json is missing"),
        ("trainmdrnn", ("--logdir", "nowhere"), "nowhere/vae/best.tar is missing"),
        ("trainmdrnn", ("--hidden", "10", "--members", "3"), "--hidden 10 cannot be shared by 3 members"),
        ("traincontroller", ("--logdir", "nowhere"), "nowhere/vae/best.tar is missing"),
        ("traincontroller", ("--updates", "3"), "--updates is for --method actor-critic"),
        ("trainbc", ("--logdir", "nowhere"), "nowhere/vae/best.tar is missing"),
        ("trainbc", ("--dataset", "nowhere"), "nowhere/manifest.json is missing"),
        ("train", ("--env", "carracin"), "did you mean carracing?"),
        ("test_controller", ("--logdir", "nowhere"), "nowhere/vae/best.tar is missing"),
        ("test_controller", ("--env", "Nocturne", "--controller", "random"), "did you mean nocturne?"),
        ("trainbc", ("teach", "--units", "3"), "--units is for --model"),
        ("trainbc", ("teach", "--port", "99999"), "a port is 1 to 65535"),
        ("envs.scenes", ("show", "x.json", "--t", "91"), "a scene has steps 0 to 90"),
        ("envs.synthetic_scenes", ("--scenes", "0"), "it must be 1 or more"),
        ("data.exchange", ("import", "npz"), "the following arguments are required: dir, --out"),
        ("data.exchange", ("export", "run", "--out", "x", "--license", "mit"), "give --card, too"),
        ("test_controller", ("--controller", "humann"), 'there is no driver "humann" (did you mean human?)'),
        ("trainbc", ("--name", "a/b"), "'a/b' is no name for a controller"),
        ("traincontroller", ("--name", ".."), "'..' is no name for a controller"),
        ("web.export", ("--controller", "nobody"), "nobody"),
    ],
)
def test_a_refusal_needs_no_torch(module, words, said):
    status, told, imported = start(module, *words)
    assert status in (1, 2) and said in told and len(told.strip().splitlines()) == 1
    assert not imported


def test_a_name_that_is_nearly_one_is_guessed():
    for name, meant in (
        ("carracin", "carracing"),
        ("carracing_fast", "carracing-fast"),
        ("Atari:Pong", "atari:<Game>"),
    ):
        with pytest.raises(UserError, match=f"did you mean {meant}"):
            listed(name)
    with pytest.raises(UserError) as refused:
        listed("zzz")
    assert "did you mean" not in str(refused.value) and all(kind in str(refused.value) for kind in WORLDS)
