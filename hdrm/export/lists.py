"""Recommendations of many users as a table in a file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl
import torch
from polars.io.plugins import register_io_source

from ..model import HDRM, checkpoint

BLOCK = 2**14  # users ranked at a time: bounds memory
SUFFIXES = (".csv", ".parquet")


def write_lists(
    model: HDRM,
    users: Sequence[int] | None,
    k: int,
    path: str | os.PathLike[str],
    *,
    labels: Mapping[str, list] | None = None,
) -> int:
    """Write the k nearest unseen items of users, one a row: user, rank from 1, item, distance.

    Rows are in the order of ``users``, then of the rank; a user with fewer than k items left has
    fewer rows. They are written as they are made, in memory that does not grow with their number;
    the file is replaced in one step.

    Args:
        users: ids; None stands for all.
        path: a .csv or .parquet file.
        labels: original ids of "users" and "items" to write, where they were renumbered.

    Returns:
        The number of users.

    Raises:
        ValueError: another suffix, ids or k out of range.
        OSError: the file cannot be written.
    """
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise ValueError(f"the file must be a .csv or .parquet file, got {path.name}")
    chosen = torch.arange(model.num_users) if users is None else torch.as_tensor(users)
    names = {
        side: None if side not in (labels or {}) else pl.Series(labels[side])
        for side in ("users", "items")
    }
    schema = {
        "user": _dtype(names["users"]),
        "rank": pl.Int32,
        "item": _dtype(names["items"]),
        "distance": pl.Float32,
    }
    frames = _frames(model, chosen, k, names, schema)
    table = register_io_source(lambda *pushed_down: frames, schema=schema)
    sink = table.sink_csv if path.suffix == ".csv" else table.sink_parquet
    path.parent.mkdir(parents=True, exist_ok=True)

    def fill(temporary: Path) -> None:
        # An open file and not its path: polars opens a path in a thread of its own, which may
        # come to it after an error has been raised here, and make the file anew.
        with temporary.open("wb") as file:
            sink(file, maintain_order=True, engine="streaming")

    try:
        checkpoint.replace(path, fill)
    except pl.exceptions.PolarsError as error:
        raise OSError(f"{path} cannot be written: {str(error).splitlines()[0]}") from None
    return len(chosen)


def _frames(model: HDRM, users: torch.Tensor, k: int, names, schema) -> Iterator[pl.DataFrame]:
    for block in users.split(BLOCK):
        items, distances = (found.cpu() for found in model.recommend(block, k))
        place, rank = torch.nonzero(items >= 0, as_tuple=True)
        columns = {
            "user": _named(block[place], names["users"]),
            "rank": (rank + 1).numpy(),
            "item": _named(items[place, rank], names["items"]),
            "distance": distances[place, rank].numpy(),
        }
        yield pl.DataFrame(columns, schema_overrides=schema)


def _dtype(names: pl.Series | None) -> pl.DataType:
    return pl.Int64() if names is None else names.dtype


def _named(ids: torch.Tensor, names: pl.Series | None) -> pl.Series:
    numbers = pl.Series(ids.numpy())
    return numbers if names is None else names.gather(numbers)
