"""The metrics against loops over users, on rankings by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hdrm import CSR, BipartiteGraph, ops
from hdrm.data import load
from hdrm.train import evaluate, popularity
from hdrm.train.evaluate import by_distance, evaluate_ranking, task, user_metrics

CUTOFFS = (1, 5, 20)


def of_one_user(ranking: list[int], wanted: set[int], k: int) -> dict[str, float]:
    """The four metrics as their definitions read."""
    hits = [place for place, item in enumerate(ranking[:k], 1) if item in wanted]
    ideal = sum(1 / math.log2(j + 1) for j in range(1, min(k, len(wanted)) + 1))
    return {
        f"recall@{k}": len(hits) / len(wanted),
        f"ndcg@{k}": sum(1 / math.log2(j + 1) for j in hits) / ideal,
        f"precision@{k}": len(hits) / k,
        f"mrr@{k}": 1 / hits[0] if hits else 0.0,
    }


def naive(scores, relevant, exclude, cutoffs) -> dict[str, list[float]]:
    """Every metric of one user after the other: all items sorted, the smaller id first on a tie.

    scores: a list of each user's float of every item, the largest is the best. relevant, exclude:
    sets of (user, item).
    """
    found = {}
    for user, row in enumerate(scores):
        wanted = {item for u, item in relevant if u == user}
        if not wanted:
            continue
        allowed = [item for item in range(len(row)) if (user, item) not in exclude]
        ranking = sorted(allowed, key=lambda item: (-row[item], item))
        for k in cutoffs:
            for name, value in of_one_user(ranking, wanted, k).items():
                found.setdefault(name, []).append(value)
    return found


def pairs_of(csr: CSR) -> set[tuple[int, int]]:
    return set(zip(*(ids.tolist() for ids in csr.pairs())))


def minus_distances(users: torch.Tensor, items: torch.Tensor) -> list[list[float]]:
    """−arcosh of the Lorentz product, float64; the same numbers for the same points."""
    x, y = (points.double().numpy()[:, 1:] for points in (users, items))
    time = [np.sqrt(1 + (points**2).sum(1)) for points in (x, y)]
    rows = [t * time[1] - (u * y).sum(1) for t, u in zip(time[0], x)]
    return [(-np.arccosh(np.maximum(row, 1))).tolist() for row in rows]


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-12, err_msg=name)


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
    points, relevant, exclude = problem
    expected = naive(minus_distances(*points), pairs_of(relevant), pairs_of(exclude), CUTOFFS)
    found = dict(user_metrics(by_distance(points, exclude), relevant, CUTOFFS))
    assert_same(found, expected)
    assert len(found["ndcg@5"]) == int((relevant.degrees > 0).sum()) < 60
    means = {name: np.mean(values) for name, values in expected.items()}
    assert_same(evaluate(*problem, cutoffs=CUTOFFS), means)


@pytest.mark.parametrize("seed", range(8))
def test_equal_items_are_ranked_by_id(seed):
    """Few distinct points, so that most of a ranking is ties; items both wanted and left out; users
    without anything to find; one who may be shown nothing; K beyond the number of items.
    """
    generator = np.random.default_rng(seed)
    num_users, num_items = generator.integers(5, 40, 2).tolist()
    tangent = torch.from_numpy(generator.normal(size=(num_users + 6, 5)))
    users, places = ops.expmap0(tangent).split([num_users, 6])
    points = users, places[torch.from_numpy(generator.integers(0, 6, num_items))]
    wanted, excluded = (generator.random((num_users, num_items)) < share for share in (0.3, 0.4))
    wanted[::4] = False
    wanted[1, 0] = excluded[1] = True
    relevant, exclude = (
        CSR.from_pairs(*np.nonzero(chosen), num_users, num_items) for chosen in (wanted, excluded)
    )
    cutoffs = (1, 3, 10, num_items, num_items + 7)
    expected = naive(minus_distances(*points), pairs_of(relevant), pairs_of(exclude), cutoffs)
    assert_same(dict(user_metrics(by_distance(points, exclude), relevant, cutoffs)), expected)


def test_any_ranking_is_measured_by_the_same_definitions(monkeypatch):
    """Scores of small integers, cut short by −1, in blocks of a few users."""
    monkeypatch.setitem(evaluate_ranking.__globals__, "BLOCK", 4)
    generator = np.random.default_rng(5)
    scores = generator.integers(0, 5, (30, 25)).astype(float)
    excluded = generator.random(scores.shape) < 0.85
    relevant = CSR.from_pairs(*np.nonzero(generator.random(scores.shape) < 0.2), *scores.shape)
    exclude = set(zip(*(ids.tolist() for ids in np.nonzero(excluded))))
    order = np.argsort(np.where(excluded, np.inf, -scores), axis=1, kind="stable")
    order[np.take_along_axis(excluded, order, 1)] = -1
    assert (order[:, :20] == -1).any()

    def rank(users, k):
        return torch.from_numpy(order[users.numpy(), :k])

    expected = naive(scores.tolist(), pairs_of(relevant), exclude, CUTOFFS)
    assert_same(dict(user_metrics(rank, relevant, CUTOFFS)), expected)
    means = {name: np.mean(values) for name, values in expected.items()}
    assert_same(evaluate_ranking(rank, relevant, CUTOFFS), means)


def test_nothing_to_find_is_an_error(problem):
    points, relevant, _ = problem
    with pytest.raises(ValueError, match="no user has a relevant item"):
        evaluate(points, relevant.where(lambda users, items: users < 0))


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


def test_a_split_that_is_not_ranked_is_an_error():
    with pytest.raises(ValueError, match="'valid' or 'test', got 'train'"):
        task(load("demo"), "train")


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
