"""What --help shows, within the width of the terminal: a script's docstring, whose prose is filled, whose tables keep
their columns and whose commands can still be copied."""

import argparse
import re
import textwrap
from collections.abc import Iterator

COMMAND = re.compile(r"\s+(python|dreamdrive|make|ssh) ")
GAP = re.compile(r"(?<=\S)\s{2,}(?=\S)")  # between columns
VALUE, TIGHT = re.compile(r"(--[a-z-]+) (?!-)"), "\u00a0"
GOES_ON = "\\"  # at the end of a command's line
LEAST = 30  # characters that a last column is given; one with less goes below


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Fills the docstring as it is laid out, and prints every default that says something."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(f"{indent}{line}\n" for line in fitted(text, width - len(indent)))

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        if isinstance(action.default, (list, tuple)):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


def fitted(text: str, width: int) -> Iterator[str]:
    """The lines of a text with none longer than `width`, but for words that are."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip("\n"))):
        if number:
            yield ""
        lines = paragraph.splitlines()
        if not any(line[0] == " " or "  " in line for line in lines):
            lines = [" ".join(lines)]
        for line in rows(lines):
            yield from [line] if len(line) <= width else broken(line, width)


def rows(lines: list[str]) -> list[str]:
    """Lines of a table or of commands, those that go on joined to the one before."""
    joined: list[str] = []
    for line in lines:
        start = row_start(joined[-1]) if joined and not row_start(line) else ""
        if joined and (joined[-1].endswith(GOES_ON) or (start and len(line) - len(line.lstrip()) == len(start))):
            joined[-1] = f"{joined[-1].removesuffix(GOES_ON).rstrip()} {line.strip()}"
        else:
            joined.append(line)
    return joined


def row_start(line: str) -> str:
    """All up to the last column of a line of a table; "" of any other line."""
    gaps = [] if COMMAND.match(line) else list(GAP.finditer(line))
    return line[: gaps[-1].end()] if gaps else ""


def broken(line: str, width: int) -> list[str]:
    """A line that is too long, as several."""
    margin = line[: len(line) - len(line.lstrip())]
    if COMMAND.match(line):
        words = VALUE.sub(r"\1" + TIGHT, line.strip())  # a flag stays with its value
        parts = [part.replace(TIGHT, " ") for part in wrap(words, width - len(margin) - 6, "", "")]
        lines = [parts[0], *(f"    {part}" for part in parts[1:])]
        return [f"{margin}{line} {GOES_ON}" for line in lines[:-1]] + [margin + lines[-1]]
    start = row_start(line)
    if start and width - len(start) < LEAST:
        below = max(margin, " " * 8) + "    "
        return [start.rstrip(), *wrap(line[len(start) :], width, below, below)]
    return wrap(line[len(start) :] if start else line.strip(), width, start or margin, " " * len(start) or margin)


def wrap(text: str, width: int, first: str, others: str) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )
