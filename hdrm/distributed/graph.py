"""A process's part of the training graph, over which all processes together propagate.

    h_u ← (h_u + Σ_{i of u} h_i)/(d_u + 1)     all of a user's edges are in one row group
    h_i ← (h_i + Σ_{u of i} h_u)/(d_i + 1)     groups send the sums over their users to the owner of i

Users' rows never move. A round is a halo of item rows, the kernel of one process on the group's own
edges, and a halo of sums (:mod:`hdrm.distributed.halo`). Âᵀ = D·Â·D⁻¹, so the gradient is the same with
a scale before and behind, and the backward stores nothing.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..graph import CSR, BipartiteGraph, Keep
from ..model.neighbourhood import draw_rows
from ..seeds import hashed
from .asking import Asking
from .columns import Columns
from .cuts import Cuts
from .halo import Halo
from .world import World

if TYPE_CHECKING:
    from .team import RankTeam

BLOCK = 2**22  # entries of the graph that are widened at a time


class RankGraph:
    """What a process has of a bipartite graph; the interface of BipartiteGraph that training uses.

    Args:
        world: the processes.
        cuts: who has what.
        halo: the items that the row group's users have.
        local: the group's edges, as a graph of its users and those items.

    Attributes:
        num_users, num_items: of this process; h has their rows, users first.
        degrees: int64 (num_nodes,), in the whole graph.
        team: what a stage asks of the processes; see hdrm.train.team.
    """

    team: RankTeam

    def __init__(self, world: World, cuts: Cuts, halo: Halo, local: BipartiteGraph) -> None:
        self.world, self.cuts, self._halo, self._local = world, cuts, halo, local
        self._columns = Columns(world, cuts)
        self.own_users, self.own_items = cuts.of_users(world.rank), cuts.of_items(world.rank)
        self.num_users, self.num_items = len(self.own_users), len(self.own_items)
        first = world.row * world.cols  # process of the row group
        self._first_user = cuts.users[first]
        users, items = local.degrees.split([local.num_users, local.num_items])
        self._item_degrees = halo.add(items, label="degrees")  # of the group's own items
        at = self.own_users.start - self._first_user, self.own_items.start - cuts.items[first]
        self.degrees = torch.cat(
            [
                users[at[0] : at[0] + self.num_users],
                self._item_degrees[at[1] : at[1] + self.num_items],
            ]
        )

    @classmethod
    def of(cls, world: World, cuts: Cuts, edges: CSR) -> RankGraph:
        """From a CSR (users of the row group × I) of all their items, without an offset."""
        items = edges.col[: edges.nnz]
        had = distinct(items, cuts.num_items)
        halo = Halo(world, cuts, torch.nonzero(had)[:, 0])
        position = (had.cumsum(0) - 1).int().index_select(0, items)
        return cls(world, cuts, halo, with_transpose(edges.rowptr, position, len(halo.items)))

    @functools.cached_property
    def user_items(self) -> CSR:
        """CSR (own users × I)."""
        begin = self.own_users.start - self._first_user
        rowptr = self._local.rowptr[begin : begin + self.num_users + 1]
        first, last = int(rowptr[0]), int(rowptr[-1])
        position = self._local.col[first:last].long() - self._local.num_users
        return CSR.trusted(rowptr - first, self._halo.items[position].int(), self.cuts.num_items)

    @property
    def num_nodes(self) -> int:
        return self.num_users + self.num_items

    @property
    def device(self) -> torch.device:
        return self._local.device

    def where(self, keep: Keep) -> RankGraph:
        """As BipartiteGraph.where; ``keep`` sees ids of the whole graph."""
        first, items = self._first_user, self._halo.items
        local = self._local.where(lambda u, i: keep(u + first, items[i]))
        # The halo stays: items that nobody has any more are 0 there.
        graph = RankGraph(self.world, self.cuts, self._halo, local)
        graph.team = self.team
        return graph

    def to(self, device: torch.device | str) -> RankGraph:
        if torch.device(device) == self.device:
            return self
        raise ValueError(
            f"a part of a graph stays where the processes exchange, on {self.device}, got {device}"
        )

    def propagate(
        self,
        x: Tensor,
        num_layers: int,
        *,
        c: float = 1.0,
        space: str = "lorentz",
        work_dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Σ_{l=1..L} Âˡ·logmap0(x) at the own nodes, from x there (num_nodes, d+1).

        As :func:`hdrm.ops.propagate` with normalization="row" and combine="sum".
        """
        h = ops.logmap0(x, c=c) if space == "lorentz" else x
        return _Propagate.apply(h, self, num_layers)

    def draw(self, nodes: Tensor, fanout: int, seed: int) -> tuple[Tensor, Tensor]:
        """As hdrm.model.neighbourhood.draw, of nodes that any process owns."""
        asking = Asking(self.world, self.cuts.nodes, nodes, label="neighbours")
        rowptr, col = self._neighbours
        rows = self.cuts.local(self.world.rank, asking.asked)
        drawn = draw_rows(rowptr, col, rows, hashed(seed, asking.asked), fanout)
        # A list has min(degree, fanout) neighbours: with the degrees all lengths are known.
        degree = asking.answered(drawn[1])
        return asking.answered_lists(drawn[0], drawn[1].clamp(max=fanout)), degree

    @functools.cached_property
    def _neighbours(self) -> tuple[Tensor, Tensor]:
        return self.neighbours()

    def neighbours(self) -> tuple[Tensor, Tensor]:
        """CSR of the own nodes, users first: all neighbours of each, as int32 node ids."""
        edges, cuts = self.user_items, self.cuts
        users = torch.arange(self.own_users.start, self.own_users.stop, dtype=torch.int32)
        users = torch.repeat_interleave(users.to(self.device), edges.degrees)
        asking = Asking(self.world, cuts.items, edges.col, label="edges")
        of_items = asking.given(users)  # process after process, whose users ascend
        order = torch.argsort(asking.asked, stable=True)
        degrees = torch.cat(
            [
                edges.degrees,
                torch.bincount(asking.asked - self.own_items.start, minlength=self.num_items),
            ]
        )
        return (
            F.pad(degrees.cumsum(0), (1, 0)),
            torch.cat([edges.col + cuts.num_users, of_items[order]]),
        )

    def rounds(self, h: Tensor, num_layers: int) -> Tensor:
        """Σ_{l=1..L} Âˡ·h by Horner's rule, h ← Â·(h + h_0)."""
        users, items = self._columns.spread(h)
        count, i = len(users), items
        local = torch.cat([users, self._halo.fetch(items)])
        for layer in range(num_layers):
            if layer:
                local[:count].add_(users)
                local[count:] = self._halo.fetch(i.add_(items))
            local, i = self._round(local, i)
        return self._columns.collect(local[:count], i, h.shape[1])

    def _round(self, local: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Of the row group's users, halo and items, in own columns: Â·h of users and of items.

        What takes the place of the halo means nothing.
        """
        around = ops.propagate(local, self._local, 1, space="tangent")
        halo, means = (of[self._local.num_users :] for of in (local, around))
        # The kernel gives (h_i + Σ)/(d + 1) with the group's degree d: Σ is what the owner needs.
        scale = (self._local.degrees[self._local.num_users :] + 1).to(means.dtype)[:, None]
        sums = self._halo.add(means.mul_(scale).sub_(halo))
        return around, sums.add_(items).div_((self._item_degrees + 1).to(items.dtype)[:, None])


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, graph, num_layers):
        ctx.graph, ctx.num_layers = graph, num_layers
        return graph.rounds(h, num_layers)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        scale = (ctx.graph.degrees + 1).to(gradient.dtype)[:, None]
        gradient = gradient / scale
        gradient[:, 0] = 0
        return ctx.graph.rounds(gradient, ctx.num_layers).mul_(scale), None, None


def distinct(items: Tensor, num_items: int) -> Tensor:
    """Which of all items, bool (I,), occur among int32 items of any number."""
    found = torch.zeros(num_items, dtype=torch.bool, device=items.device)
    for block in items.split(BLOCK):
        found[block.long()] = True
    return found


def with_transpose(rowptr: Tensor, items: Tensor, num_items: int) -> BipartiteGraph:
    """The graph of users' rows with entries ``items``, int32, ascending in each row."""
    num_users, nnz = rowptr.numel() - 1, items.numel()
    col = torch.empty(2 * nnz, dtype=torch.int32, device=items.device)
    torch.add(items, num_users, out=col[:nnz])
    rows = torch.arange(num_users, dtype=torch.int32, device=items.device)
    users = torch.repeat_interleave(rows, rowptr.diff(), output_size=nnz)
    torch.index_select(users, 0, torch.argsort(items, stable=True), out=col[nnz:])
    counts = torch.bincount(items, minlength=num_items)
    both = torch.cat([rowptr, nnz + counts.cumsum(0)])
    return BipartiteGraph.from_adjacency(both, col, num_users, num_items)
