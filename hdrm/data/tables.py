"""One file, one interaction a line: ``.csv``, ``.tsv``, ``.parquet`` and RecBole's ``.inter``."""

from __future__ import annotations

import codecs
import csv
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

SUFFIXES = (".csv", ".tsv", ".inter", ".parquet")

# Header names, lower-case, without "_", "-" and blanks, and without RecBole's ":token" / ":float".
_ROLES = {
    "user": ("user", "userid", "uid"),
    "item": ("item", "itemid", "iid", "movie", "movieid", "product", "productid"),
    "time": ("time", "timestamp", "ts", "date", "datetime"),
    "rating": ("rating",),
}
_HEADERLESS = {
    2: ("user", "item"),
    3: ("user", "item", "time"),
    4: ("user", "item", "rating", "time"),
}  # 4: MovieLens' order
MISSING = ("", "nan", "null")


@dataclass(frozen=True, eq=False)
class Table:
    """Interactions of one file with ids renumbered to 0 … n−1 in the order of their labels.

    pairs: int64 (n, 2); time: (n,) or None; labels: int64 arrays or lists of strings, sorted;
    rating: float64 (n,), or None where ratings were not asked for.
    """

    pairs: np.ndarray
    time: np.ndarray | None
    user_labels: np.ndarray | list[str]
    item_labels: np.ndarray | list[str]
    notes: tuple[str, ...] = ()
    rating: np.ndarray | None = None


def read_table(path: Path, *, ratings: bool = False) -> Table:
    """Read columns user, item, time if there is one, and rating if asked for; others are ignored.

    Header names are matched without regard to case, ``_``, ``-`` and blanks (``userId``,
    ``movie_id``, ``Item ID``). A text file whose first line is all numbers has no header: its
    columns are user, item[, time] or user, item, rating, time. Ids are integers, or strings if any
    of a column's is written otherwise, as 007 is. A .csv without commas in its first line may be
    separated by semicolons or tabs.

    Raises ValueError, with the line number, for malformed lines, for missing or negative ids, and
    where ratings are asked for and there is no column of them or one that is not a number.
    """
    source = open_table(path, ratings=ratings)
    frame = source.frame
    if not len(frame):
        raise ValueError(f"{path} holds no interactions")
    pl = source.pl
    users, user_labels = _encode(pl, source, "user")
    items, item_labels = _encode(pl, source, "item")
    time = _parse_time(pl, source) if "time" in frame.columns else None
    rating = _parse_rating(pl, source) if ratings else None
    pairs = np.stack([users, items], axis=1)
    return Table(pairs, time, user_labels, item_labels, tuple(source.notes), rating)


def open_table(path: Path, *, ratings: bool = False) -> Source:
    """The file's columns user, item[, time][, rating] and "row", found but not read.

    Raises ValueError where the columns cannot be found, and as ``read_table`` on a damaged start.
    """
    try:
        import polars as pl
    except ImportError:
        raise ImportError(f"reading {path.name} needs polars: pip install polars") from None

    kind = _Parquet if path.suffix.lower() == ".parquet" else _Text
    return kind(path, pl, roles=tuple(_ROLES) if ratings else ("user", "item", "time"))


def polars_errors(pl) -> tuple[type[BaseException], ...]:
    """What polars raises on files that it cannot read; some Parquet files make it panic."""
    return pl.exceptions.PolarsError, pl.exceptions.PanicException


class Source:
    """A file of interactions. ``lazy`` has the columns of ``roles`` and "row", where a row stood.

    Only user and item, and rating if it is among the roles, must be there.
    """

    def __init__(self, path: Path, pl, roles: tuple[str, ...]) -> None:
        self.path, self.pl, self.roles = path, pl, roles

    @functools.cached_property
    def frame(self):
        """All rows."""
        return self.collect(self.lazy)

    def collect(self, lazy):
        """A query on ``lazy``, streamed, with polars' errors as one ValueError."""
        try:
            return lazy.collect(engine="streaming")
        except polars_errors(self.pl) as error:
            self._raise_unreadable(error)

    def batches(self, rows: int):
        """Frames of the columns user and item, about ``rows`` rows each, in the file's order."""
        try:
            yield from self.lazy.select("user", "item").collect_batches(
                chunk_size=rows, engine="streaming"
            )
        except polars_errors(self.pl) as error:
            self._raise_unreadable(error)

    def refuse_first(self, bad, what: str) -> None:
        """ValueError that names the first row for which the expression ``bad`` is true, if any."""
        found = self.collect(self.lazy.filter(bad).head(1))
        if len(found):
            values = found.row(0, named=True)
            shown = ", ".join(f"{name} {values[name]!r}" for name in _ROLES if name in values)
            raise ValueError(f"{self.path}, {self.place(values['row'])}: {what} ({shown})")


class _Text(Source):
    """A delimited file read as strings."""

    def __init__(self, path: Path, pl, roles: tuple[str, ...]) -> None:
        super().__init__(path, pl, roles)
        self.quoting = path.suffix.lower() != ".inter"
        self.separator = _separator(path)
        first = self._first_record()
        header = not all(_is_number(field) for field in first)
        if header:
            columns, self.notes = _assign_roles(path, first, roles)
        elif len(first) in _HEADERLESS:
            names = _HEADERLESS[len(first)]
            columns = {name: at for at, name in enumerate(names) if name in roles}
            self.notes = [f"no header: columns were read as {', '.join(names)}"]
            if "rating" in roles and "rating" not in columns:
                raise ValueError(
                    f"{path}: no rating column: without a header there must be four columns (user, "
                    f"item, rating, time), found {len(first)}; add a header line"
                )
        else:
            raise ValueError(
                f"{path}: without a header, 2 to 4 columns (user, item[[, rating], time]) are "
                f"expected, got {len(first)}; add a header line"
            )
        self.header = header
        self.width = len(first)
        lazy = pl.scan_csv(
            path,
            separator=self.separator,
            has_header=header,
            infer_schema=False,
            quote_char='"' if self.quoting else None,
        )
        try:
            names = lazy.collect_schema().names()
        except polars_errors(pl) as error:
            self._raise_unreadable(error)
        if len(names) != self.width:
            raise ValueError(
                f"{path}: the first line with anything on it has {self.width} columns, the first of "
                f"all {len(names)}; remove blank lines and lone carriage returns at the start"
            )
        # Blank lines arrive as rows of nulls; "row" remembers where a line stood in the file.
        blank = pl.all_horizontal(pl.col(names).is_null())
        chosen = [pl.col(names[at]).str.strip_chars().alias(to) for to, at in columns.items()]
        self.lazy = (
            lazy.select(*chosen, blank.alias("blank"))
            .with_row_index("row")
            .filter(~pl.col("blank"))
        )

    @functools.cached_property
    def frame(self):
        frame = self.collect(self.lazy)
        if not self.header and self.width == 3:
            self._refuse_ratings_as_time(frame)
        return frame

    def place(self, row: int) -> str:
        """'line N' of a data row, found by reading the file again."""
        skip = 1 if self.header else 0
        for index, (number, _) in enumerate(self._records()):
            if index == row + skip:
                return f"line {number}"
        return f"row {row}"

    def _records(self):
        quoting = csv.QUOTE_MINIMAL if self.quoting else csv.QUOTE_NONE
        with self.path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            reader = csv.reader(file, delimiter=self.separator, quoting=quoting)
            number, begun = 0, False
            try:
                for record in reader:
                    number, begun = reader.line_num, begun or bool(record)
                    if begun:  # polars skips blank lines before the first record, and only those
                        yield number, record
            except csv.Error as error:  # an open quote that swallowed the rest of a long file
                raise ValueError(f"{self.path}, line {number + 1}: {error}") from None

    def _first_record(self) -> list[str]:
        for _, record in self._records():
            return [field.strip() for field in record]
        raise ValueError(f"{self.path} is empty")

    def _raise_unreadable(self, error: Exception) -> NoReturn:
        reason = str(error).splitlines()[0]
        if "utf-8" in reason:
            reason += "; save it as UTF-8"
        for number, record in self._records():
            if len(record) > self.width:
                raise ValueError(
                    f"{self.path}, line {number}: expected {self.width} columns, got {len(record)}"
                ) from None
        raise ValueError(f"{self.path} cannot be read as text columns: {reason}") from None

    def _refuse_ratings_as_time(self, frame) -> None:
        values = frame["time"].cast(self.pl.Float64, strict=False)
        if len(values) > 100 and (values.max() or 0) <= 10:
            raise ValueError(
                f"{self.path}: the third of three columns without a header is read as time, but "
                "its values look like ratings (at most 10); add a header line"
            )


class _Parquet(Source):
    """A Parquet file, columns in their stored types."""

    def __init__(self, path: Path, pl, roles: tuple[str, ...]) -> None:
        super().__init__(path, pl, roles)
        try:
            schema = pl.read_parquet_schema(path)
        except polars_errors(pl) as error:
            self._raise_unreadable(error)
        names = list(schema)
        columns, self.notes = _assign_roles(path, names, roles)
        chosen = {name: pl.col(names[at]) for name, at in columns.items()}
        lazy = pl.scan_parquet(path)
        for name in ("user", "item"):
            kind = schema[names[columns[name]]]
            if kind in (pl.Categorical, pl.Enum):
                chosen[name] = chosen[name].cast(pl.String)
            elif not (kind.is_integer() or kind == pl.String):
                any_nan = lazy.select(chosen[name].is_nan().any())
                nan = kind.is_float() and self.collect(any_nan).item()
                raise ValueError(
                    f"{path}: column {name} holds {kind}{' with NaN' if nan else ''}; ids must be "
                    "integers or strings"
                )
        self.lazy = lazy.select(**chosen).with_row_index("row")

    def place(self, row: int) -> str:
        return f"row {row}"

    def _raise_unreadable(self, error: Exception) -> NoReturn:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{self.path} is not a readable Parquet file: {reason}") from None


def _separator(path: Path) -> str:
    """Of a text file; a .csv may be one of a program that writes semicolons or tabs."""
    with path.open("rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise ValueError(f"{path} is encoded as UTF-16; save it as UTF-8")
        file.seek(0)
        first = next((line for line in file if line.strip()), b"")
    if path.suffix.lower() != ".csv":
        return "\t"
    return next((mark for mark in ",;\t" if mark.encode() in first), ",")


def _assign_roles(
    path: Path, header: list[str], roles: tuple[str, ...]
) -> tuple[dict[str, int], list[str]]:
    plain = [re.sub(r"[_\s-]", "", name.lower().split(":")[0]) for name in header]
    columns, notes = {}, []
    for role in roles:
        names = _ROLES[role]
        found = [at for at, name in enumerate(plain) if name in names]
        if len(found) > 1:
            raise ValueError(
                f"{path}: columns {', '.join(header[at] for at in found):.200} could all be the {role}; "
                "keep one"
            )
        if found:
            columns[role] = found[0]
        elif role != "time":
            raise ValueError(
                f"{path}: no {role} column: expected one named {', '.join(names)} (case, _, - "
                f"and blanks do not matter) among the columns, found {', '.join(header):.200}"
            )
    if "rating" in plain and "rating" not in roles:
        notes.append("ratings are ignored: every line counts as one interaction")
    return columns, notes


def missing_ids(pl, role: str, kind):
    """The expression that is true where an id column of this dtype has no id."""
    missing = pl.col(role).is_null()
    if kind == pl.String:
        missing |= pl.col(role).str.to_lowercase().is_in(MISSING)
    return missing


def not_integers(pl, role: str, kind):
    """The expression that is true where an id of this dtype is no integer, or not written as one:
    007 would come out as another id than went in."""
    number = pl.col(role).cast(pl.Int64, strict=False)
    if kind == pl.String:
        return number.cast(pl.String).ne_missing(pl.col(role))
    return number.is_null()


def _encode(pl, source: Source, role: str):
    """Codes 0 … n−1 (int64 array) and the sorted labels of an id column."""
    column = source.frame[role]
    missing = source.frame.select(missing_ids(pl, role, column.dtype)).to_series()
    _refuse(source, missing, f"missing {role} id")
    strings = source.frame.select(not_integers(pl, role, column.dtype).any()).item()
    column = column.cast(pl.String if strings else pl.Int64)
    if column.dtype == pl.Int64:
        _refuse(source, column < 0, f"negative {role} id")
    labels = column.unique().sort()
    codes = column.rank("dense").to_numpy().astype(np.int64) - 1
    if labels.dtype == pl.String:
        return codes, labels.to_list()
    return codes, labels.to_numpy()


def _parse_time(pl, source: Source) -> np.ndarray:
    """Comparable numbers: integers, floats, or dates and date-times as their epoch count."""
    column = source.frame["time"]
    if column.dtype == pl.String:
        _refuse(source, column.is_null() | (column == ""), "missing time")
        # Int64 first: a float would round nanosecond stamps.
        number = column.cast(pl.Int64, strict=False)
        if number.null_count():
            number = column.cast(pl.Float64, strict=False)
        if number.null_count() == len(number):
            number = _parse_dates(pl, column)
        _refuse(source, number.is_null(), "time is neither a number nor an ISO date")
        column = number
    elif column.dtype.is_temporal():
        column = column.to_physical()
    elif not column.dtype.is_numeric():
        raise ValueError(f"{source.path}: column time holds {column.dtype}, not numbers or dates")
    _refuse(source, column.is_null(), "missing time")
    if column.dtype.is_float():
        _refuse(source, ~column.is_finite(), "time is not finite")
    return column.to_numpy()


def _parse_rating(pl, source: Source) -> np.ndarray:
    column = source.frame["rating"]
    if not (column.dtype == pl.String or column.dtype.is_numeric()):
        raise ValueError(f"{source.path}: column rating holds {column.dtype}, not numbers")
    number = column.cast(pl.Float64, strict=False)
    _refuse(source, number.is_null() | ~number.is_finite(), "rating is not a number")
    return number.to_numpy()


def _parse_dates(pl, column):
    for pattern in (
        "%Y-%m-%d",
        "%Y-%m-%d %H:%M:%S%.f",
        "%Y-%m-%dT%H:%M:%S%.f",
        "%Y-%m-%dT%H:%M:%S%.f%#z",
    ):
        dates = column.str.to_datetime(pattern, time_unit="us", strict=False)
        if dates.null_count() < len(dates):
            break
    return dates.to_physical()


def _refuse(source: Source, bad, what: str) -> None:
    if bad.any():
        row = source.frame["row"][int(bad.arg_true()[0])]
        source.refuse_first(source.pl.col("row") == row, what)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
