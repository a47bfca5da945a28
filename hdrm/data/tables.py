"""One file, one interaction a line: ``.csv``, ``.tsv``, ``.parquet`` and RecBole's ``.inter``."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

SUFFIXES = (".csv", ".tsv", ".inter", ".parquet")

# Header names, lower-case, without "_" and without RecBole's ":token" / ":float".
_ROLES = {
    "user": ("user", "userid", "uid"),
    "item": ("item", "itemid", "iid", "movie", "movieid", "product", "productid"),
    "time": ("time", "timestamp", "ts", "date", "datetime"),
}
_HEADERLESS = {2: ("user", "item"), 3: ("user", "item", "time"),
               4: ("user", "item", "rating", "time")}  # 4: MovieLens' order
_MISSING = ("", "nan", "null")


@dataclass(frozen=True, eq=False)
class Table:
    """Interactions of one file with ids renumbered to 0 … n−1 in the order of their labels.

    pairs: int64 (n, 2); time: (n,) or None; labels: int64 arrays or lists of strings, sorted.
    """

    pairs: np.ndarray
    time: np.ndarray | None
    user_labels: np.ndarray | list[str]
    item_labels: np.ndarray | list[str]
    notes: tuple[str, ...]


def read_table(path: Path) -> Table:
    """Read columns user, item and, if there is one, time; other columns, ratings too, are ignored.

    Header names are matched without regard to case and ``_`` (``userId``, ``movie_id``,
    ``timestamp``). A text file whose first line is all numbers has no header: its columns are
    user, item[, time] or user, item, rating, time. Ids are integers or strings.

    Raises ValueError, with the line number, for malformed lines and for missing or negative ids.
    """
    try:
        import polars as pl
    except ImportError:
        raise ImportError(f"reading {path.name} needs polars: pip install polars") from None

    if path.suffix.lower() == ".parquet":
        source = _Parquet(path, pl)
    else:
        source = _Text(path, pl)
    frame, notes = source.frame, source.notes
    if not len(frame):
        raise ValueError(f"{path} holds no interactions")
    users, user_labels = _encode(pl, source, "user")
    items, item_labels = _encode(pl, source, "item")
    time = _parse_time(pl, source) if "time" in frame.columns else None
    pairs = np.stack([users, items], axis=1)
    return Table(pairs, time, user_labels, item_labels, tuple(notes))


class _Text:
    """A delimited file read as strings: ``frame`` with columns user, item[, time]."""

    def __init__(self, path: Path, pl) -> None:
        self.path = path
        self.quoting = path.suffix.lower() != ".inter"
        self.separator = "," if path.suffix.lower() == ".csv" else "\t"
        first = self._first_record()
        header = not all(_is_number(field) for field in first)
        if header:
            columns, self.notes = _assign_roles(path, first)
        elif len(first) in _HEADERLESS:
            names = _HEADERLESS[len(first)]
            columns = {name: at for at, name in enumerate(names) if name != "rating"}
            self.notes = [f"no header: columns were read as {', '.join(names)}"]
        else:
            raise ValueError(
                f"{path}: without a header, 2 to 4 columns (user, item[[, rating], time]) are "
                f"expected, got {len(first)}; add a header line"
            )
        self.header = header
        try:
            frame = pl.read_csv(
                path, separator=self.separator, has_header=header, infer_schema=False,
                quote_char='"' if self.quoting else None,
            )
        except pl.exceptions.PolarsError as error:
            self._raise_malformed(len(first), str(error).splitlines()[0])
        # Blank lines arrive as rows of nulls; "row" remembers where a line stood in the file.
        blank = pl.all_horizontal(pl.all().is_null())
        chosen = [pl.nth(at).str.strip_chars().alias(name) for name, at in columns.items()]
        rows = pl.int_range(pl.len(), dtype=pl.Int64).alias("row")
        self.frame = frame.select(*chosen, rows, blank.alias("blank")).filter(~pl.col("blank"))
        if not header and len(first) == 3:
            self._refuse_ratings_as_time(pl)

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

    def _raise_malformed(self, width: int, reason: str) -> NoReturn:
        for number, record in self._records():
            if len(record) > width:
                raise ValueError(
                    f"{self.path}, line {number}: expected {width} columns, got {len(record)}"
                ) from None
        raise ValueError(f"{self.path} cannot be read as text columns: {reason}") from None

    def _refuse_ratings_as_time(self, pl) -> None:
        values = self.frame["time"].cast(pl.Float64, strict=False)
        if len(values) > 100 and (values.max() or 0) <= 10:
            raise ValueError(
                f"{self.path}: the third of three columns without a header is read as time, but "
                "its values look like ratings (at most 10); add a header line"
            )


class _Parquet:
    """A Parquet file: ``frame`` with columns user, item[, time] in their stored types."""

    def __init__(self, path: Path, pl) -> None:
        self.path = path
        try:
            names = list(pl.read_parquet_schema(path))
            columns, self.notes = _assign_roles(path, names)
            frame = pl.read_parquet(path, columns=[names[at] for at in columns.values()])
        except pl.exceptions.PolarsError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path} is not a readable Parquet file: {reason}") from None
        frame = frame.select(pl.col(names[at]).alias(name) for name, at in columns.items())
        for name in ("user", "item"):
            kind = frame[name].dtype
            if kind in (pl.Categorical, pl.Enum):
                frame = frame.with_columns(pl.col(name).cast(pl.String))
            elif not (kind.is_integer() or kind == pl.String):
                nan = kind.is_float() and frame[name].is_nan().any()
                raise ValueError(
                    f"{path}: column {name} holds {kind}{' with NaN' if nan else ''}; ids must be "
                    "integers or strings"
                )
        self.frame = frame.with_row_index("row")

    def place(self, row: int) -> str:
        return f"row {row}"


def _assign_roles(path: Path, header: list[str]) -> tuple[dict[str, int], list[str]]:
    plain = [name.lower().split(":")[0].replace("_", "").strip() for name in header]
    columns, notes = {}, []
    for role, names in _ROLES.items():
        found = [at for at, name in enumerate(plain) if name in names]
        if len(found) > 1:
            raise ValueError(
                f"{path}: columns {', '.join(header[at] for at in found)} could all be the {role}; "
                "keep one"
            )
        if found:
            columns[role] = found[0]
        elif role != "time":
            raise ValueError(
                f"{path}: no {role} column: expected one named {', '.join(names)} (case and _ do "
                f"not matter) among the columns, found {', '.join(header)}"
            )
    if "rating" in plain:
        notes.append("ratings are ignored: every line counts as one interaction")
    return columns, notes


def _encode(pl, source: _Text | _Parquet, role: str):
    """Codes 0 … n−1 (int64 array) and the sorted labels of an id column."""
    column = source.frame[role]
    missing = column.is_null()
    if column.dtype == pl.String:
        missing |= column.str.to_lowercase().is_in(_MISSING)
    _refuse(source, missing, f"missing {role} id")
    integers = column.cast(pl.Int64, strict=False)
    column = column.cast(pl.String) if integers.null_count() else integers
    if column.dtype == pl.Int64:
        _refuse(source, column < 0, f"negative {role} id")
    labels = column.unique().sort()
    codes = column.rank("dense").to_numpy().astype(np.int64) - 1
    if labels.dtype == pl.String:
        return codes, labels.to_list()
    return codes, labels.to_numpy()


def _parse_time(pl, source: _Text | _Parquet) -> np.ndarray:
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


def _parse_dates(pl, column):
    for pattern in ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f",
                    "%Y-%m-%dT%H:%M:%S%.f%#z"):
        dates = column.str.to_datetime(pattern, time_unit="us", strict=False)
        if dates.null_count() < len(dates):
            break
    return dates.to_physical()


def _refuse(source: _Text | _Parquet, bad, what: str) -> None:
    if bad.any():
        at = int(bad.arg_true()[0])
        place = source.place(int(source.frame["row"][at]))
        values = source.frame.row(at, named=True)
        shown = ", ".join(f"{name} {values[name]!r}" for name in _ROLES if name in values)
        raise ValueError(f"{source.path}, {place}: {what} ({shown})")


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
