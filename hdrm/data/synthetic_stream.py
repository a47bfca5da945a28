"""Generated interactions of any number, written to a file block by block of users."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from hdrm.data.synthetic import HOMES, Tree, below, draw_distinct, shuffle

BLOCK = 2**20  # interactions drawn at a time; rows of a row group
SPREAD = 1000  # head of the power law: the most active user has at most so many times the mean
BRANCHING = (6, 5, 5)

_SCHEMA = {"user": pl.Int64, "item": pl.Int64}


def power_law(
    path: str | os.PathLike[str],
    num_users: int,
    num_items: int,
    num_interactions: int,
    seed: int,
) -> None:
    """Write distinct (user, item) pairs to a Parquet file with int64 columns user and item.

    Items are drawn as in ``synthetic.hierarchical``, by popularity within a tree of tastes.
    Activity of users is a third equal and two thirds 1 / (rank + num_users / SPREAD), flatter for
    dense data, so that nobody has more than a quarter of the items; every user has one or more.
    Users ascend; a seed gives the same rows on every machine. Memory is a few numbers per user and
    item and some blocks.

    Raises:
        FileExistsError: ``path`` exists.
        OSError: the file cannot be written, such as for lack of space; nothing is left of it.
        ValueError: sizes < 1, fewer interactions than users, or more than a twentieth of all pairs.
    """
    path = Path(path).expanduser()
    if path.exists():
        raise FileExistsError(f"{path} exists; name another file")
    if min(num_users, num_items) < 1:
        raise ValueError(f"sizes must be at least 1, got {num_users} users, {num_items} items")
    if not num_users <= num_interactions <= num_users * num_items // 20:
        raise ValueError(
            f"num_interactions must lie between the number of users and a twentieth of all pairs, "
            f"{num_users} … {num_users * num_items // 20}, got {num_interactions}"
        )
    frames = _frames(num_users, num_items, num_interactions, seed)
    source = register_io_source(lambda *pushed_down: frames, schema=_SCHEMA)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        # An open file and not its path, which polars might make anew after an error.
        with partial.open("wb") as file:
            source.sink_parquet(file, row_group_size=BLOCK, maintain_order=True, engine="streaming")
        partial.replace(path)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise OSError(f"{path} cannot be written: {reason}") from None
    finally:
        partial.unlink(missing_ok=True)


def _frames(num_users: int, num_items: int, total: int, seed: int) -> Iterator[pl.DataFrame]:
    rng = np.random.Generator(np.random.PCG64(seed))
    quota = _activity(num_users, num_items, total, rng)
    tree = Tree(num_items, BRANCHING, rng)
    ends = np.cumsum(quota)
    first = 0
    while first < num_users:
        before = int(ends[first] - quota[first])
        last = max(int(np.searchsorted(ends, before + BLOCK, side="right")), first + 1)
        homes = below(rng.random((last - first, HOMES)) ** 2, tree.num_leaves)
        pairs = draw_distinct(quota[first:last], homes, tree, rng)
        yield pl.DataFrame({"user": pairs[:, 0] + first, "item": pairs[:, 1]}, schema=_SCHEMA)
        first = last


def _activity(num_users: int, num_items: int, total: int, rng) -> np.ndarray:
    """Interactions per user, summing to total; at most a quarter of the items, about."""
    # The first share is at most `spread` times the mean.
    spread = min(SPREAD, num_users * num_items / (4 * total))
    equal = max(total // (3 * num_users), 1)
    share = np.cumsum(1 / (shuffle(num_users, rng) + 1 + num_users / spread))
    ends = below(share / share[-1], total - equal * num_users)
    return equal + np.diff(ends, prepend=0)
