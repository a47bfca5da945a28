"""What each of several processes will have of a data set, known before any of them starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..data import Dataset
from ..train.plan import Sizes, distinct
from .data import cuts_of
from .graph import distinct as occurring


@dataclass(frozen=True, eq=False)
class Shares:
    """Of R·C processes, of which p is in row group p // C.

    Attributes:
        rows, cols: R and C.
        users, items, edges: of every process, int64 (P,).
        wanted: int64 (R, R); [g, k] items of group k are had by users of group g.
        exact: counted in the data; else estimated from their numbers.
    """

    rows: int
    cols: int
    users: np.ndarray
    items: np.ndarray
    edges: np.ndarray
    wanted: np.ndarray
    exact: bool

    @classmethod
    def of(cls, dataset: Dataset, rows: int, cols: int) -> Shares:
        """As the processes will cut it; ValueError if they are more than its users or items."""
        cuts, train = cuts_of(dataset, rows * cols), dataset.train
        rowptr, items = train.rowptr.numpy(), np.array(cuts.items)
        wanted = np.empty((rows, rows), np.int64)
        for group in range(rows):
            users = cuts.of_users(group * cols, cols)
            had = train.col[int(rowptr[users.start]) : int(rowptr[users.stop])]
            if train.offset:
                had = had - train.offset
            found = occurring(had, dataset.num_items).numpy()
            wanted[group] = np.add.reduceat(found, items[:-1:cols], dtype=np.int64)
        users = np.array(cuts.users)
        edges = np.diff(rowptr[users])
        return cls(rows, cols, np.diff(users), np.diff(items), edges, wanted, True)

    @classmethod
    def expected(cls, sizes: Sizes, rows: int, cols: int) -> Shares:
        """From counts, as if all users had equally many items and all items were equally popular.

        More distinct items cannot be expected of as many interactions: halos are at most so large.
        """
        count = rows * cols
        for what, number in (("users", sizes.num_users), ("items", sizes.num_items)):
            if number < count:
                raise ValueError(
                    f"{count} devices need as many {what} at least, there are {number}"
                )

        def share(number: int) -> np.ndarray:
            return np.diff(number * np.arange(count + 1) // count)

        users, items, edges = map(share, (sizes.num_users, sizes.num_items, sizes.num_train))
        drawn = edges.reshape(rows, cols).sum(1)
        of_group = items.reshape(rows, cols).sum(1)
        part = [distinct(sizes.num_items, int(n)) / sizes.num_items for n in drawn]
        wanted = np.ceil(np.outer(part, of_group)).astype(np.int64)
        return cls(rows, cols, users, items, edges, wanted, False)

    @property
    def size(self) -> int:
        return self.rows * self.cols

    def members(self, process: int) -> slice:
        """The processes of a process's row group."""
        first = process // self.cols * self.cols
        return slice(first, first + self.cols)

    def halo(self, process: int) -> tuple[int, int]:
        """Items that the process's row group has, and how often groups have its own."""
        group = process // self.cols
        return int(self.wanted[group].sum()), int(self.wanted[:, group].sum())

    def from_others(self, process: int) -> int:
        """Rows of items that come in a round: those of other groups, and their sums of own ones."""
        group = process // self.cols
        return sum(self.halo(process)) - 2 * int(self.wanted[group, group])

    def degrees(self, process: int) -> int:
        """Numbers that come where degrees are summed: of own items, from other groups."""
        group = process // self.cols
        return self.halo(process)[1] - int(self.wanted[group, group])

    def widths(self, process: int, dim: int) -> tuple[int, int]:
        """Columns of space that a process has of ``dim`` while they are propagated, and of a halo."""
        col, space = process % self.cols, dim - 1
        own = space * (col + 1) // self.cols - space * col // self.cols
        return own, dim if self.cols == 1 else own + 1
