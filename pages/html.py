"""Pages as HTML: elements whose text is escaped, pictures and films inside the file, and the look all pages have.

    page("a run", tag("h1", name), tag("p", "from ", tag("code", command)))

Whatever is not made by `tag`, or declared to be `Html`, is text and is escaped: no file can bring its own elements.
"""

import base64
import html
import io
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dreamdrive import __version__
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder, write_atomically
from dreamdrive.utils.page_style import styled

HERE = Path(__file__).parent
VOID = ("br", "img", "input", "link", "meta")
LARGEST_PICTURE, LARGEST_FILM = 8_000_000, 6_000_000  # bytes that are put into a page
GENERATOR = f"dreamdrive {__version__}"


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element. `class_` and the like lose their underscore, others become a dash; True is an attribute without a
    value, None and False none."""
    said = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{said}>" + ("" if name in VOID else f"{join(children)}</{name}>"))


def join(children: Iterable[Any]) -> Html:
    """Elements and text, one after another; None is nothing."""
    return Html("".join(c if isinstance(c, Html) else html.escape(str(c)) for c in children if c is not None))


def page(title: str, *content: Any, script: str = "") -> bytes:
    """A whole page; nothing in it names another host. `script` is ours, never from a file."""
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content=GENERATOR),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        tag("style", Html(styled(HERE.joinpath("style.css").read_text()))),
    ]
    body = [tag("main", *content), tag("footer", f"written by {GENERATOR}")]
    body += [tag("script", Html(script))] if script else []
    return ("<!doctype html>\n" + tag("html", *head, tag("body", *body), lang="en") + "\n").encode()


def write_page(path: Path, content: bytes) -> None:
    """UserError unless it has a name that says what it is."""
    if path.suffix != ".html":
        raise UserError(f'the page "{path}" must have a name that ends in .html')
    make_folder(path.parent)
    write_atomically(path, content)


def section(title: str, *content: Any, **attributes: Any) -> Html:
    return tag("section", tag("h2", title), *content, **attributes)


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], **attributes: Any) -> Html:
    """The first column to the left, the others to the right; it scrolls sideways where it is too wide."""
    top = tag("thead", tag("tr", *(tag("th", cell) for cell in head)))
    body = tag("tbody", *(tag("tr", *(tag("td", cell) for cell in row)) for row in rows))
    return tag("div", tag("table", top, body, **attributes), class_="scroll")


def facts(values: dict[str, Any]) -> Html:
    """Names and what they are, two columns."""
    return tag("dl", *(join([tag("dt", name), tag("dd", value)]) for name, value in values.items()))


def folded(title: str, *content: Any) -> Html:
    return tag("details", tag("summary", title), *content)


def problem(error: Exception | str) -> Html:
    """What is said in the place of something that cannot be shown."""
    return tag("p", str(error), class_="problem")


def attempt(make: Callable[[], Any]) -> Any:
    """What `make` gives, or in its place the sentence of its UserError."""
    try:
        return make()
    except UserError as error:
        return problem(error)


def chart(svg: str, wide: bool = False) -> Html:
    """`svg` as utils.plots.page_svg gives it."""
    return tag("div", Html(svg), class_="wide chart" if wide else "chart")


def picture(path: Path, caption: str) -> Html:
    """A PNG or JPEG inside the page; UserError where it is neither, or damaged."""
    from PIL import Image

    content = read(path, LARGEST_PICTURE)
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            kind = "png" if image.format == "PNG" else "jpeg"
            width, height = image.size
            image.verify()
    except Exception as error:  # a damaged picture can fail in any part of Pillow
        raise UserError(f"{path} cannot be shown: it is not a picture, or damaged ({type(error).__name__})") from None
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return tag("figure", tag("img", src=source, alt=caption, width=width, height=height), tag("figcaption", caption))


def film(path: Path, caption: str, home: Path) -> Html:
    """An mp4 inside the page, or where it is large, by its place relative to `home`, the page's folder."""
    start, size = read(path, 8, whole=False), path.stat().st_size
    if start[4:] != b"ftyp":
        raise UserError(f"{path} cannot be shown: it is not an mp4, or damaged")
    if size > LARGEST_FILM:
        source = quote(os.path.relpath(path.resolve(), home.resolve()))
        caption += f" ({size / 1e6:.0f} MB, not in this file)"
    else:
        source = f"data:video/mp4;base64,{base64.b64encode(read(path, LARGEST_FILM)).decode()}"
    video = tag("video", src=source, controls=True, loop=True, muted=True, playsinline=True, preload="metadata")
    return tag("figure", video, tag("figcaption", caption))


def read(path: Path, most: int, whole: bool = True) -> bytes:
    """The first `most` bytes of a file; UserError where it cannot be read, or has more and is wanted `whole`."""
    try:
        with open(path, "rb") as file:
            content = file.read(most + 1 if whole else most)
    except OSError as error:
        raise UserError(f"{path} cannot be shown ({error.strerror})") from None
    if len(content) > most:
        raise UserError(f"{path} is not shown: it has more than {most / 1e6:.0f} MB")
    return content
