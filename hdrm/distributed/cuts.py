"""Who has what: users and items in ranges, one of each a process."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cuts:
    """Ranges of users and items, process after process.

    users, items: the first id of each process's range, ascending, and last U or I: P + 1 numbers.
    """

    users: tuple[int, ...]
    items: tuple[int, ...]

    @classmethod
    def of(cls, user_rowptr: Tensor, num_items: int, processes: int) -> Cuts:
        """Users so that edges and users together balance, items so that their numbers do.

        Args:
            user_rowptr: int64 (U + 1,), of the whole graph; it may be mapped from a file.
            processes: P; everyone gets a user and an item at least.

        Raises:
            ValueError: there are fewer users or items than processes.
        """
        num_users = user_rowptr.numel() - 1
        for what, count in (("users", num_users), ("items", num_items)):
            if count < processes:
                raise ValueError(
                    f"{processes} processes need as many {what} at least, there are {count}; start "
                    f"fewer processes"
                )
        # A user's row costs about what an edge does: it is read, and written, in every round.
        edges, bounds = int(user_rowptr[-1] - user_rowptr[0]), [0]
        for process in range(1, processes):
            wanted = (edges + num_users) * process // processes
            low, high = bounds[-1] + 1, num_users - (processes - process)
            while low < high:  # the first user with so much before it; few pages are read
                middle = (low + high) // 2
                if int(user_rowptr[middle] - user_rowptr[0]) + middle < wanted:
                    low = middle + 1
                else:
                    high = middle
            bounds.append(low)
        items = tuple(num_items * process // processes for process in range(processes + 1))
        return cls((*bounds, num_users), items)

    @property
    def num_users(self) -> int:
        return self.users[-1]

    @property
    def num_items(self) -> int:
        return self.items[-1]

    @property
    def nodes(self) -> tuple[int, ...]:
        """The first nodes of all ranges, of users and then of items, and last U + I."""
        return self.users[:-1] + tuple(self.num_users + first for first in self.items)

    def local(self, process: int, nodes: Tensor) -> Tensor:
        """Where nodes of a process, int64 (n,), are among its own: users first."""
        users, items = self.of_users(process), self.of_items(process)
        of_items = nodes - (self.num_users + items.start) + len(users)
        return torch.where(nodes < self.num_users, nodes - users.start, of_items)

    def of_users(self, process: int, count: int = 1) -> range:
        """The users of ``count`` processes from ``process`` on."""
        return range(self.users[process], self.users[process + count])

    def of_items(self, process: int, count: int = 1) -> range:
        """Their items."""
        return range(self.items[process], self.items[process + count])


def lengths(ids: Tensor, bounds) -> list[int]:
    """How many of ascending ids lie in each of the ranges between ascending bounds."""
    at = torch.searchsorted(ids, torch.tensor(bounds, device=ids.device, dtype=ids.dtype))
    return at.diff().tolist()
