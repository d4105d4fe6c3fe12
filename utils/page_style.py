"""The look that web pages of ours have in common, so that a colour is stated once. Each page is one file: what it
shares is put into its style.

    <style>
    /* look.css */        colours, and what else all pages share
    /* driving.css */     pages on which something is driven
"""

import re
from pathlib import Path

HERE = Path(__file__).parent


def styled(page: str) -> str:
    """A page, or its style, with the sheets of this folder in the places where a comment names them."""
    return re.sub(r"/\* (\w+\.css) \*/\n", lambda found: (HERE / found[1]).read_text(), page)
