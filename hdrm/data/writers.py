"""A data set as a folder that ``hdrm.data.load`` reads. In it are

    {train,valid,test}_list.npy    int64 (n, 2) of (user, item), as the authors of HDRM publish them
    labels.json                    the original ids, where they are known
    titles.csv                     item, title; where titles are known
    dataset.json                   what it is: sizes, fingerprint, remarks on how it was made

Reading it needs the lists alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hdrm.data.datasets import Dataset
from hdrm.data.folders import partial_folder, refuse_occupied
from hdrm.data.readers import LABELS_FILE

TITLES_FILE, DATASET_FILE = "titles.csv", "dataset.json"


def write_folder(
    dataset: Dataset,
    folder: str | os.PathLike[str],
    titles: Mapping[int | str, str] | None = None,
) -> None:
    """Write the data set; ``load(folder)`` has the same splits and labels.

    folder: must not exist or be empty; it is whole or not there.
    titles: of original item ids; those of other items are left out.

    Raises FileExistsError, and OSError if the disk is full.
    """
    folder = Path(folder).expanduser()
    refuse_occupied(folder, "data set")
    interactions = sum(split.nnz for split in dataset.splits.values())
    with partial_folder(folder, needed=16 * interactions) as partial:
        for name, split in dataset.splits.items():
            pairs = np.stack([ids.numpy() for ids in split.pairs()], axis=1)
            np.save(partial / f"{name}_list.npy", pairs)
        labels = {"users": dataset.user_labels, "items": dataset.item_labels}
        if not any(found is None for found in labels.values()):
            plain = {side: _plain(found) for side, found in labels.items()}
            _write_json(partial / LABELS_FILE, plain)
        if titles:
            _write_titles(partial / TITLES_FILE, dataset, titles)
        _write_json(partial / DATASET_FILE, dataset.summary())


def _plain(labels) -> list:
    return labels.tolist() if isinstance(labels, np.ndarray) else list(labels)


def _write_titles(path: Path, dataset: Dataset, titles: Mapping[int | str, str]) -> None:
    import polars as pl

    labels = dataset.item_labels
    items = range(dataset.num_items) if labels is None else _plain(labels)
    known = [item for item in items if item in titles]
    table = pl.DataFrame({"item": known, "title": [titles[item] for item in known]})
    with path.open("wb") as file:
        table.write_csv(file)


def _write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
