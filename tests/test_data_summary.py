"""The figures of a data set are what slow and plain computations give."""

from __future__ import annotations

import itertools
import re
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdrm import BipartiteGraph
from hdrm.data import Dataset, hyperbolicity, load
from hdrm.data.hyperbolicity import (
    Hyperbolicity,
    four_point,
    pairwise_distances,
    sampled_hyperbolicity,
)
from hdrm.data.summary import Summary, expectation, gini, power_law, summarise

edge_lists = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 7)), min_size=1, max_size=30)


def graph_of(edges, num_users=10, num_items=8) -> BipartiteGraph:
    return BipartiteGraph.from_interactions(*np.array(edges).T, num_users, num_items)


def breadth_first(graph: BipartiteGraph, source: int) -> list[int]:
    distances = [-1] * graph.num_nodes
    distances[source] = 0
    queue = deque([source])
    while queue:
        node = queue.popleft()
        for other in graph.col[graph.rowptr[node] : graph.rowptr[node + 1]].tolist():
            if distances[other] < 0:
                distances[other] = distances[node] + 1
                queue.append(other)
    return distances


@given(edge_lists, st.integers(1, 40))
def test_distances_are_those_of_a_search_from_each_node(edges, block):
    graph = graph_of(edges)
    nodes = np.random.default_rng(len(edges)).permutation(graph.num_nodes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hyperbolicity, "BLOCK", block)
        found = pairwise_distances(graph, nodes)
    assert found.tolist() == [[breadth_first(graph, a)[b] for b in nodes] for a in nodes]


def naive_four_point(d) -> tuple[float, float]:
    deltas = []
    for w, x, y, z in itertools.combinations(range(len(d)), 4):
        sums = sorted((d[w][x] + d[y][z], d[w][y] + d[x][z], d[w][z] + d[x][y]))
        deltas.append((sums[2] - sums[1]) / 2)
    return max(deltas), sum(deltas) / len(deltas)


@settings(max_examples=40)
@given(st.integers(4, 9), st.integers(0, 1000))
def test_four_points_are_the_naive_loop(n, seed):
    distances = np.random.default_rng(seed).integers(4, 9, (n, n))  # a metric
    upper = np.triu(distances, 1).astype(np.int16)
    distances = upper + upper.T
    largest, mean = four_point(distances)
    assert (largest, pytest.approx(mean)) == naive_four_point(distances.tolist())


def test_delta_of_known_graphs():
    """Trees have δ = 0; a cycle of 4 n nodes has δ = n (and diameter 2 n)."""
    random = np.random.default_rng(0)
    tree = [(0, 0)]
    for node in range(1, 40):  # a user joins an item that is there, and brings an item
        tree += [(node, int(random.integers(0, node))), (node, node)]
    found = sampled_hyperbolicity(graph_of(tree, 40, 40))
    assert (found.delta, found.mean, found.relative) == (0, 0, 0) and found.diameter > 4
    for n in (1, 2, 5):
        cycle = [(k, k) for k in range(2 * n)] + [(k, (k + 1) % (2 * n)) for k in range(2 * n)]
        found = sampled_hyperbolicity(graph_of(cycle, 2 * n, 2 * n))
        assert (found.nodes, found.delta, found.diameter) == (4 * n, n, 2 * n)
        assert found.relative == 1


def test_delta_is_of_one_component_and_seeded():
    square, edge = [(0, 0), (0, 1), (1, 0), (1, 1)], [(2, 2)]
    found = sampled_hyperbolicity(graph_of(square + edge, 5, 5))
    assert found == Hyperbolicity(4, 1, 1, 2)
    assert sampled_hyperbolicity(graph_of(edge * 2 + [(3, 3)])) is None
    path = [(k, k) for k in range(80)] + [(k + 1, k) for k in range(79)]
    assert sampled_hyperbolicity(graph_of(path, 80, 80)) is None, "longer than 64"
    data = load("demo")
    first, again = (sampled_hyperbolicity(data.graph, seed=seed) for seed in (0, 0))
    assert first == again and first.nodes == 64
    assert sampled_hyperbolicity(data.graph, seed=1).mean != first.mean


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20).filter(any))
def test_gini_is_the_mean_difference(counts):
    difference = sum(abs(a - b) for a in counts for b in counts) / len(counts) ** 2
    assert gini(np.array(counts)) == pytest.approx(difference / 2 / np.mean(counts))


def naive_power_law(counts: list[int], least: int):
    best = None
    for start in sorted(set(counts)):
        tail = [k for k in counts if k >= start]
        if start < 6 or len(tail) < least:
            continue
        exponent = 1 + len(tail) / sum(np.log(k / (start - 0.5)) for k in tail)
        gap = max(
            abs(
                sum(j >= k for j in tail) / len(tail)
                - ((k - 0.5) / (start - 0.5)) ** (1 - exponent)
            )
            for k in set(tail)
        )
        if best is None or gap < best[3]:
            best = exponent, start, len(tail) / sum(k > 0 for k in counts), gap
    return best


def drawn(exponent: float, start: int, n: int, seed: int) -> np.ndarray:
    """Integers with P(K ≥ k) ∝ (k − ½)^(1−α) from ``start`` on."""
    uniform = 1 - np.random.default_rng(seed).random(n)
    return np.floor((start - 0.5) * uniform ** (1 / (1 - exponent)) + 0.5).astype(np.int64)


@pytest.mark.parametrize("seed", range(3))
def test_the_tail_is_the_naive_fit(seed):
    counts = np.concatenate((drawn(2.3, 9, 120, seed), np.arange(40) % 9))
    found = power_law(counts, least=20)
    expected = naive_power_law(counts.tolist(), 20)
    assert (found.exponent, found.start, found.share, found.gap) == pytest.approx(expected)


@pytest.mark.parametrize("exponent", [1.8, 2.5, 3.5])
def test_the_exponent_is_found_again(exponent):
    low = np.random.default_rng(1).integers(1, 10, 20_000)
    found = power_law(np.concatenate((drawn(exponent, 10, 30_000, 0), low)))
    assert found.exponent == pytest.approx(exponent, abs=0.05) and 9 <= found.start <= 20


def test_too_few_for_a_tail():
    assert power_law(np.array([1, 2, 3] * 100)) is None
    assert power_law(np.array([100] * 49)) is None


def test_summary_of_a_small_set():
    train = np.array([(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2), (2, 3), (2, 4)])
    rest = np.array([(0, 5), (3, 1)])
    found = summarise(Dataset.from_pairs("x", 4, 6, train, rest, rest[:1]))
    assert found.sizes == {"train": 8, "valid": 2, "test": 1} and found.density == 11 / 24
    users, items = found.users, found.items
    assert (users.median, users.largest, users.none, users.few) == (1.5, 5, 1, 3)
    assert (items.median, items.largest, items.none, items.few) == (1, 3, 1, 6)
    assert found.tail is None and found.hyperbolicity.nodes == 8


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "Too few of the sampled nodes"),
        (Hyperbolicity(64, 2.0, 0.3, 6), r"short \(at most 6 among 64 nodes\)"),
        (Hyperbolicity(64, 1.0, 0.3, 8), "close to a tree's, which hyperbolic space holds"),
        (Hyperbolicity(64, 1.5, 0.3, 8), "not close to a tree's"),
    ],
)
def test_expectation_is_one_careful_sentence(found, words):
    summary = summarise(load("demo"))
    changed = Summary(**{**vars(summary), "hyperbolicity": found})
    text = expectation(changed)
    assert re.search(words, text) and "measure it" in text and ". " not in text
