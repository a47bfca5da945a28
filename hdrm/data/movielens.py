"""MovieLens as GroupLens publishes it: ratings and titles, read from the .zip file as it is.

Nothing is extracted: two members are read by their names, so that no path of the archive matters.
Sources: the README files of the archives at https://grouplens.org/datasets/movielens/.
"""

from __future__ import annotations

import contextlib
import csv
import io
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from hdrm.data.tables import Table, polars_errors

# The folder in the archive and the suffix of its files, for each name.
_FOLDERS = {
    "ml-100k": ("ml-100k", "data"),
    "ml-1m": ("ml-1m", "dat"),
    "ml-10m": ("ml-10M100K", "dat"),
    "ml-20m": ("ml-20m", "csv"),
    "ml-25m": ("ml-25m", "csv"),
    "ml-32m": ("ml-32m", "csv"),
    "ml-latest": ("ml-latest", "csv"),
    "ml-latest-small": ("ml-latest-small", "csv"),
}
NAMES = tuple(_FOLDERS)
# Of the files with a suffix: ratings, the separator of their fields, and titles and theirs.
_FILES = {
    "data": ("u.data", "\t", "u.item", "|"),
    "dat": ("ratings.dat", "::", "movies.dat", "::"),
    "csv": ("ratings.csv", ",", "movies.csv", ","),
}
# The largest members, of ml-32m, have 0.9 GB and 4 MB, and are compressed to about a quarter.
MAX_RATINGS, MAX_TITLES, MAX_RATIO = 2 * 2**30, 64 * 2**20, 100
# What zipfile raises: RuntimeError where a password is needed, NotImplementedError for compressions
# that Python lacks, ValueError for names that are no text, and OSError for places before the start.
_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, OSError,
)  # fmt: skip
CHUNK = 2**24  # bytes parsed at a time; no line is longer


def read_ratings(name: str, archive: str | os.PathLike[str]) -> Table:
    """The ratings of the MovieLens set ``name`` with their times, in the order of the file.

    Raises FileNotFoundError without the archive; ValueError for an unknown name, an archive without
    the set's members or with members too large, and damaged ones, with the line where one is.
    """
    import polars as pl

    member, separator = _member(name, "ratings")
    schema = {"user": pl.Int64, "item": pl.Int64, "rating": pl.Float64, "time": pl.Int64}
    parts, line = [], 1
    with _open(archive, member, _member(name, "titles")[0], MAX_RATINGS) as file:
        if member.endswith(".csv"):
            file.readline(CHUNK)
            line += 1
        for chunk in _whole_lines(file, f"{archive}, {member}"):
            try:
                frame = pl.read_csv(
                    chunk.replace(separator.encode(), b"\x1f"),  # polars takes a single byte
                    has_header=False, separator="\x1f", schema=schema, quote_char=None,
                    raise_if_empty=False,
                )  # fmt: skip
                bad = frame.select(
                    pl.any_horizontal(pl.all().is_null(), ~pl.col("rating").is_finite())
                    | (pl.min_horizontal("user", "item") < 0)
                ).to_series()
            except polars_errors(pl):
                bad = pl.Series([True])
            if bad.any():
                _refuse_line(chunk, separator, line, f"{archive}, {member}")
            parts.append(frame)
            line += chunk.count(b"\n")
    if not sum(map(len, parts)):
        raise ValueError(f"{archive}: {member} holds no ratings")
    frame = pl.concat(parts)
    labels, codes = zip(
        *(np.unique(frame[side].to_numpy(), return_inverse=True) for side in ("user", "item"))
    )
    time, rating = frame["time"].to_numpy(), frame["rating"].to_numpy()
    return Table(np.stack(codes, axis=1), time, *labels, rating=rating)


def read_titles(name: str, archive: str | os.PathLike[str]) -> dict[int, str]:
    """The title of every item id of the MovieLens set ``name``; raises as ``read_ratings``."""
    member, separator = _member(name, "titles")
    with _open(archive, member, _member(name, "ratings")[0], MAX_TITLES) as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:  # ml-100k and ml-1m
        text = content.decode("latin-1")
    if member.endswith(".csv"):
        rows = csv.reader(io.StringIO(text, newline=""))
        next(rows, None)
    else:
        rows = (line.split(separator) for line in text.splitlines())
    titles = {}
    try:
        for number, row in enumerate(rows, 1):  # noqa: B007 - the error has it
            if row and row != [""]:
                titles[int(row[0])] = row[1]
    except (ValueError, IndexError, csv.Error):
        raise ValueError(
            f"{archive}, {member}, entry {number}: expected an item's id and its title, separated "
            f"by {separator!r}"
        ) from None
    return titles


def _member(name: str, kind: str) -> tuple[str, str]:
    """The member that holds "ratings" or "titles", and the separator of its fields."""
    if name not in _FOLDERS:
        raise ValueError(f"an archive holds one of {', '.join(NAMES)}, got {name!r}")
    folder, suffix = _FOLDERS[name]
    ratings, separator, titles, titles_separator = _FILES[suffix]
    if kind == "ratings":
        return f"{folder}/{ratings}", separator
    return f"{folder}/{titles}", titles_separator


@contextlib.contextmanager
def _open(
    archive: str | os.PathLike[str], member: str, other: str, limit: int
) -> Iterator[IO[bytes]]:
    """The member's bytes, at most ``limit``; ``other`` is expected beside it."""
    if not Path(archive).is_file():
        raise FileNotFoundError(
            f"{archive} is no file; give the .zip file that GroupLens publishes"
        )
    try:
        with zipfile.ZipFile(archive) as zipped:
            found = zipped.namelist()
            if not {member, other} <= set(found):
                listed = ", ".join(found[:10]) + (", …" if len(found) > 10 else "") or "nothing"
                raise ValueError(f"{archive}: expected {member} and {other} in it, found {listed}")
            info = zipped.getinfo(member)
            if info.file_size > min(limit, MAX_RATIO * max(info.compress_size, 1)):
                raise ValueError(
                    f"{archive}: {member} claims {info.file_size:,} bytes out of "
                    f"{info.compress_size:,} compressed; expected at most {limit:,} and "
                    f"{MAX_RATIO} times; this is not the published file"
                )
            # No more is read than the size that was looked at.
            with zipped.open(info) as file:
                yield file
    except _UNREADABLE as error:
        if str(archive) in str(error):
            raise
        reason = str(error) or type(error).__name__
        raise ValueError(f"{archive} is not a readable .zip file: {reason:.200}") from error


def _whole_lines(file: IO[bytes], where: str) -> Iterator[bytes]:
    """The file in parts of some 2²⁴ bytes that end with a line."""
    rest = b""
    while block := file.read(CHUNK):
        end = block.rfind(b"\n") + 1
        if not end and len(rest) + len(block) > CHUNK:
            raise ValueError(f"{where}: a line is longer than {CHUNK:,} bytes; it holds no ratings")
        if end:
            yield rest + block[:end]
            rest = block[end:]
        else:
            rest += block
    if rest:
        yield rest


def _refuse_line(chunk: bytes, separator: str, number: int, where: str) -> None:
    """ValueError for the first line of the chunk, whose first line has this number, that is none."""
    whole, fraction = rb"\d{1,18}", rb"\d+(\.\d+)?"
    pattern = re.compile(re.escape(separator.encode()).join([whole, whole, fraction, whole]))
    for line in chunk.split(b"\n"):
        if not pattern.fullmatch(line.rstrip(b"\r")):
            break
        number += 1
    raise ValueError(
        f"{where}, line {number}: expected user{separator}item{separator}rating{separator}time in "
        f"numbers, got {line[:60]!r}"
    )
