"""Building a graph folder: the files of ``hdrm.data.graph_files``, from a file of interactions.

The source is read twice, in batches: for what its ids are, and to write a temporary file of
numbered pairs, from which all else is made. No step holds more than some numbers per node and one batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import torch

from hdrm.data import adjacency, graph_files
from hdrm.data.adjacency import COL_FILE, ROWPTR_FILE
from hdrm.data.graph_files import Progress
from hdrm.data.id_codes import Ids, LabelCodes, OffsetCodes
from hdrm.data.locality import locality_order
from hdrm.data.tables import Source
from hdrm.graph import BipartiteGraph

PAIRS_FILE = "pairs.tmp"
# Pairs and their keys, 8 each; later the keys of the items' rows (8) beside both halves of col (4
# each); in another order the same. From 2^31 nodes on, where col takes twice that, 24.
BYTES_PER_ROW = 16

Codes = dict[str, OffsetCodes | LabelCodes]


def write(
    partial: Path, table: Source, rows: int, codes: Codes, order: str, progress: Progress
) -> dict:
    """Write all files of the graph, the manifest last, which is returned."""
    progress("numbering the ids")
    _write_pairs(partial / PAIRS_FILE, table, rows, codes)
    users, items = codes["user"].finish(), codes["item"].finish()
    codes.clear()
    sizes = num_users, num_items = len(users.labels), len(items.labels)
    dtype = np.dtype("<i4" if sum(sizes) < graph_files.INT32_NODES else "<i8")
    if dtype.itemsize == 8 and order == "locality":
        raise ValueError(
            f"{table.path} has {sum(sizes):,} nodes; order 'locality' takes fewer than "
            f"{graph_files.INT32_NODES:,}; use order 'none' (--order none)"
        )

    progress("sorting")
    edges = _sort_pairs(partial, users, items, dtype)
    labels = {"users": users.labels, "items": items.labels}
    del users, items
    if order == "locality":
        orders = _reorder(partial, num_users, num_items, dtype, progress)
        labels = {side: ids[at] for (side, ids), at in zip(labels.items(), orders)}

    progress("writing checksums")
    files = {ROWPTR_FILE: ("<i8", sum(sizes) + 1), COL_FILE: (dtype.str, 2 * edges)}
    for side, ids in labels.items():
        name, kind = _write_ids(partial, side, ids)
        files[name] = kind, len(ids)
    manifest = {
        "format": graph_files.FORMAT,
        "version": graph_files.VERSION,
        "source": table.path.name,
        "num_users": num_users,
        "num_items": num_items,
        "edges": edges,
        "duplicates_dropped": rows - edges,
        "order": order,
        "files": {
            name: {
                "dtype": kind,
                "shape": [length],
                "bytes": (partial / name).stat().st_size,
                "blake2b": graph_files.checksum(partial / name),
            }
            for name, (kind, length) in files.items()
        },
    }
    (partial / graph_files.MANIFEST_FILE).write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def _write_pairs(path: Path, table: Source, rows: int, codes: Codes) -> None:
    """The codes of all rows, uint32 (rows, 2)."""
    written = 0
    with path.open("wb") as file:
        for frame in table.batches(adjacency.BATCH_ROWS):
            pair = np.stack([codes[role].encode(frame[role]) for role in ("user", "item")], axis=1)
            file.write(pair.data)
            written += len(pair)
    if written != rows:
        raise ValueError(f"{table.path} changed while it was read: {rows} rows, then {written}")


def _sort_pairs(partial: Path, users: Ids, items: Ids, dtype: np.dtype) -> int:
    """Write the adjacency of the pairs' file and remove that; returns the number of edges."""

    def pairs():
        for pair in _read_pairs(partial / PAIRS_FILE):
            yield users.of_code[pair[:, 0]], items.of_code[pair[:, 1]]
        (partial / PAIRS_FILE).unlink()  # its place on the disk is needed

    degrees = np.zeros(len(users.labels), dtype=np.int64)
    for pair in _read_pairs(partial / PAIRS_FILE):
        found, counts = np.unique(users.of_code[pair[:, 0]], return_counts=True)
        degrees[found] += counts
    return adjacency.write_adjacency(partial, pairs, degrees, len(items.labels), dtype)


def _read_pairs(path: Path) -> Iterator[np.ndarray]:
    left = path.stat().st_size // 8
    with path.open("rb") as file:
        while left:
            pair = np.empty((min(left, adjacency.BATCH_ROWS), 2), dtype=np.uint32)
            adjacency.read_into(file, pair)
            left -= len(pair)
            yield pair


def _reorder(partial: Path, num_users: int, num_items: int, dtype, progress: Progress):
    """Number the nodes of the written graph anew; returns the old numbers in the new order."""
    progress("finding an order")
    rowptr, col = (
        torch.from_numpy(np.load(partial / name, mmap_mode="c", allow_pickle=False))
        for name in (ROWPTR_FILE, COL_FILE)
    )
    graph = BipartiteGraph.from_adjacency(rowptr, col, num_users, num_items)
    orders = locality_order(graph)
    degrees = graph.user_items.degrees.numpy()[orders[0]]
    del graph, col

    progress("sorting in that order")
    places = []
    for order in orders:
        place = np.empty(len(order), dtype=np.uint32)
        place[order] = np.arange(len(order), dtype=np.uint32)
        places.append(place)
    old, offsets = partial / f"{COL_FILE}.old", rowptr.numpy()[: num_users + 1].copy()
    (partial / COL_FILE).rename(old)

    def pairs():
        for users, items in adjacency.user_rows(old, offsets):
            yield places[0][users], places[1][items]
        old.unlink()

    adjacency.write_adjacency(partial, pairs, degrees, num_items, dtype)
    return orders


def _write_ids(partial: Path, side: str, ids: np.ndarray | pl.Series) -> tuple[str, str]:
    """Returns the file's name and dtype."""
    if isinstance(ids, np.ndarray):
        np.save(partial / f"{side}.npy", ids.astype("<i8", copy=False))
        return f"{side}.npy", "<i8"
    with (partial / f"{side}.parquet").open("wb") as file:
        ids.alias("id").to_frame().write_parquet(file)
    return f"{side}.parquet", "string"
