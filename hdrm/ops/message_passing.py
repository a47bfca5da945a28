"""Hyperbolic message passing: rounds of neighbourhood averaging in the tangent space.

    h_0 = logmap0(x),   h_l = Â·h_{l−1},   out = Σ_{l=1..L} h_l

Â comes from the symmetric 0/1 adjacency A, of which only ``rowptr`` and ``col`` are stored:

    normalization   Â                      Âᵀ
    "row"           D⁻¹(A + I)             (A + I)D⁻¹,   D = row sums of A + I
    "symmetric"     D^(−½)·A·D^(−½)        itself,       D = row sums of A

In general Â = S·(A + λI)·T with diagonal S and T, so the backward walks the same arrays with S and
T exchanged. Kernels sum the rounds of either direction by Horner's rule, out = Â(h_0 + Â(h_0 + …))
and G = Âᵀ(g + Âᵀ(g + …)), then logmap0's gradient: only the last round writes the result. x alone
is saved, whatever L is one work table exists besides input and result (at most two, of float32,
where these have 16 bits), and nothing of size E×d.

With ``work_dtype=torch.bfloat16`` what a round gathers is rounded to bfloat16: T·h_0 (T·g in the
backward) before the first, its result before each of the others. What a node adds of its own, sums
and results stay in the arithmetic's dtype. Half a table of float32 is the scratch then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ..graph import BipartiteGraph
from . import backend, checks
from .lorentz_maps import _logmap0


def propagate(
    x: Tensor,
    graph: BipartiteGraph,
    num_layers: int,
    *,
    c: float = 1.0,
    space: Literal["lorentz", "tangent"] = "lorentz",
    normalization: Literal["row", "symmetric"] = "row",
    combine: Literal["sum", "mean"] = "sum",
    work_dtype: torch.dtype | None = None,
) -> Tensor:
    """Aggregate over ``num_layers`` rounds; see the module's formulas.

    Args:
        x: one row per node, users first (U + I, d+1): points of the hyperboloid with
            space="lorentz", tangent vectors at the origin with "tangent". The latter may have 16
            bits: they are widened where the kernel reads them, the tables between rounds are
            float32, and the result is rounded once.
        graph: the bipartite graph, on x's device.
        num_layers: L ≥ 1.
        c: the curvature is −c (used with space="lorentz").
        normalization: "row" averages over neighbours and the node itself (HGCF, HDRM);
            "symmetric" is LightGCN's, where a node without neighbours becomes 0.
        combine: "sum" of rounds 1 … L, or "mean" of rounds 0 … L (LightGCN).
        work_dtype: of the tables between rounds, in both directions: torch.bfloat16 halves what
            the rounds read and the scratch, for a relative error of about 10⁻³. None stands for the
            arithmetic's dtype, and x of float64 takes no other.

    Returns:
        Tangent vectors at the origin (U + I, d+1), dtype as x; the time column is 0.

    Raises:
        TypeError, ValueError: shapes, dtypes, devices or options do not fit, or c ≤ 0.
    """
    c = checks.curvature(c)
    lorentz = _option("space", space, "tangent", "lorentz")
    checks.table("propagate", storage=not lorentz, x=x)
    if hasattr(graph, "propagate"):
        _option("normalization", normalization, "symmetric", "row")
        options = {"c": c, "space": space, "work_dtype": work_dtype}
        return graph.propagate(x, num_layers, **options)
    if not isinstance(graph, BipartiteGraph):
        raise TypeError(
            f"propagate: graph must be a BipartiteGraph, got {type(graph).__name__}; "
            f"BipartiteGraph.from_interactions builds one"
        )
    if x.shape[0] != graph.num_nodes:
        raise ValueError(
            f"propagate: x must have one row per node, {graph.num_nodes} "
            f"({graph.num_users} users + {graph.num_items} items), got {tuple(x.shape)}"
        )
    if graph.device != x.device:
        raise ValueError(
            f"propagate: x is on {x.device}, the graph on {graph.device}; use graph.to(x.device)"
        )
    checks.whole("propagate", "num_layers", num_layers)
    if num_layers < 1:
        raise ValueError(f"propagate: num_layers must be at least 1, got {num_layers}")
    symmetric = _option("normalization", normalization, "row", "symmetric")
    mean = _option("combine", combine, "sum", "mean")
    exact = checks.arithmetic(x.dtype)
    narrow = work_dtype == torch.bfloat16 and exact == torch.float32
    if not narrow and work_dtype not in (None, exact):
        or_narrow = " or torch.bfloat16" * (exact == torch.float32)
        raise TypeError(
            f"propagate: work_dtype must be {exact}{or_narrow} where x is {x.dtype}, got {work_dtype}"
        )
    return backend.call(
        "propagate", x, graph.rowptr, graph.col, num_layers, c, lorentz, symmetric, mean, narrow
    )


def _option(name: str, value: str, off: str, on: str) -> bool:
    if value not in (off, on):
        raise ValueError(f"propagate: {name} must be {off!r} or {on!r}, got {value!r}")
    return value == on


def _propagate(
    x: Tensor,
    rowptr: Tensor,
    col: Tensor,
    num_layers: int,
    c: float,
    lorentz: bool,
    symmetric: bool,
    mean: bool,
    narrow: bool,
) -> Tensor:
    nodes = torch.arange(x.shape[0], device=x.device)
    edges = torch.stack([torch.repeat_interleave(nodes, rowptr.diff()), col.long()])
    adjacency = torch.sparse_coo_tensor(
        edges, x.new_ones(col.numel()), (x.shape[0], x.shape[0]), check_invariants=False
    )
    degree = rowptr.diff().to(x.dtype)[:, None]
    if lorentz:
        h = _logmap0(x, c)
    else:
        h = torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:]], -1)
    root = torch.where(degree > 0, degree, 1.0).rsqrt() * (degree > 0)
    after, before = (root, root) if symmetric else (1 / (degree + 1), torch.ones_like(degree))

    def gathered(h: Tensor) -> Tensor:
        return adjacency @ h if symmetric else adjacency @ h + h

    if narrow:
        return _NarrowRounds.apply(h, gathered, after, before, num_layers, mean)
    total = h if mean else torch.zeros_like(h)
    for _ in range(num_layers):
        h = after * gathered(before * h)
        total = total + h
    return total / (num_layers + 1) if mean else total


class _NarrowRounds(torch.autograd.Function):
    """The rounds in bfloat16 tables. Rounding has no derivative: the gradient is the transpose,
    rounded where kernels do.
    """

    @staticmethod
    def forward(ctx, h, gathered, after, before, num_layers, mean):
        ctx.transposed = gathered, before, after, num_layers, mean
        return _narrow_rounds(h, gathered, after, before, num_layers, mean)

    @staticmethod
    def backward(ctx, gradient):
        return _narrow_rounds(gradient, *ctx.transposed), *[None] * 5


def _narrow_rounds(
    s: Tensor, gathered: Callable, after: Tensor, before: Tensor, num_layers: int, mean: bool
) -> Tensor:
    """Horner's rule: t ← S·(A + λI)·T·t + s, of which T·t is gathered in bfloat16."""
    t = s
    for layer in range(1, num_layers + 1):
        t = after * gathered((before * t).bfloat16().to(t.dtype))
        if layer < num_layers or mean:
            t = t + s
    return t / (num_layers + 1) if mean else t


backend.define(
    "propagate",
    "(Tensor x, Tensor rowptr, Tensor col, int num_layers, float c, bool lorentz, "
    "bool symmetric, bool mean, bool narrow) -> Tensor",
    reference=_propagate,
    fake=lambda x, *rest: x.new_empty(x.shape),
    differentiable=1,
)
