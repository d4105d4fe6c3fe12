"""What can rot in README.md and docs/: links, commands and their flags, paths that the code names, widths."""

import contextlib
import functools
import importlib
import io
import itertools
import re
import shlex
import sys
from pathlib import Path

import pytest

from dreamdrive.__main__ import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
WIDTH = 120  # columns
LONGEST_README = 100  # lines, not reached
OURS = r"(data|envs|utils|benchmarks|scripts)(\.\w+)+"  # modules that `python -m` runs from the project's root


def by_name(pages: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


def lines(page: Path) -> list[tuple[str, str]]:
    """Lines of a page, each with what it is part of: "code", "written" (a section that a script writes), "table" or
    "prose"."""
    found, code, written = [], False, False
    for line in page.read_text().replace("\\\n", "").splitlines():  # a command may take several lines
        fence = line.startswith("```")
        code ^= fence
        written = (written or line.startswith("<!-- begin ")) and not line.startswith("<!-- end ")
        part = "code" if code and not fence else "written" if written else "table" if line[:1] in "|<" else "prose"
        found.append((line, part))
    return found


def anchors(page: Path) -> set[str]:
    """What links may name of a page, as GitHub derives it from the headings."""
    titles = [line.lstrip("#").strip().lower() for line, part in lines(page) if part != "code" and line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def commands(page: Path) -> list[list[str]]:
    """Words of the commands of ours in a page's blocks and in the prose's `code`: script, module or `dreamdrive NAME`,
    then its arguments."""
    texts = [line for line, part in lines(page) if part in ("code", "written")]
    texts += itertools.chain.from_iterable(
        re.findall(r"`([^`]+)`", line) for line, part in lines(page) if part != "code"
    )
    found = []
    for text in texts:
        text = re.sub(r"\{(\w+),[^}]*\}", r"\1", text).replace("...", "some")  # {bc,ctrl} stands for either
        command = re.search(rf"(?:^|\s)(?:python (\S+\.py|-m {OURS})|(dreamdrive) )(.*)", text)
        if command and (command[1] or command[4]):
            start, rest = command[1] or command[4], command[5]
            words = [re.sub(r"^[A-Z]$", "1", word) for word in shlex.split(rest, comments=True)]  # --seed S
            found.append([start.removeprefix("-m "), *words])
    return found


def main_of(command: list[str]) -> tuple[str, list[str]]:
    """The module whose main() a command calls, and the arguments it gets."""
    start, *words = command
    if start == "dreamdrive":
        name = next((name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS), None)
        assert name, f"there is no command `dreamdrive {words[0]}`"
        return COMMANDS[name].module, [*COMMANDS[name].words, *words[len(name.split()) :]]
    name = start.removesuffix(".py").replace("/", ".")
    package = (ROOT / name.replace(".", "/")).is_dir()
    return f"{name}.__main__" if package else name, words


@functools.cache
def helped(name: str, words: tuple[str, ...]) -> str:
    """What a script says when it is given these arguments and then --help; it complains of values it does not take."""
    script = importlib.import_module(f"dreamdrive.{name}")
    said = io.StringIO()
    argv, sys.argv = sys.argv, [name, *words, "--help"]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as ended:
            script.main()
    finally:
        sys.argv = argv
    assert not ended.value.code, f"{name} {' '.join(words)}: {said.getvalue()}"
    return said.getvalue()


def test_readme_is_short():
    written = (ROOT / "README.md").read_text().splitlines()
    assert len(written) < LONGEST_README and max(map(len, written)) <= WIDTH


@by_name(PAGES)
def test_prose_is_wrapped(page):
    long = [line for line, part in lines(page) if part == "prose" and len(line) > WIDTH]
    assert not long


@by_name(PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", "\n".join(line for line, part in lines(page) if part != "code")):
        if not target.startswith(("http:", "https:")):
            path, _, anchor = target.partition("#")
            file = (page.parent / path) if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


@by_name([page for page in PAGES if page.name != "CHANGELOG.md"])  # which also has commands of its time
def test_commands_have_the_flags_they_are_given(page):
    for command in commands(page):
        name, words = main_of(command)
        if name == "ball":  # of docs/your-own-world.md
            continue
        said = helped(name, tuple(words))
        known = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", said))
        for flag in (word.partition("=")[0] for word in words if re.match(r"--[a-z]\S*$", word)):
            assert flag in known, f"{' '.join(command)}: {flag}"


def test_make_has_what_is_asked_of_it():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {name for page in PAGES for name in re.findall(r"(?:`|^)make ([\w-]+)", page.read_text(), re.MULTILINE)}
    assert asked and asked <= targets


def test_code_names_pages_that_there_are():
    for file in [ROOT / "Makefile", *ROOT.glob("*.py"), *ROOT.glob("[a-z]*/**/*.py")]:
        if not file.is_relative_to(ROOT / "tests"):
            for path in re.findall(r"\bdocs/[\w/.-]+\.(?:md|png|json)\b", file.read_text()):
                assert (ROOT / path).exists(), f"{file.name}: {path}"
