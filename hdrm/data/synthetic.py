"""Generated interactions with what hyperbolic models look for: a taste tree and a power law.

Every number comes from PCG64 doubles, IEEE arithmetic and integers, never from libm or BLAS, so a
seed gives the same bits on every machine.
"""

from __future__ import annotations

import numpy as np

from hdrm.data.datasets import Dataset
from hdrm.data.splits import per_user

HOMES = 3  # leaves of the tree a user likes


def demo(*, seed: int = 0) -> Dataset:
    """2,000 users × 1,500 items × 60,000 interactions, split 70/10/20 at random per user."""
    num_users, num_items = 2_000, 1_500
    pairs = hierarchical(num_users, num_items, 60_000, seed)
    return Dataset.from_pairs("demo", num_users, num_items, *per_user(pairs, seed))


def hierarchical(
    num_users: int,
    num_items: int,
    num_interactions: int,
    seed: int,
    *,
    branching: tuple[int, ...] = (6, 5, 5),
) -> np.ndarray:
    """Distinct (user, item) pairs, int64 (num_interactions, 2), ordered by user.

    Items are the leaves' contents of a tree with the given branching (genre, subgenre, niche).
    Each user has HOMES favourite niches, some niches being everybody's. An interaction starts at
    one of them, climbs j levels with probability 2^-(j+1) (the rest at the root), and takes an item
    of that subtree with probability proportional to its popularity 1 / (rank + 5). Activity of
    users is a third equal and two thirds 1 / (rank + num_users / 20).

    Raises ValueError for sizes < 1, fewer interactions than users, or more than a tenth of all
    pairs (a user's items are distinct, and the tree should stay visible).
    """
    if min(num_users, num_items, *branching) < 1:
        raise ValueError(
            f"sizes must be at least 1, got {num_users} users, {num_items} items, "
            f"branching {branching}"
        )
    if not num_users <= num_interactions <= num_users * num_items // 10:
        raise ValueError(
            f"num_interactions must lie between the number of users and a tenth of all pairs, "
            f"{num_users} … {num_users * num_items // 10}, got {num_interactions}"
        )
    rng = np.random.Generator(np.random.PCG64(seed))
    quota = _activity(num_users, num_interactions, rng)
    tree = Tree(num_items, branching, rng)
    # Squaring favours the low leaves: some genres are larger than others.
    homes = below(rng.random((num_users, HOMES)) ** 2, tree.num_leaves)
    return draw_distinct(quota, homes, tree, rng)


def draw_distinct(quota: np.ndarray, homes: np.ndarray, tree: Tree, rng) -> np.ndarray:
    """quota[u] different items for each user u with these homes, int64 (quota.sum(), 2)."""
    num_users, num_items = len(quota), tree.num_items
    # Pairs as user · num_items + place, in sorted, mutually disjoint chunks, one an attempt.
    chunks: list[np.ndarray] = []
    missing = quota
    while missing.any():
        users = np.repeat(np.arange(num_users), missing)
        home = homes[users, below(rng.random(len(users)) ** 2, HOMES)]
        # What a user's niches cannot supply after a few attempts comes from higher up.
        places = tree.draw(home, rng, extra_climb=len(chunks) // 3)
        new = np.sort(users * num_items + places)
        new = new[np.diff(new, prepend=-1) != 0]
        for chunk in chunks:
            new = new[~_contains(chunk, new)]
        chunks.append(new)
        missing = missing - np.bincount(new // num_items, minlength=num_users)
    users, places = np.divmod(np.sort(np.concatenate(chunks)), num_items)
    return np.stack([users, tree.item_at[places]], axis=1)


class Tree:
    """Items on a line so that every subtree is an interval, with cumulative popularity."""

    def __init__(self, num_items: int, branching: tuple[int, ...], rng) -> None:
        self.num_items = num_items
        self.depth = len(branching)
        self.num_nodes = np.cumprod([1, *branching])  # by level, the root first
        self.num_leaves = int(self.num_nodes[-1])
        self.item_at = shuffle(num_items, rng)  # ids tell nothing about the tree
        popularity = 2**40 // (shuffle(num_items, rng) + 6)
        self.mass = np.concatenate([[0], np.cumsum(popularity)])

    def draw(self, leaf: np.ndarray, rng, extra_climb: int) -> np.ndarray:
        """A place for every leaf: climb, then draw by popularity (above the root: uniformly)."""
        thresholds = 1 - np.ldexp(1.0, -np.arange(1, self.depth + 1))
        climb = np.searchsorted(thresholds, rng.random(len(leaf)), side="right") + extra_climb
        level = np.maximum(self.depth - climb, 0)
        node = leaf // (self.num_leaves // self.num_nodes[level])
        first = self.num_items * node // self.num_nodes[level]
        # At least one place: there may be fewer items than nodes.
        last = np.maximum(self.num_items * (node + 1) // self.num_nodes[level], first + 1)
        low, high = self.mass[first], self.mass[last]
        draw = rng.random(len(leaf))
        by_popularity = np.searchsorted(self.mass, low + below(draw, high - low), "right") - 1
        return np.where(climb <= self.depth, by_popularity, below(draw, self.num_items))


def _activity(num_users: int, total: int, rng) -> np.ndarray:
    """Interactions per user, summing to total; at most 5 times the mean."""
    equal = max(total // (3 * num_users), 1)
    share = np.cumsum(1 / (shuffle(num_users, rng) + 1 + num_users / 20))
    ends = below(share / share[-1], total - equal * num_users)
    return equal + np.diff(ends, prepend=0)


def shuffle(size: int, rng) -> np.ndarray:
    """The numbers 0 … size−1 in random order."""
    # Generator.permutation may change between numpy releases; the doubles of PCG64 do not.
    return np.argsort(rng.random(size), kind="stable")


def below(uniform: np.ndarray, bound) -> np.ndarray:
    """Integers in [0, bound) from doubles in [0, 1)."""
    return (uniform * bound).astype(np.int64)


def _contains(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    at = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return ordered[at] == values if len(ordered) else np.zeros(len(values), dtype=bool)
