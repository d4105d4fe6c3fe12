"""What pages have in common stands in one place, and is in each page that is made."""

import re

import pytest

from dreamdrive.pages.html import page
from dreamdrive.tests.tiny_run import ROOT
from dreamdrive.utils.page_style import styled

SHEETS = ("utils/look.css", "utils/driving.css", "pages/style.css", "teacher/page.html", "web/page.html")


def style(name: str) -> str:
    """The CSS of a file of ours, as it is written there."""
    text = (ROOT / name).read_text()
    return text if name.endswith(".css") else "".join(re.findall(r"<style>\n(.*?)</style>", text, re.DOTALL))


def test_no_rule_and_no_colour_is_written_twice():
    rules = {name: set(re.findall(r"^.*\S \{ .* \}$", style(name), re.MULTILINE)) for name in SHEETS}
    assert all(rules.values())
    for first in SHEETS:
        for second in SHEETS[SHEETS.index(first) + 1 :]:
            assert not rules[first] & rules[second], (first, second)
    assert [name for name in SHEETS if "--card:" in style(name)] == ["utils/look.css"]


@pytest.mark.parametrize("name", SHEETS[2:])
def test_pages_have_it_before_their_own_and_know_every_colour_they_use(name):
    whole = styled(style(name))
    assert whole.index("--card:") < whole.index("var(--card)") and "/* look.css */" not in whole
    assert whole.count("{") == whole.count("}")
    assert set(re.findall(r"var\(--(\w+)\)", whole)) <= set(re.findall(r"--(\w+):", whole))


def test_whoever_reads_a_page_or_sheet_puts_into_it_what_it_shares():
    texts = {path: path.read_text() for path in ROOT.glob("[a-z]*/*.py") if path.parent.name != "tests"}
    readers = {path.parent.name: text for path, text in texts.items() if re.search(r'"(page\.html|style\.css)"', text)}
    assert set(readers) == {"pages", "teacher", "web"} and all("styled(" in text for text in readers.values())


def test_a_page_is_one_file():
    made = page("a page").decode()
    assert made.count("--card: #fff") == 1 and "stylesheet" not in made and "@import" not in made
