"""Dividing interactions into train, valid and test, and keeping the three disjoint."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hdrm.graph import CSR, BipartiteGraph
from hdrm.seeds import derive_seed, pair_bits

VALID_SHARE = 0.1
TEST_SHARE = 0.2

Splits = tuple[np.ndarray, np.ndarray, np.ndarray]


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


def by_time(pairs: np.ndarray) -> Splits:
    """Each user's first 70 % train, the next 10 % validate, the last 20 % test (rounded).

    ``pairs`` come in the order of time. Every user keeps one in train, as in the paper's splits.
    """
    return _not_empty(_split_each_user(pairs, None, VALID_SHARE, TEST_SHARE), len(pairs))


def per_user(pairs: np.ndarray, seed: int) -> Splits:
    """Random split of each user's items, 70 / 10 / 20 rounded; every user keeps one in train."""
    return _not_empty(_split_each_user(pairs, seed, VALID_SHARE, TEST_SHARE), len(pairs))


def of_graph(graph: BipartiteGraph, seed: int) -> tuple[BipartiteGraph, CSR, CSR]:
    """As ``per_user``, of a graph in host memory or files; memory: the results and a block.

    Every interaction has 32 random bits, a hash of (seed, user, item). Those of each user with the
    largest are test, before them valid: two bounds a user say of an interaction where it belongs,
    whichever of the graph's rows it is read from. (Of equal bits at a bound, one chance in 2³², all
    stay on its lower side.)
    """
    key = derive_seed("split", seed)

    def bits(users: Tensor, items: Tensor) -> Tensor:
        return pair_bits(key, users, items, graph.num_items)

    count = graph.user_items.degrees.numpy()
    num_test, num_valid = round_half_up(count * TEST_SHARE), round_half_up(count * VALID_SHARE)
    bounds = np.zeros((2, len(count)), np.int64)  # the largest bits of train, of train and valid
    for at, users, items in graph.user_items.blocks():
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

    splits = graph.where(is_train), *(graph.user_items.where(k) for k in (is_valid, is_test))
    _require_all([splits[0].num_edges, splits[1].nnz, splits[2].nnz], graph.num_edges)
    return splits


def carve_validation(train: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Move a random 10 % (rounded) of each user's training items to a validation split.

    Returns (train, valid); every user keeps at least one training item.
    """
    train, valid, _ = _split_each_user(train, seed, VALID_SHARE, 0.0)
    if not len(valid):
        raise ValueError(
            f"cannot carve a validation split from {len(train):,} interactions: no user has 5 or "
            "more training items; provide a validation split"
        )
    return train, valid


def round_half_up(value):
    """Nearest integer; unlike Python's and numpy's rounding, halves always go up."""
    return np.floor(np.asarray(value) + 0.5).astype(np.int64)


def _split_each_user(pairs: np.ndarray, seed: int | None, valid: float, test: float) -> Splits:
    """The last items of each user, in the order given or (with a seed) a random one, are set apart."""
    if seed is None:
        ordered = pairs[np.argsort(pairs[:, 0], kind="stable")]
    else:
        key = np.random.Generator(np.random.PCG64(seed)).random(len(pairs))
        ordered = pairs[np.lexsort((key, pairs[:, 0]))]
    users = ordered[:, 0]
    counts = np.bincount(users)
    ends = np.cumsum(counts)
    num_test, num_valid = round_half_up(counts * test), round_half_up(counts * valid)
    # Items left in the user's run, this one included: the last ones are test, before them valid.
    left = ends[users] - np.arange(len(users))
    is_test = left <= num_test[users]
    is_valid = (left <= (num_test + num_valid)[users]) & ~is_test
    return ordered[~is_test & ~is_valid], ordered[is_valid], ordered[is_test]


def _not_empty(splits: Splits, total: int) -> Splits:
    _require_all([len(split) for split in splits], total)
    return splits


def _require_all(sizes: list[int], total: int) -> None:
    if 0 in sizes:
        raise ValueError(
            f"too few interactions to split 70/10/20: {total:,} distinct interactions gave "
            "train/valid/test = " + "/".join(map(str, sizes)) + "; provide more data"
        )
