"""The hyperbolic encoder: a table of points, aggregated over the interaction graph."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import geoopt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..graph import BipartiteGraph
from ..manifold import Lorentz
from . import slices

INITIAL_RADIUS = 0.1
DRAWN = 2**16  # rows that are drawn at a time where not all are kept
BLOCK = 2**22  # numbers of a table on the host that are on the device at a time


class Encoder(nn.Module):
    """Users and items as points of the hyperboloid, users first (HGCF; HDRM's stage 1).

    Args:
        num_users, num_items: U and I.
        dim: ambient width d+1, time coordinate included.
        num_layers: rounds of aggregation L.
        c: the curvature is −c.
        work_dtype: of the tables between rounds; see :func:`hdrm.ops.propagate`.
        on_host: the table stays on the CPU when the module moves. The result is on the graph's
            device and has no gradient; no second table lies there beside it.
        users: "table": users have points of their own. "items": a user is what its items say. Users
            start at the origin, the table has the items' points alone, and round 0, in which an
            item is only itself, counts too. "mean": likewise, and a user's vector is the mean of the
            propagated ones of its items, 0 without any. The last two not with ``on_host``.
        own: the users and items whose rows this table has, of those that several processes have
            together; None for all.

    ``table`` (U + I, d+1), or (I, d+1), starts at expmap0(uniform(−0.1, 0.1)^d), drawn from torch's
    generator.
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        dim: int,
        num_layers: int,
        c: float = 1.0,
        *,
        work_dtype: torch.dtype | None = None,
        on_host: bool = False,
        users: str = "table",
        own: tuple[range, range] | None = None,
    ) -> None:
        super().__init__()
        of_users, of_items = own or (range(num_users), range(num_items))
        self.users = users
        self.at_origin = 0 if users == "table" else len(of_users)
        if users == "table":
            shifted = range(num_users + of_items.start, num_users + of_items.stop)
            tangent = _drawn(num_users + num_items, dim, of_users, shifted)
        else:
            tangent = _drawn(num_items, dim, of_items)
        self.table = geoopt.ManifoldParameter(ops.expmap0(tangent, c=c), manifold=Lorentz(1 / c))
        self.num_layers = num_layers
        self.c = c
        self.work_dtype = work_dtype
        self.on_host = on_host

    def forward(self, graph: BipartiteGraph) -> Tensor:
        """Σ_l Âˡ·logmap0(table): tangent vectors at the origin (U + I, d+1).

        l runs from 1 to L; from 0 where users start at the origin. With users = "mean" the users'
        rows are replaced by h_u = mean_{i of u} h_i.
        """
        if self.on_host:
            return self._streamed(graph)
        propagate = partial(ops.propagate, c=self.c, work_dtype=self.work_dtype)
        if not self.at_origin:
            return propagate(self.table, graph, self.num_layers)
        h0 = F.pad(ops.logmap0(self.table, c=self.c), (0, 0, self.at_origin, 0))
        h = h0 + propagate(h0, graph, self.num_layers, space="tangent")
        return _with_mean_users(h, graph) if self.users == "mean" else h

    @torch.no_grad()
    def item_rounds(self, graph: BipartiteGraph) -> Tensor:
        """What the items send in each round: h_i^(0) … h_i^(L−1), h^(l) = Âˡ·logmap0(table).

        Returns:
            (L, I, d+1), in the table's dtype whatever ``work_dtype``.
        """
        h = self._start(graph)
        items = h[graph.num_users :]
        rounds = items.new_empty(self.num_layers, *items.shape)
        for number in range(self.num_layers):
            if number:
                slices.propagate_(h, graph, 1)
            rounds[number] = items
        return rounds

    def _streamed(self, graph: BipartiteGraph) -> Tensor:
        h = self._start(graph)
        return slices.propagate_(h, graph, self.num_layers, work_dtype=self.work_dtype)

    @torch.no_grad()
    def _start(self, graph: BipartiteGraph) -> Tensor:
        """h^(0) (U + I, d+1) on the graph's device; the table crosses over a block at a time."""
        shape = graph.num_nodes, self.table.shape[1]
        h = torch.zeros(shape, dtype=self.table.dtype, device=graph.device)
        own = h[self.at_origin :]
        for rows in blocks(own):
            own[rows] = ops.logmap0(self.table[rows].to(graph.device), c=self.c)
        return h

    def _apply(self, fn, recurse=True):
        """As nn.Module for .to(device) and kin; a table on the host follows in dtype only.

        Raises:
            TypeError: to 16 bits, which cannot hold a point.
        """
        dtype = fn(self.table.new_empty(0)).dtype
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"the encoder's points must stay float32 or float64, got {dtype}; "
                f"work_tables = bfloat16 halves the tables between rounds, and torch.autocast runs "
                f"the denoisers in 16 bits"
            )
        super()._apply((lambda t: t.to(dtype)) if self.on_host else fn, recurse)
        self._keep_manifold()
        return self

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._keep_manifold()

    def _keep_manifold(self) -> None:
        """to_empty and load_state_dict(assign=True) put a plain parameter in the table's place."""
        table = self._parameters.get("table")
        if table is None or table.is_meta:  # parametrized, or nothing yet
            return
        if not isinstance(table, geoopt.ManifoldParameter) or table.manifold.k.is_meta:
            self.table = geoopt.ManifoldParameter(
                table.detach(), manifold=Lorentz(1 / self.c), requires_grad=table.requires_grad
            )


def _with_mean_users(h: Tensor, graph: BipartiteGraph) -> Tensor:
    """h (U + I, d+1) with the users' rows replaced by the means of their items' rows."""
    users = slice(graph.num_users)
    degree = graph.degrees[users, None].to(h.dtype)
    # A round is (h_u + Σ h_i)/(n + 1), of which h_u has to go.
    total = (degree + 1) * ops.propagate(h, graph, 1, space="tangent")[users] - h[users]
    return torch.cat([total / degree.clamp(min=1), h[graph.num_users :]])


def blocks(table: Tensor) -> Iterator[slice]:
    """Rows of a table that go between host and device at a time."""
    size = max(BLOCK // table.shape[1], 1)
    for first in range(0, len(table), size):
        yield slice(first, min(first + size, len(table)))


def _drawn(num_rows: int, dim: int, *kept: range) -> Tensor:
    """Some rows of a table of initial tangent vectors; the others are drawn too, and forgotten."""
    found = torch.empty(sum(map(len, kept)), dim)
    if len(found) == num_rows:
        return found.uniform_(-INITIAL_RADIUS, INITIAL_RADIUS)
    for start in range(0, num_rows, DRAWN):
        block = torch.empty(min(DRAWN, num_rows - start), dim)
        block.uniform_(-INITIAL_RADIUS, INITIAL_RADIUS)
        at = 0
        for rows in kept:
            first, last = max(start, rows.start), min(start + len(block), rows.stop)
            if first < last:
                place = at + first - rows.start
                found[place : place + last - first] = block[first - start : last - start]
            at += len(rows)
    return found
