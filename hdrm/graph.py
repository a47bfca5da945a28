"""Sparse structure: CSR index arrays without values, and the bipartite user–item graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import native

BLOCK = 2**16  # entries that a walk over a matrix looks at in one go

# Of ids rows, cols (int64, one length): which entries, bool.
Keep = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class CSR:
    """A sparse 0/1 matrix in compressed sparse rows; no values are stored.

    Attributes:
        rowptr: int64 (num_rows + 1,), offsets of the rows into ``col``.
        col: int32 (…), ascending within a row; entry j stands for column ``col[j] - offset``.
            It may be longer than ``rowptr[-1]``: a CSR can be a view of a larger one's head.
        num_cols: number of columns.
        offset: subtracted from every entry of ``col``.
    """

    rowptr: Tensor
    col: Tensor
    num_cols: int
    offset: int = 0

    def __post_init__(self) -> None:
        for name, tensor, dtype in (
            ("rowptr", self.rowptr, torch.int64),
            ("col", self.col, torch.int32),
        ):
            if not isinstance(tensor, Tensor):
                raise TypeError(
                    f"CSR: {name} must be a tensor, got {type(tensor).__name__}; CSR.from_pairs "
                    f"builds a matrix from index pairs of any kind"
                )
            if tensor.dtype != dtype or tensor.dim() != 1:
                raise TypeError(
                    f"CSR: {name} must be a 1-d {dtype} tensor, got {tensor.dtype} of shape "
                    f"{tuple(tensor.shape)}; CSR.from_pairs builds one from index pairs"
                )
        if self.rowptr.numel() < 1:
            raise ValueError("CSR: rowptr must have num_rows + 1 entries, got none")
        if self.rowptr.device != self.col.device:
            raise ValueError(f"CSR: rowptr is on {self.rowptr.device}, col on {self.col.device}")
        if self.device.type != "meta":
            self._check_entries()

    def _check_entries(self) -> None:
        """The kernels index memory with these numbers and do not look again."""
        first, last = int(self.rowptr[0]), int(self.rowptr[-1])
        if first < 0 or last > self.col.numel() or bool((self.rowptr.diff() < 0).any()):
            raise ValueError(
                f"CSR: rowptr must ascend within 0 … {self.col.numel()} (col's length), got "
                f"{self.rowptr.min()} … {self.rowptr.max()}, ending at {last}"
            )
        entries = self.col[first:last]
        if entries.numel() == 0:
            return
        low, high = int(entries.min()) - self.offset, int(entries.max()) - self.offset
        if low < 0 or high >= self.num_cols:
            raise ValueError(
                f"CSR: columns must be in 0 … {self.num_cols - 1}, got {low} … {high}; "
                f"CSR.from_pairs builds a checked matrix from index pairs"
            )

    @classmethod
    def from_pairs(cls, rows, cols, num_rows: int, num_cols: int) -> CSR:
        """The matrix with a 1 at every (row, col) pair; duplicates count once.

        Args:
            rows, cols: integer arrays or tensors of one length.
            num_rows, num_cols: the matrix's size.

        Raises:
            TypeError, ValueError: not integers, lengths differ, or ids out of range.
        """
        rows, cols = _ids("rows", rows, num_rows), _ids("cols", cols, num_cols)
        _same_length(rows, cols)
        order = np.unique(rows * num_cols + cols) if len(rows) else rows
        rowptr = np.zeros(num_rows + 1, np.int64)
        np.cumsum(np.bincount(order // max(num_cols, 1), minlength=num_rows), out=rowptr[1:])
        col = (order % max(num_cols, 1)).astype(np.int32)
        return cls(torch.from_numpy(rowptr), torch.from_numpy(col), num_cols)

    @classmethod
    def trusted(cls, rowptr: Tensor, col: Tensor, num_cols: int, offset: int = 0) -> CSR:
        """The matrix of arrays that are known to be one: no value is looked at.

        So a GPU is not waited for, and torch.export can trace what follows.
        """
        csr = object.__new__(cls)
        for name, value in zip(
            ("rowptr", "col", "num_cols", "offset"), (rowptr, col, num_cols, offset)
        ):
            object.__setattr__(csr, name, value)
        return csr

    @property
    def num_rows(self) -> int:
        return self.rowptr.numel() - 1

    @property
    def nnz(self) -> int:
        return int(self.rowptr[-1] - self.rowptr[0])

    @property
    def device(self) -> torch.device:
        return self.rowptr.device

    @property
    def degrees(self) -> Tensor:
        """int64 (num_rows,): entries of each row."""
        return self.rowptr.diff()

    def row(self, i: int) -> Tensor:
        """Column ids of row i, int64, ascending."""
        return self.col[self.rowptr[i] : self.rowptr[i + 1]].long() - self.offset

    def rows(self, index: Tensor) -> CSR:
        """A new CSR that holds the rows ``index`` (int64) in that order."""
        start, length = self.rowptr[index], self.degrees[index]
        rowptr = torch.zeros(index.numel() + 1, dtype=torch.int64, device=self.device)
        torch.cumsum(length, 0, out=rowptr[1:])
        shift = torch.repeat_interleave(start - rowptr[:-1], length)
        entries = torch.arange(shift.numel(), device=self.device) + shift
        return CSR.trusted(rowptr, self.col[entries], self.num_cols, self.offset)

    def pairs(self) -> tuple[Tensor, Tensor]:
        """rows, cols of all entries in order, int64: what from_pairs makes this matrix of."""
        rows = torch.arange(self.num_rows, device=self.device)
        entries = self.col[self.rowptr[0] : self.rowptr[-1]]
        return torch.repeat_interleave(rows, self.degrees), entries.long() - self.offset

    def blocks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """``pairs`` in parts of whole rows, 2¹⁶ entries at most or one row; and which rows they are."""
        first = 0
        while first < self.num_rows:
            # The rows up to the last offset within a block's length.
            end = torch.searchsorted(self.rowptr, self.rowptr[first] + BLOCK, right=True)
            last = max(int(end) - 1, first + 1)
            part = CSR(self.rowptr[first : last + 1], self.col, self.num_cols, self.offset)
            rows, cols = part.pairs()
            yield slice(first, last), rows.add_(first), cols
            first = last

    def where(self, keep: Keep) -> CSR:
        """The matrix of the entries at which ``keep(rows, cols)`` is true.

        It is asked about blocks of entries: beside the result a byte an entry is needed.
        """
        rowptr = torch.zeros_like(self.rowptr)
        kept = torch.empty(self.nnz, dtype=torch.bool, device=self.device)
        asked = 0
        for at, rows, cols in self.blocks():
            chosen = kept[asked : asked + len(rows)].copy_(keep(rows, cols))
            asked += len(rows)
            before = F.pad(chosen.cumsum(0), (1, 0))  # how many are kept before an entry
            offsets = self.rowptr[at.start : at.stop + 1]
            rowptr[at.start + 1 : at.stop + 1] = before[offsets - offsets[0]].diff()
        rowptr.cumsum_(0)
        col = torch.empty(int(rowptr[-1]), dtype=torch.int32, device=self.device)
        written = 0
        entries = self.col[self.rowptr[0] : self.rowptr[-1]]
        for part, mask in zip(entries.split(BLOCK), kept.split(BLOCK)):
            found = torch.masked_select(part, mask)
            col[written : written + len(found)] = found
            written += len(found)
        return CSR(rowptr, col, self.num_cols, self.offset)

    def union(self, other: CSR) -> CSR:
        """The matrix of the entries of either; both have one device. ValueError: other sizes."""
        if (self.num_rows, self.num_cols) != (other.num_rows, other.num_cols):
            raise ValueError(
                f"CSR.union needs matrices of one size, got {self.num_rows} × {self.num_cols} and "
                f"{other.num_rows} × {other.num_cols}"
            )
        keys = [rows * self.num_cols + cols for rows, cols in (self.pairs(), other.pairs())]
        keys = torch.unique(torch.cat(keys))
        starts = torch.arange(self.num_rows + 1, device=self.device) * self.num_cols
        return CSR(torch.searchsorted(keys, starts), (keys % self.num_cols).int(), self.num_cols)

    def to(self, device: torch.device | str) -> CSR:
        rowptr, col = self.rowptr.to(device), self.col.to(device)
        if rowptr is self.rowptr and col is self.col:
            return self
        return CSR(rowptr, col, self.num_cols, self.offset)


@dataclass(frozen=True, eq=False)
class BipartiteGraph:
    """The symmetric adjacency of users and items as one CSR.

    Nodes 0 … U−1 are the users, U … U+I−1 the items. Only ``rowptr`` and ``col`` are stored: no
    edge values and no transpose, which equals the matrix.

    Attributes:
        rowptr: int64 (U + I + 1,).
        col: int32 (2E,), ascending within a row.
        num_users, num_items: U and I.
        user_items: CSR (U × I) of the items of each user; a view of the same memory unless the
            graph keeps duplicate edges.
    """

    rowptr: Tensor
    col: Tensor
    num_users: int
    num_items: int
    user_items: CSR

    def __post_init__(self) -> None:
        adjacency = CSR(self.rowptr, self.col, self.num_nodes)  # raises what does not fit
        for name, csr, rows, cols in (
            ("rowptr", adjacency, self.num_nodes, self.num_nodes),
            ("user_items", self.user_items, self.num_users, self.num_items),
        ):
            if (csr.num_rows, csr.num_cols) != (rows, cols):
                raise ValueError(
                    f"BipartiteGraph: {name} must describe {rows} rows and {cols} columns, got "
                    f"{csr.num_rows} and {csr.num_cols}; BipartiteGraph.from_interactions builds "
                    f"a graph from pairs"
                )

    @classmethod
    def from_interactions(
        cls,
        users,
        items,
        num_users: int | None = None,
        num_items: int | None = None,
        *,
        duplicates: Literal["collapse", "keep"] = "collapse",
    ) -> BipartiteGraph:
        """Build the graph from interactions (users[k], items[k]).

        Args:
            users, items: integer arrays, tensors or sequences of one length.
            num_users, num_items: sizes; by default the largest id plus one.
            duplicates: ``"collapse"`` keeps one edge of each pair, ``"keep"`` counts an edge as
                often as it occurs.

        Raises:
            TypeError: ids that are not integers.
            ValueError: lengths differ, ids are negative or not below the size given, an unknown
                ``duplicates``.
        """
        if duplicates not in ("collapse", "keep"):
            raise ValueError(f"duplicates must be 'collapse' or 'keep', got {duplicates!r}")
        users, items = _ids("users", users, num_users), _ids("items", items, num_items)
        _same_length(users, items)
        num_users = int(users.max(initial=-1)) + 1 if num_users is None else num_users
        num_items = int(items.max(initial=-1)) + 1 if num_items is None else num_items
        if num_users + num_items >= 2**31:
            raise ValueError(
                f"the graph has {num_users + num_items:,} nodes, more than int32 columns number"
            )
        collapse = duplicates == "collapse"
        arrays = _adjacency(users, items, num_users, num_items, collapse)
        rowptr, col = map(torch.from_numpy, arrays)
        if collapse:
            return cls.from_adjacency(rowptr, col, num_users, num_items)
        user_items = CSR.from_pairs(users, items, num_users, num_items)
        return cls(rowptr, col, num_users, num_items, user_items)

    @classmethod
    def from_adjacency(
        cls, rowptr: Tensor, col: Tensor, num_users: int, num_items: int
    ) -> BipartiteGraph:
        """The graph of arrays as it holds them, without duplicate edges; nothing is copied.

        Raises:
            TypeError, ValueError: wrong dtypes or sizes, offsets or columns out of range. That the
                items' rows are the transpose of the users' is not checked.
        """
        user_items = CSR(rowptr[: num_users + 1], col, num_items, offset=num_users)
        return cls(rowptr, col, num_users, num_items, user_items)

    @property
    def num_nodes(self) -> int:
        return self.num_users + self.num_items

    @property
    def num_edges(self) -> int:
        """E, the number of interactions; ``col`` holds each in both directions."""
        return self.col.numel() // 2

    @property
    def degrees(self) -> Tensor:
        """int64 (U + I,): neighbours of each node."""
        return self.rowptr.diff()

    @property
    def device(self) -> torch.device:
        return self.rowptr.device

    def where(self, keep: Keep) -> BipartiteGraph:
        """The graph of the interactions at which ``keep(users, items)`` is true, as CSR.where.

        It is asked about an interaction in either direction, so it must be a function of the ids.
        The graph must be without duplicate edges.
        """
        both = CSR(self.rowptr, self.col, self.num_nodes).where(
            lambda a, b: keep(torch.minimum(a, b), torch.maximum(a, b) - self.num_users)
        )
        return self.from_adjacency(both.rowptr, both.col, self.num_users, self.num_items)

    def to(self, device: torch.device | str) -> BipartiteGraph:
        rowptr, col = self.rowptr.to(device), self.col.to(device)
        if rowptr is self.rowptr and col is self.col:
            return self
        if self.user_items.col is self.col:
            user_items = CSR(
                rowptr[: self.num_users + 1], col, self.num_items, self.user_items.offset
            )
        else:
            user_items = self.user_items.to(device)
        return BipartiteGraph(rowptr, col, self.num_users, self.num_items, user_items)

    def __repr__(self) -> str:
        return (
            f"BipartiteGraph({self.num_users:,} users × {self.num_items:,} items, "
            f"{self.num_edges:,} edges, {self.device})"
        )


def _adjacency(
    users: np.ndarray, items: np.ndarray, num_users: int, num_items: int, collapse: bool
) -> tuple[np.ndarray, np.ndarray]:
    module = native.load()
    if module is not None:
        return module.build_csr(users, items, num_users, num_items, collapse)
    num_nodes = num_users + num_items
    key = np.concatenate(
        [users * num_nodes + (items + num_users), (items + num_users) * num_nodes + users]
    )
    key = np.unique(key) if collapse else np.sort(key)
    rowptr = np.zeros(num_nodes + 1, np.int64)
    if num_nodes:
        np.cumsum(np.bincount(key // num_nodes, minlength=num_nodes), out=rowptr[1:])
        key %= num_nodes
    return rowptr, key.astype(np.int32)


def _ids(name: str, values, size: int | None) -> np.ndarray:
    """Contiguous int64 ids, each in [0, size)."""
    if size is not None and (not isinstance(size, (int, np.integer)) or size < 0):
        raise ValueError(f"the number of {name} must be a whole number from 0, got {size!r}")
    try:
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    except ValueError:  # lists of several lengths
        raise TypeError(f"{name} must be one-dimensional integer ids, got nested lists") from None
    if array.size == 0:
        array = array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TypeError(
            f"{name} must be one-dimensional integer ids, got {array.dtype} of shape {array.shape}"
        )
    array = np.ascontiguousarray(array, dtype=np.int64)
    if array.size:
        low, high = int(array.min()), int(array.max())
        if low < 0:
            raise ValueError(f"{name} must not be negative, got {low} at {int(array.argmin())}")
        if size is not None and high >= size:
            raise ValueError(
                f"{name} must be below {size}, got {high} at position {int(array.argmax())}"
            )
    return array


def _same_length(a: np.ndarray, b: np.ndarray) -> None:
    if len(a) != len(b):
        raise ValueError(
            f"one id of each kind is needed per interaction, got {len(a)} and {len(b)}"
        )
