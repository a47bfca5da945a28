"""Dividing interactions into train, valid and test, and keeping the three disjoint."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hdrm.graph import CSR, BipartiteGraph, Keep
from hdrm.seeds import derive_seed, pair_bits

VALID_SHARE = 0.1
TEST_SHARE = 0.2

Splits = tuple[np.ndarray, np.ndarray, np.ndarray]
# Of users' numbers of interactions: how many of each validate, and how many test.
Sizes = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def first_occurrences(pairs: np.ndarray) -> np.ndarray:
    """Bool (n,): True where a pair of the (n, 2) non-negative ids occurs for the first time."""
    keep = np.zeros(len(pairs), dtype=bool)
    if len(pairs):
        # user * width + item fits int64: Dataset bounds both ids by 2^31.
        key = pairs[:, 0] * (pairs[:, 1].max() + 1) + pairs[:, 1]
        keep[np.unique(key, return_index=True)[1]] = True
    return keep


def make_disjoint(splits: Splits) -> tuple[Splits, list[str]]:
    """Collapse repeated pairs within each split and across splits; train wins, then valid.

    A test pair that is also in train could never be recommended (training items are masked) and
    would only depress the metrics. Splits without repetition are returned untouched.

    Returns the splits and one remark per split that lost pairs.
    """
    keep = first_occurrences(np.concatenate(splits))
    bounds = np.cumsum([len(split) for split in splits])[:-1]
    kept, notes = [], []
    for name, split, mask in zip(("train", "valid", "test"), splits, np.split(keep, bounds)):
        dropped = len(split) - int(mask.sum())
        kept.append(split[mask] if dropped else split)
        if dropped:
            notes.append(f"{dropped:,} repeated interactions were dropped from {name}")
    return tuple(kept), notes


def k_core(pairs: np.ndarray, k: int) -> np.ndarray:
    """Bool (n,): the pairs of the k-core, the largest part in which all have k interactions or more.

    Users and items with fewer than k of the remaining interactions are removed until there are
    none (Seidman, Social Networks 1983, of the bipartite graph; it does not depend on the order).
    A round costs as much as what remains of the distinct pairs, int64 (n, 2).
    """
    kept = np.arange(len(pairs))
    while len(kept):
        enough = np.ones(len(kept), dtype=bool)
        for ids in pairs[kept].T:
            enough &= np.bincount(ids)[ids] >= k
        if enough.all():
            break
        kept = kept[enough]
    mask = np.zeros(len(pairs), dtype=bool)
    mask[kept] = True
    return mask


def by_time(pairs: np.ndarray) -> Splits:
    """Each user's first 70 % train, the next 10 % validate, the last 20 % test (rounded).

    ``pairs`` come in the order of time. Every user keeps one in train.
    """
    return _not_empty(_take_last(_of_users(pairs), _shares(VALID_SHARE, TEST_SHARE)), "70/10/20")


def by_global_time(pairs: np.ndarray) -> Splits:
    """The first 70 % of all interactions train, the next 10 % validate, the last 20 % test (rounded).

    ``pairs`` come in the order of time. Nothing in train is later than what is tested; users and
    items may be without training interactions.
    """
    sizes = _shares(VALID_SHARE, TEST_SHARE)(len(pairs))
    first, second = len(pairs) - sum(sizes), len(pairs) - sizes[1]
    return _not_empty((pairs[:first], pairs[first:second], pairs[second:]), "70/10/20")


def per_user(pairs: np.ndarray, seed: int) -> Splits:
    """Random split of each user's items, 70 / 10 / 20 rounded; every user keeps one in train."""
    ordered = _of_users(pairs, seed)
    return _not_empty(_take_last(ordered, _shares(VALID_SHARE, TEST_SHARE)), "70/10/20")


def leave_one_out(pairs: np.ndarray, seed: int | None = None) -> Splits:
    """Each user's last interaction tests and the one before validates, of users with 3 or more.

    The last ones of ``pairs`` in the order given, that of time, or (with a seed) of a random order.
    """

    def sizes(counts):
        return (counts >= 3).astype(np.int64), (counts >= 3).astype(np.int64)

    return _not_empty(_take_last(_of_users(pairs, seed), sizes), "leaving one out")


def by_time_as_published(pairs: np.ndarray) -> Splits:
    """The split of the files that DiffRec published and DDRM and HDRM use, of pairs ordered by time.

    Of a user's n interactions, numbered from 0 in the order of time, train gets those up to 0.7 n,
    **test** those up to 0.8 n and **valid** the rest. What is tested comes before what validates:
    DiffRec's paper says 7:1:2 for train, valid and test, and the files bear the two names the other
    way round (github.com/YiyanXu/DiffRec, issues 4 and 15, ask about their sizes).

    The rule was inferred from the published ml-1m_clean. It gives the three counts of each of its
    5,949 users, 0.7 n and 0.8 n in float64 (0.7 · 90 is below 63). The order was inferred from which
    films follow one another: train ends as test begins, and test as valid begins.
    """

    def sizes(counts):
        train, both = (
            np.minimum(counts, np.floor(share * counts).astype(np.int64) + 1)
            for share in (0.7, 0.8)
        )
        return both - train, counts - both

    train, middle, last = _take_last(_of_users(pairs), sizes)
    return _not_empty((train, last, middle), "70/10/20")


def of_graph(graph: BipartiteGraph, seed: int) -> tuple[BipartiteGraph, CSR, CSR]:
    """As ``per_user``, of a graph in host memory or files; memory: the results and a block."""
    is_train, is_valid, is_test = by_bits(graph.user_items, seed)
    splits = graph.where(is_train), *(graph.user_items.where(k) for k in (is_valid, is_test))
    require_all([splits[0].num_edges, splits[1].nnz, splits[2].nnz], "70/10/20")
    return splits


def by_bits(rows: CSR, seed: int, *, first: int = 0) -> tuple[Keep, Keep, Keep]:
    """Which interactions are train, valid and test: predicates of row numbers and items.

    Every interaction has 32 random bits, a hash of (seed, user, item). Those of each user with the
    largest are test, before them valid: two bounds a user say of an interaction where it belongs,
    whichever of the graph's rows it is read from. (Of equal bits at a bound, one chance in 2³², all
    stay on its lower side.)

    Args:
        rows: CSR (n × I) of the users first, …, first + n − 1.
    """
    key = derive_seed("split", seed)

    def bits(users: Tensor, items: Tensor) -> Tensor:
        return pair_bits(key, users + first, items, rows.num_cols)

    count = rows.degrees.numpy()
    num_test, num_valid = round_half_up(count * TEST_SHARE), round_half_up(count * VALID_SHARE)
    bounds = np.zeros((2, len(count)), np.int64)  # the largest bits of train, of train and valid
    for at, users, items in rows.blocks():
        keys = ((users << 32) | bits(users, items)).numpy()
        keys.sort()
        end = np.cumsum(count[at])
        some = np.flatnonzero(count[at])
        for bound, left_out in zip(bounds, (num_test + num_valid, num_test)):
            bound[at][some] = keys[(end - left_out[at] - 1)[some]] & (2**32 - 1)
    low, high = torch.from_numpy(bounds)

    def is_train(users: Tensor, items: Tensor) -> Tensor:
        return bits(users, items) <= low[users]

    def is_valid(users: Tensor, items: Tensor) -> Tensor:
        drawn = bits(users, items)
        return (low[users] < drawn) & (drawn <= high[users])

    def is_test(users: Tensor, items: Tensor) -> Tensor:
        return bits(users, items) > high[users]

    return is_train, is_valid, is_test


def carve_validation(train: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Move a random 10 % (rounded) of each user's training items to a validation split.

    Returns (train, valid); every user keeps at least one training item.
    """
    train, valid, _ = _take_last(_of_users(train, seed), _shares(VALID_SHARE, 0.0))
    if not len(valid):
        raise ValueError(
            f"cannot carve a validation split from {len(train):,} interactions: no user has 5 or "
            "more training items; provide a validation split"
        )
    return train, valid


def round_half_up(value):
    """Nearest integer; unlike Python's and numpy's rounding, halves always go up."""
    return np.floor(np.asarray(value) + 0.5).astype(np.int64)


def _of_users(pairs: np.ndarray, seed: int | None = None) -> np.ndarray:
    """The pairs user by user, each user's in the order given or (with a seed) a random one."""
    if seed is None:
        return pairs[np.argsort(pairs[:, 0], kind="stable")]
    key = np.random.Generator(np.random.PCG64(seed)).random(len(pairs))
    return pairs[np.lexsort((key, pairs[:, 0]))]


def _shares(valid: float, test: float) -> Sizes:
    return lambda counts: (round_half_up(counts * valid), round_half_up(counts * test))


def _take_last(ordered: np.ndarray, sizes: Sizes) -> Splits:
    """Of pairs user by user: a user's last items are test, those before them valid, so many of each
    as ``sizes`` says for the users' numbers of items.
    """
    users = ordered[:, 0]
    counts = np.bincount(users)
    ends = np.cumsum(counts)
    num_valid, num_test = sizes(counts)
    # Items left in the user's run, this one included: the last ones are test, before them valid.
    left = ends[users] - np.arange(len(users))
    is_test = left <= num_test[users]
    is_valid = (left <= (num_test + num_valid)[users]) & ~is_test
    return ordered[~is_test & ~is_valid], ordered[is_valid], ordered[is_test]


def _not_empty(splits: Splits, how: str) -> Splits:
    require_all([len(split) for split in splits], how)
    return splits


def require_all(sizes: list[int], how: str) -> None:
    if 0 in sizes:
        raise ValueError(
            f"too few interactions to split ({how}): {sum(sizes):,} distinct interactions gave "
            "train/valid/test = " + "/".join(map(str, sizes)) + "; provide more data"
        )
