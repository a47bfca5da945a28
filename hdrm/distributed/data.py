"""A data set in shares: each process reads, or keeps, the rows of its own users."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import data
from ..data import loading, splits
from ..data.datasets import summary_of
from ..data.graph_files import MANIFEST_FILE, load_ids, open_arrays
from ..graph import CSR
from .cuts import Cuts
from .graph import RankGraph
from .team import RankTeam
from .world import World

VERIFIED = 2**22  # entries of a file that are looked at in one go


@dataclass(frozen=True, eq=False)
class RankDataset:
    """What a process has of a data set; to a trainer it looks like :class:`hdrm.data.Dataset`.

    graph: this process's part. train, valid, test: CSR (own users × I).
    num_users, num_items, sizes, notes, labels, fingerprint: of the whole.
    """

    name: str
    graph: RankGraph
    valid: CSR
    test: CSR
    sizes: dict[str, int]
    missing: tuple[int, int]  # users and items without training interactions
    notes: tuple[str, ...]
    digest: str
    user_labels: object = None
    item_labels: object = None

    @property
    def num_users(self) -> int:
        return self.graph.cuts.num_users

    @property
    def num_items(self) -> int:
        return self.graph.cuts.num_items

    @property
    def train(self) -> CSR:
        return self.graph.user_items

    def without_training(self) -> tuple[int, int]:
        return self.missing

    def fingerprint(self) -> str:
        return self.digest

    def summary(self) -> dict:
        return summary_of(self)


def load(source: str | os.PathLike[str], world: World, *, seed: int = 0) -> RankDataset:
    """This process's share of what ``hdrm.data.load(source)`` gives.

    Of a folder of ``hdrm graph build`` a process reads the rows of its row group's users. Anything
    else is read whole by every process, which then keeps its share.

    Raises as hdrm.data.load, and ValueError for fewer users or items than processes.
    """
    path = None if source == "demo" else loading.locate(source)
    if path is not None and (path / MANIFEST_FILE).exists():
        rowptr, col, num_users, num_items = open_arrays(path)
        cuts = Cuts.of(rowptr[: num_users + 1], num_items, world.size)
        group = _group(world, cuts)
        rows = _rows(rowptr, col, group, num_users, num_items)
        keeps = splits.by_bits(rows, seed, first=group.start)
        train, valid, test = (rows.where(keep) for keep in keeps)
        labels = load_ids(path) if world.rank == 0 else (None, None)
        notes = (loading.split_note(seed),)
        return _made(path.resolve().name, world, cuts, train, valid, test, notes, labels)
    whole = data.load(source, seed=seed)
    cuts = cuts_of(whole, world.size)
    group = _group(world, cuts)
    parts = (_slice(split, group) for split in whole.splits.values())
    labels = whole.user_labels, whole.item_labels
    notes = tuple(n for n in whole.notes if "no training interactions" not in n)
    return _made(whole.name, world, cuts, *parts, notes, labels)


def cuts_of(dataset: data.Dataset, processes: int) -> Cuts:
    """As of a graph's folder: held-out interactions count too."""
    rowptr = sum(split.rowptr for split in dataset.splits.values())
    return Cuts.of(rowptr, dataset.num_items, processes)


def _group(world: World, cuts: Cuts) -> range:
    """The users of this process's row group."""
    return cuts.of_users(world.row * world.cols, world.cols)


def _made(name, world, cuts, train, valid, test, notes, labels) -> RankDataset:
    """Of CSR of the row group's users."""
    train = CSR.trusted(*(of.to(world.device) for of in (train.rowptr, train.col)), cuts.num_items)
    graph = RankGraph.of(world, cuts, train)
    graph.team = team = RankTeam(graph)
    at = graph.own_users.start - _group(world, cuts).start
    own = range(at, at + graph.num_users)
    valid, test = _slice(valid, own), _slice(test, own)
    parts = {"train": graph.user_items, "valid": valid, "test": test}
    counts = team.total(torch.tensor([part.nnz for part in parts.values()]))
    splits.require_all(counts.tolist(), "as read")
    without = [
        int((of == 0).sum()) for of in graph.degrees.split([graph.num_users, graph.num_items])
    ]
    missing = tuple(team.total(torch.tensor(without)).tolist())
    more = loading.notes_on_missing(missing, (cuts.num_users, cuts.num_items))
    return RankDataset(
        name,
        graph,
        valid,
        test,
        dict(zip(parts, counts.tolist())),
        missing,
        (*notes, *more),
        _fingerprint(world, cuts, list(parts.values())),
        *labels,
    )


def _rows(rowptr: Tensor, col: Tensor, users: range, num_users: int, num_items: int) -> CSR:
    """Rows of users, read from a file's arrays and checked."""
    bounds = rowptr[users.start : users.stop + 1].clone()
    begin, end = int(bounds[0]), int(bounds[-1])
    if begin < 0 or end > len(col) or bool((bounds.diff() < 0).any()):
        raise ValueError(
            f"the graph's offsets of users {users.start} … {users.stop - 1} are damaged"
        )
    items = torch.empty(end - begin, dtype=torch.int32)
    for start in range(begin, end, VERIFIED):
        part = col[start : min(start + VERIFIED, end)].long() - num_users
        if part.numel() and not 0 <= int(part.min()) <= int(part.max()) < num_items:
            raise ValueError(
                "the graph's columns are damaged: build it again with: hdrm graph build"
            )
        items[start - begin : start - begin + len(part)] = part
    return CSR.trusted(bounds - begin, items, num_items)


def _slice(csr: CSR, rows: range) -> CSR:
    """Some rows, in memory of their own."""
    rowptr = csr.rowptr[rows.start : rows.stop + 1]
    begin, end = int(rowptr[0]), int(rowptr[-1])
    col = csr.col[begin:end].clone()
    if csr.offset:
        col -= csr.offset
    return CSR.trusted(rowptr - begin, col, csr.num_cols)


def _fingerprint(world: World, cuts: Cuts, parts: list[CSR]) -> str:
    """Dataset.fingerprint of all: the first process hashes what the others send in turn."""
    digest = hashlib.sha256(np.array([cuts.num_users, cuts.num_items], dtype="<i8").data)
    for part in parts:
        for array in (part.degrees, part.col[int(part.rowptr[0]) : int(part.rowptr[-1])]):
            kind = "<i8" if array.dtype == torch.int64 else "<i4"
            world.streamed(
                array.cpu(), lambda block, kind=kind: digest.update(block.numpy().astype(kind).data)
            )
    return world.shared(digest.hexdigest())
