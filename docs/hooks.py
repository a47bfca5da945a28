"""For MkDocs: docstrings write :func:`hdrm.ops.topk` as Sphinx does; here that becomes a link."""

from __future__ import annotations

import re

ROLE = re.compile(r":(?:func|class|meth|mod|attr):<code>~?\.?([\w.]+)</code>")


def on_page_content(html: str, **_) -> str:
    """`optional`: what has no page of its own stays code."""
    return ROLE.sub(r'<autoref identifier="\1" optional><code>\1</code></autoref>', html)
