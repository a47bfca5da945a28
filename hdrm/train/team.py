"""The processes that train one model together, as a stage sees them: which part of a batch is its own.

A step is a function of (seed, step) for all processes alike: each draws the whole batch, and computes
what concerns its own users. What the parts come to is summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..config import Config
from ..graph import CSR
from ..model import HDRM, checkpoint
from ..model.checkpoint import Stored
from .checkpoints import Checkpoints
from .rows import RowTable


class Team:
    """One process by itself. :class:`hdrm.distributed.team.RankTeam` is one of several.

    Args:
        graph: the training graph.

    Attributes:
        size, rank: number of processes, and which of them this is.
        main: whether this is the one that writes what is written once.
        launched: whether a launcher started it, which passes signals on and can start it again.
        users: range of the users this process computes; h has their rows, in order, first.
        num_users, num_items: of all processes together.
    """

    size, rank, main, launched = 1, 0, True, False
    device: str | None = None  # of this process, where that is not for the user to say
    own_nodes: tuple[range, range] | None = None  # users and items, where they are not all

    def __init__(self, graph) -> None:
        self._graph = graph
        self.num_users, self.num_items = graph.num_users, graph.num_items
        self.users = range(graph.num_users)

    # Which part is one's own

    def slice_of(self, users: Tensor) -> slice:
        """Of ascending users, int64 (n,): those of this process."""
        return slice(0, len(users))

    def own(self, users: Tensor) -> Tensor | None:
        """Positions of this process's users among any users, int64 (n,); None for all."""
        return None

    def local(self, users: Tensor) -> Tensor:
        """Row numbers in h of users of this process, int64 (n,)."""
        return users

    def whole_rows(self, csr: CSR) -> CSR:
        """A CSR of this process's users as one of all users, of whom the others have nothing."""
        return csr

    # Items, whose vectors other processes may have

    def item_rows(self, h: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """A table that holds the vectors of items, and their positions in it.

        Args:
            h: vectors of this process's nodes. Where they require a gradient it goes back to them.
            items: int64, any shape; they may repeat.
        """
        return h, items + self.num_users

    def all_items(self, h: Tensor) -> Tensor:
        """The vectors of all items (I, dim); differentiable as item_rows."""
        return h[self.num_users :]

    def with_all_items(self, h: Tensor) -> Tensor:
        """The vectors of own users, then of all items."""
        return h

    def by_item(self, values: Tensor) -> Tensor:
        """One number of every own item, as those of all items (I,)."""
        return values

    def nodes(self, h: Tensor, users: Tensor, *items: Tensor) -> tuple[Tensor, ...]:
        """A table with the vectors of own users and of items, and the positions of each in it.

        In one table, so that its gradient is one too, from whichever of them it comes.
        """
        return h, users, *(of + self.num_users for of in items)

    def distinct_rows(self, h: Tensor, items: Tensor) -> Tensor:
        """The vectors of distinct items, int64 (n,); no gradient goes back."""
        return F.embedding(items + self.num_users, h)

    def give_(self, gradient: Tensor, items: Tensor, rows: Tensor) -> None:
        """Write the rows of a gradient (n, dim) that belong to distinct items into one of h's shape."""
        gradient.index_copy_(0, items + self.num_users, rows)

    # Rows of the table, for steps that move some only

    def rows(self, table: RowTable) -> RowTable:
        """The rows of all processes, from those of this one."""
        return table

    # Sums over the processes

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        return values

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace the gradients of parameters that every process has by their sums."""

    def by_user(self, values: Tensor) -> Tensor:
        """One number of every own user, as those of all users (U,)."""
        return values

    def gathered(self, rows):
        """numpy rows of some own users, in order, as those of all processes."""
        return rows

    def column_statistics(self, z0: Tensor) -> tuple[Tensor, Tensor]:
        """ops.column_statistics of the own users' rows of a table, over the rows of all users."""
        return ops.column_statistics(z0)

    # The run folder, and what all have to agree on

    def facts(self) -> dict:
        """What belongs into a description of where a training runs."""
        return {}

    def going_on(self, run: Path) -> str:
        """What continues a run that was stopped."""
        return f"hdrm train --resume {run}"

    def shared(self, value):
        """The main process's value, of what JSON can hold."""
        return value

    def agreed(self, signal: int, due: bool) -> tuple[int, bool]:
        """A signal that any process has received, or 0; and whether the main one says ``due``."""
        return signal, due

    def checkpoints(self, run: Path, config: Config) -> Checkpoints:
        """Those of a run."""
        return Checkpoints.of(run, config)

    def save(self, model: HDRM, run: Path) -> None:
        """Write the model into the run folder."""
        model.save(run)

    def restore(self, model: HDRM, run: Path) -> None:
        """Take the weights of the model that save has written."""
        checkpoint.fill(model, self.stored(run))

    def stored(self, run: Path) -> Stored:
        """The model of a run, of whose table this process has its own rows."""
        return checkpoint.read(run)


def team_of(graph) -> Team:
    """The processes that hold a graph."""
    return getattr(graph, "team", None) or Team(graph)
