"""A graph in a folder, larger than what a list of pairs in memory allows.

    graph.json        format, sizes, source, and of each file: dtype, shape, bytes, checksum
    rowptr.npy        int64 (U + I + 1,)
    col.npy           int32 (2E,), int64 from 2^31 nodes on
    users.npy|.parquet, items.npy|.parquet     the original id of each user and item: int64, or a
                      Parquet column of strings

The arrays are those of ``hdrm.BipartiteGraph``. A folder is written under another name and renamed
when complete: it is a whole graph or it is not there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hdrm.data import adjacency
from hdrm.data.adjacency import COL_FILE, ROWPTR_FILE
from hdrm.data.folders import partial_folder, refuse_occupied
from hdrm.data.tables import SUFFIXES, open_table
from hdrm.graph import BipartiteGraph

FORMAT, VERSION = "hdrm graph", 1
MANIFEST_FILE = "graph.json"
ORDERS = ("locality", "none")
_REBUILD = "build it again with: hdrm graph build"
_DTYPES = {
    ROWPTR_FILE: ("<i8",), COL_FILE: ("<i4", "<i8"), "users.npy": ("<i8",), "items.npy": ("<i8",)
}  # fmt: skip

INT32_NODES = 2**31  # fewer nodes than this: int32 columns

Progress = Callable[[str], None]


def build_graph(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    order: Literal["locality", "none"] = "locality",
    progress: Progress = lambda step: None,
) -> dict:
    """Build the graph of a file of interactions into a new folder.

    Memory stays below twice the size of the graph's arrays for graphs of some 10^7 edges and more;
    disk space of 16 bytes per row (24 from 2^31 nodes on) is needed meanwhile, beside the ids.

    Args:
        source: a .parquet, .csv, .tsv or .inter file, columns as ``hdrm.data.load`` reads them;
            times are ignored, repeated interactions count once.
        folder: the output; it must not exist or be empty.
        order: "none" numbers users and items in the order of their ids; "locality" so that those
            with common neighbours are close, which aggregation reads faster.
        progress: called with the name of each step as it begins.

    Returns:
        What ``graph.json`` holds.

    Raises:
        FileNotFoundError, FileExistsError: no source; a folder that is not empty.
        ValueError: a source that cannot be read, without interactions, or with missing or negative
            ids; an unknown ``order``, or "locality" for 2^31 nodes or more.
        OSError: the disk is full.
    """
    source, folder = Path(source).expanduser(), Path(folder).expanduser()
    if order not in ORDERS:
        raise ValueError(f"order must be {' or '.join(map(repr, ORDERS))}, got {order!r}")
    if not source.is_file():
        raise FileNotFoundError(f"{source} is no file; give a {', '.join(SUFFIXES)} file")
    if source.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{source}: expected a file {', '.join(SUFFIXES)}, got {source.suffix!r}")
    refuse_occupied(folder, "graph")
    from hdrm.data import graph_build, id_codes  # they need polars, and this module

    progress("reading the ids")
    table = open_table(source)
    rows, codes = id_codes.survey(table)
    with partial_folder(folder, needed=graph_build.BYTES_PER_ROW * rows) as partial:
        return graph_build.write(partial, table, rows, codes, order, progress)


def load_graph(folder: str | os.PathLike[str], *, verify: bool = False) -> BipartiteGraph:
    """The graph of a folder written by ``build_graph``, on memory-mapped arrays.

    Nothing is copied into memory but what is read; the mapping is private, so the files never
    change. ``verify`` compares the checksums of all files, which reads them once more.

    Raises:
        FileNotFoundError: no graph there, or a file of it is missing.
        ValueError: the files are not what ``graph.json`` says, or of a later version, or the graph
            has 2^31 nodes or more, which kernels with int32 columns cannot address.
    """
    folder = Path(folder).expanduser()
    rowptr, col, num_users, num_items = open_arrays(folder, verify=verify)
    try:
        if col.dtype != torch.int32:
            # Larger numbers would wrap and look right.
            if col.numel() and not 0 <= int(col.min()) <= int(col.max()) < num_users + num_items:
                raise ValueError("columns out of range")
            col = col.int()
        return BipartiteGraph.from_adjacency(rowptr, col, num_users, num_items)
    except ValueError as error:
        raise ValueError(f"{folder} is damaged: {error}; {_REBUILD}") from None


def open_arrays(folder: Path, *, verify: bool = False) -> tuple[Tensor, Tensor, int, int]:
    """rowptr and col of a folder, mapped and not looked at; U and I. Arguments, errors: load_graph."""
    manifest = read_manifest(folder)
    num_users, num_items = manifest["num_users"], manifest["num_items"]
    if num_users + num_items >= INT32_NODES:
        raise ValueError(
            f"{folder} has {num_users + num_items:,} nodes; the kernels' int32 columns number fewer"
            f" than {INT32_NODES:,}; leave out users or items and build it again"
        )
    for name in manifest["files"]:
        _check_file(folder, manifest, name, verify)
    rowptr = np.load(folder / ROWPTR_FILE, mmap_mode="c", allow_pickle=False)
    col = np.load(folder / COL_FILE, mmap_mode="c", allow_pickle=False)
    if rowptr[0] != 0 or rowptr[-1] != len(col):
        raise ValueError(
            f"{folder / ROWPTR_FILE} is damaged: expected offsets 0 … {len(col)}, found "
            f"{rowptr[0]} … {rowptr[-1]}; {_REBUILD}"
        )
    return torch.from_numpy(rowptr), torch.from_numpy(col), num_users, num_items


def load_ids(folder: str | os.PathLike[str]) -> tuple[np.ndarray | list[str], ...]:
    """The original ids of users and items, by number: int64 arrays or lists of strings.

    Raises as ``load_graph``.
    """
    folder = Path(folder).expanduser()
    manifest = read_manifest(folder)
    found = []
    for name in sorted(manifest["files"], reverse=True):  # users, then items
        if name in (ROWPTR_FILE, COL_FILE):
            continue
        _check_file(folder, manifest, name, verify=True)
        if name.endswith(".npy"):
            found.append(np.load(folder / name, allow_pickle=False))
        else:
            import polars as pl

            found.append(pl.read_parquet(folder / name)["id"].to_list())
    return found[0], found[1]


def read_manifest(folder: Path) -> dict:
    """``graph.json``, checked to describe one graph; raises as ``load_graph``."""
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"{path} is missing: {folder} is no graph; {_REBUILD} FILE -o {folder}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}; {_REBUILD}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else manifest
        raise ValueError(f"{path}: expected format {FORMAT!r}, found {found!r}; {_REBUILD}")
    version = manifest.get("version")
    if version != VERSION:
        raise ValueError(
            f"{path}: this hdrm reads version {VERSION} of the format, found {version!r}; update "
            "hdrm, or build the graph again with this one"
        )
    try:
        users, items, edges = (manifest[name] for name in ("num_users", "num_items", "edges"))
        shapes = {name: tuple(entry["shape"]) for name, entry in manifest["files"].items()}
        nodes, sizes = users + items + 1, {"users": users, "items": items}
        expected = {ROWPTR_FILE: (nodes,), COL_FILE: (2 * edges,)}
        for side, size in sizes.items():
            suffix = ".npy" if f"{side}.npy" in shapes else ".parquet"
            expected[side + suffix] = (size,)
        consistent = shapes == expected and min(users, items, edges) > 0
        consistent &= all(
            isinstance(entry["bytes"], int) and isinstance(entry["blake2b"], str)
            and (name not in _DTYPES or entry["dtype"] in _DTYPES[name])
            for name, entry in manifest["files"].items()
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}; {_REBUILD}") from None
    if not consistent:
        raise ValueError(
            f"{path} is damaged: expected the files and shapes {expected}, found {shapes}, or "
            f"wrong dtypes; {_REBUILD}"
        )
    return manifest


def _check_file(folder: Path, manifest: dict, name: str, verify: bool) -> None:
    path, entry = folder / name, manifest["files"][name]
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {_REBUILD}")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise ValueError(f"{path}: expected {entry['bytes']:,} bytes, found {size:,}; {_REBUILD}")
    if name.endswith(".npy"):
        expected = tuple(entry["shape"]), False, np.dtype(entry["dtype"])
        try:
            with path.open("rb") as file:
                found = adjacency.read_header(file)
        except ValueError as error:
            found = error
        if found != expected:
            raise ValueError(
                f"{path}: expected a .npy file of {entry['dtype']}, shape {entry['shape']}, found "
                f"{found}; {_REBUILD}"
            )
    if verify and (found := checksum(path)) != entry["blake2b"]:
        raise ValueError(
            f"{path} is damaged: expected checksum {entry['blake2b']}, found {found}; {_REBUILD}"
        )


def checksum(path: Path) -> str:
    """blake2b of 16 bytes over the file, hex."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
