"""The data set a model is trained on: interactions, split and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hdrm.graph import CSR, BipartiteGraph

# Users and items share the int32 node ids of the graph.
MAX_NODES = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Dataset:
    """Implicit feedback, split for training, model selection and the final measurement.

    graph: the training interactions. ``train``, CSR (U × I), is its users' rows: a view.
    valid, test: CSR (U × I). No split is empty; users or items may be without training interactions.
    user_labels, item_labels: the original id of each user and item, where ids were renumbered.
    notes: remarks on the data that belong in a report.

    Raises ValueError for empty splits, splits of different sizes, and labels of another length.
    """

    name: str
    graph: BipartiteGraph
    valid: CSR
    test: CSR
    user_labels: Sequence | np.ndarray | None = None
    item_labels: Sequence | np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        size = self.num_users, self.num_items
        for name, split in self.splits.items():
            if (split.num_rows, split.num_cols) != size:
                raise ValueError(
                    f"{name}: expected {size[0]} users and {size[1]} items as in the graph, got "
                    f"{split.num_rows} and {split.num_cols}"
                )
            if not split.nnz:
                raise ValueError(f"{name} is empty: it needs at least one interaction")
        for name, count in (("user_labels", size[0]), ("item_labels", size[1])):
            labels = getattr(self, name)
            if labels is not None and len(labels) != count:
                raise ValueError(f"{name}: expected {count} labels, got {len(labels)}")

    @classmethod
    def from_pairs(
        cls,
        name: str,
        num_users: int,
        num_items: int,
        train: np.ndarray,
        valid: np.ndarray,
        test: np.ndarray,
        user_labels: Sequence | np.ndarray | None = None,
        item_labels: Sequence | np.ndarray | None = None,
        notes: tuple[str, ...] = (),
    ) -> Dataset:
        """The data set of three int64 (n, 2) of (user, item), numbered from 0.

        Raises TypeError for arrays that are not int64, ValueError for wrong shapes and ids out of
        range, and as the class.
        """
        if not 0 < num_users + num_items <= MAX_NODES:
            raise ValueError(
                f"num_users + num_items must be 1 … {MAX_NODES}, got {num_users} + {num_items}; "
                "renumber the ids from 0 (a .csv file is renumbered on reading)"
            )
        for split, pairs in (("train", train), ("valid", valid), ("test", test)):
            _check_pairs(split, pairs, num_users, num_items)
        return cls(
            name,
            BipartiteGraph.from_interactions(*train.T, num_users, num_items),
            CSR.from_pairs(*valid.T, num_users, num_items),
            CSR.from_pairs(*test.T, num_users, num_items),
            user_labels,
            item_labels,
            notes,
        )

    @property
    def num_users(self) -> int:
        return self.graph.num_users

    @property
    def num_items(self) -> int:
        return self.graph.num_items

    @property
    def train(self) -> CSR:
        return self.graph.user_items

    @property
    def splits(self) -> dict[str, CSR]:
        return {"train": self.train, "valid": self.valid, "test": self.test}

    @property
    def sizes(self) -> dict[str, int]:
        """Interactions of each split."""
        return {name: split.nnz for name, split in self.splits.items()}

    def fingerprint(self) -> str:
        """sha256 (hex) over the sizes and the interactions of all three splits."""
        digest = hashlib.sha256(np.array([self.num_users, self.num_items], dtype="<i8").data)
        for split in self.splits.values():
            digest.update(split.degrees.numpy().astype("<i8", copy=False).data)
            for _, _, items in split.blocks():
                digest.update(items.numpy().astype("<i4").data)
        return digest.hexdigest()

    def without_training(self) -> tuple[int, int]:
        """How many users, and how many items, have no training interactions."""
        degrees = self.graph.rowptr.diff()
        users, items = degrees.split([self.num_users, self.num_items])
        return int((users == 0).sum()), int((items == 0).sum())

    def summary(self) -> dict:
        """Sizes for a report: JSON-ready numbers, the name, and the notes."""
        return summary_of(self)


def summary_of(dataset) -> dict:
    """The summary of a data set, whole or in shares."""
    users, items = dataset.without_training()
    return {
        "name": dataset.name,
        "users": dataset.num_users,
        "items": dataset.num_items,
        **dataset.sizes,
        "density": sum(dataset.sizes.values()) / (dataset.num_users * dataset.num_items),
        "users_without_training": users,
        "items_without_training": items,
        "fingerprint": dataset.fingerprint(),
        "notes": list(dataset.notes),
    }


def _check_pairs(name: str, pairs: np.ndarray, num_users: int, num_items: int) -> None:
    if not isinstance(pairs, np.ndarray) or pairs.dtype != np.int64:
        got = getattr(pairs, "dtype", type(pairs).__name__)
        raise TypeError(f"{name}: expected an int64 numpy array, got {got}")
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"{name}: expected shape (n, 2) of (user, item), got {pairs.shape}")
    for ids, what, size in zip(pairs.T, ("user", "item"), (num_users, num_items)):
        low, high = (int(ids.min()), int(ids.max())) if len(ids) else (0, 0)
        if low < 0 or high >= size:
            raise ValueError(f"{name}: {what} ids must lie in 0 … {size - 1}, got {low} … {high}")
