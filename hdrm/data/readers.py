"""Folders that come with their own split: the authors' ``.npy`` lists and LightGCN's text files."""

from __future__ import annotations

import json
import math
from array import array
from pathlib import Path

import numpy as np

from hdrm.data.adjacency import read_header
from hdrm.data.splits import Splits

LABELS_FILE = "labels.json"

# Of users and of items: the original id of each, int64 array or strings; None: the number itself.
Labels = tuple[np.ndarray | list[str] | None, np.ndarray | list[str] | None]


def read_npy_folder(folder: Path) -> Splits:
    """``train_list.npy``, ``valid_list.npy``, ``test_list.npy``: integers of shape (n, 2)."""
    return tuple(_read_npy(folder / f"{name}_list.npy") for name in ("train", "valid", "test"))


def _read_npy(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            shape, fortran, dtype = read_header(file)
            # numpy would allocate what the header claims, and unpickle objects.
            held = path.stat().st_size - file.tell()
            if dtype.hasobject:
                raise ValueError(f"it holds {dtype} of shape {shape}")
            if math.prod(shape) * dtype.itemsize > held:
                raise ValueError(f"{held:,} bytes are too few for {dtype} of shape {shape}")
            pairs = np.fromfile(file, dtype, math.prod(shape))
            pairs = pairs.reshape(shape, order="F" if fortran else "C")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is missing: a folder of .npy lists holds train_list.npy, valid_list.npy and "
            "test_list.npy"
        ) from None
    except (ValueError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is not a readable .npy array of integers: {reason}") from None
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"{path}: expected shape (n, 2) of (user, item), got {pairs.shape}")
    if pairs.dtype.kind not in "iu":
        nan = pairs.dtype.kind == "f" and np.isnan(pairs).any()
        raise ValueError(
            f"{path}: expected integer ids, got {pairs.dtype}{' with NaN' if nan else ''}; "
            "convert with .astype(numpy.int64)"
        )
    if pairs.dtype == np.uint64 and pairs.size and pairs.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{path}: id {pairs.max()} does not fit int64")
    if pairs.size and pairs.min() < 0:
        row = int(np.argmax((pairs < 0).any(axis=1)))
        raise ValueError(f"{path}: negative id in row {row}: {pairs[row].tolist()}")
    return np.ascontiguousarray(pairs, dtype=np.int64)


def read_labels(folder: Path) -> Labels:
    """``labels.json`` beside ``.npy`` lists: lists "users" and "items" of integers or of strings.

    Without the file (None, None). Raises ValueError if it holds anything else, or an id twice.
    """
    path = folder / LABELS_FILE
    if not path.exists():
        return None, None
    try:
        content = json.loads(path.read_bytes())
        sides = [content[side] for side in ("users", "items")]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is not an object with lists 'users' and 'items': {error!r:.100}"
        ) from None
    return tuple(_checked_labels(path, found) for found in sides)


def _checked_labels(path: Path, labels) -> np.ndarray | list[str]:
    kinds = set(map(type, labels)) if isinstance(labels, list) else set()
    if kinds not in ({int}, {str}) or len(set(labels)) != len(labels):
        raise ValueError(f"{path}: expected lists of distinct integers or of distinct strings")
    if kinds == {str}:
        return labels
    try:
        return np.array(labels, dtype=np.int64)
    except OverflowError:
        raise ValueError(f"{path}: an id does not fit int64") from None


def read_lightgcn_folder(folder: Path) -> tuple[Splits, int]:
    """``train.txt``, ``test.txt`` and, if present, ``valid.txt``; a line is ``user item item …``.

    Returns the splits (valid of shape (0, 2) without a file) and the number of users, which counts
    users whose lines hold no items.
    """
    splits, num_users = [], 0
    for name in ("train", "valid", "test"):
        path = folder / f"{name}.txt"
        if name == "valid" and not path.exists():
            splits.append(np.empty((0, 2), dtype=np.int64))
            continue
        pairs, users = _read_adjacency(path)
        splits.append(pairs)
        num_users = max(num_users, users)
    return tuple(splits), num_users


def _read_adjacency(path: Path) -> tuple[np.ndarray, int]:
    users, counts, items = array("q"), array("q"), array("q")
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                fields = line.split()
                if not fields:
                    continue
                try:
                    user, *rest = map(int, fields)
                    users.append(user)
                    items.extend(rest)
                except (ValueError, OverflowError):
                    text = line.decode("utf-8", "replace").strip()[:60]
                    raise ValueError(
                        f"{path}, line {number}: expected integers 'user item item …', got {text!r}"
                    ) from None
                if user < 0 or min(rest, default=0) < 0:
                    raise ValueError(f"{path}, line {number}: negative id {min([user, *rest])}")
                counts.append(len(rest))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is missing: a LightGCN folder holds train.txt and test.txt"
        ) from None
    owners = np.frombuffer(users, dtype=np.int64) if users else np.empty(0, dtype=np.int64)
    pairs = np.empty((len(items), 2), dtype=np.int64)
    pairs[:, 0] = np.repeat(owners, np.asarray(counts, dtype=np.int64))
    pairs[:, 1] = items
    return pairs, int(owners.max(initial=-1)) + 1
