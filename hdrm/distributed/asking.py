"""Rows by id from whoever owns them, and rows given back to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .world import World


class Asking:
    """The ids that this process wants of each other one, and those that each wants of this one.

    Args:
        bounds: the first id of each process's range, ascending, and last the end: P + 1 numbers; or
            several times P ranges, one process after the other in each.
        ids: int64 or int32 (n,), in any order; all processes ask at the same time, for nothing too.

    Attributes:
        asked: (m,), ids of this process that others want, process after process.
        by_asker: how many of them each process wants.
    """

    def __init__(self, world: World, bounds: Sequence[int], ids: Tensor, *, label: str) -> None:
        self._world, self._label = world, label
        edges = torch.tensor(bounds[:-1], dtype=ids.dtype, device=ids.device)
        owner = (torch.searchsorted(edges, ids, right=True) - 1) % world.size
        self._order = torch.argsort(owner, stable=True)
        self._wanted = torch.bincount(owner, minlength=world.size).tolist()
        self.by_asker = world.counts(self._wanted)
        self.asked = world.exchange(
            ids[self._order], self._wanted, self.by_asker, label=f"{label}: ids"
        )

    def answered(self, rows: Tensor) -> Tensor:
        """The rows (n, …) of the ids wanted, from every process's rows (m, …) of the ids asked."""
        taken = self._world.exchange(rows, self.by_asker, self._wanted, label=self._label)
        return torch.empty_like(taken).index_copy_(0, self._order, taken)

    def answered_lists(self, values: Tensor, lengths: Tensor) -> Tensor:
        """As answered, of lists: values one after another, and int64 (m,) lengths of the lists."""
        of_wanted = self.answered(lengths)
        in_order = of_wanted[self._order]
        sent, taken = (
            [int(part.sum()) for part in of.split(counts)]
            for of, counts in ((lengths, self.by_asker), (in_order, self._wanted))
        )
        found = self._world.exchange(values, sent, taken, label=self._label)
        # Lists are in the order of the processes; each moves to where its id is.
        start = torch.empty_like(of_wanted)
        start[self._order] = in_order.cumsum(0) - in_order
        begin = of_wanted.cumsum(0) - of_wanted
        shift = torch.repeat_interleave(start - begin, of_wanted)
        return found[torch.arange(len(found), device=found.device) + shift]

    def given(self, rows: Tensor) -> Tensor:
        """Rows (m, …) of the ids asked, in their order, from rows (n, …) of the ids wanted."""
        return self._world.exchange(
            rows[self._order], self._wanted, self.by_asker, label=self._label
        )
