"""The hyperbolic encoder: a table of points, aggregated over the interaction graph."""

from __future__ import annotations

import geoopt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..graph import BipartiteGraph
from ..manifold import Lorentz

INITIAL_RADIUS = 0.1


class Encoder(nn.Module):
    """Users and items as points of the hyperboloid, users first (HGCF; HDRM's stage 1).

    Args:
        num_users, num_items: U and I.
        dim: ambient width d+1, time coordinate included.
        num_layers: rounds of aggregation L.
        c: the curvature is −c.
        on_host: the table stays on the CPU when the module moves; the result is on the graph's
            device, to which :meth:`forward` copies the table for the time of a propagation.
        users: "table": users have points of their own. "items": a user is what its items say. Users
            start at the origin, the table has the items' points alone, and round 0, in which an
            item is only itself, counts too.

    ``table`` (U + I, d+1), or (I, d+1), starts at expmap0(uniform(−0.1, 0.1)^d), drawn from torch's generator.
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        dim: int,
        num_layers: int,
        c: float = 1.0,
        *,
        on_host: bool = False,
        users: str = "table",
    ) -> None:
        super().__init__()
        self.at_origin = num_users if users == "items" else 0
        tangent = torch.empty(num_users + num_items - self.at_origin, dim).uniform_(-INITIAL_RADIUS, INITIAL_RADIUS)
        self.table = geoopt.ManifoldParameter(ops.expmap0(tangent, c=c), manifold=Lorentz(1 / c))
        self.num_layers = num_layers
        self.c = c
        self.on_host = on_host

    def forward(self, graph: BipartiteGraph) -> Tensor:
        """Σ_l Âˡ·logmap0(table): tangent vectors at the origin (U + I, d+1).

        l runs from 1 to L; from 0 where users start at the origin.
        """
        table = self.table.to(graph.device)
        if not self.at_origin:
            return ops.propagate(table, graph, self.num_layers, c=self.c)
        h0 = F.pad(ops.logmap0(table, c=self.c), (0, 0, self.at_origin, 0))
        return h0 + ops.propagate(h0, graph, self.num_layers, space="tangent")

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
