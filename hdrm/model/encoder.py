"""The hyperbolic encoder: a table of points, aggregated over the interaction graph."""

from __future__ import annotations

import geoopt
import torch
from torch import Tensor, nn

from .. import ops
from ..graph import BipartiteGraph
from ..manifold import Lorentz

INITIAL_RADIUS = 0.1


class Encoder(nn.Module):
    """Users and items as points of the hyperboloid, users first (HGCF; HDRM's stage 1).

    Args:
        num_nodes: U + I.
        dim: ambient width d+1, time coordinate included.
        num_layers: rounds of aggregation L.
        c: the curvature is −c.

    ``table`` (U + I, d+1) starts at expmap0(uniform(−0.1, 0.1)^d), drawn from torch's generator.
    """

    def __init__(self, num_nodes: int, dim: int, num_layers: int, c: float = 1.0) -> None:
        super().__init__()
        tangent = torch.empty(num_nodes, dim).uniform_(-INITIAL_RADIUS, INITIAL_RADIUS)
        self.table = geoopt.ManifoldParameter(ops.expmap0(tangent, c=c), manifold=Lorentz(1 / c))
        self.num_layers = num_layers
        self.c = c

    def forward(self, graph: BipartiteGraph) -> Tensor:
        """Σ_{l=1..L} Âˡ·logmap0(table): tangent vectors at the origin (U + I, d+1)."""
        return ops.propagate(self.table, graph, self.num_layers, c=self.c)


def neighbour_mean(h: Tensor, graph: BipartiteGraph) -> Tensor:
    """D⁻¹A·h (N, d+1): the mean of each node's neighbours, 0 for a node without any.

    The mean of a user's items is the history that the user's denoiser is conditioned on; an
    item's is the mean of its users.
    """
    degree = graph.rowptr.diff().to(h.dtype)[:, None]
    with_self = ops.propagate(h, graph, 1, space="tangent")
    return (with_self * (degree + 1) - h) / degree.clamp(min=1)
