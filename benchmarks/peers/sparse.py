"""One round of aggregation with D⁻¹(A + I), in the ways that users of torch and SciPy have.

Every function takes the matrix' parts and returns a function of h (N, d). Gradients flow through
all of them but SciPy's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from harness import LeftOut, compiled
from torch import Tensor

from hdrm import BipartiteGraph

MOST_GATHERED = 2**30  # bytes of an E×d table beyond which gather–scatter is left out


@dataclass
class Edges:
    """D⁻¹(A + I) as a list of edges, by target row: the arrays that the peers build theirs from."""

    target: Tensor  # int64 (2E + N,)
    source: Tensor
    weight: Tensor  # float32
    num_nodes: int

    @classmethod
    def of(cls, graph: BipartiteGraph) -> Edges:
        n, loops = graph.num_nodes, torch.arange(graph.num_nodes)
        degree = graph.rowptr.diff()
        target = torch.cat([torch.repeat_interleave(loops, degree), loops])
        source = torch.cat([graph.col.long(), loops])
        order = torch.argsort(target, stable=True)
        target, source = target[order], source[order]
        return cls(target, source, 1 / (degree + 1).float()[target], n)

    def coo(self) -> Tensor:
        index = torch.stack([self.target, self.source])
        return torch.sparse_coo_tensor(index, self.weight, (self.num_nodes,) * 2).coalesce()


Round = Callable[[Tensor], Tensor]


def torch_coo(edges: Edges) -> Round:
    matrix = edges.coo()
    return lambda h: torch.sparse.mm(matrix, h)


class _Product(torch.autograd.Function):
    """A @ h whose backward multiplies by a transpose that was made once."""

    @staticmethod
    def forward(ctx, matrix, transposed, h):
        ctx.transposed = transposed
        return matrix @ h

    @staticmethod
    def backward(ctx, grad):
        return None, None, ctx.transposed @ grad


def torch_csr(edges: Edges) -> Round:
    """torch's CSR, which is MKL's on the CPU; better than most use it, with Aᵀ at hand."""
    matrix = edges.coo().to_sparse_csr()
    transposed = edges.coo().t().coalesce().to_sparse_csr()
    return lambda h: _Product.apply(matrix, transposed, h)


def scipy_csr(edges: Edges) -> Round:
    """SciPy has one thread whatever the others get."""
    from scipy.sparse import csr_matrix

    parts = (edges.weight.cpu().numpy(), (edges.target.cpu().numpy(), edges.source.cpu().numpy()))
    matrix = csr_matrix(parts, shape=(edges.num_nodes,) * 2)

    def run(h):
        if h.requires_grad:
            raise LeftOut("SciPy has no gradients")
        return torch.from_numpy(matrix @ h.cpu().numpy())

    return run


def _scatter(h: Tensor, target: Tensor, source: Tensor, weight: Tensor) -> Tensor:
    return torch.zeros_like(h).index_add_(0, target, h[source] * weight[:, None])


def _gathered(edges: Edges, h: Tensor) -> None:
    needed = edges.source.numel() * h.shape[1] * h.element_size()
    if needed > MOST_GATHERED:
        raise LeftOut(f"would gather {needed / 2**30:.1f} GiB, every edge's row")


def gather_scatter(edges: Edges) -> Round:
    def run(h):
        _gathered(edges, h)
        return _scatter(h, edges.target, edges.source, edges.weight)

    return run


def gather_scatter_compiled(edges: Edges) -> Round:
    fast = compiled(_scatter)

    def run(h):
        _gathered(edges, h)
        return fast(h, edges.target, edges.source, edges.weight)

    return run


def _layer():
    from torch_geometric.nn import MessagePassing
    from torch_geometric.utils import spmm

    class Layer(MessagePassing):
        """LightGCN's layer as PyG's documentation writes one: messages, or a sparse product."""

        def __init__(self):
            super().__init__(aggr="add")

        def forward(self, h, edges, weight=None):
            return self.propagate(edges, x=h, weight=weight)

        def message(self, x_j, weight):
            return x_j * weight[:, None]

        def message_and_aggregate(self, edges, x):
            return spmm(edges, x, reduce=self.aggr)

    return Layer()


def pyg_sparse(edges: Edges) -> Round:
    layer, matrix = _layer(), edges.coo().to_sparse_csr()
    return lambda h: layer(h, matrix)


def pyg_scatter(edges: Edges) -> Round:
    layer, index = _layer(), torch.stack([edges.source, edges.target])

    def run(h):
        _gathered(edges, h)
        return layer(h, index, edges.weight)

    return run


ROUNDS: dict[str, Callable[[Edges], Round]] = {
    "torch COO": torch_coo,
    "torch CSR": torch_csr,
    "SciPy": scipy_csr,
    "gather–scatter": gather_scatter,
    "gather–scatter compiled": gather_scatter_compiled,
    "PyG sparse": pyg_sparse,
    "PyG scatter": pyg_scatter,
}
