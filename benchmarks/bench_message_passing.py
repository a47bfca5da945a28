"""Aggregation over the graph: one round, and propagate with its maps, beside torch, PyG, SciPy.

Generated graphs of 10⁵ to 10⁷ edges show how the cost of an edge grows; 10⁸ edges need 16 GB of
memory and some minutes: ``pytest benchmarks/bench_message_passing.py --benchmark-only -m slow``.
"""

from __future__ import annotations

import graphs
import pytest
import torch
from harness import (
    OURS,
    WIDTHS,
    Group,
    assert_close,
    compiled,
    normal,
    reference,
    rows,
    tangent_rows,
    with_backward,
)
from peers import authors
from peers.sparse import ROUNDS, Edges, torch_csr

from hdrm import ops
from hdrm.accuracy.peers import Authors

MODES = ("forward", "forward+backward")
LAYERS = 3
PEERS = [*OURS, "torch COO", "torch CSR"]


def cases(names, widths=WIDTHS):
    return [(name, mode, width) for name in names for width in widths for mode in MODES]


def guarded(case) -> bool:
    name, _, width = case
    return name == "ML-1M" and width == 64


ALL = cases(graphs.REAL) + cases(graphs.GENERATED, widths=(64,))
LARGEST = [pytest.param(*case, marks=pytest.mark.slow) for case in cases(graphs.LARGEST, (64,))]


@rows(ALL, [*OURS, *ROUNDS], guarded)
def test_round(measured, case, peer):
    measured(one_round, case, peer)


@rows(LARGEST, OURS)
def test_round_of_the_largest(measured, case, peer):
    measured(one_round, case, peer)


@rows(cases(graphs.REAL), [*OURS, "authors", "authors compiled", "torch CSR"], guarded)
def test_propagate(measured, case, peer):
    measured(propagate, case, peer)


def one_round(case) -> Group:
    """Â·h alone: no maps, one layer."""
    name, _, width = case
    graph = graphs.graph(name)
    h = tangent_rows(graph.num_nodes, width)

    def ours(h):
        return ops.propagate(h, graph, 1, space="tangent")

    makers = {peer: lambda: ours for peer in OURS}
    for peer, make in ROUNDS.items():
        makers[peer] = lambda make=make: make(Edges.of(graph))
    return _group("one round", case, graph, h, ours, makers, 1)


def propagate(case) -> Group:
    """logmap0, three rounds and their sum."""
    name, _, width = case
    graph = graphs.graph(name)
    x = ops.expmap0(tangent_rows(graph.num_nodes, width))

    def ours(x):
        return ops.propagate(x, graph, LAYERS)

    def as_authors(wrap):
        matrix = Edges.of(graph).coo()
        run = wrap(lambda x: authors.propagate(x, matrix, LAYERS))
        return run

    def with_csr():
        aggregate = torch_csr(Edges.of(graph))

        def run(x):
            h = Authors.logmap0(x, 1.0)
            total = torch.zeros_like(h)
            for _ in range(LAYERS):
                h = aggregate(h)
                total = total + h
            return total

        return run

    makers = {peer: lambda: ours for peer in OURS} | {
        "authors": lambda: as_authors(lambda run: run),
        "authors compiled": lambda: as_authors(compiled),
        "torch CSR": with_csr,
    }
    return _group(f"propagate L={LAYERS}", case, graph, x, ours, makers, LAYERS)


def _group(op, case, graph, x, ours, makers, layers) -> Group:
    name, mode, width = case
    weights = normal(*x.shape, seed=1)
    weights[:, 0] = 0  # the time column of a result is 0, and its gradient belongs to nobody
    backward = mode == "forward+backward"
    large = layers == 1 and x.numel() > 1e8  # the reference would need many times the graph
    expected = None

    def timed(maker):
        def make():
            function = maker()
            return with_backward(function, x, weights=weights) if backward else lambda: function(x)

        return make

    def check(found):
        nonlocal expected
        found = found[0] if backward else found
        if large:
            rows = torch.linspace(0, len(x) - 1, 1000).long()
            assert_close(found[rows, 1:], _some_rows(graph, x, weights if backward else None, rows))
            return
        if expected is None:
            expected = _expected(ours, x, weights if backward else None)
        if backward and op != "one round":
            # Through x0, which the peers' logmap0 reads, to the spatial part.
            found = found + found[:, :1] * x / x[:, :1]
        assert_close(found[:, 1:], expected[:, 1:])

    # The least: each round reads the column ids and a row per edge of a table that no cache holds.
    edges = graph.col.numel() + graph.num_nodes
    least = layers * (edges * width * 4 + graph.col.numel() * 4 + x.numel() * 4)
    return Group(
        op, mode, f"{name}, {width}", {peer: timed(maker) for peer, maker in makers.items()}, check,
        least * (2 if backward else 1),
        info={"edges": graph.num_edges, "graph": name, "width": width},
    )  # fmt: skip


def _some_rows(graph, x, weights, rows):
    """Rows of D⁻¹(A + I)·x, or of the transpose times weights, one by one in float64."""
    found = []
    for row in rows.tolist():
        seen = torch.cat(
            [graph.col[graph.rowptr[row] : graph.rowptr[row + 1]].long(), torch.tensor([row])]
        )
        if weights is None:
            found.append(x[seen, 1:].double().mean(0))
        else:
            degree = graph.rowptr[seen + 1] - graph.rowptr[seen] + 1
            found.append((weights[seen, 1:].double() / degree[:, None]).sum(0))
    return torch.stack(found)


def _expected(ours, x, weights):
    """Of the reference in float64."""
    if weights is None:
        return reference(ours, x)
    call = with_backward(ours, x.double(), weights=weights.double())
    return reference(lambda: call()[0])
