"""Original ids of a streamed file to 0 … n−1 in the order of the ids, reading the rows once.

Codes are given out while the rows go by and mapped to the final numbers when all ids are known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from hdrm.data.tables import Source, missing_ids, not_integers

# Integer ids that span no more than this, or than the number of rows, index an array.
DENSE_SPAN = 2**22


@dataclass(frozen=True, eq=False)
class Ids:
    """The distinct ids of one side.

    of_code: uint32 (…), the final number of every code that was given out.
    labels: the original id of each number, ascending: int64 array, or polars strings.
    """

    of_code: np.ndarray
    labels: np.ndarray | pl.Series


class OffsetCodes:
    """Integer ids low … high that lie close together: an id's code is its distance from low."""

    def __init__(self, low: int, high: int) -> None:
        self.low = low
        self.seen = np.zeros(high - low + 1, dtype=bool)

    def encode(self, column: pl.Series) -> np.ndarray:
        """uint32 codes of a batch."""
        codes = (column.cast(pl.Int64).to_numpy() - self.low).astype(np.uint32)
        self.seen[codes] = True
        return codes

    def finish(self) -> Ids:
        of_code = np.cumsum(self.seen, dtype=np.uint32)
        of_code -= 1  # wraps for codes before the first id, which do not occur
        return Ids(of_code, np.flatnonzero(self.seen) + self.low)


class LabelCodes:
    """Any other ids: strings, and integers far apart, through polars' table of categories."""

    def __init__(self, integers: bool) -> None:
        self.integers = integers
        self.categories = pl.Categories.random("hdrm", pl.UInt32)
        # polars forgets the categories when no column uses them.
        self.in_use = pl.Series(dtype=pl.Categorical(self.categories))

    def encode(self, column: pl.Series) -> np.ndarray:
        """uint32 codes of a batch."""
        if self.integers:
            column = column.cast(pl.Int64)
        labels = column.cast(pl.String).cast(self.in_use.dtype)
        return labels.to_physical().to_numpy()

    def finish(self) -> Ids:
        labels = self.categories.to_series()
        if self.integers:
            labels = labels.cast(pl.Int64)
        order = labels.arg_sort().to_numpy()
        of_code = np.empty(len(order), dtype=np.uint32)
        of_code[order] = np.arange(len(order), dtype=np.uint32)
        labels = labels.gather(order)
        return Ids(of_code, labels.to_numpy() if self.integers else labels)


def survey(source: Source) -> tuple[int, dict[str, OffsetCodes | LabelCodes]]:
    """Read the ids once: the number of rows, and what encodes "user" and "item".

    Ids are integers or strings as in ``read_table``.

    Raises ValueError for a file without rows, and for missing or negative ids, naming the place.
    """
    schema = source.lazy.collect_schema()
    wanted = [pl.len().alias("rows")]
    missing = {role: missing_ids(pl, role, schema[role]) for role in ("user", "item")}
    for role, without_id in missing.items():
        number = pl.col(role).cast(pl.Int64, strict=False)
        wanted += [
            without_id.any().alias(f"{role} missing"),
            not_integers(pl, role, schema[role]).any().alias(f"{role} strings"),
            number.min().alias(f"{role} low"),
            number.max().alias(f"{role} high"),
        ]
    found = source.collect(source.lazy.select(wanted)).row(0, named=True)
    rows = found["rows"]
    if not rows:
        raise ValueError(f"{source.path} holds no interactions")
    codes = {}
    for role, without_id in missing.items():
        if found[f"{role} missing"]:
            source.refuse_first(without_id, f"missing {role} id")
        low, high = found[f"{role} low"], found[f"{role} high"]
        if found[f"{role} strings"]:
            codes[role] = LabelCodes(integers=False)
            continue
        if low < 0:
            negative = pl.col(role).cast(pl.Int64, strict=False) < 0
            source.refuse_first(negative, f"negative {role} id")
        dense = high - low < min(max(DENSE_SPAN, rows), 2**32)
        codes[role] = OffsetCodes(low, high) if dense else LabelCodes(integers=True)
    return rows, codes
