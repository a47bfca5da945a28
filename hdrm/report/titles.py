"""Names of items from a file that came with the data."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator
from pathlib import Path

SEPARATORS = ("::", "\t", ",")
# Header names, lower-case, without "_" and without RecBole's ":token".
_IDS = ("id", "item", "itemid", "iid", "movie", "movieid", "product", "productid")
_TITLES = ("title", "name", "itemtitle", "itemname", "movietitle")


def read_titles(path: Path) -> dict[str, str]:
    """{original item id: title} of a text file with one item a line.

    The first line decides: it is separated by "::" (MovieLens' ``movies.dat``), tabs or commas, and
    it is a header if it names a column ``title`` or ``name``; then the ids are in a column such as
    ``id``, ``item_id`` or ``movieId``. Without a header the first two columns are id and title.
    UTF-8, or where the bytes are not, Latin-1, as in ``movies.dat``. Lines without a title are left
    out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no known separator, no column of ids, or lines that cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of titles")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    try:
        return dict(_pairs(path, text))
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _pairs(path: Path, text: str) -> Iterator[tuple[str, str]]:
    first = text.partition("\n")[0].rstrip("\r")
    separator = next((mark for mark in SEPARATORS if mark in first), None)
    if separator == "::":  # csv separates by one character only
        rows = (line.split("::") for line in text.splitlines())
    elif separator is not None:
        quoting = csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting)
    else:
        raise ValueError(
            f"{path}: expected lines of an item's id and title, separated by '::', a tab or a comma, "
            f"got {first[:60]!r}"
        )
    head = next(rows)
    names = [_plain(name) for name in head]
    ids, titles = 0, 1
    if any(name in _TITLES for name in names):
        ids, titles = (
            next((at for at, name in enumerate(names) if name in known), None)
            for known in (_IDS, _TITLES)
        )
        if ids is None:
            raise ValueError(
                f"{path}: the header names no column of ids, such as item_id: {', '.join(names)}"
            )
    else:
        rows = itertools.chain([head], rows)
    for row in rows:
        if len(row) > max(ids, titles) and row[titles].strip():
            yield row[ids].strip(), row[titles].strip()


def _plain(name: str) -> str:
    return name.strip().partition(":")[0].lower().replace("_", "")
