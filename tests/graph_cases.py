"""Interactions, and files of them, for the tests of graphs in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl


def interactions(rows=20_000, users=300, items=500) -> pl.DataFrame:
    """Unsorted rows with repetitions; ids with gaps."""
    generator = np.random.default_rng(3)
    user = generator.integers(0, users, rows) * 7 + 5
    item = (items * generator.random(rows) ** 3).astype(np.int64) * 2
    return pl.DataFrame({"userId": user, "rating": np.ones(rows), "movie_id": item})


def write(frame: pl.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        frame.write_parquet(path, row_group_size=3000)
    else:
        frame.write_csv(path, separator="," if path.suffix == ".csv" else "\t")
    return path
