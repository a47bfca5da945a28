"""Propagation some columns at a time, in place: what it needs beside the table is of a slice's size.

Propagation from tangent vectors is linear and treats all columns alike. With the adjacency matrix A,
which is symmetric, and D = diag(degree + 1),

    Â = D⁻¹(A + I),   Âᵀ = D·Â·D⁻¹,   A = D·Â − I,

so the gradient, and sums over neighbours, are propagations too. A slice of columns a−1 … b is
propagated as a table of its own, whose first column is taken for the time coordinate and ignored.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .. import ops
from ..graph import BipartiteGraph

WIDTH = 64  # columns of a slice


@torch.no_grad()
def propagate_(
    h: Tensor,
    graph: BipartiteGraph,
    num_layers: int,
    *,
    transposed: bool = False,
    work_dtype: torch.dtype | None = None,
) -> Tensor:
    """h ← Σ_{l=1..L} Âˡ·h, or with ``transposed`` Σ_l (Âᵀ)ˡ·h; returns h.

    Args:
        h: tangent vectors at the origin (U + I, d+1), or gradients of such; the time column is
            taken as 0 and set to 0.
        graph: the bipartite graph, on h's device.
        work_dtype: as of :func:`hdrm.ops.propagate`.
    """
    scale = _scale(graph, h)
    for columns in _slices(h):
        part = h[:, columns]
        part = part / scale if transposed else part.contiguous()
        part = ops.propagate(part, graph, num_layers, space="tangent", work_dtype=work_dtype)
        h[:, columns.start + 1 : columns.stop] = (part.mul_(scale) if transposed else part)[:, 1:]
    h[:, 0] = 0
    return h


@torch.no_grad()
def histories(h: Tensor, graph: BipartiteGraph, users: Tensor | slice) -> Tensor:
    """Rows of (degree⁻¹·A)·h of some users: the means of their items; 0 for a user without any.

    Args:
        h: tangent vectors at the origin (U + I, d+1), users first.
        graph: the bipartite graph, on h's device.
        users: int64 (n,), or a slice of the users.

    Returns:
        (n, d+1).
    """
    scale = _scale(graph, h)
    found = h.new_zeros(len(scale[users]), h.shape[1])
    for columns in _slices(h):
        part = h[:, columns].contiguous()
        total = _neighbours(part, graph, scale)[users]
        found[:, columns.start + 1 : columns.stop] = total[:, 1:]
    return found.div_((scale[users] - 1).clamp_(min=1))


@torch.no_grad()
def add_history_gradient_(grad: Tensor, graph: BipartiteGraph, users: Tensor, of: Tensor) -> None:
    """grad ← grad + (degree⁻¹·A)ᵀ·g, g the gradient ``of`` (n, d+1) of ``histories``.

    ``users`` are distinct; ``grad`` is (U + I, d+1).
    """
    scale = _scale(graph, grad)
    of = of / (scale[users] - 1).clamp_(min=1)
    for columns in _slices(grad):
        part = grad.new_zeros(len(grad), columns.stop - columns.start)
        part.index_copy_(0, users, of[:, columns])
        total = _neighbours(part, graph, scale)
        grad[:, columns.start + 1 : columns.stop] += total[:, 1:]


def _neighbours(part: Tensor, graph: BipartiteGraph, scale: Tensor) -> Tensor:
    """A·part: the sums over neighbours."""
    return ops.propagate(part, graph, 1, space="tangent").mul_(scale).sub_(part)


def _scale(graph: BipartiteGraph, like: Tensor) -> Tensor:
    """degree + 1 of every node, (U + I, 1)."""
    return (graph.degrees + 1).to(like.dtype)[:, None]


def _slices(h: Tensor) -> Iterator[slice]:
    """Columns, of which each slice computes all but its first."""
    last = h.shape[1] - 1
    for first in range(0, last, WIDTH - 1):
        yield slice(first, min(first + WIDTH, last + 1))
