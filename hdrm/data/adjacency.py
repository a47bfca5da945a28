"""The adjacency of users and items as files, sorted outside memory.

Pairs are distributed over slabs of rows (one pass that only appends), and each slab is sorted in
memory. What is held does not grow with the number of pairs: a slab, and some numbers per node.
"""

from __future__ import annotations

import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

BATCH_ROWS = 2**20  # pairs read at a time
SLAB_ENTRIES = 2**22  # keys of 8 bytes sorted at a time
MAX_SLABS = 2**10  # beyond, slabs grow: each is appended to with every batch

ROWPTR_FILE = "rowptr.npy"
COL_FILE = "col.npy"
SLABS_FILE = "slabs.tmp"

Pairs = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]


def write_adjacency(
    folder: Path, pairs: Pairs, user_degrees: np.ndarray, num_items: int, dtype: np.dtype
) -> int:
    """Write ``rowptr.npy`` (int64) and ``col.npy`` (``dtype``) as BipartiteGraph lays them out.

    Args:
        folder: an existing folder; also takes a temporary file of 8 bytes per pair.
        pairs: called once, yields batches (users, items) of integers from 0; repeated pairs count
            once.
        user_degrees: int64 (U,), the pairs of each user, repeated ones too; none is 0.
        num_items: I; every item occurs.

    Returns:
        The number of distinct pairs.
    """
    num_users = len(user_degrees)
    rowptr = np.zeros(num_users + num_items + 1, dtype=np.int64)
    item_degrees = np.zeros(num_items, dtype=np.int64)
    with (folder / COL_FILE).open("w+b") as col, (folder / SLABS_FILE).open("w+b") as slabs:
        write_header(col, dtype, 0)
        for first, degrees, items in _sorted_slabs(slabs, pairs(), user_degrees, num_items):
            rowptr[first + 1 : first + 1 + len(degrees)] = degrees
            item_degrees += np.bincount(items, minlength=num_items)
            items += num_users
            col.write(items.astype(dtype, copy=False).data)
        col.flush()
        np.cumsum(rowptr, out=rowptr)
        edges = int(rowptr[num_users])
        # The rows of the items are the transpose of what has just been written.
        swapped = ((i, u) for u, i in user_rows(folder / COL_FILE, rowptr[: num_users + 1]))
        for first, degrees, users in _sorted_slabs(slabs, swapped, item_degrees, num_users):
            rowptr[num_users + first + 1 : num_users + first + 1 + len(degrees)] = degrees
            col.write(users.astype(dtype, copy=False).data)
        np.cumsum(rowptr[num_users + 1 :], out=rowptr[num_users + 1 :])
        rowptr[num_users + 1 :] += edges
        write_header(col, dtype, 2 * edges)
    (folder / SLABS_FILE).unlink()
    np.save(folder / ROWPTR_FILE, rowptr)
    return edges


def user_rows(path: Path, rowptr: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches (users, items), both int64, of the users' rows of a ``col.npy``."""
    num_users = len(rowptr) - 1
    with path.open("rb") as file:
        _, _, dtype = read_header(file)
        for begin in range(0, int(rowptr[-1]), BATCH_ROWS):
            end = min(begin + BATCH_ROWS, int(rowptr[-1]))
            items = np.empty(end - begin, dtype=dtype)
            read_into(file, items)
            first = int(np.searchsorted(rowptr, begin, side="right")) - 1
            last = int(np.searchsorted(rowptr, end, side="left"))
            lengths = np.diff(np.clip(rowptr[first : last + 1], begin, end))
            yield np.repeat(np.arange(first, last), lengths), items.astype(np.int64) - num_users


def write_header(file: BinaryIO, dtype: np.dtype, length: int) -> None:
    """Begin a .npy file of a vector. Its header has the same size whatever the length."""
    file.seek(0)
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, header)


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and dtype of a .npy file; ValueError if it is none."""
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"version {version} of the .npy format")
    try:
        return readers[version](file)
    # A header is a Python literal, and numpy lets errors of parsing it out.
    except (ValueError, TypeError, SyntaxError, RecursionError, tokenize.TokenError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"its header is damaged: {reason:.200}") from None


def read_into(file: BinaryIO, array: np.ndarray) -> None:
    """Fill the array from a file that holds that much."""
    if file.readinto(array) != array.nbytes:
        raise OSError(f"{file.name} ended early: another program shortened it")


def _sorted_slabs(
    file: BinaryIO,
    pairs: Iterator[tuple[np.ndarray, np.ndarray]],
    degrees: np.ndarray,
    num_values: int,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Sort pairs (row, value) by row, then value, and drop repeated ones, slab by slab.

    Yields (first row, number of values of each row, the values as int64).
    """
    bounds, sizes = _slab_bounds(degrees)
    bits = max(num_values - 1, 1).bit_length()
    _distribute(file, pairs, bounds, sizes, bits)
    file.seek(0)
    for first, last, size in zip(bounds, bounds[1:], sizes):
        keys = np.empty(size, dtype=np.int64)
        read_into(file, keys)
        keys.sort()
        fresh = np.ones(len(keys), dtype=bool)
        np.not_equal(keys[1:], keys[:-1], out=fresh[1:])
        if not fresh.all():
            keys = keys[fresh]
        lengths = np.bincount(keys >> bits, minlength=last - first)
        keys &= (1 << bits) - 1
        yield int(first), lengths, keys
    file.seek(0)
    file.truncate()


def _slab_bounds(degrees: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First rows of the slabs, then the number of rows; and the entries of each slab."""
    ends = np.cumsum(degrees)
    size = max(SLAB_ENTRIES, 2 * int(ends[-1]) // MAX_SLABS)
    bounds = [0]
    while bounds[-1] < len(degrees):
        before = int(ends[bounds[-1] - 1]) if bounds[-1] else 0
        # A row that is larger than a slab has one of its own.
        fitting = int(np.searchsorted(ends, before + size, side="right"))
        bounds.append(max(fitting, bounds[-1] + 1))
    bounds = np.array(bounds)
    return bounds, np.diff(ends[bounds[1:] - 1], prepend=0)


def _distribute(file: BinaryIO, pairs, bounds, sizes, bits: int) -> None:
    """Write every pair into its slab's part of the file, as a key: row within the slab, value."""
    slab_of_row = np.repeat(np.arange(len(sizes), dtype=np.uint16), np.diff(bounds))
    at = 8 * (np.cumsum(sizes) - sizes)
    for rows, values in pairs:
        slab = slab_of_row[rows]
        keys = rows - bounds[slab]
        keys <<= bits
        keys |= values
        keys = keys[np.argsort(slab, kind="stable")]  # radix sort, for 16 bits
        counts = np.bincount(slab, minlength=len(sizes))
        ends = np.cumsum(counts)
        for s in np.flatnonzero(counts):
            file.seek(at[s])
            file.write(keys[ends[s] - counts[s] : ends[s]].data)
        at += 8 * counts
    file.flush()
