"""What keeps the tree as it is: imports go one way, modules can be imported, scripts say what they take, nothing is
long without a reason, and only models/ knows what V and M are made of."""

import ast
import contextlib
import importlib
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (
    "utils",
    "models",
    "envs",
    "data",
    "driving",
    "learning",
    "teacher",
    "playing",
    "pages",
    "web",
)  # each may import those before it
NOT_SHIPPED = ("benchmarks", "scripts")
SCRIPTS_IN_FOLDERS = ("data/generation_script.py", "data/exchange.py")  # they call what is above data
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for place in (".", *FOLDERS, *NOT_SHIPPED)
    for path in (ROOT / place).glob("*.py" if place == "." else "**/*.py")
)
TREES = {name: ast.parse((ROOT / name).read_text()) for name in SOURCES}
RUNNABLE = [name for name in SOURCES if 'if __name__ == "__main__":' in (ROOT / name).read_text()]
LONGEST_FUNCTION, LONGEST_CLASS = 60, 150  # lines
LONG = {
    "envs/gym_adapter.py: GymWorld": "every contract that gymnasium, gym and their wrappers have, in one place",
    "envs/nocturne/cone_legible.py: Legible": "one style of picture: its shaders' buffers live and die together",
    "envs/nocturne/cone_nocturne.py: Nocturne": "one style of picture: its shaders' buffers live and die together",
    "envs/nocturne/scene_file.py: Reader": "a file format, checked field by field",
    "envs/nocturne/simulator.py: Simulator": "one state, stepped as a batch",
    "envs/nocturne/synthetic/traffic.py: Traffic": "one state, stepped as a batch",
    "benchmarks/plain_visibility.py: _View": "a port, in the order of the original",
    "envs/nocturne/world.py: Nocturne": "a world: spec, episodes, reward, pictures",
    "playing/session.py: Session": "a protocol: every order of whoever watches",
    "teacher/learner.py: Learner": "a training beside a lesson: its thread and what the thread shares",
    "teacher/server.py: Server": "a protocol: every message of the page",
    "teacher/session.py: Session": "a protocol: every order of the teacher",
    "utils/spaces.py: ActionSpace": "all that an action is: 41 branches on its kind were elsewhere",
}


def folder_of(name: str) -> str:
    """Which of FOLDERS a file belongs to, or "scripts" above them all."""
    top = name.split("/")[0]
    return top if top in FOLDERS and name not in SCRIPTS_IN_FOLDERS else "scripts"


def imports_of(name: str) -> set[str]:
    """Files of the tree that a file imports, anywhere in it."""
    modules = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports from .{node.module}: say dreamdrive. ..."
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    places = [module.split(".")[1:] for module in modules if module.startswith("dreamdrive.")]
    files = {"/".join(place) + end for place in places for end in (".py", "/__init__.py")}
    return files & set(SOURCES)


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_go_one_way(folder):
    above = {*FOLDERS[FOLDERS.index(folder) + 1 :], "scripts"}
    wrong = {
        f"{name} imports {other}"
        for name in SOURCES
        if folder_of(name) == folder
        for other in imports_of(name)
        if folder_of(other) in above
    }
    assert not wrong


def test_nothing_that_is_shipped_imports_what_is_not():
    shipped = [name for name in SOURCES if name.split("/")[0] not in NOT_SHIPPED]
    assert not {name for name in shipped for other in imports_of(name) if other.split("/")[0] in NOT_SHIPPED}


def imported(name: str) -> ModuleType:
    place = ".".join(Path(name).with_suffix("").parts)
    return importlib.import_module(f"dreamdrive.{place}".removesuffix(".__init__"))


@pytest.mark.parametrize("name", SOURCES)
def test_every_module_can_be_imported_and_every_script_says_what_it_takes(name, monkeypatch, capsys):
    module = imported(name)
    if name in RUNNABLE and name != "utils/follower.py":  # which is started by a training, with a folder and a name
        monkeypatch.setattr(sys, "argv", [name, "--help"])
        with contextlib.suppress(SystemExit):
            module.main()
        said = capsys.readouterr()
        assert not said.err and said.out.startswith("usage: ") and len(said.out.splitlines()) > 5


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_script_says_how_threads_wait_before_it_imports_any_package(name):
    imports = [node for node in TREES[name].body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports]
    packages = [name for name in names if name.split(".")[0] not in sys.stdlib_module_names]
    assert packages[0] == "dreamdrive.utils.idle_threads"


def long_ones(name: str) -> set[str]:
    """Functions and classes of a file that are longer than they should be."""
    found, waiting = set(), [(TREES[name], "")]
    while waiting:
        node, path = waiting.pop()
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                waiting.append((child, path))
                continue
            waiting.append((child, f"{path}{child.name}."))
            limit = LONGEST_CLASS if isinstance(child, ast.ClassDef) else LONGEST_FUNCTION
            if child.end_lineno - child.lineno + 1 > limit:
                found.add(f"{name}: {path}{child.name}")
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_functions_and_classes_are_short_but_for_those_with_a_reason(name):
    assert long_ones(name) <= set(LONG), "more than 60 or 150 lines: split it, or say why it should be so long"


def test_every_reason_is_still_needed():
    assert set(LONG) <= {long for name in SOURCES for long in long_ones(name)}


def test_mypy_overlooks_nothing():
    assert "overrides" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]


def test_only_models_know_what_v_and_m_are_made_of():
    others = [n for n in SOURCES if n.split("/")[0] not in ("models", "benchmarks") and n != "data/foreign_run.py"]
    wrong = set()
    for name in others:
        known = {n.id for n in ast.walk(TREES[name]) if isinstance(n, ast.Name)}
        known |= {a.name for n in ast.walk(TREES[name]) if isinstance(n, ast.ImportFrom) for a in n.names}
        if known & {"VAE", "MDRNN"}:
            wrong.add(f"{name} names {' and '.join(sorted(known & {'VAE', 'MDRNN'}))}")
        if not name.startswith("envs/nocturne/") and re.search(r"\bstate\[[01]\]", (ROOT / name).read_text()):
            wrong.add(f"{name} indexes a state")
    assert not wrong


def test_there_is_one_loop_in_which_a_driver_drives_a_world():
    """Benchmarks measure worlds by themselves, and worlds are made of others; nobody else steps one."""
    others = [n for n in SOURCES if n.split("/")[0] not in ("envs", "benchmarks")]
    assert [n for n in others if re.search(r"world\.step\(", (ROOT / n).read_text())] == ["driving/driver.py"]
