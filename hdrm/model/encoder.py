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
        work_dtype: of the tables between rounds; see :func:`hdrm.ops.propagate`.
        on_host: the table stays on the CPU when the module moves; the result is on the graph's
            device, to which :meth:`forward` copies the table for the time of a propagation.

    ``table`` (U + I, d+1) starts at expmap0(uniform(−0.1, 0.1)^d), drawn from torch's generator.
    """

    def __init__(
        self,
        num_nodes: int,
        dim: int,
        num_layers: int,
        c: float = 1.0,
        *,
        work_dtype: torch.dtype | None = None,
        on_host: bool = False,
    ) -> None:
        super().__init__()
        tangent = torch.empty(num_nodes, dim).uniform_(-INITIAL_RADIUS, INITIAL_RADIUS)
        self.table = geoopt.ManifoldParameter(ops.expmap0(tangent, c=c), manifold=Lorentz(1 / c))
        self.num_layers = num_layers
        self.c = c
        self.work_dtype = work_dtype
        self.on_host = on_host

    def forward(self, graph: BipartiteGraph) -> Tensor:
        """Σ_{l=1..L} Âˡ·logmap0(table): tangent vectors at the origin (U + I, d+1)."""
        table = self.table.to(graph.device)
        return ops.propagate(table, graph, self.num_layers, c=self.c, work_dtype=self.work_dtype)

    def _apply(self, fn, recurse=True):
        """As nn.Module for .to(device) and kin; a table on the host follows in dtype only."""
        if not self.on_host:
            return super()._apply(fn, recurse)
        return super()._apply(lambda t: t.to(fn(t.new_empty(0)).dtype), recurse)


def histories(h: Tensor, graph: BipartiteGraph) -> Tensor:
    """The users' rows of D⁻¹A·h (U, d+1): the mean of each user's items, 0 for a user without any."""
    users = slice(graph.num_users)
    degree = graph.rowptr[: graph.num_users + 1].diff().to(h.dtype)[:, None]
    with_self = ops.propagate(h, graph, 1, space="tangent")[users]
    return (with_self * (degree + 1) - h[users]) / degree.clamp(min=1)
