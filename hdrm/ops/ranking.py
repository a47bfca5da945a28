"""Ranking by Lorentz distance: the hinge loss, exact top-k and negative sampling."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..graph import CSR
from . import backend, checks, philox
from .distance import _distance, _sqdist0


def margin_ranking_loss(
    u: Tensor,
    pos: Tensor,
    neg: Tensor,
    margin: float,
    *,
    c: float = 1.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Hinge on squared distances: Σ or mean of max(0, d²(u,pos) − d²(u,neg) + margin).

    Args:
        u, pos, neg: tangent vectors at the origin (..., d+1); d² is
            :func:`hdrm.ops.sqdist0`, the squared distance of their exponential maps. Any floating
            point dtype; in 16 bits the loss is float32.
        margin: m ≥ 0, a squared length.
        c: the curvature is −c.
        reduction: "mean" or "sum" over the rows.

    Returns:
        A scalar. Where the hinge is quiet the gradient is 0.

    Raises:
        TypeError, ValueError: shapes, dtypes or devices do not fit, c ≤ 0, margin < 0.
    """
    c = checks.curvature(c)
    u, pos, neg = checks.rows("margin_ranking_loss", storage=True, u=u, pos=pos, neg=neg)
    if not margin >= 0:
        raise ValueError(f"margin_ranking_loss: margin must be at least 0, got {margin!r}")
    if reduction not in ("mean", "sum"):
        raise ValueError(
            f"margin_ranking_loss: reduction must be 'mean' or 'sum', got {reduction!r}"
        )
    hinge = backend.call("margin_ranking", u, pos, neg, float(margin), c)
    return hinge.mean() if reduction == "mean" else hinge.sum()


def topk(
    users: Tensor, items: Tensor, k: int, *, exclude: CSR | None = None, c: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The k nearest items of every user by Lorentz distance; exact, and no U×I matrix exists.

    Candidates come from the matrix product x0·y0 − xs·ys, in which the distance is monotone; all
    that lie within its rounding error of the k-th are ranked by :func:`hdrm.ops.distance`.

    Args:
        users, items: points (B, d+1) and (I, d+1).
        k: 1 ≤ k ≤ I.
        exclude: CSR (B × I), the items that row b must not get (its training items, say).
        c: the curvature is −c.

    Returns:
        Distances (B, k), ascending, and item ids (B, k) int64. Equal distances are ordered by the
        smaller id. Where fewer than k items are allowed the rest is inf and −1.

    Raises:
        TypeError, ValueError: shapes, dtypes or devices do not fit, k out of range, c ≤ 0.
    """
    c = checks.curvature(c)
    checks.table("topk", users=users, items=items)
    checks.whole("topk", "k", k)
    if not 1 <= k <= items.shape[0]:
        raise ValueError(f"topk: k must be in 1 … {items.shape[0]} (items), got {k}")
    rowptr, col, offset = None, None, 0
    if exclude is not None:
        _check_csr("topk", exclude)
        if exclude.num_cols != items.shape[0]:
            raise ValueError(
                f"topk: exclude has {exclude.num_cols} columns, but there are {items.shape[0]} items"
            )
        if exclude.device != users.device:
            raise ValueError(f"topk: exclude must be on {users.device}, got {exclude.device}")
        if exclude.num_rows != users.shape[0]:
            raise ValueError(
                f"topk: exclude must have one row per user, {users.shape[0]}, got "
                f"{exclude.num_rows}; exclude.rows(index) picks rows"
            )
        rowptr, col, offset = exclude.rowptr, exclude.col, exclude.offset
    with torch.no_grad():
        return backend.call("topk", users, items, rowptr, col, offset, k, c)


def sample_negatives(
    users: Tensor, exclude: CSR, num: int = 1, *, seed: int | Tensor | None = None
) -> Tensor:
    """Uniform draws from the items that each user has not seen, with replacement.

    Draw j of row b is the r-th unseen item in ascending order, r = ⌊x·(I − |seen|)/2⁶⁴⌋ with the
    64-bit Philox number x of index b·num + j: no rejection, so the cost of a draw is one binary
    search in the sorted row however much the user has seen.

    Args:
        users: int64 (B,), rows of ``exclude``.
        exclude: CSR (U × I) of the seen items, ascending and without duplicates in each row.
        num: draws per user.
        seed: None draws it from torch's generator.

    Returns:
        int64 (B, num).

    Raises:
        ValueError: a user out of range, or one who has seen every item (the message names it). On
            a CUDA device, where raising would mean to wait for it, the draws of such a user are −1.
    """
    _check_csr("sample_negatives", exclude)
    checks.ids("sample_negatives", "users", users, (-1,), exclude.device)
    checks.whole("sample_negatives", "num", num)
    if num < 1:
        raise ValueError(f"sample_negatives: num must be at least 1, got {num}")
    seed = philox.seed_tensor(seed, users.device)
    return backend.call(
        "sample_negatives",
        users, exclude.rowptr, exclude.col, exclude.offset, exclude.num_cols, num, seed,
    )  # fmt: skip


def _check_csr(op: str, exclude: CSR) -> None:
    if not isinstance(exclude, CSR):
        raise TypeError(
            f"{op}: exclude must be a CSR, got {type(exclude).__name__}; CSR.from_pairs builds one"
        )


def _margin_ranking(u: Tensor, pos: Tensor, neg: Tensor, margin: float, c: float) -> Tensor:
    return torch.relu(_sqdist0(u, pos, c) - _sqdist0(u, neg, c) + margin)


def _topk(
    users: Tensor,
    items: Tensor,
    rowptr: Tensor | None,
    col: Tensor | None,
    offset: int,
    k: int,
    c: float,
) -> tuple[Tensor, Tensor]:
    distances = users.new_empty(users.shape[0], k)
    index = torch.empty(users.shape[0], k, dtype=torch.int64, device=users.device)
    for b, user in enumerate(users):
        # In float64, then rounded: what ties is decided in the dtype that is returned.
        row = _distance(user.double().expand_as(items), items.double(), c).to(users.dtype)
        if rowptr is not None and col is not None:
            row[col[rowptr[b] : rowptr[b + 1]].long() - offset] = torch.inf
        row, order = torch.sort(row, stable=True)
        distances[b], index[b] = row[:k], torch.where(row[:k] < torch.inf, order[:k], -1)
    return distances, index


def _sample_negatives(
    users: Tensor, rowptr: Tensor, col: Tensor, offset: int, num_items: int, num: int, seed: Tensor
) -> Tensor:
    if users.numel() == 0:
        return users.new_empty(0, num)
    num_rows = rowptr.numel() - 1
    outside = (users < 0) | (users >= num_rows)
    if outside.any():
        raise ValueError(
            f"sample_negatives: users must be in 0 … {num_rows - 1}, got {int(users[outside][0])}"
        )
    start = rowptr[users][:, None]
    unseen = num_items - (rowptr[users + 1][:, None] - start)
    if (unseen <= 0).any():
        raise ValueError(
            f"sample_negatives: user {int(users[(unseen <= 0)[:, 0]][0])} has seen all "
            f"{num_items} items; leave that user out of the batch"
        )
    index = torch.arange(users.numel() * num, device=users.device).view(-1, num)
    rank = philox.bounded(seed, index, unseen)
    # The r-th unseen item is r + j, where j counts the seen items s_i with s_i − i ≤ r.
    low, high = torch.zeros_like(rank), (num_items - unseen).expand_as(rank).clone()
    while (low < high).any():
        middle = (low + high) // 2
        seen = col[(start + middle).clamp(max=col.numel() - 1)].long() - offset
        before = (seen - middle <= rank) & (low < high)
        low, high = torch.where(before, middle + 1, low), torch.where(before, high, middle)
    return rank + low


backend.define(
    "margin_ranking",
    "(Tensor u, Tensor pos, Tensor neg, float margin, float c) -> Tensor",
    reference=_margin_ranking,
    fake=lambda u, *rest: u.new_empty(u.shape[:-1], dtype=checks.arithmetic(u.dtype)),
    differentiable=3,
    rowwise=True,
)
backend.define(
    "topk",
    "(Tensor users, Tensor items, Tensor? rowptr, Tensor? col, int offset, int k, float c) "
    "-> (Tensor, Tensor)",
    reference=_topk,
    fake=lambda users, items, rowptr, col, offset, k, c: (
        users.new_empty(users.shape[0], k),
        users.new_empty(users.shape[0], k, dtype=torch.int64),
    ),
    widen=False,
)
backend.define(
    "sample_negatives",
    "(Tensor users, Tensor rowptr, Tensor col, int offset, int num_items, int num, Tensor seed) "
    "-> Tensor",
    reference=_sample_negatives,
    fake=lambda users, rowptr, col, offset, num_items, num, seed: users.new_empty(
        users.shape[0], num
    ),
)
