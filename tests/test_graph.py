"""CSR and the bipartite graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hdrm import CSR, BipartiteGraph


def random_pairs(seed=0, users=20, items=15, count=120):
    rng = np.random.default_rng(seed)
    return rng.integers(0, users, count), rng.integers(0, items, count)


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, list])
def test_rows_are_the_sorted_neighbours(make):
    users, items = random_pairs()
    graph = BipartiteGraph.from_interactions(make(users), make(items), 22, 16)
    assert graph.rowptr.dtype == torch.int64 and graph.col.dtype == torch.int32
    assert (graph.num_users, graph.num_items, graph.num_nodes) == (22, 16, 38)
    edges = set(zip(users.tolist(), items.tolist()))
    assert graph.num_edges == len(edges)
    for user in range(22):
        expected = sorted(i for u, i in edges if u == user)
        assert graph.user_items.row(user).tolist() == expected
    for item in range(16):
        node = 22 + item
        found = graph.col[graph.rowptr[node] : graph.rowptr[node + 1]].tolist()
        assert found == sorted(u for u, i in edges if i == item)


def test_to_its_own_device_is_the_graph_itself():
    graph = BipartiteGraph.from_interactions(*random_pairs())
    assert graph.to("cpu") is graph and graph.user_items.to("cpu") is graph.user_items


def test_user_items_shares_memory():
    graph = BipartiteGraph.from_interactions(*random_pairs())
    assert graph.user_items.col.data_ptr() == graph.col.data_ptr()
    assert graph.user_items.rowptr.data_ptr() == graph.rowptr.data_ptr()
    assert graph.user_items.nnz == graph.num_edges


def test_duplicates():
    graph = BipartiteGraph.from_interactions([0, 0, 1], [1, 1, 0], duplicates="keep")
    assert graph.num_edges == 3
    assert graph.user_items.row(0).tolist() == [1]
    with pytest.raises(ValueError, match="must be 'collapse' or 'keep', got 'sum'"):
        BipartiteGraph.from_interactions([0], [0], duplicates="sum")


def test_without_compiled_code(monkeypatch):
    from hdrm import graph as module

    users, items = random_pairs(1)
    for duplicates in ("collapse", "keep"):
        built = BipartiteGraph.from_interactions(users, items, duplicates=duplicates)
        with monkeypatch.context() as patch:
            patch.setattr(module.native, "load", lambda: None)
            plain = BipartiteGraph.from_interactions(users, items, duplicates=duplicates)
        assert torch.equal(built.rowptr, plain.rowptr) and torch.equal(built.col, plain.col)


@pytest.mark.parametrize(
    ("users", "items", "sizes", "error", "message"),
    [
        ([0, -1], [0, 0], (), ValueError, "users must not be negative, got -1 at 1"),
        ([0, 5], [0, 0], (5, 5), ValueError, "users must be below 5, got 5 at position 1"),
        ([0, 1], [0, 7], (5, 5), ValueError, "items must be below 5, got 7 at position 1"),
        ([0, 1], [0], (), ValueError, "got 2 and 1"),
        ([0.0], [0], (), TypeError, "users must be one-dimensional integer ids, got float64"),
        ([[0]], [0], (), TypeError, r"int64 of shape \(1, 1\)"),
        ([0], [0], (2**30, 2**30), ValueError, "more than int32 columns number"),
    ],
)
def test_bad_interactions(users, items, sizes, error, message):
    with pytest.raises(error, match=message):
        BipartiteGraph.from_interactions(users, items, *sizes)


def test_csr_rows_and_pairs():
    csr = CSR.from_pairs([2, 0, 2, 2, 0], [3, 1, 0, 3, 1], 4, 5)
    assert [csr.row(i).tolist() for i in range(4)] == [[1], [], [0, 3], []]
    assert csr.degrees.tolist() == [1, 0, 2, 0] and csr.nnz == 3
    picked = csr.rows(torch.tensor([2, 2, 1, 0]))
    assert [picked.row(i).tolist() for i in range(4)] == [[0, 3], [0, 3], [], [1]]
    shifted = BipartiteGraph.from_interactions([1, 1, 0], [0, 2, 1]).user_items
    assert shifted.offset == 2
    assert [shifted.rows(torch.tensor([1])).row(0).tolist()] == [[0, 2]]
    assert CSR.from_pairs([], [], 2, 0).rowptr.tolist() == [0, 0, 0]


def test_csr_refuses_other_arrays():
    with pytest.raises(TypeError, match="rowptr must be a 1-d torch.int64 tensor, got torch.int32"):
        CSR(torch.zeros(2, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), 3)
    with pytest.raises(ValueError, match="rowptr must have num_rows"):
        CSR(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int32), 3)


@pytest.mark.parametrize(
    ("rowptr", "col", "message"),
    [
        ([0, 1, 2], [0, 3], r"columns must be in 0 … 2, got 0 … 3"),
        ([0, 1, 2], [-1, 0], r"columns must be in 0 … 2, got -1 … 0"),
        ([0, 1, 9], [0, 1], r"rowptr must ascend within 0 … 2"),
        ([-1, 1, 2], [0, 1], r"rowptr must ascend within 0 … 2"),
        ([0, 2, 1], [0, 1], r"rowptr must ascend within 0 … 2"),
    ],
)
def test_csr_refuses_what_kernels_would_index_outside_of(rowptr, col, message):
    with pytest.raises(ValueError, match=message):
        CSR(torch.tensor(rowptr), torch.tensor(col, dtype=torch.int32), 3)


def test_graph_built_by_hand_is_checked():
    good = BipartiteGraph.from_interactions([0, 1], [0, 1])
    with pytest.raises(ValueError, match="columns must be in 0 … 3, got 0 … 7"):
        BipartiteGraph(good.rowptr, torch.tensor([2, 3, 0, 7]).int(), 2, 2, good.user_items)
    with pytest.raises(ValueError, match="rowptr must describe 5 rows"):
        BipartiteGraph(good.rowptr, good.col, 2, 3, good.user_items)
    with pytest.raises(ValueError, match="user_items must describe 2 rows and 2 columns"):
        BipartiteGraph(good.rowptr, good.col, 2, 2, CSR.from_pairs([0], [0], 2, 5))


@pytest.fixture(params=[3, 7, 10_000])
def walked(request, monkeypatch):
    """A graph that is walked over in blocks, some of a single row that is longer than a block."""
    monkeypatch.setattr("hdrm.graph.BLOCK", request.param)
    users, items = random_pairs(5, users=30, items=12, count=150)
    return BipartiteGraph.from_interactions(users[users % 7 != 0], items[users % 7 != 0], 33, 14)


def test_blocks_are_the_pairs_in_order(walked):
    csr = walked.user_items
    assert torch.equal(CSR.from_pairs(*csr.pairs(), 33, 14).col, csr.col[: csr.nnz] - csr.offset)
    parts = list(csr.blocks())
    for found, expected in zip(list(zip(*parts))[1:], csr.pairs()):
        assert torch.equal(torch.cat(found), expected)
    assert [row for at, *_ in parts for row in range(at.start, at.stop)] == list(range(33))
    for at, rows, _ in parts:
        assert len(rows) == csr.degrees[at].sum()


def test_where_is_the_graph_of_the_pairs_that_are_kept(walked):
    def keep(users, items):
        return (users * users + 3 * items) % 5 > 1

    users, items = walked.user_items.pairs()
    kept = (users * users + 3 * items) % 5 > 1
    assert 0 < int(kept.sum()) < len(kept)
    expected = BipartiteGraph.from_interactions(users[kept], items[kept], 33, 14)
    found = walked.where(keep)
    assert torch.equal(found.rowptr, expected.rowptr) and torch.equal(found.col, expected.col)
    assert found.user_items.col.data_ptr() == found.col.data_ptr()
    rows = walked.user_items.where(keep)
    assert torch.equal(rows.rowptr, expected.user_items.rowptr)
    assert torch.equal(rows.pairs()[1], items[kept])
    nothing = walked.where(lambda users, items: users < 0)
    assert nothing.num_edges == 0 and nothing.num_nodes == 47


def test_union():
    a, b = (CSR.from_pairs(*random_pairs(seed, count=40), 20, 15) for seed in (1, 2))
    expected = CSR.from_pairs(*(torch.cat(ids) for ids in zip(a.pairs(), b.pairs())), 20, 15)
    assert a.nnz < expected.nnz < a.nnz + b.nnz
    found = a.union(b)
    assert torch.equal(found.rowptr, expected.rowptr) and torch.equal(found.col, expected.col)


def test_an_adjacency_is_checked():
    graph = BipartiteGraph.from_interactions(*random_pairs())
    again = BipartiteGraph.from_adjacency(graph.rowptr, graph.col, 20, 15)
    assert again.col.data_ptr() == graph.col.data_ptr()
    with pytest.raises(ValueError, match="columns must be in 0 … 13"):
        BipartiteGraph.from_adjacency(graph.rowptr, graph.col, 20, 14)
    with pytest.raises(ValueError, match="rowptr must ascend"):
        BipartiteGraph.from_adjacency(graph.rowptr, graph.col[:-1], 20, 15)
