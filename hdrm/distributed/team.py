"""What a stage asks of the processes; see :mod:`hdrm.train.team`, whose one process this is several of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Config
from ..graph import CSR, BipartiteGraph
from ..model import HDRM, checkpoint
from ..model.checkpoint import TABLE, Stored
from ..train.rows import RowTable
from ..train.team import Team
from .asking import Asking
from .checkpoints import RankCheckpoints
from .graph import RankGraph
from .rows import RankRows

BLOCK = 2**16  # rows of a table that are widened at a time


class RankTeam(Team):
    """One of several processes, each with its users and items."""

    launched = True

    def __init__(self, graph: RankGraph) -> None:
        self.world, self.cuts = graph.world, graph.cuts
        self.rank, self.size = self.world.rank, self.world.size
        self.users, self.items = graph.own_users, graph.own_items
        self.num_users, self.num_items = self.cuts.num_users, self.cuts.num_items
        self.main, self.own_nodes = self.rank == 0, (self.users, self.items)
        self.device = str(self.world.device)
        self._saved: Path | None = None  # the run whose model this training has written

    def slice_of(self, users: Tensor) -> slice:
        bounds = torch.tensor([self.users.start, self.users.stop], device=users.device)
        return slice(*torch.searchsorted(users, bounds).tolist())

    def own(self, users: Tensor) -> Tensor:
        mine = (users >= self.users.start) & (users < self.users.stop)
        return torch.nonzero(mine)[:, 0]

    def local(self, users: Tensor) -> Tensor:
        return users - self.users.start

    def whole_rows(self, csr: CSR) -> CSR:
        rowptr = csr.rowptr
        before = rowptr[:1].expand(self.users.start)
        behind = rowptr[-1:].expand(self.num_users - self.users.stop)
        return CSR.trusted(torch.cat([before, rowptr, behind]), csr.col, csr.num_cols, csr.offset)

    def item_rows(self, h: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        distinct, position = torch.unique(items, return_inverse=True)
        asking = self._asking(distinct)
        return _Fetch.apply(h, asking, self._row_of_asked(asking)), position

    def all_items(self, h: Tensor) -> Tensor:
        return _AllItems.apply(h, self)

    def with_all_items(self, h: Tensor) -> Tensor:
        return torch.cat([h[: len(self.users)], self.all_items(h)])

    def by_item(self, values: Tensor) -> Tensor:
        return self.by_user(values)

    def nodes(self, h: Tensor, users: Tensor, *items: Tensor) -> tuple[Tensor, ...]:
        known, place = torch.unique(users, return_inverse=True)
        fetched, position = self.item_rows(h, torch.cat([of.flatten() for of in items]))
        table = torch.cat([F.embedding(self.local(known), h), fetched])
        found = (position + len(known)).split([of.numel() for of in items])
        return table, place, *(at.view_as(of) for at, of in zip(found, items))

    @torch.no_grad()
    def distinct_rows(self, h: Tensor, items: Tensor) -> Tensor:
        self._given = asking = self._asking(items)
        return asking.answered(h[self._row_of_asked(asking)])

    def give_(self, gradient: Tensor, items: Tensor, rows: Tensor) -> None:
        asking, self._given = self._given, None  # of the same items: nobody needs to ask again
        _add_by_asker_(gradient, asking, self._row_of_asked(asking), rows)

    def rows(self, table: RowTable) -> RankRows:
        return RankRows(table, self)

    def total(self, values: Tensor) -> Tensor:
        return self.world.total(values)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        parameters = list(parameters)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        total = self.world.total(torch.cat([grad.flatten() for grad in grads]))
        for parameter, part in zip(parameters, total.split([p.numel() for p in parameters])):
            parameter.grad = part.view_as(parameter)

    def by_user(self, values: Tensor) -> Tensor:
        return self.world.gathered(values.cpu()).to(values.device)

    def gathered(self, rows: np.ndarray) -> np.ndarray:
        if rows.dtype != bool:
            return self.world.gathered(torch.from_numpy(rows)).numpy()
        bits = torch.from_numpy(np.packbits(rows, axis=1))
        return np.unpackbits(self.world.gathered(bits).numpy(), 1, rows.shape[1]).astype(bool)

    @torch.no_grad()
    def column_statistics(self, z0: Tensor) -> tuple[Tensor, Tensor]:
        def summed(of) -> Tensor:
            parts = [of(block.double()).sum(0) for block in z0.split(BLOCK)]
            return self.world.total(torch.stack(parts).sum(0))

        mean = summed(lambda z: z) / self.num_users
        variance = summed(lambda z: (z - mean).square()) / max(self.num_users - 1, 1)
        mean[0] = variance[0] = 0
        return mean.to(z0.dtype), variance.sqrt().to(z0.dtype)

    def facts(self) -> dict:
        return {"processes": self.size, "mesh": f"{self.world.rows}x{self.world.cols}"}

    def going_on(self, run: Path) -> str:
        return f"the same command, with as many processes as you like (--out {run})"

    def shared(self, value):
        return self.world.shared(value)

    def agreed(self, signal: int, due: bool) -> tuple[int, bool]:
        signal, due = self.world.largest([signal, due and self.main])
        return signal, bool(due)

    def checkpoints(self, run: Path, config: Config) -> RankCheckpoints:
        return RankCheckpoints.of(run, config, self)

    @torch.no_grad()
    def save(self, model: HDRM, run: Path) -> None:
        """The main process writes the file of a single one: it takes the whole table and graph."""
        weights = dict(model.state_dict())
        table = self.world.collected(
            *(weights[TABLE][part] for part in self.of_users_and_items(model))
        )
        graph = self._collected_graph(model.graph, run)
        if self.main:
            checkpoint.save_weights(weights | {TABLE: table}, graph, model.config, run)
        self._saved = run
        self.world.barrier()

    def stored(self, run: Path) -> Stored:
        return checkpoint.read(run).of(self.users, self.items)

    def of_users_and_items(self, model: HDRM) -> tuple[slice, ...]:
        """The table's own rows of users, where they have any, and of items."""
        users = 0 if model.encoder.at_origin else len(self.users)
        return (slice(0, users), slice(users, None))

    def _collected_graph(self, graph: RankGraph, run: Path) -> BipartiteGraph | None:
        """The whole graph, at the main process. It stays: the second model's is the first one's."""
        if self._saved == run:
            return checkpoint.read(run).graph() if self.main else None
        rowptr, col = graph.neighbours()
        edges = int(rowptr[graph.num_users])
        degrees = self.world.collected(*graph.degrees.split([graph.num_users, graph.num_items]))
        col = self.world.collected(col[:edges], col[edges:])
        if not self.main:
            return None
        rowptr = F.pad(degrees.cumsum(0), (1, 0))
        return BipartiteGraph.from_adjacency(rowptr, col, self.num_users, self.num_items)

    def _asking(self, items: Tensor) -> Asking:
        return Asking(self.world, self.cuts.items, items, label="items")

    def _row_of_asked(self, asking: Asking) -> Tensor:
        """Rows of h of the items that others want."""
        return asking.asked - self.items.start + len(self.users)


def _add_by_asker_(h: Tensor, asking: Asking, row: Tensor, rows: Tensor) -> None:
    """Add the rows that are given to the own ones, process after process: in a fixed order."""
    taken = asking.given(rows)
    for ids, part in zip(row.split(asking.by_asker), taken.split(asking.by_asker)):
        h.index_add_(0, ids, part)  # none twice


class _Fetch(torch.autograd.Function):
    """Rows of distinct items; their gradients go back to who owns them."""

    @staticmethod
    def forward(ctx, h, asking, row):
        ctx.asking, ctx.row, ctx.shape = asking, row, h.shape
        return asking.answered(h[row])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        of_own = gradient.new_zeros(ctx.shape)
        _add_by_asker_(of_own, ctx.asking, ctx.row, gradient)
        return of_own, None, None


class _AllItems(torch.autograd.Function):
    """The vectors of all items at every process, and the sum of their gradients at the owner."""

    @staticmethod
    def forward(ctx, h, team):
        ctx.team, ctx.shape = team, h.shape
        own, size = h[len(team.users) :], team.size
        counts = [len(team.cuts.of_items(p)) for p in range(size)]
        ctx.counts = counts
        return team.world.exchange(
            own.repeat(size, 1), [len(own)] * size, counts, label="all items"
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        team, count = ctx.team, len(ctx.team.items)
        taken = team.world.exchange(gradient, ctx.counts, [count] * team.size, label="all items")
        of_own = gradient.new_zeros(ctx.shape)
        torch.sum(taken.view(team.size, count, -1), 0, out=of_own[len(team.users) :])
        return of_own, None
