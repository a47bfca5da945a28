"""The recommender as a module of tensors alone, for torch.export."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .. import ops
from ..graph import CSR

if TYPE_CHECKING:
    from .hdrm import HDRM


class Exportable(nn.Module):
    """User ids to the k nearest items that they have not seen; see :meth:`hdrm.HDRM.exportable`.

    Buffers: ``users`` (U, dim) and ``items`` (I, dim), points; ``seen_rowptr`` int64 (U + 1,) and
    ``seen_col`` int32, the training items of every user.
    """

    users: Tensor
    items: Tensor
    seen_rowptr: Tensor
    seen_col: Tensor

    def __init__(self, model: HDRM, k: int) -> None:
        super().__init__()
        if not 1 <= k <= model.num_items:
            raise ValueError(f"k must be in 1 … {model.num_items} (items), got {k}")
        users, items = model.points()
        seen = model.graph.user_items
        self.k, self.c = k, model.config.curvature
        self.register_buffer("users", users)
        self.register_buffer("items", items)
        self.register_buffer("seen_rowptr", seen.rowptr - seen.rowptr[0])
        self.register_buffer("seen_col", seen.pairs()[1].int())

    def forward(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Item ids int64 and distances (B, k) of users int64 (B,), as :meth:`hdrm.HDRM.recommend`.

        Raises:
            RuntimeError: a user out of range.
        """
        count = self.users.shape[0]
        known = ((users >= 0) & (users < count)).all()
        torch._assert_async(known, f"users must be in 0 … {count - 1}")
        seen = CSR.trusted(self.seen_rowptr, self.seen_col, self.items.shape[0]).rows(users)
        distances, items = ops.topk(self.users[users], self.items, self.k, exclude=seen, c=self.c)
        return items, distances
