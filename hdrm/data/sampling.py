"""Training batches as a pure function of (seed, step)."""

from __future__ import annotations

import numpy as np
import torch


class PairSampler:
    """Shuffled batches of (user, item) pairs, without replacement within an epoch.

    ``batch(step)`` depends on the pairs, batch_size, seed and step alone: a resumed run, or another
    process, asks for a step and gets the same batch. Epoch ``step // steps_per_epoch`` is one
    random order of all pairs; its last batch may be smaller.

    pairs: int64 array (n, 2), n ≥ 1. batch_size ≥ 1, seed ≥ 0.
    Raises TypeError and ValueError otherwise.
    """

    def __init__(self, pairs: np.ndarray, batch_size: int, seed: int) -> None:
        pairs = np.asarray(pairs)
        if pairs.dtype != np.int64:
            raise TypeError(f"pairs: expected int64, got {pairs.dtype}")
        if pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs):
            raise ValueError(f"pairs: expected shape (n, 2) with n ≥ 1, got {pairs.shape}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self._pairs = pairs
        self._batch_size = batch_size
        self._seed = seed
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)
        self.steps_per_epoch = -(-len(pairs) // batch_size)

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(users, items) of a step ≥ 0: int64 tensors (batch_size,), shorter at an epoch's end."""
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:  # the order is recomputable; keeping it saves n log n a step
            generator = np.random.Generator(np.random.PCG64([self._seed, epoch]))
            self._epoch, self._order = epoch, generator.permutation(len(self._pairs))
        start = position * self._batch_size
        rows = self._pairs[self._order[start : start + self._batch_size]]
        users, items = torch.from_numpy(rows).t().contiguous()
        return users, items
