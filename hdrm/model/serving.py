"""Ranking with a trained model: for its users, for new ones by folding in, and around items.

A new user v with items S, n = |S|, is a node that receives and does not send: the items' vectors stay
as they are. It starts at the origin, so that with row-normalised rounds and self-loops

    h_v^(l) = (h_v^(l−1) + Σ_{i∈S} h_i^(l−1))/(n + 1),   h_v^(0) = 0
    h_v = Σ_{l=1..L} h_v^(l) = Σ_{j=0..L−1} (1 − (n+1)^(j−L))·mean_{i∈S} h_i^(j)

and h_v = 0 without items. What follows is any user's path: n_v = mean_{i∈S} h_i is its history, the
diffusion generates where ω > 0, expmap0.

With config.users = "mean" h_v is the history itself, mean_{i∈S} h_i. With "items" and "mean" folding in
a training user's items gives exactly that user's point: its user starts at the origin too. With "table" a training user has a row x_u of its own and
h_u has (1 − (n+1)^(−L))/n·logmap0(x_u) in addition, which a new user cannot have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..graph import CSR

if TYPE_CHECKING:
    from .hdrm import HDRM

BLOCK = 2**14  # new users whose points exist at a time; blocks of their noise are as long


def recommend(
    model: HDRM, users: int | Sequence[int] | Tensor, k: int, exclude: CSR | None = None
) -> tuple[Tensor, Tensor]:
    """Items and distances (B, k); see :meth:`hdrm.HDRM.recommend`.

    Raises:
        TypeError, ValueError: ids that are not integers or out of range, k out of range.
        RuntimeError: no graph was set, or the model is in training mode.
    """
    user_points, item_points = model.points()
    users = _ids("users", users, model.num_users, user_points.device)
    exclude = model.graph.user_items if exclude is None else exclude
    expected = (model.num_users, model.num_items)
    if not isinstance(exclude, CSR) or (exclude.num_rows, exclude.num_cols) != expected:
        raise ValueError(
            f"exclude must be a CSR of {model.num_users} users × {model.num_items} items; "
            f"CSR.from_pairs builds one"
        )
    seen = exclude.rows(users)
    distances, items = ops.topk(
        user_points[users], item_points, k, exclude=seen, c=model.config.curvature
    )
    return items, distances


def similar_items(
    model: HDRM, items: int | Sequence[int] | Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The k items nearest to each of ``items`` by Lorentz distance, without the item itself.

    Returns:
        Item ids (B, k) int64 and distances (B, k), nearest first; k = I ends with −1 and inf.

    Raises:
        As :func:`recommend`.
    """
    points = model.points()[1]
    items = _ids("items", items, model.num_items, points.device)
    itself = CSR(torch.arange(len(items) + 1, device=items.device), items.int(), len(points))
    distances, found = ops.topk(points[items], points, k, exclude=itself, c=model.config.curvature)
    return found, distances


def fold_in(model: HDRM, items: Sequence[Sequence[int]] | CSR) -> Tensor:
    """Points of new users, by the formula above.

    Args:
        items: the ids of the items of every new user, in any order, or CSR (B × I). An item
            counts once. A user without items is at the origin (where ω = 0).

    Returns:
        (B, d+1) on the model's device. With config.sampling_noise the draws depend on a user's
        place in the list.

    Raises:
        As :func:`recommend`.
    """
    return _fold_in(model, _histories(model, items), 0)


def recommend_for(
    model: HDRM, items: Sequence[Sequence[int]] | CSR, k: int
) -> tuple[Tensor, Tensor]:
    """The k nearest items of new users, without those they have; 2¹⁴ users at a time.

    Arguments as :func:`fold_in`, result and errors as :func:`recommend`.
    """
    histories, item_points = _histories(model, items), model.points()[1]
    found, distances = [], []
    for first in range(0, max(histories.num_rows, 1), BLOCK):
        last = min(first + BLOCK, histories.num_rows)
        part = histories.rows(torch.arange(first, last, device=histories.device))
        points = _fold_in(model, part, first)
        near = ops.topk(points, item_points, k, exclude=part, c=model.config.curvature)
        distances.append(near[0])
        found.append(near[1])
    return torch.cat(found), torch.cat(distances)


@torch.no_grad()
def _fold_in(model: HDRM, histories: CSR, first: int) -> Tensor:
    c, omega = model.config.curvature, float(model.omega)
    item_points, of_mean = model.points()[1], model.config.users == "mean"
    if of_mean or omega:
        history = _means(ops.logmap0(item_points, c=c), histories)
    user = history if of_mean else _received(model.item_rounds(), histories)
    if omega:
        user = torch.lerp(user, model.generate_from(user, history, first=first), omega)
    return ops.expmap0(user, c=c)


def _received(rounds: Tensor, histories: CSR) -> Tensor:
    """h_v (B, d+1) of the module's formula; ``rounds`` (L, I, d+1) is what items send."""
    user = rounds.new_zeros(histories.num_rows, rounds.shape[2])
    size = (histories.degrees + 1).to(user.dtype)[:, None]
    for number, sent in enumerate(rounds):
        weight = 1 - size ** (number - len(rounds))
        user += weight * _means(sent, histories)
    return user


def _means(vectors: Tensor, rows: CSR) -> Tensor:
    """The mean of the vectors (I, dim) of each row's columns; 0 for an empty row."""
    _, cols = rows.pairs()
    offsets = rows.rowptr - rows.rowptr[0]
    return F.embedding_bag(cols, vectors, offsets, mode="mean", include_last_offset=True)


def _histories(model: HDRM, items: Sequence[Sequence[int]] | CSR) -> CSR:
    device = model.omega.device
    if isinstance(items, CSR):
        if items.num_cols != model.num_items:
            raise ValueError(
                f"items has {items.num_cols} columns, the model {model.num_items} items"
            )
        return items.to(device)
    try:
        lengths = [len(row) for row in items]
        flat = np.concatenate([np.empty(0, np.int64), *(row for row in items if len(row))])
    except (TypeError, ValueError):
        raise TypeError(
            "items must be a list of item ids for every user, such as [[1, 5, 9]] for one user"
        ) from None
    cols = _ids("items", flat, model.num_items, torch.device("cpu"))
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return CSR.from_pairs(rows, cols, len(lengths), model.num_items).to(device)


def _ids(
    name: str, ids: int | Sequence[int] | np.ndarray | Tensor, size: int, device: torch.device
) -> Tensor:
    """int64 ids (B,) on a device, each in 0 … size−1."""
    try:
        found = torch.atleast_1d(torch.as_tensor(ids, device=device))
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be integer ids, got {type(ids).__name__}") from None
    if found.dim() != 1 or found.is_floating_point() or found.dtype == torch.bool:
        raise TypeError(
            f"{name} must be one-dimensional integer ids, got {found.dtype} of shape "
            f"{tuple(found.shape)}"
        )
    if found.numel() and not 0 <= int(found.min()) <= int(found.max()) < size:
        raise ValueError(
            f"{name} must be in 0 … {size - 1}, got {int(found.min())} … {int(found.max())}"
        )
    return found.long()
