"""Building the graph's CSR from (user, item) pairs: hdrm, SciPy, torch, PyG."""

from __future__ import annotations

import graphs
import numpy as np
import pytest
import torch
from harness import Group, rows

from hdrm import BipartiteGraph

OURS = "hdrm"  # on the host, whatever the device
PEERS = [OURS, "SciPy", "torch COO", "PyG"]


@rows([*graphs.REAL, *graphs.GENERATED], PEERS, lambda case: case == "ML-1M")
def test_build(measured, case, peer):
    measured(build, case, peer)


@rows([pytest.param(name, marks=pytest.mark.slow) for name in graphs.LARGEST], [OURS])
def test_build_the_largest(measured, case, peer):
    measured(build, case, peer)


def build(name) -> Group:
    """Every row returns rowptr and col of the symmetric adjacency, items numbered after users."""
    pairs, num_users, num_items = graphs.pairs(name)
    shuffled = pairs[np.random.default_rng(0).permutation(len(pairs))]
    users, items = np.ascontiguousarray(shuffled.T)
    size = num_users + num_items

    def ours():
        graph = BipartiteGraph.from_interactions(users, items, num_users, num_items)
        return graph.rowptr, graph.col

    def scipy_csr():
        from scipy.sparse import coo_matrix

        def call():
            both = (
                np.concatenate([users, items + num_users]),
                np.concatenate([items + num_users, users]),
            )
            matrix = coo_matrix(
                (np.ones(len(both[0]), np.float32), both), shape=(size, size)
            ).tocsr()
            matrix.sum_duplicates()
            return torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.indices)

        return call

    u, i = torch.from_numpy(users), torch.from_numpy(items) + num_users

    def torch_coo():
        def call():
            index = torch.stack([torch.cat([u, i]), torch.cat([i, u])])
            values = torch.ones(index.shape[1], device="cpu")
            matrix = torch.sparse_coo_tensor(index, values, (size, size)).coalesce().to_sparse_csr()
            return matrix.crow_indices(), matrix.col_indices()

        return call

    def pyg():
        from torch_geometric.index import index2ptr
        from torch_geometric.utils import to_undirected

        def call():
            row, col = to_undirected(torch.stack([u, i]), num_nodes=size)
            return index2ptr(row, size), col

        return call

    expected = None

    def check(found):
        nonlocal expected
        if expected is None:
            order = np.argsort(users * num_items + items, kind="stable")
            expected = np.bincount(users, minlength=num_users), items[order] + num_users
        rowptr, col = (array.cpu().numpy() for array in found)
        assert rowptr[-1] == len(col) == 2 * len(users), "wrong result: number of entries"
        assert np.array_equal(np.diff(rowptr)[:num_users], expected[0]), "wrong result: degrees"
        assert np.array_equal(col[: len(users)], expected[1]), "wrong result: columns"

    makers = {OURS: lambda: ours, "SciPy": scipy_csr, "torch COO": torch_coo, "PyG": pyg}
    # Pairs are read once, row pointers and columns written once.
    return Group(
        "graph building", "from pairs", name, makers, check,
        len(users) * (16 + 8) + size * 8, info={"edges": len(users), "graph": name},
    )  # fmt: skip
