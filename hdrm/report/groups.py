"""Where a ranking is good: metrics of groups of users and of items, by their training interactions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..graph import CSR
from ..train.evaluate import Rank, ranked

GROUPS = 5


@dataclass(frozen=True)
class UserGroup:
    """Users of about the same activity and the averages of their metrics."""

    label: str
    users: int
    recall: float
    ndcg: float


@dataclass(frozen=True)
class ItemGroup:
    """Items of about the same popularity.

    ``recall`` is of all (user, item) to be found whose item is in the group; None if there is none.
    The shares are of all training interactions, of all to be found, of all recommendations.
    """

    label: str
    items: int
    of_training: float
    of_relevant: float
    of_recommended: float
    recall: float | None


def quantile_groups(counts: np.ndarray, number: int = GROUPS) -> list[tuple[str, np.ndarray]]:
    """Parts of about equal size by ascending count: a label such as "8 … 21" and positions (n,).

    Equal counts are in one part, so there may be fewer than ``number``.
    """
    inner = np.quantile(counts, np.arange(1, number) / number, method="inverted_cdf")
    part = np.searchsorted(np.unique(inner), counts)
    found = []
    for at in np.unique(part):
        members = np.flatnonzero(part == at)
        low, high = counts[members].min(), counts[members].max()
        found.append((f"{low:,}" if low == high else f"{low:,} … {high:,}", members))
    return found


def by_activity(counts: np.ndarray, recall: np.ndarray, ndcg: np.ndarray) -> list[UserGroup]:
    """Groups of users from their training counts int64 (n,) and metrics (n,)."""
    return [
        UserGroup(label, len(who), float(recall[who].mean()), float(ndcg[who].mean()))
        for label, who in quantile_groups(counts)
    ]


@dataclass(frozen=True, eq=False)
class ItemCounts:
    """Of every item, int64 (I,): users who have it to be found, who got it in their k, both."""

    relevant: np.ndarray
    recommended: np.ndarray
    hits: np.ndarray

    @classmethod
    def of(cls, rank: Rank, relevant: CSR, k: int) -> ItemCounts:
        size = relevant.num_cols
        wanted, shown, hit = np.zeros((3, size), dtype=np.int64)
        for _, _, items in relevant.blocks():
            wanted += torch.bincount(items, minlength=size).numpy()
        for items, found in ranked(rank, relevant, k):
            shown += torch.bincount(items[items >= 0], minlength=size).cpu().numpy()
            hit += torch.bincount(items[found], minlength=size).cpu().numpy()
        return cls(wanted, shown, hit)


def by_popularity(trained: np.ndarray, counts: ItemCounts) -> list[ItemGroup]:
    """Groups of items from their training counts int64 (I,) and what a ranking made of them."""
    totals = [max(of.sum(), 1) for of in (trained, counts.relevant, counts.recommended)]
    groups = []
    for label, items in quantile_groups(trained):
        sums = [of[items].sum() for of in (trained, counts.relevant, counts.recommended)]
        shares = [float(part / total) for part, total in zip(sums, totals)]
        recall = float(counts.hits[items].sum() / sums[1]) if sums[1] else None
        groups.append(ItemGroup(label, len(items), *shares, recall))
    return groups
