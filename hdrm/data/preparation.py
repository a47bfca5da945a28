"""From a table of interactions to a data set: what counts, who stays, and how it is split."""

from __future__ import annotations

import math

import numpy as np

from hdrm.data import splits as splitting
from hdrm.data.datasets import Dataset
from hdrm.data.tables import Table

# How the remark on a split describes it.
SPLITS = {
    "time": "by time per user, 70/10/20",
    "global-time": "by time over all users, 70/10/20",
    "published": "by time per user as DiffRec's files are: 70 % train, then 10 % test, then 20 % valid",
    "leave-one-out": "each user's last interaction tests, the one before validates",
    "random": "at random per user, 70/10/20",
}


def prepare(
    name: str,
    table: Table,
    *,
    min_rating: float | None = None,
    k_core: int = 1,
    split: str | None = None,
    seed: int = 0,
) -> Dataset:
    """The data set of a table.

    In this order: interactions rated below ``min_rating`` are left out, repeated ones collapse to
    the earliest, users and items outside the ``k_core`` are left out, the rest are split.

    Args:
        min_rating: the lowest rating that counts as an interaction; None: all count.
        k_core: users and items have as many interactions at least.
        split: one of ``SPLITS``; by default "time" if there are times, else "random". Without times
            "leave-one-out" takes random ones.
        seed: of what is random.

    Raises ValueError for an unknown split, a split by time of a table without times, limits that
    leave nothing, and too few interactions to split.
    """
    if split not in (None, *SPLITS):
        raise ValueError(f"split must be {', '.join(SPLITS)}, got {split!r}")
    if k_core < 1:
        raise ValueError(f"k_core must be at least 1, got {k_core}")
    if min_rating is not None and not math.isfinite(min_rating):
        raise ValueError(f"min_rating must be a finite number, got {min_rating}")
    timed = table.time is not None
    split = split or ("time" if timed else "random")
    if not timed and split in ("time", "global-time", "published"):
        raise ValueError(f"there are no times; split {split!r} needs a time column")

    notes = list(table.notes)
    pairs = table.pairs
    order = np.argsort(table.time, kind="stable") if timed else np.arange(len(pairs))
    if min_rating is not None:
        order = order[table.rating[order] >= min_rating]
        dropped = len(pairs) - len(order)
        notes.append(f"{dropped:,} interactions rated below {min_rating:g} were left out")
    distinct = order[splitting.first_occurrences(pairs[order])]
    if len(distinct) < len(order):
        notes.append(f"{len(order) - len(distinct):,} repeated interactions were collapsed")
    pairs = pairs[distinct]
    if k_core > 1:
        kept = splitting.k_core(pairs, k_core)
        dropped = len(kept) - int(kept.sum())
        pairs = pairs[kept]
        notes.append(f"{dropped:,} interactions outside the {k_core}-core were left out")
    if not len(pairs):
        raise ValueError(f"nothing is left: {'; '.join(notes)}")
    pairs, users, items = _renumber(pairs, table.user_labels, table.item_labels)

    shuffled = split == "random" or (split == "leave-one-out" and not timed)
    notes.append(f"split {SPLITS[split]}" + (f", seed {seed}" if shuffled else ""))
    if split == "random":
        splits = splitting.per_user(pairs, seed)
    elif split == "leave-one-out":
        splits = splitting.leave_one_out(pairs, seed if shuffled else None)
    else:
        by_time = {
            "time": splitting.by_time,
            "global-time": splitting.by_global_time,
            "published": splitting.by_time_as_published,
        }
        splits = by_time[split](pairs)
    return Dataset.from_pairs(name, len(users), len(items), *splits, users, items, tuple(notes))


def _renumber(pairs: np.ndarray, *labels):
    """Ids 0 … n−1 for those that occur, in the same order; and their labels."""
    columns, kept = [], []
    for ids, names in zip(pairs.T, labels):
        used = np.unique(ids)
        columns.append(np.searchsorted(used, ids))
        kept.append(names[used] if isinstance(names, np.ndarray) else [names[i] for i in used])
    return np.stack(columns, axis=1), *kept
