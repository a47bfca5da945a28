"""Finding and reading a data set: the one function behind every DATASET argument."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from hdrm.data import splits as splitting
from hdrm.data.datasets import MAX_NODES, Dataset
from hdrm.data.graph_files import MANIFEST_FILE, load_graph, load_ids
from hdrm.data.readers import read_lightgcn_folder, read_npy_folder
from hdrm.data.splits import Splits
from hdrm.data.synthetic import demo
from hdrm.data.tables import SUFFIXES, read_table


def load(source: str | os.PathLike[str], *, seed: int = 0) -> Dataset:
    """A data set from ``"demo"``, a path, or the name of something under ``$HDRM_DATA``.

    source: ``"demo"`` (generated); a folder with ``{train,valid,test}_list.npy``, with LightGCN's
    ``train.txt``/``test.txt``, with one ``.inter`` file, or of ``hdrm graph build``; a ``.csv``,
    ``.tsv``, ``.parquet`` or ``.inter`` file; or a name looked up in ``$HDRM_DATA`` and
    ``../shared/data``.
    seed: of the generated data and of random splits. A given split is never changed by it.

    Where the source has no split: by time per user, 70/10/20, if there is a time column, else
    at random per user 70/10/20. Where only validation is missing: 10 % of each user's training
    items. Repeated pairs are collapsed, across splits in favour of train, then valid.

    What is read as pairs takes some 50 bytes an interaction meanwhile, a graph's folder 20.

    Raises FileNotFoundError (listing the places searched) and ValueError.
    """
    if source == "demo":
        return demo(seed=seed)
    path = _locate(source)
    if path.is_file():
        return _load_table(path, seed)
    if (path / MANIFEST_FILE).exists():
        return _load_graph(path, seed)
    if any((path / f"{name}_list.npy").exists() for name in ("train", "valid", "test")):
        return _load_split(path, read_npy_folder(path), 0, seed)
    if (path / "train.txt").exists() or (path / "test.txt").exists():
        return _load_split(path, *read_lightgcn_folder(path), seed)
    inter = sorted(path.glob("*.inter"))
    if len(inter) == 1:
        return _load_table(inter[0], seed)
    raise ValueError(
        f"{path} is no data set: expected {{train,valid,test}}_list.npy, train.txt and test.txt, "
        f"one .inter file, or what `hdrm graph build` writes, found {_listing(path)}"
    )


def _locate(source: str | os.PathLike[str]) -> Path:
    path = Path(source).expanduser()
    if path.exists():
        return path
    if path.is_absolute():
        raise FileNotFoundError(f"{path} does not exist; give a data set's folder, file or name")
    repository = Path(__file__).resolve().parents[2]
    roots = [Path.cwd().parent / "shared" / "data", repository.parent / "shared" / "data"]
    if os.environ.get("HDRM_DATA"):
        roots.insert(0, Path(os.environ["HDRM_DATA"]).expanduser())
    for root in roots:
        if (root / path).exists():
            return root / path
    searched = "; ".join(
        f"{root} ({_listing(root) if root.is_dir() else 'no such folder'})"
        for root in dict.fromkeys(roots)
    )
    raise FileNotFoundError(
        f"no data set {os.fspath(source)!r}: it is not 'demo', no such file or folder exists, and "
        f"it is not in {searched}; give a path or set HDRM_DATA"
    )


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "") or "nothing"


def _load_split(path: Path, splits: Splits, num_users: int, seed: int) -> Dataset:
    train, valid, test = splits
    for name, pairs in (("train", train), ("test", test)):
        if not len(pairs):
            raise ValueError(f"{path}: the {name} split is empty")
    num_users = max(num_users, 1 + max(int(s[:, 0].max(initial=-1)) for s in splits))
    num_items = 1 + max(int(s[:, 1].max(initial=-1)) for s in splits)
    if num_users + num_items > MAX_NODES:
        raise ValueError(
            f"{path}: the largest ids imply {num_users} users and {num_items} items, together "
            f"more than {MAX_NODES}; renumber the ids from 0"
        )
    (train, valid, test), notes = splitting.make_disjoint((train, valid, test))
    if not len(valid):
        train, valid = splitting.carve_validation(train, seed)
        notes.append(
            f"no validation split: {len(valid):,} training interactions (10 % of each user's, "
            f"seed {seed}) were set aside"
        )
    return _build(path.resolve().name, (num_users, num_items), (train, valid, test), notes)


def _load_table(path: Path, seed: int) -> Dataset:
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: expected a file {', '.join(SUFFIXES)}, got {path.suffix!r}")
    table = read_table(path)
    notes, pairs = list(table.notes), table.pairs
    if table.time is None:
        order = np.arange(len(pairs))
    else:
        order = np.argsort(table.time, kind="stable")
    # The earliest of repeated interactions stays.
    order = order[splitting.first_occurrences(pairs[order])]
    if len(order) < len(pairs):
        notes.append(f"{len(pairs) - len(order):,} repeated interactions were collapsed")
    if table.time is None:
        splits = splitting.per_user(pairs[order], seed)
        notes.append(f"split at random per user, 70/10/20, seed {seed}")
    else:
        splits = splitting.by_time(pairs[order])
        notes.append("split by time per user, 70/10/20")
    sizes = len(table.user_labels), len(table.item_labels)
    return _build(path.stem, sizes, splits, notes, table.user_labels, table.item_labels)


def _load_graph(path: Path, seed: int) -> Dataset:
    labels = load_ids(path)
    splits = splitting.of_graph(load_graph(path), seed)
    note = f"split at random per user, 70/10/20, seed {seed}"
    return _with_notes(Dataset(path.resolve().name, *splits, *labels, (note,)))


def _build(name, sizes, splits, notes, user_labels=None, item_labels=None) -> Dataset:
    pairs = name, *sizes, *splits, user_labels, item_labels, tuple(notes)
    return _with_notes(Dataset.from_pairs(*pairs))


def _with_notes(dataset: Dataset) -> Dataset:
    """The data set with notes that count the users and items without training interactions."""
    sizes = dataset.num_users, dataset.num_items
    more = [
        f"{missing:,} of {size:,} {what} have no training interactions; they are ranked all the same"
        for missing, size, what in zip(dataset.without_training(), sizes, ("users", "items"))
        if missing
    ]
    return dataclasses.replace(dataset, notes=(*dataset.notes, *more))
