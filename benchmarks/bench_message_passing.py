"""Three rounds of row-normalised aggregation: hdrm, and torch's sparse matrices."""

from __future__ import annotations

import pytest
import torch
from harness import DEVICE, OURS, WIDTH, reference, tangent_rows

from hdrm import BipartiteGraph, ops
from hdrm.data.synthetic import hierarchical

LAYERS = 3
GRAPHS = {"6k x 3k, 400k edges": (6_000, 3_000, 400_000), "30k x 40k, 800k": (30_000, 40_000, 800_000)}


def sparse(graph, layout):
    """D⁻¹(A + I) with values, as torch wants it."""
    n = graph.num_nodes
    rows = torch.repeat_interleave(torch.arange(n), graph.rowptr.diff())
    loops = torch.arange(n)
    index = torch.stack([torch.cat([rows, loops]), torch.cat([graph.col.long(), loops])])
    values = 1 / (graph.rowptr.diff() + 1).float()[index[0]]
    matrix = torch.sparse_coo_tensor(index, values, (n, n)).coalesce()
    return matrix.to_sparse_csr() if layout == "csr" else matrix


@pytest.fixture(scope="module", params=GRAPHS)
def graph(request):
    users, items, edges = GRAPHS[request.param]
    pairs = hierarchical(users, items, edges, seed=0)
    graph = BipartiteGraph.from_interactions(*pairs.T, users, items)
    return request.param, graph.to(DEVICE)


@pytest.mark.parametrize("peer", [*OURS, "torch COO", "torch CSR"])
def test_propagate(timed, graph, peer):
    name, graph = graph
    x = ops.expmap0(tangent_rows(graph.num_nodes, WIDTH))
    if peer in OURS:
        run = lambda: ops.propagate(x, graph, LAYERS)  # noqa: E731
    else:
        matrix = sparse(graph, peer.split()[1].lower())

        def run():
            h = ops.logmap0(x)
            total = 0
            for _ in range(LAYERS):
                h = matrix @ h
                total = total + h
            return total

    expected = reference(lambda table: ops.propagate(table, graph, LAYERS), x)
    gathered = (graph.col.numel() + graph.num_nodes) * WIDTH * 4 * LAYERS
    timed(f"propagate, {LAYERS} rounds, {name}", peer, run, expected, gathered)
