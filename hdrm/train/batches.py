"""What a training step draws: users, items they know and items they do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..data.sampling import shuffled
from ..graph import CSR
from ..seeds import derive_seed
from .team import Team

# users (B,), positives (B,), negatives (B, n): int64 ids of users and items.
Rows = tuple[Tensor, Tensor, Tensor]


class Batch(NamedTuple):
    """A batch, of which a process looks at its own users' rows.

    users: int64 (B,), of all rows.
    rows: where the own rows are among them, int64 (b,) ascending; None for everywhere.
    own: those rows.
    """

    users: Tensor
    rows: Tensor | None
    own: Rows

    def chunks(self, parts: int) -> Iterator[Rows]:
        """The own rows of the batch in ``parts`` parts of one size, or fewer where it is smaller."""
        size = -(-len(self.users) // parts)
        bounds = torch.arange(size, len(self.users), size)
        if self.rows is not None:
            bounds = torch.searchsorted(self.rows.cpu(), bounds)
        return zip(*(of.tensor_split(bounds) for of in self.own))


class Batches:
    """Batches of (user, positive, negatives) as a pure function of (seed, step).

    Args:
        positives: CSR (U × I). Its memory is read, not copied: ``graph.user_items`` itself, or
            arrays mapped from a file. Kept beside it are three numbers a user.
        seen: CSR (U × I); negatives are drawn uniformly from what a user has not seen.
        batch_size: rows of a batch, at least 1.
        negatives: draws per row.
        seed: of everything here, at least 0.
        by_user: draw users uniformly among those with a positive, then one of their items; the
            metrics weigh users alike, too. Otherwise every positive occurs once an epoch, and the
            epoch's last batch may be smaller.
        team: whose users the rows of ``positives`` and ``seen`` are; None for one process.

    Users who have seen every item have no negative and are left out; ValueError if that leaves
    nobody, or if an argument is out of range.
    """

    def __init__(
        self,
        positives: CSR,
        seen: CSR,
        batch_size: int,
        negatives: int,
        seed: int,
        *,
        by_user: bool,
        team: Team | None = None,
    ) -> None:
        if (positives.num_rows, positives.num_cols) != (seen.num_rows, seen.num_cols):
            raise ValueError(
                f"positives and seen must have one size, got {positives.num_rows} × "
                f"{positives.num_cols} and {seen.num_rows} × {seen.num_cols}"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        count, known = (csr.degrees for csr in (positives, seen))
        first = positives.rowptr[:-1]
        if team is not None:
            count, known, first = (team.by_user(of) for of in (count, known, first))
            seen = team.whole_rows(seen)
        count, known = count.cpu().numpy(), known.cpu().numpy()
        users = np.flatnonzero((count > 0) & (known < seen.num_cols))
        if not len(users):
            raise ValueError("every user has seen every item: there is nothing to learn to rank")
        self._users = users
        self._first = first.cpu().numpy()[users]
        self._end = np.cumsum(count[users])  # of a user's positives, where all are numbered
        self._positives, self._seen, self._team = positives, seen, team
        self._batch_size, self._negatives, self._seed = batch_size, negatives, seed
        self._draw = self._by_user if by_user else self._by_interaction
        self.steps_per_epoch = -(-int(self._end[-1]) // batch_size)
        self.examples = self.steps_per_epoch * batch_size if by_user else int(self._end[-1])

    def batch(self, step: int) -> Rows:
        """The rows of a step that are this process's, on the device of ``seen``.

        ValueError: step < 0.
        """
        return self.whole(step).own

    def whole(self, step: int) -> Batch:
        """The batch of a step, and this process's part of it."""
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        row, nth = self._draw(step)
        device, csr = self._seen.device, self._positives
        users = torch.from_numpy(self._users[row]).to(device)
        entries = torch.from_numpy(self._first[row] + nth).to(csr.device)
        negatives = ops.sample_negatives(
            users, self._seen, self._negatives, seed=derive_seed("negatives", self._seed, step)
        )
        own = self._team.own(users) if self._team is not None else None
        if own is None:
            positives = (csr.col[entries].long() - csr.offset).to(device)
            return Batch(users, None, (users, positives, negatives))
        positives = (csr.col[entries[own.to(csr.device)]].long() - csr.offset).to(device)
        return Batch(users, own, (users[own], positives, negatives[own]))

    def _by_user(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions in ``_users``, uniform with replacement, and which of the user's positives."""
        generator = np.random.Generator(np.random.PCG64([self._seed, step]))
        row = generator.integers(0, len(self._users), self._batch_size)
        return row, generator.integers(0, self._count(row))

    def _by_interaction(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """As _by_user: the next ones of the epoch's order of all positives."""
        epoch, position = divmod(step, self.steps_per_epoch)
        total, start = int(self._end[-1]), position * self._batch_size
        index = torch.arange(start, min(start + self._batch_size, total))
        edges = shuffled(index, total, derive_seed("order", self._seed, epoch)).numpy()
        row = np.searchsorted(self._end, edges, side="right")
        return row, edges - (self._end[row] - self._count(row))

    def _count(self, row: np.ndarray) -> np.ndarray:
        return self._end[row] - np.where(row > 0, self._end[row - 1], 0)
