"""What `hdrm report` writes: one HTML page about a run, which needs nothing beside itself.

groups.py and disk.py compute what is shown, titles.py reads the names of items, figures.py draws,
page.html is the page. ``pip install -e ".[report]"`` (matplotlib, jinja2).
"""

from __future__ import annotations

from .page import write_page

__all__ = ["write_page"]
