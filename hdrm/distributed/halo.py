"""The items that a row group's users have, and that other groups own: fetched, and given back as sums.

    fetch:  h_i of the owners            →  at every group with a user who has i
    add:    Σ_groups of their rows of i  →  at the owner

Which rows these are follows from the edges and is settled once; a round then is one all-to-all each
way. What is received of other groups is its rows, and nothing else.
"""

from __future__ import annotations

from torch import Tensor

from .cuts import Cuts, lengths
from .world import World


class Halo:
    """Of one row group's items.

    Args:
        items: int64 (H,), ascending: those that the group's users have.
    """

    def __init__(self, world: World, cuts: Cuts, items: Tensor) -> None:
        self._world = world
        bounds = cuts.items[:: world.cols]  # of row groups
        self._first = bounds[world.row]
        self._count = bounds[world.row + 1] - self._first
        self.items, self._fetched = items, lengths(items, bounds)
        self._asked = world.counts(self._fetched, world.of_column)
        wanted = world.exchange(
            items, self._fetched, self._asked, world.of_column, label="ids of halos"
        )
        self._wanted = wanted - self._first  # rows of the group's items, in the askers' order

    def fetch(self, rows: Tensor) -> Tensor:
        """Rows of ``items`` (H, w) from those of the group's own items."""
        return self._world.exchange(
            rows.index_select(0, self._wanted),
            self._asked,
            self._fetched,
            self._world.of_column,
            label="halo",
        )

    def add(self, rows: Tensor, *, label: str = "halo") -> Tensor:
        """The sums over groups of rows (H, w), at the group's own items."""
        taken = self._world.exchange(
            rows, self._fetched, self._asked, self._world.of_column, label=label
        )
        sums = rows.new_zeros((self._count, *rows.shape[1:]))
        # Group after group, none of which names an item twice: the order of additions is fixed.
        for ids, part in zip(self._wanted.split(self._asked), taken.split(self._asked)):
            sums.index_add_(0, ids, part)
        return sums
