"""What a web page of ours may do (Content-Security-Policy): run its own script and style, and nothing else unless it is
said."""

import base64
import hashlib
import re


def own_only(page: str, more: str = "") -> str:
    """The policy of a page whose script and style are in it, known by their digests; without attributes, as others that
    a browser does not run may have. `more`: what else scripts may do."""

    def digests(tag: str) -> str:
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for text in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        )

    scripts = f"{digests('script')} {more}".strip()
    return (
        f"default-src 'none'; script-src {scripts}; style-src {digests('style')}; base-uri 'none'; form-action 'none'"
    )
