"""Propagation to some nodes only, over sampled neighbours: the encoder without the whole graph.

    out = Σ_{l=1..L} Âˡ·h_0 = Â₁(h_0 + Â₂(h_0 + … Â_L·h_0)),   Â = D⁻¹(A + I),   h_0 = logmap0(x)

at the target nodes S_0. Factor Â_l is read at the rows S_{l−1} alone and replaced there by a sample

    (h_v + d_v·mean of k neighbours of v)/(d_v + 1)        k = min(d_v, fan-out of the layer)

whose expectation is the row itself: of d_v neighbours, each is expected k/d_v times among the k. The
samples of different layers are independent, also of one node, and the sum is linear in each factor:
the expectation of the result is exact, whatever the fan-outs. (A hinge of it is not linear; its
expectation differs by a term that vanishes with the variance.)

S_l holds S_{l−1} first, then the neighbours drawn for it that are new. Everything has the size of
S_L, at most Π(1 + fan-out)·|S_0| nodes; nothing has that of the graph.

Source of the idea: Hamilton, Ying, Leskovec, *Inductive representation learning on large graphs*,
NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..graph import BipartiteGraph
from ..seeds import derive_seed, hashed, uniform


@dataclass(frozen=True, eq=False)
class Block:
    """The sampled rows of one factor Â_l, as a CSR of S_{l−1} × S_l without values.

    Attributes:
        rowptr: int64 (|S_{l−1}| + 1,).
        col: int64 (…), positions in S_l; a neighbour that was drawn twice occurs twice.
        degree: int64 (|S_{l−1}|,), d_v in the whole graph.
    """

    rowptr: Tensor
    col: Tensor
    degree: Tensor

    def apply(self, h: Tensor) -> Tensor:
        """Â_l·h: (|S_l|, d+1) → (|S_{l−1}|, d+1)."""
        # A bag without entries is 0, which is what the row of a node without neighbours needs.
        mean = F.embedding_bag(self.col, h, self.rowptr, mode="mean", include_last_offset=True)
        degree = self.degree.to(h.dtype)[:, None]
        return (h[: len(degree)] + degree * mean) / (degree + 1)


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """The nodes that the result at the targets is computed from, and the factors.

    Attributes:
        nodes: int64 (|S_L|,), distinct node ids, the targets first.
        blocks: one of each layer, that of Â₁ first.
    """

    nodes: Tensor
    blocks: tuple[Block, ...]

    @classmethod
    def sample(
        cls, graph: BipartiteGraph, targets: Tensor, fanouts: Sequence[int], *, seed: int
    ) -> Neighbourhood:
        """Draw the neighbourhood of some nodes.

        A node's draw in a layer is a function of (seed, layer, node): it does not depend on the
        other targets, so the parts of a batch see what the whole batch sees.

        Args:
            graph: the bipartite graph.
            targets: int64 (n,), distinct nodes, users first, on the graph's device.
            fanouts: how many neighbours are drawn in each layer, ≥ 1; Â₁'s first. A node with no
                more neighbours than that keeps all.
            seed: of the draws.
        """
        nodes, blocks = targets, []
        for layer, fanout in enumerate(fanouts):
            draws = draw if isinstance(graph, BipartiteGraph) else type(graph).draw
            drawn, degree = draws(graph, nodes, fanout, derive_seed(seed, layer))
            rowptr = F.pad(degree.clamp(max=fanout).cumsum(0), (1, 0))
            nodes, col = _extended(nodes, drawn)
            blocks.append(Block(rowptr, col, degree))
        return cls(nodes, tuple(blocks))

    def propagate(self, x: Tensor, *, c: float = 1.0) -> Tensor:
        """Sampled Σ_l Âˡ·logmap0(x) at the targets.

        Args:
            x: points of ``nodes`` (|S_L|, d+1).
            c: the curvature is −c.

        Returns:
            Tangent vectors at the origin (n, d+1), in the order of the targets.
        """
        h0 = ops.logmap0(x, c=c)
        h = self.blocks[-1].apply(h0)
        for block in reversed(self.blocks[:-1]):
            h = block.apply(h0[: len(h)] + h)
        return h


def draw(graph: BipartiteGraph, nodes: Tensor, fanout: int, seed: int) -> tuple[Tensor, Tensor]:
    """Neighbours of nodes, int64 (n,): ids of min(degree, fanout) of each, and all degrees (n,)."""
    return draw_rows(graph.rowptr, graph.col, nodes, hashed(seed, nodes), fanout)


def draw_rows(
    rowptr: Tensor, col: Tensor, rows: Tensor, streams: Tensor, fanout: int
) -> tuple[Tensor, Tensor]:
    """As draw, of rows of a CSR, each with a random stream of its own, int64 (n,)."""
    start = rowptr[rows]
    degree = rowptr[rows + 1] - start
    count = degree.clamp(max=fanout)
    row = torch.repeat_interleave(count)
    nth = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    position = torch.where(
        degree[row] > fanout, _systematic(streams[row], nth, degree[row], fanout), nth
    )
    return col[start[row] + position].long(), degree


def _systematic(streams: Tensor, nth: Tensor, degree: Tensor, fanout: int) -> Tensor:
    """Position of draw j in 0 … d−1: ⌊(j + U_j)·d/f⌋ with independent uniform U_j, for d > f.

    (j + U_j)·d/f is uniform on [j·d/f, (j+1)·d/f), and these f intervals are [0, d) in pieces:
    the expected number of draws per length is f/d everywhere. Position i is the interval [i, i+1)
    of length 1, so it is expected exactly f/d times, though it may lie in two of the pieces.
    """
    position = (nth + uniform(streams, nth)) * degree / fanout
    return position.long().clamp(max=degree - 1)  # the product can round up to d


def _extended(nodes: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct ``nodes``, then what ``more`` adds to them, each once; and more's positions there."""
    found, inverse = torch.unique(torch.cat([nodes, more]), return_inverse=True)
    position = torch.full_like(found, -1)
    position[inverse[: len(nodes)]] = torch.arange(len(nodes), device=nodes.device)
    new = position < 0
    position[new] = torch.arange(len(nodes), len(found), device=nodes.device)
    return torch.cat([nodes, found[new]]), position[inverse[len(nodes) :]]
