"""What a training step draws: users, items they know and items they do not."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..data.sampling import shuffled
from ..graph import CSR
from ..seeds import derive_seed


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
        count, known = (csr.degrees.cpu().numpy() for csr in (positives, seen))
        users = np.flatnonzero((count > 0) & (known < seen.num_cols))
        if not len(users):
            raise ValueError("every user has seen every item: there is nothing to learn to rank")
        self._users = users
        self._first = positives.rowptr[:-1].cpu().numpy()[users]
        self._end = np.cumsum(count[users])  # of a user's positives, where all are numbered
        self._positives, self._seen = positives, seen
        self._batch_size, self._negatives, self._seed = batch_size, negatives, seed
        self._draw = self._by_user if by_user else self._by_interaction
        self.steps_per_epoch = -(-int(self._end[-1]) // batch_size)
        self.examples = self.steps_per_epoch * batch_size if by_user else int(self._end[-1])

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """users (B,), positives (B,), negatives (B, n): int64, on the device of ``seen``.

        ValueError: step < 0.
        """
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        row, nth = self._draw(step)
        device, csr = self._seen.device, self._positives
        users = torch.from_numpy(self._users[row]).to(device)
        entries = torch.from_numpy(self._first[row] + nth).to(csr.device)
        positives = (csr.col[entries].long() - csr.offset).to(device)
        negatives = ops.sample_negatives(
            users, self._seen, self._negatives, seed=derive_seed("negatives", self._seed, step)
        )
        return users, positives, negatives

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
