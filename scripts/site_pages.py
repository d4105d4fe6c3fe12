"""A hook of mkdocs (mkdocs.yml): pages of the site that are no pages of docs/, and links to them, so that a link that
works on GitHub works in the site.

README.md        is the front page, CHANGELOG.md another
docs/*.ipynb     is a page, with its prose, code and pictures
utils/seeds.py   and any other file that a page links to is a page with its text
"""

import base64
import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}  # and what they are in the site
SOURCES = "source"  # folder of the site
LANGUAGES = {".py": "python", ".cff": "yaml", ".json": "json"}  # of source files; others are text
LINK = re.compile(  # to a file of ours: where it is; or else what is code
    r"(?<=\]\()(?P<path>[^)\s#:]+)(?=[)#])|^(?P<fence>```+).*?^(?P=fence)$|`[^`\n]+`", re.MULTILINE | re.DOTALL
)


def place(path: str) -> str:
    """Where in the site a file of the project is, both relative to their root."""
    docs = PurePosixPath(path).is_relative_to("docs")
    if path in OUTSIDE:
        return OUTSIDE[path]
    if docs:
        return path.removeprefix("docs/").replace(".ipynb", ".md")
    return f"{SOURCES}/{path}.md" if (ROOT / path).is_file() else path


def folder(page: str) -> str:
    """The folder of the project in which the file lies that is this page of the site."""
    return "" if page in OUTSIDE.values() else posixpath.join("docs", posixpath.dirname(page))


def links(page: str, text: str) -> set[str]:
    """Files that a page's Markdown links to, relative to the project."""
    return {posixpath.normpath(posixpath.join(folder(page), m["path"])) for m in LINK.finditer(text) if m["path"]}


def relinked(page: str, text: str) -> str:
    """A page's Markdown with its links as they are in the site; code stays."""
    here = posixpath.dirname(page)

    def link(found: re.Match[str]) -> str:
        if not found["path"]:
            return found[0]
        return posixpath.relpath(place(posixpath.normpath(posixpath.join(folder(page), found["path"]))), here or ".")

    return LINK.sub(link, text)


def notebook(name: str, content: dict) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by the names that it gives them, which begin with `name`."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in content["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                picture = f"{name}-{len(pictures)}.png"
                pictures[picture] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![what the cell above shows]({picture})")
            else:
                parts.append("```text\n" + "".join(data["text/plain"]).rstrip() + "\n```")
    return "\n\n".join(parts), pictures


def additions(files: Files) -> Iterator[tuple[str, str | bytes]]:
    """Files of the site that are none of docs/: where they are, and what is in them."""
    texts = {file.src_uri: file.content_string for file in files.documentation_pages()}
    texts |= {page: (ROOT / path).read_text() for path, page in OUTSIDE.items()}
    yield from ((page, texts[page]) for page in OUTSIDE.values())
    for file in files:
        if file.src_uri.endswith(".ipynb"):
            page = place(f"docs/{file.src_uri}")
            texts[page], pictures = notebook(PurePosixPath(page).stem, json.loads(file.content_string))
            yield page, texts[page]
            yield from ((posixpath.join(posixpath.dirname(page), name), data) for name, data in pictures.items())
    linked = {path for page, text in texts.items() for path in links(page, text)}
    for path in sorted(path for path in linked if place(path).startswith(f"{SOURCES}/")):
        language = LANGUAGES.get(PurePosixPath(path).suffix, "text")
        yield place(path), f"# {path}\n\n````{language}\n{(ROOT / path).read_text().rstrip()}\n````\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs when it has listed docs/."""
    for path, content in list(additions(files)):
        inclusion = InclusionLevel.NOT_IN_NAV if path.startswith(f"{SOURCES}/") else InclusionLevel.INCLUDED
        files.append(File.generated(config, path, content=content, inclusion=inclusion))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Called by mkdocs for each page before it makes HTML of it."""
    return relinked(page.file.src_uri, markdown)
