"""What a training step draws: users, items they know and items they do not."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..data.sampling import PairSampler
from ..graph import CSR
from ..seeds import derive_seed


class Batches:
    """Batches of (user, positive, negatives) as a pure function of (seed, step).

    Args:
        pairs: int64 (n, 2), the positives.
        seen: CSR (U × I); negatives are drawn uniformly from what a user has not seen.
        batch_size: rows of a batch.
        negatives: draws per row.
        seed: of everything here.
        by_user: draw users uniformly among those with a pair, then one of their items; the metrics
            weigh users alike, too. Otherwise every pair occurs once an epoch.

    Users who have seen every item have no negative and are left out; ValueError if that leaves
    nobody.
    """

    def __init__(
        self,
        pairs: np.ndarray,
        seen: CSR,
        batch_size: int,
        negatives: int,
        seed: int,
        *,
        by_user: bool,
    ) -> None:
        degrees = seen.degrees.cpu().numpy()
        pairs = pairs[degrees[pairs[:, 0]] < seen.num_cols]
        if not len(pairs):
            raise ValueError("every user has seen every item: there is nothing to learn to rank")
        self._seen, self._negatives, self._seed = seen, negatives, seed
        self.steps_per_epoch = -(-len(pairs) // batch_size)
        if by_user:
            self._draw = _UserSampler(pairs, batch_size, seed).batch
        else:
            self._draw = PairSampler(pairs, batch_size, seed).batch

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """users (B,), positives (B,), negatives (B, n): int64, on the device of ``seen``."""
        device = self._seen.device
        users, positives = (ids.to(device) for ids in self._draw(step))
        negatives = ops.sample_negatives(
            users, self._seen, self._negatives, seed=derive_seed("negatives", self._seed, step)
        )
        return users, positives, negatives


class _UserSampler:
    """Batches of (user, item): users uniformly with replacement, then one of their items."""

    def __init__(self, pairs: np.ndarray, batch_size: int, seed: int) -> None:
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        self._users, self._first, self._count = np.unique(
            pairs[:, 0], return_index=True, return_counts=True
        )
        self._items, self._batch_size, self._seed = pairs[:, 1], batch_size, seed

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        generator = np.random.Generator(np.random.PCG64([self._seed, step]))
        row = generator.integers(0, len(self._users), self._batch_size)
        item = self._first[row] + generator.integers(0, self._count[row])
        return torch.from_numpy(self._users[row]), torch.from_numpy(self._items[item])
