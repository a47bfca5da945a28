"""The metrics against a loop over users, on rankings by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hdrm import CSR, BipartiteGraph, ops
from hdrm.data import load
from hdrm.train import evaluate, popularity

CUTOFFS = (1, 5, 20)


def naive(points, relevant, exclude, cutoffs):
    """Everything for one user after the other, as the definitions read."""
    users, items = points
    totals, count = {}, 0
    for user in range(len(users)):
        wanted = set(relevant.row(user).tolist())
        if not wanted:
            continue
        count += 1
        distance = ops.distance(users[user].expand_as(items), items)
        seen = set(exclude.row(user).tolist())
        ranking = [i for i in torch.argsort(distance, stable=True).tolist() if i not in seen]
        for k in cutoffs:
            top = ranking[:k]
            hits = [place for place, item in enumerate(top, 1) if item in wanted]
            ideal = sum(1 / math.log2(j + 1) for j in range(1, min(k, len(wanted)) + 1))
            values = {
                "recall": len(hits) / len(wanted),
                "precision": len(hits) / k,
                "ndcg": sum(1 / math.log2(j + 1) for j in hits) / ideal,
                "mrr": 1 / hits[0] if hits else 0.0,
            }
            for name, value in values.items():
                totals[f"{name}@{k}"] = totals.get(f"{name}@{k}", 0.0) + value
    return {name: total / count for name, total in totals.items()}


@pytest.fixture
def problem():
    generator = np.random.default_rng(3)
    num_users, num_items = 60, 40
    tangent = torch.randn(num_users + num_items, 6, generator=torch.Generator().manual_seed(0))
    points = ops.expmap0(tangent).split([num_users, num_items])
    pairs = np.argwhere(generator.random((num_users, num_items)) < 0.2)
    relevant, seen = pairs[::2], pairs[1::2]
    relevant = relevant[relevant[:, 0] % 5 != 0]  # some users have nothing to find
    relevant, seen = (CSR.from_pairs(*p.T, num_users, num_items) for p in (relevant, seen))
    return points, relevant, seen


def test_metrics_equal_the_naive_loop(problem):
    found = evaluate(*problem, cutoffs=CUTOFFS)
    expected = naive(*problem, CUTOFFS)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-12), name


def test_blocks_change_no_digit(problem, monkeypatch):
    whole = evaluate(*problem)
    monkeypatch.setitem(evaluate.__globals__, "BLOCK", 7)
    assert evaluate(*problem) == whole


def test_what_is_excluded_may_be_in_several_matrices(problem):
    points, relevant, exclude = problem
    odd, even = (exclude.where(lambda u, i, k=k: (u + i) % 2 == k) for k in (1, 0))
    assert 0 < odd.nnz < exclude.nnz
    assert evaluate(points, relevant, odd, even) == evaluate(*problem)


def test_cutoffs_beyond_the_number_of_items(problem):
    """All items are ranked then: what is not excluded is found."""
    points, relevant, exclude = problem
    assert evaluate(points, relevant, exclude, cutoffs=(100,))["recall@100"] == 1.0


def test_popularity_ranks_by_training_counts_then_id():
    train = np.array([[0, 2], [1, 2], [2, 1], [0, 3], [1, 3], [2, 4]])
    users, items = popularity(BipartiteGraph.from_interactions(*train.T, 3, 6))
    _, ranking = ops.topk(users, items, 6)
    assert ranking.tolist() == [[2, 3, 1, 4, 0, 5]] * 3


def test_popularity_on_ml_1m_is_the_known_one():
    """The figures of an independent implementation on the same split."""
    try:
        data = load("ml-1m_clean")
    except FileNotFoundError:
        pytest.skip("ml-1m_clean is not here")
    found = evaluate(popularity(data.graph), data.test, data.train, data.valid)
    expected = {"recall@10": 0.054, "recall@20": 0.099, "ndcg@10": 0.059, "ndcg@20": 0.072}
    assert {name: round(found[name], 3) for name in expected} == pytest.approx(expected, abs=1.1e-3)
