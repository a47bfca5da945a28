"""The data set a model is trained on: checked splits of (user, item) pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Users and items share the int32 node ids of the graph.
MAX_NODES = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Dataset:
    """Implicit feedback, split for training, model selection and the final measurement.

    train, valid, test: int64 (n, 2) of (user, item), none of them empty; users are
    0 … num_users−1, items 0 … num_items−1. Users or items may be without training interactions.
    user_labels, item_labels: the original id of each user and item, where ids were renumbered.
    notes: remarks on the data that belong in a report.

    Raises TypeError for arrays that are not int64, ValueError for wrong shapes, empty splits, ids
    out of range, and labels of another length.
    """

    name: str
    num_users: int
    num_items: int
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    user_labels: Sequence | np.ndarray | None = None
    item_labels: Sequence | np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.num_users + self.num_items <= MAX_NODES:
            raise ValueError(
                f"num_users + num_items must be 1 … {MAX_NODES}, got {self.num_users} + "
                f"{self.num_items}; renumber the ids from 0 (a .csv file is renumbered on reading)"
            )
        for name in ("train", "valid", "test"):
            self._check_split(name, getattr(self, name))
        for name, size in (("user_labels", self.num_users), ("item_labels", self.num_items)):
            labels = getattr(self, name)
            if labels is not None and len(labels) != size:
                raise ValueError(f"{name}: expected {size} labels, got {len(labels)}")

    def _check_split(self, name: str, pairs: np.ndarray) -> None:
        if not isinstance(pairs, np.ndarray) or pairs.dtype != np.int64:
            got = getattr(pairs, "dtype", type(pairs).__name__)
            raise TypeError(f"{name}: expected an int64 numpy array, got {got}")
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise ValueError(f"{name}: expected shape (n, 2) of (user, item), got {pairs.shape}")
        if not len(pairs):
            raise ValueError(f"{name} is empty: it needs at least one interaction")
        for column, what, size in ((0, "user", self.num_users), (1, "item", self.num_items)):
            low, high = int(pairs[:, column].min()), int(pairs[:, column].max())
            if low < 0 or high >= size:
                raise ValueError(
                    f"{name}: {what} ids must lie in 0 … {size - 1}, got {low} … {high}"
                )

    def fingerprint(self) -> str:
        """sha256 (hex) over the sizes and the pairs of all three splits, in order."""
        splits = (self.train, self.valid, self.test)
        digest = hashlib.sha256()
        header = [self.num_users, self.num_items, *map(len, splits)]
        for block in (np.array(header), *splits):
            digest.update(np.ascontiguousarray(block, dtype="<i8"))
        return digest.hexdigest()

    def summary(self) -> dict:
        """Sizes for a report: JSON-ready numbers, the name, and the notes."""
        total = len(self.train) + len(self.valid) + len(self.test)
        return {
            "name": self.name,
            "users": self.num_users,
            "items": self.num_items,
            "train": len(self.train),
            "valid": len(self.valid),
            "test": len(self.test),
            "density": total / (self.num_users * self.num_items),
            "users_without_training": self.num_users - len(np.unique(self.train[:, 0])),
            "items_without_training": self.num_items - len(np.unique(self.train[:, 1])),
            "fingerprint": self.fingerprint(),
            "notes": list(self.notes),
        }
