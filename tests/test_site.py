"""The docs as a site: it is built without a warning, holds every page, and loads nothing from another host."""

import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from dreamdrive.benchmarks.lesson import wait
from dreamdrive.scripts.site_pages import links, notebook, relinked
from dreamdrive.tests.pages import SIZES
from dreamdrive.tests.tiny_run import ROOT, variables

LOADED = {"src", "srcset", "data", "poster", "action", "formaction"}  # attributes whose addresses a browser loads
TOLD = {"canonical", "prev", "next", "license"}  # links of a page's head that it does not


def build(project: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """`make docs` of the project in another folder."""
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = variables() | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


class Elements(HTMLParser):
    """Of a page: the ids it has, the addresses it loads and those it links to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids, self.loads, self.links = {""}, set(), set()
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        values = {key: value or "" for key, value in attrs}
        self.ids.add(values.get("id", ""))
        self.loads |= {values[key] for key in LOADED & set(values)}
        self.loads |= set(re.findall(r"url\(([^)]*)\)", values.get("style", "")))
        if tag == "link":
            (self.links if values["rel"] in TOLD else self.loads).add(values["href"])
        elif "href" in values:
            self.links.add(values["href"])


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def test_every_page_of_the_docs_is_in_it(site):
    docs = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*") if path.suffix in (".md", ".ipynb")]
    missing = [path for path in docs if not (site / path).with_suffix(".html").exists()]
    assert len(docs) > 25 and not missing
    assert all((site / name).exists() for name in ("index.html", "changelog.html", "source/utils/seeds.py.html"))


def test_nothing_is_loaded_from_another_host(site):
    for page in pages(site):
        assert not {address for address in Elements(page).loads if re.match(r"(?!data:)(\w+:|//)", address)}, page
        for style in re.findall(r"<style>(.*?)</style>", page.read_text(), re.DOTALL):
            assert "@import" not in style and "url(" not in style, page
    for sheet in site.rglob("*.css"):
        addresses = re.findall(r"(?:@import\s*|url\(\s*)[\"']?([^\"')]+)", sheet.read_text())
        assert not [address for address in addresses if not address.startswith(("data:", "#"))], sheet


def test_links_lead_to_files_and_headings_of_the_site(site):
    found = {page: Elements(page) for page in pages(site) if page.name != "404.html"}  # which is at any address
    for page, elements in found.items():
        for address in elements.links | elements.loads:
            parts = urlsplit(address)
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not parts.scheme and target != site:
                assert target.is_file(), f"{page.relative_to(site)}: {address}"
                assert target not in found or unquote(parts.fragment) in found[target].ids, address


def test_a_browser_shows_it_by_this_host_alone_in_light_and_dark_and_finds_words(site, browser):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    handler.log_message = lambda *_: None
    backs = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        try:
            for scheme, (width, height) in zip(("light", "dark"), SIZES.values(), strict=True):
                media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
                browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
                size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
                browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
                browser.get(f"{address}/api.html")
                wait(browser, "document.readyState === 'complete' && document.querySelector('.highlight .kn')")
                backs.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
                assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            browser.execute_script(
                "document.querySelector('[data-md-component=search-query]').focus();"
                "document.querySelector('#__search').checked = true;"
            )
            browser.switch_to.active_element.send_keys("countdown")
            wait(browser, "document.querySelector('.md-search-result__link[href*=\"teacher.html\"]')")
            names = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
            assert names and all(name.startswith(address) for name in names)
        finally:
            browser.get("about:blank")
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
            server.shutdown()
    assert backs[0] != backs[1]
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_a_page_outside_the_navigation_and_links_that_lead_nowhere_fail_the_build(tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("README.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", "mkdocs.yml", "scripts", "utils", "data"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    (tmp_path / "docs" / "lost.md").write_text("# Lost\n\n[code](../utils/nothing.py), [heading](play.md#nothing)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode and "3 warnings" in done.stdout + done.stderr
    for said in ('not included in the "nav"', "lost.md", "nothing.py", "'#nothing'"):
        assert said in done.stderr, done.stderr


def test_links_are_those_of_the_site_and_code_stays():
    page, code = "results/tokens.md", " `[d](../x.md)` [e](https://x.org/y)\n```\n[f](../z.md)\n```\n"
    text = "[a](../../utils/seeds.py#L3) [b](../../README.md) [c](dream.md)" + code
    assert links(page, text) == {"utils/seeds.py", "README.md", "docs/results/dream.md"}
    assert relinked(page, text) == "[a](../source/utils/seeds.py.md#L3) [b](../index.md) [c](dream.md)" + code
    assert relinked("index.md", "[a](docs/tutorial.ipynb) ![b](docs/b.png)") == "[a](tutorial.md) ![b](b.png)"


def test_a_notebook_is_a_page_with_its_prose_code_and_pictures():
    output = {"data": {"image/png": "aGk=\n", "text/plain": "<Figure>"}}
    cells = [
        {"cell_type": "markdown", "source": ["# A\n", "b"]},
        {"cell_type": "code", "source": ["c()"], "outputs": [{"text": ["d\n"]}, output]},
    ]
    text, pictures = notebook("tour", json.loads(json.dumps({"cells": cells})))
    assert pictures == {"tour-0.png": b"hi"}
    assert text.startswith("# A\nb\n\n```python\nc()\n```\n\n```text\nd\n```\n\n![") and text.endswith("](tour-0.png)")
