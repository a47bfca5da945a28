"""Splits lose nothing, repeat nothing, and keep their promises about users and time."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_loading import real

from hdrm import BipartiteGraph
from hdrm.data import Dataset
from hdrm.data.splits import (
    by_global_time,
    by_time,
    by_time_as_published,
    carve_validation,
    first_occurrences,
    k_core,
    leave_one_out,
    make_disjoint,
    of_graph,
    per_user,
)

pair_lists = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), max_size=60)


def as_array(pairs) -> np.ndarray:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def full_grid(num_users: int, num_items: int) -> np.ndarray:
    return np.stack(np.divmod(np.arange(num_users * num_items), num_items), axis=1)


def as_set(pairs: np.ndarray) -> set:
    return set(map(tuple, pairs.tolist()))


@given(pair_lists)
def test_first_occurrences_is_a_set_in_order(pairs):
    array = as_array(pairs)
    assert array[first_occurrences(array)].tolist() == [list(p) for p in dict.fromkeys(pairs)]


@given(pair_lists, pair_lists, pair_lists)
def test_make_disjoint_prefers_train_then_valid(train, valid, test):
    splits, notes = make_disjoint((as_array(train), as_array(valid), as_array(test)))
    expected = (set(train), set(valid) - set(train), set(test) - set(train) - set(valid))
    assert tuple(map(as_set, splits)) == expected
    assert [len(s) for s in splits] == [len(e) for e in expected]
    lost = [len(a) > len(e) for a, e in zip((train, valid, test), expected)]
    assert len(notes) == sum(lost)


def test_make_disjoint_leaves_clean_splits_alone():
    splits = tuple(as_array([(0, i), (1, i)]) for i in range(3))
    result, notes = make_disjoint(splits)
    assert notes == [] and all(a is b for a, b in zip(result, splits))


@settings(max_examples=30)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 3))
def test_per_user_shares(counts, seed):
    counts = [*counts, 10]  # one user whose items reach all three splits
    pairs = as_array([(u, i) for u, n in enumerate(counts) for i in range(n)])
    splits = per_user(pairs, seed)
    assert set().union(*map(as_set, splits)) == as_set(pairs)
    assert sum(map(len, splits)) == len(pairs)
    train, valid, test = (np.bincount(s[:, 0], minlength=len(counts)) for s in splits)
    for n, a, b, c in zip(counts, train, valid, test):
        assert a >= 1
        assert abs(b - n * 0.1) <= 0.5 and abs(c - n * 0.2) <= 0.5 + 1e-9


def test_per_user_is_random_and_seeded():
    pairs = full_grid(20, 50)
    again = per_user(pairs, 0)
    assert all(np.array_equal(a, b) for a, b in zip(per_user(pairs, 0), again))
    assert as_set(per_user(pairs, 1)[2]) != as_set(again[2])
    # A split that took the first or last items would have a mean far from 24.5.
    assert abs(again[2][:, 1].mean() - 24.5) < 3.5


def split_sets(graph, seed) -> list[set]:
    train, valid, test = of_graph(graph, seed)
    return [set(zip(*(ids.tolist() for ids in csr.pairs())))
            for csr in (train.user_items, valid, test)]  # fmt: skip


def test_a_graph_is_split_as_pairs_are(monkeypatch):
    monkeypatch.setattr("hdrm.graph.BLOCK", 50)
    sizes = np.array([1, 2, 3, 5, 0, 10, 33, 97])
    pairs = as_array([(u, (7 * i + u) % 100) for u, n in enumerate(sizes) for i in range(n)])
    graph = BipartiteGraph.from_interactions(*pairs.T, len(sizes), 100)
    splits = split_sets(graph, 0)
    assert set().union(*splits) == as_set(pairs) and sum(map(len, splits)) == len(pairs)
    of_pairs = per_user(pairs, 0)
    for found, expected in zip(splits, of_pairs):
        counts = np.bincount([u for u, _ in found], minlength=len(sizes))
        assert counts.tolist() == np.bincount(expected[:, 0], minlength=len(sizes)).tolist()
    train = of_graph(graph, 0)[0]
    again = BipartiteGraph.from_interactions(*train.user_items.pairs(), len(sizes), 100)
    assert torch.equal(train.rowptr, again.rowptr) and torch.equal(train.col, again.col)
    assert split_sets(graph, 0) == splits and split_sets(graph, 1) != splits
    # A split that took the first or last items would have a mean far from 49.
    held_out = [i for u, i in splits[2] if u == 7]
    assert abs(np.mean(held_out) - 49) < 20
    with pytest.raises(ValueError, match="too few interactions to split.* 2/0/0"):
        of_graph(BipartiteGraph.from_interactions([0, 1], [0, 0]), 0)


def test_by_time_takes_each_users_last_items():
    rng = np.random.default_rng(0)
    pairs = rng.permutation(full_grid(25, 10))
    splits = by_time(pairs)
    when = {tuple(pair): k for k, pair in enumerate(pairs.tolist())}
    for user in range(25):
        times = [[when[tuple(p)] for p in s.tolist() if p[0] == user] for s in splits]
        assert [len(t) for t in times] == [7, 1, 2]
        assert times == [sorted(t) for t in times]
        assert max(times[0]) < min(times[1]) and max(times[1]) < min(times[2])


def naive_core(pairs: list, k: int) -> list:
    while True:
        users, items = (Counter(pair[side] for pair in pairs) for side in (0, 1))
        kept = [(u, i) for u, i in pairs if users[u] >= k and items[i] >= k]
        if kept == pairs:
            return kept
        pairs = kept


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), unique=True), st.integers(1, 5))
def test_k_core_is_the_naive_one(pairs, k):
    array = as_array(pairs)
    assert [tuple(pair) for pair in array[k_core(array, k)].tolist()] == naive_core(pairs, k)


def test_k_core_peels_a_long_path():
    path = as_array([(i // 2, (i + 1) // 2) for i in range(400)])
    square = as_array([(500, 500), (500, 501), (501, 500), (501, 501)])
    pairs = np.concatenate((path, square))
    assert k_core(pairs, 2).tolist() == [False] * 400 + [True] * 4
    assert k_core(pairs, 1).all() and not k_core(pairs, 3).any()


def naive_per_user(pairs: np.ndarray, part_of) -> dict[str, set]:
    """part_of(position, number of the user's pairs) names the split of each pair."""
    parts = {"train": set(), "valid": set(), "test": set()}
    counts, seen = Counter(pairs[:, 0].tolist()), Counter()
    for user, item in pairs.tolist():
        parts[part_of(seen[user], counts[user])].add((user, item))
        seen[user] += 1
    return parts


def as_published(at: int, n: int) -> str:
    return "train" if at <= 0.7 * n else "test" if at <= 0.8 * n else "valid"


def last_out(at: int, n: int) -> str:
    return "train" if n < 3 or at < n - 2 else "valid" if at == n - 2 else "test"


@pytest.mark.parametrize(
    ("split", "part_of"), [(by_time_as_published, as_published), (leave_one_out, last_out)]
)
def test_splits_by_position_are_the_naive_loop(split, part_of):
    """Of 1 … 200 interactions of a user; 90, 170, … are where 0.7 n in floats is below its integer."""
    pairs = np.concatenate([full_grid(1, n) + (n, 0) for n in range(1, 201)])
    pairs = np.random.default_rng(0).permutation(pairs)
    splits = split(pairs)
    for found, expected in zip(splits, naive_per_user(pairs, part_of).values()):
        assert as_set(found) == expected and len(found) == len(expected)


def test_the_published_rule_gives_the_published_files():
    names = ("train", "test", "valid")
    in_time = [np.load(real("ml-1m_clean") / f"{name}_list.npy") for name in names]
    train, valid, test = by_time_as_published(np.concatenate(in_time))
    for found, published in zip((train, test, valid), in_time):
        assert np.array_equal(found, published)


def test_leave_one_out_at_random():
    pairs = full_grid(40, 50)
    train, valid, test = leave_one_out(pairs, 0)
    assert as_set(train) | as_set(valid) | as_set(test) == as_set(pairs)
    assert np.bincount(valid[:, 0]).tolist() == np.bincount(test[:, 0]).tolist() == [1] * 40
    assert len(set(test[:, 1].tolist())) > 10
    assert as_set(leave_one_out(pairs, 1)[2]) != as_set(test) == as_set(leave_one_out(pairs, 0)[2])


@given(st.integers(8, 60), st.integers(0, 3))
def test_global_time_cuts_once(n, seed):
    pairs = np.random.default_rng(seed).integers(0, 9, (n, 2))
    splits = by_global_time(pairs)
    assert np.array_equal(np.concatenate(splits), pairs)
    assert [len(split) for split in splits[1:]] == [int(n * 0.1 + 0.5), int(n * 0.2 + 0.5)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_interactions(count):
    pairs = full_grid(1, count)
    with pytest.raises(ValueError, match="too few interactions"):
        by_time(pairs)
    with pytest.raises(ValueError, match="too few interactions"):
        per_user(pairs, 0)
    with pytest.raises(ValueError, match="too few interactions"):
        by_global_time(pairs)
    with pytest.raises(ValueError, match="too few interactions"):
        by_time_as_published(pairs)


def test_too_few_to_leave_one_out():
    with pytest.raises(ValueError, match=r"leaving one out\): 8 distinct .* = 8/0/0"):
        leave_one_out(full_grid(4, 2))


def test_carve_validation():
    pairs = as_array([(u, i) for u, n in enumerate([1, 4, 10, 30]) for i in range(n)])
    train, valid = carve_validation(pairs, 0)
    assert np.bincount(valid[:, 0], minlength=4).tolist() == [0, 0, 1, 3]
    assert as_set(train) | as_set(valid) == as_set(pairs) and len(train) + len(valid) == len(pairs)
    with pytest.raises(ValueError, match="carve a validation split"):
        carve_validation(full_grid(9, 4), 0)


def dataset(**changes) -> Dataset:
    pairs = as_array([(0, 0), (1, 2)])
    fields = {"num_users": 2, "num_items": 3, "train": pairs, "valid": pairs, "test": pairs}
    return Dataset.from_pairs(**({"name": "x"} | fields | changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"train": as_array([])}, ValueError, "train is empty"),
        ({"valid": as_array([])}, ValueError, "valid is empty"),
        ({"test": as_array([])}, ValueError, "test is empty"),
        ({"train": np.zeros((2, 3), np.int64)}, ValueError, r"shape \(n, 2\)"),
        ({"train": np.zeros((2, 2), np.int32)}, TypeError, "int64 numpy array, got int32"),
        ({"train": [[0, 0]]}, TypeError, "got list"),
        ({"train": as_array([(0, 3)])}, ValueError, r"item ids must lie in 0 … 2, got 3 … 3"),
        ({"test": as_array([(-1, 0)])}, ValueError, r"user ids must lie in 0 … 1, got -1 … -1"),
        ({"num_users": 2**31}, ValueError, "renumber"),
        ({"item_labels": ["a"]}, ValueError, "item_labels: expected 3 labels, got 1"),
    ],
)
def test_dataset_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        dataset(**changes)


def test_fingerprint_sees_every_part():
    pairs = as_array([(0, 0), (1, 2)])
    variants = [
        {},
        {"num_users": 3},
        {"num_items": 4},
        {"valid": pairs[:1]},
        {"test": as_array([(0, 0), (1, 1)])},
        {"train": as_array([(0, 2), (1, 2)])},
        {"train": pairs[:1]},
    ]
    prints = [dataset(**changes).fingerprint() for changes in variants]
    assert len(set(prints)) == len(prints)
    assert dataset(name="other").fingerprint() == prints[0]
    assert dataset(train=pairs[::-1]).fingerprint() == prints[0], "the order does not matter"
    assert dataset().summary()["users"] == 2
