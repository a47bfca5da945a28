"""The Euclidean rankers: EASE against its least squares, LightGCN learns, both are ranked alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hdrm import baselines
from hdrm.data import load
from hdrm.graph import CSR
from hdrm.train.evaluate import evaluate, popularity


def test_ease_solves_its_least_squares():
    """Each column alone: a ridge regression of an item on the others."""
    x = (np.random.default_rng(0).random((30, 8)) < 0.4).astype(float)
    train = CSR.from_pairs(*np.nonzero(x), 30, 8)
    scores = baselines.ease(train, 3.0)(torch.arange(30)).numpy()
    for j in range(8):
        others = np.delete(x, j, 1)
        b = np.linalg.solve(others.T @ others + 3 * np.eye(7), others.T @ x[:, j])
        np.testing.assert_allclose(scores[:, j], others @ b, atol=1e-5)


def test_scores_are_evaluated_as_distances_are():
    dataset = load("demo")
    users, items = popularity(dataset.graph)
    known = dataset.train, dataset.valid
    expected = evaluate((users, items), dataset.test, *known, cutoffs=(10, 20))
    by_radius = -items[:, 1].expand(dataset.num_users, -1)
    found = baselines.evaluate_scores(lambda u: by_radius[u].clone(), dataset.test, *known)
    assert found == pytest.approx(expected, rel=1e-12)


def test_lightgcn_learns_until_it_gains_nothing():
    dataset = load("demo")
    asked = []

    def candidates():
        settings = {"dim": 16, "layers": 2, "lr": 1e-2, "batch": 2048, "every": 3}
        for epoch, scores in baselines.lightgcn(dataset.graph, **settings):
            asked.append(epoch)
            yield epoch, scores

    epoch, valid, test = baselines.chosen(candidates(), dataset, patience=2)
    popular = evaluate(popularity(dataset.graph), dataset.valid, dataset.train)
    assert valid["ndcg@20"] > 1.2 * popular["ndcg@20"] and test["ndcg@20"] > 0
    assert asked == list(range(3, epoch + 7, 3))
